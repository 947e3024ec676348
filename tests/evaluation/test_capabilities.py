"""What is planted is found: decoders that do one thing well or badly, and counts whose verdict is
known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from lora_whisper.evaluation import capability_material
from lora_whisper.evaluation.capabilities import TRAITS, judge, new_card
from lora_whisper.evaluation.capability_findings import Findings, find, of_texts
from lora_whisper.evaluation.capability_material import Clip, JoinedClips, Material, new_material
from lora_whisper.evaluation.capability_questions import Counted, are_valid, distance
from lora_whisper.evaluation.decoding.decoder import DecodingOptions, DecodingResult, DecodingTask
from lora_whisper.evaluation.decoding.long_form import Segment
from lora_whisper.evaluation.results import Capability
from lora_whisper.evaluation.text_style import (
    f1,
    is_in_capitals,
    looks_like_a_sentence,
    marks_of,
    respelled,
)
from lora_whisper.evaluation.translation import chrf, is_english
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.model.tokenizer import text_tokens
from lora_whisper.transcription.backends import WhisperBackend
from tests.evaluation.toy_decoder import make_toy, nano, utterance
from tests.evaluation.toy_rows import rows_of
from tests.toy_speech import tone, write_clip

TOY = nano()
BEGIN = TOY.special_tokens.timestamp_begin


def counted(found: Sequence[int], of: int = 1) -> Counted:
    return Counted(found, [of] * len(found), [None] * len(found))


def verdict(key: str, base: Sequence[int], adapter: Sequence[int], of: int = 1) -> Capability:
    return judge(TRAITS[key], counted(base, of), counted(adapter, of), seed=1)


# ── verdicts ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key", TRAITS)
def test_what_two_models_do_alike_is_kept_where_there_is_enough_of_it(key: str) -> None:
    alike, of = [1, 0] * 20, 10 if TRAITS[key].unit == "rate" else 1
    assert verdict(key, alike, alike, of).verdict == "kept"
    few = verdict(key, alike[:5], alike[:5])
    assert (few.verdict, few.ci95) == ("not certain", None)
    assert few.why == "5 clips are too few to tell"


@pytest.mark.parametrize("key", TRAITS)
def test_what_is_gone_is_lost_and_what_came_gained(key: str) -> None:
    good, bad = [TRAITS[key].scale] * 16, [0] * 16
    up, down = verdict(key, bad, good), verdict(key, good, bad)
    is_better_higher = TRAITS[key].is_better_higher
    assert (up.verdict, down.verdict) == (
        ("gained", "lost") if is_better_higher else ("lost", "gained")
    )
    for row in (up, down):
        assert row.ci95 is not None
        assert row.base is not None
        assert row.adapter is not None
        assert row.ci95[0] <= row.adapter - row.base <= row.ci95[1]


def test_of_clips_without_an_exception_the_interval_is_that_of_the_rule_of_three() -> None:
    row = verdict("timestamps", [1] * 16, [1] * 16)
    assert row.ci95 == pytest.approx((-(1 - 0.05 ** (1 / 16)), 1 - 0.05 ** (1 / 16)))
    assert row.verdict == "not certain", "17 of 100 may have lost theirs"
    assert row.why == "16 clips do not tell"


def test_what_the_base_cannot_do_is_not_kept_but_may_be_gained() -> None:
    never = verdict("timestamps", [0] * 32, [0] * 32)
    assert (never.verdict, never.why) == (
        "not measured",
        "the base does not do it: nothing to lose",
    )
    writes = verdict("silence", [1] * 32, [1] * 32)
    assert (writes.verdict, writes.why) == (
        "not measured",
        "the base fails here already: nothing to lose",
    )
    assert verdict("silence", [0] * 32, [0] * 32).verdict == "kept"
    assert verdict("timestamps", [0] * 32, [1] * 32).verdict == "gained"


@pytest.mark.parametrize("key", ["punctuation", "words"])
def test_a_likely_gain_that_is_not_certain_is_not_called_kept(key: str) -> None:
    """One clip of 6 is better, and none is worse: whether a mark, or a word of a hundred."""
    bad, good = (0, TRAITS[key].scale) if TRAITS[key].is_better_higher else (20, 0)
    of = 1 if TRAITS[key].is_better_higher else 20
    some, more = [good] * 3 + [bad] * 3, [good] * 4 + [bad] * 2
    row = verdict(key, some, more, of)
    assert row.ci95 is not None
    assert 0 in row.ci95
    assert row.verdict == "not lost"
    assert verdict(key, more, some, of).verdict == "not certain", "the same the other way round"


def test_a_difference_that_chance_makes_is_not_certain() -> None:
    one, other = np.random.default_rng(3).integers(0, 2, (2, 32)).tolist()
    assert verdict("language", one, other).verdict == "not certain"


def test_what_was_not_measured_says_why() -> None:
    row = judge(TRAITS["language"], "English alone", counted([1]), seed=1)
    assert (row.verdict, row.why, row.base) == ("not measured", "English alone", None)


def test_the_clips_of_one_speaker_are_drawn_together() -> None:
    """All that differs is of one of six voices, which chance may have drawn."""
    speakers = [f"s{number // 8}" for number in range(48)]
    base = Counted([1] * 48, [1] * 48, speakers)
    adapter = replace(base, found=[0] * 8 + [1] * 40)
    assert judge(TRAITS["timestamps"], base, adapter, seed=1).verdict == "not certain"
    by_clips = [replace(one, speakers=[None] * 48) for one in (base, adapter)]
    assert judge(TRAITS["timestamps"], *by_clips, seed=1).verdict == "lost"


# ── what a model does ────────────────────────────────────────────────────────────────────────

Answer = Callable[[DecodingTask, DecodingOptions], str]


@dataclass
class Scripted:
    """A decoder that writes what it is told to: `@1.0` is a timestamp."""

    answer: Answer
    language: str = "en"
    no_speech: float = 0.9
    special_tokens = TOY.special_tokens
    tokenizer = TOY.processor.tokenizer
    features = TOY.features
    width, threads, refills, draws_by_seed = 16, 1, False, True

    def decode(
        self, tasks: Sequence[DecodingTask], options: DecodingOptions
    ) -> list[DecodingResult]:
        return [
            DecodingResult(
                tuple(self.tokens(self.answer(task, options)))[: task.most_tokens],
                0.0,
                -2.0,
                self.no_speech,
                self.language,
            )
            for task in tasks
        ]

    def tokens(self, text: str) -> Iterator[int]:
        for word in text.split():
            if word.startswith("@"):
                yield self.special_tokens.timestamp(float(word[1:]))
            else:
                yield from text_tokens(self.tokenizer, word, "en")

    def inference(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def told(decoder: Scripted, task: DecodingTask) -> str:
    """The previous text in a task's prompt."""
    previous, *rest = task.prompt
    if previous != decoder.special_tokens.previous:
        return ""
    before = rest[: rest.index(decoder.special_tokens.sot)]
    text: str = decoder.tokenizer.decode(before)
    return text


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("clips")
    texts = ["Refill the tramadol for every patient.", "Good morning, doctor Ibrahim."] * 8
    clips = [
        utterance(
            write_clip(folder / f"{number}.wav", 2.0, frequency=200 + 10 * number),
            2.0,
            text=text,
            row=f"a:{number}",
        )
        for number, text in enumerate(texts)
    ]
    return new_material({"test": clips}, TOY.features.window_samples / SAMPLING_RATE, seed=1)


