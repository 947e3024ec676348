"""`summary.json`: what a run gave, and what of it is still true.

Scores are those of the weights and test sets that are there.
"""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lora_whisper.evaluation.provenance import differences, is_of, texts_hash
from lora_whisper.evaluation.results import (
    CapabilityCard,
    Json,
    Score,
    ScoredUtterance,
    WordScores,
    from_json,
    to_json,
)
from lora_whisper.files import read_jsonl, write_json
from lora_whisper.lora.provenance import is_trained_adapter
from lora_whisper.lora.recipe import Recipe, has_other_weights, is_same, merged_recipe
from lora_whisper.lora.saved import adapter_hashes
from lora_whisper.model.checkpoint import merged_hashes
from lora_whisper.paths import program, short
from lora_whisper.run_folder import (
    HYPOTHESES,
    MODELS,
    OWN_SET,
    RunFolder,
    damaged_summary,
    read_whole_summary,
)

log = logging.getLogger("lora_whisper")
BRING_BACK = "The run did not train what lies there: bring it back from a copy"


@dataclass(frozen=True)
class Averaging:
    """Whether the mean of several checkpoints was better than the best of them."""

    steps: tuple[int, ...]  # of the checkpoints, in their order
    ships: bool  # whether the mean is the run's adapter
    rank: int = 0  # the highest of its layers
    svd_error: float = 0.0  # Frobenius norm of what the SVD lost over that of all; 0 without one
    validation_wer: float | None = None
    validation_wer_of_best: float | None = None  # of the best one alone


