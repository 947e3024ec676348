"""A saved adapter's folder, read without torch: which layers it adapts, and of which rank."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lora_whisper.errors import UserError, listing

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's, before the path of a layer
A_SUFFIX, B_SUFFIX = ".lora_A.weight", ".lora_B.weight"
MAGNITUDE_SUFFIX = ".lora_magnitude_vector"  # of DoRA
TOKENS_KEY = f"{PREFIX}model.decoder.embed_tokens.token_adapter.trainable_tokens_delta"

# Values of init_lora_weights that leave the base as it is; others, such as "pissa", subtract the
# start from its weights, and the saved matrices are of those weights.
HARMLESS_STARTS = (True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class SavedAdapter:
    """What the headers of an adapter's files say."""

    folder: Path
    config: Mapping[str, Any]  # adapter_config.json
    ranks: Mapping[str, int]  # by the layer's path, such as model.encoder.layers.0.fc1
    tokens: tuple[int, ...]  # whose embeddings were trained as well

    @property
    def is_dora(self) -> bool:
        return bool(self.config.get("use_dora"))


def read_saved(folder: Path, with_dora: bool = False) -> SavedAdapter:
    """Read the headers of a LoRA adapter that adds B·A to the weights of linear layers.

    Args:
        with_dora: whether it may scale them, too.

    Raises:
        UserError: `folder` holds no adapter, or one of another kind.
    """
    config, shapes = _headers(folder)
    reasons = _not_plain(config, shapes, with_dora)
    if reasons:
        raise UserError(
            f"The adapter in {folder} is no plain LoRA of linear layers:\n{listing(reasons)}"
        )
    return SavedAdapter(
        folder,
        config,
        {key.removeprefix(PREFIX).removesuffix(A_SUFFIX): a[0] for key, a, _ in _pairs(shapes)},
        tuple(config.get("trainable_token_indices") or ()),
    )


def read_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of what is added to each linear layer's weight, by its path.

    Of an adapter of any kind: what it has besides pairs of matrices A and B is passed over.

    Raises:
        UserError: `folder` holds no adapter.
    """
    _, shapes = _headers(folder)
    return {
        key.removeprefix(PREFIX).removesuffix(A_SUFFIX): (b[0], a[1])
        for key, a, b in _pairs(shapes)
    }


def _pairs(shapes: Mapping[str, list[int]]) -> Iterator[tuple[str, list[int], list[int]]]:
    """The name of each A, with its shape and that of its B."""
    for key, shape in shapes.items():
        other = shapes.get(_partner(key), [])
        if key.endswith(A_SUFFIX) and len(shape) == len(other) == 2:
            yield key, shape, other


def _headers(folder: Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """The configuration, and the shape of each tensor."""
    require_adapter(folder)
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        shapes = _shapes(folder / WEIGHTS_FILE)
    except (ValueError, SafetensorError) as error:
        raise UserError(f"The adapter in {folder} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG_FILE}: expected an object, found {config!r}")
    if config.get("megatron_config"):  # PEFT would import the package that megatron_core names
        raise UserError(f"{folder / CONFIG_FILE}: megatron_config is for language models only")
    broken = [f"{key!a}: expected a name of one line" for key in shapes if not key.isprintable()]
    if broken:
        raise UserError(f"{folder / WEIGHTS_FILE} cannot be used:\n{listing(broken)}")
    return config, shapes


def require_adapter(folder: Path) -> None:
    """See that both files of an adapter are there.

    Raises:
        UserError: names what is missing.
    """
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} holds no adapter: expected {' and '.join(missing)}")


def _shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, framework="np") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118


def _not_plain(config: Any, shapes: Mapping[str, list[int]], with_dora: bool) -> list[str]:
    """Why the saved matrices alone do not say what is added to the weights; none is good."""
    kind = config.get("peft_type") if isinstance(config, dict) else config
    if kind != "LORA":
        return [f"peft_type: expected LORA, found {kind}"]
    rules = {
        "use_dora: DoRA scales the weights too": with_dora or not config.get("use_dora"),
        f"init_lora_weights: {config.get('init_lora_weights')} changed the base's weights": (
            config.get("init_lora_weights", True) in HARMLESS_STARTS
        ),
        "trainable_token_indices: expected a list of tokens": (
            isinstance(config.get("trainable_token_indices") or [], list)
        ),
    }
    unknown = [
        f"{key}: not a matrix A or B of a pair"
        for key, shape in shapes.items()
        if key != TOKENS_KEY and not _is_known(key, shape, shapes, with_dora)
    ]
    return [reason for reason, holds in rules.items() if not holds] + unknown


def _is_known(key: str, shape: list[int], shapes: Mapping[str, list[int]], with_dora: bool) -> bool:
    """Whether a tensor is one half of a pair of one rank, or DoRA's."""
    if with_dora and key.endswith(MAGNITUDE_SUFFIX):
        return True
    if not key.endswith((A_SUFFIX, B_SUFFIX)) or len(shape) != 2:
        return False
    other = shapes.get(_partner(key), [])
    ranks = (shape[0], other[1:]) if key.endswith(A_SUFFIX) else (shape[1], other[:1])
    return len(other) == 2 and [ranks[0]] == ranks[1]


def _partner(key: str) -> str:
    """The name of B where `key` is that of A, and the other way round."""
    ends = (A_SUFFIX, B_SUFFIX) if key.endswith(A_SUFFIX) else (B_SUFFIX, A_SUFFIX)
    return key.removesuffix(ends[0]) + ends[1]