def found_by(answer: Answer, material: Material, **about: object) -> Findings:
    rows = [
        replace(row, row=clip.utterance.row)
        for clip in material.test
        for row in rows_of([clip.utterance.text], [clip.utterance.text], language="en")
    ]
    decoder = Scripted(answer, **about)  # type: ignore[arg-type]
    return find(decoder, material, {"test": rows}, "sound")


def share(findings: Findings, key: str) -> float:
    finding = findings[key, "test"]
    assert not isinstance(finding, str), finding
    return sum(finding.found) / sum(finding.of)


def test_a_model_that_loses_its_timestamps_and_writes_in_silence(material: Material) -> None:
    good = found_by(lambda task, _: "@0.0 good morning @1.5", material)
    bad = found_by(lambda task, _: "good morning", material, no_speech=0.0)
    assert share(good, "timestamps") == 1
    assert share(bad, "timestamps") == 0
    assert share(good, "silence-thresholds") == 0, "<|nospeech|> says so, and the text is unlikely"
    assert share(bad, "silence-thresholds") == 1
    card = new_card("base", good, bad, seed=1, seconds=1.0)
    assert {row.name for row in card.having("lost")} >= {"timestamps", "silence past filters"}
    same = new_card("base", good, good, seed=1, seconds=1.0)
    assert not same.having("lost")
    assert not same.having("gained")


def test_a_model_that_finds_one_language_wherever_it_is_asked(material: Material) -> None:
    def answer(task: DecodingTask, options: DecodingOptions) -> str:
        return ""

    assert share(found_by(answer, material, language="en"), "language") == 1
    assert share(found_by(answer, material, language="sw"), "language") == 0
    assert share(found_by(answer, material), "silence") == 0


