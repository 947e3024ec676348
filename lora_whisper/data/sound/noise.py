"""Sounds without speech, made from nothing but a generator: for windows in which nobody speaks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lora_whisper.model.rates import SAMPLING_RATE

SOFTEST_DBFS, LOUDEST_DBFS = -60.0, -25.0  # root mean square: a quiet room, a street outside
LOWEST_FREQUENCY = 20.0  # Hz; below it nobody hears, and brown noise would be little else
MAINS_FREQUENCIES = (50.0, 60.0)  # Hz, in Europe and in America
HUM_HARMONICS = 12
SEMITONE = 2 ** (1 / 12)
MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)  # semitones above the key
NOTE_SECONDS = (0.15, 0.6)
BREATHS_A_SECOND = (0.2, 0.4)  # 12 to 24 a minute

Maker = Callable[[int, np.random.Generator], np.ndarray]


def generated_noise(kind: str, samples: int, rng: np.random.Generator) -> np.ndarray:
    """One of NOISE_KINDS as (samples,) float32 at 16 kHz, below full scale.

    The level is drawn between -60 and -25 dB below full scale (root mean square).
    """
    noise = _MAKERS[kind](samples, rng)
    level_db = rng.uniform(SOFTEST_DBFS, LOUDEST_DBFS)
    rms = np.sqrt(np.mean(np.square(noise)))
    return (noise * (10 ** (level_db / 20) / rms if rms else 0.0)).astype(np.float32)


def _silence(samples: int, rng: np.random.Generator) -> np.ndarray:
    return np.zeros(samples)


def _white(samples: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(samples)


def _pink(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Power falls as 1/f, by 3 dB an octave: rain, wind, a crowd far off."""
    return _colored(samples, rng, exponent=1.0)


def _brown(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Power falls as 1/f², by 6 dB an octave: traffic behind walls, a cabin."""
    return _colored(samples, rng, exponent=2.0)


def _colored(samples: int, rng: np.random.Generator, exponent: float) -> np.ndarray:
    """Noise whose power falls as 1/f^exponent: white noise, shaped in the frequency domain."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequencies = np.fft.rfftfreq(samples, 1 / SAMPLING_RATE)
    heard = frequencies >= LOWEST_FREQUENCY
    spectrum[heard] *= frequencies[heard] ** (-exponent / 2)
    spectrum[~heard] = 0.0
    return np.fft.irfft(spectrum, samples)


def _hum(samples: int, rng: np.random.Generator) -> np.ndarray:
    """The mains and its harmonics, each at a level of its own, over a faint hiss."""
    time = np.arange(samples) / SAMPLING_RATE
    mains = rng.choice(MAINS_FREQUENCIES)
    hum = 0.01 * rng.standard_normal(samples)
    for harmonic in range(1, HUM_HARMONICS + 1):
        amplitude, phase = rng.uniform(0.3, 1.0) / harmonic, rng.uniform(0, 2 * np.pi)
        hum += amplitude * np.sin(2 * np.pi * harmonic * mains * time + phase)
    return hum


def _tones(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Plucked notes of one major scale, one to three at a time: like music, with no voice in it."""
    melody = np.zeros(samples)
    key = rng.uniform(110, 220)  # Hz
    first = 0
    while first < samples:
        length = round(rng.uniform(*NOTE_SECONDS) * SAMPLING_RATE)
        for _ in range(rng.integers(1, 4)):
            semitones = rng.choice(MAJOR_SCALE) + 12 * rng.integers(0, 3)
            note = _note(key * SEMITONE**semitones, length)
            melody[first : first + length] += note[: samples - first]
        first += length
    return melody


def _note(frequency: float, samples: int) -> np.ndarray:
    """Three harmonics that start at once and die away by 40 dB; they begin and end at zero."""
    time = np.arange(samples) / SAMPLING_RATE
    harmonics = sum(np.sin(2 * np.pi * n * frequency * time) / n**2 for n in (1, 2, 3))
    return harmonics * np.exp(-4.6 * np.arange(samples) / samples)


def _breathing(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Pink noise that swells and falls as slowly as a sleeper breathes."""
    time = np.arange(samples) / SAMPLING_RATE
    rate, phase = rng.uniform(*BREATHS_A_SECOND), rng.uniform(0, 2 * np.pi)
    swelling = 0.5 + 0.5 * np.sin(2 * np.pi * rate * time + phase)
    return (0.02 + swelling**2) * _pink(samples, rng)


_MAKERS: dict[str, Maker] = {
    "silence": _silence,
    "white": _white,
    "pink": _pink,
    "brown": _brown,
    "hum": _hum,
    "tones": _tones,
    "breathing": _breathing,
}
NOISE_KINDS = tuple(_MAKERS)
