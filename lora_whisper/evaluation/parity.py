"""What trying an export gives, as parity.json keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from lora_whisper.evaluation.results import Json, Rate, Score, to_json


@dataclass(frozen=True)
class OtherPadding:
    """What a model loses or gains where it is padded as other programs do."""

    padding: str
    difference: float
    identical: int  # texts


@dataclass(frozen=True)
class ParityResult:
    """An export beside the model that it has to agree with."""

    consumer: str  # the program that the export was tried in
    skipped: str  # the program that could not
    unusual: str  # why
    padding: str
    utterances: int
    reference: str  # the model that it has to agree with
    rate: Rate
    difference: float
    tolerance: float
    is_within: bool
    identical: int  # texts
    identical_share: float
    other_padding: OtherPadding
    scores: Mapping[str, Score]  # of the models, and of the export, which comes last
    differing: tuple[Mapping[str, str], ...]  # some of the texts that are not the same
    below: ParityResult | None = None  # the same weights without the program around them

    def to_json(self) -> Json:
        values = to_json(dataclasses.replace(self, below=None))
        del values["below"]
        values["scores"] = {
            model: {key: score[key] for key in PARITY_SCORE if key in score}
            for model, score in values["scores"].items()
        }
        return values | ({"below": self.below.to_json()} if self.below else {})


PARITY_SCORE = (
    *("wer", "wer_ci95", "cer", "cer_ci95", "leading", "units", "normalizer", "utterances", "of"),
    *("audio_seconds", "decode_seconds"),
)
