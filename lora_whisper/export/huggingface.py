"""Write a merged model as a folder that stock Transformers and the converters for it can load.

Transformers 5 reads but no longer writes `preprocessor_config.json`, `vocab.json`, `merges.txt`,
`added_tokens.json` and `normalizer.json`; faster-whisper needs the first (without it, it computes
80 mel bins for large-v3), whisper.cpp's converter needs the others.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from transformers import (
    GenerationConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from lora_whisper.model.checkpoint import Checkpoint, open_to_readers, snapshot

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "normalizer.json",
)
MAX_SHARD_SIZE = "5GB"


def write_model(
    model: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    generation_config: GenerationConfig,
    checkpoint: Checkpoint,
    folder: Path,
) -> None:
    """Write everything aside, then put it at `folder` in one step, in place of what stood there."""
    aside = folder.with_name(f".{folder.name}.incomplete")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    model.save_pretrained(aside, max_shard_size=MAX_SHARD_SIZE)
    generation_config.save_pretrained(aside)
    processor.save_pretrained(aside)
    processor.feature_extractor.save_pretrained(aside)  # preprocessor_config.json
    _write_tokenizer(processor.tokenizer, snapshot(checkpoint), aside)
    open_to_readers(aside)
    if folder.exists():
        shutil.rmtree(folder)
    aside.rename(folder)


def _write_tokenizer(tokenizer: WhisperTokenizer, base: Path, folder: Path) -> None:
    """Derive the files of older formats, then prefer the base's own, which training never changes.

    Its own `tokenizer_config.json` also keeps the folder readable for Transformers 4.
    """
    tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json, merges.txt
    _write_json(folder / "added_tokens.json", tokenizer.get_added_vocab())
    if tokenizer.english_spelling_normalizer is not None:
        _write_json(folder / "normalizer.json", tokenizer.english_spelling_normalizer)
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)


def _write_json(path: Path, values: Mapping[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
