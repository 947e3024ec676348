"""Long recordings with subtitles beside them."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pysubs2
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.data.audio import read_audio
from lora_whisper.data.dataset import Row
from lora_whisper.data.sources import read_split
from lora_whisper.data.sources.rows import BadRows
from lora_whisper.data.sources.subtitles import Cue, parts, read_cues
from lora_whisper.errors import UserError
from tests.configs import data_config
from tests.toy_containers import KINDS, encode
from tests.toy_speech import tone, write_clip

CONFIG = replace(data_config("subtitles", path="x"), train=None)

ENGLISH = Path("../shared/speech/english")
Times = tuple[float, float, str]


def clock(seconds: float) -> str:
    return f"{int(seconds // 3600):02d}:{int(seconds // 60 % 60):02d}:{seconds % 60:06.3f}"


def write_cues(path: Path, *cues: Times) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = [f"{clock(start)} --> {clock(end)}\n{text}\n" for start, end, text in cues]
    head = "WEBVTT\n\n" if path.suffix == ".vtt" else ""
    path.write_text(head + "\n".join(blocks), encoding="utf-8")
    return path


def read(folder: Path, **changes: Any) -> list[Row]:
    config = replace(CONFIG, path=str(folder), **changes)
    drop_bad = config.bad_audio == "drop"
    (part,) = parts(folder, config.language, config.task, drop_bad)
    return list(part.rows())


def spans(rows: Sequence[Row]) -> list[Times]:
    return [(row.start or 0.0, row.end or 0.0, row.text) for row in rows]


def test_each_cue_is_a_slice_of_the_recording(tmp_path: Path) -> None:
    write_clip(tmp_path / "talk.wav", 4.0)
    write_cues(tmp_path / "talk.srt", (0.5, 1.25, "Habari?"), (1.5, 3.0, "Nzuri,\nasante."))
    config = replace(CONFIG, path=str(tmp_path), validation_share=0.0, test_share=0.0)
    first, second = read_split(config, "train") or ()
    assert (first.row, first.audio) == ("talk.srt:1", tmp_path / "talk.wav")
    assert (second.text, second.previous_text) == ("Nzuri, asante.", "Habari?")
    assert isinstance(second.audio, Path)
    heard = read_audio(second.audio, second.start_seconds, second.end_seconds)
    assert len(heard) == 24_000


def test_a_film(tmp_path: Path) -> None:
    kind = KINDS["mp4"]
    sounds = [tone(1.0, kind.rate, frequency) for frequency in (300.0, 600.0, 900.0)]
    encode(tmp_path / "film.mp4", np.concatenate(sounds), kind)
    write_cues(tmp_path / "film.vtt", (0, 1, "300"), (1, 2, "600"), (2, 3, "900"))
    for row in read(tmp_path):
        heard = read_audio(Path(row.audio), row.start, row.end)
        loudest = np.abs(np.fft.rfft(heard)).argmax() * 16_000 / len(heard)
        assert loudest == pytest.approx(float(row.text), abs=5)


@pytest.mark.skipif(not ENGLISH.is_dir(), reason="no real speech here")
def test_real_speech_is_cut_where_it_was_joined(tmp_path: Path) -> None:
    spoken = [read_audio(clip) for clip in sorted(ENGLISH.glob("audio/spk1_snt*.wav"))]
    spoken = [samples[: len(samples) // 16 * 16] for samples in spoken]  # whole milliseconds
    soundfile.write(tmp_path / "talk.flac", np.concatenate(spoken), 16_000, subtype="PCM_24")
    ends = np.cumsum([len(samples) / 16_000 for samples in spoken])
    times = zip([0.0, *ends], ends, strict=False)
    write_cues(tmp_path / "talk.srt", *((start, end, "…") for start, end in times))
    found = read(tmp_path)
    assert len(found) == len(spoken) == 5
    for row, samples in zip(found, spoken, strict=True):
        heard = read_audio(Path(row.audio), row.start, row.end)
        np.testing.assert_allclose(heard, samples, atol=1e-6)


def test_kinds_of_recordings_and_subtitles_in_subfolders(tmp_path: Path) -> None:
    for name in ("train/a/one.MP4", "valid/two.webm", "test/three.opus"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        write_cues((tmp_path / name).with_suffix(".vtt"), (0, 1, f"<v Asha>{name}"))
    found = read(tmp_path)
    assert {row.text: row.split for row in found} == {
        "train/a/one.MP4": "train",
        "valid/two.webm": "validation",
        "test/three.opus": "test",
    }
    assert {row.speaker for row in found} == {"Asha"}
    assert "train/a/one.vtt:3" in {row.place for row in found}


def test_previous_text_only_where_it_was_just_said(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_clip(tmp_path / f"{name}.wav", 0.1)
        write_cues(tmp_path / f"{name}.srt", (0, 1, "one"), (30, 31, "two"), (70, 71, "three"))
    assert [row.previous_text for row in read(tmp_path)] == [None, "one", None] * 2


def test_cues_that_need_a_hand_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_clip(tmp_path / "talk.wav", 0.1)
    write_cues(
        tmp_path / "talk.srt",
        (5.0, 6.0, "late"),
        (0.0, 1.0, "early"),
        (0.9, 2.0, "touching"),
        (1.5, 3.0, "over it"),
        (3.0, 4.0, "<i> </i>"),
    )
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path)
    assert spans(found) == [
        (0.0, 1.0, "early"),
        (0.9, 3.0, "touching over it"),
        (5.0, 6.0, "late"),
    ]
    for message in (
        "1 cues without text, left out: talk.srt:13",
        "1 cues joined with those they overlap: talk.srt:10",
        "out of order, sorted by time",
    ):
        assert message in caplog.text


def test_automatic_captions_that_repeat_each_line_are_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "talk.mp3", 0.1)
    said = ["habari yako", "nzuri sana", "karibu tena", "asante", "haya"]
    rolling = [
        (number, number + 1, f"{old}\n{new}<00:00:01.000>")
        for number, (old, new) in enumerate(zip([" ", *said], said, strict=False))
    ]
    write_cues(tmp_path / "talk.vtt", *rolling)
    with pytest.raises(UserError, match=r"talk\.vtt roll"):
        read(tmp_path)


def test_what_is_said_again_and_again_is_kept(tmp_path: Path) -> None:
    write_clip(tmp_path / "talk.mp3", 0.1)
    write_cues(tmp_path / "talk.srt", *((number, number + 1, "haya") for number in range(9)))
    assert len(read(tmp_path)) == 9


def test_subtitles_in_several_languages(tmp_path: Path) -> None:
    write_clip(tmp_path / "talk.wav", 0.1)
    for language in ("sw", "en-US"):
        write_cues(tmp_path / f"talk.{language}.srt", (0, 1, language))
    assert [row.text for row in read(tmp_path, language="sw")] == ["sw"]
    assert [row.text for row in read(tmp_path, language="sw", task="translate")] == ["en-US"]
    assert [row.language for row in read(tmp_path, language="sw")] == [None]
    for language in (None, "fr"):
        with pytest.raises(UserError, match=r"talk\.wav has talk\.en-US\.srt, talk\.sw\.srt"):
            read(tmp_path, language=language)
    (tmp_path / "talk.en-US.srt").unlink()
    assert [row.language for row in read(tmp_path)] == ["sw"]


def test_what_belongs_to_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match="0 recordings and 0 subtitles"):
        read(tmp_path)
    for name in ("talk.wav", "other.wav"):
        write_clip(tmp_path / name, 0.1)
    write_cues(tmp_path / "talk.srt", (0, 1, "a"))
    write_cues(tmp_path / "lost.srt", (0, 1, "a"))
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert "2 files are left out" in caplog.text
    assert "lost.srt, other.wav" in caplog.text


def test_two_recordings_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("talk.wav", "talk.flac"):
        write_clip(tmp_path / name, 0.1)
    write_cues(tmp_path / "talk.srt", (0, 1, "a"))
    with pytest.raises(UserError, match=r"talk\.flac and talk\.wav both go with talk\.srt"):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    write_clip(tmp_path / "talk.wav", 0.1)
    path = write_cues(tmp_path / "talk.srt", (0, 1, "é"))
    path.write_bytes(path.read_text(encoding="utf-8").replace("\n", "\r\n").encode(encoding))
    assert spans(read(tmp_path)) == [(0, 1, "é")]


def test_a_bad_cue_costs_itself_where_bad_audio_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("talk", "other", "hopeless"):
        write_clip(tmp_path / f"{name}.wav", 0.1)
    write_cues(tmp_path / "talk.srt", (0, 1, "a"), (3, 2, "backwards"), (3, 4, "c"))
    write_cues(tmp_path / "other.srt", (0, 1, "whole"))
    (tmp_path / "hopeless.srt").write_text("no cue at all\n")
    with pytest.raises(UserError, match="has 1 block"):
        read(tmp_path)
    with caplog.at_level(logging.WARNING):
        rows = read(tmp_path, bad_audio="drop")
    assert [row.text for row in rows] == ["whole", "a", "c"]
    for line in ("talk.srt has 1 block that", "and are left out", "talk.srt:4: found", "hopeless"):
        assert line in caplog.text


def test_bad_blocks_in_one_message(tmp_path: Path) -> None:
    write_clip(tmp_path / "talk.wav", 0.1)
    path = write_cues(tmp_path / "talk.srt", (0, 1, "a"), (2, 1, "b"), (3, 4, "é"))
    path.write_bytes(path.read_text(encoding="utf-8").encode("latin-1"))
    with pytest.raises(UserError, match="has 2 blocks") as error:
        read(tmp_path)
    for line in ("talk.srt:4: found", "talk.srt:7: found", "data.bad_audio=drop leaves out what"):
        assert line in str(error.value)
    with pytest.raises(UserError, match="is missing"):
        read(tmp_path / "absent")


# ── cues ─────────────────────────────────────────────────────────────────────────────────────────


SRT = """1
00:00:01,000 --> 00:00:02,500
Habari yako?

