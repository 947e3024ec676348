"""What one row measures, against what is known of a sine and of Unicode."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from lora_whisper.data import quality_measures
from lora_whisper.data.audio import REMARKS, EncodedAudio
from lora_whisper.data.dataset import Defaults, Table, Utterance, Utterances
from lora_whisper.data.quality import inspect
from lora_whisper.data.quality_measures import (
    Categories,
    TextRules,
    digits,
    measure,
    measure_sound,
    measure_sounds,
    mixed_scripts,
    text_key,
)
from lora_whisper.data.windows import window_tokens
from lora_whisper.errors import UserError
from lora_whisper.model.tokenizer import read_special_tokens
from tests.toy_speech import tone, write_clip
from tests.toy_tokenizers import toy_generation_config, toy_tokenizer
from tests.toy_utterances import toy_row
from tests.toys import toy_config

GENUINE = Path("../shared/whisper/whisper-tiny")


def utterance(audio: Path | EncodedAudio, text: str = "one", **changes: Any) -> Utterance:
    fields: dict[str, Any] = {
        "language": "en",
        "task": "transcribe",
        "start_seconds": None,
        "end_seconds": None,
        "speaker": None,
        "row": "a.jsonl:1",
        "columns": {},
    }
    return Utterance(audio, text, **fields | changes)


def written(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    soundfile.write(path, samples, rate)
    return path


@pytest.fixture(scope="module")
def rules() -> TextRules:
    tokenizer = toy_tokenizer(window_seconds=2)
    generation = toy_generation_config(tokenizer)
    return TextRules(tokenizer, read_special_tokens(tokenizer, generation, toy_config()))


def test_the_level_of_a_sine(tmp_path: Path) -> None:
    """Half of full scale is -6 dB, and the mean of a sine's square lies 3 dB below its peak."""
    sound = measure_sound(utterance(write_clip(tmp_path / "a.wav", 1.0, rate=44_100)))
    assert sound.problem == ""
    assert sound.rms_dbfs == pytest.approx(-9.03, abs=0.02)
    assert sound.loudest_dbfs == pytest.approx(-9.03, abs=0.2)
    assert (sound.rate, sound.seconds, sound.format) == (44_100, 1.0, "wav")
    assert sound.clipped_share == 0.0


def test_the_share_of_clipped_samples(tmp_path: Path) -> None:
    """|2 sin| reaches 0.99 for all but 2/π · asin(0.495) of a period."""
    clip = written(tmp_path / "a.wav", np.clip(4 * tone(1.0), -1, 1))
    expected = 1 - 2 / math.pi * math.asin(0.495)
    assert measure_sound(utterance(clip)).clipped_share == pytest.approx(expected, abs=0.01)


def test_pauses_and_silence(tmp_path: Path) -> None:
    half = written(tmp_path / "half.wav", np.concatenate([tone(1.0), np.zeros(16_000)]))
    assert measure_sound(utterance(half)).quiet_share == pytest.approx(0.5, abs=0.02)
    nothing = written(tmp_path / "nothing.wav", np.zeros(16_000))
    assert measure_sound(utterance(nothing)).loudest_dbfs == quality_measures.QUIETEST_DBFS


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("level", [0.01, -0.9])
def test_a_constant_is_silence_and_no_part_of_a_level(
    tmp_path: Path, rules: TextRules, rate: int, level: float
) -> None:
    constant = written(tmp_path / "constant.wav", np.full(2 * rate, level), rate)
    assert measure_sound(utterance(constant)).loudest_dbfs < -100
    moved = written(tmp_path / "moved.wav", 0.2 * tone(1.0, rate) + level / 2, rate)
    assert measure_sound(utterance(moved)).rms_dbfs == pytest.approx(-23.01, abs=0.05)
    rows = [toy_row(n, audio=path) for n, path in enumerate((constant, moved))]
    utterances = Utterances([Table.from_rows(rows)], Defaults("en", "transcribe"))
    found = {one.key: one for one in inspect(measure({"train": utterances}, rules), rules, 30.0)}
    assert found["silent"].numbers["train"].tolist() == [0]


