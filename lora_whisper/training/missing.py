"""What turned out while training went on: sound that is unusable, or that is not as it should be.

Headers, which are read before, had looked sound.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from lora_whisper import processes
from lora_whisper.config import TrainConfig
from lora_whisper.evaluation.scoring import report_bad_audio

if TYPE_CHECKING:
    from lora_whisper.data.audio import Remark
    from lora_whisper.data.batches import Batch
    from lora_whisper.data.windows import BadAudio
    from lora_whisper.training.checkpoints import TrainingState
    from lora_whisper.training.loop import StepResult

    OnLog = Callable[[TrainingState, StepResult], None]

log = logging.getLogger("lora_whisper")


class Missing:
    """Stands before the loop's batches and before its log, and names what is missing between."""

    def __init__(self, config: TrainConfig, remarked: Collection[str] = ()):
        """`remarked`: kinds of remarks that were told before training began."""
        self._config = config
        self._remarked = set(remarked)
        self._of_this_step: list[BadAudio] = []  # in this process

    def noted(self, batches: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        """Pass batches on, and note what is missing from them."""
        for micro_batches in batches:
            self._of_this_step = [one for batch in micro_batches for one in batch.bad]
            for batch in micro_batches:
                for row, remark in batch.remarks:
                    self._remark(row, remark)
            yield micro_batches

    def named_before(self, on_log: OnLog) -> OnLog:
        """Before a step is logged, name what was missing from it, in whichever process."""

        def named(state: TrainingState, result: StepResult) -> None:
            if result.bad_audio:
                self._name(processes.gather(self._of_this_step))
            on_log(state, result)

        return named

    def _remark(self, row: str, remark: Remark) -> None:
        """Name the first of each kind: there may be as many as there are rows."""
        from lora_whisper.data.audio import REMARKS

        if remark.kind not in self._remarked:
            self._remarked.add(remark.kind)
            log.warning(
                "sound       %s: %s (%s). There may be more; lora-whisper check lists them all",
                *(row, REMARKS[remark.kind], remark.detail),
            )

    def _name(self, missing: list[BadAudio]) -> None:
        from lora_whisper.data.windows import LeftOut

        for one in missing:
            if isinstance(one, LeftOut):
                log.warning("left out    %s: %s", one.row, one.reason)
        bad = [one for one in missing if not isinstance(one, LeftOut)]
        report_bad_audio(bad, self._config.data)
