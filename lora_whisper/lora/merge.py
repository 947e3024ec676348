"""Fold adapters into the weights of their base, one tensor after the other.

W' = W + ΔW in fp32, rounded once to the dtype that is written. What PEFT's `merge_and_unload` gives
on a base in fp32, in the memory of a single tensor: large-v3 need not fit.

An adapter that was trained on a base in nf4 has learnt beside what nf4 made of W. Here W is full
again, unless the adapter is to be folded into just those weights, read back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lora_whisper.errors import UserError
from lora_whisper.lora.delta_weights import DeltaWeights, delta_weights_from
from lora_whisper.lora.saved import MAGNITUDE_SUFFIX, PREFIX, WEIGHTS_FILE, open_adapter
from lora_whisper.lora.targets import PRESETS
from lora_whisper.model.quantization import Nf4, read_back
from lora_whisper.model.weights import EMBEDDINGS, TIED, is_finite, read_tensors

log = logging.getLogger("lora_whisper")

ROWS_AT_ONCE = 256  # of a weight
MOST_GROWTH = 100.0  # ‖ΔW‖ / ‖W‖; training that went well stays below 1


@dataclass(frozen=True)
class Change:
    """What becomes of a base's weights."""

    matrices: Mapping[str, tuple[Tensor, Tensor]]  # by the layer's path: A (rank, inputs) and
    # B (outputs, rank), with all scales in B
    embeddings: Mapping[int, tuple[Tensor, float]] = field(default_factory=dict)
    # of a token: the weighted sum of the rows (width,) that take its place, and of their weights
    magnitudes: Mapping[str, Tensor] = field(default_factory=dict)  # DoRA's, (outputs,)


def read_change(parts: Sequence[tuple[Path, float]]) -> Change:
    """What the adapters in these folders do together, each times its weight.

    Raises:
        UserError: no sound adapter is there; or one of DoRA beside another, or at another weight
            than 1.
    """
    adapters = [(open_adapter(folder), weight) for folder, weight in parts]
    change = weighted([(delta_weights_from(saved), weight) for saved, weight in adapters])
    scaling = [saved for saved, _ in adapters if saved.is_dora]
    if not scaling:
        return change
    if [weight for _, weight in adapters] != [1.0]:
        raise UserError(
            f"The adapter in {scaling[0].folder} is of DoRA, which scales the weights: it is no "
            "sum that could be scaled or added to another. Merge it alone, with scale=1."
        )
    tensors = load_file(scaling[0].folder / WEIGHTS_FILE)
    magnitudes = {
        path: tensors[f"{PREFIX}{path}{MAGNITUDE_SUFFIX}"].float() for path in change.matrices
    }
    return Change(change.matrices, change.embeddings, magnitudes)


def weighted(adapters: Sequence[tuple[DeltaWeights, float]]) -> Change:
    """The sum of what adapters add, each times its weight; their ranks add up.

    A token's embedding goes as far from the base's as the weights say.
    """
    matrices, embeddings = {}, {}
    for path in dict.fromkeys(path for delta, _ in adapters for path in delta.matrices):
        parts = [
            (*delta.matrices[path], weight) for delta, weight in adapters if path in delta.matrices
        ]
        a = torch.cat([a for a, _, _ in parts])
        matrices[path] = a, torch.cat([weight * b for _, b, weight in parts], dim=1)
    for token in dict.fromkeys(token for delta, _ in adapters for token in delta.embeddings):
        rows = [
            (weight * delta.embeddings[token], weight)
            for delta, weight in adapters
            if token in delta.embeddings
        ]
        embeddings[token] = torch.stack([row for row, _ in rows]).sum(0), sum(w for _, w in rows)
    return Change(matrices, embeddings)


def folded(
    files: Sequence[Path], change: Change, dtype: torch.dtype, nf4: Nf4 | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The base's tensors in `files` with the change in them, by their names, in `dtype`.

    The output projection is left out: it is the embeddings, and whoever loads them ties it to them.

    Args:
        nf4: the linear layers' weights are what nf4 makes of them; None: as they are.

    Raises:
        UserError: a number in them is not finite, or too large for `dtype`.
    """
    left, growths = set(change.matrices), dict[str, float]()
    for name, tensor in read_tensors(files):
        path = name.removesuffix(".weight")
        left.discard(path)
        if name != TIED:
            merged = fold(name, tensor, change, dtype, nf4)
            if not is_finite(merged):
                shown = str(dtype).removeprefix("torch.")
                other = "" if dtype == torch.float32 else ", which dtype=float32 may hold"
                raise UserError(
                    f"{name}: with the adapter in it, it has numbers that are not finite in "
                    f"{shown}{other}."
                )
            yield name, merged
            del merged  # before the next one is made
        if path in change.matrices:
            growths[path] = _norm_of_change(change, path) / float(torch.linalg.vector_norm(tensor))
    assert not left, f"no such layers: {sorted(left)}"
    if beyond := {path: one for path, one in growths.items() if one > MOST_GROWTH}:
        log.warning(
            "too large?  what is added to %d of %d layers is over %g times as large as their "
            "weights, in %s %.0e times: the model may say nothing sensible. Look at the adapter's "
            "scale, and whether its file is what was trained",
            len(beyond),
            len(growths),
            MOST_GROWTH,
            max(beyond, key=beyond.__getitem__),
            max(beyond.values()),
        )


def _norm_of_change(change: Change, path: str) -> float:
    """The Frobenius norm of ΔW = B·A, which is not made for it; of W' itself where DoRA scales W'.

    ‖B·A‖² is the sum of (Bᵀ·B) ∘ (A·Aᵀ), two matrices of the rank's size.
    """
    if path in change.magnitudes:
        return float(torch.linalg.vector_norm(change.magnitudes[path].double()))
    a, b = (one.double() for one in change.matrices[path])
    return float((b.T @ b * (a @ a.T)).sum().clamp(min=0).sqrt())


@torch.no_grad()
def fold(
    name: str, tensor: Tensor, change: Change, dtype: torch.dtype, nf4: Nf4 | None = None
) -> Tensor:
    """W + B·A, with rows of DoRA's lengths where it has them; or the rows of re-learnt tokens.

    Some rows at a time, so that what is computed in fp32 stays in the processor's cache: less than
    half of the time that large-v3's largest weights took as a whole.
    """
    path = name.removesuffix(".weight")
    if nf4 is not None and is_linear(name):
        tensor = read_back(tensor, nf4)
    if path in change.matrices:
        a, b = (one.to(tensor.device) for one in change.matrices[path])
        magnitude = change.magnitudes.get(path)
        merged = torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
        for start in range(0, len(tensor), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            block = torch.addmm(tensor[rows].float(), b[rows], a)
            if magnitude is not None:
                lengths = torch.linalg.norm(block, dim=1)
                block *= (magnitude[rows].to(tensor.device) / lengths)[:, None]
            merged[rows] = block
        return merged
    if name == EMBEDDINGS and change.embeddings:
        merged = tensor.to(torch.float32, copy=True)
        for token, (moved, weight) in change.embeddings.items():
            merged[token] = (1 - weight) * merged[token] + moved.to(tensor.device)
        return merged.to(dtype)
    return tensor.to(dtype)


def is_linear(name: str) -> bool:
    """Whether a tensor is the weight of a layer that is quantized, and may carry an adapter."""
    path, _, kind = name.rpartition(".")
    return kind == "weight" and path.rpartition(".")[2] in PRESETS["all-linear"]
