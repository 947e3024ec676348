"""One step and the loop: what is trained, on what, and by which loss."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lora_whisper import processes
from lora_whisper.data.batches import Batch
from lora_whisper.data.windows import IGNORED, BadAudio
from lora_whisper.errors import UserError
from lora_whisper.lora.adapter import attach
from lora_whisper.training import loop, micro_batch
from lora_whisper.training.checkpoint_files import TrainingState
from lora_whisper.training.loop import (
    StepResult,
    Trainer,
    main_loop,
    mean_loss,
    train_step,
)
from lora_whisper.training.loss import loss_sum
from lora_whisper.training.optim import new_optimizer
from lora_whisper.training.stopping import Stopped
from tests.configs import adapter_config, optimizer_config
from tests.launched import together
from tests.toys import toy_model
from tests.training.parts import (
    Gradients,
    descent,
    forward,
    micro_batches,
    note_gradients,
    require_same,
    sizes,
    toy_adapter,
    toy_trainer,
    toy_windows,
    with_memory_for,
)


def snapshot(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def trained(micro_batch: int, positions: int | None = None) -> tuple[list[float], list[Gradients]]:
    """The losses and gradients of some steps."""
    trainer = toy_trainer(toy_adapter(), new_optimizer=descent, rate=1.0)
    losses, gradients = [], note_gradients(trainer)
    for step in range(3):
        windows = micro_batches(toy_windows(seed=step), micro_batch)
        batches = [dataclasses.replace(batch, positions=positions) for batch in windows]
        losses.append(train_step(trainer, step, batches).loss)
    return losses, gradients


@pytest.mark.parametrize("positions", [None, 99], ids=["whole", "trimmed"])
def test_accumulation_changes_nothing(positions: int | None) -> None:
    """1×8, 2×4, 4×2 and 8×1 give the same losses and gradients, with unequal clips."""
    losses, gradients = trained(8, positions)
    for size in (4, 2, 1):
        other_losses, other_gradients = trained(size, positions)
        assert other_losses == pytest.approx(losses, rel=1e-5)
        require_same(other_gradients, gradients)


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
    assert loss == pytest.approx(train_step(trainer, 0, batches).loss, rel=1e-5)


class Calls:
    """Callbacks of the loop that note when they were called."""

    def __init__(self) -> None:
        self.logged: list[int] = []
        self.validated: list[int] = []
        self.saved: list[int] = []
        self.state = TrainingState()
        self.on_validate: Callable[[TrainingState], object] = lambda state: None

    def run(self, steps: int, loader: Iterable[list[Batch]], **changes: Any) -> TrainingState:
        main_loop(
            toy_trainer(toy_adapter(), total_steps=steps, **changes),
            loader,
            self.state,
            lambda state, result: self.logged.append(state.step),
            self._validate,
            lambda state: self.saved.append(state.step),
        )
        return self.state

    def _validate(self, state: TrainingState) -> None:
        self.validated.append(state.step)
        self.on_validate(state)


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
def test_a_signal_saves_the_last_whole_step_and_keeps_its_code(number: int, code: int) -> None:
    def loader() -> Iterator[list[Batch]]:
        yield micro_batches(toy_windows(2), 2)
        os.kill(os.getpid(), number)
        yield micro_batches(toy_windows(2), 2)
        raise AssertionError("the loop went on")

    before = signal.getsignal(number)
    calls = Calls()
    with pytest.raises(Stopped, match="at step 1 of 9") as stop:
        calls.run(9, loader())
    assert calls.saved == [1]
    assert stop.value.exit_code == code
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("micro_step", [1, 2, 4])
def test_a_signal_ends_a_step_after_its_micro_batch_as_if_it_had_not_begun(
    micro_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapter, optimizer and count are those of the step before; a whole step is taken."""
    trainer, states, calls = toy_trainer(toy_adapter(dropout=0.5)), [], list[int]()
    batches = micro_batches(toy_windows(8), 2)

    def signalled(*given: Any) -> Tensor:
        calls.append(1)
        if len(calls) == len(batches) + micro_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss_sum(*given)

    def values() -> dict[str, Any]:
        moments = trainer.optimizer.state_dict()["state"]
        return {**trainer.parameters, **{f"{key}": moments[key]["exp_avg"] for key in moments}}

    def noted(*_: object) -> None:
        states.append({name: value.detach().clone() for name, value in values().items()})

    monkeypatch.setattr(loop, "loss_sum", signalled)
    state = TrainingState()
    with pytest.raises(Stopped):
        main_loop(trainer, iter([batches] * 3), state, noted, noted, noted)
    assert len(calls) == len(batches) + micro_step
    taken = 2 if micro_step == len(batches) else 1
    assert state.step == taken
    assert all(torch.equal(states[taken - 1][name], value) for name, value in values().items())
    assert all(value.grad is None for value in trainer.parameters.values())


