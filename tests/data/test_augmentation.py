"""Augmentation, each kind by what physics or another library says of its result."""

from __future__ import annotations

import dataclasses
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import correlate, welch

from lora_whisper.config import AugmentationConfig, SpecAugmentConfig
from lora_whisper.data import acoustics
from lora_whisper.data.augmentation import (
    SPEECH_FRAME_SAMPLES,
    STEPS,
    Augmented,
    Augmenter,
    Mask,
    apply_masks,
    at_speed,
    from_direct_sound,
    generated_response,
    mean_power,
    mixed,
    reverberant,
    speech_power,
    write_examples,
)
from lora_whisper.errors import UserError
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.schema import from_values
from tests.composed import train_values
from tests.toy_speech import tone

WINDOW_SECONDS = 5.0
WINDOW_SAMPLES = round(WINDOW_SECONDS * SAMPLING_RATE)
SOUND_STEPS = STEPS[:-1]


@cache  # composing takes a tenth of a second
def composed(names: tuple[str, ...]) -> AugmentationConfig:
    values = train_values(f"augmentation=[{','.join(names)}]")["augmentation"]
    return from_values(AugmentationConfig, values)


def config(*names: str, **changes: Any) -> AugmentationConfig:
    """These files of conf/augmentation, for every window; `noise={"folder": …}` changes a field."""
    groups = composed(names)
    given = {
        name: dataclasses.replace(getattr(groups, name), **({"share": 1.0} | changes.get(name, {})))
        for name in STEPS
        if getattr(groups, name)
    }
    return dataclasses.replace(groups, **given)


def augmenter(*names: str, **changes: Any) -> Augmenter:
    return Augmenter(config(*names, **changes), WINDOW_SECONDS, mel_bins=80)


