"""Where nobody speaks: pauses by the short-time energy of a clip, relative to its own level."""

from __future__ import annotations

import numpy as np

from lora_whisper.model.rates import SAMPLING_RATE

FRAME_SAMPLES = 160  # 10 ms
SHORTEST_PAUSE_SECONDS = 0.3
SHORTEST_SOUND_SECONDS = 0.1  # shorter ones are clicks, and do not end a pause
QUIET_SHARE = 0.35  # of the way from the floor to the level of speech, in dB
DEEPEST_FLOOR_DB = 40.0  # below speech: the zeros of an edited clip are not its floor
LOWEST_RANGE_DB = 15.0  # with a floor nearer to speech, energy does not tell them apart


def find_pauses(samples: np.ndarray) -> np.ndarray:
    """Pauses of (samples,) at 16 kHz as (pauses, 2): beginning and end in seconds."""
    levels_db = _levels_db(samples)
    if not len(levels_db):
        return np.empty((0, 2))
    speech_db = np.percentile(levels_db, 90)
    floor_db = max(np.percentile(levels_db, 5), speech_db - DEEPEST_FLOOR_DB)
    if speech_db - floor_db < LOWEST_RANGE_DB:
        return np.empty((0, 2))
    quiet = levels_db < floor_db + QUIET_SHARE * (speech_db - floor_db)
    for first, last in _runs(~quiet):
        if (last - first) * FRAME_SAMPLES < SHORTEST_SOUND_SECONDS * SAMPLING_RATE:
            quiet[first:last] = True
    seconds = _runs(quiet) * (FRAME_SAMPLES / SAMPLING_RATE)
    return seconds[seconds[:, 1] - seconds[:, 0] >= SHORTEST_PAUSE_SECONDS]


def _levels_db(samples: np.ndarray) -> np.ndarray:
    """(frames,) mean power in dB of full scale, over three frames."""
    frames = len(samples) // FRAME_SAMPLES
    power = samples[: frames * FRAME_SAMPLES].reshape(frames, FRAME_SAMPLES).astype(np.float64)
    power = (power**2).mean(axis=1)
    smooth = np.convolve(power, np.ones(3) / 3, "same") if frames else power
    return np.asarray(10 * np.log10(smooth + 1e-10))


def _runs(mask: np.ndarray) -> np.ndarray:
    """(runs, 2) first and last+1 index of each stretch of True."""
    changes = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    return np.flatnonzero(changes).reshape(-1, 2)
