"""Two texts of one recording, and how often the model is asked for them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pysubs2
import pytest

from lora_whisper.browser.comparison import Comparer, compared
from lora_whisper.config import TranscriptionConfig
from lora_whisper.errors import UserError
from lora_whisper.evaluation.score import score_utterance
from lora_whisper.transcription.results import Failed, Segment, Transcript
from tests.toy_speech import write_clip


def transcript(text: str, language: str | None = "en") -> Transcript:
    half = len(text) // 2
    segments = (Segment(0.0, 1.5, text[:half]), Segment(1.5, 2.25, text[half:]))
    return Transcript(text, language, None, 2.25, segments)


class Pretender:
    """Says which adapter it is; remembers how often it was asked."""

    languages = ("en", "sw")

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, float]] = []

    def use(self, adapter: str | None, scale: float) -> None:
        self.now = adapter, scale

    def transcribe_all(
        self, sounds: list[Any], options: TranscriptionConfig, on_progress: Any
    ) -> Iterator[tuple[int, Transcript | Failed]]:
        self.asked.append(self.now)
        on_progress(sounds[0].seconds)
        if options.language == "sw":
            yield 0, Failed(f"{sounds[0].name}: no")
        else:
            yield 0, transcript(f"it is {self.now[0]} at {self.now[1]:g}")


@pytest.fixture
def pretender() -> Pretender:
    return Pretender()


@pytest.fixture
def comparer(pretender: Pretender) -> Comparer:
    return Comparer(cast(Any, pretender), longest_seconds=10.0)


def test_what_is_known_is_not_transcribed_again(
    comparer: Comparer, pretender: Pretender, tmp_path: Path
) -> None:
    clip, options = write_clip(tmp_path / "a.wav", 1.0), TranscriptionConfig()
    shares: list[float] = []
    found = comparer.compare(clip, "a.wav", "mine", 1.0, options, "", shares.append)
    assert [(side.name, side.transcript.text) for side in found.sides] == [
        ("base", "it is None at 1"),
        ("mine", "it is mine at 1"),
    ]
    assert shares == [0.5, 1.0]
    comparer.compare(clip, "a.wav", "mine", 0.5, options)
    scored = comparer.compare(clip, "a.wav", "other", 1.0, options, "it is other")
    assert pretender.asked == [(None, 1.0), ("mine", 1.0), ("mine", 0.5), ("other", 1.0)]
    assert [side.counts and side.counts.errors for side in scored.sides] == [3, 2]
    comparer.compare(write_clip(tmp_path / "b.wav", 1.5), "a.wav", "mine", 1.0, options)
    assert len(pretender.asked) == 6, "another recording of the same name"
    (alone,) = comparer.compare(clip, "a.wav", None, 1.0, options).sides
    assert alone.name == "model"


@pytest.mark.parametrize(
    ("name", "seconds", "language", "found"),
    [
        ("long.wav", 11.0, None, "long.wav lasts 0.2 minutes, and up to 0.166667 are"),
        ("short.wav", 1.0, "sw", "short.wav: no"),
        ("empty.wav", 0.0, None, "empty.wav: "),
        ("text.mp3", None, None, "text.mp3: does not decode"),
    ],
)
def test_what_cannot_be_transcribed_is_said_by_its_own_name(
    comparer: Comparer,
    tmp_path: Path,
    name: str,
    seconds: float | None,
    language: str | None,
    found: str,
) -> None:
    path = tmp_path / "kept/0123"
    path.parent.mkdir()
    path = path.with_suffix(Path(name).suffix)
    if seconds is None:
        path.write_text("Once upon a time")
    else:
        write_clip(path, seconds)
    with pytest.raises(UserError, match=found) as error:
        comparer.compare(path, name, "mine", 1.0, TranscriptionConfig(language=language))
    assert str(path) not in str(error.value), "where it lies is nobody's business"


@pytest.mark.parametrize(
    ("language", "reference", "text", "rate"),
    [
        ("en", "Don't go to the colour shop", "do not go to color shop now", "WER"),
        ("ja", "今日は 良い 天気", "今日は悪い天気", "CER"),
    ],
)
def test_the_errors_are_those_that_an_evaluation_counts(
    language: str, reference: str, text: str, rate: str
) -> None:
    (side,) = compared([transcript(text, language)], ["model"], reference).sides
    expected = score_utterance("", language, reference, text)
    assert side.counts is not None
    assert (side.counts.errors, side.counts.rate) == (expected.errors, expected.wer)
    assert sum(stretch.errors for stretch in side.stretches) == expected.errors
    assert side.rate == rate


def test_without_a_reference_the_adapter_is_laid_along_the_base() -> None:
    base, adapted = compared(
        [transcript("a read house"), transcript("a red house now")], ["base", "mine"]
    ).sides
    assert [stretch.edit for stretch in base.stretches] == ["equal"]
    assert [(one.edit, one.hypothesis) for one in adapted.stretches] == [
        ("equal", "a"),
        ("substitute", "red"),
        ("equal", "house"),
        ("insert", "now"),
    ]
    assert base.counts is None


def test_subtitles_are_read_by_another_program() -> None:
    (side,) = compared([transcript("one <two> & three")], ["model"]).sides
    for suffix in ("srt", "vtt"):
        head, _, data = side.downloads[suffix].partition("base64,")
        assert head.startswith("data:")
        cues = pysubs2.SSAFile.from_string(base64.b64decode(data).decode(), suffix)
        assert [(cue.start, cue.end) for cue in cues] == [(0, 1500), (1500, 2250)]