def test_the_forward_pass_projects_targets_only() -> None:
    """Selecting before the projection gives the loss of projecting all but padding."""
    trainer = toy_trainer(toy_adapter())
    (batch,) = micro_batches(toy_windows(3), 3)
    logits = trainer.whisper(
        input_features=trainer.features(batch.waveforms), decoder_input_ids=batch.decoder_input
    ).logits
    everywhere = nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    assert (batch.labels == IGNORED).any()
    torch.testing.assert_close(forward(trainer, batch), everywhere, rtol=1e-5, atol=0)


# ── steps that are not finite ────────────────────────────────────────────────────────────────


def silent(batches: list[Batch]) -> list[Batch]:
    """Sound that is no number, and so the loss."""
    return [dataclasses.replace(one, waveforms=one.waveforms * math.nan) for one in batches]


def optimizer_state(trainer: Trainer) -> list[Tensor]:
    moments = [trainer.optimizer.state[one] for one in trainer.parameters.values()]
    return [value.clone() for one in moments for value in one.values()]


def test_a_step_that_is_not_finite_leaves_adapter_and_moments_alone() -> None:
    trainer, good = toy_trainer(toy_adapter()), micro_batches(toy_windows(4), 2)
    train_step(trainer, 0, good)
    before, moments = snapshot(trainer.whisper), optimizer_state(trainer)
    assert train_step(trainer, 1, [*silent(good[:1]), *good[1:]]).skipped
    matrix = next(value for name, value in trainer.parameters.items() if "lora_B" in name)
    hook = matrix.register_hook(lambda gradient: gradient * math.inf)
    result = train_step(trainer, 2, good)
    assert result.skipped
    assert math.isfinite(result.loss)
    hook.remove()
    after = snapshot(trainer.whisper)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(map(torch.equal, moments, optimizer_state(trainer)))
    assert not train_step(trainer, 3, good).skipped


def test_an_infinite_loss_is_skipped_though_its_gradients_are_finite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer, good = toy_trainer(toy_adapter()), micro_batches(toy_windows(4), 2)
    monkeypatch.setattr(loop, "loss_sum", lambda *given: loss_sum(*given) + math.inf)
    before, result = snapshot(trainer.whisper), train_step(trainer, 0, good)
    assert result.skipped
    assert math.isfinite(result.gradient_norm)
    after = snapshot(trainer.whisper)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_three_in_a_row_stop_the_run_and_fewer_are_counted() -> None:
    good = micro_batches(toy_windows(2), 2)
    bad = silent(good)
    calls = Calls()
    with pytest.raises(UserError, match="Step 8 is the third in a row") as stop:
        calls.run(9, [good, bad, bad, good, good, bad, bad, bad], checkpoint_every_steps=4)
    assert calls.saved == [4]
    assert "The last checkpoint, of step 4, is sound" in str(stop.value)
    assert "optimizer.learning_rate=0.005" in str(stop.value)
    assert (calls.state.skipped_steps, calls.state.skipped_in_a_row) == (5, 3)
    assert calls.logged == list(range(1, 9)), "skipped steps are logged too"


