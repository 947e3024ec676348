"""The one door for adapters' folders, whoever wrote them: what is in them is sound, or is refused.

Both files are read without torch and without PEFT, which would believe them: settings by their
types and ranges, tensors by their header, and numbers one by one. What comes out of here says which
layers are adapted, of which rank and at which scale; nothing below looks into the folder's
settings again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lora_whisper.errors import UserError, listing
from lora_whisper.json_files import read_object
from lora_whisper.lora.adapter_config import (
    PARTED,
    USUAL,
    by_layer,
    by_peft,
    config_problems,
    tokens_of,
    way_on,
)
from lora_whisper.lora.targets import sees_sound
from lora_whisper.model.checkpoint import sha256
from lora_whisper.model.weights import Stored, read_headers

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's, before the path of a layer
PROJECTION = "proj_out"  # of the decoder's states to tokens
A_SUFFIX, B_SUFFIX = ".lora_A.weight", ".lora_B.weight"
MAGNITUDE_SUFFIX = ".lora_magnitude_vector"  # of DoRA
TOKENS_KEY = f"{PREFIX}model.decoder.embed_tokens.token_adapter.trainable_tokens_delta"

# Numbers that adapters are saved in, as they lie in the file. NumPy knows no bfloat16: its bits are
# the upper half of float32's.
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
VALUES_AT_ONCE = 1 << 22

MOST_BYTES = 2_000_000  # of adapter_config.json; the largest that are known have about 100,000


SHOWN = 5  # of the problems of an adapter

# Keys of adapter_config.json that say where an adapter comes from, and not what it adds.
OF_ITS_ORIGIN = {
    *("auto_mapping", "base_model_name_or_path", "peft_version", "revision", "task_type"),
    *("inference_mode", "init_lora_weights", "lora_dropout"),
}


class UnsoundAdapter(UserError):
    """An adapter that is there and cannot be used, with all that is wrong with it."""

    def __init__(self, folder: Path, problems: list[str], advice: str = ""):
        self.problems = problems
        said = f" {problems[0]}" if len(problems) == 1 else f"\n{listing(problems, SHOWN)}"
        super().__init__(
            f"The adapter in {folder} cannot be used:{said}" + (f"\n{advice}" if advice else "")
        )

    @property
    def reason(self) -> str:
        """In one line; beyond a few problems the rest are counted."""
        more = len(self.problems) - SHOWN
        shown = [*self.problems[:SHOWN], *([f"… and {more} more"] if more > 0 else [])]
        return "; ".join(shown)


@dataclass(frozen=True)
class SavedLayer:
    """What is added to one linear layer's weight: scale · B·A."""

    rank: int
    alpha: float
    scale: float
    shape: tuple[int, int]  # (outputs, inputs)


@dataclass(frozen=True)
class SavedAdapter:
    """What the files of an adapter say."""

    folder: Path
    config: Mapping[str, Any]  # adapter_config.json, of known types
    layers: Mapping[str, SavedLayer]  # by the layer's path, such as model.encoder.layers.0.fc1
    tokens: tuple[int, ...]  # whose embeddings were trained as well
    token_width: int | None  # of those

    @property
    def ranks(self) -> dict[str, int]:
        return {path: layer.rank for path, layer in self.layers.items()}

    @property
    def is_dora(self) -> bool:
        return bool(self.config.get("use_dora"))

    @property
    def base(self) -> str | None:
        """What it calls its base: a path where it was trained, or a hub id."""
        return self.config.get("base_model_name_or_path") or None

    @property
    def revision(self) -> str | None:
        return self.config.get("revision") or None


def adapter_hashes(folder: Path) -> dict[str, str]:
    """What names an adapter exactly: of its tensors, and of the settings that decide on the rest.

    Scale, rsLoRA and DoRA stand in the settings alone, and change all that the tensors mean.
    """
    found = {}
    if (folder / WEIGHTS_FILE).is_file():
        found["adapter"] = sha256(folder / WEIGHTS_FILE)
    # A damaged one is refused by whoever opens it.
    with suppress(ValueError, OSError, AttributeError, RecursionError):
        settings = json.loads((folder / CONFIG_FILE).read_bytes())
        deciding = {key: settings[key] for key in sorted(settings.keys() - OF_ITS_ORIGIN)}
        for key in ("target_modules", "exclude_modules"):  # sets, written in any order
            if isinstance(deciding.get(key), list):
                deciding[key] = sorted(map(str, deciding[key]))
        found["adapter_settings"] = hashlib.sha256(json.dumps(deciding).encode()).hexdigest()
    return found


def open_adapter(folder: Path) -> SavedAdapter:
    """Read an adapter whose numbers are going to be used.

    Raises:
        UserError: see `read_saved`; or a number is infinite or none.
    """
    saved = read_saved(folder)
    broken = []
    for key, count, total in _not_finite(folder / WEIGHTS_FILE):
        layer = _layer_of(key)  # of which a tensor is lora_A, lora_B, …
        name = key.removeprefix(f"{PREFIX}{layer}").removesuffix(".weight").lstrip(".") or key
        broken.append(f"{layer}: {count:,} of the {total:,} numbers in {name} are not finite")
    if broken:
        raise UnsoundAdapter(
            folder, broken, "Its training went wrong, or the file is damaged: take another copy."
        )
    return saved


