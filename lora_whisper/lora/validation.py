"""Whether an adapter fits: what a kind cannot do on a checkpoint or in a run, and another's layers.

All of it is known from shapes and steps. Neither weights nor torch are needed, so that a run is
refused before anything is loaded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.config import AdapterConfig
from lora_whisper.errors import UserError, listing
from lora_whisper.layers import MODULES, WHOLE, as_text
from lora_whisper.lora.adapter_config import targeted
from lora_whisper.lora.provenance import require_base
from lora_whisper.lora.resolve import resolve_adapter
from lora_whisper.lora.saved import CONFIG_FILE, PREFIX, WEIGHTS_FILE, SavedAdapter, UnsoundAdapter
from lora_whisper.lora.targets import PRESETS, layer_shapes, target_ranks
from lora_whisper.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from transformers import WhisperConfig


FINAL_SHARE = 0.3  # of the steps, at the end of a run, in which AdaLoRA's ranks stay as they are
EMBEDDINGS = "model.decoder.embed_tokens"
Shape = tuple[int, ...]


def require_possible(config: AdapterConfig, shape: WhisperConfig) -> None:
    """See that a checkpoint of this shape can get the adapter.

    Raises:
        UserError: layers that it does not have, a rank that its layers are too narrow for, or a
            kind without its settings.
    """
    rank = max(target_ranks(config, shape).values())
    width = shape.d_model  # no layer has fewer inputs or outputs
    if config.kind == "eva":
        require_directions(rank, width)
    if config.kind == "pissa":
        require_components(rank, width)


def require_directions(rank: int, width: int) -> None:
    if 2 * rank > width:  # PEFT looks for twice as many directions as it keeps
        raise UserError(
            f"adapter=eva finds up to {width // 2} directions in layers of width {width}, but the "
            f"rank is {rank}. Type a smaller adapter.rank=…, or adapter=lora."
        )


def require_components(rank: int, width: int) -> None:
    """Of a weight matrix, `width` is the shorter side."""
    if rank > width:
        raise UserError(
            f"adapter=pissa: a weight of this checkpoint has {width} components, but the rank is "
            f"{rank}. Type a smaller adapter.rank=…"
        )


def initial_rank(rank: int) -> int:
    """Of every layer, from which AdaLoRA's ranks go down until their mean is `rank`.

    Zhang et al. 2023, https://arxiv.org/abs/2303.10512, begin with one and a half times as much.
    """
    return math.ceil(1.5 * rank)


def final_steps(total_steps: int) -> int:
    """Steps at the end of a run in which AdaLoRA's ranks stay as they are.

    Raises:
        UserError: the run has none before them in which ranks could be given out.
    """
    steps = int(FINAL_SHARE * total_steps)
    if total_steps - steps < 2:  # what a layer is worth is known from the first step on
        raise UserError(
            f"adapter=adalora cannot give out ranks in {total_steps} steps, of which the last "
            f"{steps} keep them. Type a larger training.max_steps=…, or adapter=lora."
        )
    return steps


def require_shapes(saved: SavedAdapter, base: Mapping[str, Shape]) -> None:
    """See that each layer that the adapter changes is there, and as large as it expects.

    And that none is missing: PEFT would leave what it draws at random in a layer that is named and
    not in the file, and score that.

    Args:
        base: the shape of each module's weight by its path, (outputs, inputs) of linear layers.

    Raises:
        UserError: names each layer that does not fit, what was found and what was expected.
    """
    problems = list(_shape_problems(saved, base))
    if problems:
        raise UserError(
            f"The adapter in {saved.folder} does not fit its base, {len(problems)} of its "
            f"{len(saved.layers)} layers:\n{listing(problems, shown=3)}\n"
            + _what_it_is_of(saved, base)
        )
    try:
        meant = targeted(saved.config, list(base))
    except UserError as error:
        raise UnsoundAdapter(saved.folder, [str(error)]) from error
    known = set(meant)
    lines = [
        f"{path}: target_modules names it, and it has no matrices"
        for path in meant
        if path not in saved.layers
    ]
    if saved.config.get("target_modules") is not None:  # PEFT would leave their matrices out
        lines += [
            f"{path}: it has matrices, and target_modules does not name it"
            for path in saved.layers
            if path not in known
        ]
    if lines:
        raise UnsoundAdapter(saved.folder, lines, "The files are not whole: take another copy.")


def _shape_problems(saved: SavedAdapter, base: Mapping[str, Shape]) -> Iterator[str]:
    for path, layer in saved.layers.items():
        expected = base.get(path)
        if expected is None:
            yield f"{path}: the base has no such layer"
        elif expected != layer.shape:
            yield (
                f"{path}: found an adapter of {_by(layer.shape)} (outputs × inputs), "
                f"expected {_by(expected)}"
            )
    count, width = base[EMBEDDINGS]
    beyond = [token for token in saved.tokens if token >= count]
    if beyond:
        yield f"it trained the token {beyond[0]}, and the base has {count:,} of them"
    if saved.token_width not in (None, width):
        yield f"its embeddings are {saved.token_width} wide, expected {width}"


def _what_it_is_of(saved: SavedAdapter, base: Mapping[str, Shape]) -> str:
    """A guess: of another size, or of a part of Whisper, whose layers have shorter paths."""
    for part in ("model.", "model.encoder.", "model.decoder."):
        if all(base.get(f"{part}{path}") == one.shape for path, one in saved.layers.items()):
            return (
                "It was trained on a part of a Whisper, and calls layers by their paths there.\n"
                f"In {WEIGHTS_FILE}, put {part} behind {PREFIX} in each name."
            )
    return "It was trained on a Whisper of another size."


def shapes_of_weights(weights: Mapping[str, Shape]) -> dict[str, Shape]:
    """For `require_shapes`, from the shapes of a checkpoint's tensors by their names."""
    end = ".weight"
    return {name.removesuffix(end): shape for name, shape in weights.items() if name.endswith(end)}


