"""What training windows go through, so that the model has heard worse than clean recordings.

Speed is soxr's work, gain and coloured noise are audiomentations', filters are SciPy's. Rooms are
made here: audiomentations' `RoomSimulator` took 83 ms for 10 s of speech at two reflections, and
with as many as 0.2 s of reverberation need it had not ended after ten minutes; pyroomacoustics'
shoe box took 430 ms for 0.8 s of it, Polack's model 4 ms. SoundFolder are mixed here:
`AddBackgroundNoise` reads fewer formats than we do and measures pauses as speech, and
`ApplyImpulseResponse` delays speech by the response's own delay, at half of full scale.

Every result is a pure function of samples and seed, in whatever process it is made.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import soundfile
import soxr

from lora_whisper.config import (
    AugmentationConfig,
    GainConfig,
    NoiseConfig,
    ReverberationConfig,
)
from lora_whisper.data.acoustics import CODECS, require_codecs, through_telephone
from lora_whisper.data.audio import SHORTEST_SECONDS, AudioError, read_audio, read_header
from lora_whisper.errors import UserError, listing
from lora_whisper.model.published import HOP_SAMPLES, SAMPLING_RATE
from lora_whisper.paths import local_path

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("lora_whisper")

Step = Callable[[np.ndarray, np.random.Generator], np.ndarray]

STEPS = ("speed", "gain", "reverberation", "noise", "telephone", "spec_augment")
NEED_LIBRARY = ("gain", "reverberation", "noise", "telephone")  # audiomentations, or its SciPy
SPEECH_FRAME_SAMPLES = 320  # 20 ms
PAUSE_DB = 30.0  # frames that are this far below the loudest are pauses
WHITE_DB, BROWN_DB = 0.0, -6.0  # fall of generated noise's power an octave
NOISE_FFT_SAMPLES = 1_024  # resolves 16 Hz; the library's default of 128 leaves the bass flat
DIRECT_TO_REVERBERANT_DB = (0.0, 12.0)  # at a room's critical distance, and at a quarter of it
FREQUENCY_MASKS, WIDEST_FREQUENCY_MASK = 2, 0.2  # in each window; of the mel bins
LONGEST_TIME_MASK_SECONDS = 0.5
LARGEST_TIME_MASK_SHARE = 0.2  # of the frames: p of Park et al. 2019, for short windows


@dataclass(frozen=True)
class Augmented:
    """A window's sound after augmentation."""

    samples: np.ndarray  # (samples,) float32, within -1 … 1
    speed: float  # what was said at t seconds is now heard at t / speed
    steps: tuple[str, ...]  # what was done to it


@dataclass(frozen=True)
class Mask:
    """A stripe of the log-mel that the model does not see."""

    axis: Literal["time", "frequency"]
    first: int  # frame, or mel bin
    count: int


