"""Where somebody speaks: Silero's voice activity detector, and stretches that fit into a window.

Its model is a file of the package `silero-vad` (extra `vad`), which ONNX Runtime computes; the
package itself is not imported, for it would set the threads of PyTorch for all. Only what is spoken
is decoded then, in batches: WhisperX's way (Bain et al. 2023, arXiv:2303.00747, "cut & merge").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lora_whisper.errors import UserError
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.transcription.sound import Sound

MODEL = "silero_vad_16k_sequence.onnx"
FRAME_SAMPLES, CONTEXT_SAMPLES = 512, 64  # of a probability, and what is heard before it
FRAMES_AT_ONCE = 512  # 16 s
FRAME_SECONDS = FRAME_SAMPLES / SAMPLING_RATE
# As Silero has them, and a longer silence: cuts between words cost more than a second of silence.
SPEECH, SILENCE = 0.5, 0.35  # probabilities from which on it begins, and below which it ends
SHORTEST_SPEECH_SECONDS, SHORTEST_SILENCE_SECONDS = 0.25, 0.5
PADDING_SECONDS = 0.2  # at both sides
SHARE_TO_CUT_IN = 0.5  # of a stretch beyond a window: the last part of the window, to be cut in

Spans = list[tuple[float, float]]  # seconds


def model_file() -> Path:
    """Where Silero's model lies.

    Raises:
        UserError: the packages are not installed.
    """
    found, runtime = find_spec("silero_vad"), find_spec("onnxruntime")
    if found is not None and found.origin is not None and runtime is not None:
        path = Path(found.origin).parent / "data" / MODEL
        if path.is_file():
            return path
    raise UserError(
        "To find speech before it is decoded, Silero's model and ONNX Runtime are needed: "
        "pip install 'lora-whisper[vad]'"
    )


class SpeechDetector:
    """Silero's model in memory."""

    def __init__(self, window_seconds: float):
        """`window_seconds`: of the Whisper that the stretches are for."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(model_file()), options, providers=["CPUExecutionProvider"]
        )
        self.window_seconds = window_seconds

    def __call__(self, sound: Sound) -> Spans:
        """Stretches of speech, each no longer than a window. Raises AudioError."""
        probabilities = np.concatenate([np.zeros(0, np.float32), *self.probabilities(sound)])
        return joined(spoken(probabilities), probabilities, self.window_seconds)

    def probabilities(self, sound: Sound) -> Iterator[np.ndarray]:
        """(frames,) each, of 32 ms."""
        state: dict[str, Any] = {name: np.zeros((1, 1, 128), np.float32) for name in "hc"}
        for frames in _frames(sound.pieces()):
            for first in range(0, len(frames), FRAMES_AT_ONCE):
                block = frames[first : first + FRAMES_AT_ONCE]
                found, hidden, cell = self._session.run(
                    ["speech_probs", "hn", "cn"], {"input": block, **state}
                )
                state = {"h": hidden, "c": cell}
                yield np.asarray(found, np.float32).reshape(-1)


def _frames(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """(frames, context and frame) of (samples,) each; silence behind the last."""
    waiting = np.zeros(CONTEXT_SAMPLES, np.float32)
    for piece in pieces:
        waiting = np.concatenate([waiting, piece])
        if count := (len(waiting) - CONTEXT_SAMPLES) // FRAME_SAMPLES:
            yield _framed(waiting, count)
            waiting = waiting[count * FRAME_SAMPLES :]
    if left := len(waiting) - CONTEXT_SAMPLES:
        yield _framed(np.pad(waiting, (0, FRAME_SAMPLES - left)), 1)


def _framed(samples: np.ndarray, count: int) -> np.ndarray:
    width = CONTEXT_SAMPLES + FRAME_SAMPLES
    frames = np.lib.stride_tricks.sliding_window_view(samples, width)[::FRAME_SAMPLES]
    return np.ascontiguousarray(frames[:count])


def spoken(probabilities: np.ndarray) -> Spans:
    """Where speech begins and ends, with some padding, by the probabilities of (frames,)."""
    spans: list[list[int]] = []
    is_speech, silent_frames = False, round(SHORTEST_SILENCE_SECONDS / FRAME_SECONDS)
    last = 0  # behind the last frame that was no silence
    for frame, probability in enumerate(probabilities.tolist()):
        if probability >= SPEECH and not is_speech:
            is_speech = True
            spans.append([frame, frame + 1])
        if is_speech and probability >= SILENCE:
            last = frame + 1
        if is_speech:
            spans[-1][1] = last
            is_speech = frame + 1 - last < silent_frames
    end, found = len(probabilities) * FRAME_SECONDS, Spans()
    for first, behind in spans:
        if (behind - first) * FRAME_SECONDS < SHORTEST_SPEECH_SECONDS:
            continue
        start = max(first * FRAME_SECONDS - PADDING_SECONDS, found[-1][1] if found else 0.0)
        found.append((start, min(behind * FRAME_SECONDS + PADDING_SECONDS, end)))
    return found


def joined(spans: Spans, probabilities: np.ndarray, window_seconds: float) -> Spans:
    """Stretches as long as a window holds; what is longer is cut where speech is least probable."""
    parts: Spans = []
    for start, end in spans:
        while end - start > window_seconds:
            earliest = start + (1 - SHARE_TO_CUT_IN) * window_seconds
            first, behind = (
                round(one / FRAME_SECONDS) for one in (earliest, start + window_seconds)
            )
            cut = (first + int(probabilities[first : behind - 1].argmin())) * FRAME_SECONDS
            parts.append((start, cut))
            start = cut
        parts.append((start, end))
    found: Spans = []
    for start, end in parts:
        if found and end - found[-1][0] <= window_seconds:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found
