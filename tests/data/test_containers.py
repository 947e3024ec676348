"""Every container against its decoding in one piece, and libsndfile where that reads it too."""

import re
import struct
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from lora_whisper.data import containers
from lora_whisper.data.audio import AudioError, EncodedAudio, read_audio, read_header, resample
from lora_whisper.data.containers import Damaged, decode
from lora_whisper.data.file_ends import end_early, missing_share, ogg_length, read_ends
from lora_whisper.model.published import SAMPLING_RATE
from tests.toy_containers import KINDS, encode
from tests.toy_mutations import FORMATS, mutated, written
from tests.toy_speech import tone

SECONDS = 8.0  # more than two clusters of a WebM
PRIMED = {"aac", "fragments.mp4", "untagged.mp3", "wma"}  # the file keeps its encoder's delay
TIMESTAMPS_IN_MILLISECONDS = {"webm", "live.webm", "wma"}
DRAWN_ANEW = {"aac", "amr", "fragments.mp4", "m4a", "mp4"}  # the decoder adds noise, or remembers
SELDOM = {"variable.mp3", "untagged.mp3", "fragments.mp4", "live.webm", "live.flac", "live.wav"}
BY_FFMPEG = sorted(set(KINDS) - {"wav", "live.wav", "flac"})


def babble(seconds: float, rate: int) -> np.ndarray:
    """A sweep from 100 to 1500 Hz under noise in bursts: no moment resembles another."""
    time = np.arange(round(seconds * rate)) / rate
    sweep = np.sin(2 * np.pi * (100 + 700 * time / seconds) * time)
    noise = np.random.default_rng(0).normal(size=len(time)) * (np.sin(2 * np.pi * time) > 0.5)
    return (0.4 * sweep + 0.02 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("containers")
    return {
        name: encode(folder / f"a.{name}", babble(SECONDS, kind.rate), kind)
        for name, kind in KINDS.items()
    }


def decoded_in_one_piece(path: Path) -> tuple[np.ndarray, int]:
    """What PyAV gives without any rule of ours: mono at the file's own rate."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        first = frames[0]
        resampler = av.AudioResampler("fltp", first.layout, first.sample_rate)
        parts = [part.to_ndarray() for frame in frames for part in resampler.resample(frame)]
    return np.concatenate(parts, axis=1).mean(axis=0), first.sample_rate


def lag_samples(samples: np.ndarray, reference: np.ndarray) -> int:
    """How much later `samples` are, at the peak of the cross-correlation."""
    size = 1 << (len(samples) + len(reference)).bit_length()
    spectrum = np.fft.rfft(samples, size) * np.conj(np.fft.rfft(reference, size))
    peak = int(np.fft.irfft(spectrum, size).argmax())
    return peak if peak < size // 2 else peak - size


@pytest.mark.parametrize("name", BY_FFMPEG)
def test_the_whole_file_is_what_ffmpeg_decodes(files: dict[str, Path], name: str) -> None:
    expected, rate = decoded_in_one_piece(files[name])
    mono, found_rate = decode(str(files[name]), 0.0, None)
    assert found_rate == rate
    before = len(mono) - len(expected)  # WMA's first frame is not decoded, and is silence here
    assert before == 0 or (name == "wma" and 0 < before / rate < 0.1 and not mono[:before].any())
    np.testing.assert_allclose(mono[before:], expected, atol=1e-4)
    assert read_header(files[name]).seconds == pytest.approx(len(mono) / rate, abs=0.06)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_length_and_position_are_those_of_the_speech(files: dict[str, Path], name: str) -> None:
    """Decoders leave out the silence that their encoder put before the sound, where it is noted."""
    samples = read_audio(files[name])
    reference = babble(SECONDS, SAMPLING_RATE)
    assert len(samples) == pytest.approx(len(reference), abs=0.06 * SAMPLING_RATE)
    lag = lag_samples(samples, reference)
    # AMR's codec itself delays by 5 ms, which no file notes.
    assert abs(lag) <= (0.05 * SAMPLING_RATE if name in PRIMED else 100 if name == "amr" else 2)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_slice_is_the_same_as_a_cut_of_the_whole(files: dict[str, Path], name: str) -> None:
    whole = read_audio(files[name])
    for start, end in [(0.0, 1.0), (0.05, 1.5), (2.00013, 3.3), (5.5, 6.25), (7.0, 7.7)]:
        samples = read_audio(files[name], start, end)
        first = round(start * SAMPLING_RATE)
        assert len(samples) == round((end - start) * SAMPLING_RATE)
        cut = whole[first : first + len(samples)]
        if name in TIMESTAMPS_IN_MILLISECONDS:
            assert abs(lag_samples(samples, cut)) <= 0.001 * SAMPLING_RATE
        else:
            error = np.sqrt(np.mean((samples - cut) ** 2) / np.mean(cut**2))
            assert error < (0.02 if name in DRAWN_ANEW else 1e-4)


def test_a_late_slice_does_not_decode_what_is_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = encode(tmp_path / "a.m4a", babble(20.0, 44_100), KINDS["m4a"])
    counted = 0
    real = containers._channels

    def counting(frame: av.AudioFrame) -> np.ndarray:
        nonlocal counted
        counted += frame.samples
        return real(frame)

    monkeypatch.setattr(containers, "_channels", counting)
    decode(str(clip), 15.0, 16.0)
    assert counted / 44_100 < 2.5


@pytest.mark.parametrize(
    ("subtype", "suffix"), [("OPUS", "opus"), ("VORBIS", "ogg"), (None, "mp3")]
)
@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_both_decoders_agree(tmp_path: Path, subtype: str | None, suffix: str, rate: int) -> None:
    """libsndfile's pre-skip, priming and end of the last packet are ffmpeg's."""
    if (subtype, rate) == ("OPUS", 44_100):
        pytest.skip("Opus has no such rate")
    clip = tmp_path / f"a.{suffix}"
    container = "MP3" if subtype is None else "OGG"
    soundfile.write(clip, babble(3.0, rate), rate, format=container, subtype=subtype)
    ours = read_audio(clip)
    theirs, theirs_rate = soundfile.read(clip, dtype="float32")
    theirs = resample(theirs, theirs_rate)
    assert len(ours) == len(theirs)
    assert lag_samples(ours, theirs) == 0
    error = np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2))
    assert error < (0.02 if suffix == "opus" else 1e-3)  # Opus's band edge is drawn elsewhere


def test_one_inside_a_data_set_is_read_as_a_file(files: dict[str, Path]) -> None:
    for path in files.values():
        inside = EncodedAudio("set train:17", path.read_bytes)
        assert read_header(inside) == read_header(path)
        np.testing.assert_array_equal(read_audio(inside, 1.0, 2.0), read_audio(path, 1.0, 2.0))


@pytest.mark.parametrize("name", ["untagged.mp3", "live.webm", "aac", "amr", "live.flac"])
def test_lengths_that_no_header_states_are_counted(files: dict[str, Path], name: str) -> None:
    expected, rate = decoded_in_one_piece(files[name])
    assert read_header(files[name]).seconds == pytest.approx(len(expected) / rate, abs=0.002)


def test_what_a_header_leaves_out_is_not_lost(files: dict[str, Path], tmp_path: Path) -> None:
    """Two recordings in one Ogg: its header speaks of one of them."""
    chained = tmp_path / "chained.opus"
    chained.write_bytes(2 * files["opus"].read_bytes())
    with pytest.raises(AudioError, match=r"jumps by|goes on to"):
        read_audio(chained)
    understated = files["webm"].read_bytes()
    position = understated.index(b"\x44\x89\x88") + 3  # Duration, 8 bytes: milliseconds as a double
    assert struct.unpack_from(">d", understated, position)[0] == pytest.approx(8_008, abs=10)
    changed = understated[:position] + struct.pack(">d", 5_000.0)
    clip = tmp_path / "understated.webm"
    clip.write_bytes(changed + understated[position + 8 :])
    with pytest.raises(AudioError, match=r"goes on to 8\.0\d s, where its header says 4\.99 s"):
        read_audio(clip)


CUT_UNNOTICED = {
    # Nothing in these says how long they are; the piece that is left is a whole file.
    "untagged.mp3",
    "live.wav",
    "live.webm",
    "live.flac",
}


@pytest.mark.parametrize("name", sorted(set(KINDS) - CUT_UNNOTICED))
def test_a_file_cut_in_half_is_an_error(files: dict[str, Path], name: str) -> None:
    content = files[name].read_bytes()
    for share in (0.3, 0.5, 0.9):
        half = EncodedAudio("half", partial(bytes, content[: round(share * len(content))]))
        with pytest.raises(AudioError, match=r"cut off|does not decode|holds no sound|no samples"):
            read_audio(half)


def test_a_film_without_sound_and_a_playlist(tmp_path: Path) -> None:
    """A playlist may name files and addresses that nobody wants to have opened."""
    silent = tmp_path / "silent.mp4"
    with av.open(str(silent), "w") as film:
        stream = film.add_stream("mpeg4", rate=10, width=32, height=32)
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in (*stream.encode(picture), *stream.encode(None)):
            film.mux(packet)
    with pytest.raises(AudioError, match="holds no sound"):
        read_header(silent)
    playlist = tmp_path / "a.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n")
    with pytest.raises(AudioError, match="does not decode"):
        read_header(playlist)


def test_sound_that_begins_after_the_pictures_keeps_its_place(tmp_path: Path) -> None:
    """Subtitles count from the beginning of the film."""
    film = tmp_path / "late.mp4"
    with av.open(str(film), "w") as file:
        pictures = file.add_stream("mpeg4", rate=10, width=32, height=32)
        sound = file.add_stream("aac", rate=16_000, layout="mono")
        for tenth in range(30):
            image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            image.pts = tenth
            file.mux(pictures.encode(image))
        file.mux(pictures.encode(None))
        frame = av.AudioFrame.from_ndarray(tone(2.0)[None], "fltp", "mono")
        frame.sample_rate, frame.pts = 16_000, 16_000  # one second late
        file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    samples = read_audio(film)
    assert read_header(film).seconds == pytest.approx(3.0, abs=0.1)
    assert np.abs(samples[:15_000]).max() < 0.01
    assert np.abs(samples[17_000:18_000]).max() > 0.4
    np.testing.assert_allclose(read_audio(film, 0.5, 2.5), samples[8_000:40_000], atol=2e-3)


@pytest.mark.parametrize("name", [*FORMATS, *sorted(SELDOM)])
def test_a_mutated_file_is_read_whole_or_refused(tmp_path: Path, name: str) -> None:
    """Neither a crash nor a hang, nor less than there was, where the file says how much that is.

    `benchmarks.sound_mutations` does the same with 5,000.
    """
    if name in FORMATS:
        content = written(name, tmp_path)
    else:
        content = encode(tmp_path / name, babble(0.7, KINDS[name].rate), KINDS[name]).read_bytes()
    for number in range(5):
        inside = EncodedAudio(f"mutation {number}", partial(mutated, content, (1, number)))
        refusal = ""
        try:
            header = read_header(inside)
            samples = read_audio(inside)
            assert np.isfinite(samples).all()
            assert abs(len(samples) / SAMPLING_RATE - header.seconds) < 0.11
        except AudioError as error:
            refusal = str(error)
        assert not re.search("crashed|longer than", refusal)


def test_jumps_of_time_are_refused(files: dict[str, Path]) -> None:
    """Pages that were lost leave a hole, which the text would have to be silent about."""
    content = files["opus"].read_bytes()
    pages = [at for at in range(len(content)) if content.startswith(b"OggS\0", at)]
    without_one = content[: pages[6]] + content[pages[7] :]
    with pytest.raises(AudioError, match=r"jumps by \+1\.00 s at 4\.01 s"):
        read_audio(EncodedAudio("hole", lambda: without_one))
    without_first = content[: pages[2]] + content[pages[3] :]
    with pytest.raises(AudioError, match=r"begins at 1\.00 s"):
        read_audio(EncodedAudio("beginning", lambda: without_first))


def test_errors_of_slices_and_of_names(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"ends at 8\.00 s, before 20\.00 s"):
        read_audio(files["m4a"], 5.0, 20.0)
    strange = tmp_path / "http:a b%20c|.m4a"  # no protocol, no pattern: a name
    strange.write_bytes(files["m4a"].read_bytes())
    assert len(read_audio(strange, 0.0, 1.0)) == SAMPLING_RATE
    with pytest.raises(Damaged, match="No such file"):
        decode(str(tmp_path / "absent.m4a"), 0.0, None)


# ── both ends of a file ──────────────────────────────────────────────────────────────────────────


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
