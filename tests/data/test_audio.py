"""Decoding against tones of known pitch, cuts of the whole, and the headers of real recordings."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from lora_whisper.data.audio import (
    LONGEST_MP3_SECONDS,
    AudioError,
    encode_mp3,
    read_audio,
    read_header,
    resample,
)
from lora_whisper.model.published import SAMPLING_RATE
from tests.toy_speech import tone, write_clip

ENGLISH = Path("../shared/speech/english/audio")
needs_recordings = pytest.mark.skipif(not ENGLISH.exists(), reason="the recordings are absent")


def loudest_frequency(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * SAMPLING_RATE / len(samples))


def test_a_file_at_16_khz_is_read_as_it_is(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.wav", 1.0)
    samples = read_audio(clip)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, tone(1.0), atol=1e-4)  # 16-bit steps are 3e-5


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_any_rate_keeps_pitch_and_length(tmp_path: Path, rate: int, suffix: str) -> None:
    samples = read_audio(write_clip(tmp_path / f"a.{suffix}", 1.5, rate, frequency=440))
    assert len(samples) == pytest.approx(1.5 * SAMPLING_RATE, abs=1)
    assert loudest_frequency(samples) == pytest.approx(440, abs=1)
    middle = slice(1_000, 23_000)
    np.testing.assert_allclose(samples[middle], tone(1.5)[middle], atol=1e-3)


def test_channels_are_averaged(tmp_path: Path) -> None:
    stereo = np.stack([tone(1.0), np.zeros(SAMPLING_RATE, np.float32)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, SAMPLING_RATE)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), tone(1.0) / 2, atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_the_resampler_hears_both_sides_of_a_slice(tmp_path: Path, rate: int) -> None:
    whole = read_audio(write_clip(tmp_path / "a.wav", 3.0, rate))
    for start, end in [(None, 1.0), (0.01, 0.5), (1.2345, 2.0), (2.5, None)]:
        samples = read_audio(tmp_path / "a.wav", start, end)
        first = round((start or 0.0) * SAMPLING_RATE)
        assert len(samples) == round((end or 3.0) * SAMPLING_RATE) - first
        np.testing.assert_allclose(samples, whole[first : first + len(samples)], atol=1e-5)


def test_a_slice_never_exceeds_its_length(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.wav", 3.0, rate=44_100)
    for start in (0.00001, 0.33333, 0.5, 0.77777):
        assert len(read_audio(clip, start, start + 2.0)) == 2 * SAMPLING_RATE
    odd = write_clip(tmp_path / "b.wav", 3.0, rate=11_025)  # 1.5 s are 16537.5 of its samples
    assert len(read_audio(odd, 0.0, 1.5)) == 1.5 * SAMPLING_RATE


def test_the_end_may_be_rounded_but_not_wrong(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.wav", 1.0)
    assert len(read_audio(clip, 0.5, 1.004)) == 8_000
    with pytest.raises(AudioError, match=r"ends at 1\.00 s, before 9\.00 s"):
        read_audio(clip, 0.5, 9.0)
    with pytest.raises(AudioError, match=r"shorter than 0\.1 s"):
        read_audio(clip, 2.0)


def test_bad_files_say_what_is_wrong(tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("this is no audio")
    headerless = tmp_path / "samples.raw"
    headerless.write_bytes(bytes(1_000))
    empty = tmp_path / "empty.wav"
    empty.touch()
    silent = tmp_path / "no-samples.wav"
    soundfile.write(silent, np.zeros(0, np.float32), SAMPLING_RATE)
    broken = tmp_path / "nan.wav"
    soundfile.write(broken, np.full(8_000, np.nan, np.float32), SAMPLING_RATE, subtype="FLOAT")
    for path, reason in {
        tmp_path / "absent.wav": "no such file",
        tmp_path: "not a file",
        text: "does not decode",
        headerless: "does not decode",
        tmp_path / ("x" * 300): "File name too long",
        empty: "the file is empty",
        silent: "no samples",
        broken: "not finite",
    }.items():
        with pytest.raises(AudioError, match=reason) as error:
            read_audio(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("suffix", ["flac", "wav", "aiff", "ogg", "mp3"])
def test_a_file_that_was_cut_off(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=3 * SAMPLING_RATE)
    clip = tmp_path / f"a.{suffix}"
    soundfile.write(clip, noise, SAMPLING_RATE)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"a\.\w+: (cut off at [01]\.\d+ s|does not decode)"):
        read_audio(clip)


def test_a_header_that_speaks_of_years(tmp_path: Path) -> None:
    """36 bits in a FLAC are its length in samples."""
    clip = tmp_path / "a.flac"
    soundfile.write(clip, tone(1.0), SAMPLING_RATE)
    content = bytearray(clip.read_bytes())
    content[21:26] = bytes([content[21] | 0x0F]) + b"\xff" * 4
    clip.write_bytes(content)
    with pytest.raises(AudioError, match=r"a\.flac: states 1,193\.0 hours; up to 24 are"):
        read_audio(clip)


def test_a_riff_may_be_wrong_by_its_padding_or_unfinished(tmp_path: Path) -> None:
    """Some writers count a byte of padding that they leave out; what went into a pipe stays."""
    clip = write_clip(tmp_path / "a.wav", 1.0)
    content = bytearray(clip.read_bytes())
    for stated in (len(content) - 8 + 1, 0xFFFFFFFF, 0x7FFFFFFF, 0):
        content[4:8] = stated.to_bytes(4, "little")
        clip.write_bytes(content)
        assert len(read_audio(clip)) == SAMPLING_RATE
    content[4:8] = (2 * len(content)).to_bytes(4, "little")
    clip.write_bytes(content)
    with pytest.raises(AudioError, match=r"cut off at 1\.00 s; its end is missing"):
        read_audio(clip)


def test_resampling_removes_what_16_khz_cannot_hold() -> None:
    above = np.sin(2 * np.pi * 11_000 * np.arange(48_000) / 48_000).astype(np.float32)
    assert np.abs(resample(above, 48_000)[1_000:-1_000]).max() < 1e-3


@needs_recordings
def test_real_recordings_of_every_kind() -> None:
    for path in sorted(ENGLISH.iterdir()):
        samples = read_audio(path)
        assert samples.ndim == 1
        assert len(samples) / SAMPLING_RATE == pytest.approx(read_header(path).seconds, abs=1e-3)
    assert read_header(ENGLISH / "jfk.flac").seconds == 11.0
    assert len(read_audio(ENGLISH / "jfk.flac")) == 11 * SAMPLING_RATE  # 44.1 kHz stereo


# ── to be played ─────────────────────────────────────────────────────────────────────────────────


def decoded(file: bytes) -> np.ndarray:
    """(samples,) as FFmpeg's libraries hear it."""
    with av.open(io.BytesIO(file)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec.name[:3], stream.rate, stream.channels) == ("mp3", SAMPLING_RATE, 1)
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])


def test_the_tone_stays_the_tone() -> None:
    heard = decoded(encode_mp3(tone(2.0)))
    assert len(heard) / SAMPLING_RATE == pytest.approx(2.0, abs=0.1)
    assert loudest_frequency(heard) == pytest.approx(440.0, abs=1.0)
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.05)


def test_ten_seconds_are_thirty_kilobytes() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 10 * SAMPLING_RATE).astype(np.float32)
    assert len(encode_mp3(noise)) == pytest.approx(30_000, rel=0.05)


def test_a_long_recording_is_cut() -> None:
    heard = decoded(encode_mp3(tone(LONGEST_MP3_SECONDS + 5)))
    assert len(heard) / SAMPLING_RATE == pytest.approx(LONGEST_MP3_SECONDS, abs=0.1)
