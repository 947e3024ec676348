"""The loss: cross-entropy summed over target tokens, in fp32, and divided once.

The only place where a mean is taken. A mean of micro-batch means weighs the tokens of short clips
more than those of long ones, and a mean that does not know of accumulation multiplies the gradient;
so forward passes return sums, and `train_step` divides by the target tokens of the whole global
batch, over all its micro-batches and processes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional
from transformers import WhisperForConditionalGeneration

from lora_whisper.data.windows import IGNORED


def token_loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over the labels that are not `IGNORED`; a scalar in fp32.

    Shapes: logits (tokens, vocabulary), labels (tokens,).
    """
    return functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")


def find_targets(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions in the flattened batch that have a target, and the targets: token ids.

    Where the labels are on the CPU, finding them need not wait for the GPU.

    Shapes: labels (batch, tokens), both results (target tokens,).
    """
    flat = labels.flatten()
    positions = (flat != IGNORED).nonzero().squeeze(1)
    return positions, flat[positions]


def targets_loss_sum(
    whisper: WhisperForConditionalGeneration,
    input_features: Tensor,
    decoder_input: Tensor,
    positions: Tensor,
    targets: Tensor,
) -> Tensor:
    """Teacher-forced loss of a batch of windows, summed over its target tokens.

    The target positions are selected before the projection, which is as wide as the vocabulary
    (51866) and would otherwise be the largest activation of the step.

    Shapes: input_features (batch, mel bins, frames), decoder_input (batch, tokens), positions and
    targets (target tokens,), on any device.
    """
    hidden = whisper.model(
        input_features=input_features, decoder_input_ids=decoder_input, use_cache=False
    ).last_hidden_state
    there = {"device": hidden.device, "non_blocking": True}
    chosen = hidden.flatten(0, 1).index_select(0, positions.to(**there))
    return token_loss_sum(whisper.proj_out(chosen), targets.to(**there))
