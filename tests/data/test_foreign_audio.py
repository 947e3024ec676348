"""Files as people, recorders and attackers have them: read as by a player, or refused by name."""

import os
import socket
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from lora_whisper.data import audio, containers
from lora_whisper.data.audio import (
    AudioError,
    EncodedAudio,
    Header,
    read_audio,
    read_header,
    read_sound,
)
from lora_whisper.data.containers import Mixer
from lora_whisper.data.file_ends import read_ends
from lora_whisper.model.published import SAMPLING_RATE
from tests.toy_speech import tone, write_clip

MANY = (7, 8, 9, 16, 64)  # around the number of planes that a frame of FFmpeg's has itself


def correlation(samples: np.ndarray, other: np.ndarray) -> float:
    length = min(len(samples), len(other))
    return float(np.corrcoef(samples[:length], other[:length])[0, 1])


def kinds(path: Path) -> list[str]:
    return [remark.kind for remark in read_sound(path).remarks]


def inside(content: bytes) -> EncodedAudio:
    return EncodedAudio("set train:17", lambda: content)


# ── channels ─────────────────────────────────────────────────────────────────────────────────


def many_channels(path: Path, codec: str, container: str, channels: int) -> Path:
    """The tone in every channel."""
    layout = f"{channels} channels" if channels != 8 else "7.1"
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=48_000, layout=layout)
        packed = np.repeat(tone(1.0, 48_000)[:, None], channels, axis=1).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, "flt", layout)
        frame.sample_rate = 48_000
        convert = av.AudioResampler(stream.codec_context.format.name, layout, 48_000)
        queue = av.AudioFifo()
        for converted in convert.resample(frame):
            queue.write(converted)
        size = stream.codec_context.frame_size or 1024
        for number, portion in enumerate(queue.read_many(size, partial=True)):
            portion.pts = number * size
            file.mux(stream.encode(portion))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("channels", MANY)
@pytest.mark.parametrize(("suffix", "subtype"), [("opus", "OPUS"), ("ogg", "VORBIS")])
def test_any_number_of_channels_is_one(
    tmp_path: Path, suffix: str, subtype: str, channels: int
) -> None:
    clip = tmp_path / f"a.{suffix}"
    sound = np.repeat(tone(1.0, 48_000)[:, None], channels, axis=1)
    soundfile.write(clip, sound, 48_000, format="OGG", subtype=subtype)
    samples = read_audio(clip)
    assert correlation(samples, tone(1.0)) > 0.98
    # Of seven and eight, Opus takes one for a bass loudspeaker's.
    assert np.sqrt(np.mean(samples**2) / np.mean(tone(1.0) ** 2)) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("codec", "container", "channels"),
    [("aac", "ipod", 8), ("wavpack", "wv", 9), ("pcm_f32le", "matroska", 12), ("flac", "ogg", 8)],
)
def test_films_have_eight_channels(
    tmp_path: Path, codec: str, container: str, channels: int
) -> None:
    clip = many_channels(tmp_path / "a", codec, container, channels)
    assert correlation(read_audio(clip), tone(1.0)) > 0.98


@pytest.mark.parametrize("format_name", ["u8", "s16p", "s32", "s64p", "flt", "dblp"])
@pytest.mark.parametrize("channels", [1, 2, 8, 9, 64])
def test_frames_of_every_kind_become_floats(format_name: str, channels: int) -> None:
    """Against FFmpeg's own conversion to packed samples, which have one plane."""
    layout = f"{channels} channels" if channels > 2 else ("mono", "stereo")[channels - 1]
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, (1, 50 * channels)).astype(np.float32)
    packed = av.AudioFrame.from_ndarray(sound, "flt", layout)
    packed.sample_rate = 8_000
    (frame,) = av.AudioResampler(format_name, layout, 8_000).resample(packed)
    found = containers._channels(frame)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, sound.reshape(-1, channels).T, atol=1 / 127)


def test_channels_that_cancel_are_not_averaged(tmp_path: Path) -> None:
    """One plug reversed: the mean is silence, and either channel is the speech."""
    clip = tmp_path / "a.wav"
    soundfile.write(clip, np.stack([tone(2.0), -0.98 * tone(2.0)], 1), SAMPLING_RATE, "FLOAT")
    np.testing.assert_allclose(read_audio(clip), tone(2.0), atol=1e-4)
    np.testing.assert_allclose(read_audio(clip, 0.5, 1.5), tone(2.0)[8_000:24_000], atol=1e-4)
    assert kinds(clip) == ["cancelling"]
    soundfile.write(tmp_path / "a.ogg", np.stack([tone(2.0), -tone(2.0)], 1), SAMPLING_RATE)
    assert correlation(read_audio(tmp_path / "a.ogg"), tone(2.0)) > 0.95
    assert kinds(tmp_path / "a.ogg") == ["cancelling"]


