"""What the first and the last bytes of a file tell: its length, and whether its end is missing.

libsndfile and ffmpeg take a WAV or Ogg file that was cut off for a shorter one; and to open an Ogg
file costs either ten times as much as to read its first and its last page here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LONGEST_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # header, segment table, segments (RFC 3533)
UNKNOWN_SIZE = 0x7FFF0000  # what writes into a pipe states nearly 2 or 4 GiB, or nothing
FORGIVEN_BYTES = 64  # a RIFF's padding or header that its writer counted and did not write
OPUS_RATE = 48_000  # of its time stamps, whatever was encoded (RFC 7845)


@dataclass(frozen=True)
class Ends:
    """Both ends of a file; only an Ogg's last bytes are read."""

    head: bytes
    tail: bytes
    size_bytes: int


def read_ends(source: str | bytes) -> Ends:
    if isinstance(source, bytes):
        return Ends(source[:64], source[-LONGEST_OGG_PAGE_BYTES:], len(source))
    size_bytes = Path(source).stat().st_size
    with open(source, "rb") as file:
        head = file.read(64)
        if not head.startswith(b"OggS"):
            return Ends(head, b"", size_bytes)
        file.seek(max(size_bytes - LONGEST_OGG_PAGE_BYTES, 0))
        return Ends(head, file.read(), size_bytes)


def end_early(ends: Ends) -> bool:
    """Whether a WAV, AIFF or Ogg file lacks its end; False for others."""
    head = ends.head
    if head[:4] in (b"RIFF", b"FORM"):
        stated = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big") + 8
        return ends.size_bytes + FORGIVEN_BYTES < stated < UNKNOWN_SIZE
    return head[:4] == b"OggS" and not _is_whole(_last_page(ends))


def ogg_length(ends: Ends) -> tuple[int, int] | None:
    """Rate and samples that the last page of an Ogg Opus or Vorbis file states; None for others."""
    page, head = _last_page(ends), ends.head
    packet = head[28:]
    granule = int.from_bytes(page[6:14], "little", signed=True)
    if page[14:18] != head[14:18] or granule < 0:  # of another stream, or in the midst of a packet
        return None
    if packet.startswith(b"OpusHead"):
        return OPUS_RATE, granule - int.from_bytes(packet[10:12], "little")
    if packet.startswith(b"\x01vorbis"):
        return int.from_bytes(packet[12:16], "little"), granule
    return None


def _last_page(ends: Ends) -> bytes:
    """The last page that begins in an Ogg file, and what follows it."""
    begin = ends.tail.rfind(b"OggS\0")
    return ends.tail[begin:] if begin >= 0 else b""


def _is_whole(page: bytes) -> bool:
    """As long as its table of segments says. Only after the very last page, marked as such, may
    something else follow. (Not all that is sent live has a page so marked.)"""
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    is_last = bool(page[5] & 4)
    return len(page) == length or (is_last and len(page) > length)
