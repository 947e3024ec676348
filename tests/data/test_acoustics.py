"""Generated sounds without speech, against the spectra that theory gives them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import welch

from lora_whisper.data.acoustics import NOISE_KINDS, generated_noise
from lora_whisper.model.published import SAMPLING_RATE

SAMPLES = 30 * SAMPLING_RATE


def made(kind: str, seed: int = 0, samples: int = SAMPLES) -> np.ndarray:
    return generated_noise(kind, samples, np.random.default_rng(seed))


def power_spectrum(noise: np.ndarray, segment: int = 16_384) -> tuple[np.ndarray, np.ndarray]:
    return welch(noise, SAMPLING_RATE, nperseg=segment)


@pytest.mark.parametrize("kind", NOISE_KINDS)
@pytest.mark.parametrize("samples", [1, 1_601, SAMPLES])
def test_any_length_is_float32_below_full_scale(kind: str, samples: int) -> None:
    noise = made(kind, samples=samples)
    assert noise.shape == (samples,)
    assert noise.dtype == np.float32
    assert np.isfinite(noise).all()
    assert np.abs(noise).max(initial=0.0) <= 1


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_the_generator_alone_decides(kind: str) -> None:
    np.testing.assert_array_equal(made(kind, seed=3), made(kind, seed=3))
    assert kind == "silence" or not np.array_equal(made(kind, seed=3), made(kind, seed=4))


@pytest.mark.parametrize("kind", sorted(set(NOISE_KINDS) - {"silence"}))
def test_levels_are_those_of_a_room_to_those_of_a_street(kind: str) -> None:
    noises = [made(kind, seed, samples=SAMPLING_RATE) for seed in range(40)]
    levels_db = [10 * np.log10(np.mean(np.square(noise))) for noise in noises]
    assert -60.1 < min(levels_db) < -50
    assert -35 < max(levels_db) < -24.9


def test_silence_is_silent() -> None:
    assert not made("silence").any()


@pytest.mark.parametrize(("kind", "slope_db"), [("white", 0.0), ("pink", -3.01), ("brown", -6.02)])
def test_power_falls_by_the_octave(kind: str, slope_db: float) -> None:
    frequencies, power = power_spectrum(made(kind))
    band = (frequencies > 40) & (frequencies < 7_000)
    octaves, levels = np.log2(frequencies[band]), 10 * np.log10(power[band])
    # Each octave counts the same, not each of the many bins on top.
    slope, _ = np.polyfit(octaves, levels, 1, w=np.sqrt(1 / frequencies[band]))
    assert slope == pytest.approx(slope_db, abs=0.2)


def test_nothing_is_spent_below_hearing() -> None:
    frequencies, power = power_spectrum(made("brown"))
    assert power[frequencies < 15].sum() < 0.05 * power.sum()


@pytest.mark.parametrize("seed", range(4))
def test_hum_stands_on_the_mains_and_its_harmonics(seed: int) -> None:
    frequencies, power = power_spectrum(made("hum", seed))

    def share_on_harmonics(mains: float) -> float:
        distance = np.abs(frequencies - mains * np.round(frequencies / mains))
        return power[distance <= 3].sum() / power[frequencies > 0].sum()

    other, mains = sorted(map(share_on_harmonics, (50.0, 60.0)))
    assert mains > 0.99
    assert other < 0.5


def flatness(noise: np.ndarray) -> float:
    """1 for white noise, near 0 for tones (Wiener entropy)."""
    _, power = power_spectrum(noise, segment=1_024)
    return float(np.exp(np.mean(np.log(power))) / np.mean(power))


def test_tones_are_tonal_and_change() -> None:
    tones = made("tones")
    assert flatness(made("white")) > 0.9
    assert flatness(tones) < 0.01
    seconds = tones.reshape(30, SAMPLING_RATE)
    loudest = {int(np.argmax(np.abs(np.fft.rfft(second)))) for second in seconds}
    assert len(loudest) >= 5, "a melody of under five notes in half a minute"


@pytest.mark.parametrize("seed", range(3))
def test_breathing_swells_twelve_to_twenty_four_times_a_minute(seed: int) -> None:
    noise = made("breathing", seed, samples=60 * SAMPLING_RATE)
    envelope = np.square(noise).reshape(-1, SAMPLING_RATE // 10).mean(axis=1)  # 10 a second
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
    rate = np.fft.rfftfreq(len(envelope), 0.1)[np.argmax(spectrum)]
    assert 0.18 < rate < 0.42