2
01:00:03,120 --> 01:00:04,000 X1:10 X2:20
- Nzuri.
- Asante.
"""
VTT = """WEBVTT - talk
Kind: captions

STYLE
::cue { color: red }

NOTE
not to be shown

intro
00:01.000 --> 00:02.500 align:start position:0%
<v.loud Asha Juma>Habari <i>yako</i>?</v>

00:02.500 --> 1:00:04.000
<c.yellow>Tom &amp; Asha</c> <00:02.700>&lt;hapa&gt;
"""


def cues(text: str) -> list[Cue]:
    problems = BadRows("a.srt")
    found = read_cues(io.StringIO(text, newline=""), problems)
    problems.refuse("a.srt", "blocks", "expected")
    return found


def test_subrip() -> None:
    first, second = cues(SRT)
    assert first == Cue(2, 1.0, 2.5, "Habari yako?")
    assert (second.line, second.start, second.end) == (6, 3603.12, 3604.0)
    assert second.spoken == "- Nzuri. - Asante."


def test_webvtt() -> None:
    first, second = cues(VTT)
    assert (first.line, first.start, first.end) == (11, 1.0, 2.5)
    assert (first.spoken, first.speaker) == ("Habari yako?", "Asha Juma")
    assert (second.end, second.spoken, second.speaker) == (3604.0, "Tom & Asha <hapa>", None)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("text", [SRT, VTT])
def test_line_ends(text: str, end: str) -> None:
    assert [cue.spoken for cue in cues(text.replace("\n", end))] == [
        cue.spoken for cue in cues(text)
    ]


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("<i>Habari</i> {\\an8}yako", "Habari yako"),
        ('<font color="#ff0000">Habari</font>', "Habari"),
        ("3 < 4 > 2, <unknown> {braces}", "3 < 4 > 2, <unknown> {braces}"),
        ("♪ la la ♪ [laughter]", "♪ la la ♪ [laughter]"),  # data.clean may take these out
        ("<B>A</B>&nbsp;B", "A B"),
        ("<i></i>", ""),
    ],
)
def test_only_markup_goes(text: str, spoken: str) -> None:
    (cue,) = cues(f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n")
    assert cue.spoken == spoken


def test_two_voices_are_nobody() -> None:
    (cue,) = cues("00:01.000 --> 00:02.000\n<v Asha>Habari?\n<v Tom>Nzuri.\n")
    assert (cue.speaker, cue.spoken) == (None, "Habari? Nzuri.")


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("00:00:03,000 --> 00:00:02,000\na", "expected an end after the start"),
        ("00:00:02,000 --> 00:00:02,000\na", "expected an end after the start"),
        ("00:00:02,000 -> 00:00:03,000\na", "outside of any cue"),
        ("00:00:2,000 --> 00:00:03,000\na", "expected 00:00:01,500 --> 00:00:02,900"),
        ("00:00:02,5 --> 00:00:03,000\na", "expected 00:00:01,500 --> 00:00:02,900"),
        ("00:61:02,000 --> 00:62:03,000\na", "expected 00:00:01,500 --> 00:00:02,900"),
        ("-00:00:02,000 --> 00:00:03,000\na", "expected 00:00:01,500 --> 00:00:02,900"),
        ("left over from the cue above", "outside of any cue"),
        ("00:00:02,000 --> 00:00:03,000\na\n2\n00:00:03,000 --> 00:00:04,000", "blank line"),
        ("b\n2\n00:00:02,000 --> 00:00:03,000\na", "above the timing"),
        ("00:00:02,000 --> 00:00:03,000\n\udce9", "expected text in UTF-8"),
    ],
)
def test_blocks_that_are_no_cues(block: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as error:
        cues(f"{SRT}\n{block}\n\n{SRT}")
    assert "1 blocks" in str(error.value)
    assert "a.srt:10: found" in str(error.value)


def seconds() -> st.SearchStrategy[int]:
    return st.integers(0, 36_000_000)


line = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=8).filter(
    # To pysubs2 a backslash begins a code of its own, such as \\h, a space.
    lambda text: not any(part in text for part in ("-->", "<", "{", "&", "\\"))
)


@settings(deadline=None, max_examples=50)
@given(
    events=st.lists(
        st.tuples(seconds(), st.integers(1, 9_999), st.lists(line, min_size=1, max_size=3)),
        min_size=1,
        max_size=4,
    ),
    kind=st.sampled_from(["srt", "vtt"]),
)
def test_what_pysubs2_writes(events: Sequence[tuple[int, int, list[str]]], kind: str) -> None:
    written = pysubs2.SSAFile()
    for start, length, lines in events:
        written.append(pysubs2.SSAEvent(start, start + length, "\\N".join(lines)))
    found = cues(written.to_string(kind))
    assert [(round(cue.start * 1000), round(cue.end * 1000), cue.lines) for cue in found] == [
        (event.start, event.end, event.plaintext.splitlines())
        for event in (written if kind == "srt" else sorted(written, key=lambda one: one.start))
    ]


@settings(deadline=None, max_examples=150)
@given(place=st.integers(0, 400), letters=st.text(max_size=3), text=st.sampled_from([SRT, VTT]))
def test_damaged_files_lose_no_text(place: int, letters: str, text: str) -> None:
    place = min(place, len(text))
    damaged = text[:place] + letters + text[place:]
    problems = BadRows("a.srt")
    found = read_cues(io.StringIO(damaged, newline=""), problems)
    assert problems.count or len(found) >= 2 or "NOTE" in damaged
    for cue in found:
        assert 0 <= cue.start < cue.end
        cue.spoken.encode()
