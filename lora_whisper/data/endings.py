"""Whether a file ends where its own structure says, for formats whose decoders do not tell.

libsndfile and ffmpeg take a WAV or Ogg file that was cut off for a shorter one.
"""

from __future__ import annotations

from pathlib import Path

LONGEST_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # header, segment table, segments (RFC 3533)
UNKNOWN_SIZE = 0x7FFF0000  # what writes into a pipe states nearly 2 or 4 GiB, or nothing
FORGIVEN_BYTES = 64  # a RIFF's padding or header that its writer counted and did not write


def ends_early(source: str | bytes) -> bool:
    """Whether a WAV, AIFF or Ogg file lacks its end; False for others."""
    head, tail, size = _ends(source)
    if head[:4] in (b"RIFF", b"FORM"):
        stated = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big") + 8
        return size + FORGIVEN_BYTES < stated < UNKNOWN_SIZE
    return head[:4] == b"OggS" and not _ends_with_a_page(tail)


def _ends(source: str | bytes) -> tuple[bytes, bytes, int]:
    """The first bytes, as many of the last as a page may have, and the size."""
    if isinstance(source, bytes):
        return source[:8], source[-LONGEST_OGG_PAGE_BYTES:], len(source)
    size = Path(source).stat().st_size
    with open(source, "rb") as file:
        head = file.read(8)
        file.seek(max(size - LONGEST_OGG_PAGE_BYTES, 0))
        return head, file.read(), size


def _ends_with_a_page(tail: bytes) -> bool:
    """The last page is as long as its table of segments says; only after the very last, marked as
    such, may something else follow. (Not all that is sent live has a page so marked.)"""
    begin = tail.rfind(b"OggS\0")
    page = tail[begin:] if begin >= 0 else b""
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    is_last = bool(page[5] & 4)
    return len(page) == length or (is_last and len(page) > length)
