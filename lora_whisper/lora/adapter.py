"""The adapter: attach it to the frozen base, save it, load it, hear it at once or in part.

W' = W + alpha / rank · B·A, where only A (rank, inputs) and B (outputs, rank) are trained; B starts
at zero, so that training starts at the base model. Hu et al. 2021, https://arxiv.org/abs/2106.09685
What the other kinds do differently stands in `lora.variants`.

Beside them, the embeddings of single tokens may be trained, such as that of an unused language.
They take the place of the base's rows, in the embedding and in the output projection that is tied
to it; the vocabulary keeps its size and every token its id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from lora_whisper.config import AdapterConfig
from lora_whisper.errors import UserError
from lora_whisper.lora.delta_weights import delta_weights_of, token_rows, write_delta_weights
from lora_whisper.lora.initialization import (
    WatchedWindow,
    initialize_from_components,
    input_directions,
    principal_components,
)
from lora_whisper.lora.saved import WEIGHTS_FILE, open_adapter
from lora_whisper.lora.targets import ATTENTION, target_ranks
from lora_whisper.lora.validation import require_shapes
from lora_whisper.lora.variants import (
    ADAPTER,
    config_of_saved,
    lora_layers,
    measure_magnitudes,
    peft_config,
)
from lora_whisper.model.checkpoint import Checkpoint, open_to_readers
from lora_whisper.model.quantization import is_quantized, prepare_for_training


def attach(
    base: WhisperForConditionalGeneration,
    config: AdapterConfig,
    quantization: str,
    gradient_checkpointing: bool,
    seed: int,
    token_indices: tuple[int, ...] = (),
    total_steps: int | None = None,
    inputs: Callable[[], Iterable[WatchedWindow]] | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> PeftModel:
    """Put a fresh fp32 adapter beside every target layer of `base`, which is changed in place.

    The same seed draws the same adapter, whatever was drawn before.

    Args:
        token_indices: tokens whose embeddings are trained as well; they start as they are.
        total_steps: of the run; AdaLoRA plans by it.
        inputs: training windows, which EVA's start is computed from; without them, EVA starts as
            LoRA, for a run that goes on from a checkpoint's matrices.
        initial: PiSSA's start of an earlier run, to go on from; without it, it is computed.

    Raises:
        UserError: a range of layers that the base does not have; too short a run for AdaLoRA; too
            few inputs for EVA.
    """
    ranks = target_ranks(config, base.config)
    asked = peft_config(config, ranks, token_indices, total_steps)
    if quantization != "none":
        prepare_for_training(base)
    directions = input_directions(base, asked, inputs()) if config.kind == "eva" and inputs else {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # adapters are drawn on the CPU, then moved
        model = get_peft_model(base, asked)
    with torch.no_grad():  # what a kind's start needs beyond what PEFT draws
        layers = lora_layers(model)
        for path, rows in directions.items():
            layers[path].lora_A[ADAPTER].weight.copy_(rows)
        if config.kind == "pissa":
            initialize_from_components(model, initial or principal_components(model))
        if config.kind == "dora":
            measure_magnitudes(model)
    if gradient_checkpointing:
        checkpoint_activations(base)
    return model


def checkpoint_activations(base: WhisperForConditionalGeneration) -> None:
    """Compute activations twice instead of keeping them, as gradient checkpointing does.

    The re-entrant form needs inputs with gradients; the encoder's input has none.
    """
    settings = {"use_reentrant": False}
    if hasattr(base, "activation_checkpointing_enable"):  # the older name is deprecated
        base.activation_checkpointing_enable(settings)
    else:
        base.gradient_checkpointing_enable(settings)


def adapter_parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """All that the adapter consists of, by full names, whether it is being trained or not."""
    named = model.named_parameters()
    return {name: value for name, value in named if "lora_" in name or is_token_embedding(name)}


def is_token_embedding(name: str) -> bool:
    """Whether a parameter of the adapter replaces rows of the base, to which it adds no matrix."""
    return "trainable_tokens_delta" in name


def parameter_counts(model: PeftModel) -> tuple[int, int]:
    """Count (trainable, all) parameters, the adapter's included; a 4-bit weight counts as one."""
    trainable, total = model.get_nb_trainable_parameters()
    return trainable, total


