"""AdaLoRA's ranks fall to what was asked for, and a run that goes on gives out the same ones."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from lora_whisper.lora import validation, variants
from lora_whisper.lora.adalora import RankSchedule, rank_schedule_of
from lora_whisper.lora.adapter import adapter_parameters, attach, save_adapter
from lora_whisper.lora.saved import read_saved
from lora_whisper.model.checkpoint import Checkpoint
from tests.configs import adapter_config
from tests.toys import toy_inputs, toy_model

RANK, LAYERS, STEPS = 2, 2 * 6 + 2 * 10, 12
BASE = Checkpoint("owner/toy", None, "owner/toy")


def adalora(**constants: float) -> PeftModel:
    """Three ranks a layer, going down to two on average, in allocations of every other step."""
    config = adapter_config("adalora", rank=RANK, alpha=6.0)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ({"INTERVAL_STEPS": 2} | constants).items():
            patch.setattr(validation if name == "FINAL_SHARE" else variants, name, value)
        return attach(toy_model(), config, "none", False, 0, total_steps=STEPS).train()


class Run:
    """What `train_step` does with a schedule, on one batch."""

    def __init__(self, model: PeftModel):
        found = rank_schedule_of(model)
        assert found is not None
        self.model, self.schedule = model, found
        self.parameters = adapter_parameters(model)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), 3e-2)
        self.totals: list[int] = []  # ranks of all layers, after each step

    def go(self, steps: range, skipped: tuple[int, ...] = ()) -> None:
        for step in steps:
            (self._loss() + self.schedule.regularization()).backward()
            if step not in skipped:
                self.optimizer.step()
                self.schedule.update(step)
            self.optimizer.zero_grad()
            self.totals.append(sum(self.schedule.ranks().values()))

    def _loss(self) -> Tensor:
        inputs = toy_inputs()
        found = self.model(**inputs, use_cache=False).logits.flatten(0, 1)
        return torch.nn.functional.cross_entropy(found, inputs["decoder_input_ids"].flatten())


@pytest.fixture(scope="module")
def whole() -> Run:
    """All steps, in one go."""
    run = Run(adalora())
    run.go(range(STEPS))
    return run


def test_the_regularization_is_what_peft_adds_to_a_loss_of_the_model() -> None:
    model = adalora(ORTHOGONALITY_WEIGHT=0.3)
    schedule = rank_schedule_of(model)
    assert schedule is not None
    inputs = toy_inputs()
    # Of PEFT's wrappers only the inner one adds the term, and nothing calls it in training.
    stock = model.base_model(**inputs, labels=inputs["decoder_input_ids"], use_cache=False)
    alone = torch.nn.functional.cross_entropy(
        stock.logits.flatten(0, 1), inputs["decoder_input_ids"].flatten()
    )
    torch.testing.assert_close(schedule.regularization(), stock.loss - alone, rtol=1e-5, atol=1e-6)
    schedule.regularization().backward()
    for name, value in adapter_parameters(model).items():
        assert (value.grad is not None) == ("lora_E" not in name)


def test_ranks_fall_to_their_mean_and_stay(whole: Run) -> None:
    """The first step keeps its ranks, and so do the last three."""
    assert whole.totals[0] == LAYERS * math.ceil(1.5 * RANK)
    assert whole.totals[3] < whole.totals[0], "in an allocation before the last one"
    assert whole.totals[-4:] == [LAYERS * RANK] * 4
    assert len(set(whole.schedule.ranks().values())) > 1, "some layers keep more than others"


@pytest.mark.parametrize(
    ("final_share", "skipped"),
    [(0.0, ()), (0.3, (8,)), (0.3, (8, 9))],
    ids=["no final share", "the last allocation's step was skipped", "so was the next"],
)
def test_the_last_allocation_is_made(final_share: float, skipped: tuple[int, ...]) -> None:
    run = Run(adalora(FINAL_SHARE=final_share, INTERVAL_STEPS=100))
    run.go(range(STEPS), skipped)
    assert run.totals[-1] == LAYERS * RANK


def test_a_step_without_a_window_takes_nothing_away() -> None:
    run = Run(adalora())
    run.go(range(3))
    before = run.schedule.ranks()
    for step in range(3, STEPS):
        run.schedule.update(step)
    assert run.schedule.ranks() == before


@pytest.mark.parametrize("stopped", [5, 10], ids=["between", "after the allocations"])
def test_a_run_that_goes_on_is_the_same_to_the_bit(stopped: int, whole: Run) -> None:
    first, second = Run(adalora()), Run(adalora())
    first.go(range(stopped))
    second.schedule.load_state_dict(written_and_read(first.schedule))
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    with torch.no_grad():
        for name, value in second.parameters.items():
            value.copy_(first.parameters[name])
    second.go(range(stopped, STEPS))
    assert second.totals == whole.totals[stopped:]
    for name, value in second.parameters.items():
        assert torch.equal(value, whole.parameters[name]), name


def written_and_read(schedule: RankSchedule) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(schedule.state_dict(), buffer)
    buffer.seek(0)
    found: dict[str, Any] = torch.load(buffer, weights_only=True)
    return found


def test_what_is_left_of_each_layer_ships(whole: Run, tmp_path: Path) -> None:
    save_adapter(whole.model, tmp_path, BASE)
    assert read_saved(tmp_path).ranks == {
        path: rank for path, rank in whole.schedule.ranks().items() if rank > 0
    }


def test_other_kinds_have_no_schedule() -> None:
    assert rank_schedule_of(attach(toy_model(), adapter_config(), "none", False, 0)) is None
