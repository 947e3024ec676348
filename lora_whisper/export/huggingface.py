"""Write a merged model as a folder that stock Transformers and the converters for it can load.

Transformers 5 reads but no longer writes `preprocessor_config.json`, `vocab.json`, `merges.txt`,
`added_tokens.json` and `normalizer.json`; faster-whisper needs the first (without it, it computes
80 mel bins for large-v3), whisper.cpp's converter needs the others.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration, WhisperTokenizer

from lora_whisper.files import sync, written_whole
from lora_whisper.json_files import read_object
from lora_whisper.model.base import load_config, load_generation_config, load_processor
from lora_whisper.model.base_files import TOKENIZER_CONFIG
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
MAX_SHARD_BYTES = 5_000_000_000
SYNC_BYTES = 100_000_000
WAITING_TENSORS = 2  # computed, and not yet written
NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # in safetensors


def write_model(
    weights: Iterable[tuple[str, Tensor]],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    checkpoint: Checkpoint,
    folder: Path,
    notes: Mapping[str, Mapping[str, object]],
) -> None:
    """Write everything aside, then put it at `folder` in one step, in place of what stood there.

    Args:
        weights: of the model, one after the other, in the order of `shapes` and in `dtype`.
        checkpoint: that everything else is taken from.
        notes: JSON files that no runtime reads, by their names.
    """
    processor = load_processor(checkpoint)
    with written_whole(folder) as aside:
        config = load_config(checkpoint)
        config.dtype, config.architectures = dtype, [WhisperForConditionalGeneration.__name__]
        config.save_pretrained(aside)
        load_generation_config(checkpoint).save_pretrained(aside)
        processor.save_pretrained(aside)
        processor.feature_extractor.save_pretrained(aside)  # preprocessor_config.json
        _write_tokenizer(processor.tokenizer, snapshot(checkpoint), aside)
        write_weights(weights, shapes, dtype, aside)
        for name, values in notes.items():
            _write_json(aside / name, values)
        open_to_readers(aside)


def write_weights(
    weights: Iterable[tuple[str, Tensor]],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    folder: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write safetensors, in shards where they are large, in the memory of a few tensors.

    `safetensors.torch.save_file` takes all tensors of a file at once. Its format is a length in 8
    bytes, a header in JSON and the bytes of the tensors one after the other:
    https://huggingface.co/docs/safetensors#format
    """
    skeleton = {
        name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()
    }
    shards = _shards(skeleton, max_shard_bytes)
    coming = iter(weights)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file_name = (
            f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            if len(shards) > 1
            else "model.safetensors"
        )
        with _written_meanwhile(folder / file_name) as write:
            header = _header([(name, skeleton[name]) for name in names])
            write(len(header).to_bytes(8, "little") + header)
            for name in names:
                found, tensor = next(coming)
                assert (found, tensor.dtype, tensor.shape) == (name, dtype, skeleton[name].shape)
                write(tensor.contiguous().view(torch.uint8).numpy().data)
        weight_map |= dict.fromkeys(names, file_name)
    assert next(coming, None) is None, "a weight without a shape"
    if len(shards) > 1:
        metadata = {"total_size": sum(tensor.nbytes for tensor in skeleton.values())}
        index = {"metadata": metadata, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)


@contextmanager
def _written_meanwhile(path: Path) -> Iterator[Callable[[bytes | memoryview], None]]:
    """Write to a file in one thread, and bring it to the disk in another, while weights are made.

    One after the other, half of the time went by with the disk or the processor standing still.
    """
    with (
        path.open("wb") as file,
        ThreadPoolExecutor(1) as writer,
        ThreadPoolExecutor(1) as disk,
    ):
        writes: deque[Future[int]] = deque()
        syncs: deque[Future[None]] = deque()
        unsynced = 0

        def write(data: bytes | memoryview) -> None:
            nonlocal unsynced
            writes.append(writer.submit(file.write, data))
            if len(writes) > WAITING_TENSORS:
                unsynced += writes.popleft().result()
            if unsynced >= SYNC_BYTES and all(one.done() for one in syncs):
                syncs.append(disk.submit(sync, path))
                unsynced = 0

        yield write
        waiting: list[Future[Any]] = [*writes, *syncs]
        for one in waiting:
            one.result()  # raises what the disk refused


def _shards(tensors: Mapping[str, Tensor], max_bytes: int) -> list[list[str]]:
    """Names in their order; a file that holds several is not larger than that."""
    shards: list[list[str]] = []
    size = 0
    for name, tensor in tensors.items():
        size += tensor.nbytes
        if not shards or size > max_bytes:
            shards.append([])
            size = tensor.nbytes
        shards[-1].append(name)
    return shards


def _header(tensors: Iterable[tuple[str, Tensor]]) -> bytes:
    """Names, types, shapes and places, padded to a multiple of 8 bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, tensor in tensors:
        end = place + tensor.nbytes
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    return text.ljust(-(-len(text) // 8) * 8)


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
    # Whoever loads the folder is not to be asked whether to run what a base's maker wrote.
    values = read_object(folder / TOKENIZER_CONFIG)
    if values.pop("auto_map", None) is not None:
        _write_json(folder / TOKENIZER_CONFIG, values)


def _write_json(path: Path, values: Mapping[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