def test_skipped_windows_of_all_processes_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All of them: any may be the one with the broken sound."""
    others = [f"other:{index}" for index in range(9)]
    monkeypatch.setattr(
        loop.processes, "gather", lambda mine: mine if mine == [None] else [*mine, *others]
    )
    calls, good = Calls(), micro_batches(toy_windows(2), 2)
    with caplog.at_level("WARNING", "lora_whisper"):
        state = calls.run(2, [silent(good), good])
    assert "step 1 skipped: loss nan" in caplog.text
    assert all(row in caplog.text for row in ["toy:0", "toy:1", *others])
    assert (state.skipped_steps, state.skipped_in_a_row) == (1, 0)


def in_fp16(trainer: Trainer, scale: float) -> Trainer:
    """As accelerate arranges it on a GPU: autocast to fp16, and a scaler of the loss."""
    accelerator = trainer.accelerator
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    accelerator.state._mixed_precision = "fp16"  # the next accelerator begins with another state
    accelerator.scaler, accelerator.native_amp = scaler, True
    optimizer = accelerator.prepare_optimizer(trainer.optimizer.optimizer)
    accelerator._optimizers = [optimizer]
    return dataclasses.replace(trainer, optimizer=optimizer)


def test_fp16s_own_overflow_is_the_scalers_business() -> None:
    trainer = in_fp16(toy_trainer(toy_adapter()), scale=2.0**30)
    scaler, good = trainer.accelerator.scaler, micro_batches(toy_windows(4), 2)
    before, result = snapshot(trainer.whisper), train_step(trainer, 0, good)
    assert not math.isfinite(result.gradient_norm)
    assert not result.skipped, "the loss is finite"
    assert scaler.get_scale() == 2.0**29
    after = snapshot(trainer.whisper)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_overflows_in_fp16_unscaled_says_something_against_the_run() -> None:
    """Else a gradient that is never finite would be tried for days with ever smaller scales."""
    trainer = in_fp16(toy_trainer(toy_adapter()), scale=2.0)
    good = micro_batches(toy_windows(4), 2)
    broken = next(iter(trainer.parameters.values()))
    broken.register_hook(lambda gradient: torch.full_like(gradient, math.nan))
    assert [train_step(trainer, step, good).skipped for step in range(3)] == [False, True, True]


def test_fp16_goes_on_after_a_loss_that_is_no_number() -> None:
    trainer = in_fp16(toy_trainer(toy_adapter()), scale=8.0)
    good = micro_batches(toy_windows(4), 2)
    assert train_step(trainer, 0, silent(good)).skipped
    assert train_step(trainer, 1, []).target_tokens == 0
    before, result = snapshot(trainer.whisper), train_step(trainer, 2, good)
    assert math.isfinite(result.gradient_norm)
    assert not all(
        torch.equal(before[name], new) for name, new in snapshot(trainer.whisper).items()
    )


def test_a_step_without_a_window_moves_nothing() -> None:
    """Nor do the moments of the steps before, by which several processes would differ from one."""
    trainer, good = toy_trainer(toy_adapter()), micro_batches(toy_windows(4), 2)
    train_step(trainer, 0, good)
    before = snapshot(trainer.whisper)
    result = train_step(trainer, 1, [])
    assert (result.target_tokens, result.skipped, result.loss) == (0, False, 0.0)
    assert all(torch.equal(before[name], new) for name, new in snapshot(trainer.whisper).items())


# ── out of memory ────────────────────────────────────────────────────────────────────────────


def test_out_of_memory_halves_the_micro_batch_and_does_the_step_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The gradients of what did fit are not counted twice: the steps are those of enough memory."""
    steps = [[*micro_batches(toy_windows(7, seed), 5)] for seed in (0, 1)]  # 5 and 2 windows
    steps[0].reverse()  # the one that fits comes first
    trainer = toy_trainer(toy_adapter(), new_optimizer=descent, rate=1.0)
    expected = note_gradients(trainer)
    losses = [train_step(trainer, step, batches).loss for step, batches in enumerate(steps)]
    tried = with_memory_for(2, loop, monkeypatch)
    trainer = toy_trainer(toy_adapter(), new_optimizer=descent, rate=1.0)
    gradients = note_gradients(trainer)
    with caplog.at_level("WARNING", "lora_whisper"):
        found = [train_step(trainer, step, batches).loss for step, batches in enumerate(steps)]
    assert sizes(tried) == [2, 5, 2, 2, 2, 1, 2, 2, 1, 2]
    assert "out of memory; going on with 2 windows in a micro-batch" in caplog.text
    assert found == pytest.approx(losses, rel=1e-5)
    require_same(gradients, expected)


def test_validation_keeps_to_the_smaller_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, batches = toy_trainer(toy_adapter()), micro_batches(toy_windows(4), 4)
    tried = with_memory_for(2, loop, monkeypatch)
    train_step(trainer, 0, batches)
    tried.clear()
    mean_loss(trainer, [batches])
    assert sizes(tried) == [2, 2]


