"""A checkpoint's weights, read one tensor after the other: no more memory than the largest takes.

Only safetensors are read. A pickled file can run whatever its maker put into it; it is read where
that was asked for, by PyTorch's loader for weights alone.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from lora_whisper.errors import UserError
from lora_whisper.json_files import require_file
from lora_whisper.stand_ins import BEGINNING_BYTES, in_place_of

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("lora_whisper")

TIED = "proj_out.weight"  # to the embeddings, in every Whisper; most files leave it out
EMBEDDINGS = "model.decoder.embed_tokens.weight"
COMPARED_BYTES = 1 << 20  # at once
FLOATS = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
}  # PyTorch's names and safetensors'
TENSORS_AT_ONCE = 32  # that stay mapped into memory; of large-v3 about 100 MB


@dataclass(frozen=True)
class Stored:
    """A tensor as the head of its file has it."""

    file: str
    shape: tuple[int, ...]
    dtype: str  # by safetensors' names, such as F16


def weight_names(names: Collection[str]) -> list[str]:
    """Choose the weights among file names: safetensors first, in one file or in all its shards."""
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        if stem + suffix in names:
            return [stem + suffix]
        shards = _shards_of(stem, suffix, names)
        if shards and {*shards.values()} == {len(shards)}:
            return sorted(shards)
    return []


def _shards_of(stem: str, suffix: str, names: Collection[str]) -> dict[str, int]:
    """Which of the names are shards, and of how many."""
    shard = re.compile(rf"{stem}-[0-9]{{5}}-of-([0-9]{{5}}){re.escape(suffix)}")
    return {match[0]: int(match[1]) for name in names if (match := shard.fullmatch(name))}


def missing_shards(names: Collection[str]) -> list[str]:
    """Of weights that were begun to be copied: which of their files are not there."""
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        of = _shards_of(stem, suffix, names)
        for count in sorted({*of.values()}):
            whole = [f"{stem}-{at:05}-of-{count:05}{suffix}" for at in range(1, count + 1)]
            return [name for name in whole if name not in names]
    return []


def is_pickled(names: Collection[str]) -> bool:
    """Whether weights, as `weight_names` chose them, are in files that can run code."""
    return any(not name.endswith(".safetensors") for name in names)


def allowing(key: str) -> str:
    """What allows pickled weights of what was typed as `key`; the keys of train are in groups."""
    return f"{'model.' if '.' in key else ''}allow_pickle=true"


def require_allowed(what: str, allow_pickle: bool, key: str) -> None:
    """Refuse pickled weights that nobody has allowed; warn once where somebody has.

    Args:
        key: that they were typed for, such as "model.checkpoint" or "adapter".

    Raises:
        UserError: they are not allowed.
    """
    if allow_pickle:
        _warn(what)
        return
    raise UserError(
        f"{what}: the weights are pickled, and such a file can run any program when it is read. "
        "Only safetensors are read.\n"
        f"Take a copy with safetensors; or, if you trust whoever made it, type {allowing(key)}"
    )


@functools.cache
def _warn(what: str) -> None:
    log.warning("pickled     %s: weights are read from pickled files, as you allowed", what)


def read_shapes(files: Collection[Path]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by its name, in the order of `read_tensors`."""
    return {name: tensor.shape for path in files for name, tensor in _headers_of(path).items()}


def _headers_of(path: Path) -> dict[str, Stored]:
    try:
        return read_headers(path)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def read_headers(path: Path) -> dict[str, Stored]:
    """What a file says of its tensors, by their names, in the order in which they lie there.

    Raises:
        ValueError: it is damaged, or no such file; says so in one line.
        UserError: it is pickled, and holds more than weights.
    """
    require_file(path)
    if is_pickled([path.name]):
        return {
            name: Stored(path.name, tuple(value.shape), FLOATS.get(str(value.dtype), "no number"))
            for name, value in read_pickled(path).items()
        }
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.offset_keys()}
            return {
                name: Stored(path.name, tuple(one.get_shape()), one.get_dtype())
                for name, one in slices.items()
            }
    except (SafetensorError, OSError, ValueError) as error:
        try:
            found = _in_place_of("safetensors", path)
        except OSError as denied:
            raise ValueError(f"cannot be read: {denied.strerror or denied}") from None
        reason = str(error).removeprefix("Error while deserializing header: ")
        damaged = (
            f"expected safetensors, found a damaged file ({reason}). Download or copy it again"
        )
        raise ValueError(found or damaged) from None


