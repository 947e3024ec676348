"""The loss: cross-entropy summed over target tokens, in fp32, which is divided once.

A mean of micro-batch means weighs the tokens of short clips
more than those of long ones, and a mean that does not know of accumulation multiplies the gradient;
so `loss_sum` returns a sum, and the loop divides it by the target tokens of the whole global batch,
over all its micro-batches and processes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional
from transformers import WhisperForConditionalGeneration

from lora_whisper.data.windows import IGNORED
from lora_whisper.model.encoder import Known, encode


class Inputs(NamedTuple):
    """What the model is given of a batch of windows, and what it is to answer."""

    features: Tensor  # (batch, mel bins, frames), as many as a window has or fewer
    decoder_input: Tensor  # (batch, tokens)
    positions: Tensor  # in the flattened batch, that have a target; (target tokens,), on any device
    targets: Tensor  # token ids, (target tokens,), on any device
    known: Known | None = None  # of windows that were encoded before; the features are the others'


def find_targets(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions in the flattened batch that have a target, and the targets: token ids.

    Where the labels are on the CPU, finding them need not wait for the GPU.

    Shapes: labels (batch, tokens), both results (target tokens,).
    """
    flat = labels.flatten()
    positions = (flat != IGNORED).nonzero().squeeze(1)
    return positions, flat[positions]


def loss_sum(
    whisper: WhisperForConditionalGeneration,
    inputs: Inputs,
    autocast: AbstractContextManager[object] = nullcontext(),  # noqa: B008  it has no state
) -> Tensor:
    """Teacher-forced cross-entropy, summed over the target tokens; a scalar in fp32.

    The target positions are selected before the projection, which is as wide as the vocabulary
    (51866) and would otherwise be the largest activation of the step.

    Args:
        autocast: in which the model computes.
    """
    with autocast:
        encoded = encode(whisper.model.encoder, inputs.features, inputs.known)
        hidden = whisper.model.decoder(
            input_ids=inputs.decoder_input, encoder_hidden_states=encoded, use_cache=False
        ).last_hidden_state
        there = {"device": hidden.device, "non_blocking": True}
        chosen = hidden.flatten(0, 1).index_select(0, inputs.positions.to(**there))
        logits = whisper.proj_out(chosen).float()
        return functional.cross_entropy(logits, inputs.targets.to(**there), reduction="sum")