def test_channels_that_differ_are_averaged() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 16_000)).astype(np.float32)
    silence = np.zeros(16_000, np.float32)
    for channels in ([left, right], [left, silence], [left, -0.4 * left], [silence, silence]):
        mix = Mixer()
        np.testing.assert_allclose(mix.mono(np.stack(channels)), np.mean(channels, 0), atol=1e-6)
        assert not mix.cancels
    eight = Mixer()
    eight.mono(np.stack([left, *[silence] * 7]))  # faint in the mean, and not lost
    assert not eight.cancels


def test_what_stands_in_is_heard_and_the_same_in_every_slice() -> None:
    speech = np.random.default_rng(0).normal(size=(1, 1_000)).astype(np.float32)
    mix = Mixer()
    mix.mono(np.concatenate([0 * speech, -0.99 * speech, speech]))
    assert mix.cancels
    assert mix.stand_in() == 1


# ── levels ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("factor", [3.0, 20_000.0])
@pytest.mark.parametrize("suffix", ["wav", "aiff", "caf"])
def test_floats_beyond_full_scale_are_turned_down(
    tmp_path: Path, factor: float, suffix: str
) -> None:
    """Whisper's log-mel is not free of level; the same factor for every slice of a file."""
    clip = tmp_path / f"a.{suffix}"
    rising = tone(2.0) * np.linspace(0.1, 1, 32_000, dtype=np.float32)
    soundfile.write(clip, factor * rising, SAMPLING_RATE, subtype="FLOAT")
    whole = read_audio(clip)
    np.testing.assert_allclose(whole, rising / np.abs(rising).max(), atol=1e-6)
    np.testing.assert_allclose(read_audio(clip, 0.25, 0.75), whole[4_000:12_000], atol=1e-6)
    assert kinds(clip) == ["beyond_scale"]
    np.testing.assert_array_equal(read_audio(inside(clip.read_bytes()), 1.0), whole[16_000:])


def test_floats_within_full_scale_stay(tmp_path: Path) -> None:
    clip = tmp_path / "a.wav"
    for subtype in ("FLOAT", "DOUBLE"):
        soundfile.write(clip, tone(1.0), SAMPLING_RATE, subtype=subtype)
        np.testing.assert_array_equal(read_audio(clip), tone(1.0))
        assert kinds(clip) == []


# ── headers ──────────────────────────────────────────────────────────────────────────────────


def wav(data_bytes: int | None = None, riff_bytes: int | None = None, rate: int = 16_000) -> bytes:
    """A second of the tone, with sizes as they are given."""
    samples = (tone(1.0) * 32_767).astype("<i2").tobytes()
    data = len(samples) if data_bytes is None else data_bytes
    riff = 36 + len(samples) if riff_bytes is None else riff_bytes
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate & 0xFFFFFFFF, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", riff, b"WAVE")
        + fmt
        + struct.pack("<4sI", b"data", data)
        + samples
    )


@pytest.mark.parametrize("data_bytes", [0, 0xFFFFFFFF, 0x7FFFFFFF])
@pytest.mark.parametrize("riff_bytes", [0, 0xFFFFFFFF, None])
def test_a_wav_without_a_length_is_read_to_its_end(data_bytes: int, riff_bytes: int | None) -> None:
    clip = inside(wav(data_bytes, riff_bytes))
    np.testing.assert_allclose(read_audio(clip), tone(1.0), atol=1e-4)
    np.testing.assert_allclose(read_audio(clip, 0.25, 0.5), tone(1.0)[4_000:8_000], atol=1e-4)
    assert [remark.kind for remark in read_header(clip).remarks] == ["unstated"]


@pytest.mark.parametrize("after", [b"", b"LIST\x04\0\0\0INFO"])
def test_a_wav_without_samples_has_none(after: bytes) -> None:
    with pytest.raises(AudioError, match="no samples"):
        read_audio(inside(wav(0)[:44] + after))


@pytest.mark.parametrize("missing_share", [0.01, 0.03, 0.049])
def test_a_header_that_states_some_per_cent_too_much(tmp_path: Path, missing_share: float) -> None:
    clip = tmp_path / "a.wav"
    stated = round(32_000 / (1 - missing_share))
    for content in (wav(stated, stated + 36), wav(stated), wav(None, stated + 36)):
        clip.write_bytes(content)
        np.testing.assert_allclose(read_audio(clip), tone(1.0), atol=1e-4)
        assert kinds(clip) == ["short"]
    clip.write_bytes(wav(34_500, 34_536))
    with pytest.raises(AudioError, match=r"cut off at 1\.00 s"):
        read_audio(clip)


@pytest.mark.parametrize(
    "subtype", ["GSM610", "MS_ADPCM", "IMA_ADPCM", "ULAW", "ALAW", "PCM_U8", "PCM_32", "DOUBLE"]
)
def test_every_kind_of_wav(tmp_path: Path, subtype: str) -> None:
    clip = tmp_path / "a.wav"
    soundfile.write(clip, tone(2.0, 8_000), 8_000, subtype=subtype)
    whole = read_audio(clip)
    assert len(whole) == pytest.approx(32_000, abs=1_000)
    assert correlation(whole, tone(2.0)) > 0.97
    assert correlation(read_audio(clip, 0.5, 1.0), whole[8_000:16_000]) > 0.999


