"""The log-mel spectrogram against Transformers' own feature extractor."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from lora_whisper.model.features import LogMel, in_range
from lora_whisper.model.published import SAMPLING_RATE


def tone_and_noise(seconds: float, loudness: float, seed: int) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    noise = np.random.default_rng(seed).normal(size=time.shape)
    return (loudness * (np.sin(2 * np.pi * 440 * time) + 0.1 * noise)).astype(np.float32)


def padded(clips: list[np.ndarray]) -> torch.Tensor:
    longest = max(len(clip) for clip in clips)
    return torch.tensor(np.stack([np.pad(clip, (0, longest - len(clip))) for clip in clips]))


@pytest.mark.parametrize("mel_bins", [80, 128])
@pytest.mark.parametrize("window_seconds", [5, 30])
def test_equals_the_feature_extractor(mel_bins: int, window_seconds: int) -> None:
    clips = [
        tone_and_noise(1.3, 0.5, seed=1),
        tone_and_noise(4.99997, 1e-3, seed=2),  # much softer: each clip has a floor of its own
        tone_and_noise(window_seconds, 0.9, seed=3),
        np.zeros(SAMPLING_RATE, np.float32),
    ]
    extractor = WhisperFeatureExtractor(feature_size=mel_bins, chunk_length=window_seconds)
    expected = extractor(clips, sampling_rate=SAMPLING_RATE, return_tensors="pt").input_features

    features = LogMel(mel_bins, window_seconds)(padded(clips))

    assert features.shape == (4, mel_bins, window_seconds * 100)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 39_959, 39_960, 79_999, 80_000])
def test_the_silence_behind_a_clip_is_the_extractor_s_to_the_frame(samples: int) -> None:
    """Also where the last frames see a sample or two, or the mirror at the window's end."""
    clip = np.full(samples, 0.5, np.float32)  # ends with a step, which every frame would show
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=5)
    whole = np.pad(clip, (0, 80_000 - samples))
    expected = extractor(whole, sampling_rate=SAMPLING_RATE, return_tensors="pt").input_features
    features = LogMel(80, 5)(torch.from_numpy(clip)[None])
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-4)


def test_a_clip_does_not_depend_on_its_neighbours() -> None:
    soft, loud = tone_and_noise(2, 1e-3, seed=1), tone_and_noise(3, 1.0, seed=2)
    log_mel = LogMel(80, 5)
    together = log_mel(padded([soft, loud]))
    torch.testing.assert_close(together[0], log_mel(padded([soft]))[0], rtol=0, atol=1e-5)


