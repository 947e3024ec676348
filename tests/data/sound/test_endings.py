"""Endings of real files: whole, cut anywhere, and followed by something else."""

from pathlib import Path

import pytest
import soundfile

from lora_whisper.data.sound.endings import (
    end_early,
    missing_share,
    ogg_length,
    read_ends,
)
from tests.toy_speech import tone


@pytest.fixture(params=[("OGG", "VORBIS"), ("OGG", "OPUS"), ("WAV", "PCM_16"), ("AIFF", "PCM_16")])
def content(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    container, subtype = request.param
    soundfile.write(tmp_path / "a", tone(2.0), 16_000, format=container, subtype=subtype)
    return (tmp_path / "a").read_bytes()


def test_a_whole_file_has_its_end(content: bytes, tmp_path: Path) -> None:
    assert not end_early(read_ends(content))
    (tmp_path / "file").write_bytes(content)
    assert not end_early(read_ends(str(tmp_path / "file")))


def test_what_follows_the_end_is_of_no_concern(content: bytes) -> None:
    assert not end_early(read_ends(content + b"TAG" + bytes(125)))


def test_a_cut_anywhere_is_seen(content: bytes) -> None:
    """Of what states its size, up to 5 % may be missing; a page is whole or not."""
    pages = [at for at in range(len(content)) if content.startswith(b"OggS\0", at)]
    for length in range(100, len(content) - 100, 97):
        if length not in pages:  # between two pages nothing tells
            ends = read_ends(content[:length])
            assert missing_share(ends) == pytest.approx(1.0 if pages else 1 - length / len(content))
            assert end_early(ends) == bool(pages or length < 0.95 * len(content))


def test_other_files_are_left_to_their_decoders() -> None:
    assert not end_early(read_ends(b""))
    assert not end_early(read_ends(b"fLaC and more"))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("seconds", [0.01, 0.5, 2.345, 10.0])
def test_lengths_of_ogg_files_are_libsndfiles(tmp_path: Path, subtype: str, seconds: float) -> None:
    soundfile.write(tmp_path / "a", tone(seconds), 16_000, format="OGG", subtype=subtype)
    length = ogg_length(read_ends(str(tmp_path / "a")))
    assert length is not None
    assert length[1] / length[0] == pytest.approx(soundfile.info(tmp_path / "a").duration, abs=1e-4)
    assert ogg_length(read_ends(b"fLaC and more")) is None
