"""The log-mel spectrogram against Transformers' own feature extractor."""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from lora_whisper.data.features import LogMel
from lora_whisper.data.sound.audio import SAMPLING_RATE


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
    features = LogMel(80, 5).recording(torch.from_numpy(clip))
    assert features.shape == (80, samples // 160 + 500)
    torch.testing.assert_close(features, expected.input_features[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 160, 48_123, 80_000])
def test_a_short_recording_has_the_features_of_its_window(samples: int) -> None:
    clip = torch.from_numpy(tone_and_noise(samples / SAMPLING_RATE, 0.5, seed=5))
    log_mel = LogMel(80, 5)
    alone, window = log_mel.recording(clip)[:, :500], log_mel(clip[None])[0]
    # The last frame sees the mirror at the window's end, or the silence behind it.
    torch.testing.assert_close(alone[:, :498], window[:, :498], rtol=0, atol=1e-5)
