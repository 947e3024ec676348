"""How a model does beside clean speech: in noise, in a room, over a telephone, faster, slower, with
the padding of other programs, and where nobody speaks.

Each condition is a pure function of the samples, the seed and the utterance's row, so that every
model gets the same, and noise at 5 dB is the noise at 20 dB, only louder.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args

import numpy as np
import soundfile
import soxr

from lora_whisper.config import CLEAN, Condition, Padding
from lora_whisper.data.acoustics import CODECS, TELEPHONE_RATE, generated_noise, through_telephone
from lora_whisper.data.audio import EncodedAudio
from lora_whisper.data.augmentation import at_speed, generated_response, mixed, reverberant
from lora_whisper.data.dataset import Utterance
from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding.transcribe import Change
from lora_whisper.evaluation.results import NoSpeechTest
from lora_whisper.model.published import SAMPLING_RATE

Sound = Callable[[np.ndarray, np.random.Generator], np.ndarray]

NOISE = "pink"  # falls by 3 dB an octave, as speech nearly does: rain, a crowd far off
RT60_SECONDS = 0.6  # a meeting room with hard walls
LINE = "pcm_mulaw"  # G.711


def _noisy(snr_db: float, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return mixed(samples, generated_noise(NOISE, len(samples), rng), snr_db)


def _narrow(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As recorded at 8 kHz: nothing above 4 kHz, and no codec."""
    narrow = soxr.resample(samples, SAMPLING_RATE, TELEPHONE_RATE, quality="HQ")
    wide = soxr.resample(narrow, TELEPHONE_RATE, SAMPLING_RATE, quality="HQ")[: len(samples)]
    return np.pad(wide, (0, len(samples) - len(wide)))


SOUNDS: dict[str, Sound] = {
    **{f"noise-{snr_db}db": partial(_noisy, float(snr_db)) for snr_db in (20, 10, 5, 0)},
    "reverberation": lambda samples, rng: reverberant(
        samples, generated_response(RT60_SECONDS, rng)
    ),
    "telephone": lambda samples, _: through_telephone(samples, CODECS[LINE]),
    "8khz": _narrow,
    "speed-0.9": lambda samples, _: at_speed(samples, 0.9),
    "speed-1.1": lambda samples, _: at_speed(samples, 1.1),
}
NEED_SCIPY = ("reverberation", "telephone")
PADDINGS: dict[str, Padding] = {"padded-sound": "sound", "padded-log-mel": "log-mel"}
assert {*SOUNDS, *PADDINGS, CLEAN, "all"} == {*get_args(Condition)}, "config/ has their names"


def chosen_conditions(given: Sequence[Condition], padding: Padding) -> tuple[str, ...]:
    """The conditions beside clean, each once and in one order; "all" stands for every one.

    Args:
        padding: of clean speech, which is no condition beside it.

    Raises:
        UserError: SciPy is missing, which two of them are made with.
    """
    others = (name for name, one in PADDINGS.items() if one != padding)
    chosen = tuple(name for name in (*SOUNDS, *others) if "all" in given or name in given)
    needing = [name for name in chosen if name in NEED_SCIPY]
    if needing:
        try:
            import scipy  # noqa: F401
        except ImportError:
            raise UserError(
                f"evaluation.conditions={needing[0]} needs SciPy; "
                "type: pip install 'lora-whisper[augmentation]'"
            ) from None
    return chosen


def change_for(condition: str, seed: int) -> Change | None:
    """What an utterance's samples go through; None where they stay as they are."""
    return partial(_changed, SOUNDS[condition], seed) if condition in SOUNDS else None


def padding_of(condition: str, usual: Padding) -> Padding:
    """How clips are padded in a condition."""
    return PADDINGS.get(condition, usual)


def _changed(sound: Sound, seed: int, samples: np.ndarray, utterance: Utterance) -> np.ndarray:
    rng = np.random.default_rng((seed, zlib.crc32(utterance.row.encode())))
    return sound(samples, rng).astype(np.float32, copy=False)


# ── sound without speech: a good model writes nothing, a bad one thanks for watching ──────────

NO_SPEECH_CLIPS = 4  # of each of these kinds
KINDS = ("silence", "white", "tones", "breathing")
SHORTEST_SHARE = 0.2  # of a window; the lengths are spread from here to a whole one
SHOWN_TEXTS = 5


def no_speech_clips(
    clips: int, window_seconds: float, language: str | None, task: str, seed: int
) -> list[Utterance]:
    """So many clips of each kind, from a fifth of a window to a whole one; always the same.

    Args:
        language, task: what the model is told, as on the test set.
    """
    seconds = np.linspace(SHORTEST_SHARE, 1.0, clips) * window_seconds
    clips_of_all = []
    for kind in KINDS:
        for number, length in enumerate(map(float, seconds)):
            name = f"{kind} {number + 1}"
            clip = Utterance(
                audio=EncodedAudio(name, partial(_wav, kind, length, seed + number)),
                text="",
                language=language,
                task=task,
                start_seconds=None,
                end_seconds=None,
                speaker=None,
                row=name,
                columns={"kind": kind},
                duration_seconds=length,
            )
            clips_of_all.append(clip)
    return clips_of_all


def _wav(kind: str, seconds: float, seed: int) -> bytes:
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    samples = generated_noise(kind, round(seconds * SAMPLING_RATE), rng)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLING_RATE, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def no_speech_tests(clips: Sequence[Utterance], texts: Sequence[str]) -> dict[str, NoSpeechTest]:
    """By kind, in how many clips a model wrote anything; punctuation alone is nothing."""
    tests = {}
    for kind in KINDS:
        texts_of_kind = [
            text for clip, text in zip(clips, texts, strict=True) if clip.columns["kind"] == kind
        ]
        written = [text for text in texts_of_kind if any(map(str.isalnum, text))]
        tests[kind] = NoSpeechTest(len(texts_of_kind), len(written), tuple(written[:SHOWN_TEXTS]))
    return tests