def read_saved(folder: Path) -> SavedAdapter:
    """Read what an adapter's files say of it, but for its numbers.

    Raises:
        UserError: `folder` holds no adapter; one that adds something else than B·A to the weights
            of linear layers, which DoRA may scale; or one of which anything is missing.
    """
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} holds no adapter: expected {' and '.join(missing)}")
    try:
        config = read_object(folder / CONFIG_FILE, MOST_BYTES)
    except ValueError as error:
        raise UnsoundAdapter(folder, [f"{CONFIG_FILE}: {error}"]) from error
    try:
        tensors = read_headers(folder / WEIGHTS_FILE)
    except ValueError as error:
        raise UnsoundAdapter(folder, [f"{WEIGHTS_FILE}: {error}"]) from error
    if problems := config_problems(config):
        raise UnsoundAdapter(folder, problems, way_on(config, problems, folder))
    if problems := list(_tensor_problems(config, tensors)):
        advice = ""  # about matrices that are sound, and of no linear layer
        if any(".lora_embedding_" in key or _layer_of(key) == PROJECTION for key in tensors):
            advice = PARTED
        elif any(len(a.shape) > 2 for _, a in _as(tensors)):  # of convolutions
            advice = by_peft(config, folder)
        raise UnsoundAdapter(folder, problems, advice)
    pairs = {_layer_of(key): (tensor, tensors[_partner(key)]) for key, tensor in _as(tensors)}
    layers = _layers(folder, config, pairs)
    rows = tensors.get(TOKENS_KEY)
    return SavedAdapter(folder, config, layers, tokens_of(config), rows.shape[1] if rows else None)


def _layers(
    folder: Path, config: Mapping[str, Any], pairs: Mapping[str, tuple[Stored, Stored]]
) -> dict[str, SavedLayer]:
    """By path, of its matrices A and B.

    Raises:
        UserError: the configuration gives a layer another rank than its matrices have, or names
            layers by an expression that cannot be tried.
    """
    try:
        ranks, alphas = (by_layer(config, name, pairs) for name in ("r", "lora_alpha"))
    except UserError as error:
        raise UnsoundAdapter(folder, [str(error)]) from error
    if problems := [
        f"{path}: its matrices are of rank {a.shape[0]}, where r and rank_pattern say {ranks[path]}"
        for path, (a, _) in pairs.items()
        if a.shape[0] != ranks[path]
    ]:
        raise UnsoundAdapter(folder, problems)
    power = 0.5 if config.get("use_rslora") else 1.0
    return {
        path: SavedLayer(
            ranks[path],
            alphas[path],
            alphas[path] / ranks[path] ** power,
            (b.shape[0], a.shape[1]),
        )
        for path, (a, b) in pairs.items()
    }


def require_sum(saved: SavedAdapter) -> None:
    """See that the adapter is a sum with the weights, which can be scaled, and added to others.

    Raises:
        UserError: it is of DoRA.
    """
    if saved.is_dora:
        raise UserError(
            f"The adapter in {saved.folder} is no sum with the weights:\n"
            "  - use_dora: DoRA scales the weights too"
        )


# ── what the header says ─────────────────────────────────────────────────────────────────────

LEFT_THERE = {  # by how a tensor's name ends: what somebody may have trained it as
    MAGNITUDE_SUFFIX: "; of DoRA, and use_dora is off",
    ".lora_embedding_A": "; of the embeddings",
    ".lora_embedding_B": "; of the embeddings",
    ".lora_B.bias": "; B has a bias",
}


def _tensor_problems(config: Mapping[str, Any], tensors: Mapping[str, Stored]) -> Iterator[str]:
    """What is missing, of another shape, or more than an adapter has."""
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        if not key.isprintable() or len(key) > 300:
            yield f"{key[:60]!a}: expected a name of one line"
        elif tensor.dtype not in FLOATS:
            yield f"{name}: expected numbers of float32, float16 or bfloat16, found {tensor.dtype}"
        elif key == TOKENS_KEY:
            continue
        elif config.get("use_dora") and key.endswith(MAGNITUDE_SUFFIX):
            if f"{key.removesuffix(MAGNITUDE_SUFFIX)}{A_SUFFIX}" not in tensors:
                yield f"{name}: of a layer without matrices"
        elif key.startswith(PREFIX) and key.endswith((A_SUFFIX, B_SUFFIX)):
            yield from _pair_problems(key, tensor, tensors)
        else:
            guess = next((why for end, why in LEFT_THERE.items() if key.endswith(end)), "")
            yield f"{name}: not a matrix A or B of a pair{guess}"
    if not any(_as(tensors)):
        yield f"{WEIGHTS_FILE} holds no matrices of any layer"
    for key, _ in _as(tensors) if config.get("use_dora") else ():
        expected = tensors[_partner(key)].shape[:1] if _partner(key) in tensors else None
        lengths = tensors.get(f"{key.removesuffix(A_SUFFIX)}{MAGNITUDE_SUFFIX}")
        if lengths is None:
            yield f"{_layer_of(key)}: use_dora is on, and its lengths are missing"
        elif lengths.shape != expected:
            yield f"{_layer_of(key)}: expected lengths of shape {expected}, found {lengths.shape}"
    tokens, rows = tokens_of(config), tensors.get(TOKENS_KEY)
    if rows is None and tokens:
        yield f"the embeddings of {len(tokens)} trained tokens are missing"
    elif rows is not None and (len(rows.shape) != 2 or rows.shape[0] != len(tokens) or not tokens):
        yield f"expected embeddings of {len(tokens)} trained tokens, found {rows.shape}"


