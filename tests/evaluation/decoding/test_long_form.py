"""Whisper's sequential algorithm against Transformers' `generate`, and by its rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from lora_whisper.data.audio import read_audio
from lora_whisper.data.dataset import Utterance
from lora_whisper.evaluation.decoding.decoder import DecodingOptions, DecodingResult, DecodingTask
from lora_whisper.evaluation.decoding.long_form import (
    Clip,
    HeldWindows,
    Recording,
    compression_ratio,
    decode_with_fallback,
    is_silence,
    split_at_timestamps,
)
from lora_whisper.evaluation.decoding.transcribe import transcribe
from lora_whisper.model.features import LogMel
from tests.evaluation.toy_decoder import (
    GREEDY,
    IN_BATCHES,
    Toy,
    general_speech,
    joined,
    make_toy,
    nano,
    prefer,
    utterance,
)
from tests.toy_speech import write_clip

CLIPS_IN_A_RECORDING = 5  # of 1 to 4 s; nano's window has 5 s


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    folder = tmp_path_factory.mktemp("long")
    clips = general_speech(4 * CLIPS_IN_A_RECORDING)
    starts = range(0, len(clips), CLIPS_IN_A_RECORDING)
    return [
        joined(clips[start : start + CLIPS_IN_A_RECORDING], folder / f"{start}.wav")
        for start in starts
    ]


def fond_of_timestamps() -> Toy:
    """nano, which knows little of long recordings, is made to end segments within a window."""
    hearing = nano()
    times = range(hearing.special_tokens.timestamp_begin, hearing.special_tokens.size)
    prefer(hearing.model, times, 3.0)
    return hearing


def by_transformers(
    hearing: Toy, one: Utterance, monkeypatch: pytest.MonkeyPatch, previous_text: bool
) -> tuple[str, list[float]]:
    """Text, and ends of segments with some, of its long-form `generate` at temperature 0.

    It puts mel-frames of 0 behind the tail, as openai/whisper does since #1838. Ours puts silence
    there, as openai/whisper did before and as windows are in training; so it is given that.
    """
    features = hearing.features.recording(torch.from_numpy(read_audio(one.audio)), "sound")[None]
    window_frames = 2 * hearing.model.config.max_source_positions

    def with_silence_behind(seek: torch.Tensor, **_: Any) -> torch.Tensor:
        return features[:, :, int(seek[0]) : int(seek[0]) + window_frames]

    monkeypatch.setattr(
        WhisperForConditionalGeneration, "_get_input_segment", staticmethod(with_silence_behind)
    )
    found = hearing.model.generate(
        features[:, :, :-window_frames],
        language="en",
        task="transcribe",
        return_timestamps=True,
        return_segments=True,
        temperature=0.0,
        no_speech_threshold=0.6,
        logprob_threshold=-1.0,
        condition_on_prev_tokens=previous_text,
    )

    def decode(tokens: torch.Tensor) -> str:
        return hearing.processor.decode(tokens, skip_special_tokens=True).strip()

    text = decode(found["sequences"][0])
    parts = [part for part in found["segments"][0] if decode(part["tokens"])]
    return text, [float(part["end"]) for part in parts]


@pytest.mark.parametrize("previous_text", [False, True])
def test_equal_to_transformers_own_long_form(
    recordings: list[Utterance], monkeypatch: pytest.MonkeyPatch, previous_text: bool
) -> None:
    hearing = fond_of_timestamps()
    settings = dataclasses.replace(GREEDY, previous_text=previous_text)
    found = hearing.transcribe(recordings, settings)
    theirs = [by_transformers(hearing, one, monkeypatch, previous_text) for one in recordings]
    assert list(found.texts) == [text for text, _ in theirs]
    for segments, (_, ends) in zip(found.segments, theirs, strict=True):
        assert [segment.end_seconds for segment in segments] == pytest.approx(ends, abs=0.011)
    assert max(map(len, found.segments)) > 4
    if previous_text:
        assert found.texts != hearing.transcribe(recordings).texts


@pytest.mark.parametrize("previous_text", [False, True])
def test_recordings_are_heard_the_same_together_and_among_short_clips(
    recordings: list[Utterance], previous_text: bool
) -> None:
    hearing = fond_of_timestamps()
    settings = dataclasses.replace(GREEDY, previous_text=previous_text)
    mixed = [*recordings[:2], *general_speech(3), *recordings[2:]]
    alone = hearing.transcribe(mixed, settings)
    together = hearing.transcribe(mixed, dataclasses.replace(settings, batch_size=6))
    assert together.texts == alone.texts
    assert together.segments == alone.segments
    assert [bool(segments) for segments in alone.segments] == [True] * 2 + [False] * 3 + [True] * 2
    assert together.bad == ()


def test_words_of_the_whole_recording_are_heard(recordings: list[Utterance]) -> None:
    """A third; nano, which has learnt single sentences, leaves out the rest of most windows."""
    for one, text in zip(recordings, nano().transcribe(recordings).texts, strict=True):
        words, heard = one.text.split(), text.split()
        for third in range(3):
            part = words[third * len(words) // 3 : (third + 1) * len(words) // 3]
            assert set(part) & set(heard)


def test_a_slice_of_a_recording_is_heard_as_that_slice_alone(tmp_path: Path) -> None:
    toy = make_toy()
    prefer(toy.model, range(toy.special_tokens.timestamp_begin, toy.special_tokens.size), 1000.0)
    whole = write_clip(tmp_path / "whole.wav", 9.0, frequency=330.0)
    cut = write_clip(tmp_path / "cut.wav", 4.4, frequency=330.0)
    part = utterance(whole, 4.4, start_seconds=2.0, end_seconds=6.4)
    found, expected = toy.transcribe([part]), toy.transcribe([utterance(cut, 4.4)])
    assert found.texts == expected.texts
    assert found.seconds == (4.4,)
    assert toy.transcribe([part], dataclasses.replace(GREEDY, beams=2)).bad == ()


BEGIN = 100  # of the timestamps; what is below is text


@pytest.mark.parametrize(
    ("tokens", "pieces", "rest"),
    [
        ([100, 1, 2, 150], [], [100, 1, 2, 150]),  # one segment, no timestamp after it
        ([100, 1, 150, 150, 2, 180], [[100, 1, 150], [150, 2, 180]], []),
        ([100, 1, 150, 155, 2], [[100, 1, 150]], [155, 2]),  # an unfinished one
        ([100, 1, 150, 150], [[100, 1, 150]], [150]),  # the next begins there
        ([100, 1], [], [100, 1]),
        ([1, 2], [], [1, 2]),
        ([], [], []),
    ],
)
def test_pieces_between_two_timestamps(
    tokens: list[int], pieces: list[list[int]], rest: list[int]
) -> None:
    assert split_at_timestamps(tokens, BEGIN) == (pieces, rest)


@pytest.fixture
def toy() -> Toy:
    return make_toy()


def recording(toy: Toy, seconds: float, previous_text: bool = False) -> Recording:
    start = toy.special_tokens.start("en", "transcribe", timestamps=True)
    samples = torch.randn(round(16_000 * seconds), generator=torch.Generator().manual_seed(0))
    windows = HeldWindows(toy.features, samples, "sound")
    return Recording(toy.decoder, windows, start, previous_text, (0, 0))


def said(
    toy: Toy, *parts: float | str, temperature: float = 0.0, probability: float = -0.1
) -> DecodingResult:
    """A result of timestamps and texts."""
    tokens: list[int] = []
    for part in parts:
        tokens += (
            toy.processor.tokenizer(part, add_special_tokens=False).input_ids
            if isinstance(part, str)
            else [toy.special_tokens.timestamp(part)]
        )
    return DecodingResult(tuple(tokens), temperature, probability, no_speech_probability=0.9)


def test_the_next_window_begins_where_the_last_finished_segment_ends(toy: Toy) -> None:
    one = recording(toy, 5.0)
    one.take(said(toy, 0.0, "a", 0.7, 0.8, "b"))
    assert one.seek_frames == 70
    assert torch.equal(one.task().features, one.windows.mel[:, 70:270])
    one.take(said(toy, 0.1, "b", 0.9, 0.9, "c", 1.5))  # nothing is spoken after 1.5 s
    assert one.seek_frames == 270
    one.take(said(toy, 0.0, "d", 1.0))  # no two timestamps in a row: all of the window is done
    assert one.seek_frames == 470
    assert not one.is_done
    one.take(said(toy, 0.0, "e"))
    assert one.is_done
    assert one.text() == "abcde"
    times = [(segment.start_seconds, segment.end_seconds) for segment in one.segments()]
    assert times == [(0.0, 0.7), (0.8, 1.6), (1.6, 2.2), (2.7, 3.7), (4.7, 5.0)]


def test_every_window_takes_the_recording_forward(toy: Toy) -> None:
    """Also where a decoder breaks the rules and ends a segment where it began."""
    one = recording(toy, 5.0)
    one.take(said(toy, 0.0, "a", 0.0, 0.0, "b"))
    assert one.seek_frames == 200
    assert one.segments() == ()


def test_silence_is_skipped_whatever_was_heard_in_it(toy: Toy) -> None:
    one = recording(toy, 5.0)
    one.take(said(toy, 0.0, "thank you", 0.7, 0.7, "b", probability=-1.5))
    assert one.seek_frames == 200
    one.take(said(toy, 0.0, "sure of it", 1.0, probability=-0.9))
    assert one.text() == "sure of it"


def test_the_prompt_is_what_was_heard_in_half_of_the_decoders_room(toy: Toy) -> None:
    special_tokens, start = (
        toy.special_tokens,
        toy.special_tokens.start("en", "transcribe", timestamps=True),
    )
    one = recording(toy, 20.0, previous_text=True)
    assert one.task().prompt == tuple(start)
    first = said(toy, 0.0, "a", 0.7, 0.7, "b")
    one.take(first)
    assert one.task().prompt == (special_tokens.previous, *first.tokens[:3], *start)
    one.take(said(toy, 0.0, "c" * 50, 1.0, temperature=0.4))
    previous = one.task().prompt[1 : -len(start)]
    assert len(previous) == special_tokens.max_tokens // 2 - 1
    assert previous[-1] == special_tokens.timestamp(1.0)
    assert len(one.task().prompt) + one.task().most_tokens < special_tokens.max_tokens
    one.take(said(toy, 0.0, "d", 1.0, temperature=0.6))
    assert one.task().prompt == tuple(start), "what is uncertain is no prompt, nor what was before"
    last = said(toy, 0.0, "e", 1.0)
    one.take(last)
    assert one.task().prompt == (special_tokens.previous, *last.tokens, *start)


def test_without_previous_text_there_is_no_prompt(toy: Toy) -> None:
    one = recording(toy, 20.0)
    one.take(said(toy, 0.0, "a", 0.7, 0.7, "b"))
    assert one.task().prompt[0] == toy.special_tokens.sot


def test_an_unfinished_segment_of_a_clip_lasts_to_its_end(toy: Toy) -> None:
    start = toy.special_tokens.start("en", "transcribe", timestamps=True)
    one = Clip(toy.decoder, torch.zeros(24_000), start, False, (0, 0), "sound")
    one.take(said(toy, 0.0, "a", 0.7, 0.8, "b"))
    assert one.text() == "ab"
    found = [(part.start_seconds, part.end_seconds, part.text) for part in one.segments()]
    assert found == [(0.0, 0.7, "a"), (0.8, 1.5, "b")]


def test_progress_counts_recordings_and_not_windows(toy: Toy, tmp_path: Path) -> None:
    clips = [
        utterance(write_clip(tmp_path / f"{seconds}.wav", seconds), seconds)
        for seconds in (5.0, 1.0, 3.0)
    ]
    seen: list[int] = []
    transcribe(toy.decoder, clips, IN_BATCHES, on_progress=lambda done, total: seen.append(done))
    assert seen == [1, 2, 3]


# ── Rules of Radford et al. 2022, section 4.5, on results that are given, and on a toy ──────────


GREEDILY = DecodingOptions(beams=5, probabilities=True)
FINE, REPEATED = "nothing is wrong with this", "again " * 20


class Scripted:
    """Gives each task the text, log-probability and no-speech probability of a script."""

    threads = 1
    draws_by_seed = True
    features = LogMel(16, 2.0)

    def __init__(self, script: dict[int, dict[float, tuple[str, float, float]]]):
        toy = make_toy()
        self.special_tokens, self.tokenizer = toy.special_tokens, toy.processor.tokenizer
        self.script = script
        self.asked: list[tuple[float, list[int]]] = []

    def decode(
        self, tasks: Sequence[DecodingTask], options: DecodingOptions
    ) -> list[DecodingResult]:
        names = [task.seed[0] for task in tasks]
        self.asked.append((options.temperature, names))
        return [self._result(name, options.temperature) for name in names]

    def _result(self, name: int, temperature: float) -> DecodingResult:
        text, log_probability, no_speech = self.script[name][temperature]
        tokens = self.tokenizer(text, add_special_tokens=False).input_ids
        return DecodingResult(tuple(tokens), temperature, log_probability, no_speech)

    def inference(self) -> AbstractContextManager[None]:
        return nullcontext()


def named(count: int) -> list[DecodingTask]:
    return [DecodingTask(torch.zeros(16, 200), (0,), 40, (name,)) for name in range(count)]


def test_only_what_failed_is_decoded_again_until_it_does_not() -> None:
    decoder = Scripted(
        {
            0: {0.0: (FINE, -0.5, 0.0)},
            1: {0.0: (REPEATED, -0.1, 0.0), 0.2: (REPEATED, -0.2, 0.9), 0.4: (FINE, -0.9, 0.0)},
            2: {0.0: (FINE, -1.1, 0.0), 0.2: (FINE, -0.99, 0.0)},
            3: {0.0: (FINE, -1.1, 0.7)},  # nobody speaks
        }
    )
    results = decode_with_fallback(decoder, named(4), GREEDILY)
    assert decoder.asked == [(0.0, [0, 1, 2, 3]), (0.2, [1, 2]), (0.4, [1])]
    assert [result.temperature for result in results] == [0.0, 0.4, 0.2, 0.0]


def test_the_last_temperature_stands() -> None:
    bad = {step / 5: (REPEATED, -step / 10, 0.0) for step in range(6)}
    decoder = Scripted({0: bad})
    (result,) = decode_with_fallback(decoder, named(1), GREEDILY)
    assert [temperature for temperature, _ in decoder.asked] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert (result.temperature, result.mean_log_probability) == (1.0, -0.5)


@pytest.mark.parametrize(
    ("log_probability", "no_speech", "silent"),
    [(-1.1, 0.61, True), (-0.9, 0.61, False), (-1.1, 0.6, False)],
)
def test_silence_is_improbable_text_where_nobody_probably_speaks(
    log_probability: float, no_speech: float, silent: bool
) -> None:
    assert is_silence(DecodingResult((), 0.0, log_probability, no_speech)) is silent


def test_compression_ratio() -> None:
    assert compression_ratio("") == 0
    assert compression_ratio("The quick brown fox jumps over the lazy dog.") < 1
    assert compression_ratio("thank you " * 30) > 2.4


def test_fallback_on_a_toy_is_the_same_in_any_batch_and_another_for_another_seed(
    tmp_path: Path,
) -> None:
    """Random weights are sure of nothing, so that everything is drawn."""
    toy = make_toy()
    clips = [
        utterance(
            write_clip(tmp_path / f"{index}.wav", seconds, frequency=150.0 * (index + 1)), seconds
        )
        for index, seconds in enumerate([0.5, 1.9, 0.2, 1.1, 0.8])
    ]
    settings = dataclasses.replace(GREEDY, temperature_fallback=True)
    alone = toy.transcribe(clips, settings)
    assert alone.texts != toy.transcribe(clips).texts
    assert (
        toy.transcribe(clips[::-1], dataclasses.replace(settings, batch_size=5)).texts[::-1]
        == alone.texts
    )
    assert toy.transcribe(clips[3:], settings).texts == alone.texts[3:]
    assert toy.transcribe(clips, settings, seed=1).texts != alone.texts
    renamed = [dataclasses.replace(one, row=f"{one.row[:-1]}2") for one in clips]
    other = toy.transcribe(renamed, settings).texts
    assert all(one != text for one, text in zip(other, alone.texts, strict=True))


def test_what_fallback_takes_for_silence_has_no_text(tmp_path: Path) -> None:
    toy = make_toy()
    clip = utterance(write_clip(tmp_path / "a.wav", 1.0), 1.0)
    settings = dataclasses.replace(GREEDY, temperature_fallback=True)
    assert toy.transcribe([clip], settings).texts != ("",)
    bias = torch.zeros(toy.special_tokens.size)
    bias[toy.special_tokens.no_speech] = 50.0  # which the suppressed tokens of the toy do not hold
    toy.model.generation_config.suppress_tokens.append(toy.special_tokens.no_speech)
    toy.model.proj_out.bias += bias
    assert toy.transcribe([clip], settings).texts == ("",)


def test_words_are_before_every_window_and_the_previous_text_behind_them(toy: Toy) -> None:
    samples = torch.zeros(20 * 16_000)
    windows = HeldWindows(toy.features, samples, "sound")
    special_tokens, start = toy.special_tokens, toy.special_tokens.start("en", "transcribe", True)
    one = Recording(toy.decoder, windows, start, True, (0, 0), words=(5, 6))
    assert one.task().prompt == (special_tokens.previous, 5, 6, *start)
    one.tokens = [7] * 1000
    prompt = one.task().prompt[: -len(start)]
    assert prompt[:3] == (special_tokens.previous, 5, 6)
    assert len(prompt) == 1 + special_tokens.prompt_tokens
