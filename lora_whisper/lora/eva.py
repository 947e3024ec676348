"""EVA's start: the rows of A are the directions in which a layer's inputs vary most.

Paischer et al. 2024, https://arxiv.org/abs/2410.07170. Of PEFT's implementation, which is the
authors', only the directions are taken: every layer keeps the rank that it was given, so that a
run's matrices have the shapes that its configuration says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import EvaConfig, get_eva_state_dict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperForConditionalGeneration

from lora_whisper.errors import UserError
from lora_whisper.lora.limits import require_directions
from lora_whisper.lora.targets import sees_sound

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
    rank = config.r  # the highest, see `kinds`
    require_directions(rank, base.config.d_model)
    batches = _batches(list(windows), 2 * rank, base.config.max_source_positions)
    directions: dict[str, Tensor] = get_eva_state_dict(
        base,
        batches,
        peft_config=_asking_for_directions(config),
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
            f"found {_tokens(batches[0])} in {len(windows)} windows. Type a larger "
            "adapter.eva.windows=…, or a smaller adapter.rank=…"
        )
    return [_collate(batch, positions) for batch in batches]


def _tokens(windows: list[WatchedWindow]) -> int:
    return sum(len(window.decoder_input) for window in windows)


def _collate(windows: list[WatchedWindow], positions: int) -> WatchedBatch:
    tokens = [window.decoder_input for window in windows]
    sound = torch.tensor([window.positions for window in windows])
    return WatchedBatch(
        features=torch.stack([window.features for window in windows]),
        decoder_input=pad_sequence(tokens, batch_first=True),
        has_sound=torch.arange(positions) < sound[:, None],
        has_token=pad_sequence([torch.ones_like(one).bool() for one in tokens], batch_first=True),
    )


def _asking_for_directions(config: LoraConfig) -> LoraConfig:
    return LoraConfig(
        r=config.r,
        rank_pattern=config.rank_pattern,
        target_modules=config.target_modules,
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=1.0),  # 1: no rank moves from one layer to another
    )


@dataclass
class _Passes:
    """Forward passes, of which PEFT asks for more until no direction turns any longer."""

    left: int

    def forward(self, base: WhisperForConditionalGeneration, inputs: WatchedBatch) -> None:
        if self.left == 0:
            raise UserError(
                f"adapter=eva: the inputs' directions still turn after {PASSES} passes over them. "
                "Type a larger adapter.eva.windows=…, or a smaller adapter.rank=…"
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
