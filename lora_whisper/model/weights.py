"""A checkpoint's weights, read one tensor after the other: no more memory than the largest takes.

Only safetensors are read. A pickled file can run whatever its maker put into it; it is read where
that was asked for, by PyTorch's loader for weights alone.
"""

from __future__ import annotations

import functools
import logging
import zipfile
from collections.abc import Collection, Iterator
from fnmatch import filter as matching
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from lora_whisper.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("lora_whisper")

TIED = "proj_out.weight"  # to the embeddings, in every Whisper; most files leave it out
TENSORS_AT_ONCE = 32  # that stay mapped into memory; of large-v3 about 100 MB


def weight_names(names: Collection[str]) -> list[str]:
    """Choose the weights among file names: safetensors first, in one file or in all its shards."""
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        if stem + suffix in names:
            return [stem + suffix]
        shards = sorted(matching(names, f"{stem}-?????-of-?????{suffix}"))
        if shards and len(shards) == int(shards[0].removesuffix(suffix)[-5:]):
            return shards
    return []


def is_pickled(names: Collection[str]) -> bool:
    """Whether weights, as `weight_names` chose them, are in files that can run code."""
    return any(not name.endswith(".safetensors") for name in names)


def require_allowed(what: str, allow_pickle: bool) -> None:
    """Refuse pickled weights that nobody has allowed; warn once where somebody has.

    Raises:
        UserError: they are not allowed.
    """
    if allow_pickle:
        _warn(what)
        return
    raise UserError(
        f"{what}: the weights are pickled, and such a file can run any program when it is read. "
        "Only safetensors are read.\n"
        "Take a copy with safetensors; or, if you trust whoever made it, type allow_pickle=true "
        "(train: model.allow_pickle=true)."
    )


@functools.cache
def _warn(what: str) -> None:
    log.warning("pickled     %s: weights are read from pickled files, as you allowed", what)


def read_shapes(files: Collection[Path]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by its name, in the order of `read_tensors`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        if is_pickled([path.name]):
            shapes |= {name: tuple(value.shape) for name, value in read_pickled(path).items()}
            continue
        with safe_open(path, framework="np") as file:
            for name in file.offset_keys():
                shapes[name] = tuple(file.get_slice(name).get_shape())
    return shapes


def read_tensors(files: Collection[Path]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its name, as it lies in the files."""
    for path in files:
        if is_pickled([path.name]):
            yield from read_pickled(path).items()
            continue
        with safe_open(path, framework="np") as file:
            names = file.offset_keys()
        # A file that stays open keeps the pages that were read: opened anew, it lets them go.
        for start in range(0, len(names), TENSORS_AT_ONCE):
            with safe_open(path, framework="pt") as file:
                for name in names[start : start + TENSORS_AT_ONCE]:
                    yield name, file.get_tensor(name)


def read_pickled(path: Path) -> dict[str, Tensor]:
    """Tensors by their names, and nothing else: whatever would call a function is refused.

    Raises:
        UserError: it holds anything else, or is damaged; nothing in it was run.
    """
    import torch

    try:
        # Before PyTorch 1.6 files were no archives, and can only be read as a whole.
        is_archive = zipfile.is_zipfile(path)
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # of pickle, zipfile and torch, as the damage has it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} holds more than weights, or is damaged: {reason}") from error
    if not isinstance(values, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in values.items()
    ):
        raise UserError(f"{path}: expected nothing but tensors by their names")
    return dict(values)
