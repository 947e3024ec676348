"""A saved adapter's folder, read without torch: which layers it adapts, and of which rank."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lora_whisper.errors import UserError, listing

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's, before the path of a layer
A_SUFFIX, B_SUFFIX = ".lora_A.weight", ".lora_B.weight"
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


def read_saved(folder: Path) -> SavedAdapter:
    """Read the headers of a LoRA adapter that adds B·A to the weights of linear layers.

    Raises:
        UserError: `folder` holds no adapter, or one of another kind.
    """
    require_adapter(folder)
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        shapes = _shapes(folder / WEIGHTS_FILE)
    except (ValueError, SafetensorError) as error:
        raise UserError(f"The adapter in {folder} cannot be read: {error}") from error
    reasons = _not_plain(config, shapes)
    if reasons:
        raise UserError(
            f"The adapter in {folder} is no plain LoRA of linear layers:\n{listing(reasons)}"
        )
    ranks = {
        key.removeprefix(PREFIX).removesuffix(A_SUFFIX): shape[0]
        for key, shape in shapes.items()
        if key.endswith(A_SUFFIX)
    }
    return SavedAdapter(folder, config, ranks, tuple(config.get("trainable_token_indices") or ()))


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


def _not_plain(config: dict[str, Any], shapes: dict[str, list[int]]) -> list[str]:
    """Why the saved matrices alone do not say what is added to the weights; none is good."""
    if config.get("peft_type") != "LORA":
        return [f"peft_type: expected LORA, found {config.get('peft_type')}"]
    rules = {
        "use_dora: DoRA scales the weights too": not config.get("use_dora"),
        f"init_lora_weights: {config.get('init_lora_weights')} changed the base's weights": (
            config.get("init_lora_weights", True) in HARMLESS_STARTS
        ),
        "trainable_token_indices: expected a list of tokens": (
            isinstance(config.get("trainable_token_indices") or [], list)
        ),
    }
    unknown = [
        f"{key}: not a matrix A or B"
        for key, shape in shapes.items()
        if key != TOKENS_KEY and not (key.endswith((A_SUFFIX, B_SUFFIX)) and len(shape) == 2)
    ]
    return [reason for reason, holds in rules.items() if not holds] + unknown