class Augmenter:
    """Augments windows as configured; picklable, so that loader workers can do it.

    Raises:
        UserError: a step needs audiomentations and it is not installed, a folder holds nothing that
            can be read, or a codec is not known.
    """

    def __init__(self, config: AugmentationConfig, window_seconds: float, mel_bins: int):
        self.config = config
        self.window_samples = round(window_seconds * SAMPLING_RATE)
        self.mel_bins = mel_bins
        self._steps = _steps(config)

    def __call__(self, samples: np.ndarray, seed: tuple[int, ...]) -> Augmented:
        """(samples,) float32 of at least 0.1 s → never more than the window, nor than full scale.

        What would become too loud is scaled down as a whole, so that nothing is clipped.
        """
        speed, done = 1.0, []
        if rng := self._draw("speed", seed):
            assert self.config.speed is not None
            drawn = rng.uniform(*self.config.speed.factors)
            speed = max(drawn, len(samples) / self.window_samples)  # all of it fits in
            samples = at_speed(samples, speed)[: self.window_samples]  # rounding may add a sample
            done.append("speed")
        for name, step in self._steps.items():
            if rng := self._draw(name, seed):
                samples = _within_full_scale(step(samples, rng))
                done.append(name)
        return Augmented(_within_full_scale(samples), speed, tuple(done))

    def masks(self, samples: int, seed: tuple[int, ...]) -> tuple[Mask, ...]:
        """Draw what `apply_masks` hides of a window of so many samples.

        Stripes over what holds sound: the padding of a window has nothing to hide.
        """
        settings, rng = self.config.spec_augment, self._draw("spec_augment", seed)
        if settings is None or rng is None:
            return ()
        frames = ceil(samples / HOP_SAMPLES)
        longest = min(
            round(LONGEST_TIME_MASK_SECONDS * SAMPLING_RATE / HOP_SAMPLES),
            int(LARGEST_TIME_MASK_SHARE * frames),
        )
        widest = max(round(WIDEST_FREQUENCY_MASK * self.mel_bins), 1)
        times = range(settings.time_masks if longest else 0)
        return (
            *(_drawn_mask("time", longest, frames, rng) for _ in times),
            *(_drawn_mask("frequency", widest, self.mel_bins, rng) for _ in range(FREQUENCY_MASKS)),
        )

    def _draw(self, name: str, seed: tuple[int, ...]) -> np.random.Generator | None:
        """The generator of one step for one window; None leaves the window alone.

        Each step has its own, so that none depends on which others are switched on.
        """
        settings = getattr(self.config, name)
        if settings is None:
            return None
        rng = np.random.default_rng((*seed, 1 + STEPS.index(name)))
        return rng if rng.random() < settings.share else None


def _steps(config: AugmentationConfig) -> dict[str, Step]:
    """Name to function of what is switched on between speed and SpecAugment, in order."""
    if needing := [name for name in NEED_LIBRARY if getattr(config, name) is not None]:
        try:
            import audiomentations  # noqa: F401
        except ImportError:
            raise UserError(
                f"augmentation={needing[0]} needs audiomentations; "
                "type: pip install 'lora-whisper[augmentation]'"
            ) from None
    steps: dict[str, Step] = {}
    if config.gain:
        steps["gain"] = partial(_with_gain, config.gain)
    if config.reverberation:
        rooms = _recordings("reverberation", config.reverberation.folder)
        steps["reverberation"] = partial(_with_reverberation, config.reverberation, rooms)
    if config.noise:
        recordings = _recordings("noise", config.noise.folder)
        steps["noise"] = partial(_with_noise, config.noise, recordings)
    if config.telephone:
        require_codecs()
        steps["telephone"] = _with_telephone
    return steps


# ── speed and level ──────────────────────────────────────────────────────────────────────────


def at_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """Play (samples,) faster or slower, pitch with it: Ko et al. 2015, "Audio augmentation for
    speech recognition"."""
    return np.asarray(soxr.resample(samples, SAMPLING_RATE * speed, SAMPLING_RATE, quality="HQ"))


