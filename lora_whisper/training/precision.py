"""What `training.precision=auto` is on a CPU: tried out when a run begins, and kept with the run.

bfloat16 is faster where the processor multiplies it (AVX-512 BF16, AMX), and slower than float32 by
an order of magnitude where it does not, so it is timed. What was found stands in the run's
config.yaml: a run that goes on computes as it began, whatever its new machine is good at.
"""

from __future__ import annotations

import dataclasses
import logging

from lora_whisper import processes
from lora_whisper.config import Precision, TrainConfig
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import RunFolder

log = logging.getLogger("lora_whisper")

LEAST_GAIN = 1.25  # of linear layers; for less, nobody should have to ask what rounding did


def with_recorded_precision(config: TrainConfig, folder: RunFolder) -> TrainConfig:
    """With the precision that a run began with, where none is asked for and it goes on.

    Raises:
        UserError: the run's config.yaml is damaged.
    """
    is_open = config.training.precision == "auto" and not config.overwrite
    if not (is_open and folder.config.is_file()):
        return config
    return _with_precision(config, read_config(folder).training.precision)


def with_tried_precision(config: TrainConfig, width: int) -> TrainConfig:
    """With the faster one, of a run that begins on a CPU and leaves it open.

    Narrow models stay in float32: what a layer takes there is not its product.

    Only the main process tries, so that all have the same.

    Args:
        width: of the model.
    """
    from lora_whisper.model.cpu_kernels import LEAST_WIDTH
    from lora_whisper.model.device import bf16_gain, trains_on_cpu

    is_open = config.training.precision == config.model.dtype == "auto"
    if not is_open or config.quantization.kind != "none" or width < LEAST_WIDTH:
        return config
    if not trains_on_cpu():
        return config
    gain = processes.from_main(lambda: bf16_gain(width))
    precision: Precision = "bf16" if gain >= LEAST_GAIN else "fp32"
    log.info(
        "precision   %s: linear layers take %.2g times as long in fp32 as in bf16 on this CPU",
        precision,
        gain,
    )
    return _with_precision(config, precision)


def _with_precision(config: TrainConfig, precision: Precision) -> TrainConfig:
    training = dataclasses.replace(config.training, precision=precision)
    return dataclasses.replace(config, training=training)