def test_memory_for_not_even_one_window_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = with_memory_for(0, loop, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        train_step(toy_trainer(toy_adapter()), 0, micro_batches(toy_windows(4), 4))
    assert sizes(tried) == [4, 2, 1]


# ── AdaLoRA and LoRA+ ────────────────────────────────────────────────────────────────────────


def adalora_trainer() -> Trainer:
    config = adapter_config("adalora", rank=2)
    model = attach(toy_model(), config, "none", False, seed=3, total_steps=10)
    return toy_trainer(model)


def test_adaloras_term_is_added_once_however_the_batch_is_split() -> None:
    """It is no mean over windows: added in each micro-batch, it would count four times."""
    windows = toy_windows()
    norms = {}
    for size in (8, 2):
        trainer = adalora_trainer()
        norms[size] = train_step(trainer, 0, micro_batches(windows, size)).gradient_norm
        a_matrix = next(value for name, value in trainer.parameters.items() if "lora_A" in name)
        assert trainer.optimizer.state[a_matrix]["exp_avg"].any(), "only that term reaches A"
    assert norms[8] == pytest.approx(norms[2], rel=1e-5)


def test_ranks_are_not_weighed_by_a_skipped_step() -> None:
    trainer = adalora_trainer()
    updated: list[int] = []
    ranks = trainer.rank_schedule
    assert ranks is not None
    ranks.update = updated.append
    good = micro_batches(toy_windows(4), 2)
    for step, batches in enumerate([good, silent(good), [], good]):
        train_step(trainer, step, batches)
    assert updated == [0, 3]


def test_lora_plus_gives_b_its_own_rate() -> None:
    """AdamW's first step is as long as the rate, whatever the gradient: B's shows it."""
    moved = {}
    for ratio in (1.0, 4.0):
        model = toy_adapter()
        schedule = optimizer_config(lora_plus_ratio=ratio, warmup=0.0, schedule="constant")
        trainer = toy_trainer(model)
        optimizer = new_optimizer(trainer.parameters, schedule, 1e-2)
        trainer = dataclasses.replace(trainer, optimizer=optimizer, optimizer_settings=schedule)
        train_step(trainer, 0, micro_batches(toy_windows(4), 4))
        moved[ratio] = next(v.abs().max() for n, v in trainer.parameters.items() if "lora_B" in n)
    assert moved[1.0].item() == pytest.approx(1e-2, rel=1e-3)
    assert moved[4.0].item() == pytest.approx(4e-2, rel=1e-3)


# ── the end of a run ─────────────────────────────────────────────────────────────────────────


def test_patience_ends_the_run_with_a_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    calls = Calls()

    def no_better(state: TrainingState) -> None:
        state.validations_without_gain += state.step != 2  # the second one was the best

    calls.on_validate = no_better
    batches = micro_batches(toy_windows(2), 2)
    settings = {"validate_every_steps": 1, "patience": 3, "checkpoint_every_steps": 100}
    with caplog.at_level("INFO", "lora_whisper"):
        state = calls.run(9, [batches] * 9, **settings)
    assert state.step == 4
    assert calls.saved == [4]
    assert "training ends at step 4 of 9: 3 validations in a row" in caplog.text
    calls.run(9, iter([]), **settings)
    assert state.step == 4, "a run that goes on from there has nothing left to train"


def test_a_validation_that_a_signal_broke_off_is_done_when_the_run_goes_on() -> None:
    calls, batches = Calls(), micro_batches(toy_windows(2), 2)

    def interrupted(state: TrainingState) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("validated to the end")

    calls.on_validate = interrupted
    with pytest.raises(Stopped):
        calls.run(4, [batches] * 4, validate_every_steps=2)
    assert (calls.saved, calls.state.validation_due) == ([2], True)
    calls.on_validate = lambda state: None
    state = calls.run(4, [batches] * 2, validate_every_steps=2)
    assert calls.validated == [2, 2, 4]
    assert calls.saved == [2, 4]
    assert not state.validation_due


def test_a_signal_in_the_last_validation_does_not_get_lost() -> None:
    calls, batches = Calls(), micro_batches(toy_windows(2), 2)
    calls.on_validate = lambda state: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopped):
        calls.run(2, [batches] * 2)
    assert calls.saved == [2]


# ── what one process of several meets ────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Troubled:
    """What came of some steps in one of two processes."""

    results: list[StepResult]
    limit: int | None
    fitting: int
    matrices: list[np.ndarray]


def troubled() -> Troubled:
    """The second process holds two windows at a time, and in step 2 its sound is no number."""
    is_second = processes.rank() == 1
    trainer = toy_trainer(toy_adapter(), global_batch=8)

    patches = pytest.MonkeyPatch()
    for module in (loop, micro_batch):
        with_memory_for(2 if is_second else 99, module, patches)
    fitting = micro_batch.fitting_micro_batch(trainer)
    results = []
    for step in range(4):
        batches = micro_batches(toy_windows(8, step)[processes.rank() :: processes.count()], 4)
        is_bad = is_second and step == 2
        results.append(train_step(trainer, step, silent(batches) if is_bad else batches))
    matrices = [value.detach().numpy() for value in trainer.parameters.values()]
    return Troubled(results, trainer.limit.windows, fitting, matrices)


def test_what_one_process_meets_does_not_part_them() -> None:
    """Out of memory is its own affair; a step that is not finite is skipped by all."""
    trainer = toy_trainer(toy_adapter())
    alone = [train_step(trainer, step, micro_batches(toy_windows(8, step), 8)) for step in (0, 1)]
    both = together(2, troubled)
    for one in both:
        assert [result.skipped for result in one.results] == [False, False, True, False]
        losses = [result.loss for result in one.results[:2]]
        assert losses == pytest.approx([result.loss for result in alone], rel=1e-5)
        assert one.fitting == 2, "all take what the smallest memory holds"
        assert all(map(np.array_equal, one.matrices, both[0].matrices))
    assert [one.limit for one in both] == [None, 2]