def _in_place_of(expected: str, path: Path) -> str | None:
    with path.open("rb") as file:
        return in_place_of(expected, path.name, file.read(BEGINNING_BYTES))


def is_tied(embeddings: Path, projection: Path) -> bool:
    """Whether the output projection, where it is stored, holds the values of the embeddings."""
    if is_pickled([embeddings.name, projection.name]):
        one, other = read_pickled(embeddings)[EMBEDDINGS], read_pickled(projection)[TIED]
        return one.equal(other)
    return all(
        one == other
        for one, other in zip_longest(
            _bytes_of(embeddings, EMBEDDINGS), _bytes_of(projection, TIED), fillvalue=b""
        )
    )


def _bytes_of(path: Path, name: str) -> Iterator[bytes]:
    """A tensor as it lies in a file of safetensors whose header is sound.

    Compared so, no numbers have to be made of them: 0.1 s for those of large-v3.
    """
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        first, end = json.loads(file.read(header))[name]["data_offsets"]
        file.seek(8 + header + first)
        for start in range(first, end, COMPARED_BYTES):
            yield file.read(min(COMPARED_BYTES, end - start))


def read_tensors(files: Collection[Path]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its name, as it lies in the files.

    Raises:
        UserError: a value is not finite.
    """
    for path in files:
        for name, tensor in _tensors_of(path):
            require_finite(str(path), name, tensor)
            yield name, tensor


def _tensors_of(path: Path) -> Iterator[tuple[str, Tensor]]:
    if is_pickled([path.name]):
        yield from read_pickled(path).items()
        return
    names = list(_headers_of(path))
    # A file that stays open keeps the pages that were read: opened anew, it lets them go.
    for start in range(0, len(names), TENSORS_AT_ONCE):
        with safe_open(path, framework="pt") as file:
            for name in names[start : start + TENSORS_AT_ONCE]:
                yield name, file.get_tensor(name)


def require_finite(where: str, name: str, tensor: Tensor) -> None:
    """See that a tensor holds neither NaN nor infinity.

    Raises:
        UserError: it does; names it.
    """
    if is_finite(tensor):
        return
    dtype = str(tensor.dtype).removeprefix("torch.")
    raise UserError(
        f"{where}: {name}: expected finite numbers, found NaN or infinity in {dtype}.\nThe file is "
        "damaged, or the training that made it diverged: take another copy, or an earlier one."
    )


def is_finite(tensor: Tensor) -> bool:
    """NaN is the least and the most. `isfinite` took 40 times as long."""
    import torch

    if not (tensor.is_floating_point() and tensor.numel()):
        return True
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(tensor))


def require_range(files: Sequence[Path], dtype: str) -> None:
    """See that weights are numbers, and none too large to be written in `dtype`.

    Args:
        dtype: as formats call theirs; whatever is none of float16's names has float32's range.

    Raises:
        UserError: names the first tensor that is not so.
    """
    limit = 65_504 if dtype in ("float16", "f16", "int8_float16") else float("inf")
    for name, tensor in read_tensors(files):
        largest = float(tensor.abs().max()) if tensor.numel() else 0.0
        if not largest < float("inf"):  # NaN is not, either
            raise UserError(f"{name}, in {files[0].parent}: it has numbers that are not finite")
        if largest > limit:
            raise UserError(
                f"{name} holds {largest:g}, and {dtype} no more than {limit:,}. Type dtype=float32 "
                "(ggml: f32)"
            )


def read_pickled(path: Path) -> dict[str, Tensor]:
    """Tensors by their names, and nothing else: whatever would call a function is refused.

    Raises:
        UserError: it holds anything else, or is damaged; nothing in it was run.
    """
    import torch

    if found := _in_place_of("pickled weights", path):
        raise UserError(f"{path}: {found}")
    try:
        # Before PyTorch 1.6 files were no archives, and can only be read as a whole.
        is_archive = zipfile.is_zipfile(path)
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # of pickle, zipfile and torch, as the damage has it
        # What PyTorch has found, without its advice, which is to run what is in the file.
        named = re.search(r"GLOBAL ([\w.]{1,100})", str(error))
        more = f"holds more than weights ({named[1]})" if named else ""
        raise UserError(
            f"{path} {more or 'holds no weights, or is damaged'}; nothing in it was run.\n"
            "Download or copy it again, or take one with safetensors."
        ) from error
    if not isinstance(values, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in values.items()
    ):
        raise UserError(f"{path}: expected nothing but tensors by their names")
    return dict(values)
