"""The file that whisper.cpp loads, in its own format of before GGUF.

Nobody publishes a package that writes it, so it is written here, from the loader that reads it:
`whisper_model_load` in src/whisper.cpp, https://github.com/ggml-org/whisper.cpp at v1.9.3 (commit
233fe1fc9b48a09e361d3594520838ca266537fe). All numbers are little-endian:

    magic · 11 sizes and the type · mel filters · vocabulary · tensors up to the end of the file

Smaller types than float16 are made by whisper.cpp's own program, `quantize_command`.
"""

from __future__ import annotations

import json
import shlex
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel

from lora_whisper.errors import UserError
from lora_whisper.export.openai_layout import (
    Dimensions,
    converted,
    read_dimensions,
    read_tensors,
)
from lora_whisper.model.features import LogMel

FILE = "ggml-model.bin"
DTYPES = ("f16", "f32")  # float32 is for whisper.cpp from 1.9.2 on, and for its quantizer
TYPES = {"f32": 0, "f16": 1}  # of a file and of a tensor, `GGML_TYPE_F32` and `GGML_TYPE_F16`
HEAD = struct.Struct("<12i")
MAGIC = 0x67676D6C  # "ggml"
# The loader takes these and all vectors in float32, whatever the file's type.
ALWAYS_FLOAT32 = ("encoder.positional_embedding", "decoder.positional_embedding")
COLUMNS = ("encoder.conv1.bias", "encoder.conv2.bias")  # stored as (width, 1)


def write(checkpoint: Path, folder: Path, dtype: str) -> None:
    """Write ggml-model.bin into `folder` from a merged checkpoint, a tensor at a time.

    Raises:
        UserError: no model that the layout has a place for, or weights too large for float16.
    """
    assert dtype in DTYPES, dtype
    dimensions = read_dimensions(checkpoint)
    with (folder / FILE).open("wb") as file:
        _write_sizes(file, dimensions, TYPES[dtype])
        _write_filters(file, dimensions.n_mels)
        _write_vocabulary(file, checkpoint)
        for name, weight in read_tensors(checkpoint):
            _write_tensor(file, name, weight, dtype)


def read_type(path: Path) -> str:
    """`f16`, `f32`, or whatever the quantizer made of them, from a file's head.

    Raises:
        UserError: no such file.
    """
    with path.open("rb") as file:
        head = file.read(HEAD.size)
    if len(head) < HEAD.size or HEAD.unpack(head)[0] != MAGIC:
        raise UserError(f"{path} is no file of whisper.cpp")
    kind = HEAD.unpack(head)[-1]
    return next((name for name, number in TYPES.items() if number == kind), "a smaller type")


def quantize_command(folder: Path, kind: str = "q5_0") -> str:
    """What makes a smaller file of the one in `folder`, where whisper.cpp was built.

    The program is called `whisper-quantize` there (examples/quantize/CMakeLists.txt).
    """
    smaller = folder / f"ggml-model-{kind}.bin"
    return shlex.join(["./build/bin/whisper-quantize", str(folder / FILE), str(smaller), kind])


def _write_sizes(file: BinaryIO, sizes: Dimensions, kind: int) -> None:
    values = (
        MAGIC,
        sizes.n_vocab,
        sizes.n_audio_ctx,
        sizes.n_audio_state,
        sizes.n_audio_head,
        sizes.n_audio_layer,
        sizes.n_text_ctx,
        sizes.n_text_state,
        sizes.n_text_head,
        sizes.n_text_layer,
        sizes.n_mels,
        kind,
    )
    file.write(HEAD.pack(*values))


def _write_filters(file: BinaryIO, mel_bins: int) -> None:
    """(mel bins, frequencies), those that training computes its features with."""
    doubled = LogMel(mel_bins, window_seconds=1.0).filters  # for real and imaginary parts
    filters = doubled[:, ::2].numpy()
    file.write(struct.pack("<2i", *filters.shape))
    file.write(filters.astype("<f4").tobytes())


def _write_vocabulary(file: BinaryIO, checkpoint: Path) -> None:
    """Bytes of the tokens below <|endoftext|>; the loader names the special ones by itself."""
    words = read_words(checkpoint)
    file.write(struct.pack("<i", len(words)))
    for word in words:
        file.write(struct.pack("<i", len(word)) + word)


def read_words(checkpoint: Path) -> list[bytes]:
    """What each text token stands for, by its id; empty where the vocabulary has a gap.

    Raises:
        UserError: tokenizer.json is none of a Whisper.
    """
    values = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in values["added_tokens"]}
    known = values["model"]["vocab"]
    end = added.get("<|endoftext|>", known.get("<|endoftext|>"))
    if end is None:
        raise UserError(f"{checkpoint / 'tokenizer.json'}: no <|endoftext|>, so no Whisper's")
    by_character = _bytes_by_character()
    words = [b""] * end
    for token, index in known.items():
        if index < end:
            words[index] = bytes(by_character[character] for character in token)
    return words


def _bytes_by_character() -> Mapping[str, int]:
    """Byte-level BPE writes each byte as a character that can be seen.

    In the order of their codes, the characters of the alphabet below 256 are their own bytes; the
    rest, from 256 on, stands for the bytes left over, in order.
    """
    alphabet = sorted(ByteLevel.alphabet())
    themselves = {character: ord(character) for character in alphabet if ord(character) < 256}
    left_over = [byte for byte in range(256) if byte not in themselves.values()]
    return themselves | dict(zip(alphabet[len(themselves) :], left_over, strict=True))


def _write_tensor(file: BinaryIO, name: str, weight: torch.Tensor, dtype: str) -> None:
    """Head and values. The loader counts dimensions from the innermost."""
    if name in COLUMNS:
        weight = weight[:, None]
    vector = weight.dim() < 2 or name in COLUMNS or name in ALWAYS_FLOAT32
    kind = "f32" if vector else dtype
    values = converted(name, weight, torch.float16 if kind == "f16" else torch.float32).numpy()
    label = name.encode()
    file.write(struct.pack("<3i", values.ndim, len(label), TYPES[kind]))
    file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)) + label)
    file.write(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)
