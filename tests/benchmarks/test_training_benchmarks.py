"""The benchmarks of the training loop run, at toy size; what they measure is not looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_memory, gpu_training
from benchmarks.commands import last_step
from benchmarks.loop_memory import medians
from benchmarks.loop_overhead import BareStep, Turns, carry_out
from benchmarks.parts import new_trainer, random_batches, random_whisper, train_config
from lora_whisper.lora.adapter import attach
from lora_whisper.model.device import new_accelerator
from lora_whisper.training.loop import train_step
from tests.toys import toy_config


def test_the_sides_take_turns_and_the_loop_does_all_its_steps(tmp_path: Path) -> None:
    config, batches = train_config(), random_batches(toy_config(), 2, 1)
    order: list[str] = []
    turns = Turns(lambda: order.append("bare"), steps=4)
    logged = tmp_path / "metrics.jsonl"
    carry_out(toy_config(), config, batches, turns, tmp_path)
    assert len(order) == len(turns.bare) == len(turns.loop) == 4
    assert json.loads(logged.read_text().splitlines()[-1])["step"] == 5, "one more, not measured"


def test_both_sides_compute_the_same_gradients() -> None:
    config, batches = train_config("adapter.dropout=0.0"), random_batches(toy_config(), 2, 1)
    bare = BareStep(toy_config(), config, batches)
    model = attach(random_whisper(toy_config()), config.adapter, "none", False, config.seed)
    trainer = new_trainer(model, config, new_accelerator("fp32"), total_steps=1)
    seen: list[list[torch.Tensor]] = []
    for optimizer, parameters in (
        (bare.optimizer, bare.parameters),
        (trainer.optimizer, trainer.parameters.values()),
    ):
        optimizer.zero_grad = lambda ours=parameters: seen.append([value.grad for value in ours])
    bare()
    train_step(trainer, 0, batches)
    unclipped, clipped = (torch.cat([one.flatten() for one in grads]) for grads in seen)
    limit = config.optimizer.max_gradient_norm
    torch.testing.assert_close(clipped, unclipped * min(1.0, limit / unclipped.norm().item()))


def test_only_whole_lines_of_metrics_count(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert last_step(metrics) == 0
    metrics.write_text('{"step": 5, "loss_per_token": 1}\n{"step": 10, "lo')
    assert last_step(metrics) == 5


def test_sections_stand_in_the_order_of_the_run() -> None:
    assert medians({2: [9.0], 0: [1.0, 3.0, 2.0]}) == [2.0, 9.0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_nothing_is_said_to_be_measured() -> None:
    rows = gpu_training.table_rows("large-v3", ["none", "nf4"])
    assert rows.keys() == {"none", "nf4"}
    assert {figure for row in rows.values() for figure in row.values()} == {"not measured"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_memory_is_planned_and_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_memory, "shape", lambda name: toy_config())
    rows = gpu_memory.shape_rows("toy", ["nf4"])
    assert len(rows) == 2 * len(gpu_memory.MICRO_BATCHES)
    assert {row["reserved_gigabytes"] for row in rows} == {"not measured"}
    assert all(row["planned_gigabytes"] > 0 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_no_clip_length_is_said_to_be_measured() -> None:
    rows = gpu.rows_of("large-v3", ["none"], [5.0, 30.0])
    assert rows.keys() == {"none, 5 s", "none, 30 s"}
    assert {figure for row in rows.values() for figure in row.values()} == {"not measured"}


def test_the_recipes_loop_and_ours_train_on_the_same_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_training, "shape", lambda name: toy_config())
    monkeypatch.setattr(gpu, "shape", lambda name: toy_config())
    monkeypatch.setattr(gpu, "MARGIN_POSITIONS", 10)
    checkpoint = gpu_training.random_checkpoint(tmp_path, "toy")
    config = train_config("adapter.rank=2", "adapter.dropout=0.0")
    trainer = gpu_training.loaded(checkpoint, "none", config)
    padded = random_batches(toy_config(), 4, 2, clip_seconds=0.5)
    trimmed = gpu.trimmed_batches("toy", 4, 2, 0.5)
    assert [len(batch.rows) for batch in trimmed] == [4]
    assert trimmed[0].audio_seconds == sum(batch.audio_seconds for batch in padded) == 2.0
    few, more = (gpu.flops_of(trainer, config, batches) for batches in (trimmed, padded))
    assert few < more
    before = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    gpu.recipe_step(trainer, padded)
    assert any((value != before[name]).any() for name, value in trainer.parameters.items())


@pytest.mark.parametrize("quantization", gpu_training.QUANTIZATIONS)
def test_each_row_loads_and_trains(
    quantization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_training, "shape", lambda name: toy_config())
    checkpoint = gpu_training.random_checkpoint(tmp_path, "toy")
    config = train_config(f"quantization={quantization}")
    trainer = gpu_training.loaded(checkpoint, quantization, config)
    result = train_step(trainer, 0, random_batches(toy_config(), 2, 2))
    assert result.audio_seconds == 4.0
    assert not result.skipped
