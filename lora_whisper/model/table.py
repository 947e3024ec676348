"""What an adapter consists of, a row for each kind of layer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from peft import PeftModel

from lora_whisper.lora.adapter import is_token_embedding
from lora_whisper.lora.variants import ADAPTER, lora_layers
from lora_whisper.model.targets import ATTENTION


@dataclass(frozen=True)
class TableRow:
    """Trained parameters of one kind, of one shape and rank."""

    name: str  # "encoder self_attn q k v out", "decoder fc1", "decoder embed_tokens"
    count: int  # of layers
    shape: tuple[int, int]  # of each layer's weight: outputs, inputs
    rank: int | None  # None of token embeddings, which take the place of the base's
    parameters: int  # of the adapter, in all these layers


def adapter_table(model: PeftModel) -> list[TableRow]:
    """What is trained, in the model's order; an attention's projections stand in one row."""
    groups: dict[tuple[str, tuple[int, int], int], list[tuple[str, Any]]] = defaultdict(list)
    for path, layer in lora_layers(model).items():
        _, stack, _, _, kind, *projection = path.split(".")
        shape = (layer.out_features, layer.in_features)
        groups[f"{stack} {kind}", shape, layer.r[ADAPTER]].append(("".join(projection), layer))
    return [_row(*key, group) for key, group in groups.items()] + _token_rows(model)


def _row(kind: str, shape: tuple[int, int], rank: int, group: list[tuple[str, Any]]) -> TableRow:
    there = {projection for projection, _ in group}
    projections = [name.removesuffix("_proj") for name in ATTENTION if name in there]
    parameters = sum(_adapter_parameters(layer) for _, layer in group)
    return TableRow(" ".join([kind, *projections]), len(group), shape, rank, parameters)


def _token_rows(model: PeftModel) -> list[TableRow]:
    found = [value for name, value in model.named_parameters() if is_token_embedding(name)]
    return [
        TableRow("decoder embed_tokens", 1, (len(rows), rows.shape[1]), None, rows.numel())
        for rows in found
    ]


def _adapter_parameters(layer: Any) -> int:
    return sum(value.numel() for name, value in layer.named_parameters() if "lora_" in name)
