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


def window_loss_sum(
    whisper: WhisperForConditionalGeneration,
    input_features: Tensor,
    decoder_input: Tensor,
    labels: Tensor,
) -> Tensor:
    """Teacher-forced loss of a batch of windows, summed over its target tokens.

    The target positions are selected before the projection, which is as wide as the vocabulary
    (51866) and would otherwise be the largest activation of the step.

    Args:
        labels: where they are on the CPU, finding the targets need not wait for the GPU.

    Shapes: input_features (batch, mel bins, frames), decoder_input and labels (batch, tokens).
    """
    flat_labels = labels.flatten()
    positions = (flat_labels != IGNORED).nonzero().squeeze(1)
    return targets_loss_sum(
        whisper, input_features, decoder_input, positions, flat_labels[positions]
    )


def targets_loss_sum(
    whisper: WhisperForConditionalGeneration,
    input_features: Tensor,
    decoder_input: Tensor,
    positions: Tensor,
    targets: Tensor,
) -> Tensor:
    """The same, with the targets found: token ids, and their positions in the flattened batch.

    Shapes: positions and targets (target tokens,), on any device.
    """
    hidden = whisper.model(
        input_features=input_features, decoder_input_ids=decoder_input, use_cache=False
    ).last_hidden_state
    there = {"device": hidden.device, "non_blocking": True}
    chosen = hidden.flatten(0, 1).index_select(0, positions.to(**there))
    return token_loss_sum(whisper.proj_out(chosen), targets.to(**there))