@pytest.mark.parametrize("kind", ["RF64", "W64", "WAVEX", "AIFF", "AU", "CAF", "NIST", "VOC"])
def test_other_containers_of_samples(tmp_path: Path, kind: str) -> None:
    clip = tmp_path / "a.sound"
    soundfile.write(clip, tone(1.0), SAMPLING_RATE, format=kind, subtype="PCM_16")
    np.testing.assert_allclose(read_audio(clip), tone(1.0), atol=1e-4)
    is_plain = read_ends(str(clip)).is_plain
    assert is_plain == (kind in ("RF64", "WAVEX"))


@pytest.mark.parametrize("rate", [1, 100, 2_000_000, 0x7FFFFFFF])
def test_an_absurd_rate_is_refused_before_anything_is_resampled(rate: int) -> None:
    with pytest.raises(AudioError, match=r"states a rate of [\d,]+ Hz; from 2,000 to 1,000,000 Hz"):
        read_audio(inside(wav(rate=rate)))


def test_an_aiff_of_one_sample_a_second(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.aiff", 1.0)
    content = bytearray(clip.read_bytes())
    rate = content.index(b"\x40\x0c\xfa")
    content[rate : rate + 3] = b"\x3f\xff\x80"
    clip.write_bytes(content)
    with pytest.raises(AudioError, match=r"states a rate of 1 Hz"):
        read_audio(clip)


def test_too_much_at_once_is_refused(tmp_path: Path) -> None:
    """Ten hours of nothing take no room on the disk; slices of them are read."""
    clip = tmp_path / "a.wav"
    frames = 10 * 3600 * 16_000
    clip.write_bytes(wav(2 * frames, 2 * frames + 36)[:44])
    os.truncate(clip, 44 + 2 * frames)
    with pytest.raises(AudioError, match=r"10\.0 hours in one piece; up to 6 are decoded"):
        read_audio(clip)
    assert len(read_audio(clip, 30_000.0, 30_001.0)) == SAMPLING_RATE
    os.truncate(clip, 44)
    frames *= 3
    clip.write_bytes(wav(2 * frames, 2 * frames + 36)[:44])
    os.truncate(clip, 44 + 2 * frames)
    with pytest.raises(AudioError, match=r"states 30\.0 hours; up to 24 are read"):
        read_header(clip)


def test_what_is_no_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe would be waited for, a device read for ever."""
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    os.mkfifo("pipe.mp3")
    os.symlink("round.opus", "round.opus")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.ogg")
        for name in ("pipe.mp3", "socket.ogg", "/dev/zero", "/dev/null", "."):
            with pytest.raises(AudioError, match="not a file"):
                read_audio(Path(name))
    with pytest.raises(AudioError, match="no such file"):
        read_audio(Path("round.opus"))


@pytest.mark.parametrize("content", [b"", b"\0", b"RIFF", b"text, and not sound", bytes(10_000)])
def test_what_is_no_sound_is_refused_inside_a_data_set_too(content: bytes) -> None:
    for read in (read_header, read_audio):
        with pytest.raises(AudioError, match=r"set train:17: (does not decode|holds no sound)"):
            read(inside(content))


def test_a_relative_path_and_one_that_is_not_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp3", os.fsdecode(b"\xff.mp3"), os.fsdecode(b"\xff.wav")):
        write_clip(tmp_path / f"sound{Path(name).suffix}", 1.0).rename(name)
        assert len(read_audio(Path(name))) == SAMPLING_RATE


# ── decoders that fail ───────────────────────────────────────────────────────────────────────


def test_the_file_that_crashes_a_decoder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process runs this module's `crash`, in the place of FFmpeg."""
    broken = audio.Pool(f"{__name__}:serve_crashing")
    monkeypatch.setattr(audio, "_POOL", broken)
    clip = write_clip(tmp_path / "a.mp3", 1.0)
    with pytest.raises(AudioError, match=r"a\.mp3: its decoder crashed on it \(SIGSEGV\)"):
        read_header(clip)
    clip = write_clip(tmp_path / "a.aiff", 1.0)
    with pytest.raises(AudioError, match=r"a\.aiff: took its decoder longer than 0 s, and was"):
        read_header(clip)
    broken.close()


def serve_crashing() -> None:
    import ctypes

    def crash(source: object) -> tuple[int, float, bool]:
        return 1, ctypes.string_at(0)[0], False

    def hang(source: object) -> Header:
        while True:
            pass

    audio.HEADER_SECONDS = 0.2
    containers.read_length = crash
    audio._header_by_libsndfile = lambda source: hang(source) if "aiff" in str(source) else None
    audio.serve()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "--include a.wav"),
        (b"<!DOCTYPE html><title>Sign in</title>", "is a web page"),
    ],
)
def test_what_a_download_left_in_its_place(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    for read in (read_header, read_sound):
        with pytest.raises(AudioError, match=expected):
            read(tmp_path / "a.wav")
    with pytest.raises(AudioError, match=expected.removesuffix("a.wav")):
        read_header(inside(content))