def bursts(seconds: float = 3.0, seed: int = 0) -> np.ndarray:
    """Something like speech: syllables of coloured noise, a third of the time, with pauses."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    noise = np.convolve(rng.standard_normal(len(time)), np.ones(4) / 4, "same")
    syllables = np.sin(2 * np.pi * 1.3 * time) > 0.5
    return (0.05 * noise * syllables).astype(np.float32)


def lag_samples(before: np.ndarray, after: np.ndarray) -> int:
    """By how much `after` comes later, by cross-correlation."""
    return int(np.argmax(correlate(after, before, "full", "fft"))) - (len(before) - 1)


def decibels(ratio: float) -> float:
    return 10 * float(np.log10(ratio))


def recordings(folder: Path, sounds: dict[str, np.ndarray], rate: int = SAMPLING_RATE) -> str:
    for name, samples in sounds.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate)
    return str(folder)


# ── what holds for all ───────────────────────────────────────────────────────────────────────


def test_without_augmentation_a_window_stays_as_it_is() -> None:
    samples = bursts()
    augmented = augmenter("none")(samples, (1, 2))
    np.testing.assert_array_equal(augmented.samples, samples)
    assert (augmented.speed, augmented.steps) == (1.0, ())
    assert augmenter("none").masks(len(samples), (1, 2)) == ()


HARD_INPUT = {
    "speech": bursts(),
    "silence": np.zeros(SAMPLING_RATE, np.float32),
    "clipped": np.sign(tone(1.0)).astype(np.float32),
    "shortest": tone(0.1),
    "full window": tone(WINDOW_SECONDS) * 2,
    "one click": np.eye(1, SAMPLING_RATE, 5_000, dtype=np.float32)[0],
    "faint": tone(1.0) * np.float32(1e-6),
    "constant": np.full(SAMPLING_RATE, 0.5, np.float32),
}


@pytest.mark.parametrize("name", HARD_INPUT)
@pytest.mark.parametrize("step", [*SOUND_STEPS, "noisy"])
def test_the_result_is_sound_whatever_comes_in(step: str, name: str) -> None:
    samples = HARD_INPUT[name]
    before = samples.copy()
    augment = augmenter(step)
    for seed in range(3):
        augmented = augment(samples, (seed,))
        assert augmented.samples.dtype == np.float32
        assert np.isfinite(augmented.samples).all()
        assert np.abs(augmented.samples).max() <= 1
        assert len(augmented.samples) <= WINDOW_SAMPLES
        assert step == "speed" or len(augmented.samples) == len(samples)
        # A-law has no zero: the nearest to silence is 8 / 32 768.
        assert name != "silence" or np.abs(augmented.samples).max() <= 0.0005
    np.testing.assert_array_equal(samples, before, "the input was written to")


def all_steps() -> Augmenter:
    return augmenter(*SOUND_STEPS, "spec_augment")


AUGMENT = """
import pickle, random, sys
import numpy as np
random.seed(99), np.random.seed(99)
augment, samples, seed = pickle.load(sys.stdin.buffer)
pickle.dump(augment(samples, seed), sys.stdout.buffer)
"""


def test_samples_and_seed_alone_decide_in_any_process() -> None:
    augment, samples, seed = all_steps(), bursts(), (1, 2, 3)
    here = augment(samples, seed)
    assert here.steps == SOUND_STEPS
    pickled = pickle.dumps((augment, samples, seed))
    done = subprocess.run([sys.executable, "-c", AUGMENT], input=pickled, stdout=subprocess.PIPE)
    there: Augmented = pickle.loads(done.stdout)
    np.testing.assert_array_equal(there.samples, here.samples)
    assert there.speed == here.speed
    assert not np.array_equal(augment(samples, (1, 2, 4)).samples, here.samples)
    again = pickle.loads(pickle.dumps(augment))
    assert augment.masks(16_000, (1, 2)) == again.masks(16_000, (1, 2))
    assert augment.masks(16_000, (1, 2)) != augment.masks(16_000, (1, 3))


def test_the_global_generators_are_left_as_they_were() -> None:
    python, numpy = random.getstate(), np.random.get_state()
    all_steps()(bursts(), (1, 2, 3))
    assert random.getstate() == python
    for now, before in zip(np.random.get_state(), numpy, strict=True):
        np.testing.assert_array_equal(now, before)


def test_each_step_is_drawn_for_itself() -> None:
    """Switching one on changes nothing in the draws of another."""
    half = {"share": 0.5}
    alone = augmenter("noise", noise=half)
    beside = augmenter("speed", "gain", "noise", speed=half, gain=half, noise=half)
    samples = bursts(0.5)
    drawn = ["noise" in alone(samples, (seed,)).steps for seed in range(100)]
    assert drawn == ["noise" in beside(samples, (seed,)).steps for seed in range(100)]
    together = [beside(samples, (seed,)).steps for seed in range(100)]
    assert {("speed",), ("gain",), ("noise",), ()} < set(together)


@pytest.mark.parametrize("step", STEPS)
def test_the_share_is_of_the_windows(step: str) -> None:
    augment = augmenter(step, **{step: {"share": 0.3}})
    samples = bursts(0.1)
    if step == "spec_augment":
        drawn = sum(bool(augment.masks(16_000, (seed,))) for seed in range(400))
    else:
        drawn = sum(augment(samples, (seed,)).steps == (step,) for seed in range(400))
    assert 90 <= drawn <= 150  # 120, three standard deviations around it


@pytest.mark.parametrize("step", ["gain", "noise", "reverberation", "telephone"])
def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setitem(sys.modules, "audiomentations", None)
    with pytest.raises(UserError, match=rf"{step}.*pip install 'lora-whisper\[augmentation\]'"):
        augmenter(step)


def test_what_needs_no_library_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "audiomentations", None)
    assert augmenter("speed", "spec_augment")(bursts(), (1,)).steps == ("speed",)


# ── speed and gain ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("speed", [0.8, 0.9, 1.0, 1.1])
def test_speed_moves_pitch_and_time_alike(speed: float) -> None:
    changed = at_speed(tone(2.0, frequency=500.0), speed)
    assert len(changed) == pytest.approx(2.0 * SAMPLING_RATE / speed, abs=1)
    spectrum = np.abs(np.fft.rfft(changed * np.hanning(len(changed))))
    heard = np.argmax(spectrum) * SAMPLING_RATE / len(changed)
    assert heard == pytest.approx(500.0 * speed, abs=1.0)


@pytest.mark.parametrize("seconds", [2.0, 4.9, WINDOW_SECONDS])
@pytest.mark.parametrize("seed", range(4))
def test_what_was_said_at_t_is_heard_at_t_over_speed(seconds: float, seed: int) -> None:
    """Of a click at the very end, where a cut would take it; the longest clips are not slowed."""
    samples = np.zeros(round(seconds * SAMPLING_RATE), np.float32)
    click = len(samples) - 200
    samples[click] = 1.0
    augmented = augmenter("speed", speed={"factors": (0.5, 1.2)})(samples, (seed,))
    assert np.argmax(augmented.samples) == pytest.approx(click / augmented.speed, abs=1)
    assert len(augmented.samples) <= WINDOW_SAMPLES
    assert len(augmented.samples) == pytest.approx(len(samples) / augmented.speed, abs=1)


def test_a_clip_is_slowed_as_far_as_it_fits() -> None:
    slowest = {"factors": (0.5, 0.5)}
    augmented = augmenter("speed", speed=slowest)(tone(4.0), (0,))
    assert augmented.speed == 4.0 / WINDOW_SECONDS
    assert len(augmented.samples) == WINDOW_SAMPLES


def test_speeds_are_spread_over_the_range() -> None:
    augment = augmenter("speed")
    speeds = [augment(tone(0.1), (seed,)).speed for seed in range(200)]
    assert 0.9 <= min(speeds) < 0.91
    assert 1.09 < max(speeds) <= 1.1
    assert np.mean(speeds) == pytest.approx(1.0, abs=0.015)


def test_gain_is_drawn_from_its_range() -> None:
    augment = augmenter("gain", gain={"db": (-20.0, 6.0)})
    samples = tone(0.1) * 0.1
    gains = [
        decibels(mean_power(augment(samples, (seed,)).samples) / mean_power(samples))
        for seed in range(200)
    ]
    assert -20 <= min(gains) < -19
    assert 5 < max(gains) <= 6.01


def test_nothing_is_clipped() -> None:
    """Beyond full scale the whole window is scaled: a sine stays a sine."""
    augment = augmenter("gain", gain={"db": (20.0, 20.0)})
    sine = tone(1.0)
    louder = augment(sine, (0,)).samples
    np.testing.assert_allclose(louder, sine / np.abs(sine).max(), atol=1e-6)


# ── noise ────────────────────────────────────────────────────────────────────────────────────


def test_speech_is_measured_without_its_pauses() -> None:
    loud, pause = tone(1.0), np.zeros(3 * SAMPLING_RATE, np.float32)
    assert speech_power(np.concatenate([pause, loud, pause])) == pytest.approx(0.125, rel=1e-3)


def test_the_power_of_sound_shorter_than_a_frame_at_the_very_end() -> None:
    click = np.zeros(SPEECH_FRAME_SAMPLES * 5 + 10, np.float32)
    click[-10:] = 0.5
    assert speech_power(click) > 0
    assert np.isfinite(augmenter("noise")(click, (0,)).samples).all()


def measured_snr_db(speech: np.ndarray, noisy: np.ndarray) -> float:
    """Of the syllables of `bursts`, which are exactly zero elsewhere."""
    spoken = mean_power(speech[speech != 0])
    return decibels(spoken / mean_power(noisy - speech))


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
@pytest.mark.parametrize("folder", [True, False], ids=["recorded", "generated"])
def test_the_snr_is_what_was_asked_for(tmp_path: Path, snr_db: float, folder: bool) -> None:
    rain = np.random.default_rng(1).standard_normal(44_100 * 8) * 0.1
    given = recordings(tmp_path, {"rain.flac": rain}, rate=44_100) if folder else None
    settings = {"folder": given, "snr_db": (snr_db, snr_db)}
    augment = augmenter("noise", noise=settings)
    speech = bursts()
    for seed in range(5):
        noisy = augment(speech, (seed,)).samples
        assert measured_snr_db(speech, noisy) == pytest.approx(snr_db, abs=0.5)


def test_snrs_are_spread_over_the_range() -> None:
    augment = augmenter("noise", noise={"snr_db": (5.0, 25.0)})
    speech = bursts(1.0)
    snrs = [measured_snr_db(speech, augment(speech, (seed,)).samples) for seed in range(100)]
    assert 4.5 < min(snrs) < 7
    assert 23 < max(snrs) < 25.5
    assert np.mean(snrs) == pytest.approx(15.0, abs=2.0)


def test_generated_noise_is_of_every_colour_from_white_to_brown() -> None:
    augment = augmenter("noise")
    speech = bursts(WINDOW_SECONDS)
    slopes = []
    for seed in range(30):
        noise = augment(speech, (seed,)).samples - speech
        frequencies, power = welch(noise, SAMPLING_RATE, nperseg=4_096)
        octaves = [(100 * 2**n, 200 * 2**n) for n in range(6)]
        levels = [
            decibels(power[(frequencies >= low) & (frequencies < high)].mean())
            for low, high in octaves
        ]
        slopes.append(np.polyfit(range(6), levels, 1)[0])  # dB an octave
    assert -6.5 < min(slopes) < -5
    assert -1 < max(slopes) < 0.5


def test_recordings_are_counted_once_and_other_files_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = recordings(tmp_path, {"deep/er/a.flac": tone(1.0), "b.wav": tone(1.0)})
    recordings(tmp_path, {"short.wav": tone(0.05)})
    (tmp_path / "README.md").write_text("Recorded by nobody.")
    with caplog.at_level("INFO", "lora_whisper"):
        augmenter("noise", noise={"folder": folder})
    assert "2 recordings" in caplog.text
    assert "2 files without sound" in caplog.text


def test_recordings_are_taken_from_any_part_and_repeated_where_short(tmp_path: Path) -> None:
    """The first half of the long one is a low tone, the second a high one."""
    long = np.concatenate([tone(10.0, frequency=200.0), tone(10.0, frequency=2_000.0)])
    folder = recordings(tmp_path, {"long.wav": long, "short.wav": tone(0.2, frequency=900.0)})
    augment = augmenter("noise", noise={"folder": folder, "snr_db": (-20.0, 30.0)})
    speech = bursts(1.0)
    heard = set()
    for seed in range(40):
        noise = augment(speech, (seed,)).samples
        quarters = np.abs(np.fft.rfft(noise.reshape(4, -1), axis=1))
        strongest = 4 * np.argmax(quarters, axis=1)  # Hz
        if decibels(mean_power(noise) / mean_power(speech)) > 10:
            heard.add(int(strongest[-1]))
    assert heard >= {200, 900, 2_000}


def test_silent_noise_adds_nothing() -> None:
    speech = bursts()
    np.testing.assert_array_equal(mixed(speech, np.zeros(100, np.float32), 0.0), speech)


@pytest.mark.parametrize("step", ["noise", "reverberation"])
def test_a_folder_without_sound_is_refused_before_training(tmp_path: Path, step: str) -> None:
    (tmp_path / "README.md").write_text("Nothing here.")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(
        UserError, match=rf"augmentation\.{step}\.folder=.*: no recordings"
    ) as found:
        augmenter(step, **{step: {"folder": str(tmp_path)}})
    assert "broken.wav" in str(found.value)
    with pytest.raises(UserError, match="no such folder"):
        augmenter(step, **{step: {"folder": str(tmp_path / "missing")}})


@pytest.mark.parametrize("step", ["noise", "reverberation"])
def test_a_recording_that_fails_later_costs_no_window(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    folder = recordings(tmp_path, {"a.wav": tone(1.0)})
    augment = augmenter(step, **{step: {"folder": folder}})
    (tmp_path / "a.wav").unlink()
    speech = bursts()
    np.testing.assert_array_equal(augment(speech, (0,)).samples, speech)
    assert "a.wav: no such file" in caplog.text


# ── reverberation ────────────────────────────────────────────────────────────────────────────


def schroeder_rt60_seconds(response: np.ndarray) -> float:
    """Backward integration (Schroeder 1965), from -5 to -25 dB, as ISO 3382 evaluates T20."""
    tail = response[1:].astype(np.float64)
    energy = np.cumsum(np.square(tail)[::-1])[::-1]
    level_db = 10 * np.log10(energy / energy[0] + 1e-12)
    part = (level_db <= -5) & (level_db >= -25)
    time = np.arange(len(tail))[part] / SAMPLING_RATE
    slope, _ = np.polyfit(time, level_db[part], 1)
    return -60 / slope


@pytest.mark.parametrize("rt60_seconds", [0.1, 0.4, 1.0, 3.0])
def test_generated_rooms_have_the_reverberation_time(rt60_seconds: float) -> None:
    response = generated_response(rt60_seconds, np.random.default_rng(0))
    assert schroeder_rt60_seconds(response) == pytest.approx(rt60_seconds, rel=0.1)
    assert 0 <= decibels(1 / np.sum(np.square(response[1:], dtype=np.float64))) <= 12


@pytest.mark.parametrize("folder", [True, False], ids=["recorded", "generated"])
def test_speech_in_a_room_stays_in_time_and_at_its_level(tmp_path: Path, folder: bool) -> None:
    """The recorded response starts with the 50 ms that its sound took to the microphone."""
    response = generated_response(0.5, np.random.default_rng(3))
    late = np.concatenate([np.zeros(800), response * 0.7])
    given = recordings(tmp_path, {"hall.wav": late}) if folder else None
    augment = augmenter("reverberation", reverberation={"folder": given})
    speech = bursts()
    for seed in range(5):
        wet = augment(speech, (seed,)).samples
        assert not np.allclose(wet, speech)
        assert lag_samples(speech, wet) == 0
        assert decibels(mean_power(wet) / mean_power(speech)) == pytest.approx(0, abs=0.01)


def test_a_room_is_a_convolution() -> None:
    response = from_direct_sound(np.array([0.0, 0.1, 1.0, 0.0, 0.5], np.float32))
    click = np.array([0, 1, 0, 0, 0], np.float32)
    heard = reverberant(click, response)
    np.testing.assert_allclose(heard / heard[1], [0, 1, 0, 0.5, 0], atol=1e-6)


# ── telephone ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["real", "toy"])
def speech(request: pytest.FixtureRequest) -> Iterator[np.ndarray]:
    """What speech codecs are made for, where it is at hand, and what has no pitch."""
    path = Path("../shared/speech/english/audio/2412-153948-0000.flac")
    if request.param == "toy":
        yield bursts()
    elif path.is_file():
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == SAMPLING_RATE
        yield samples[: 4 * rate]
    else:
        pytest.skip(f"{path} is not here")


@pytest.mark.parametrize("codec", acoustics.CODECS)
def test_a_telephone_neither_delays_nor_shortens(codec: str, speech: np.ndarray) -> None:
    heard = acoustics.through_telephone(speech, acoustics.CODECS[codec])
    assert len(heard) == len(speech)
    band = acoustics._band_passed(speech)
    assert abs(lag_samples(band, heard)) <= 3  # 0.2 ms


@pytest.mark.parametrize("codec", acoustics.CODECS)
def test_a_telephone_lets_its_band_through(codec: str) -> None:
    white = (np.random.default_rng(0).standard_normal(4 * SAMPLING_RATE) * 0.05).astype(np.float32)
    heard = acoustics.through_telephone(white, acoustics.CODECS[codec])
    frequencies, power = welch(heard, SAMPLING_RATE, nperseg=2_048)

    def level_db(low: float, high: float) -> float:
        return decibels(power[(frequencies >= low) & (frequencies < high)].mean())

    middle = level_db(500, 3_000)
    assert level_db(0, 100) < middle - 15
    assert level_db(4_100, 8_000) < middle - 30


@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw"])
@pytest.mark.parametrize("level", [0.02, 0.2, 0.9])
def test_g711_keeps_a_tone_38_db_over_its_noise(codec: str, level: float) -> None:
    """Eight logarithmic bits give about the same signal-to-noise ratio at any level."""
    frequency = 1_017.0  # which meets all values, unlike a part of the sampling rate
    sine = 2 * level * tone(2.0, frequency=frequency)
    heard = acoustics.through_telephone(sine, acoustics.CODECS[codec])[4_000:-4_000]
    phase = 2 * np.pi * frequency * np.arange(len(heard)) / SAMPLING_RATE
    waves = np.stack([np.sin(phase), np.cos(phase)], axis=1)
    fit = waves @ np.linalg.lstsq(waves, heard, rcond=None)[0]
    assert 35 < decibels(mean_power(fit) / mean_power(heard - fit)) < 42


def test_every_codec_is_drawn() -> None:
    augment = augmenter("telephone")
    samples = bursts(0.2)
    heard = {augment(samples, (seed,)).samples.tobytes() for seed in range(30)}
    assert len(heard) == len(acoustics.CODECS)


def test_a_codec_that_the_library_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = acoustics.Codec("libgsm_of_nobody", "gsm", None, 0)
    monkeypatch.setitem(acoustics.CODECS, "gsm", lacking)
    with pytest.raises(UserError, match="augmentation=telephone: PyAV was built without gsm"):
        augmenter("telephone")


# ── SpecAugment ──────────────────────────────────────────────────────────────────────────────


def drawn_masks(samples: int, count: int = 300, **changes: Any) -> list[tuple[Mask, ...]]:
    augment = augmenter("spec_augment", spec_augment=changes)
    return [augment.masks(samples, (seed,)) for seed in range(count)]


@pytest.mark.parametrize("samples", [1_600, 16_001, WINDOW_SAMPLES])
def test_masks_lie_where_there_is_sound(samples: int) -> None:
    frames = -(-samples // 160)
    for masks in drawn_masks(samples):
        assert [mask.axis for mask in masks] == ["time"] * 2 + ["frequency"] * 2
        for mask in masks:
            size = frames if mask.axis == "time" else 80
            largest = min(50, int(0.2 * frames)) if mask.axis == "time" else 16
            assert 1 <= mask.count <= largest
            assert 0 <= mask.first <= size - mask.count


def test_masks_reach_every_frame_and_bin() -> None:
    hidden = np.zeros(100, int), np.zeros(80, int)
    for mask in [mask for masks in drawn_masks(16_000) for mask in masks]:
        hidden[mask.axis == "frequency"][mask.first : mask.first + mask.count] += 1
    assert all(counts.min() > 0 for counts in hidden)


def test_masks_of_a_window_too_short_to_lose_a_frame() -> None:
    assert {mask.axis for masks in drawn_masks(640) for mask in masks} == {"frequency"}


def test_no_masks_in_time() -> None:
    drawn = drawn_masks(16_000, 20, time_masks=0)
    assert {mask.axis for masks in drawn for mask in masks} == {"frequency"}


def test_masked_features_are_zero_and_the_rest_is_untouched() -> None:
    features = torch.randn(3, 80, 500) + 5
    before = features.clone()
    masks = [(Mask("time", 10, 5), Mask("frequency", 70, 10)), (), (Mask("time", 499, 1),)]
    masked = apply_masks(features, masks)
    expected = before.clone()
    expected[0, :, 10:15] = 0
    expected[0, 70:80, :] = 0
    expected[2, :, 499] = 0
    torch.testing.assert_close(masked, expected, rtol=0, atol=0)
    torch.testing.assert_close(features, before, rtol=0, atol=0)
    assert apply_masks(features, [(), (), ()]) is features


def test_hidden_is_what_transformers_hides() -> None:
    """Its own SpecAugment puts the same value into the same shape."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperModel

    class Masker:
        config = WhisperConfig(mask_time_prob=0.5, mask_time_length=10, apply_spec_augment=True)
        training = True

    features = torch.randn(1, 80, 500) + 5
    theirs = WhisperModel._mask_input_features(Masker(), features.clone())
    hidden = (theirs != features).all(dim=1)[0].nonzero().flatten().tolist()
    assert hidden
    ours = apply_masks(features, [[Mask("time", frame, 1) for frame in hidden]])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_spec_augment_needs_a_configuration_only() -> None:
    settings = config("spec_augment").spec_augment
    assert isinstance(settings, SpecAugmentConfig)
    assert augmenter("spec_augment")(bursts(), (0,)).steps == ()


