"""Write a Whisper checkpoint of any published shape, with random weights.

    python benchmarks/random_checkpoint.py --shape tiny --tokenizer path/to/whisper-tiny OUT

The folder loads in stock Transformers and takes the time and memory of the real model; only what
it says means nothing. Tokenizer and generation config come from a folder with files of the same
vocabulary; a generation config that is missing there is derived. Weights are drawn and written a
shard at a time, so that large-v3 needs no more memory than one shard.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from lora_whisper.errors import UserError
from lora_whisper.export.huggingface import TOKENIZER_FILES
from lora_whisper.model.checkpoint import open_to_readers
from lora_whisper.model.published import shape, shape_names

SHARD_BYTES = 500_000_000
ENCODER_POSITIONS = "model.encoder.embed_positions"


def write_random_checkpoint(
    folder: Path, name: str, tokenizer: Path, seed: int, dtype: torch.dtype
) -> None:
    """Write the shape `name` below `folder`, which must not exist yet.

    Raises:
        UserError: `folder` exists, or the tokenizer is of another vocabulary.
    """
    config = shape(name)
    if folder.exists():
        raise UserError(f"{folder} exists already; give a folder that does not")
    words = WhisperTokenizer.from_pretrained(tokenizer)
    if len(words) != config.vocab_size:
        raise UserError(
            f"{tokenizer} has {len(words)} tokens, {name} has {config.vocab_size}; "
            "give the tokenizer of a checkpoint with the same vocabulary"
        )
    folder.mkdir(parents=True)
    config.dtype = dtype
    config.architectures = ["WhisperForConditionalGeneration"]
    config.save_pretrained(folder)
    write_weights(folder, config, seed, dtype)
    write_companions(folder, config, tokenizer, words)
    open_to_readers(folder)


def write_weights(folder: Path, config: WhisperConfig, seed: int, dtype: torch.dtype) -> None:
    """Write numbered shards and their index."""
    torch.manual_seed(seed)
    shards = list(write_shards(folder, random_weights(config, dtype)))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        final = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"{number}.safetensors").rename(folder / final)
        weight_map |= dict.fromkeys(names, final)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def write_shards(folder: Path, weights: Iterator[tuple[str, torch.Tensor]]) -> Iterator[list[str]]:
    """Write 1.safetensors, 2.safetensors … as they fill; yield the names in each."""
    for number in itertools.count(1):
        shard: dict[str, torch.Tensor] = {}
        for name, weight in weights:
            shard[name] = weight
            if sum(value.nbytes for value in shard.values()) >= SHARD_BYTES:
                break
        if not shard:
            return
        save_file(shard, folder / f"{number}.safetensors", metadata={"format": "pt"})
        yield list(shard)


def random_weights(config: WhisperConfig, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Draw every weight as Transformers initialises it, one module at a time."""
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    for path, module in model.named_modules():
        if path == "proj_out" or not list(module.parameters(recurse=False)):
            continue  # the output projection is tied to the embeddings
        module.to_empty(device="cpu", recurse=False)
        # The encoder itself fills its positions, with sinusoids.
        model._init_weights(model.model.encoder if path == ENCODER_POSITIONS else module)
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{path}.{name}", parameter.detach().to(dtype)
        module.to_empty(device="meta", recurse=False)


def write_companions(
    folder: Path, config: WhisperConfig, source: Path, tokenizer: WhisperTokenizer
) -> None:
    """Copy the files beside the weights, derive a generation config where there is none.

    The preprocessor follows from the shape alone: the source may have another number of mel bins.
    """
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if not (folder / "generation_config.json").exists():
        derived_generation_config(config, tokenizer).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)


def derived_generation_config(
    config: WhisperConfig, tokenizer: WhisperTokenizer
) -> GenerationConfig:
    """Find the ids that decoding needs in the tokenizer; alignment heads cannot be known."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    ids = tokenizer.get_vocab()
    multilingual = config.vocab_size > 51864
    values: dict[str, Any] = {
        "is_multilingual": multilingual,
        "max_length": config.max_target_positions,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "begin_suppress_tokens": config.begin_suppress_tokens,
        "suppress_tokens": [],
        "return_timestamps": False,
    }
    if multilingual:
        tags = [f"<|{code}|>" for code in LANGUAGES]
        values["lang_to_id"] = {tag: ids[tag] for tag in tags if tag in ids}
        values["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    special = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    return GenerationConfig(**values, **{key: getattr(config, key) for key in special})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--shape", required=True, choices=shape_names())
    parser.add_argument("--tokenizer", required=True, type=Path, help="folder with its files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    given = parser.parse_args()
    try:
        write_random_checkpoint(
            given.folder, given.shape, given.tokenizer, given.seed, getattr(torch, given.dtype)
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
