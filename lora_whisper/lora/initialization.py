"""Start from an adapter that is there: `adapter.init_from`, a run's or any plain LoRA.

What it adds to the weights is kept exactly: its matrices become the first rows of A and the first
columns of B. The rows that are left stay as they were drawn and their columns zero, and so do the
layers that it lacks. Everything but `start_from` works without torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.config import AdapterConfig
from lora_whisper.errors import UserError, listing
from lora_whisper.lora.provenance import find_adapter, require_base
from lora_whisper.lora.saved import CONFIG_FILE, SavedAdapter, require_shapes
from lora_whisper.lora.targets import PRESETS, layer_shapes, target_ranks
from lora_whisper.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import WhisperConfig

STACKS = ("encoder", "decoder")


def find_start(given: str, allow_pickle: bool = False) -> Path:
    """The folder of the adapter to start from; see `find_adapter`."""
    return find_adapter(given, "adapter.init_from", allow_pickle)


def require_same_base(saved: SavedAdapter, checkpoint: Checkpoint) -> None:
    """See that the adapter was trained on the weights of `checkpoint`: it is a change of those.

    A run knows what its base's weights were; other adapters only name their base, if that.

    Raises:
        UserError: it was trained on others.
    """
    advice = (
        "Type model.checkpoint=… with the base that it was trained on; or if these are the same "
        f"weights, write the name of yours as base_model_name_or_path into its {CONFIG_FILE}."
    )
    require_base(saved, f"The adapter in {saved.folder}", checkpoint, advice)


def require_fit(
    saved: SavedAdapter,
    config: AdapterConfig,
    shape: WhisperConfig,
    languages: Mapping[str, int],
    tokens: tuple[int, ...],
) -> None:
    """See that the adapter that `config` describes has room for all that `saved` adds.

    Args:
        languages: the tokens of the base's languages by their codes, to name them.
        tokens: whose embeddings this run trains.

    Raises:
        UserError: says what does not fit, and what to type.
    """
    require_shapes(saved, layer_shapes(shape))
    problems, settings = _layers_without_room(saved, config, shape)
    for token in saved.tokens:
        if token not in tokens:
            code = next((code for code, one in languages.items() if one == token), "CODE")
            problems.append(f"it trained the embedding of the token {token} ({code})")
            settings += ["adapter.train_language_token=true", f"data.language_token={code}"]
    if problems:
        raise UserError(
            f"The adapter in {saved.folder} does not fit into this run's:\n{listing(problems)}\n"
            f"Type {' '.join(settings)}"
        )


def start_from(model: PeftModel, folder: Path, tokens: tuple[int, ...] = ()) -> None:
    """Let a fresh LoRA adapter begin with what the one in `folder` adds to the weights.

    It is to fit, as `require_fit` says. The scale of `model`'s layers goes into their B.

    Args:
        tokens: whose embeddings `model` trains, in its order.

    Raises:
        UserError: no adapter is there, or one that is more than a sum with the weights.
    """
    import torch

    from lora_whisper.lora.delta_weights import read_plain, token_rows
    from lora_whisper.lora.variants import ADAPTER, lora_layers

    plain, layers = read_plain(folder), lora_layers(model)
    with torch.no_grad():
        for path, (a, b) in plain.matrices.items():
            layer, rank = layers[path], len(a)
            layer.lora_A[ADAPTER].weight[:rank] = a
            layer.lora_B[ADAPTER].weight[:, :rank] = b / layer.scaling[ADAPTER]
        for token, row in plain.embeddings.items():
            token_rows(model)[tokens.index(token)] = row


def _layers_without_room(
    saved: SavedAdapter, config: AdapterConfig, shape: WhisperConfig
) -> tuple[list[str], list[str]]:
    """What of `saved` has no room in the adapter of `config`, and the settings that give it."""
    ranks = target_ranks(config, shape)
    wider = _widened(config, saved, shape)
    missing = [path for path in saved.ranks if path not in ranks]
    problems = [f"it adapts {path}, this run does not" for path in missing]
    problems += [
        f"{path} is of rank {rank}, here of rank {ranks[path]}"
        for path, rank in saved.ranks.items()
        if rank > ranks.get(path, rank)
    ]
    settings = [
        f"adapter.{name}={'null' if value is None else value}"
        for name, value in vars(wider).items()
        if value != getattr(config, name)
    ]
    return problems, settings


def _widened(config: AdapterConfig, saved: SavedAdapter, shape: WhisperConfig) -> AdapterConfig:
    """`config` with the fewest changes by which it has room for all layers and ranks of `saved`."""
    names = {path.rpartition(".")[2] for path in saved.ranks} | set(PRESETS[config.targets])
    targets = next((name for name, of in PRESETS.items() if names <= set(of)), "all-linear")
    changes: dict[str, Any] = {"targets": targets}
    for stack in STACKS:
        ranks = [rank for path, rank in saved.ranks.items() if path.startswith(f"model.{stack}.")]
        if not ranks:
            continue
        if config.stack not in (stack, "both"):
            changes["stack"] = "both"
        name = "rank" if getattr(config, f"{stack}_rank") is None else f"{stack}_rank"
        changes[name] = max(*ranks, changes.get(name, 0), getattr(config, name))
    wider = dataclasses.replace(config, **changes)
    for stack in STACKS:
        beyond = saved.ranks.keys() - target_ranks(wider, shape).keys()
        if any(path.startswith(f"model.{stack}.") for path in beyond):
            changes[f"{stack}_layers"] = None
    return dataclasses.replace(config, **changes)
