"""Speech as small files that every browser plays."""

from __future__ import annotations

import io

import numpy as np
import soundfile

from lora_whisper.model.rates import SAMPLING_RATE

# libsndfile counts down from 160 kbit/s. This level is 24: 3 kB a second, in 9 ms on one core.
COMPRESSION_LEVEL = 0.9
LONGEST_SECONDS = 60.0


def encode_mp3(samples: np.ndarray) -> bytes:
    """(samples,) float32 at 16 kHz as an MP3 file; of long recordings, the first minute."""
    file = io.BytesIO()
    soundfile.write(
        file,
        samples[: round(LONGEST_SECONDS * SAMPLING_RATE)],
        SAMPLING_RATE,
        format="MP3",
        bitrate_mode="CONSTANT",
        compression_level=COMPRESSION_LEVEL,
    )
    return file.getvalue()