def test_a_model_that_does_as_its_prompt_says_and_one_that_does_not(material: Material) -> None:
    decoder = Scripted(lambda task, options: "")

    def obeys(task: DecodingTask, options: DecodingOptions) -> str:
        return told(decoder, task)

    for answer, expected in ((obeys, 1), (lambda task, options: "Good morning", 0)):
        findings = found_by(answer, material)
        assert share(findings, "spelling") == expected
        assert share(findings, "capitals-prompt") == expected


def test_long_recordings_are_known_by_their_clips(material: Material) -> None:
    """Of a window and a half of 5 s: three clips of 2 s, with a second between them."""
    assert [len(one.clips) for one in material.recordings] == [3] * 5
    (first, *_) = material.recordings
    assert len(first.samples) == 8 * SAMPLING_RATE
    for (start, end), (low, high) in zip(first.pauses_seconds, [(2, 3), (5, 6)], strict=True):
        assert (start, end) == pytest.approx((low, high), abs=0.1)
    silent = found_by(lambda task, options: "@0.0 Nobody @5.0 @5.0", material)
    assert share(silent, "long") > 0.9
    lost = silent["left-out", "test"]
    assert not isinstance(lost, str)
    assert min(lost.found) > 0, "each clip by itself lost nothing"


def test_without_recordings_or_clips_it_is_said_what_is_missing(material: Material) -> None:
    short = replace(material, sets={"test": material.test[:1]})
    findings = find(Scripted(lambda task, options: ""), short, {}, "sound")  # type: ignore[arg-type]
    assert (
        findings["long", "test"] == "the clips of the test set, joined, make no recording of 7.5 s"
    )
    empty = new_material({"test": []}, 5.0, seed=1)
    findings = find(Scripted(lambda task, options: ""), empty, {}, "sound")  # type: ignore[arg-type]
    assert all(isinstance(finding, str) for finding in findings.values())


def test_a_translation_is_asked_of_other_languages_alone(tmp_path: Path) -> None:
    clips = [
        utterance(
            write_clip(tmp_path / f"{number}.wav", 1.0),
            1.0,
            text="Habari ya asubuhi",
            language="sw",
            columns={"translation": "Good morning to you"},
        )
        for number in range(2)
    ]
    toy = make_toy()
    known = "sw" in toy.special_tokens.languages
    language = "sw" if known else next(one for one in toy.special_tokens.languages if one != "en")
    clips = [replace(clip, language=language) for clip in clips]
    material = new_material({"test": clips}, 2.0, seed=1)
    translate = toy.special_tokens.tasks["translate"]

    class Translating(Scripted):
        special_tokens = toy.special_tokens
        tokenizer = toy.processor.tokenizer
        features = toy.features

        def decode(
            self, tasks: Sequence[DecodingTask], options: DecodingOptions
        ) -> list[DecodingResult]:
            self.answer = lambda task, _: (
                "Good morning to you" if translate in task.prompt else "habari"
            )
            return super().decode(tasks, options)

    decoder = Translating(lambda task, options: "")
    findings = find(decoder, material, {}, "sound")  # type: ignore[arg-type]
    assert share(findings, "translation") == 1
    assert share(findings, "translation-chrf") == 1000
    english = [replace(clip, language="en") for clip in clips]
    findings = find(decoder, new_material({"test": english}, 2.0, seed=1), {}, "sound")  # type: ignore[arg-type]
    assert findings["translation", "test"] == "its speech is English already"


def test_the_language_beside_a_text_is_the_one_that_is_detected(tmp_path: Path) -> None:
    toy = make_toy()
    backend = WhisperBackend(toy.model, toy.processor, toy.special_tokens, toy.features)
    clips = [
        Clip(utterance(write_clip(tmp_path / f"{hz}.wav", 1.5, frequency=hz), 1.5), tone(1.5))
        for hz in (150, 400, 900)
    ]
    for clip in clips:
        mel = toy.features.clip(backend._tensor(clip.samples), "sound")
        prompt = tuple(toy.special_tokens.start("en", "transcribe"))
        with backend.inference():
            task = DecodingTask(mel, prompt, 4, ())
            (result,) = toy.decoder.decode([task], DecodingOptions(1, probabilities=True))
            assert result.language == backend.language(mel)[0]


def test_a_material_has_the_same_clips_for_every_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capability_material, "CLIPS", 3)
    clips = [
        utterance(
            write_clip(tmp_path / f"{number}.wav", seconds), seconds, text="Yes", row=str(number)
        )
        for number, seconds in enumerate([0.5, 6.0, 1.0, 1.5, 2.0])
    ]
    unreadable = utterance(tmp_path / "gone.wav", 1.0, text="Yes", row="gone")
    first, again = (new_material({"test": [*clips, unreadable]}, 5.0, seed) for seed in (1, 1))
    rows = [clip.utterance.row for clip in first.test]
    assert rows == [clip.utterance.row for clip in again.test]
    assert not {"1", "gone"} & set(rows), "one is longer than a window, one is not there"


