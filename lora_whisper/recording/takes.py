"""Whether a take is fit to be learnt from, said while its speaker can still read it again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lora_whisper.data.audio import SHORTEST_SECONDS
from lora_whisper.data.quality import CLIPPED_SHARE, HIGHEST_RATE, SILENT_DBFS
from lora_whisper.data.quality_measures import FULL_SCALE, decibels

LONGEST_SECONDS = 30.0  # a window of Whisper; training leaves out what is longer
FRAME_SECONDS = 0.02
QUIET_DBFS = -36.0  # a voice whose loudest 20 ms lie below is far from its microphone
CUT_DB = 20.0  # a first or last frame less than this below the loudest is in the midst of a sound
NOISY_DB = 20.0  # pauses less than this below the voice: a fan, a street, others who speak
PAUSE_SHARE = 0.1  # of the frames, the quietest, which are taken for pauses


@dataclass(frozen=True)
class Take:
    """What a take measures, and what is wrong with it. Levels are relative to full scale."""

    seconds: float
    loudest_dbfs: float  # of the frames of 20 ms
    pause_dbfs: float  # of its quietest tenth
    clipped_share: float  # of the samples
    refusal: str | None = None  # why it is not kept
    warnings: tuple[str, ...] = ()  # why it had better be read again


def judge(samples: np.ndarray, rate: int, text: str) -> Take:
    """Measure a take as it was recorded.

    Args:
        samples: (samples,) float32, full scale is 1; before resampling, which rounds what was
            clipped.
        rate: samples a second.
        text: what is read in it.
    """
    seconds = len(samples) / rate
    frame = round(FRAME_SECONDS * rate)
    whole = samples[: len(samples) // frame * frame].astype(np.float64)
    if seconds < SHORTEST_SECONDS or not len(whole):
        nothing = decibels(0.0)
        return Take(seconds, nothing, nothing, 0.0, "Nothing was recorded. Read it once more.")
    power = np.square(whole - whole.mean()).reshape(-1, frame).mean(axis=1)
    levels = np.array([decibels(one) for one in power])
    loudest, pause = float(levels.max()), float(np.quantile(levels, PAUSE_SHARE))
    clipped_share = float(np.mean(np.abs(samples) >= FULL_SCALE))
    refusal, warnings = None, []
    if loudest < SILENT_DBFS:
        refusal = "Nothing was heard. Is the right microphone chosen, and not muted?"
    elif seconds > LONGEST_SECONDS:
        refusal = f"A take may last {LONGEST_SECONDS:.0f} s, and this one lasts {seconds:.1f} s."
    else:
        warnings = list(_warnings(levels, loudest, pause, clipped_share, seconds, text))
    return Take(seconds, loudest, pause, clipped_share, refusal, tuple(warnings))


def _warnings(
    levels: np.ndarray, loudest: float, pause: float, clipped: float, seconds: float, text: str
) -> list[str]:
    is_noisy = loudest - pause < NOISY_DB
    cut = loudest - CUT_DB if not is_noisy else loudest
    found = {
        "Too loud: it is clipped. Move away from the microphone, or turn it down.": clipped
        > CLIPPED_SHARE,
        "Very quiet. Move closer to the microphone, or turn it up.": loudest < QUIET_DBFS,
        "Noisy: the pauses are nearly as loud as the voice.": is_noisy,
        "It begins in the midst of a sound. Wait a moment after pressing record.": levels[0] > cut,
        "It ends in the midst of a sound. Wait a moment before pressing stop.": levels[-1] > cut,
        "Shorter than the sentence takes to say. Was all of it read?": len(text) / seconds
        > HIGHEST_RATE,
    }
    return [message for message, holds in found.items() if holds]