@dataclass(frozen=True)
class EncoderCache:
    """What a frozen encoder made of the training windows, computed once and read in each step."""

    layers: int  # of the encoder, from the first on, that were not computed in the steps
    dtype: str  # that their activations were kept in, of whole windows
    windows: int
    size_bytes: int
    seconds: float = 0.0  # that computing them took beside train_seconds; 0: they were there


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run gave; what older versions did not write is None or as it was then."""

    format: int = 1  # SUMMARY_FORMAT of the version that wrote it
    name: str
    finished: str | None = None  # when training was, in UTC
    checkpoint: str
    checkpoint_fingerprint: str
    checkpoint_sha256: str | None = None  # of its weights, wherever they were taken from
    base_dtype: str | None = None  # before it was quantized
    quantization: str = "none"
    base: Score | None
    adapter: Score | None
    merged: Score | None = None
    adapter_bytes: int
    adapter_sha256: str | None = None  # of what was trained, whatever lies there later
    adapter_settings_sha256: str | None = None
    adapter_ranks: tuple[int, int] | None = None  # of what ships: lowest and highest
    model_bytes: int
    trainable_parameters: int
    total_parameters: int
    languages: tuple[str, ...]
    prompt: Mapping[str, str]  # what `generate` is to be told
    words: Mapping[str, WordScores] = field(default_factory=dict)  # by model, of the last list
    utterances: Mapping[str, int]  # by split
    test_speakers: int
    test_speakers_in_training: int
    test_texts_in_training: int | None = None  # utterances whose text is; None: not looked for
    windows: str | None = None  # data.windows
    encoder_cache: EncoderCache | None = None  # None: the whole encoder was computed in each step
    train_audio_seconds: float  # 0: of a stream
    train_audio_seconds_seen: float
    train_seconds: float  # validation included
    validation_seconds: float | None = None
    scoring_seconds: float | None = None  # with the card; since it last went on
    resident_memory_bytes: int | None = None  # the highest
    gpu_memory_bytes: int | None = None
    steps: int
    ended_early: bool = False
    skipped_steps: int = 0
    adapter_step: int  # the best one
    left_out: Mapping[str, Mapping[str, int]]  # split → reason → rows
    bad_audio: int
    seed: int
    environment: Mapping[str, Any]
    versions: Mapping[str, str]
    averaging: Averaging | None = None
    card: CapabilityCard | None = None  # of the adapter
    merge: Mapping[str, Any] | None = None  # the recipe of what was merged
    more: Mapping[str, Any] = field(default_factory=dict)  # keys of other versions, as they are

    @property
    def scores(self) -> dict[str, Score | None]:
        """By MODELS."""
        return {"base": self.base, "adapter": self.adapter, "merged": self.merged}

    @property
    def shipped_mean(self) -> Averaging | None:
        """What ships, where it is the mean of several checkpoints."""
        return self.averaging if self.averaging and self.averaging.ships else None

    def with_scores(self, scores: Mapping[str, Score | None]) -> RunSummary:
        """With other scores for some of MODELS."""
        known = self.scores | dict(scores)
        return replace(self, base=known["base"], adapter=known["adapter"], merged=known["merged"])

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunSummary:
        """Raises ValueError, see `results.from_json`."""
        known = {one.name for one in fields(cls)} - {"more"}
        more = {key: value for key, value in values.items() if key not in known}
        return replace(from_json(cls, values), more=more)

    def to_json(self) -> Json:
        """What is not known is left out, as it was by the version that did not know it."""
        values = to_json(replace(self, more={}))
        del values["more"]
        if not self.words:
            del values["words"]
        known = {key: value for key, value in values.items() if value is not None or key in ALWAYS}
        return known | dict(self.more)


BEYOND_ANYTHING = 1e15  # parameters, bytes and seconds are fewer
ALWAYS = (*MODELS, "averaging")  # null says that there is none


def read_as_written(folder: RunFolder) -> RunSummary:
    """What summary.json says, whether or not it is still true.

    Raises:
        UserError: it was damaged or edited since.
    """
    values = read_whole_summary(folder)
    try:
        summary = RunSummary.from_json(values)
    except ValueError as error:
        raise damaged_summary(folder) from error
    if not (_is_of_its_counts(summary.scores.values()) and _is_within_reach(values)):
        raise damaged_summary(folder)
    return summary


def _is_of_its_counts(scores: Iterable[Score | None]) -> bool:
    """Whether each WER is what its errors and words give: one that was typed in seldom is."""
    for score in filter(None, scores):
        errors = score.substitutions + score.insertions + score.deletions
        words = score.reference_words
        if words and not math.isclose(score.wer * words, errors, abs_tol=1e-3):
            return False
    return True


def _is_within_reach(value: Any) -> bool:
    """Whether no number is larger than anything that is counted or measured here."""
    if isinstance(value, Mapping | list):
        parts = value.values() if isinstance(value, Mapping) else value
        return all(map(_is_within_reach, parts))
    return not isinstance(value, int | float) or abs(value) < BEYOND_ANYTHING


def write_summary(folder: RunFolder, summary: RunSummary) -> None:
    """Which makes a run complete."""
    write_json(folder.summary, summary.to_json())


def read_summary(folder: RunFolder) -> RunSummary:
    """What summary.json says, without what is not true any more.

    Killed or edited in between, a run's folder can hold other weights than those that were scored,
    or scores of different test sets. Such a score is left out, and that is said.
    """
    summary = read_as_written(folder)
    is_merged_by_others = _has_other_weights(folder, summary)
    for model in ("adapter", "merged"):
        if summary.scores[model] and not _is_of_what_is_there(folder, summary, model):
            place = getattr(folder, model)
            why = f"is of other weights or settings than those in {short(place)}"
            advice = _again(folder)
            if model == "merged" and is_merged_by_others:
                advice = _again(folder, "merge")
            elif model == "adapter" and not is_trained_adapter(folder):
                advice = BRING_BACK
            summary = _without(summary, model, why, advice)
    return with_one_test_set(folder, summary)


def _has_other_weights(folder: RunFolder, summary: RunSummary) -> bool:
    of = summary.merged.of if summary.merged else None  # which older scores lack
    return has_other_weights(folder, summary.merge, of.weights if of else {})


def _is_of_what_is_there(folder: RunFolder, summary: RunSummary, model: str) -> bool:
    place: Path = getattr(folder, model)
    score = summary.scores[model]
    if not place.is_dir() or score is None:
        return True
    if score.of is not None:
        return is_of(score, adapter_hashes(place) if model == "adapter" else merged_hashes(place))
    if model == "adapter" or summary.merge is None:  # all that older versions knew
        return True
    return merged_recipe(folder) in (None, summary.merge)


def is_unfinished(recipe: Recipe) -> bool:
    """Whether merged/ is just what is asked for, and a killed process had not scored it."""
    run = recipe.folder
    made_of = merged_recipe(run) if run.is_complete() else None
    if made_of is None or not is_same(made_of, recipe.to_dict()):
        return False
    if _has_other_weights(run, read_as_written(run)):
        return False
    summary = read_summary(run)
    is_known = is_same(summary.merge or {}, recipe.to_dict())
    return not is_known or (summary.adapter is not None and summary.merged is None)


def scored_utterances_of(folder: RunFolder, model: str, score: Score) -> list[ScoredUtterance]:
    """The lines behind a score of the run's own test set; none where they are gone, or of others.

    An evaluation that was killed has left new lines beside the summary of the one before. Lines of
    another version are taken for none.
    """
    file = folder.evaluation / model / OWN_SET / HYPOTHESES
    lines = read_jsonl(file)
    normalized = (str(line.get("reference_normalized")) for line in lines)
    # Which older scores lack.
    if score.of is not None and texts_hash(normalized) != score.of.references:
        what = f"{len(lines)} rows are not those of its score" if lines else "is missing or empty"
        log.warning("not shown   %s: %s. %s", short(file), what, _again(folder))
        return []
    try:
        return [from_json(ScoredUtterance, line) for line in lines]
    except ValueError:
        return []


def with_one_test_set(folder: RunFolder, summary: RunSummary) -> RunSummary:
    """The same, with scores that compare with the adapter's alone."""
    adapter = summary.adapter
    for model in ("base", "merged"):
        score = summary.scores[model]
        if adapter and score and (changes := differences(adapter, score)):
            why = (
                f"and the adapter's are of different test sets or decodings ({'; '.join(changes)})"
            )
            summary = _without(summary, model, why, _again(folder))
    return summary


def _without(summary: RunSummary, model: str, why: str, advice: str) -> RunSummary:
    log.warning("left out    the %s's score %s. %s", model, why, advice)
    words = {name: scores for name, scores in summary.words.items() if name != model}
    return replace(summary.with_scores({model: None}), words=words)


def _again(folder: RunFolder, command: str = "evaluate") -> str:
    typed = shlex.join([f"run={short(folder.path)}", "overwrite=true"])
    return f"Type {program()} {command} {typed}"