def _by(shape: Shape) -> str:
    return " × ".join(map(str, shape))


def resolve_initial(given: str, allow_pickle: bool = False) -> Path:
    """The folder of the adapter to start from; see `resolve_adapter`."""
    return resolve_adapter(given, "adapter.init_from", allow_pickle)


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
    ranks = target_ranks(config, shape)
    problems = [f"it adapts {path}, this run does not" for path in saved.ranks if path not in ranks]
    problems += [
        f"{path} is of rank {rank}, here of rank {ranks[path]}"
        for path, rank in saved.ranks.items()
        if rank > ranks.get(path, rank)
    ]
    settings = [
        f"adapter.{name}={'null' if value is None else value}"
        for name, value in vars(_widened(config, saved, shape)).items()
        if value != getattr(config, name)
    ]
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


def _widened(config: AdapterConfig, saved: SavedAdapter, shape: WhisperConfig) -> AdapterConfig:
    """`config` with the fewest changes by which it has room for all layers and ranks of `saved`."""
    names = {path.rpartition(".")[2] for path in saved.ranks} | set(PRESETS[config.targets])
    targets = next((name for name, of in PRESETS.items() if names <= set(of)), "all-linear")
    changes: dict[str, Any] = {"targets": targets}
    ranges = config.ranges
    for module in MODULES:
        ranks = [rank for path, rank in saved.ranks.items() if path.startswith(f"model.{module}.")]
        if not ranks:
            continue
        ranges.setdefault(module, WHOLE)
        name = "rank" if getattr(config, f"{module}_rank") is None else f"{module}_rank"
        changes[name] = max(*ranks, changes.get(name, 0), getattr(config, name))
    changes["layers"] = as_text(ranges)
    wider = dataclasses.replace(config, **changes)
    for module in MODULES:
        beyond = saved.ranks.keys() - target_ranks(wider, shape).keys()
        if any(path.startswith(f"model.{module}.") for path in beyond):
            ranges[module] = WHOLE
    return dataclasses.replace(wider, layers=as_text(ranges))
