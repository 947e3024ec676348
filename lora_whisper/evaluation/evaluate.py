"""What `evaluate` finds out: every model on every set, and then beyond the average."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lora_whisper import processes
from lora_whisper.config import CLEAN, EvaluationConfig
from lora_whisper.data.corpus import with_codes
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.words import as_text, spoken_in
from lora_whisper.environment import environment, versions
from lora_whisper.evaluation.capabilities import CardMaker
from lora_whisper.evaluation.decoding.decoder import BrokenModel, Decoder
from lora_whisper.evaluation.diagnostics import analyse_errors, find_hallucination, word_recall
from lora_whisper.evaluation.loading import (
    EntryDecoder,
    identity,
    weights_of,
)
from lora_whisper.evaluation.models import ModelEntry
from lora_whisper.evaluation.plan import Plan
from lora_whisper.evaluation.results import (
    BriefScore,
    CapabilityCard,
    Comparison,
    ErrorAnalysis,
    EvaluatedModel,
    EvaluatedSet,
    EvaluationResults,
    Hallucination,
    Leaks,
    NoSpeechTest,
    PromptedScore,
    ScalePoint,
    Score,
    ScoredUtterance,
    WordRecall,
)
from lora_whisper.evaluation.robustness import (
    NO_SPEECH_CLIPS,
    no_speech_clips,
    no_speech_tests,
    padding_of,
)
from lora_whisper.evaluation.score import score_set
from lora_whisper.evaluation.scoring import report_bad_audio, write_scored
from lora_whisper.evaluation.significance import BOOTSTRAP_SAMPLES, compare
from lora_whisper.evaluation.test_sets import (
    LoadedSet,
    find_leaks,
    has_group,
    speakers,
    training_speech,
)
from lora_whisper.evaluation.workload import say_how_long, words_of_prompt
from lora_whisper.paths import below_home, mapped
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import PROMPTED
from lora_whisper.terminal import percent

if TYPE_CHECKING:
    import torch

log = logging.getLogger("lora_whisper")

MOST_ERRORS = 20  # of each kind that are kept
UNKNOWN = {"dtype": "–", "fingerprint": "–"}  # of a model that was never loaded

Found = TypeVar("Found")
BySetAndModel = dict[str, dict[str, Found]]


class Evaluator:
    """Scores all models of a plan on all of its sets; what it finds is in its attributes."""

    def __init__(self, plan: Plan, sets: Sequence[LoadedSet], folder: Path, device: torch.device):
        """`folder`: of the scores and the scored utterances."""
        self.plan, self.sets, self.folder, self.device = plan, sets, folder, device
        self._is_estimated = False
        self._ungrouped = dataclasses.replace(plan.settings, group_by=())
        self.prompt_words = tuple(words_of_prompt(plan)) if plan.prompts else ()
        self.scores: BySetAndModel[Score] = {}
        self.utterances: BySetAndModel[Sequence[ScoredUtterance]] = {}
        self.errors: BySetAndModel[ErrorAnalysis] = {}
        self.words: BySetAndModel[WordRecall] = {}
        self.prompted: BySetAndModel[PromptedScore] = {}
        self.hallucination: BySetAndModel[Hallucination] = {}
        self.comparisons: BySetAndModel[Comparison] = {}
        self.conditions: dict[str, BySetAndModel[BriefScore]] = {}  # by set, condition and model
        self.no_speech: BySetAndModel[NoSpeechTest] = {}  # by model and kind of sound
        self.scales: dict[str, list[ScalePoint]] = {}  # by model
        self.cards: dict[str, CapabilityCard] = {}  # by model
        self.asking: CardMaker | None = None
        self.failed: dict[str, str] = {}  # by model: why
        self.storage: dict[str, dict[str, str]] = {}  # by model: dtype, fingerprint

    def carry_out(self) -> None:
        """Evaluate the models one after the other; a broken one does not stop the others."""
        from lora_whisper.evaluation.decoding.encoded import EncodedOnce

        self._encoded = EncodedOnce() if len(self.plan.entries) > 1 else None
        for entry in self.plan.entries:
            try:
                if entry.broken:
                    self.storage[entry.name] = UNKNOWN
                    raise BrokenModel(entry.broken)
                self._evaluate(entry)
            except BrokenModel as error:
                log.error("%-11s %s", entry.name, error)
                self.failed[entry.name] = str(error)
        self._compare()

    def _evaluate(self, entry: ModelEntry) -> None:
        model = EntryDecoder(
            entry, self.plan.dtype, self.device, self.plan.more.cache, self._encoded
        )
        model.on_load = partial(self._on_load, entry)
        self.storage[entry.name] = processes.from_main(lambda: model.storage)
        if self.plan.card and self.asking is None:
            self.asking = self._asking(model.window_seconds)
        try:
            sets = [
                (one, with_codes(one.corpus, model.special_tokens).utterances) for one in self.sets
            ]
            for one, utterances in sets:
                self._score(model, one, utterances)
            tests = [(one, utterances) for one, utterances in sets if one.role == "test"]
            for one, utterances in tests:
                self._score_in_conditions(model, one, utterances)
                self._score_prompted(model, one, utterances)
            self._test_without_speech(model, tests[0][1])
            self._find_capabilities(model)
            if entry.adapter is not None:
                self._scale(model, sets)
        finally:
            model.close()

    def _on_load(self, entry: ModelEntry, decoder: Decoder) -> None:
        """Of the first one that has to decode, say how long all of it takes."""
        if not self._is_estimated:
            self._is_estimated = True
            card_windows = self.asking.material.windows if self.asking else 0
            say_how_long(self.plan, self.sets, entry, decoder, card_windows)

    def _scored(
        self,
        model: EntryDecoder,
        one: LoadedSet,
        utterances: Utterances,
        settings: EvaluationConfig,
        condition: str = CLEAN,
        scale: float = 1.0,
        prompt: str = "",
    ) -> tuple[Score, Sequence[ScoredUtterance]]:
        """Decode a set, or take what was decoded before, and score it."""
        seed, name = self.plan.seed, model.entry.name
        part = "" if scale == 1.0 else f" × {scale:g}"
        where = one.name if condition == CLEAN else f"{one.name}, {condition}"
        where += ", prompted" if prompt else ""
        title = f"scoring {name}{part} on {where}"
        transcriptions, is_known = model.transcribe(
            title, utterances, settings, seed, condition, scale, prompt
        )
        if condition == CLEAN and scale == 1.0 and not prompt:
            report_bad_audio(transcriptions.bad, one.set.data.bad_audio)
        given = (utterances, transcriptions, model.special_tokens, settings, seed)
        scored = processes.from_main(
            lambda: score_set(*given, weights_of(model.entry, scale), condition, prompt)
        )
        return dataclasses.replace(scored.score, cached=is_known), scored.utterances

    def _score(self, model: EntryDecoder, one: LoadedSet, utterances: Utterances) -> None:
        name, plan = model.entry.name, self.plan
        # Groups are of the test sets, and there of those that have the column.
        asked = plan.settings.group_by if one.role == "test" else ()
        known = tuple(group for group in asked if has_group(utterances, group))
        settings = dataclasses.replace(plan.settings, group_by=known)
        score, rows = self._scored(model, one, utterances, settings)
        write_scored(score, rows, self.folder / name / one.name)
        _put(self.scores, one.name, name, score)
        _put(self.utterances, one.name, name, rows)
        _put(self.hallucination, one.name, name, find_hallucination(rows))
        _put(self.errors, one.name, name, analyse_errors(rows, MOST_ERRORS))
        if plan.words and one.role == "test":
            _put(self.words, one.name, name, self._recall(rows))

    def _recall(self, rows: Sequence[ScoredUtterance]) -> WordRecall:
        plan = self.plan
        return word_recall(rows, plan.words, BOOTSTRAP_SAMPLES, plan.seed, self.seen_words)

    # ── beyond the average ───────────────────────────────────────────────────────────────────

    def _score_in_conditions(
        self, model: EntryDecoder, one: LoadedSet, utterances: Utterances
    ) -> None:
        """Score the set in other conditions, beside the clean one."""
        name, clean = model.entry.name, self._ungrouped
        for condition in self.plan.conditions:
            padding = padding_of(condition, clean.padding)
            settings = dataclasses.replace(clean, padding=padding)
            score, rows = self._scored(model, one, utterances, settings, condition)
            write_scored(score, rows, self.folder / name / f"{one.name}-{condition}")
            conditions = self.conditions.setdefault(one.name, {})
            _put(conditions, CLEAN, name, self.scores[one.name][name].brief())
            _put(conditions, condition, name, score.brief())

    def _score_prompted(self, model: EntryDecoder, one: LoadedSet, utterances: Utterances) -> None:
        """Score the set with the word list as a prompt, beside the same model without."""
        if not self.prompt_words:
            return
        name, prompt = model.entry.name, as_text(self.prompt_words)
        score, rows = self._scored(model, one, utterances, self._ungrouped, prompt=prompt)
        write_scored(score, rows, self.folder / name / f"{one.name}-{PROMPTED}")
        comparison = compare(self.utterances[one.name][name], rows, self.plan.seed)
        comparison = dataclasses.replace(comparison, against=name)
        found = PromptedScore(self._recall(rows), score.brief(), comparison)
        _put(self.prompted, one.name, name, found)

    def _test_without_speech(self, model: EntryDecoder, utterances: Utterances) -> None:
        """Decode sound without speech, told the language and task of the first utterance."""
        if not self.plan.more.diagnostics:
            return
        first, seed = utterances[0], self.plan.seed
        language, name = first.language_token or first.language, model.entry.name
        probes = no_speech_clips(NO_SPEECH_CLIPS, model.window_seconds, language, first.task, seed)
        transcriptions, _ = model.transcribe(f"probing {name}", probes, self._ungrouped, seed)
        self.no_speech[name] = no_speech_tests(probes, transcriptions.texts)

    def _asking(self, window_seconds: float) -> CardMaker:
        """For cards on the first test set, and on what must not get worse."""
        tests = [one for one in self.sets if one.role == "test"]
        asked = [*tests[:1], *(one for one in self.sets if one.role == "retention")]
        speech = {one.name: one.corpus.utterances for one in asked}
        return CardMaker(speech, window_seconds, self._ungrouped, self.plan.seed)

    def _find_capabilities(self, model: EntryDecoder) -> None:
        """Beside the scores, all that a card asks for."""
        if self.asking is None:
            return
        name = model.entry.name
        written = {one: self.utterances[one][name] for one in self.asking.material.sets}
        exactly = identity(model.entry, model.asked, model.device)
        self.asking.ask(name, exactly, model.decoder, written, model.reuse)

    def _scale(self, model: EntryDecoder, sets: Sequence[tuple[LoadedSet, Utterances]]) -> None:
        """Score parts of the adapter: what is gained on the tests, what is lost elsewhere."""
        held_out = [(one, utterances) for one, utterances in sets if one.role != "training"]
        for scale in self.plan.more.adapter_scales:
            scores = {}
            for one, utterances in held_out:
                score, _ = self._scored(model, one, utterances, self._ungrouped, scale=scale)
                scores[one.name] = score.brief()
            self.scales.setdefault(model.entry.name, []).append(ScalePoint(scale, scores))

    def _compare(self) -> None:
        """Every model with the first one, utterance by utterance."""
        first, *others = [one.name for one in self.plan.entries]
        for name, of_models in self.utterances.items():
            for other in others:
                if {first, other} <= of_models.keys():
                    comparison = compare(of_models[first], of_models[other], self.plan.seed)
                    comparison = dataclasses.replace(comparison, against=first)
                    _put(self.comparisons, name, other, comparison)
        for other in others:
            if self.asking is not None and self.asking.has(first, other):
                self.cards[other] = self.asking.card(first, other)

    # ── all of it ────────────────────────────────────────────────────────────────────────────

    def results(self, name: str, asked: Mapping[str, Any]) -> EvaluationResults:
        """What evaluation.json holds.

        Args:
            name: of the report.
            asked: what was typed and decides on it.
        """
        plan, leaks = self.plan, self._leaks()
        models = [one.name for one in plan.entries]
        return EvaluationResults(
            name=name,
            models=tuple(
                EvaluatedModel(
                    name=entry.name,
                    what=below_home(entry.what),
                    kind=entry.kind,
                    quantization=entry.quantization.kind,
                    failed=self.failed.get(entry.name),
                    **self.storage[entry.name],
                )
                for entry in plan.entries
            ),
            against=models[0],
            sets=tuple(_about_set(one, leaks[one.name]) for one in self.sets),
            scores={
                one.name: {model: self.scores.get(one.name, {}).get(model) for model in models}
                for one in self.sets
            },
            comparisons=self.comparisons,
            mistakes=self.errors,
            keywords=self.words,
            prompted=self.prompted,
            prompt_words=self.prompt_words,
            asked_words=len(plan.words),
            hallucination=self.hallucination,
            probes=self.no_speech,
            conditions=self.conditions,
            scales={model: tuple(points) for model, points in self.scales.items()},
            warnings=tuple(self._overfitted(models[0])),
            settings=mapped({**vars(plan.settings), "seed": plan.seed}, below_home),
            environment=environment(),
            versions=versions(),
            asked=dict(asked),
            cards=self.cards,
        )

    def _leaks(self) -> dict[str, list[Leaks]]:
        """By set, what each run among the models knows of it; of a training sample nobody asks."""
        held_out = {one.name: one.corpus.utterances for one in self.sets if one.role != "training"}
        leaks_by_set: dict[str, list[Leaks]] = {one.name: [] for one in self.sets}
        for label, trained_on in self.training.items():
            for name, leaks in find_leaks(label, trained_on, held_out).items():
                leaks_by_set[name].append(leaks)
        return leaks_by_set

    @cached_property
    def training(self) -> dict[str, Sequence[Utterances]]:
        """What each run among the models was trained on, as far as that is still there."""
        runs = {one.run.path: one.run for one in self.plan.entries if one.run is not None}
        last_names = [path.name for path in runs]
        found: dict[str, Sequence[Utterances]] = {}
        for path, run in runs.items():
            is_one = last_names.count(path.name) == 1
            label = path.name if is_one else "/".join(path.parts[-2:])
            trained_on = training_speech(label, read_config(run))
            if trained_on is not None:
                found[label] = trained_on
        return found

    @cached_property
    def seen_words(self) -> Collection[str] | None:
        """Words of the list that a run among the models was trained on; None: nobody knows."""
        if not self.training:
            return None
        texts = (
            text
            for speech in self.training.values()
            for utterances in speech
            for text in utterances.column("text").to_pylist()
        )
        return spoken_in(self.plan.words, texts).times.keys()

    def _overfitted(self, base: str) -> Iterator[str]:
        """Models that know their training set far better than a test set, as `base` does not.

        Of fewer utterances than a difference is told of nothing is said.
        """
        from lora_whisper.evaluation.significance import LEAST_UNITS

        by_role = {one.role: one.name for one in reversed(self.sets)}
        if not {"training", "test"} <= by_role.keys():
            return
        trained_on, tested = (self.scores.get(by_role[role], {}) for role in ("training", "test"))
        before = (
            tested[base].wer - trained_on[base].wer
            if base in tested and base in trained_on
            else 0.0
        )
        for model in (name for name in trained_on if name in tested and name != base):
            known, new = trained_on[model], tested[model]
            is_apart = known.wer_ci95[1] < new.wer_ci95[0]
            is_enough = min(known.utterances, new.utterances) >= LEAST_UNITS
            if is_enough and is_apart and new.wer - known.wer > max(before, 0.0):
                yield (
                    f"{model} has a WER of {percent(known.wer)} on what it was trained on and "
                    f"{percent(new.wer)} on {by_role['test']}: overfitting, or a test set that is "
                    "harder"
                )


def _about_set(one: LoadedSet, leaks: Sequence[Leaks]) -> EvaluatedSet:
    utterances = one.corpus.utterances
    languages = filter(None, utterances.column("language").unique().to_pylist())
    return EvaluatedSet(
        name=one.name,
        role=one.role,
        utterances=len(utterances),
        hours=one.corpus.hours,
        speakers=len(speakers(utterances)),
        languages=tuple(sorted(languages)),
        left_out={reason: len(rows) for reason, rows in one.corpus.left_out.items()},
        leaks=tuple(leaks),
    )


def _put(place: BySetAndModel[Found], first: str, second: str, value: Found) -> None:
    place.setdefault(first, {})[second] = value
