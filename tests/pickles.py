"""Pickled files: honest ones, and one that would write a file if it were believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


class Touching:
    """What pickle calls when it reads this back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def pickled(weights: Path, name: str, *, touching: Path | None = None) -> Path:
    """Put a pickled file of this name in the place of safetensors; perhaps not an honest one."""
    tensors: dict[str, Any] = dict(load_file(weights))
    if touching is not None:
        tensors["more"] = Touching(touching)
    torch.save(tensors, weights.with_name(name))
    weights.unlink()
    return weights.with_name(name)
