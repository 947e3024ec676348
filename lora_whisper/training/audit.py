"""What training is fed, looked at: tokens and gradients of the first steps, and sound in all.

What goes wrong in the first steps costs others weeks, because the loss falls all the same: a
doubled start token, labels that are not shifted, adapters that gradient checkpointing cuts off from
the loss. That sound is unusable, or not as it should be, may turn out in any step: headers, which
are read before, had looked sound.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, Protocol, TypeVar

import torch
from rich.cells import chop_cells
from torch import Tensor, nn

from lora_whisper import processes
from lora_whisper.data.audio import REMARKS
from lora_whisper.data.batches import Batch
from lora_whisper.data.windows import IGNORED, BadAudio, LeftOut
from lora_whisper.errors import UserError, listing
from lora_whisper.evaluation.scoring import report_bad_audio
from lora_whisper.model.tokenizer import SpecialTokens
from lora_whisper.terminal import counted

log = logging.getLogger("lora_whisper")

AUDITED_STEPS = 2  # LoRA's A has no gradient in the first, while B is zero
FACTOR = re.compile(r"(?P<layer>.+)\.lora_[ABE]\b")
TEXT_COLUMNS = 67  # of a token sequence, beside its title in a line of 80


# ── gradients ────────────────────────────────────────────────────────────────────────────────


@dataclass
class GradientAudit:
    """Sees in the first steps that every matrix of the adapter that should learn does."""

    steps_left: int = AUDITED_STEPS

    def check(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Look at the gradients of an optimizer step, before it is taken.

        Raises:
            UserError: names the matrices that get none.
        """
        if self.steps_left == 0:
            return
        self.steps_left -= 1
        idle = without_gradient(parameters)
        if idle:
            raise UserError(
                f"Step {step + 1}: {len(idle)} of the adapter's {len(parameters)} matrices get no "
                f"gradient:\n{listing(idle)}\n"
                "They would stay as they were drawn, and the adapter would be less than was asked "
                "for.\nType training.gradient_checkpointing=false if it is on; else the installed "
                "peft or transformers cuts them off from the loss: pip install the versions of "
                "constraints.txt."
            )