def _pair_problems(key: str, tensor: Stored, tensors: Mapping[str, Stored]) -> Iterator[str]:
    """Of one half of a pair; what both are wrong about is said of A."""
    path, is_a = _layer_of(key), key.endswith(A_SUFFIX)
    other, name = tensors.get(_partner(key)), "B" if is_a else "A"
    if other is None:
        yield f"{path}: its matrix {name} is missing"
    elif path == PROJECTION:
        if is_a:
            yield f"{path}: it is the embeddings again, which a change of it alone would split off"
    elif len(tensor.shape) != 2 or 0 in tensor.shape:
        yield f"{path}: expected matrices of a linear layer, found a shape of {tensor.shape}"
    elif is_a and len(other.shape) == 2 and other.shape[1] != tensor.shape[0]:
        yield f"{path}: A is of rank {tensor.shape[0]}, B of rank {other.shape[1]}"


def _as(tensors: Mapping[str, Stored]) -> Iterator[tuple[str, Stored]]:
    """The matrices A."""
    return ((key, one) for key, one in tensors.items() if key.endswith(A_SUFFIX))


def _partner(key: str) -> str:
    """The name of B where `key` is that of A, and the other way round."""
    ends = (A_SUFFIX, B_SUFFIX) if key.endswith(A_SUFFIX) else (B_SUFFIX, A_SUFFIX)
    return key.removesuffix(ends[0]) + ends[1]


def _layer_of(key: str) -> str:
    """The path of the layer that a tensor is of."""
    path = key.removeprefix(PREFIX)
    for end in (A_SUFFIX, B_SUFFIX, MAGNITUDE_SUFFIX):
        path = path.removesuffix(end)
    return path


# ── what the numbers are ─────────────────────────────────────────────────────────────────────


def _not_finite(path: Path) -> Iterator[tuple[str, int, int]]:
    """Tensors with numbers that are none in float32: how many, of how many."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(size))
    values = np.memmap(path, np.uint8, "r", offset=8 + size)
    for key, entry in entries.items():
        if key == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        numbers = np.frombuffer(values[start:end], FLOATS[entry["dtype"]])
        count = 0
        for first in range(0, len(numbers), VALUES_AT_ONCE):
            some = numbers[first : first + VALUES_AT_ONCE]
            if entry["dtype"] == "BF16":
                some = (some.astype(np.uint32) << 16).view(np.float32)
            with np.errstate(over="ignore"):
                is_finite = np.isfinite(some.astype(np.float32, copy=False))
            count += int(np.count_nonzero(~is_finite))
        if count:
            yield key, count, len(numbers)


VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that --max-lora-rank takes


def exported_ranks(folder: Path) -> tuple[int, int]:
    """The lowest and the highest rank of a layer."""
    ranks = read_saved(folder).ranks.values()
    return min(ranks), max(ranks)


def vllm_max_rank(folder: Path) -> int:
    """What vLLM's --max-lora-rank has to be for this adapter, if vLLM serves it."""
    return next(rank for rank in VLLM_RANKS if rank >= exported_ranks(folder)[1])


def vllm_obstacles(folder: Path) -> list[str]:
    """Why vLLM does not serve the adapter; empty where it does."""
    saved = read_saved(folder)
    highest = max(saved.ranks.values())
    alpha, rank = (saved.config.get(name, USUAL[name]) for name in ("lora_alpha", "r"))
    one_scale = alpha / (rank**0.5 if saved.config.get("use_rslora") else rank)
    reasons = {
        "DoRA is not served": saved.is_dora,
        "re-learnt token embeddings are not served": bool(saved.tokens),
        f"rank {highest} is over its limit of {VLLM_RANKS[-1]}": highest > VLLM_RANKS[-1],
        "the layers' scales differ, and it takes lora_alpha / r for all of them": (
            {layer.scale for layer in saved.layers.values()} != {one_scale}
        ),
    }
    return [reason for reason, holds in reasons.items() if holds]


def vllm_is_to_be_compared(folder: Path) -> bool:
    """Whether layers are adapted that see sound, which vLLM loads but may serve only in part.

    Its kernels adapt as many rows of a layer's input as there are text tokens in a step, and its
    Whisper has no `get_mm_mapping`, by which other models count the encoder's rows apart. Read in
    vllm/lora/model_manager.py and vllm/model_executor/models/whisper.py, not run.
    """
    return any(map(sees_sound, read_saved(folder).layers))