def _with_gain(settings: GainConfig, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    import audiomentations

    gain = audiomentations.Gain(*settings.db, p=1.0)
    with _library_draws_from(rng):
        return gain(samples, SAMPLING_RATE)


def _within_full_scale(samples: np.ndarray) -> np.ndarray:
    peak = np.abs(samples).max(initial=0.0)
    return (samples / peak if peak > 1 else samples).astype(np.float32, copy=False)


def mean_power(samples: np.ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


def speech_power(samples: np.ndarray) -> float:
    """Mean power of the 20-ms frames that are no pauses."""
    rest = -len(samples) % SPEECH_FRAME_SAMPLES
    frames = np.pad(samples, (0, rest)).reshape(-1, SPEECH_FRAME_SAMPLES)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    return float(power[power >= power.max() * 10 ** (-PAUSE_DB / 10)].mean())


@contextmanager
def _library_draws_from(rng: np.random.Generator) -> Iterator[None]:
    """audiomentations draws from Python's and NumPy's global generators: seed and restore them."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(int(rng.integers(2**32)))
    np.random.seed(int(rng.integers(2**32)))
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


# ── recordings ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class SoundFolder:
    """The sound files below a folder, listed once."""

    paths: tuple[Path, ...]
    seconds: tuple[float, ...]

    def stretch(self, seconds: float, rng: np.random.Generator) -> np.ndarray | None:
        """So much of one of them from anywhere in it, or all of one that is shorter.

        None, and a warning, where it does not decode after all.
        """
        number = int(rng.integers(len(self.paths)))
        length = min(max(seconds, SHORTEST_SECONDS), self.seconds[number])
        start = rng.uniform(0.0, self.seconds[number] - length)
        try:
            return read_audio(self.paths[number], start, start + length)
        except AudioError as error:
            log.warning("%-11s %s; a window goes without it", "augment", error)
            return None


def _recordings(step: str, folder: str | None) -> SoundFolder | None:
    """Everything below the folder that has sound; what has none (a README) is passed over.

    Raises:
        UserError: no such folder, or no sound in it.
    """
    if folder is None:
        return None
    place, recordings, problems = local_path(folder), [], []
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        try:
            seconds = read_header(path).seconds
        except AudioError as error:
            problems.append(str(error))
        else:
            if seconds < SHORTEST_SECONDS:
                problems.append(f"{path}: shorter than {SHORTEST_SECONDS} s")
            else:
                recordings.append((path, seconds))
    if not recordings:
        what = "no recordings" if place.is_dir() else "no such folder"
        message = (
            f"augmentation.{step}.folder={folder}: {what}; "
            f"give a folder of sound files, or null for generated {step}\n{listing(problems)}"
        )
        raise UserError(message.rstrip())
    paths, lengths = zip(*recordings, strict=True)
    log.info(
        "%-11s %d recordings in %s, %.1f h; %d files without sound or shorter than %g s",
        *(step, len(paths), place, sum(lengths) / 3600, len(problems), SHORTEST_SECONDS),
    )
    return SoundFolder(paths, lengths)


# ── reverberation ────────────────────────────────────────────────────────────────────────────


def _with_reverberation(
    settings: ReverberationConfig,
    rooms: SoundFolder | None,
    samples: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    if rooms is None:
        rt60 = rng.uniform(*settings.rt60_seconds)
        return reverberant(samples, generated_response(rt60, rng))
    response = rooms.stretch(float("inf"), rng)
    return samples if response is None else reverberant(samples, from_direct_sound(response))


def generated_response(rt60_seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Impulse response of a room: the direct sound, then noise that falls by 60 dB in rt60.

    Polack 1988, "La transmission de l'énergie sonore dans les salles".
    """
    samples = round(rt60_seconds * SAMPLING_RATE)
    tail = rng.standard_normal(samples) * 10 ** (-3 * np.arange(samples) / samples)
    direct_to_reverberant_db = rng.uniform(*DIRECT_TO_REVERBERANT_DB)
    tail *= 10 ** (-direct_to_reverberant_db / 20) / np.sqrt(np.sum(np.square(tail)))
    return np.concatenate([[1.0], tail]).astype(np.float32)


def from_direct_sound(response: np.ndarray) -> np.ndarray:
    """A recorded impulse response without the time that sound took to the microphone."""
    return response[np.argmax(np.abs(response)) :]


def reverberant(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve speech with a room; it is as long and as loud as before, and stays where it was."""
    from scipy.signal import oaconvolve

    wet = oaconvolve(samples, response)[: len(samples)]
    power = mean_power(wet)
    return wet * np.sqrt(mean_power(samples) / power) if power else samples


# ── noise and telephone ──────────────────────────────────────────────────────────────────────


def _with_noise(
    settings: NoiseConfig,
    recordings: SoundFolder | None,
    samples: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    snr_db = rng.uniform(*settings.snr_db)
    if not samples.any():  # nothing to measure the noise against
        return samples
    if recordings is not None:
        recorded = recordings.stretch(len(samples) / SAMPLING_RATE, rng)
        return samples if recorded is None else mixed(samples, recorded, snr_db)
    import audiomentations

    # The library measures the mean over pauses as well, which is lower.
    pauses_db = 10 * np.log10(speech_power(samples) / mean_power(samples))
    noise = audiomentations.AddColorNoise(  # of any colour from white to brown
        min_snr_db=snr_db - pauses_db,
        max_snr_db=snr_db - pauses_db,
        min_f_decay=BROWN_DB,
        max_f_decay=WHITE_DB,
        n_fft=NOISE_FFT_SAMPLES,
        p=1.0,
    )
    with _library_draws_from(rng):
        return noise(samples, SAMPLING_RATE)


def mixed(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Speech with noise so far below it, repeated where it is shorter; silence adds nothing."""
    repeated = np.resize(noise, len(speech))
    power = mean_power(repeated)
    scale = np.sqrt(speech_power(speech) / power / 10 ** (snr_db / 10)) if power else 0.0
    return speech + scale * repeated


def _with_telephone(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return through_telephone(samples, list(CODECS.values())[rng.integers(len(CODECS))])


# ── SpecAugment ──────────────────────────────────────────────────────────────────────────────


def _drawn_mask(
    axis: Literal["time", "frequency"], largest: int, size: int, rng: np.random.Generator
) -> Mask:
    count = int(rng.integers(1, largest + 1))
    return Mask(axis, int(rng.integers(size - count + 1)), count)


def apply_masks(features: Tensor, masks: Sequence[Sequence[Mask]]) -> Tensor:
    """Set (batch, mel_bins, frames) to 0 where a window is masked, as Transformers does.

    Two small transfers and one kernel, however many masks there are.
    """
    import torch

    if not any(masks):
        return features
    batch, mel_bins, frames = features.shape
    hidden = {
        "frequency": torch.zeros(batch, mel_bins, 1, dtype=torch.bool),
        "time": torch.zeros(batch, 1, frames, dtype=torch.bool),
    }
    for window, of_window in enumerate(masks):
        for mask in of_window:
            hidden[mask.axis][window].view(-1)[mask.first : mask.first + mask.count] = True
    on_device = [one.to(features.device) for one in hidden.values()]
    return features.masked_fill(on_device[0] | on_device[1], 0.0)


# ── to be listened to ────────────────────────────────────────────────────────────────────────────


def write_examples(
    samples_by_name: Iterable[tuple[str, np.ndarray]],
    augmenter: Augmenter,
    folder: Path,
    seed: int,
) -> list[Path]:
    """Write `01_NAME_1_before.wav` and `01_NAME_2_after_STEPS.wav` for each window.

    Each goes through what it would in training: where its draws leave it alone, STEPS is
    "nothing". Masks of the log-mel cannot be heard and are not written.

    Args:
        samples_by_name: windows as (samples,) float32, and what to call each, often its row.
        folder: made where it is missing.

    Returns:
        Paths of the files, in the order of the windows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for number, (name, samples) in enumerate(samples_by_name, start=1):
        augmented = augmenter(samples, (seed, number))
        # `talks/a.jsonl:17` is `a.jsonl-17`; 80 letters are taken by every file system.
        label = re.sub(r"[^\w.-]+", "-", Path(name).name)[-80:]
        stem = f"{number:02d}_{label}"
        steps = "_".join(augmented.steps) or "nothing"
        pair = {
            folder / f"{stem}_1_before.wav": samples,
            folder / f"{stem}_2_after_{steps}.wav": augmented.samples,
        }
        for path, sound in pair.items():
            soundfile.write(path, sound, SAMPLING_RATE)
        written += pair
    return written
