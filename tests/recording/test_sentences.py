"""Sentences to be read, from whatever file is given for them."""

from pathlib import Path

import pytest

from lora_whisper.errors import UserError
from lora_whisper.recording.sentences import LONGEST_CHARACTERS, read_sentences


def test_each_line_is_one_and_each_once(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_bytes("\ufeffHabari  za asubuhi.\r\n\r\n  Habari za\tasubuhi.\nሰላም ነው?\n".encode())
    assert read_sentences(path) == ["Habari za asubuhi.", "ሰላም ነው?"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "there is no such file"),
        (b"\n \n", "nothing in it to read"),
        (b"ol\xe1\n", "no UTF-8 at byte 2"),
        (b"a\0b", "no text"),
        (b"fine\n" + b"a" * (LONGEST_CHARACTERS + 1), "in line 2"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, content: bytes | None, found: str) -> None:
    path = tmp_path / "s.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=found):
        read_sentences(path)