# ── to be listened to ────────────────────────────────────────────────────────────────────────────


def test_each_window_is_written_before_and_after(tmp_path: Path) -> None:
    windows = [("talks/a.jsonl:17", tone(1.0)), ("ümlaut 1/2\\?", tone(0.5))]
    augment = augmenter("gain")
    paths = write_examples(windows, augment, tmp_path / "listen", seed=1)
    assert [path.name for path in paths] == [
        "01_a.jsonl-17_1_before.wav",
        "01_a.jsonl-17_2_after_gain.wav",
        "02_2-_1_before.wav",
        "02_2-_2_after_gain.wav",
    ]
    assert sorted(paths) == sorted((tmp_path / "listen").iterdir())
    before, after = (soundfile.read(path, dtype="float32") for path in paths[:2])
    assert before[1] == after[1] == 16_000
    np.testing.assert_allclose(before[0], windows[0][1], atol=1e-4)
    np.testing.assert_allclose(after[0], augment(windows[0][1], (1, 1)).samples, atol=1e-4)


def test_what_its_draws_leave_alone_is_named_so(tmp_path: Path) -> None:
    augment = augmenter("gain", gain={"share": 0.0})
    _, after = write_examples([("a", tone(0.5))], augment, tmp_path, seed=1)
    assert after.name == "01_a_2_after_nothing.wav"


def test_the_seed_decides_on_what_is_written(tmp_path: Path) -> None:
    augment = augmenter("gain", "noise")
    windows = [(str(number), tone(0.2)) for number in range(8)]
    written = {
        seed: [path.read_bytes() for path in write_examples(windows, augment, folder, seed)]
        for seed, folder in ((1, tmp_path / "a"), (2, tmp_path / "b"))
    }
    again = [path.read_bytes() for path in write_examples(windows, augment, tmp_path / "c", 1)]
    assert written[1] == again != written[2]
