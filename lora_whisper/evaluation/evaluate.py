"""What `evaluate` is asked for, checked before anything is decoded; and what it finds out: every
model on every set, and then beyond the average.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper import processes
from lora_whisper.cli.compose import defaults
from lora_whisper.config import (
    CLEAN,
    Dtype,
    EvaluateConfig,
    EvaluationConfig,
    RescoringConfig,
    TrainConfig,
)
from lora_whisper.data.corpus import Corpus, load_corpus, sample, with_codes
from lora_whisper.data.dataset import Utterances
from lora_whisper.errors import UserError
from lora_whisper.evaluation.loading import (
    Listening,
    base_of,
    require_files,
    vocabulary_of,
    weights_of,
)
from lora_whisper.evaluation.models import Contender, contenders_of_run, find_contenders
from lora_whisper.evaluation.scoring import report_bad_audio, write_scored
from lora_whisper.evaluation.test_sets import Role, TestSet, read_test_sets
from lora_whisper.lora.recipe import require_current
from lora_whisper.paths import local_path
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import RECIPE_FILE
from lora_whisper.terminal import counted

if TYPE_CHECKING:
    import torch

    from lora_whisper.evaluation.results import ScoredRow
    from lora_whisper.evaluation.score import Score


log = logging.getLogger("lora_whisper")

MISTAKES = 20  # of each kind that are kept
UNKNOWN = {"dtype": "–", "fingerprint": "–"}  # of a model that was never loaded
BRIEF = (
    "wer",
    "wer_ci95",
    "cer",
    "cer_ci95",
    "leading",
    "utterances",
    "of",
)  # of a score in a condition


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


def make_plan(config: EvaluateConfig) -> Plan:
    """Find models, sets and word list; settings are a run's own, with the changes asked for.

    With `run=`, that run's test set and settings are meant; with `models=[…]`, those of the only
    run among them, where `data` and `evaluation` say nothing.

    Raises:
        UserError: something is not there, or does not go together.
    """
    from lora_whisper.evaluation.robustness import chosen_conditions

    contenders = (
        contenders_of_run(config.run, config.base)
        if config.run
        else find_contenders(config.models, config.allow_pickle, config.base)
    )
    for contender in contenders:
        if not contender.broken:
            require_files(contender)
        run = contender.run  # whose merged model says, but for older versions, what it is made of
        if run is not None and contender.kind == "merged" and (run.merged / RECIPE_FILE).is_file():
            require_current(run)
    contenders = [_opened(one, config.base is not None) for one in contenders]
    if all(one.broken or one.kind == "base" for one in contenders):
        raise UserError("\n".join(one.broken for one in contenders if one.broken))
    trained = _only_run(contenders)
    settings = settings_for(config, trained)
    usual_seed = trained.seed if trained else defaults("train")["seed"]
    seed = usual_seed if config.seed is None else config.seed
    sets = read_test_sets(config, trained, settings, seed)
    _require_groups(config.evaluation.group_by, sets)
    for contender in contenders:
        if not contender.broken:
            _require_able(contender, config, settings, sets)
    return Plan(
        contenders=contenders,
        sets=sets,
        settings=settings,
        more=config.evaluation,
        conditions=chosen_conditions(config.evaluation.conditions, settings.padding),
        keywords=_keywords(config, settings),
        seed=seed,
        dtype=config.dtype,
    )


def has_group(utterances: Utterances, name: str) -> bool:
    """Whether a set can be broken down by a column."""
    from lora_whisper.evaluation.test_sets import group_labels

    try:
        group_labels(utterances, (name,))
    except UserError:
        return False
    return True


def _opened(contender: Contender, has_other_base: bool) -> Contender:
    """With the reason where its adapter is unsound: the others are scored all the same.

    Raises:
        UserError: the base that was typed is not the one that it was trained on.
    """
    from lora_whisper.lora.provenance import require_base
    from lora_whisper.lora.saved import open_adapter
    from lora_whisper.lora.targets import layer_shapes
    from lora_whisper.lora.validation import require_shapes
    from lora_whisper.model.base import load_config

    if contender.adapter is None or contender.broken:
        return contender
    checkpoint = base_of(contender).checkpoint
    try:
        saved = open_adapter(contender.adapter)
        require_shapes(saved, layer_shapes(load_config(checkpoint)))
    except UserError as error:
        return dataclasses.replace(contender, broken=str(error))
    if has_other_base:
        named = dataclasses.replace(checkpoint, key="base")
        require_base(saved, contender.name, named, "Type base=… with the base that it was made on.")
    return contender


def _only_run(contenders: Sequence[Contender]) -> TrainConfig | None:
    """The configuration of the run that is scored; of several, nobody knows whose is meant."""
    runs = {one.run.path: one.run for one in contenders if one.run is not None}
    return read_config(*runs.values()) if len(runs) == 1 else None


def _keywords(config: EvaluateConfig, settings: EvaluationConfig) -> Sequence[str]:
    """The word list; one that a run had and that is gone is done without."""
    from lora_whisper.evaluation.diagnostics import read_keywords

    if settings.keywords is None:
        return ()
    try:
        return read_keywords(local_path(settings.keywords))
    except UserError as error:
        if config.evaluation.keywords is not None:
            raise
        log.warning("keywords    %s", error)
        return ()


def _require_able(
    contender: Contender,
    config: EvaluateConfig,
    settings: EvaluationConfig,
    sets: Sequence[TestSet],
) -> None:
    """See that a model can do what is asked of it, before another one has done it for an hour.

    Raises:
        UserError: a language that its tokenizer lacks; drawing, with CTranslate2; parts of an
            adapter that is no sum with the weights.
    """
    from lora_whisper.lora.saved import read_saved, require_sum

    try:
        for one in sets:
            with_codes(Corpus(one.rows, {}), vocabulary_of(contender))
        if config.evaluation.adapter_scales and contender.adapter is not None:
            require_sum(read_saved(contender.adapter))
        if settings.temperature_fallback and contender.folder is not None:
            raise UserError(
                "CTranslate2 cannot draw the same tokens twice, so that no score could be "
                "repeated. Type evaluation.temperature_fallback=false"
            )
    except UserError as error:
        raise UserError(f"{contender.name}: {error}") from error


def settings_for(config: EvaluateConfig, trained: TrainConfig | None) -> EvaluationConfig:
    """How a run was scored, or without one the defaults, with the changes asked for."""
    return config.evaluation.applied_to(trained.evaluation if trained else EvaluationConfig())


def _require_groups(asked: Sequence[str] | None, sets: Sequence[TestSet]) -> None:
    """See that a column which was asked for now, and not by an old run, is in some test set."""
    from lora_whisper.evaluation.test_sets import group_labels

    tests = [one.rows for one in sets if one.role == "test"]
    for name in asked or ():
        is_measured_later = name == "duration"
        if not is_measured_later and not any(has_group(rows, name) for rows in tests):
            group_labels(tests[0], (name,))  # says what there is


@dataclass(frozen=True)
class Judged:
    """A model's score on a set, the lines behind it, what it is of, and whether it was decoded
    before."""

    score: Score
    rows: Sequence[ScoredRow]
    of: Mapping[str, Any]
    is_known: bool

    def written(self, folder: Path) -> dict[str, Any]:
        """Write them; return what score.json holds."""
        return write_scored(self.score, self.rows, self.of, folder, self.is_known)

    def to_dict(self) -> dict[str, Any]:
        return self.score.to_dict() | {"of": self.of}


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

    @property
    def count(self) -> int:
        return len(self.corpus.utterances)


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


def prepare_speech(sets: Sequence[TestSet], most: int | None, seed: int) -> list[Speech]:
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


def announce(plan: Plan, speech: Sequence[Speech]) -> None:
    """What is about to be heard by whom."""
    for one in plan.contenders:
        storage = "" if one.quantization.kind == "none" else f", {one.quantization.kind}"
        kind = "" if one.kind == one.name else f"{one.kind} "
        log.info("model       %s: %s%s%s", one.name, kind, one.what, storage)
    for each in speech:
        utterances = counted(each.count, "utterance")
        hours = each.corpus.hours
        log.info("%-11s %s: %s, %.2f h", each.role, each.name, utterances, hours)


class Examination:
    """All models of a plan on all of its speech; what was found is in `findings`."""

    def __init__(self, plan: Plan, speech: Sequence[Speech], folder: Path, device: torch.device):
        self.plan, self.speech, self.folder, self.device = plan, speech, folder, device
        self.findings = Findings()

    def carry_out(self) -> Findings:
        """Examine the models one after the other; one that is broken does not stop the others."""
        from lora_whisper.evaluation.decoding.decoder import BrokenModel

        for contender in self.plan.contenders:
            try:
                if contender.broken:
                    self.findings.storage[contender.name] = UNKNOWN
                    raise BrokenModel(contender.broken)
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
            self._listen(listening)
        finally:
            listening.close()

    def _listen(self, listening: Listening) -> None:
        sets = [
            (one, with_codes(one.corpus, listening.vocabulary).utterances) for one in self.speech
        ]
        for one, utterances in sets:
            self._score(listening, one, utterances)
        tests = [(one, utterances) for one, utterances in sets if one.role == "test"]
        for one, utterances in tests:
            for condition in self.plan.conditions:
                self._score_in(condition, listening, one, utterances)
        self._probe(listening, tests[0][1])
        if listening.contender.adapter is not None:
            self._scale(listening, sets)

    def _judged(
        self,
        listening: Listening,
        speech: Speech,
        utterances: Utterances,
        settings: EvaluationConfig,
        condition: str = CLEAN,
        scale: float = 1.0,
    ) -> Judged:
        """Decode a set, or take what was decoded before, and score it."""
        from lora_whisper.evaluation.provenance import provenance
        from lora_whisper.evaluation.score import judge

        seed, name = self.plan.seed, listening.contender.name
        part = "" if scale == 1.0 else f" × {scale:g}"
        where = speech.name if condition == CLEAN else f"{speech.name}, {condition}"
        title = f"scoring {name}{part} on {where}"
        heard, is_known = listening.hear(title, utterances, settings, seed, condition, scale)
        if condition == CLEAN and scale == 1.0:
            report_bad_audio(heard.bad, speech.set.data)
        score, rows = processes.from_main(
            lambda: judge(utterances, heard, listening.vocabulary, settings, seed)
        )
        vocabulary, weights = listening.vocabulary, weights_of(listening.contender, scale)
        of = processes.from_main(
            lambda: provenance(weights, utterances, vocabulary, settings, seed, condition)
        )
        return Judged(score, rows, of, is_known)

    # ── scores ───────────────────────────────────────────────────────────────────────────────

    def _score(self, listening: Listening, speech: Speech, utterances: Utterances) -> None:
        from lora_whisper.evaluation.diagnostics import find_mistakes, find_runaways, keyword_recall

        name, plan, found = listening.contender.name, self.plan, self.findings
        settings = self._settings(speech, utterances)
        judged = self._judged(listening, speech, utterances, settings)
        rows = judged.rows
        _put(found.scores, speech.name, name, judged.written(self.folder / name / speech.name))
        _put(found.rows, speech.name, name, rows)
        _put(found.hallucination, speech.name, name, dataclasses.asdict(find_runaways(rows)))
        _put(found.mistakes, speech.name, name, find_mistakes(rows, MISTAKES).to_dict())
        if plan.keywords and speech.role == "test":
            recall = keyword_recall(rows, plan.keywords, settings.bootstrap_samples, plan.seed)
            _put(found.keywords, speech.name, name, recall.to_dict())

    def _settings(self, speech: Speech, utterances: Utterances) -> EvaluationConfig:
        """Groups are of the test sets, and there of those that have the column."""
        asked = self.plan.settings.group_by if speech.role == "test" else ()
        known = tuple(name for name in asked if has_group(utterances, name))
        return dataclasses.replace(self.plan.settings, group_by=known)

    # ── beyond the average ───────────────────────────────────────────────────────────────────

    def _score_in(
        self, condition: str, listening: Listening, speech: Speech, utterances: Utterances
    ) -> None:
        """Score the set in another condition, beside the clean one."""
        from lora_whisper.evaluation.robustness import settings_in

        name, settings = listening.contender.name, settings_in(condition, self._ungrouped)
        judged = self._judged(listening, speech, utterances, settings, condition)
        values = judged.written(self.folder / name / f"{speech.name}-{condition}")
        conditions = self.findings.conditions.setdefault(speech.name, {})
        _put(conditions, CLEAN, name, _brief(self.findings.scores[speech.name][name]))
        _put(conditions, condition, name, _brief(values))

    @property
    def _ungrouped(self) -> EvaluationConfig:
        return dataclasses.replace(self.plan.settings, group_by=())

    def _probe(self, listening: Listening, utterances: Utterances) -> None:
        """Listen to sound without speech, told the language and task of the first utterance."""
        from lora_whisper.evaluation.robustness import make_probes, probed

        clips, first, seed = self.plan.more.probe_clips, utterances[0], self.plan.seed
        if not clips:
            return
        language, name = first.language_token or first.language, listening.contender.name
        probes = make_probes(clips, listening.window_seconds, language, first.task, seed)
        heard, _ = listening.hear(f"probing {name}", probes, self._ungrouped, seed)
        self.findings.probes[name] = {
            kind: dataclasses.asdict(one) for kind, one in probed(probes, heard.texts).items()
        }

    def _scale(self, listening: Listening, sets: Sequence[tuple[Speech, Utterances]]) -> None:
        """Score parts of the adapter: what is gained on the tests, what is lost elsewhere."""
        held_out = [(one, utterances) for one, utterances in sets if one.role != "training"]
        for scale in self.plan.more.adapter_scales:
            scores = {
                one.name: _brief(
                    self._judged(listening, one, utterances, self._ungrouped, scale=scale).to_dict()
                )
                for one, utterances in held_out
            }
            point = {"scale": scale, "scores": scores}
            self.findings.scales.setdefault(listening.contender.name, []).append(point)

    # ── comparisons ──────────────────────────────────────────────────────────────────────────

    def _compare(self) -> None:
        """Every model with the first one, utterance by utterance."""
        from lora_whisper.evaluation.significance import compare

        first, *others = [one.name for one in self.plan.contenders]
        for name, of_models in self.findings.rows.items():
            for other in others:
                if {first, other} <= of_models.keys():
                    found = compare(of_models[first], of_models[other], self.plan.seed)
                    values = found.to_dict() | {"against": first}
                    _put(self.findings.comparisons, name, other, values)


def _put(place: dict[str, dict[str, Any]], first: str, second: str, value: Any) -> None:
    place.setdefault(first, {})[second] = value


def _brief(score: Mapping[str, Any]) -> dict[str, Any]:
    return {name: score[name] for name in BRIEF}
