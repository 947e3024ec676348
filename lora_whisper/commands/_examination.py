"""What `evaluate` finds out: every model on every set, and then beyond the average."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper import processes
from lora_whisper.commands._listening import Listening
from lora_whisper.commands._models import Contender, vocabulary_of
from lora_whisper.commands._scoring import report_bad_audio, write_scored
from lora_whisper.commands._test_sets import Role, TestSet
from lora_whisper.config import Dtype, EvaluationConfig, RescoringConfig
from lora_whisper.data.corpus import Corpus, load_corpus, sample, with_codes
from lora_whisper.data.table import Utterances
from lora_whisper.errors import UserError

if TYPE_CHECKING:
    import torch

    from lora_whisper.data.vocabulary import Vocabulary
    from lora_whisper.evaluation.decoding import Hypotheses
    from lora_whisper.evaluation.rows import ScoredRow
    from lora_whisper.evaluation.score import Score

log = logging.getLogger("lora_whisper")

MISTAKES = 20  # of each kind that are kept
BRIEF = ("wer", "wer_ci95", "cer", "cer_ci95", "leading", "utterances")  # of a score in a condition


@dataclass(frozen=True)
class Plan:
    """What was asked for, as far as it can be known before anything is decoded."""

    contenders: Sequence[Contender]
    sets: Sequence[TestSet]
    settings: EvaluationConfig
    more: RescoringConfig
    conditions: Sequence[str]
    keywords: Sequence[str]
    seed: int
    dtype: Dtype


@dataclass(frozen=True)
class Speech:
    """A set whose audio is there."""

    set: TestSet
    corpus: Corpus

    @property
    def name(self) -> str:
        return self.set.name

    @property
    def role(self) -> Role:
        return self.set.role


@dataclass
class Findings:
    """By set and model (or as named), what evaluation.json holds."""

    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    mistakes: dict[str, dict[str, Any]] = field(default_factory=dict)
    keywords: dict[str, dict[str, Any]] = field(default_factory=dict)
    hallucination: dict[str, dict[str, Any]] = field(default_factory=dict)
    comparisons: dict[str, dict[str, Any]] = field(default_factory=dict)
    conditions: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)  # by model
    scales: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by model
    failed: dict[str, str] = field(default_factory=dict)  # by model: why
    storage: dict[str, dict[str, str]] = field(default_factory=dict)  # by model: dtype, fingerprint
    rows: dict[str, dict[str, Sequence[ScoredRow]]] = field(default_factory=dict)


def prepare(sets: Sequence[TestSet], most: int | None, seed: int) -> list[Speech]:
    """Look at the audio of all sets; recordings of any length are heard.

    Args:
        most: utterances of a set, drawn; None: all.

    Raises:
        UserError: audio that is missing, where `data.bad_audio` is "fail".
    """
    prepared = []
    for one in sets:
        rows = one.rows if one.role == "training" else sample(one.rows, most, seed)
        try:
            prepared.append(Speech(one, load_corpus(rows, "test", one.data, float("inf"))))
        except UserError as error:
            if one.role != "training":
                raise
            log.warning("training    is not scored: %s", error)
    return prepared


class Examination:
    """All models of a plan on all of its speech; what was found is in `findings`."""

    def __init__(self, plan: Plan, speech: Sequence[Speech], folder: Path, device: torch.device):
        self.plan, self.speech, self.folder, self.device = plan, speech, folder, device
        self.findings = Findings()

    def carry_out(self) -> Findings:
        """Examine the models one after the other; one that is broken does not stop the others."""
        from lora_whisper.evaluation.recognizer import BrokenModel

        for contender in self.plan.contenders:
            try:
                self._examine(contender)
            except BrokenModel as error:
                log.error("%-11s %s", contender.name, error)
                self.findings.failed[contender.name] = str(error)
        self._compare()
        return self.findings

    def _examine(self, contender: Contender) -> None:
        listening = Listening(contender, self.plan.dtype, self.device, self.plan.more.cache)
        storage = processes.from_main(lambda: listening.storage)
        self.findings.storage[contender.name] = storage
        try:
            self._listen(contender, listening)
        finally:
            listening.close()

    def _listen(self, contender: Contender, listening: Listening) -> None:
        vocabulary = vocabulary_of(contender)
        speech = [(one, with_codes(one.corpus, vocabulary).utterances) for one in self.speech]
        for one, utterances in speech:
            self._score(contender, listening, one, utterances, vocabulary)
        tests = [(one, utterances) for one, utterances in speech if one.role == "test"]
        for one, utterances in tests:
            for condition in self.plan.conditions:
                self._score_in(condition, contender, listening, one, utterances, vocabulary)
        self._probe(contender, listening, tests[0][1])
        if contender.adapter is not None:
            self._scale(contender, listening, speech, vocabulary)

    # ── scores ───────────────────────────────────────────────────────────────────────────────

    def _score(
        self,
        contender: Contender,
        listening: Listening,
        speech: Speech,
        utterances: Utterances,
        vocabulary: Vocabulary,
    ) -> None:
        from lora_whisper.evaluation.hallucination import find_runaways
        from lora_whisper.evaluation.keywords import keyword_recall
        from lora_whisper.evaluation.mistakes import find_mistakes

        name, plan, found = contender.name, self.plan, self.findings
        title = f"scoring {name} on {speech.name}"
        settings = self._settings(speech, utterances)
        heard, is_known = listening.hear(title, utterances, settings, plan.seed)
        report_bad_audio(heard.bad, speech.set.data)
        score, rows = self._judged(utterances, heard, vocabulary, settings)
        folder = self.folder / name / speech.name
        values = write_scored(score, rows, folder, is_known)
        _put(found.scores, speech.name, name, values)
        _put(found.rows, speech.name, name, rows)
        _put(found.hallucination, speech.name, name, dataclasses.asdict(find_runaways(rows)))
        _put(found.mistakes, speech.name, name, find_mistakes(rows, MISTAKES).to_dict())
        if plan.keywords and speech.role == "test":
            recall = keyword_recall(rows, plan.keywords, settings.bootstrap_samples, plan.seed)
            _put(found.keywords, speech.name, name, recall.to_dict())

    def _judged(
        self,
        utterances: Utterances,
        heard: Hypotheses,
        vocabulary: Vocabulary,
        settings: EvaluationConfig,
    ) -> tuple[Score, list[ScoredRow]]:
        from lora_whisper.evaluation.judging import judge

        seed = self.plan.seed
        return processes.from_main(lambda: judge(utterances, heard, vocabulary, settings, seed))

    def _settings(self, speech: Speech, utterances: Utterances) -> EvaluationConfig:
        """Groups are of the test sets, and there of those that have the column."""
        asked = self.plan.settings.group_by if speech.role == "test" else ()
        known = tuple(name for name in asked if has_group(utterances, name))
        return dataclasses.replace(self.plan.settings, group_by=known)

    # ── beyond the average ───────────────────────────────────────────────────────────────────

    def _score_in(
        self,
        condition: str,
        contender: Contender,
        listening: Listening,
        speech: Speech,
        utterances: Utterances,
        vocabulary: Vocabulary,
    ) -> None:
        """Score the set in another condition, beside the clean one."""
        settings = dataclasses.replace(self.plan.settings, group_by=())
        title = f"scoring {contender.name} on {speech.name}, {condition}"
        heard, is_known = listening.hear(
            title, utterances, settings, self.plan.seed, condition=condition
        )
        score, rows = self._judged(utterances, heard, vocabulary, settings)
        name = f"{speech.name}-{condition}"
        folder = self.folder / contender.name / name
        values = write_scored(score, rows, folder, is_known)
        conditions = self.findings.conditions.setdefault(speech.name, {})
        clean = self.findings.scores[speech.name][contender.name]
        _put(conditions, "clean", contender.name, _brief(clean))
        _put(conditions, condition, contender.name, _brief(values))

    def _probe(self, contender: Contender, listening: Listening, utterances: Utterances) -> None:
        """Listen to sound without speech, told the language and task of the first utterance."""
        from lora_whisper.evaluation.probes import make_probes, probed

        clips, first = self.plan.more.probe_clips, utterances[0]
        if not clips:
            return
        language = first.language_token or first.language
        seconds = listening.window_seconds
        probes = make_probes(clips, seconds, language, first.task, self.plan.seed)
        title = f"probing {contender.name}"
        heard, _ = listening.hear(title, probes, self.plan.settings, self.plan.seed)
        self.findings.probes[contender.name] = {
            kind: dataclasses.asdict(one) for kind, one in probed(probes, heard.texts).items()
        }

    def _scale(
        self,
        contender: Contender,
        listening: Listening,
        speech: Sequence[tuple[Speech, Utterances]],
        vocabulary: Vocabulary,
    ) -> None:
        """Score parts of the adapter: what is gained on the tests, what is lost elsewhere."""
        settings = dataclasses.replace(self.plan.settings, group_by=())
        for scale in self.plan.more.adapter_scales:
            scores = {}
            for one, utterances in speech:
                if one.role == "training":
                    continue
                title = f"scoring {contender.name} × {scale:g} on {one.name}"
                heard, _ = listening.hear(title, utterances, settings, self.plan.seed, scale=scale)
                score, _ = self._judged(utterances, heard, vocabulary, settings)
                scores[one.name] = _brief(score.to_dict())
            point = {"scale": scale, "scores": scores}
            self.findings.scales.setdefault(contender.name, []).append(point)

    # ── comparisons ──────────────────────────────────────────────────────────────────────────

    def _compare(self) -> None:
        """Every model with the first one, utterance by utterance."""
        from lora_whisper.evaluation.comparison import compare

        first, *others = [one.name for one in self.plan.contenders]
        samples = self.plan.settings.bootstrap_samples
        for name, of_models in self.findings.rows.items():
            for other in others:
                if {first, other} <= of_models.keys():
                    found = compare(of_models[first], of_models[other], samples, self.plan.seed)
                    values = found.to_dict() | {"against": first}
                    _put(self.findings.comparisons, name, other, values)


def _put(place: dict[str, dict[str, Any]], first: str, second: str, value: Any) -> None:
    place.setdefault(first, {})[second] = value


def _brief(score: Mapping[str, Any]) -> dict[str, Any]:
    return {name: score[name] for name in BRIEF}


def has_group(utterances: Utterances, name: str) -> bool:
    """Whether a set can be broken down by a column."""
    from lora_whisper.evaluation.groups import group_labels

    try:
        group_labels(utterances, (name,))
    except UserError:
        return False
    return True