def test_mixed_precision_leaves_the_features_alone() -> None:
    log_mel, clip = LogMel(80, 5), padded([tone_and_noise(2, 0.5, seed=1)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = log_mel(clip)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, log_mel(clip))


def test_refuses_to_cut_audio_silently() -> None:
    with pytest.raises(ValueError, match="80001 samples in a window of 80000"):
        LogMel(80, 5)(torch.zeros(1, 80_001))


@pytest.mark.parametrize("samples", [80_001, 159_840, 160_000, 200_123])
def test_a_long_recording_equals_the_feature_extractor_with_silence_behind(samples: int) -> None:
    """Whose range hangs on the loudest spot of the whole as well; here it is the first window's."""
    clip = tone_and_noise(samples / SAMPLING_RATE, 0.5, seed=4)
    clip[80_000:] *= 1e-4
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=5)
    whole = np.pad(clip, (0, 80_000))
    expected = extractor(whole, sampling_rate=SAMPLING_RATE, return_tensors="pt", truncation=False)
    features = LogMel(80, 5).recording(torch.from_numpy(clip), "sound")
    assert features.shape == (80, samples // 160 + 500)
    torch.testing.assert_close(features, expected.input_features[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 160, 48_123, 80_000])
def test_a_short_recording_has_the_features_of_its_window(samples: int) -> None:
    clip = torch.from_numpy(tone_and_noise(samples / SAMPLING_RATE, 0.5, seed=5))
    log_mel = LogMel(80, 5)
    alone, window = log_mel.recording(clip, "sound")[:, :500], log_mel(clip[None])[0]
    # The last frame sees the mirror at the window's end, or the silence behind it.
    torch.testing.assert_close(alone[:, :498], window[:, :498], rtol=0, atol=1e-5)


# ── the padding of openai-whisper and faster-whisper ─────────────────────────────────────────


def by_openai_whisper(clip: np.ndarray, mel_bins: int) -> torch.Tensor:
    """The first window that `transcribe` gives to its model: (mel bins, 3000)."""
    audio = pytest.importorskip("whisper.audio")
    mel = audio.log_mel_spectrogram(clip, mel_bins, padding=audio.N_SAMPLES)
    content_frames = mel.shape[-1] - audio.N_FRAMES
    segment = mel[:, : min(audio.N_FRAMES, content_frames)]
    return torch.as_tensor(audio.pad_or_trim(segment, audio.N_FRAMES))


def by_faster_whisper(clip: np.ndarray, mel_bins: int) -> torch.Tensor:
    """The first window that `WhisperModel.transcribe` gives to its encoder: (mel bins, 3000)."""
    pytest.importorskip("faster_whisper")
    from faster_whisper.audio import pad_or_trim
    from faster_whisper.feature_extractor import FeatureExtractor

    features = FeatureExtractor(feature_size=mel_bins)(clip)
    content_frames = features.shape[-1] - 1
    return torch.from_numpy(pad_or_trim(features[:, : min(3000, content_frames)]))


@pytest.mark.parametrize("program", [by_openai_whisper, by_faster_whisper])
@pytest.mark.parametrize("mel_bins", [80, 128])
@pytest.mark.parametrize("samples", [159, 160, 16_000, 47_999, 48_123, 479_900, 480_000])
def test_the_log_mel_is_padded_as_in_other_programs(
    program: Callable[[np.ndarray, int], torch.Tensor], mel_bins: int, samples: int
) -> None:
    clip = tone_and_noise(samples / SAMPLING_RATE, 0.5, seed=6)
    expected = program(clip, mel_bins)
    features = LogMel(mel_bins, 30).clip(torch.from_numpy(clip), "log-mel")
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-4)
    end = samples // 160
    assert torch.equal(features[:, end:], expected[:, end:]), "the padding, to the bit"
    assert not features[:, end:].any()


def test_of_a_batch_some_windows_have_their_log_mel_padded() -> None:
    """The ends of the clips are their own, not that of the longest."""
    clips = [tone_and_noise(seconds, 0.5, seed=7) for seconds in (1.0, 2.0, 3.0)]
    log_mel = LogMel(80, 5)
    found = log_mel(padded(clips), (100, None, 300))
    expected = [
        log_mel.clip(torch.from_numpy(clip), padding)
        for clip, padding in zip(clips, ("log-mel", "sound", "log-mel"), strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [80_001, 200_123])
def test_behind_a_long_recording_the_log_mel_is_padded_as_well(samples: int) -> None:
    clip = torch.from_numpy(tone_and_noise(samples / SAMPLING_RATE, 0.5, seed=8))
    sound, mel = (LogMel(80, 5).recording(clip, padding) for padding in ("sound", "log-mel"))
    end = samples // 160
    assert torch.equal(sound[:, :end], mel[:, :end])
    assert not mel[:, end:].any()
    assert sound[:, end:].all()


@pytest.mark.parametrize("samples", [150, 201, 4_321, 80_000, 250_001])
@pytest.mark.parametrize("piece_samples", [777, 80_000])
def test_a_recording_in_pieces_has_the_same_log_mel(samples: int, piece_samples: int) -> None:
    log_mel, clip = LogMel(80, 5), torch.randn(samples, generator=torch.manual_seed(3))
    (*parts,) = log_mel.log_powers(clip.split(piece_samples))
    assert all(part.shape[1] <= 500 for part in parts)
    powers = torch.cat(parts, dim=1)
    whole = log_mel.recording(clip, "sound")
    assert torch.equal(in_range(powers, powers.amax()), whole[:, : powers.shape[1]])
