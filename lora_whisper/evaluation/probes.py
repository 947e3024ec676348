"""Sound in which nobody speaks: a good recognizer writes nothing, a bad one thanks for watching."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import soundfile

from lora_whisper.data.acoustics import generated_noise
from lora_whisper.data.audio import EncodedAudio
from lora_whisper.data.dataset import Utterance
from lora_whisper.model.rates import SAMPLING_RATE

KINDS = ("silence", "white", "tones", "breathing")
SHORTEST_SHARE = 0.2  # of a window; the lengths are spread from here to a whole one
SHOWN_TEXTS = 5


@dataclass(frozen=True)
class Probed:
    """What a model wrote about one kind of sound."""

    clips: int
    with_text: int  # in how many of them anything was heard
    texts: tuple[str, ...]  # some of what was


def make_probes(
    clips: int, window_seconds: float, language: str | None, task: str, seed: int
) -> list[Utterance]:
    """So many clips of each kind, from a fifth of a window to a whole one; always the same.

    Args:
        language, task: what the model is told, as on the test set.
    """
    seconds = np.linspace(SHORTEST_SHARE, 1.0, clips) * window_seconds
    return [
        _probe(kind, number, float(length), language, task, seed)
        for kind in KINDS
        for number, length in enumerate(seconds)
    ]


def _probe(
    kind: str, number: int, seconds: float, language: str | None, task: str, seed: int
) -> Utterance:
    name = f"{kind} {number + 1}"
    return Utterance(
        audio=EncodedAudio(name, partial(_wav, kind, seconds, seed + number)),
        text="",
        language=language,
        task=task,
        start_seconds=None,
        end_seconds=None,
        speaker=None,
        row=name,
        columns={"kind": kind},
        duration_seconds=seconds,
    )


def _wav(kind: str, seconds: float, seed: int) -> bytes:
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    samples = generated_noise(kind, round(seconds * SAMPLING_RATE), rng)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLING_RATE, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def probed(probes: Sequence[Utterance], texts: Sequence[str]) -> dict[str, Probed]:
    """By kind, in how many clips a model heard anything; punctuation alone is nothing."""
    found = {}
    for kind in KINDS:
        heard = [
            text for probe, text in zip(probes, texts, strict=True) if probe.columns["kind"] == kind
        ]
        written = [text for text in heard if any(map(str.isalnum, text))]
        found[kind] = Probed(len(heard), len(written), tuple(written[:SHOWN_TEXTS]))
    return found
