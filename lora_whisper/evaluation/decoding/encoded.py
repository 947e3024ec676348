"""What encoders made of windows, for models that have theirs in common: each is encoded once.

An adapter may leave the encoder alone, and a merged model has the one of its adapter. Who shares
whose is told by the weights themselves as they lie in memory, and not by where they are from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

ROOM_BYTES = 1_000_000_000  # 325 windows of whisper-base in float32


@dataclass
class EncodedOnce:
    """Outputs of encoders, as many as have room.

    The first ones stay: models meet the same windows in the same order, and with the latest in
    their place, each would be gone when it is asked for again.
    """

    room_bytes: int = ROOM_BYTES
    _kept: dict[bytes, Tensor] = field(default_factory=dict)

    def encode(
        self, weights: bytes, windows: Sequence[Tensor], encode: Callable[[list[Tensor]], Tensor]
    ) -> Tensor:
        """(mel bins, frames) each → (windows, positions, width), by `encode` what is not here.

        Args:
            weights: the encoder's, see `weights_digest`.
        """
        keys = [_digest(weights, window) for window in windows]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        missing = {key: one for key, one in zip(keys, windows, strict=True) if key not in found}
        if missing:
            for key, made in zip(missing, encode(list(missing.values())), strict=True):
                found[key] = made
                if self.room_bytes >= made.nbytes:
                    self.room_bytes -= made.nbytes
                    self._kept[key] = made.cpu()
        return torch.stack([found[key].to(windows[0].device) for key in keys])


def weights_digest(encoder: nn.Module) -> bytes:
    """Of all that decides on what an encoder makes of a window; a second for 2 GB."""
    values = sorted(encoder.state_dict().items())
    names = repr([name for name, _ in values]).encode()
    return _digest(names, *(value for _, value in values if isinstance(value, Tensor)))


def _digest(first: bytes, *tensors: Tensor) -> bytes:
    digest = hashlib.blake2b(first, digest_size=16)
    for one in tensors:
        digest.update(f"{one.dtype} {tuple(one.shape)}".encode())
        numbers = one.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(numbers.tobytes())
    return digest.digest()
