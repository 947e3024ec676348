"""What an adapter adds to the weights, whatever its kind: read, written, averaged, truncated.

ΔW = B·A for each layer. Every kind but DoRA comes down to this, and sums of it are exact: the sum
of two such products is the product of their matrices side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.adalora import AdaLoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from lora_whisper.lora.saved import (
    A_SUFFIX,
    B_SUFFIX,
    PREFIX,
    TOKENS_KEY,
    WEIGHTS_FILE,
    SavedAdapter,
    UnsoundAdapter,
    open_adapter,
    require_sum,
)
from lora_whisper.lora.variants import ADAPTER, lora_layers
from lora_whisper.model.checkpoint import Checkpoint, open_to_readers
from lora_whisper.model.weights import is_finite

# What stock PEFT notes of a model for which it has no task type.
AUTO_MAPPING = {
    "base_model_class": WhisperForConditionalGeneration.__name__,
    "parent_library": WhisperForConditionalGeneration.__module__,
}


@dataclass(frozen=True)
class DeltaWeights:
    """What an adapter adds to the weights of each layer: ΔW = B·A, with its scale in B."""

    matrices: Mapping[str, tuple[Tensor, Tensor]]  # by the layer's path, such as
    # model.encoder.layers.0.fc1: A (rank, inputs) and B (outputs, rank), fp32 on the CPU
    embeddings: Mapping[int, Tensor]  # (width,) each: what takes the place of a token's row

    @property
    def ranks(self) -> dict[str, int]:
        return {path: len(a) for path, (a, _) in self.matrices.items()}


def delta_weights_of(model: PeftModel, initial: Mapping[str, Tensor] | None = None) -> DeltaWeights:
    """A copy of the adapter in `model`; layers of which AdaLoRA left no rank are left out.

    Args:
        initial: for PiSSA, which took them out of the base's weights: all matrices as they were at
            the start, by the names of the model's parameters. ΔW = B·A - B0·A0, of twice the rank.
    """
    matrices = {}
    for path, layer in lora_layers(model).items():
        assert not layer.lora_variant, "what DoRA adds is no product of two matrices"
        is_adalora = isinstance(layer, AdaLoraLayer)
        if is_adalora:  # B·(E·A), where E is zero for each rank that was taken away
            values = layer.lora_E[ADAPTER].detach().squeeze(1)
            kept = values != 0
            # 1e-5 as in PEFT's SVDLinear.forward, which divides by the rank of the start.
            scale = layer.scaling[ADAPTER] / (layer.ranknum[ADAPTER].detach() + 1e-5)
            a = layer.lora_A[ADAPTER].detach()[kept]
            b = scale * values[kept] * layer.lora_B[ADAPTER].detach()[:, kept]
        else:
            a = layer.lora_A[ADAPTER].weight.detach()
            b = layer.scaling[ADAPTER] * layer.lora_B[ADAPTER].weight.detach()
        if initial is not None:
            a0, b0 = (
                initial[f"{PREFIX}{path}.lora_{name}.{ADAPTER}.weight"].to(a) for name in "AB"
            )
            a, b = torch.cat([a, a0]), torch.cat([b, -layer.scaling[ADAPTER] * b0], dim=1)
        if len(a) > 0:
            matrices[path] = (_copied(a), _copied(b))
    tokens: Any = getattr(model.peft_config[ADAPTER], "trainable_token_indices", None)
    rows = _copied(token_rows(model)) if tokens else ()
    return DeltaWeights(matrices, dict(zip(tokens or (), rows, strict=True)))


def read_delta_weights(folder: Path) -> DeltaWeights:
    """The adapter in a folder of stock PEFT's.

    Raises:
        UserError: no adapter is there, or one that is more than a sum with the weights.
    """
    saved = open_adapter(folder)
    require_sum(saved)
    return delta_weights_from(saved)


def delta_weights_from(saved: SavedAdapter) -> DeltaWeights:
    """The matrices of an adapter that was opened; of DoRA, all but its lengths.

    Raises:
        UserError: with its scale, a matrix is beyond float32.
    """
    stored = load_file(saved.folder / WEIGHTS_FILE)
    tensors = {key: value.float() for key, value in stored.items()}
    matrices = {
        path: (
            tensors[f"{PREFIX}{path}{A_SUFFIX}"],
            layer.scale * tensors[f"{PREFIX}{path}{B_SUFFIX}"],
        )
        for path, layer in saved.layers.items()
    }
    beyond = [f"{path}: beyond float32" for path, (_, b) in matrices.items() if not is_finite(b)]
    if beyond:
        raise UnsoundAdapter(saved.folder, beyond)
    rows = tensors[TOKENS_KEY].unbind() if saved.tokens else ()
    return DeltaWeights(matrices, dict(zip(saved.tokens, rows, strict=True)))


def write_delta_weights(delta: DeltaWeights, folder: Path, base: Checkpoint) -> None:
    """Write a folder that stock PEFT loads as a LoRA adapter of `base`.

    alpha equals the rank, in each layer: the scale is 1 for who reads it layer by layer and for who
    takes one scale for all of them, as vLLM does.
    """
    ranks = delta.ranks
    rank = max(ranks.values())
    other = {path: one for path, one in ranks.items() if one != rank}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern=other,
        alpha_pattern=dict(other),
        target_modules=sorted(ranks),
        trainable_token_indices=list(delta.embeddings) or None,
        base_model_name_or_path=base.path,
        revision=base.revision,
        inference_mode=True,
        auto_mapping=AUTO_MAPPING,
    )
    tensors = {}
    for path, (a, b) in delta.matrices.items():
        tensors[f"{PREFIX}{path}{A_SUFFIX}"] = a.contiguous()
        tensors[f"{PREFIX}{path}{B_SUFFIX}"] = b.contiguous()
    if delta.embeddings:
        tensors[TOKENS_KEY] = torch.stack(list(delta.embeddings.values()))
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    open_to_readers(folder)


def mean(adapters: Sequence[DeltaWeights]) -> DeltaWeights:
    """The mean of what the adapters add, exactly; their ranks add up.

    The mean of the A's times the mean of the B's would be something else. A layer that one of them
    lacks gets nothing from it.
    """
    assert len({tuple(one.embeddings) for one in adapters}) == 1, "tokens of different runs"
    matrices = {}
    for path in dict.fromkeys(path for one in adapters for path in one.matrices):
        pairs = [one.matrices[path] for one in adapters if path in one.matrices]
        a = torch.cat([a for a, _ in pairs])
        b = torch.cat([b for _, b in pairs], dim=1) / len(adapters)
        matrices[path] = (a, b)
    rows = {
        token: torch.stack([one.embeddings[token] for one in adapters]).mean(dim=0)
        for token in adapters[0].embeddings
    }
    return DeltaWeights(matrices, rows)


def truncate_rank(delta: DeltaWeights, rank: int) -> tuple[DeltaWeights, float]:
    """The nearest adapter of at most this rank, and how far it is.

    Returns:
        the adapter, and the Frobenius norm of what is lost over that of all ΔW together
    """
    matrices, lost, whole = {}, 0.0, 0.0
    for path, (a, b) in delta.matrices.items():
        # Of B·A, which itself is never made: with B = Qb·Rb and Aᵀ = Qa·Ra only Rb·Raᵀ has to be
        # decomposed, which has a rank's size.
        qa, ra = torch.linalg.qr(a.double().T)
        qb, rb = torch.linalg.qr(b.double())
        u, values, v = torch.linalg.svd(rb @ ra.T, full_matrices=False)
        u, v = qb @ u, v @ qa.T
        root = values[:rank].sqrt()
        kept = (root[:, None] * v[:rank], u[:, :rank] * root)
        matrices[path] = (a, b) if len(a) <= rank else (kept[0].float(), kept[1].float())
        lost += values[rank:].square().sum().item()
        whole += values.square().sum().item()
    error = (lost / whole) ** 0.5 if whole > 0 else 0.0
    return DeltaWeights(matrices, delta.embeddings), error


def _copied(value: Tensor) -> Tensor:
    """On the CPU in fp32, and not the model's own, which may be trained on."""
    return value.detach().to("cpu", torch.float32, copy=True)


def token_rows(model: PeftModel) -> Tensor:
    """The trained embeddings (tokens, width), in the order of `trainable_token_indices`."""
    whisper: Any = model.get_base_model()
    rows: Tensor = whisper.model.decoder.embed_tokens.token_adapter.trainable_tokens_delta[ADAPTER]
    return rows
