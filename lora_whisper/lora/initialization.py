"""How an adapter begins if not as LoRA does: as another adapter, with PiSSA, or with EVA."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig
from peft.tuners.lora import EvaConfig, get_eva_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperForConditionalGeneration

from lora_whisper.errors import UserError
from lora_whisper.files import write_whole
from lora_whisper.lora.delta_weights import read_delta_weights, token_rows
from lora_whisper.lora.targets import sees_sound
from lora_whisper.lora.validation import require_components, require_directions
from lora_whisper.lora.variants import ADAPTER, lora_layers

if TYPE_CHECKING:
    from peft import PeftModel

log = logging.getLogger("lora_whisper")

# ── as another adapter: adapter.init_from, of a run or any plain LoRA ─────────────────────────────
# What it adds to the weights is kept exactly: its matrices become the first rows of A and the first
# columns of B. The rows that are left stay as they were drawn and their columns zero, and so do the
# layers that it lacks.


@torch.no_grad()
def initialize_from(model: PeftModel, folder: Path, tokens: tuple[int, ...] = ()) -> None:
    """Let a fresh LoRA adapter begin with what the one in `folder` adds to the weights.

    It is to fit, as `require_fit` says. The scale of `model`'s layers goes into their B.

    Args:
        tokens: whose embeddings `model` trains, in its order.

    Raises:
        UserError: no adapter is there, or one that is more than a sum with the weights.
    """
    delta, layers = read_delta_weights(folder), lora_layers(model)
    for path, (a, b) in delta.matrices.items():
        layer, rank = layers[path], len(a)
        layer.lora_A[ADAPTER].weight[:rank] = a
        layer.lora_B[ADAPTER].weight[:, :rank] = b / layer.scaling[ADAPTER]
    for token, row in delta.embeddings.items():
        token_rows(model)[tokens.index(token)] = row


# ── PiSSA ─────────────────────────────────────────────────────────────────────────────────────────
# What is trained are the weights' largest singular vectors, what is frozen is the rest:
# W = R + s·B0·A0, where s·B0·A0 are the principal components. R takes the place of the base's
# weights and stays frozen; B and A start as B0 and A0. Meng et al. 2024,
# https://arxiv.org/abs/2404.02948
#
# The adapter alone is worth nothing, since it belongs to R: what ships is B·A - B0·A0 as a plain
# LoRA of twice the rank. So the run keeps A0 and B0 in a file. A resumed run takes them from there
# too, because an SVD is not the same to the last bit on every machine.
#
# PEFT's own start is not used: it rounds A0 and B0 to the base's dtype after it has taken the exact
# ones out of the weights, and a bfloat16 toy started 0.02 off in logits of magnitude 1.

INITIAL_FILE = "initial.safetensors"  # beside the checkpoints


def write_initial(path: Path, initial: Mapping[str, Tensor]) -> None:
    """Write A0 and B0 with their hash."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in initial.items()}
    write_whole(path, save(tensors, {"sha256": _hash_of(tensors)}))


def read_initial(path: Path) -> dict[str, Tensor] | None:
    """A0 and B0 by the full names of the parameters that started as them.

    None without a file, and where it is not what was written: they are then computed again, which
    gives the same ones but for rounding.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        initial = load_file(path)
    except (SafetensorError, OSError):
        metadata, initial = None, {}
    # Without metadata, it is of an older version.
    if not initial or (metadata and metadata.get("sha256") != _hash_of(initial)):
        log.warning("checkpoint  %s is not what was written: it is computed again", path)
        return None
    return initial


def _hash_of(tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(save({name: tensors[name] for name in sorted(tensors)})).hexdigest()


@torch.no_grad()
def principal_components(model: PeftModel) -> dict[str, Tensor]:
    """A0 and B0 of each layer, fp32, by the full names of their parameters.

    With W = U·S·Vᵀ, of which the first `rank` count: A0 = √(S/s)·Vᵀ and B0 = U·√(S/s). For all
    linear layers it takes a CPU core half a minute for small, and six minutes for large-v3.

    Raises:
        UserError: a rank that is larger than a weight has singular values.
    """
    initial = {}
    for path, layer in lora_layers(model).items():
        weight, rank = layer.get_base_layer().weight.float(), layer.r[ADAPTER]
        require_components(rank, min(weight.shape))
        u, values, v = torch.linalg.svd(weight, full_matrices=False)
        root = (values[:rank] / layer.scaling[ADAPTER]).sqrt()
        name_a, name_b = _names(path)
        initial[name_a], initial[name_b] = root[:, None] * v[:rank], u[:, :rank] * root
    return initial


@torch.no_grad()
def initialize_from_components(model: PeftModel, initial: Mapping[str, Tensor]) -> None:
    """Set A and B to A0 and B0, and take these out of the base's weights."""
    for path, layer in lora_layers(model).items():
        name_a, name_b = _names(path)
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        a.copy_(initial[name_a])
        b.copy_(initial[name_b])
        weight = layer.get_base_layer().weight
        weight.copy_(weight.float() - layer.scaling[ADAPTER] * b @ a)