def save_adapter(
    model: PeftModel,
    folder: Path,
    base: Checkpoint,
    initial: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the adapter as stock PEFT does, naming a base that can be loaded as it stands.

    PiSSA and AdaLoRA are written as the plain LoRA that they come down to: PiSSA's matrices fit
    weights from which their start was taken, and who serves adapters reads LoRA, not AdaLoRA.

    Args:
        initial: PiSSA's start, as `read_initial` gives it.
    """
    config = model.peft_config[ADAPTER]
    if initial is not None or isinstance(config, AdaLoraConfig):
        write_delta_weights(delta_weights_of(model, initial), folder, base)
        return
    config.base_model_name_or_path = base.path
    config.revision = base.revision
    # The embeddings are the base's own; PEFT's "auto" would ask the hub whether they are.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    open_to_readers(folder)


def load_adapter(base: WhisperForConditionalGeneration, folder: Path) -> PeftModel:
    """Put the saved adapter on `base`, which is changed in place.

    PEFT is told the layers, ranks and scales that were read, and no setting of the folder's own.

    Raises:
        UserError: `folder` holds no sound adapter, or one that does not fit.
    """
    saved, shapes = open_adapter(folder), dict[str, tuple[int, ...]]()
    for path, module in base.named_modules():
        if isinstance(module, torch.nn.Linear):  # quantized, its weight may have another shape
            shapes[path] = (module.out_features, module.in_features)
        elif isinstance(weight := getattr(module, "weight", None), Tensor):
            shapes[path] = tuple(weight.shape)
    require_shapes(saved, shapes)
    if is_quantized(base):
        prepare_for_training(base)
    return PeftModel.from_pretrained(base, str(folder), config=config_of_saved(saved))


def adapter_bytes(folder: Path) -> int:
    """Size of the saved adapter's weights."""
    return (folder / WEIGHTS_FILE).stat().st_size


@contextmanager
def scaled(model: PeftModel, scale: float) -> Iterator[None]:
    """Let the adapter add so much of what it adds, for the duration of a `with`; 1 is all of it.

    Between the base and the adapter, embeddings of tokens are drawn on the line between theirs.

    Raises:
        UserError: DoRA, which does not only add to the weights.
    """
    layers = lora_layers(model).values()
    if any(layer.lora_variant for layer in layers):
        raise UserError("evaluation.adapter_scales: a DoRA adapter is no sum that can be scaled.")
    whole = [layer.scaling[ADAPTER] for layer in layers]
    config: Any = model.peft_config[ADAPTER]
    rows = token_rows(model) if config.trainable_token_indices else None
    kept = None if rows is None else rows.detach().clone()
    try:
        for layer, scaling in zip(layers, whole, strict=True):
            layer.scaling[ADAPTER] = scale * scaling
        if rows is not None:
            whisper: Any = model.get_base_model()
            embedding = whisper.model.decoder.embed_tokens.token_adapter
            of_base = embedding.base_layer.weight[embedding.token_indices[ADAPTER]].detach()
            rows.data = torch.lerp(of_base.to(rows), rows.detach(), scale)
        yield
    finally:
        for layer, scaling in zip(layers, whole, strict=True):
            layer.scaling[ADAPTER] = scaling
        if rows is not None and kept is not None:
            rows.data = kept


@contextmanager
def merged_in_place(model: PeftModel) -> Iterator[None]:
    """Merge for the duration of a `with`, which decodes faster; afterwards every bit is as before.

    Only fp32 bases are merged: in bfloat16 the sum would be rounded, in int8 and nf4 it would be
    quantized, and what is scored would no longer be the adapter. There the model stays as it is.
    """
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    every = [layer.get_base_layer().weight for layer in layers]
    weights = list({id(weight): weight for weight in every}.values())  # the tied one is kept once
    if is_quantized(model) or any(weight.dtype != torch.float32 for weight in weights):
        yield
        return
    # Subtracting what was added does not restore the last bits, so the weights are kept.
    originals = [weight.detach().to("cpu", copy=True) for weight in weights]
    tuner: Any = model.base_model  # PEFT's LoraModel
    try:
        tuner.merge_adapter()
        yield
    finally:
        tuner.unmerge_adapter()
        for weight, original in zip(weights, originals, strict=True):
            weight.data.copy_(original)


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
        _, module, _, _, kind, *projection = path.split(".")
        shape = (layer.out_features, layer.in_features)
        groups[f"{module} {kind}", shape, layer.r[ADAPTER]].append(("".join(projection), layer))
    rows = []
    for (part, shape, rank), group in groups.items():
        there = {projection for projection, _ in group}
        projections = [name.removesuffix("_proj") for name in ATTENTION if name in there]
        parameters = sum(
            value.numel()
            for _, layer in group
            for name, value in layer.named_parameters()
            if "lora_" in name
        )
        name = " ".join([part, *projections])
        rows.append(TableRow(name, len(group), shape, rank, parameters))
    for name, value in model.named_parameters():
        if is_token_embedding(name):
            shape = (len(value), value.shape[1])
            rows.append(TableRow("decoder embed_tokens", 1, shape, None, value.numel()))
    return rows
