"""What the training loop costs beside the bare forward, backward and optimizer step.

    python -m benchmarks.loop_overhead
    python -m benchmarks.loop_overhead --shape base --steps 40

Both sides train the same adapter on the same batches: random weights at the true shape of
whisper-tiny, 30-second windows of noise, adapters in all linear layers. The bare side has its
log-mel features ready; the loop computes them, clips, audits, counts, logs and shows its progress.
One thread and processor time, so that other work on the machine does not count; the sides take
turns, and who begins changes from step to step. Validation and checkpoints are not in it: they
have benchmarks of their own. Results go to benchmarks/results/loop_overhead.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import WhisperConfig

from benchmarks.parts import new_trainer, random_batches, random_whisper, train_config
from benchmarks.results import write_result
from lora_whisper.config import TrainConfig
from lora_whisper.data.batches import Batch
from lora_whisper.lora.adapter import adapter_parameters, attach
from lora_whisper.model.device import new_accelerator
from lora_whisper.model.published import shape
from lora_whisper.run_folder import RunFolder
from lora_whisper.training.checkpoints import Checkpoints
from lora_whisper.training.display import training_display
from lora_whisper.training.loop import main_loop
from lora_whisper.training.loss import Inputs, find_targets, loss_sum
from lora_whisper.training.recorder import Recorder

WINDOWS, MICRO_BATCH = 2, 1  # of a step; small ones, beside which the loop's own work is largest
WARM_UP_STEPS = 2
TARGET_PERCENT = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {"shape": options.shape} | measured(shape(options.shape), options.steps)
    print(json.dumps(figures, indent=2))
    command = f"python -m benchmarks.loop_overhead --shape {options.shape} --steps {options.steps}"
    print(f"written to {write_result('loop_overhead', command, figures)}")


def measured(whisper: WhisperConfig, steps: int) -> dict[str, Any]:
    """Medians over `steps` steps of each side, after the first ones, which warm up."""
    config = train_config(f"training.global_batch={WINDOWS}")
    batches = random_batches(whisper, WINDOWS, MICRO_BATCH)
    bare = BareStep(whisper, config, batches)
    turns = Turns(bare, WARM_UP_STEPS + steps)
    with tempfile.TemporaryDirectory() as folder:
        carry_out(whisper, config, batches, turns, Path(folder))
    loop, alone = turns.loop[WARM_UP_STEPS:], turns.bare[WARM_UP_STEPS:]
    return {
        "steps": steps,
        "windows_per_step": WINDOWS,
        "micro_batch": MICRO_BATCH,
        "bare_step_seconds": round(statistics.median(alone), 4),
        "loop_step_seconds": round(statistics.median(loop), 4),
        "of_which_log_mel_seconds": round(bare.log_mel_seconds, 4),
        "overhead_percent": percent_more(statistics.median(loop), statistics.median(alone)),
        "overhead_of_the_fastest_steps_percent": percent_more(min(loop), min(alone)),
        "target_percent": TARGET_PERCENT,
    }


def percent_more(one: float, other: float) -> float:
    return round(100 * (one / other - 1), 2)


class BareStep:
    """Forward, backward and optimizer step in the fewest lines, on features that are ready."""

    def __init__(self, whisper: WhisperConfig, config: TrainConfig, batches: list[Batch]):
        model = attach(random_whisper(whisper), config.adapter, "none", False, config.seed)
        trainer = new_trainer(model, config, new_accelerator("fp32"), total_steps=1)
        self.whisper, self.parameters = trainer.whisper, adapter_parameters(model).values()
        self.optimizer = torch.optim.AdamW(self.parameters, 1e-4, fused=True)
        spent: list[float] = []
        for _ in range(WARM_UP_STEPS + 1):
            with stopwatch(spent):
                features = [trainer.features(batch.waveforms) for batch in batches]
        self.log_mel_seconds = spent[-1]
        self.inputs = [
            (mel, batch.decoder_input, batch.labels)
            for mel, batch in zip(features, batches, strict=True)
        ]
        self.target_tokens = sum(batch.target_tokens for batch in batches)

    def __call__(self) -> None:
        for features, decoder_input, labels in self.inputs:
            inputs = Inputs(features, decoder_input, *find_targets(labels))
            loss = loss_sum(self.whisper, inputs)
            (loss / self.target_tokens).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


@contextmanager
def stopwatch(spent: list[float]) -> Iterator[None]:
    """Append the processor time of the block, of all threads."""
    started = time.process_time()
    yield
    spent.append(time.process_time() - started)


@dataclass
class Turns:
    """A loader that does a bare step each time the loop has finished one of its own.

    Between the handing over of a batch and the asking for the next lies the loop's whole step.
    """

    bare_step: Callable[[], None]
    steps: int
    bare: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)

    def loader(self, batches: list[Batch]) -> Iterator[list[Batch]]:
        for step in range(self.steps):
            bare_is_first = step % 2 == 0
            if bare_is_first:
                self._bare_turn()
            with stopwatch(self.loop):
                yield batches
            if not bare_is_first:
                self._bare_turn()
        yield batches  # the run's last step is not measured: nobody asks for the next

    def _bare_turn(self) -> None:
        with stopwatch(self.bare):
            self.bare_step()


def carry_out(
    whisper: WhisperConfig, config: TrainConfig, batches: list[Batch], turns: Turns, folder: Path
) -> None:
    """Run the loop as `train` does, with its recorder and its display."""
    model = attach(random_whisper(whisper), config.adapter, "none", False, config.seed)
    total_steps = turns.steps + 1
    trainer = new_trainer(model, config, new_accelerator("fp32"), total_steps)
    run = RunFolder(folder)
    with Checkpoints(run.checkpoints, total_steps, 1, 1, config_hash="") as checkpoints:
        recorder = Recorder(
            folder=run,
            trainer=trainer,
            checkpoints=checkpoints,
            steps_per_epoch=None,
            validation=None,
            decode_validation=None,
        )
        state = recorder.resume()
        with training_display(total_steps, 0) as recorder.display:
            loader = turns.loader(batches)
            main_loop(trainer, loader, state, recorder.log, recorder.validate, recorder.checkpoint)


if __name__ == "__main__":
    main()