def without_gradient(parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """Matrices whose gradient is all zero although it should not be.

    The gradient of a factor of B·A (AdaLoRA: B·E·A) is zero while another factor is: that of A at
    LoRA's start. Whatever is no factor, such as DoRA's magnitudes, has one in every step.
    """
    zeros = _all_zero([value.detach() for value in parameters.values()])
    still = _all_zero([value.grad for value in parameters.values()])
    zero_factors = defaultdict(set)
    for (name, value), is_zero in zip(parameters.items(), zeros, strict=True):
        if is_zero and value.numel():
            zero_factors[_layer(name)].add(name)
    return [
        name
        for (name, value), is_still in zip(parameters.items(), still, strict=True)
        if is_still and value.numel() and not zero_factors[_layer(name)] - {name}
    ]


def _layer(name: str) -> str:
    """What the factors of a product have in common; a parameter that is no factor is alone."""
    factor = FACTOR.match(name)
    return factor["layer"] if factor else name


def _all_zero(tensors: Iterable[Tensor | None]) -> list[bool]:
    """Asked of all in one go, since every answer waits for the GPU."""
    none = torch.tensor(False)
    flags = [none if tensor is None else tensor.any() for tensor in tensors]
    device = next((flag.device for flag in flags if flag is not none), none.device)
    return torch.stack([flag.to(device) for flag in flags]).logical_not().tolist()  # type: ignore[no-any-return]


# ── tokens ───────────────────────────────────────────────────────────────────────────────────


def checked_start(
    steps: Iterable[list[Batch]], tokenizer: Any, special_tokens: SpecialTokens
) -> Iterator[list[Batch]]:
    """Pass on what is trained on; check the tokens of the first steps, and show some of them."""
    for number, batches in enumerate(steps):
        if number < AUDITED_STEPS:
            require_right_tokens(batches, special_tokens)
        if number == 0 and any(batch.rows for batch in batches):
            log.info("first batch %s", as_text(batches, tokenizer))
        yield batches


def require_right_tokens(batches: Iterable[Batch], special_tokens: SpecialTokens) -> None:
    """See that the decoder is given, and learns, what Whisper was trained with.

    Raises:
        AssertionError: it is our mistake.
    """
    for batch in batches:
        for window, (inputs, labels) in enumerate(_sequences(batch)):
            problems = list(token_problems(inputs, labels, special_tokens))
            assert not problems, f"window {window} of {batch.rows}: {'; '.join(problems)}"


def token_problems(
    inputs: list[int], labels: list[int], special_tokens: SpecialTokens
) -> Iterator[str]:
    """What is wrong with one window's decoder input and labels, both without padding."""
    sot = special_tokens.sot
    if inputs.count(sot) != 1:
        yield f"<|startoftranscript|> stands {inputs.count(sot)} times in the decoder's input"
        return
    start = inputs.index(sot)
    if start > 0 and inputs[0] != special_tokens.previous:
        yield "the decoder's input begins with neither <|startoftranscript|> nor <|startofprev|>"
    if set(labels[:start]) - {IGNORED}:
        yield "the prompt before <|startoftranscript|> is learnt"
    if labels[start] == IGNORED or sot in labels:
        yield "what follows <|startoftranscript|> is not learnt"
    if labels[-1] != special_tokens.eot or special_tokens.eot in labels[:-1]:
        yield "<|endoftext|> is not the last that is learnt, and only there"
    free = {IGNORED, special_tokens.no_speech}  # the latter is learnt, but never given
    pairs = zip(labels[:-1], inputs[1:], strict=True)
    if any(label not in free and label != following for label, following in pairs):
        yield "a label is not the token that the decoder is given next"


def _sequences(batch: Batch) -> Iterator[tuple[list[int], list[int]]]:
    """Decoder input and labels of each window; padding has no label, and ends every sequence."""
    for inputs, labels in zip(batch.decoder_input.tolist(), batch.labels.tolist(), strict=True):
        length = 1 + max(index for index, label in enumerate(labels) if label != IGNORED)
        yield inputs[:length], labels[:length]


def as_text(step: list[Batch], tokenizer: Any) -> str:
    """A step's size, and what the decoder is given and learns in its first window."""
    windows = sum(len(batch.labels) for batch in step)
    seconds = sum(batch.audio_seconds for batch in step)
    inputs, labels = next(chain.from_iterable(map(_sequences, step)))
    return (
        f"{counted(windows, 'window')}, {seconds:.1f} s of audio; the decoder of the first one\n"
        f"{_titled('  reads', _decoded(inputs, tokenizer))}\n"
        f"{_titled('  learns', _decoded(labels, tokenizer))}"
    )


def _decoded(tokens: list[int], tokenizer: Any) -> str:
    """Tokens as text, timestamps and special ones as well; what is not learnt is counted."""
    text = ""
    for is_ignored, some in groupby(tokens, key=IGNORED.__eq__):
        stretch = list(some)
        known = "" if is_ignored else tokenizer.backend_tokenizer.decode(stretch, False)
        text += f"({len(stretch)} not learnt)" if is_ignored else known
    # Nothing in a text may command the terminal that shows it.
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def _titled(title: str, text: str) -> str:
    """`text` beside its title in two lines of 80 columns; of a longer one, beginning and end."""
    lines = chop_cells(text, TEXT_COLUMNS)
    if len(lines) > 2:
        end = chop_cells(text[::-1], TEXT_COLUMNS - 1)[0][::-1]
        lines = [lines[0], f"…{end}"]
    return "\n".join(f"{beside:12}{line}" for beside, line in zip((title, ""), lines, strict=False))


# ── sound ────────────────────────────────────────────────────────────────────────────────────


class HasBadAudio(Protocol):
    """A step's result, as far as it is asked here."""

    @property
    def bad_audio(self) -> int: ...


State = TypeVar("State")
Result = TypeVar("Result", bound=HasBadAudio)


class SoundAudit:
    """Stands before the loop's batches and before its log, and names what is missing between."""

    def __init__(self, bad_audio: str, remarked: Collection[str] = ()):
        """
        Args:
            bad_audio: what becomes of it: "fail", or "drop".
            remarked: kinds of remarks that were named before training began.
        """
        self._bad_audio = bad_audio
        self._remarked = set(remarked)
        self._left_out: list[BadAudio] = []  # of this step, in this process

    def watched(self, batches: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        """Pass batches on, and note what is missing from them.

        Of what is odd, the first of each kind is named: there may be as many as there are rows.
        """
        for micro_batches in batches:
            self._left_out = [bad for batch in micro_batches for bad in batch.bad]
            for row, remark in chain.from_iterable(batch.remarks for batch in micro_batches):
                if remark.kind not in self._remarked:
                    self._remarked.add(remark.kind)
                    log.warning(
                        "sound       %s: %s (%s). There may be more; check lists them all",
                        *(row, REMARKS[remark.kind], remark.detail),
                    )
            yield micro_batches

    def named_before(
        self, on_log: Callable[[State, Result], None]
    ) -> Callable[[State, Result], None]:
        """Before a step is logged, name what was missing from it, in whichever process."""

        def named(state: State, result: Result) -> None:
            if result.bad_audio:
                bad = []
                for clip in processes.gather(self._left_out):
                    if isinstance(clip, LeftOut):
                        log.warning("left out    %s: %s", clip.row, clip.reason)
                    else:
                        bad.append(clip)
                report_bad_audio(bad, self._bad_audio)
            on_log(state, result)

        return named
