"""Cues of SubRip and WebVTT: their times, their text, and every block that is none."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pysubs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.data.sources.cues import Cue, read_cues
from lora_whisper.data.sources.rows import Problems
from lora_whisper.errors import UserError

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
    problems = Problems("a.srt")
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
    problems = Problems("a.srt")
    found = read_cues(io.StringIO(damaged, newline=""), problems)
    assert problems.count or len(found) >= 2 or "NOTE" in damaged
    for cue in found:
        assert 0 <= cue.start < cue.end
        cue.spoken.encode()