def test_opus_has_the_rate_of_what_was_encoded_where_it_states_one(tmp_path: Path) -> None:
    """It is decoded at 48 kHz always, which is not the recording's."""
    clip = tmp_path / "a.opus"
    soundfile.write(clip, tone(1.0), 16_000, format="OGG", subtype="OPUS")
    assert measure_sound(utterance(clip)).rate == 16_000
    film = tmp_path / "a.mkv"
    with av.open(str(clip)) as ogg, av.open(str(film), "w") as matroska:
        stream = matroska.add_stream_from_template(ogg.streams.audio[0])
        for packet in ogg.demux(ogg.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                matroska.mux(packet)
    assert measure_sound(utterance(film)).rate == 16_000
    head = clip.read_bytes()
    page = bytearray(head[: head.index(b"OggS", 4)])
    page[40:44], page[22:26] = bytes(4), bytes(4)  # of the input, and its checksum: not stated
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    page[22:26] = crc.to_bytes(4, "little")
    clip.write_bytes(bytes(page) + head[len(page) :])
    assert measure_sound(utterance(clip)).rate == 0


def test_the_same_samples_in_another_file_are_known_again(tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / "a.wav", 1.0), tmp_path / "b.flac"]
    soundfile.write(clips[1], *soundfile.read(clips[0], dtype="int16"))
    other = write_clip(tmp_path / "c.wav", 1.0, frequency=441.0)
    one, two, three = (measure_sound(utterance(clip)).fingerprint for clip in [*clips, other])
    assert one == two != three
    inside = EncodedAudio("set train:1", clips[1].read_bytes)
    assert measure_sound(utterance(inside)).fingerprint == one


@pytest.mark.parametrize(
    ("seconds", "changes", "problem"),
    [
        (0.05, {}, "too_short"),
        (0.1, {}, ""),
        (1.0, {"start_seconds": 0.5, "end_seconds": 0.55}, "too_short"),
        (1.0, {"start_seconds": 0.5, "end_seconds": 1.5}, "truncated"),
        (1.0, {"start_seconds": 2.0}, "truncated"),
        (1.0, {"columns": {"duration": 12.5}}, "truncated"),
        (1.0, {"columns": {"duration": 1.05}}, ""),
        (1.0, {"columns": {"duration": 1000}}, ""),  # milliseconds
        (1.0, {"columns": {"duration": 9.0}, "start_seconds": 0.2, "end_seconds": 0.8}, ""),
    ],
)
def test_clips_that_are_too_short_or_not_all_there(
    tmp_path: Path, seconds: float, changes: dict[str, Any], problem: str
) -> None:
    clip = write_clip(tmp_path / "a.wav", seconds)
    assert measure_sound(utterance(clip, **changes)).problem == problem


def test_a_file_that_breaks_off(tmp_path: Path) -> None:
    """A WAV tells it by its header; a FLAC by the sound that is missing."""
    for name in ("a.wav", "a.flac"):
        clip = write_clip(tmp_path / name, 2.0)
        clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
        sound = measure_sound(utterance(clip))
        assert sound.problem in ("truncated", "unreadable"), name
        assert name in sound.detail


@pytest.mark.parametrize("content", [None, b"", b"no sound at all" * 100])
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.wav").write_bytes(content)
    sound = measure_sound(utterance(tmp_path / "a.wav"))
    assert sound.problem == "unreadable"
    assert math.isnan(sound.rms_dbfs)


def test_a_long_recording_is_measured_in_stretches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = written(tmp_path / "a.wav", np.concatenate([np.zeros(16_000), tone(2.25)]))
    whole = measure_sound(utterance(clip))
    monkeypatch.setattr(quality_measures, "STRETCH_SECONDS", 1.0)
    stretches = measure_sound(utterance(clip))
    assert stretches.rms_dbfs == pytest.approx(whole.rms_dbfs, abs=0.05)
    assert stretches.quiet_share == pytest.approx(whole.quiet_share, abs=0.02)


def test_all_cores_measure_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [write_clip(tmp_path / f"{n}.wav", 0.2 + n / 10, frequency=200 + n) for n in range(5)]
    rows = [utterance(clip) for clip in [*clips, tmp_path / "gone.wav"]]
    expected = list(measure_sounds(rows))
    monkeypatch.setattr(quality_measures, "FEWEST_POOLED_ROWS", 1)
    monkeypatch.setattr(quality_measures, "PART_ROWS", 2)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert repr(list(measure_sounds(rows))) == repr(expected)  # NaN is not equal to itself


def test_a_decoder_that_takes_its_process_down_is_told_by_its_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quality_measures, "FEWEST_POOLED_ROWS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    crash = EncodedAudio("crash", partial(os._exit, 3))
    rows = [utterance(crash, row=f"a.jsonl:{number}") for number in (1, 2, 3)]
    with pytest.raises(UserError, match=r"from a\.jsonl:1 to a\.jsonl:3"):
        list(measure_sounds(rows))