# ── rules ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("@0.0 a @1.0", True),
        ("@0.0 a @1.0 @1.0 b @2.0", True),
        ("@0.0 a @2.4", True),
        ("@0.0 a @2.6", False),  # half a second behind the sound
        ("@0.0 a @1.0 @0.5 b @2.0", False),  # back
        ("@0.0 a", False),
        ("a @1.0", False),
        ("a", False),
        ("", False),
        ("@0.0 @1.0", False),
        ("@0.0 a @1.0 b @2.0", False),  # b has no beginning
    ],
)
def test_valid_timestamps(text: str, expected: bool) -> None:
    tokens = list(Scripted(lambda task, options: "").tokens(text))
    assert are_valid(tokens, BEGIN, 2.0) == expected


def test_a_boundary_is_as_far_off_as_the_nearest_timestamp() -> None:
    segments = [Segment(0.0, 4.0, "a"), Segment(5.5, 9.0, "b")]
    assert distance((3.5, 4.5), segments) == 0
    assert distance((4.5, 5.0), segments) == pytest.approx(0.5)
    assert distance((20.0, 21.0), segments) == 2
    assert distance((1.0, 2.0), []) == 2


def test_joined_clips_that_begin_and_end_in_silence_have_wider_pauses() -> None:
    quiet = np.zeros(SAMPLING_RATE, np.float32)
    clip = Clip(utterance(Path("a.wav"), 3.0), np.concatenate([tone(1.0), quiet]))
    ((start, end),) = JoinedClips((clip, clip)).pauses_seconds
    assert (start, end) == pytest.approx((1.0, 3.0), abs=0.1)


def test_respelled_words() -> None:
    assert respelled("Familia ya George, leo.") == ["Fammilia", "Geoorge"]
    assert respelled("ni leo 2020") == []


def test_capitals_and_sentences() -> None:
    assert is_in_capitals("ASK NOT, jfk")
    assert not is_in_capitals("Ask not")
    assert not is_in_capitals("")
    assert looks_like_a_sentence("Ask not.")
    assert looks_like_a_sentence("3 of them left!")
    for text in ("ask not.", "Ask not", "ASK NOT.", ""):
        assert not looks_like_a_sentence(text)


def test_marks_are_counted_by_f1() -> None:
    assert f1(marks_of("a, b, c."), marks_of("a, b c.")) == 800  # 2 · 2 of 3 + 2
    assert f1(marks_of("a"), marks_of("b")) == 1000
    assert f1(marks_of("a."), marks_of("b")) == 0


def test_references_without_marks_are_not_held_against_a_model() -> None:
    upper = of_texts(rows_of(["ASK NOT", "AND SO"], ["Ask not.", "and so"]))
    assert set(upper) == {"sentences"}
    finding = upper["sentences"]
    assert not isinstance(finding, str)
    assert list(finding.found) == [1, 0]
    assert set(of_texts(rows_of(["Ask not."], ["Ask."]))) == {"punctuation", "capitals"}
    assert of_texts(rows_of(["你好吗"], ["你好"], language="zh")) == {
        "punctuation": "the references have neither marks nor capitals"
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The patient is in the room with his doctor.", True),
        ("Wagonjwa wawili wamepona kwa siku moja tu.", False),
        ("Der Patient ist mit seinem Arzt in dem Zimmer, so war es.", False),
        ("Le patient est dans la chambre avec son médecin.", False),
        ("", False),
    ],
)
def test_english_is_known_by_its_commonest_words(text: str, expected: bool) -> None:
    assert is_english(text) == expected


@pytest.mark.parametrize(
    ("reference", "text", "by_sacrebleu"),  # 2.6.0, CHRF().sentence_score
    [
        (
            "The patient was seen this morning.",
            "The patient was seen in the morning.",
            77.8980890394297,
        ),
        ("Good morning, doctor.", "good evening doctor", 35.929313456179834),
        ("Yes.", "No.", 8.771929824561402),
        ("Take two tablets.", "Take two tablets.", 100.0),
        ("a", "ab", 83.33333333333334),
        ("Refill the tramadol.", "", 0.0),
    ],
)
def test_chrf_is_that_of_sacrebleu(reference: str, text: str, by_sacrebleu: float) -> None:
    assert 100 * chrf(reference, text) == pytest.approx(by_sacrebleu, abs=1e-9)