def _names(path: str) -> tuple[str, str]:
    prefix = f"base_model.model.{path}"
    return f"{prefix}.lora_A.{ADAPTER}.weight", f"{prefix}.lora_B.{ADAPTER}.weight"


# ── EVA ───────────────────────────────────────────────────────────────────────────────────────────
# The rows of A are the directions in which a layer's inputs vary most.
# Paischer et al. 2024, https://arxiv.org/abs/2410.07170. Of PEFT's implementation, which is the
# authors', only the directions are taken: every layer keeps the rank that it was given, so that a
# run's matrices have the shapes that its configuration says.

EVA_WINDOWS = 64  # of the training set, at most, from which the directions are taken
ROWS = 1024  # of a layer's inputs in one batch, at most: PEFT compares inputs number by number
TOKENS = 256  # of text in one batch, at least, where there are as many
PASSES = 50  # over all inputs; directions that still turn then are not waited for


@dataclass(frozen=True)
class WatchedWindow:
    """A training window, on whose way through the base the layers' inputs are watched."""

    features: Tensor  # (mel bins, frames)
    decoder_input: Tensor  # (tokens,)
    positions: int  # of the encoder's that hold sound, not the silence behind it


@dataclass(frozen=True)
class WatchedBatch:
    """Windows that go through the base together."""

    features: Tensor  # (batch, mel bins, frames)
    decoder_input: Tensor  # (batch, tokens)
    has_sound: Tensor  # (batch, encoder positions) bool
    has_token: Tensor  # (batch, tokens) bool: not padding

    def to(self, device: torch.device) -> WatchedBatch:
        return WatchedBatch(*(value.to(device) for value in vars(self).values()))


def input_directions(
    base: WhisperForConditionalGeneration, config: LoraConfig, windows: Iterable[WatchedWindow]
) -> dict[str, Tensor]:
    """The directions (rank, inputs) in which each target layer's inputs vary most, by its path.

    They are orthogonal and of length 1; the one that explains most is the first.

    Raises:
        UserError: too few inputs or too narrow layers for the rank.
    """
    rank = config.r  # the highest, see `variants`
    require_directions(rank, base.config.d_model)
    batches = _batches(list(windows), 2 * rank, base.config.max_source_positions)
    asked = LoraConfig(
        r=config.r,
        rank_pattern=config.rank_pattern,
        target_modules=config.target_modules,
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=1.0),  # 1: no rank moves from one layer to another
    )
    directions: dict[str, Tensor] = get_eva_state_dict(
        base,
        batches,
        peft_config=asked,
        forward_fn=_Passes(PASSES * len(batches)).forward,
        prepare_model_inputs_fn=lambda inputs, _: inputs,
        prepare_layer_inputs_fn=_rows,
        gather_distributed_inputs=False,  # several processes take the first one's directions
        show_progress_bar=False,
    )
    return directions


def _batches(
    windows: list[WatchedWindow], fewest_tokens: int, positions: int
) -> list[WatchedBatch]:
    """Consecutive windows together, so that every batch has tokens enough."""
    batches: list[list[WatchedWindow]] = [[]]
    for window in windows:
        if _tokens(batches[-1]) >= max(fewest_tokens, TOKENS):
            batches.append([])
        batches[-1].append(window)
    if len(batches) > 1 and _tokens(batches[-1]) < fewest_tokens:
        batches.pop()
    if _tokens(batches[0]) < fewest_tokens:
        raise UserError(
            f"adapter=eva with rank {fewest_tokens // 2} needs {fewest_tokens} tokens of text, "
            f"found {_tokens(batches[0])} in {len(windows)} windows. Type a smaller "
            "adapter.rank=…, or adapter=lora."
        )
    return [
        WatchedBatch(
            features=torch.stack([window.features for window in batch]),
            decoder_input=pad_sequence([one.decoder_input for one in batch], batch_first=True),
            has_sound=torch.arange(positions) < torch.tensor([[one.positions] for one in batch]),
            has_token=pad_sequence(
                [torch.ones_like(one.decoder_input).bool() for one in batch], batch_first=True
            ),
        )
        for batch in batches
    ]


def _tokens(windows: list[WatchedWindow]) -> int:
    return sum(len(window.decoder_input) for window in windows)


@dataclass
class _Passes:
    """Forward passes, of which PEFT asks for more until no direction turns any longer."""

    left: int

    def forward(self, base: WhisperForConditionalGeneration, inputs: WatchedBatch) -> None:
        if self.left == 0:
            raise UserError(
                f"adapter=eva: the inputs' directions still turn after {PASSES} passes over them. "
                "Type a smaller adapter.rank=…, or adapter=lora."
            )
        self.left -= 1
        base.model(
            input_features=inputs.features.to(base.dtype),
            decoder_input_ids=inputs.decoder_input,
            use_cache=False,
        )


def _rows(layer_input: Any, inputs: WatchedBatch, path: str) -> Tensor:
    """A layer's inputs (rows, inputs) where there is something, evenly thinned to `ROWS`."""
    rows: Tensor = layer_input[0][inputs.has_sound if sees_sound(path) else inputs.has_token]
    return rows[:: len(rows) // ROWS + 1].contiguous()  # PEFT takes a view of them
