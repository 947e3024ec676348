"""The sentences that are to be read aloud: a line of a text file each."""

from __future__ import annotations

from pathlib import Path

from lora_whisper.errors import UserError

MOST_BYTES = 20_000_000
LONGEST_CHARACTERS = 500  # some 30 seconds of reading, which is all that a window of Whisper holds
EXPECTED = "Expected a text file in UTF-8 with one sentence a line, such as sentences=sentences.txt"


def read_sentences(path: Path) -> list[str]:
    """Each sentence once, in the file's order; an empty line is none.

    Raises:
        UserError: no such file, no text in it, or a line that is too long for one take.
    """
    if not path.is_file():
        found = "that is a folder" if path.is_dir() else "there is no such file"
        raise UserError(f"sentences={path}: {found}. {EXPECTED}.")
    if (size_bytes := path.stat().st_size) > MOST_BYTES:
        raise UserError(f"sentences={path}: {size_bytes:,} bytes are too many. {EXPECTED}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"sentences={path}: no UTF-8 at byte {error.start}. {EXPECTED}.") from None
    if "\0" in text:
        raise UserError(f"sentences={path}: that is no text. {EXPECTED}.")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    long = [number for number, line in enumerate(lines, 1) if len(line) > LONGEST_CHARACTERS]
    if long:
        numbers = ", ".join(map(str, long[:10])) + (", …" if len(long) > 10 else "")
        raise UserError(
            f"sentences={path}: more than {LONGEST_CHARACTERS} characters in line {numbers}. "
            "Break it into several: a take has to fit into 30 seconds."
        )
    if sentences := list(dict.fromkeys(filter(None, lines))):
        return sentences
    raise UserError(f"sentences={path}: there is nothing in it to read. {EXPECTED}.")
