"""One step and the loop: what is trained, on what, and by which loss."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lora_whisper.data.batches import Batch
from lora_whisper.data.windows import IGNORED, BadAudio
from lora_whisper.errors import UserError
from lora_whisper.training.checkpoints import TrainingState
from lora_whisper.training.loop import forward, main_loop, mean_loss, train_step
from lora_whisper.training.loss import token_loss_sum
from lora_whisper.training.stopping import Stopped
from tests.training.parts import micro_batches, toy_adapter, toy_trainer, toy_windows


def snapshot(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def trained(micro_batch: int, steps: int = 3) -> tuple[dict[str, Tensor], list[float]]:
    model = toy_adapter()
    trainer = toy_trainer(model)
    losses = []
    for step in range(steps):
        batches = micro_batches(toy_windows(seed=step), micro_batch)
        losses.append(train_step(trainer, step, batches).loss)
    return {name: value.detach() for name, value in trainer.parameters.items()}, losses


def test_accumulation_changes_nothing() -> None:
    """1×8, 2×4, 4×2 and 8×1 give the same losses and the same adapter, with unequal clips."""
    adapter, losses = trained(8)
    for size in (4, 2, 1):
        other, other_losses = trained(size)
        assert other_losses == pytest.approx(losses, rel=1e-5)
        for name, value in adapter.items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=2e-6)


def test_the_loss_is_pytorchs_mean_over_all_tokens_of_the_batch() -> None:
    """Not the mean of the clips' means, which differs on these windows."""
    model, windows = toy_adapter(), toy_windows()
    trainer = toy_trainer(model)
    whisper = trainer.whisper
    sums, clip_means, tokens = 0.0, [], 0
    for (batch,) in (micro_batches([window], 1) for window in windows):
        logits = whisper(
            input_features=trainer.features(batch.waveforms),
            decoder_input_ids=batch.decoder_input,
        ).logits
        mean = torch.nn.functional.cross_entropy(logits[0], batch.labels[0]).item()
        clip_means.append(mean)
        sums += mean * batch.labels.shape[1]
        tokens += batch.labels.shape[1]
    result = train_step(trainer, 0, micro_batches(windows, 4))
    assert result.loss == pytest.approx(sums / tokens, rel=1e-5)
    assert abs(result.loss - sum(clip_means) / len(clip_means)) > 1e-3
    assert result.target_tokens == tokens


def test_padding_is_not_learnt() -> None:
    labels = torch.tensor([1, IGNORED, 2])
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    changed = logits.clone()
    changed[1] += 7
    assert token_loss_sum(logits, labels) == token_loss_sum(changed, labels)
    assert token_loss_sum(logits.bfloat16(), labels).dtype == torch.float32


def test_the_first_step_moves_every_b_and_nothing_else_the_second_every_a() -> None:
    model = toy_adapter()
    trainer = toy_trainer(model)
    before = snapshot(model)
    train_step(trainer, 0, micro_batches(toy_windows(), 4))
    after_one = snapshot(model)
    changed = {name for name in before if not torch.equal(before[name], after_one[name])}
    assert changed == {name for name in trainer.parameters if "lora_B" in name}
    train_step(trainer, 1, micro_batches(toy_windows(), 4))
    after_two = snapshot(model)
    changed = {name for name in before if not torch.equal(before[name], after_two[name])}
    assert changed == set(trainer.parameters)


