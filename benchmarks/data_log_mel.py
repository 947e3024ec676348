"""Log-mel features: ours, by the batch, against `WhisperFeatureExtractor` in its NumPy form.

    python -m benchmarks.data_log_mel

Both turn the same clips into the features of 30-second windows, alternately: a batch of 8 by us,
then 2 clips by Transformers, which takes about as long. Speeds are those of the fastest round, the
one that other programs on the machine disturbed least. Where PyTorch is installed, Transformers
prefers it; its NumPy form is what it takes where PyTorch is not, and is asked for here as if it
were not. Its time does not depend on a clip's length, since it pads first; so full windows are
what we gain least on. Values are compared before anything is timed.
"""

from __future__ import annotations

import json
import time
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import WhisperFeatureExtractor
from transformers.models.whisper import feature_extraction_whisper

from benchmarks.results import write_result
from lora_whisper.model.features import LogMel
from lora_whisper.model.published import SAMPLING_RATE

MEL_BINS, THREADS = (80, 128), (1, 2)
CLIP_SECONDS = {"full windows": (30, 30), "clips of 3 to 15 s": (3, 15)}
CLIPS, THEIR_CLIPS, ROUNDS = 8, 2, 24
TOLERANCE = 1e-4


def main() -> None:
    figures = {
        f"{bins} mel bins, {name}": measured(bins, CLIP_SECONDS[name])
        for bins in MEL_BINS
        for name in CLIP_SECONDS
    }
    least = min(
        figure[f"ratio_{threads}_threads"] for figure in figures.values() for threads in THREADS
    )
    result = {"clips_in_a_batch": CLIPS, "rounds": ROUNDS, "least_ratio": least, **figures}
    path = write_result("data_log_mel", "python -m benchmarks.data_log_mel", result)
    print(json.dumps(result, indent=2))
    print(f"written to {path}")


def measured(mel_bins: int, seconds: tuple[int, int]) -> dict[str, Any]:
    """Clips per second of both, and their ratio, by the number of PyTorch's threads."""
    clips = speech_like(seconds)
    extractor, log_mel = WhisperFeatureExtractor(feature_size=mel_bins), LogMel(mel_bins, 30)
    difference = np.abs(numpy_form(extractor, clips) - ours(log_mel, clips)).max().item()
    assert difference <= TOLERANCE, f"features differ by {difference}"
    figures: dict[str, Any] = {"largest_difference": difference}
    for threads in THREADS:
        torch.set_num_threads(threads)
        own, theirs = fastest(extractor, log_mel, clips)
        figures |= {
            f"ours_clips_per_second_{threads}_threads": round(own, 2),
            f"numpy_clips_per_second_beside_{threads}_threads": round(theirs, 2),
            f"ratio_{threads}_threads": round(own / theirs, 1),
        }
    return figures


def fastest(
    extractor: WhisperFeatureExtractor, log_mel: LogMel, clips: list[np.ndarray]
) -> tuple[float, float]:
    """Clips per second, ours and theirs, each in its best round; the first ones warm up."""
    own_seconds, their_seconds = [], []
    for number in range(ROUNDS):
        first = number * THEIR_CLIPS % CLIPS
        own_seconds.append(timed(ours, log_mel, clips))
        their_seconds.append(timed(numpy_form, extractor, clips[first : first + THEIR_CLIPS]))
    return CLIPS / min(own_seconds), THEIR_CLIPS / min(their_seconds)


def speech_like(seconds: tuple[int, int]) -> list[np.ndarray]:
    """Tones that come and go in noise; what is heard does not change the time it takes."""
    rng = np.random.default_rng(0)
    clips = []
    for _ in range(CLIPS):
        samples = round(rng.uniform(*seconds) * SAMPLING_RATE)
        times = np.arange(samples) / SAMPLING_RATE
        voice = np.sin(2 * np.pi * rng.uniform(80, 300) * times) * np.sin(2 * np.pi * 3 * times)
        clips.append((0.3 * voice + 0.01 * rng.standard_normal(samples)).astype(np.float32))
    return clips


def numpy_form(extractor: WhisperFeatureExtractor, clips: list[np.ndarray]) -> np.ndarray:
    """Features of one clip after the other, as without PyTorch."""
    with patch.object(feature_extraction_whisper, "is_torch_available", return_value=False):
        each = [extractor(clip, sampling_rate=SAMPLING_RATE) for clip in clips]
    return np.concatenate([features.input_features for features in each])


def ours(log_mel: LogMel, clips: list[np.ndarray]) -> np.ndarray:
    """Features of the clips as one batch, padded to the longest as `collate` does."""
    sequences = [torch.from_numpy(clip) for clip in clips]
    batch = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    return log_mel(batch).numpy()


def timed(form: Any, tool: Any, clips: list[np.ndarray]) -> float:
    """Seconds of wall clock."""
    started = time.perf_counter()
    form(tool, clips)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