# ── text ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("habari ya asubuhi", []),
        ("P\u043elice", ["Latin", "Cyrillic"]),  # with a Cyrillic letter
        ("ソニーのTV", ["Katakana", "Hiragana", "Latin"]),
        ("東京へ行くバス", []),
        ("한국(韓國)", []),
        ("নমস্কার, १२३", []),  # digits of another script are no letters
        ("naïve café — 12 €", []),
    ],
)
def test_scripts(text: str, scripts: list[str]) -> None:
    assert mixed_scripts(text) == scripts


def test_digits_in_any_script() -> None:
    assert digits("tarehe 14, Covid-19 na १२ ½ ya mwaka") == ["14,", "Covid-19", "१२", "½"]
    assert digits("hakuna") == []


def test_texts_are_the_same_in_any_spelling_of_case_and_accents() -> None:
    assert text_key("Cafe\u0301  noir") == text_key("CAFÉ NOIR") != text_key("cafe noir")
    assert text_key(" \t") == 0


@pytest.mark.parametrize("length", [10, 56, 57, 58, 59, 60, 61, 90])
def test_tokens_are_counted_where_they_may_not_fit(rules: TextRules, length: int) -> None:
    """Against the sequence that training would make: its last token is a label only."""
    one = utterance(Path("a.wav"), "x" * length)
    positions = len(window_tokens(one, rules.tokenizer, rules.special_tokens)) - 1
    assert rules.tokens(one) in (0, positions)
    assert (rules.tokens(one) > rules.special_tokens.max_tokens) == (
        positions > rules.special_tokens.max_tokens
    )


def test_characters_that_are_spelled_in_bytes(rules: TextRules) -> None:
    """The toy tokenizer has no merges beyond ASCII."""
    assert rules.spelled_in_bytes("a café, ŋoma café") == ["é", "ŋ"]


@pytest.mark.skipif(not GENUINE.is_dir(), reason="without the genuine tokenizer")
def test_the_genuine_tokenizer_knows_european_letters_and_not_all_of_africa() -> None:
    from transformers import WhisperTokenizer

    tokenizer = WhisperTokenizer.from_pretrained(GENUINE)
    rules = TextRules(tokenizer, None)  # type: ignore[arg-type]
    assert rules.spelled_in_bytes("naïve, “ñandú” — où ça? Ж") == []
    assert rules.spelled_in_bytes("ሀገር ⵣ") != []


def test_a_language_that_the_checkpoint_lacks(rules: TextRules) -> None:
    assert rules.language_problem(utterance(Path("a.wav"))) == ""
    assert "klingon" in rules.language_problem(utterance(Path("a.wav"), language="klingon"))
    assert "has to be told" in rules.language_problem(utterance(Path("a.wav"), language=None))
    borrowed = utterance(Path("a.wav"), language="luo", language_token="en")
    assert rules.language_problem(borrowed) == ""


def test_names_are_numbered_once() -> None:
    names = Categories()
    assert [names.number(name) for name in ("b", "a", None, "b", "")] == [0, 1, -1, 0, -1]
    assert [names[0], names[1], names[-1]] == ["b", "a", ""]


def test_what_was_read_all_the_same_is_found_by_check(tmp_path: Path, rules: TextRules) -> None:
    samples = tone(1.0)
    written(tmp_path / "cancelling.wav", np.stack([samples, -samples], 1))
    soundfile.write(tmp_path / "beyond_scale.wav", 300 * samples, 16_000, subtype="FLOAT")
    for name, data_bytes in (("short", 33_000), ("unstated", 0)):
        content = bytearray(write_clip(tmp_path / f"{name}.wav", 1.0).read_bytes())
        content[40:44] = data_bytes.to_bytes(4, "little")
        (tmp_path / f"{name}.wav").write_bytes(content)
    write_clip(tmp_path / "sound.wav", 1.0)
    rows = [
        toy_row(n, audio=tmp_path / f"{name}.wav") for n, name in enumerate([*REMARKS, "sound"])
    ]
    utterances = Utterances([Table.from_rows(rows)], Defaults("en", "transcribe"))
    measured = measure({"train": utterances}, rules)
    found = {one.key: one for one in inspect(measured, rules, 30.0)}
    for number, kind in enumerate(REMARKS):
        assert found[kind].numbers["train"].tolist() == [number]
        assert next(found[kind].rows()).detail
    assert not found["unreadable"].count
    assert not found["silent"].count
