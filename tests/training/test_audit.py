"""The audit of what training is fed: silent where all is well, and naming what is not."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from torch import nn
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from lora_whisper.data.audio import Remark
from lora_whisper.data.batches import Batch, collate
from lora_whisper.data.windows import IGNORED, Segment, Window, token_sequence
from lora_whisper.errors import UserError
from lora_whisper.lora.adapter import attach
from lora_whisper.model.tokenizer import SpecialTokens
from lora_whisper.training.audit import (
    GradientAudit,
    SoundAudit,
    as_text,
    checked_start,
    require_right_tokens,
    token_problems,
    without_gradient,
)
from lora_whisper.training.loop import Trainer, train_step
from tests.configs import adapter_config
from tests.data.test_windows import ids, toy
from tests.toys import toy_model
from tests.training.parts import micro_batches, toy_adapter, toy_trainer, toy_windows

# ── gradients ────────────────────────────────────────────────────────────────────────────────


def cut_off(trainer: Trainer, part: str) -> list[str]:
    """Take the gradient away from the matrices whose names contain `part`."""
    names = [name for name in trainer.parameters if part in name]
    for name in names:
        trainer.parameters[name].register_hook(torch.zeros_like)
    assert names
    return names


def test_whatever_the_kind_all_is_well_from_the_start_and_later() -> None:
    """The audit of a run that goes on begins in its middle."""
    for kind in ("lora", "rslora", "dora", "pissa", "adalora"):
        config = adapter_config(kind, rank=2)
        model = attach(toy_model(), config, "none", False, 3, token_indices=(5,), total_steps=20)
        trainer = toy_trainer(model)
        for step in range(4):
            trainer.audit.steps_left = 2
            train_step(trainer, step, micro_batches(toy_windows(4, step), 4))
            assert trainer.audit.steps_left == 1, kind


def test_b_has_a_gradient_in_the_first_step() -> None:
    trainer = toy_trainer(toy_adapter())
    names = cut_off(trainer, "encoder.layers.1.fc1.lora_B")
    with pytest.raises(UserError, match="Step 1: 1 of the adapter's 64 matrices") as failure:
        train_step(trainer, 0, micro_batches(toy_windows(4), 4))
    assert names[0] in str(failure.value)
    assert "gradient_checkpointing=false" in str(failure.value)
    moments = trainer.optimizer.state
    assert not moments, "nothing was trained"


def test_a_has_one_from_the_second_step_on() -> None:
    trainer, batches = toy_trainer(toy_adapter()), micro_batches(toy_windows(4), 4)
    cut_off(trainer, "encoder.layers.1.fc1.lora_A")
    train_step(trainer, 0, batches)
    with pytest.raises(UserError, match=r"Step 2: 1 of .*\n.*fc1\.lora_A"):
        train_step(trainer, 1, batches)


def test_a_whole_stack_without_gradients_is_counted_and_not_listed() -> None:
    trainer = toy_trainer(toy_adapter())
    count = len([name for name in cut_off(trainer, "model.encoder.") if "lora_B" in name])
    with pytest.raises(UserError, match=rf"(?s){count} of .*… and {count - 10} more"):
        train_step(trainer, 0, micro_batches(toy_windows(4), 4))


@pytest.mark.parametrize(("kind", "part"), [("dora", "magnitude"), ("adalora", "lora_E")])
def test_other_kinds_matrices_have_one_from_the_first_step(kind: str, part: str) -> None:
    model = attach(toy_model(), adapter_config(kind, rank=2), "none", False, 3, total_steps=20)
    trainer = toy_trainer(model)
    names = cut_off(trainer, part)
    with pytest.raises(UserError, match=f"Step 1: {len(names)} of"):
        train_step(trainer, 0, micro_batches(toy_windows(4), 4))


def test_a_tokens_embedding_has_one_too() -> None:
    model = attach(toy_model(), adapter_config(rank=2), "none", False, 3, token_indices=(5,))
    trainer = toy_trainer(model)
    cut_off(trainer, "trainable_tokens_delta")
    with pytest.raises(UserError, match="trainable_tokens_delta"):
        train_step(trainer, 0, micro_batches(toy_windows(4), 4))


def matrix(value: float, gradient: float | None, shape: tuple[int, ...] = (2, 3)) -> nn.Parameter:
    made = nn.Parameter(torch.full(shape, value))
    made.grad = None if gradient is None else torch.full(shape, gradient)
    return made


def test_a_factor_has_none_while_another_is_zero() -> None:
    pruned = {
        "x.fc1.lora_A.default": matrix(1.0, 0.0),
        "x.fc1.lora_B.default": matrix(1.0, None),
        "x.fc1.lora_E.default": matrix(0.0, 1.0),
    }
    assert without_gradient(pruned) == []
    pruned["x.fc1.lora_E.default"] = matrix(0.0, 0.0)
    assert without_gradient(pruned) == ["x.fc1.lora_E.default"]
    pruned["x.fc1.lora_E.default"] = matrix(2.0, 1.0)
    assert without_gradient(pruned) == ["x.fc1.lora_A.default", "x.fc1.lora_B.default"]
    of_no_rank = {"x.fc1.lora_A.default": matrix(1.0, None, (0, 3))}
    assert without_gradient(of_no_rank) == []


def test_after_two_steps_it_looks_no_more() -> None:
    audit, idle = GradientAudit(), {"x.lora_B.default": matrix(1.0, None)}
    fine = {"x.lora_B.default": matrix(1.0, 1.0)}
    audit.check(fine, 0)
    audit.check(fine, 1)
    audit.check(idle, 2)
    with pytest.raises(UserError):
        GradientAudit().check(idle, 2)


def test_steps_that_are_skipped_or_empty_are_not_audited() -> None:
    trainer, good = toy_trainer(toy_adapter()), micro_batches(toy_windows(4), 4)
    train_step(trainer, 0, [])
    broken = [Batch(one.waveforms * math.nan, *list(vars(one).values())[1:]) for one in good]
    assert train_step(trainer, 1, broken).skipped
    assert trainer.audit.steps_left == 2
    train_step(trainer, 2, good)
    assert trainer.audit.steps_left == 1


# ── tokens ───────────────────────────────────────────────────────────────────────────────────

Sequences = tuple[list[int], list[int]]
MULTILINGUAL, ENGLISH = 51865, 51864
TEXTS = st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=9), max_size=3)


@settings(deadline=None)  # making the toy tokenizer takes its time
@given(TEXTS, st.booleans(), st.lists(st.integers(0, 255), max_size=300), st.booleans())
def test_what_windows_are_made_of_is_right(
    texts: list[list[int]], timestamps: bool, previous: list[int], is_english: bool
) -> None:
    _, special_tokens = toy(ENGLISH if is_english else MULTILINGUAL)
    segments = [Segment(text, 2.0 * at, 2.0 * at + 1) for at, text in enumerate(texts)]
    language = None if is_english else "sw"
    made = token_sequence(special_tokens, segments, language, "transcribe", timestamps, previous)
    assert list(token_problems(*made, special_tokens)) == []


def as_the_popular_collator(given: list[int], learnt: list[int]) -> Sequences:
    """It removes the first label if it is the tokenizer's bos, which Whisper's sot is not."""
    labels = torch.tensor([[given[0], *learnt]])
    shifted = shift_tokens_right(labels, pad_token_id=0, decoder_start_token_id=given[0])
    return shifted[0].tolist(), labels[0].tolist()


BROKEN: dict[str, tuple[str, Callable[[list[int], list[int]], Sequences]]] = {
    "doubled start": ("stands 2 times", as_the_popular_collator),
    "no start": ("stands 0 times", lambda given, learnt: (given[1:], learnt[1:])),
    "labels not shifted": (
        "not the token",
        lambda given, learnt: (given, [*given[:-1], learnt[-1]]),
    ),
    "no end": ("not the last", lambda given, learnt: (given[:-1], learnt[:-1])),
    "something in front": ("begins with", lambda given, learnt: ([7, *given], [IGNORED, *learnt])),
    "prompt learnt": ("is learnt", lambda given, learnt: ([50361, *given], [given[0], *learnt])),
    "language not learnt": (
        "is not learnt",
        lambda given, learnt: (given, [IGNORED, *learnt[1:]]),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_said(name: str) -> None:
    message, break_it = BROKEN[name]
    _, special_tokens = toy(MULTILINGUAL)
    segments = [Segment([72, 101, 108], 0.0, 1.0)]
    made = token_sequence(special_tokens, segments, "sw", "transcribe")
    assert message in "; ".join(token_problems(*break_it(*made), special_tokens))


def window(special_tokens: SpecialTokens, texts: list[list[int]], previous: list[int]) -> Window:
    segments = [Segment(text, 0.0, 1.0) for text in texts]
    made = token_sequence(special_tokens, segments, "sw", "transcribe", True, previous)
    return Window(("a:1",), np.zeros(16_000, np.float32), *made)


def test_the_first_batch_is_shown_and_its_tokens_are_checked_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer, special_tokens = toy(MULTILINGUAL)
    said, before = (ids(tokenizer, text) for text in (" one two", " zero"))
    good = collate([window(special_tokens, [said], before)] * 2, special_tokens.eot)
    bad = Batch(good.waveforms, good.decoder_input, good.decoder_input, 2.0, good.rows, ())
    with caplog.at_level("INFO", "lora_whisper"):
        passed = list(checked_start(iter([[good], [good], [bad]]), tokenizer, special_tokens))
    assert len(passed) == 3
    lines = caplog.messages[0].splitlines()
    assert len(caplog.messages) == 1
    assert lines[0] == "first batch 2 windows, 2.0 s of audio; the decoder of the first one"
    assert "  reads     <|startofprev|> zero<|startoftranscript|><|sw|>" in lines[1]
    shown = "".join(line[12:] for line in lines[3:])
    assert shown.startswith(f"({len(before) + 1} not learnt)<|sw|><|transcribe|><|0.00|> one two")
    assert shown.endswith("<|1.00|><|endoftext|>")
    with pytest.raises(AssertionError, match="not the token that the decoder is given next"):
        require_right_tokens([bad], special_tokens)
    with pytest.raises(AssertionError):
        next(checked_start(iter([[bad]]), tokenizer, special_tokens))


@pytest.mark.parametrize("text", ["a" * 500, "\x1b[31m\n\t", "日本語" * 100])
def test_the_shown_text_fits_the_terminal_and_does_not_command_it(text: str) -> None:
    tokenizer, special_tokens = toy(MULTILINGUAL)
    batch = collate([window(special_tokens, [ids(tokenizer, text)], [])], special_tokens.eot)
    lines = as_text([batch], tokenizer).splitlines()
    assert 3 <= len(lines) <= 5
    assert max(map(cell_len, lines)) < 80
    assert all(line.isprintable() for line in lines)
    assert "".join(line[12:] for line in lines).endswith("<|endoftext|>")


# ── sound ────────────────────────────────────────────────────────────────────────────────────


def silent_batch(*remarks: tuple[str, Remark]) -> Batch:
    nothing = torch.empty(0, 0)
    return Batch(nothing, nothing, nothing, 0.0, (), (), remarks=remarks)


def test_the_first_of_each_kind_is_named_unless_it_was_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    audit = SoundAudit("drop", remarked={"short"})
    of_kind = {kind: Remark(kind, "detail") for kind in ("short", "cancelling", "beyond_scale")}
    batches = [
        [silent_batch(("a:1", of_kind["short"]), ("a:2", of_kind["cancelling"]))],
        [
            silent_batch(("a:3", of_kind["cancelling"])),
            silent_batch(("a:4", of_kind["beyond_scale"])),
        ],
    ]
    with caplog.at_level(logging.WARNING):
        assert list(audit.watched(batches)) == batches
    first, second = caplog.messages
    assert "a:2: with channels that cancel each other; read from one of them (detail)" in first
    assert "a:4: with samples beyond full scale" in second
