"""Rooms, noises and lines: what pre-training does to clean synthesised speech, a batch at a time.

Filters (room, band, tilt) are one product in the frequency domain, so they cost two transforms a
batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.nano.synthesis import SAMPLE_RATE_HZ

NOISE_SAMPLES = 20 * SAMPLE_RATE_HZ
RESPONSE_SAMPLES = SAMPLE_RATE_HZ // 2
SHORTEST_RATIO, LONGEST_RATIO = 0.87, 1.15


@dataclass(frozen=True)
class Shares:
    """Shares of windows that get each treatment."""

    resampled: float = 0.5
    room: float = 0.2
    band: float = 0.15
    tilt: float = 0.4
    noise: float = 0.45

    def scaled(self, strength: float) -> "Shares":
        """All shares times `strength`, for a gentle start."""
        fields = (self.resampled, self.room, self.band, self.tilt, self.noise)
        return Shares(*(strength * share for share in fields))


def resample(samples: np.ndarray, ratio: float) -> np.ndarray:
    """Plays faster and higher (ratio < 1) or slower and lower: a longer or shorter vocal tract."""
    count = round(len(samples) * ratio)
    return np.interp(np.arange(count) / ratio, np.arange(len(samples)), samples).astype(np.float32)


def room_responses(random: np.random.Generator, count: int = 64) -> np.ndarray:
    """(count, RESPONSE_SAMPLES): a direct sound, then noise that falls by 60 dB in 0.1–0.6 s."""
    seconds = np.arange(RESPONSE_SAMPLES) / SAMPLE_RATE_HZ
    decay_seconds = random.uniform(0.1, 0.6, (count, 1))
    tails = random.standard_normal((count, RESPONSE_SAMPLES)) * np.exp(
        -6.9 * seconds / decay_seconds
    )
    tails[:, : SAMPLE_RATE_HZ // 200] = 0.0  # the first echo comes after 5 ms
    tails *= random.uniform(0.2, 0.9, (count, 1)) / np.linalg.norm(tails, axis=1, keepdims=True)
    tails[:, 0] = 1.0
    return tails.astype(np.float32)


def colored_noise(random: np.random.Generator, slope: float) -> np.ndarray:
    """Noise whose power falls with frequency to the power of `slope` (0 white, 1 pink, 2 brown)."""
    frequencies = np.maximum(np.fft.rfftfreq(NOISE_SAMPLES), 1e-4)
    spectrum = random.standard_normal((2, len(frequencies))) * frequencies ** (-slope / 2)
    return np.fft.irfft(spectrum[0] + 1j * spectrum[1])


def babble(random: np.random.Generator, speech: np.ndarray, talkers: int = 8) -> np.ndarray:
    """Several stretches of speech at once."""
    starts = random.integers(0, len(speech) - NOISE_SAMPLES, talkers)
    stretches = [speech[s : s + NOISE_SAMPLES].astype(np.float64) for s in starts]
    return np.sum(stretches, axis=0)


def noise_bank(random: np.random.Generator, speech: np.ndarray) -> Tensor:
    """(kinds, NOISE_SAMPLES) of unit power: white to brown, mains hum, babble."""
    kinds = [colored_noise(random, slope) for slope in (0.0, 0.5, 1.0, 1.0, 1.5, 2.0)]
    seconds = np.arange(NOISE_SAMPLES) / SAMPLE_RATE_HZ
    hum = sum(np.sin(2 * np.pi * 50 * k * seconds) / k for k in range(1, 12))
    kinds += [hum + 0.3 * kinds[0] / kinds[0].std()] + [babble(random, speech) for _ in range(3)]
    scaled = [kind / np.sqrt(np.mean(kind**2)) for kind in kinds]
    return torch.tensor(np.stack(scaled), dtype=torch.float32)


class Acoustics:
    """Treats batches of speech; everything random comes from one generator."""

    def __init__(self, random: np.random.Generator, speech: np.ndarray) -> None:
        self.random = random
        self.noises = noise_bank(random, speech)
        self.responses = torch.from_numpy(room_responses(random))

    def drawn(self, share: float, count: int) -> Tensor:
        return torch.from_numpy(self.random.random(count) < share)

    def uniform(self, low: float, high: float, count: int) -> Tensor:
        return torch.from_numpy(self.random.uniform(low, high, (count, 1)).astype(np.float32))

    def filters(self, count: int, fft_samples: int, shares: Shares) -> Tensor:
        """(count, fft_samples / 2 + 1) products of room, band limits and tilt."""
        hertz = torch.fft.rfftfreq(fft_samples, 1 / SAMPLE_RATE_HZ)
        chosen = torch.from_numpy(self.random.integers(0, len(self.responses), count))
        dry = torch.zeros(RESPONSE_SAMPLES)
        dry[0] = 1.0
        rooms = self.drawn(shares.room, count)[:, None]
        response = torch.where(rooms, self.responses[chosen], dry)
        low = self.uniform(0.0, 350.0, count)
        high = self.uniform(2_600.0, 7_000.0, count)
        band = torch.sigmoid((hertz - low) / 30.0) * torch.sigmoid((high - hertz) / 100.0)
        band = torch.where(self.drawn(shares.band, count)[:, None], band, 1.0)
        decibels = self.uniform(-5.0, 5.0, count) * torch.log2(hertz.clamp(min=125.0) / 1_000.0)
        tilt = torch.where(self.drawn(shares.tilt, count)[:, None], 10.0 ** (decibels / 20.0), 1.0)
        return torch.fft.rfft(response, fft_samples) * (band * tilt)

    def __call__(self, waveforms: Tensor, shares: Shares) -> Tensor:
        """(batch, samples) → the same shape: filtered, with noise at 8–35 dB, louder or softer."""
        count, samples = waveforms.shape
        fft_samples = 1 << (samples + RESPONSE_SAMPLES - 1).bit_length()
        fft_samples = 3 * fft_samples // 4 if 3 * fft_samples // 4 > samples else fft_samples
        spectrum = torch.fft.rfft(waveforms, fft_samples)
        filtered = spectrum * self.filters(count, fft_samples, shares)
        heard = torch.fft.irfft(filtered, fft_samples)[:, :samples]
        return (heard + self.noise(heard, shares)) * 10 ** self.uniform(-1.5, 0.0, count)

    def noise(self, heard: Tensor, shares: Shares) -> Tensor:
        """(batch, samples) noise scaled to each window's own power."""
        count, samples = heard.shape
        starts = self.random.integers(0, NOISE_SAMPLES - samples, count)
        kinds = self.random.integers(0, len(self.noises), count)
        pairs = zip(kinds, starts, strict=True)
        noise = torch.stack([self.noises[kind, start : start + samples] for kind, start in pairs])
        loudness = heard.square().mean(dim=1, keepdim=True).sqrt() + 1e-4
        scale = loudness * 10 ** (-self.uniform(8.0, 35.0, count) / 20)
        return noise * scale * self.drawn(shares.noise, count)[:, None]
