"""The base and an adapter on one recording: two texts, where they differ, and what is wrong.

No Gradio in here: the page calls it, and so do its tests.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lora_whisper.config import TranscriptionConfig
from lora_whisper.data.audio import AudioError
from lora_whisper.errors import UserError
from lora_whisper.evaluation.metrics import Counts, Stretch, align, error_counts, separator
from lora_whisper.evaluation.normalizers import normalizer_for
from lora_whisper.model.tokenizer import SPACELESS_LANGUAGES
from lora_whisper.transcription.results import Failed, Transcript
from lora_whisper.transcription.subtitles import WRITERS, rendered

if TYPE_CHECKING:
    from lora_whisper.transcription.sound import FileSound
    from lora_whisper.transcription.transcriber import Transcriber

REMEMBERED = 64  # transcripts, so that only what was changed is transcribed again
SUFFIXES = {"text": "txt"}  # of formats that are not called by theirs
Progress = Callable[[float], None]  # the share that is done


@dataclass(frozen=True)
class Side:
    """What one of the two models wrote."""

    name: str
    transcript: Transcript
    stretches: Sequence[Stretch]  # along the reference, or along the base's text
    counts: Counts | None = None  # of errors, where there is a reference
    rate: str = "WER"

    @property
    def downloads(self) -> dict[str, str]:
        """A data URI of each kind of file, by its suffix."""
        return {
            SUFFIXES.get(name, name): _data_uri(rendered(self.transcript, name)) for name in WRITERS
        }


@dataclass(frozen=True)
class Comparison:
    """Both, or one where there is nothing to compare."""

    sides: tuple[Side, ...]
    space: str  # between two words
    reference: str = ""

    @property
    def language(self) -> str | None:
        return self.sides[-1].transcript.language


class Comparer:
    """A loaded model, asked by several people in turn.

    Args:
        longest_seconds: of a recording.
    """

    def __init__(self, transcriber: Transcriber, longest_seconds: float):
        self.transcriber, self.longest_seconds = transcriber, longest_seconds
        self._guard = threading.Lock()
        self._known: OrderedDict[tuple[object, ...], Transcript] = OrderedDict()

    def compare(
        self,
        audio: Path,
        name: str,
        adapter: str | None,
        scale: float,
        options: TranscriptionConfig,
        reference: str = "",
        on_progress: Progress = lambda share: None,
    ) -> Comparison:
        """Transcribe with the base and with so much of the adapter; what is known is not repeated.

        Args:
            name: of the recording, for messages.
            adapter: None: the base, or a merged model, alone.

        Raises:
            UserError: sound that cannot be read or is too long, or an option that does not fit.
        """
        from lora_whisper.transcription.sound import FileSound

        sound = FileSound(audio, name)
        kinds: list[tuple[str | None, float]] = [(None, 1.0)]
        if adapter is not None:
            kinds.append((adapter, scale))

        def tell(number: int, done: float) -> None:
            on_progress((number + min(done / seconds, 1.0)) / len(kinds))

        with self._guard:
            seconds = max(self._seconds(sound), 1e-3)
            found = [
                self._transcript(sound, *kind, options, partial(tell, number))
                for number, kind in enumerate(kinds)
            ]
        names = [
            "base" if adapter else "model",
            f"{adapter} × {scale:g}" if scale != 1 else adapter,
        ]
        return compared(found, [str(one) for one in names[: len(found)]], reference)

    def _seconds(self, sound: FileSound) -> float:
        """Raises UserError: sound that cannot be read, or is too long."""
        try:
            seconds = sound.seconds
        except AudioError as error:
            raise UserError(str(error)) from None
        if seconds > self.longest_seconds:
            raise UserError(
                f"{sound.name} lasts {seconds / 60:.1f} minutes, and up to "
                f"{self.longest_seconds / 60:g} are transcribed here. For longer ones, type "
                "lora-whisper transcribe, or longest_minutes=… for this page."
            )
        return seconds

    def _transcript(
        self,
        sound: FileSound,
        adapter: str | None,
        scale: float,
        options: TranscriptionConfig,
        on_progress: Progress,
    ) -> Transcript:
        with sound.path.open("rb") as file:
            digest = hashlib.file_digest(file, "blake2b").hexdigest()
        key = digest, adapter, scale, options
        if key not in self._known:
            self.transcriber.use(adapter, scale)
            results = self.transcriber.transcribe_all([sound], options, on_progress=on_progress)
            ((_, result),) = results
            if isinstance(result, Failed):
                raise UserError(result.reason)
            self._known[key] = result
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return self._known[key]


def compared(
    transcripts: Sequence[Transcript], names: Sequence[str], reference: str = ""
) -> Comparison:
    """Lay texts along the reference or, without one, the last along the first."""
    language = transcripts[-1].language
    along = reference if reference.strip() else transcripts[0].text
    sides = []
    for name, transcript in zip(names, transcripts, strict=True):
        counts = None
        if reference.strip():
            normalize = normalizer_for(language)
            counts = error_counts(normalize(reference), normalize(transcript.text))
        stretches = align(along, transcript.text, language)
        rate = "CER" if language in SPACELESS_LANGUAGES else "WER"
        sides.append(Side(name, transcript, stretches, counts, rate))
    return Comparison(tuple(sides), separator(language), reference.strip())


def _data_uri(data: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"
