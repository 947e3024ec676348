"""One base in memory, with one adapter or another in its weights, or none.

The base's own tensors are never written to. What an adapter changes is computed beside them, by the
arithmetic of `merge`, and put in their place; to go back is to put the old ones there again, every
bit as it was. The last ones stay at hand, as far as memory allows, so that a switch to them takes
no computation.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from lora_whisper.errors import UserError
from lora_whisper.lora.merge import Change, fold, read_change
from lora_whisper.model.weights import EMBEDDINGS, is_finite

MOST_KEPT = 8  # adapters and scales whose weights stay in memory
KEPT_SHARE = 0.25  # of the memory that is free, for all of them


class SwitchedWeights:
    """The weights of a Whisper of Transformers, in full precision."""

    def __init__(self, whisper: Any):
        self._parameters = dict(whisper.named_parameters())
        self._base: dict[str, Tensor] = {}  # of what is replaced now
        self._kept: OrderedDict[tuple[Path, float], dict[str, Tensor]] = OrderedDict()

    def use(self, adapter: Path | None, scale: float = 1.0) -> None:
        """Let so much of an adapter be in the weights; None, or a scale of 0: nothing.

        Raises:
            UserError: an adapter of DoRA at another scale than 1 or 0; or with it, weights are not
                finite numbers.
        """
        weights = {} if adapter is None or not scale else self._merged(adapter, scale)
        for name, tensor in self._base.items():
            self._parameters[name].data = tensor
        self._base = {name: self._parameters[name].data for name in weights}
        for name, tensor in weights.items():
            self._parameters[name].data = tensor

    def _merged(self, adapter: Path, scale: float) -> dict[str, Tensor]:
        key = adapter, scale
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        change = read_change([(adapter, scale)])
        names = [f"{path}.weight" for path in change.matrices]
        names += [EMBEDDINGS] if change.embeddings else []
        weights = {name: self._folded(name, change, adapter) for name in names}
        self._kept[key] = weights
        self._let_go()
        return weights

    @torch.no_grad()
    def _folded(self, name: str, change: Change, adapter: Path) -> Tensor:
        base = self._base.get(name, self._parameters[name].data)
        merged = fold(name, base, change, base.dtype)
        if not is_finite(merged):
            raise UserError(f"{name}: with {adapter} in it, it has numbers that are not finite.")
        return merged

    def _let_go(self) -> None:
        """Of what was used longest ago, first."""
        while len(self._kept) > 1:
            held = sum(one.nbytes for weights in self._kept.values() for one in weights.values())
            if len(self._kept) <= MOST_KEPT and held <= KEPT_SHARE * (held + self._free_bytes()):
                return
            self._kept.popitem(last=False)

    def _free_bytes(self) -> int:
        device = next(iter(self._parameters.values())).device
        if device.type == "cuda":
            return torch.cuda.mem_get_info(device)[0]
        return int(psutil.virtual_memory().available)
