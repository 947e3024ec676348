"""Both ends of a file of sound: what it is, how long it says to be, and whether its end is there.

libsndfile and ffmpeg take a WAV or Ogg file that was cut off for a shorter one; and to open an Ogg
file costs either ten times as much as to read its first and its last page here. What reads a file
is decided by what is found here, too.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

LONGEST_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # header, segment table, segments (RFC 3533)
UNKNOWN_SIZE = 0x7FFF0000  # what writes into a pipe states nearly 2 or 4 GiB, or nothing
FORGIVEN_BYTES = 64  # a RIFF's padding or header that its writer counted and did not write
FORGIVEN_SHARE = 0.05  # of the stated length; apps that record state some per cent too much
MOST_CHUNKS = 100  # of a WAV, before its sound
PLAIN_TAGS = {1, 3, 6, 7}  # of WAV: integers, floats, A-law and mu-law, read by seeking alone
EXTENSIBLE_TAG = 0xFFFE
OPUS_RATE = 48_000  # of its time stamps, whatever was encoded (RFC 7845)


@dataclass(frozen=True)
class Wave:
    """What a WAV says of its sound (also RF64 and BW64, for more than 4 GB)."""

    tag: int  # how samples are written
    begin_bytes: int  # where they begin
    stated_bytes: int  # how long they are, by the header
    is_empty: bool  # without samples, and not only without their length


@dataclass(frozen=True)
class Ends:
    """Both ends of a file; only an Ogg's last bytes are read, and the chunks of a WAV."""

    head: bytes
    tail: bytes
    size_bytes: int
    wave: Wave | None = None

    @property
    def is_plain(self) -> bool:
        """WAV or FLAC of the kinds that libsndfile reads safely, by seeking, to the sample."""
        if self.head[:4] == b"fLaC":
            return True
        return self.wave is not None and self.wave.tag in PLAIN_TAGS and self.wave.stated_bytes > 0


def read_ends(source: str | bytes) -> Ends:
    if isinstance(source, bytes):
        tail, size_bytes = source[-LONGEST_OGG_PAGE_BYTES:], len(source)
        return Ends(source[:64], tail, size_bytes, _wave(io.BytesIO(source), size_bytes))
    size_bytes = Path(source).stat().st_size
    with open(source, "rb") as file:
        head = file.read(64)
        if not head.startswith(b"OggS"):
            return Ends(head, b"", size_bytes, _wave(file, size_bytes))
        file.seek(max(size_bytes - LONGEST_OGG_PAGE_BYTES, 0))
        return Ends(head, file.read(), size_bytes)


def missing_share(ends: Ends) -> float:
    """How much of a WAV, AIFF or Ogg file its own length says to be missing; 0 for others.

    The end of an Ogg is there or not: how much is missing nobody knows, and counts as all.
    """
    head = ends.head
    if head[:4] == b"OggS":
        return 0.0 if _is_whole(_last_page(ends)) else 1.0
    if head[:4] not in (b"RIFF", b"FORM"):
        stated_sizes = []
    else:
        order: Literal["little", "big"] = "little" if head[:4] == b"RIFF" else "big"
        stated_sizes = [int.from_bytes(head[4:8], order) + 8]
    if ends.wave is not None:
        stated_sizes.append(ends.wave.begin_bytes + ends.wave.stated_bytes)
    believed = [stated for stated in stated_sizes if stated < UNKNOWN_SIZE]
    stated = max(believed, default=0)
    missing = stated - ends.size_bytes
    return missing / stated if missing > FORGIVEN_BYTES else 0.0


def end_early(ends: Ends) -> bool:
    """Whether a WAV, AIFF or Ogg file lacks its end; False for others."""
    return missing_share(ends) > FORGIVEN_SHARE


def _wave(file: BinaryIO, size_bytes: int) -> Wave | None:
    """The chunks of a WAV up to its sound; None for what is none, or has none."""
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RIFX", b"RF64", b"BW64") or head[8:] != b"WAVE":
        return None
    order: Literal["little", "big"] = "big" if head[:4] == b"RIFX" else "little"
    tag, large = -1, 0
    for _ in range(MOST_CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8:
            return None
        stated, begin = int.from_bytes(chunk[4:], order), file.tell()
        if chunk[:4] == b"data":
            is_large = head[:4] in (b"RF64", b"BW64") and stated == 0xFFFFFFFF
            is_empty = stated == 0 and _is_last(file.read(8), order, size_bytes - begin)
            return Wave(tag, begin, large if is_large else stated, is_empty)
        start = file.read(min(stated, 40))
        if chunk[:4] == b"fmt ":
            tag = int.from_bytes(start[:2], order)
            if tag == EXTENSIBLE_TAG:  # the first bytes of its GUID are the tag it stands for
                tag = int.from_bytes(start[24:26], order)
        elif chunk[:4] == b"ds64":
            large = int.from_bytes(start[8:16], "little")
        file.seek(begin + stated + stated % 2)
    return None


def _is_last(chunk: bytes, order: Literal["little", "big"], left_bytes: int) -> bool:
    """Whether nothing is left of a file but the chunk that begins so, or not even that."""
    if left_bytes < 8:
        return True
    stated = 8 + int.from_bytes(chunk[4:], order)
    return chunk[:4].isalnum() and left_bytes - 1 <= stated <= left_bytes


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