def test_the_same_seed_gives_the_same_adapter_dropout_included() -> None:
    def run(seed: int) -> dict[str, Tensor]:
        trainer = toy_trainer(toy_adapter(dropout=0.5), seed=seed)
        for step in range(2):
            torch.rand(step + 1)  # what was drawn before has no say
            train_step(trainer, step, micro_batches(toy_windows(), 4))
        return {name: value.detach() for name, value in trainer.parameters.items()}

    first, again, other = run(1), run(1), run(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_gradients_are_clipped_to_the_norm() -> None:
    """AdamW's first step does not feel a scale, so the clipped gradient itself is looked at."""
    windows = toy_windows()
    free = train_step(toy_trainer(toy_adapter()), 0, micro_batches(windows, 8))
    trainer = toy_trainer(toy_adapter(), max_gradient_norm=free.gradient_norm / 10)
    seen = []
    trainer.optimizer.zero_grad = lambda: seen.extend(
        value.grad.clone() for value in trainer.parameters.values() if value.grad is not None
    )
    clipped = train_step(trainer, 0, micro_batches(windows, 8))
    assert clipped.gradient_norm == pytest.approx(free.gradient_norm, rel=1e-5)
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in seen))
    assert norm == pytest.approx(free.gradient_norm / 10, rel=1e-3)


def test_windows_without_audio_are_counted_and_left_out() -> None:
    trainer = toy_trainer(toy_adapter())
    good = micro_batches(toy_windows(4), 4)
    empty = dataclasses.replace(
        good[0],
        rows=(),
        labels=torch.empty(0, 0),
        audio_seconds=0.0,
        bad=(BadAudio("a:1", "broken"),),
    )
    alone = train_step(toy_trainer(toy_adapter()), 0, good)
    result = train_step(trainer, 0, [empty, *good])
    assert result.bad_audio == 1
    assert result.loss == alone.loss


def test_mean_loss_is_the_loss_of_a_step_and_trains_nothing() -> None:
    model = toy_adapter()
    trainer, batches = toy_trainer(model), micro_batches(toy_windows(), 2)
    before = snapshot(model)
    loss = mean_loss(trainer, [batches[:1], batches[1:]])
    assert all(torch.equal(before[name], value) for name, value in snapshot(model).items())
    assert loss == pytest.approx(train_step(trainer, 0, batches).loss, rel=1e-6)


class Calls:
    """Callbacks of the loop that note when they were called."""

    def __init__(self) -> None:
        self.logged: list[int] = []
        self.validated: list[int] = []
        self.saved: list[int] = []

    def run(self, steps: int, loader: Iterator[list[Batch]], **changes: int) -> TrainingState:
        state = TrainingState()
        trainer = toy_trainer(toy_adapter(), total_steps=steps, **changes)
        main_loop(
            trainer,
            loader,
            state,
            lambda state, result: self.logged.append(state.step),
            lambda state: self.validated.append(state.step),
            lambda state: self.saved.append(state.step),
        )
        return state


def test_the_loop_validates_and_saves_when_due_and_at_the_end() -> None:
    calls = Calls()
    batches = micro_batches(toy_windows(2), 2)
    state = calls.run(7, iter([batches] * 7), validate_every_steps=3, checkpoint_every_steps=2)
    assert calls.logged == [1, 2, 3, 4, 5, 6, 7]
    assert calls.validated == [3, 6, 7]
    assert calls.saved == [2, 4, 6, 7]
    assert state.audio_seconds == pytest.approx(7 * batches[0].audio_seconds)
    assert state.train_seconds > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_within_the_step_and_keeps_its_code(number: int, code: int) -> None:
    def loader() -> Iterator[list[Batch]]:
        yield micro_batches(toy_windows(2), 2)
        os.kill(os.getpid(), number)
        yield micro_batches(toy_windows(2), 2)
        raise AssertionError("the loop went on")

    before = signal.getsignal(number)
    calls = Calls()
    with pytest.raises(Stopped) as stop:
        calls.run(9, loader())
    assert calls.saved == [2]
    assert stop.value.exit_code == code
    assert signal.getsignal(number) is before


def test_the_forward_pass_projects_targets_only() -> None:
    """Selecting before the projection gives the loss of projecting everything."""
    trainer = toy_trainer(toy_adapter())
    (batch,) = micro_batches(toy_windows(3), 3)
    logits = trainer.whisper(
        input_features=trainer.features(batch.waveforms), decoder_input_ids=batch.decoder_input
    ).logits
    everywhere = token_loss_sum(logits.flatten(0, 1), batch.labels.flatten())
    torch.testing.assert_close(forward(trainer, batch), everywhere)
