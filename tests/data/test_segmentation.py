"""Long clips against boundaries that are known: stated ones, and pauses put where they belong."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from lora_whisper.data.audio import read_audio
from lora_whisper.data.dataset import Utterance
from lora_whisper.data.segmentation import find_pauses, split_long
from lora_whisper.model.published import SAMPLING_RATE
from tests.toy_speech import tone

SWAHILI = Path("../shared/speech/swahili")
needs_recordings = pytest.mark.skipif(not SWAHILI.exists(), reason="the recordings are absent")
ABSENT = Path("absent.wav")  # of clips that nobody needs to hear


def clip(text: str, seconds: float, audio: Path = ABSENT, **columns: Any) -> Utterance:
    return Utterance(
        audio,
        text,
        "sw",
        "transcribe",
        None,
        None,
        "ann",
        "a.jsonl:17",
        columns,
        seconds,
        "Before.",
    )


def segments(*rows: tuple[str, float, float], key: str = "text") -> list[dict[str, Any]]:
    return [{"start": start, "end": end, key: text} for text, start, end in rows]


SAID = segments((" One, two.", 1.0, 12.0), (" Three!", 12.0, 24.0), (" Four?", 30.0, 41.0))
TEXT = "One, two. Three! Four?"


def spans(pieces: list[Utterance] | None) -> list[tuple[str, float | None, float | None]]:
    assert pieces is not None
    return [(one.text, one.start_seconds, one.end_seconds) for one in pieces]


def test_segments_are_joined_for_as_long_as_they_fit() -> None:
    pieces = split_long(clip(TEXT, 42.0, segments=SAID, id="x"), 30.0)
    assert spans(pieces) == [("One, two. Three!", 0.8, 24.2), ("Four?", 29.8, 41.2)]
    first, second = pieces or []
    assert (first.row, second.row) == ("a.jsonl:17[0]", "a.jsonl:17[1]")
    assert (first.previous_text, second.previous_text) == ("Before.", "One, two. Three!")
    assert first.duration_seconds == pytest.approx(23.4)
    assert (first.columns, first.speaker, first.language) == ({"id": "x"}, "ann", "sw")


def test_pieces_are_placed_in_the_file_and_not_in_the_slice() -> None:
    long = clip(TEXT, 42.0, segments=SAID)
    moved = Utterance(**{f: getattr(long, f) for f in long.__slots__} | {"start_seconds": 100.0})
    assert spans(split_long(moved, 30.0)) == [
        ("One, two. Three!", 100.8, 124.2),
        ("Four?", 129.8, 141.2),
    ]


def test_padding_neither_overlaps_nor_exceeds_the_window() -> None:
    said = segments(("a", 0.05, 9.98), ("b", 10.0, 19.9), ("c", 20.0, 30.0))
    pieces = split_long(clip("a b c", 30.02, segments=said), 10.0)
    assert pieces is not None
    assert all(0.1 <= one.duration_seconds <= 10.0 for one in pieces)
    assert all((one.end_seconds or 0) <= (two.start_seconds or 0) for one, two in pairwise(pieces))
    assert (pieces[0].start_seconds or 0) >= 0
    assert (pieces[-1].end_seconds or 99) <= 30.02


def test_columns_of_a_table_file_are_json() -> None:
    expected = spans(split_long(clip(TEXT, 42.0, segments=SAID), 30.0))
    assert spans(split_long(clip(TEXT, 42.0, segments=json.dumps(SAID)), 30.0)) == expected


def test_words_and_those_that_nobody_could_place() -> None:
    words: list[dict[str, Any]] = segments(
        ("Mwaka", 0.5, 1.0),
        ("wa", 1.0, 1.5),
        ("ulikuwa", 4.0, 5.0),
        ("mzuri.", 6.0, 7.0),
        key="word",
    )
    words.insert(2, {"word": "2014"})
    long = clip("Mwaka wa 2014, ulikuwa mzuri.", 8.0, words=words)
    assert spans(split_long(long, 5.0)) == [
        ("Mwaka wa 2014, ulikuwa", 0.3, 5.2),
        ("mzuri.", 5.8, 7.2),
    ]
    unmarked = clip("Mwaka wa 2014 ulikuwa mzuri", 8.0, words=words)
    assert split_long(unmarked, 2.5) is None  # "wa 2014 ulikuwa" cannot be parted


def test_timestamp_tokens() -> None:
    text = "<|0.00|> One, two.<|2.40|><|2.40|> Three!<|4.80|><|5.20|>四。<|6.00|>"
    pieces = split_long(clip(text, 6.0), 5.0)
    assert spans(pieces) == [("One, two. Three!", 0.0, 4.9), ("四。", 5.0, 6.0)]
    assert split_long(clip("before <|0.00|> One.<|2.40|>", 6.0), 5.0) is None
    assert split_long(clip("<|0.00|> One.<|2.40|><|0.00|> Two.<|6.00|>", 9.0), 5.0) is None


def test_the_rows_own_writing_is_kept() -> None:
    """Recognisers write in lower case and without marks, and Japanese has no spaces."""
    said = segments(("hodi je yupo", 0, 3), ("ndiyo", 3, 6))
    pieces = split_long(clip("“Hodi! Je, yupo?” «Ndiyo.»", 6.0, segments=said), 4.0)
    assert [one.text for one in pieces or []] == ["“Hodi! Je, yupo?”", "«Ndiyo.»"]
    said = segments(("今日は", 0, 3), ("晴れ", 3, 6))
    pieces = split_long(clip("今日は、「晴れ」。", 6.0, segments=said), 4.0)
    assert [one.text for one in pieces or []] == ["今日は、", "「晴れ」。"]


@pytest.mark.parametrize(
    "said",
    [
        segments(("One, two.", 1.0, 12.0), ("Something else", 12.0, 41.0)),
        segments(("One, two.", 1.0, 12.0), ("Three! Four?", 8.0, 41.0)),
        segments(("One, two.", 1.0, 12.0), ("Three! Four?", 12.0, 50.0)),
        segments(("One, two.", 12.0, 24.0), ("Three! Four?", 1.0, 12.0)),
        segments(("One, two.", -3.0, 12.0), ("Three! Four?", 12.0, 41.0)),
        segments(("One, two.", float("nan"), 12.0), ("Three! Four?", 12.0, 41.0)),
        [],
        ["One, two.", "Three! Four?"],
        [{"start": 1.0, "end": 2.0}],
        "no JSON",
        17,
    ],
)
def test_boundaries_that_cannot_be_true_are_not_used(said: Any, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(42 * SAMPLING_RATE), SAMPLING_RATE)
    assert split_long(clip(TEXT, 42.0, tmp_path / "a.wav", segments=said), 30.0) is None


@given(
    lengths=st.lists(st.floats(0.05, 8.0), min_size=1, max_size=30),
    gaps=st.lists(st.floats(0.0, 3.0), min_size=30, max_size=30),
)
def test_pieces_hold_the_whole_text_in_order(lengths: list[float], gaps: list[float]) -> None:
    said, now = [], 0.0
    for number, (length, gap) in enumerate(zip(lengths, gaps, strict=False)):
        said += segments((f"word{number}", now + gap, now + gap + length))
        now += gap + length
    text = " ".join(row["text"] for row in said)
    pieces = split_long(clip(text, now + 1.0, segments=said), 10.0)
    if pieces is None:
        assert min(lengths) < 0.1
        return
    assert " ".join(one.text for one in pieces) == text
    edges = [edge for one in pieces for edge in (one.start_seconds or 0, one.end_seconds or 0)]
    assert np.diff(edges).min() > -1e-9
    assert all(one.duration_seconds <= 10.0 + 1e-9 for one in pieces)
    for one, two in pairwise(pieces):  # as long as possible
        first_of_two = next(row for row in said if two.text.split()[0] == row["text"])
        last_start = next(row for row in said if one.text.split()[0] == row["text"])["start"]
        assert first_of_two["end"] - last_start > 10.0


def test_where_nobody_speaks_any_cut_is_right() -> None:
    pieces = split_long(clip("", 65.0), 30.0)
    assert [one.text for one in pieces or []] == ["", "", ""]
    assert (pieces or [])[-1].end_seconds == 65.0


# ── pauses ───────────────────────────────────────────────────────────────────────────────────


def spoken(text: str, pauses: dict[str, float], seconds_a_letter: float = 0.1) -> np.ndarray:
    """Noise for as long as letters take, and after each mark the pause that belongs to it."""
    rng = np.random.default_rng(0)
    parts = []
    for character in text:
        seconds = seconds_a_letter if character.isalnum() else pauses.get(character, 0.0)
        level = 0.1 if character.isalnum() else 1e-4
        parts.append(rng.normal(scale=level, size=round(seconds * SAMPLING_RATE)))
    return np.concatenate(parts).astype(np.float32)


SENTENCES = "Jina langu ni Asha na ninaishi mjini Arusha pamoja na ndugu zangu. " * 6


def spoken_clip(folder: Path, text: str, pauses: dict[str, float]) -> Utterance:
    samples = spoken(text, pauses)
    soundfile.write(folder / "a.wav", samples, SAMPLING_RATE)
    return clip(text.strip(), len(samples) / SAMPLING_RATE, folder / "a.wav")


def test_a_clip_is_cut_in_the_pauses_of_its_sentences(tmp_path: Path) -> None:
    long = spoken_clip(tmp_path, SENTENCES, {".": 0.8})
    pieces = split_long(long, 15.0)
    assert pieces is not None
    assert " ".join(one.text for one in pieces) == SENTENCES.strip()
    assert all(one.text.endswith("zangu.") for one in pieces)
    for one in pieces:
        letters = sum(character.isalnum() for character in one.text)
        samples = read_audio(one.audio, one.start_seconds, one.end_seconds)
        voiced = (np.abs(samples[: len(samples) // 160 * 160]).reshape(-1, 160).max(1) > 0.01).sum()
        assert voiced / 100 == pytest.approx(0.1 * letters, abs=0.05)


def test_no_marks_or_no_pauses_give_no_cut(tmp_path: Path) -> None:
    assert split_long(spoken_clip(tmp_path, SENTENCES.replace(".", ""), {" ": 0.35}), 15.0) is None
    assert split_long(spoken_clip(tmp_path, SENTENCES, {}), 15.0) is None


def test_pauses_that_are_alike_give_no_cut(tmp_path: Path) -> None:
    """With a pause after every word nobody knows which of them ends the sentence."""
    assert split_long(spoken_clip(tmp_path, SENTENCES, {" ": 0.4, ".": 0.0}), 15.0) is None


def test_a_pause_in_a_wrong_place_gives_no_cut(tmp_path: Path) -> None:
    text = "Asha na Juma na Amina" + " na ndugu zangu" * 12 + ". Ndiyo"
    samples = spoken(text.replace("Amina", "Amina;", 1), {";": 0.8})
    soundfile.write(tmp_path / "a.wav", samples, SAMPLING_RATE)
    long = clip(text, len(samples) / SAMPLING_RATE, tmp_path / "a.wav")
    assert split_long(long, 14.0) is None


@pytest.mark.parametrize("mark", ["。", "؟ ", "। ", "! ", "; "])
def test_marks_of_many_scripts(tmp_path: Path, mark: str) -> None:
    text = ("neno" * 30 + mark) * 2 + "neno"
    pieces = split_long(spoken_clip(tmp_path, text, {mark[0]: 0.9}), 14.0)
    assert next(one.text for one in pieces or []) == "neno" * 30 + mark.strip()


def test_points_in_numbers_and_abbreviations_are_no_ends(tmp_path: Path) -> None:
    text = "U.S.A" + "neno" * 30 + "3.5" + "neno" * 30
    assert split_long(spoken_clip(tmp_path, text, {".": 0.9}), 14.0) is None


@needs_recordings
def test_real_sentences_are_told_apart(tmp_path: Path) -> None:
    """Precision over more clips: benchmarks/data_long_audio.py."""
    rows = [json.loads(line) for line in (SWAHILI / "metadata.jsonl").read_text().splitlines()]
    cut = 0
    for first in range(0, 30, 3):
        chosen = rows[first : first + 3]
        samples = np.concatenate([read_audio(SWAHILI / row["file_name"]) for row in chosen])
        soundfile.write(tmp_path / "a.wav", samples, SAMPLING_RATE)
        text = " ".join(row["transcription"] for row in chosen)
        pieces = split_long(clip(text, len(samples) / SAMPLING_RATE, tmp_path / "a.wav"), 30.0)
        cut += pieces is not None
        for one in pieces or []:
            assert one.text.endswith(tuple(row["transcription"] for row in chosen))
            assert one.duration_seconds <= 30.0
    assert cut >= 4


# ── silence detection ────────────────────────────────────────────────────────────────────────────


def silence(seconds: float, level_db: float = -70.0) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=round(seconds * SAMPLING_RATE))
    return (10 ** (level_db / 20) * noise).astype(np.float32)


@pytest.mark.parametrize("gain", [1.0, 0.01])
@pytest.mark.parametrize("floor_db", [-200.0, -70.0, -40.0])
def test_pauses_are_found_where_they_were_put(gain: float, floor_db: float) -> None:
    pause = silence(0.5, floor_db)
    clip = np.concatenate([tone(2.0), pause, tone(1.0), silence(0.2, floor_db), tone(1.0), pause])
    found = find_pauses(gain * clip)
    np.testing.assert_allclose(found, [[2.0, 2.5], [4.7, 5.2]], atol=0.03)


def test_a_click_does_not_end_a_pause() -> None:
    clip = np.concatenate([tone(1.0), silence(0.3), tone(0.05), silence(0.3), tone(1.0)])
    np.testing.assert_allclose(find_pauses(clip), [[1.0, 1.65]], atol=0.03)


def test_what_has_no_pauses() -> None:
    assert find_pauses(np.zeros(0, np.float32)).shape == (0, 2)
    assert find_pauses(np.zeros(100, np.float32)).shape == (0, 2)
    assert find_pauses(np.zeros(SAMPLING_RATE, np.float32)).shape == (0, 2)
    assert find_pauses(tone(3.0)).shape == (0, 2)
    assert find_pauses(silence(3.0)).shape == (0, 2)


def test_digital_zeros_are_not_the_floor_of_a_recording() -> None:
    """A clip that somebody has edited: its own quiet stays quiet beside the zeros."""
    room = silence(0.5, -60.0)
    clip = np.concatenate([np.zeros(SAMPLING_RATE, np.float32), tone(2.0), room, tone(1.0)])
    np.testing.assert_allclose(find_pauses(clip), [[0.0, 1.0], [3.0, 3.5]], atol=0.03)
