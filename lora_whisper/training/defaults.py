"""What null in the configuration stands for: values that follow the model and the corpus.

Written for people who have tuned nothing. A value in the configuration always goes first.
"""

from __future__ import annotations

import math

from lora_whisper.model.published import MEDIUM_WIDTH

TINY_WIDTH, TINY_RATE = 384, 1.5e-3  # whisper-tiny's own peak rate in pre-training
WIDTH_EXPONENT = 1.8
HIGHEST_RATE = 2e-3
SMALL_WIDTH = 768  # whisper-small's
# whisper-base on 16 minutes of Swahili gained little after the fourth of eight passes, and lost
# nothing (docs/genuine-whisper.md).
EPOCHS, FEWEST_STEPS = 8, 50
VALIDATIONS, STEPS_BETWEEN_VALIDATIONS = 10, 25


def learning_rate_for_width(width: int) -> float:
    """The peak learning rate for a model of `width` (d_model) units.

    Whisper's own pre-training peaks fall with the width: 1.5e-3 at 384, 1e-3 at 512, 5e-4 at 768,
    2.5e-4 at 1024, 1.75e-4 at 1280 (Radford et al. 2022, https://arxiv.org/abs/2212.04356,
    appendix F). A power of 1.8 passes within 15 % of each. LoRA trains well at such rates: in three
    epochs whisper-base learnt more at 2.5e-3 (37 % WER against 43) and less at 3e-4 (49), but in
    six it went to 80 % on the way there, and had nothing left of the gain at the end
    (docs/genuine-whisper.md).
    """
    return min(HIGHEST_RATE, TINY_RATE * (TINY_WIDTH / width) ** WIDTH_EXPONENT)


def micro_batch_for_width(width: int) -> int:
    """Windows in one forward pass on a GPU; accumulation makes the global batch of them, exactly.

    On a CPU it is so for models narrower than tiny, whose windows are little work; for others see
    `memory_plan.micro_batch_on_cpu`.

    LoRA on every linear layer keeps about 1.3 GB a 30-second window in bf16 for small, counted on
    its saved tensors; wider models have checkpointing on by default, and need less.
    """
    return 8 if width < SMALL_WIDTH else 4


def checkpoints_activations(given: bool | None, width: int) -> bool:
    """Whether activations are computed twice: as given, or where the model is wide.

    Without it large-v3 keeps 5.7 GB a 30-second window.
    """
    return width >= MEDIUM_WIDTH if given is None else given


def total_steps(in_epoch: int | None, max_epochs: float | None, max_steps: int | None) -> int:
    """Optimizer steps of a run: the smaller of what `max_epochs` and `max_steps` allow, at least 1.

    `in_epoch` are those of an epoch; None of a stream, which needs `max_steps`. Without either
    limit: 8 epochs, and for a tiny corpus, where these would be a few steps, 50.
    """
    if in_epoch is None:
        assert max_steps is not None, "check_stream asks for it"
        return max_steps
    if max_epochs is None and max_steps is None:
        return max(EPOCHS * in_epoch, FEWEST_STEPS)
    limits = [] if max_steps is None else [max_steps]
    if max_epochs is not None:
        limits.append(math.ceil(max_epochs * in_epoch))
    return max(1, min(limits))


def validate_every(steps: int, given: int | None) -> int:
    """Steps between two validations: as given, else ten in a run, but no more than one in 25."""
    if given is not None:
        return given
    return max(STEPS_BETWEEN_VALIDATIONS, math.ceil(steps / VALIDATIONS))
