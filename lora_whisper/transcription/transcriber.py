"""A model in memory that transcribes: `lw.Transcriber`.

    transcriber = lw.Transcriber.from_run("outputs/mine")
    transcriber.transcribe("interview.mp3", language="sw").text
    transcriber.use(None)  # the base alone; or another adapter, or half of one

The base is loaded once, whatever adapters are used on it.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lora_whisper.config import Dtype, TranscriptionConfig
from lora_whisper.data.words import as_text, prompt_tokens, read_words
from lora_whisper.errors import UserError
from lora_whisper.evaluation.loading import base_of, dtype_of, load_model, scoring_batch_for_width
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.model.tokenizer import check_task, language_code
from lora_whisper.options import configured
from lora_whisper.paths import local_path
from lora_whisper.transcription.models import LoadingPlan, find_models
from lora_whisper.transcription.results import Failed, Transcript

if TYPE_CHECKING:
    import torch

    from lora_whisper.transcription.backends import CTranslate2Backend, WhisperBackend
    from lora_whisper.transcription.sound import Sound
    from lora_whisper.transcription.speech import SpeechDetector

log = logging.getLogger("lora_whisper")

Audio = str | Path | np.ndarray
Progress = Callable[[float], None]  # seconds of audio done
SEED = 1  # of what temperature fallback draws


class Transcriber:
    """A base, or a merged model, and adapters on it, of which one is used at a time.

    One call at a time is carried out; others wait for it.
    """

    def __init__(self, plan: LoadingPlan, dtype: Dtype = "auto", device: str | None = None):
        """Load it. See `from_run` and `from_model`."""
        from lora_whisper.transcription.switching import SwitchedWeights

        self._plan, self._lock = plan, threading.RLock()
        self._backend, whisper = _load(plan, dtype, device)
        self._weights = None if whisper is None else SwitchedWeights(whisper)
        self.adapter: str | None = None  # that is used
        self.scale = 1.0  # of what it adds
        self._detector: SpeechDetector | None = None
        if plan.adapters:
            self.use(self.adapters[0])

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        adapters: Sequence[str] = (),
        *,
        base: str | None = None,
        dtype: Dtype = "auto",
        device: str | None = None,
    ) -> Transcriber:
        """The base of a run, with its adapter in it.

        Args:
            run: the folder that `train` wrote.
            adapters: more of the same base: runs, folders, hub ids.
            base: where the base lies now.
            dtype: of the weights; auto: float32 on a CPU, else as the run had it.
            device: cpu, cuda, cuda:1; None: a GPU where there is one.

        Raises:
            UserError: something is not there, or does not belong together.
        """
        return cls(find_models(str(run), None, adapters, base), dtype, device)

    @classmethod
    def from_model(
        cls,
        model: str | Path | None = None,
        adapters: Sequence[str] = (),
        *,
        dtype: Dtype = "auto",
        device: str | None = None,
    ) -> Transcriber:
        """Any checkpoint, with the first of the adapters in it.

        Args:
            model: a name such as "small", a hub id, a merged folder, a folder of CTranslate2; None:
                the base of the first adapter.

        Raises:
            UserError: as above.
        """
        return cls(
            find_models(None, None if model is None else str(model), adapters), dtype, device
        )

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that `use` takes."""
        return tuple(self._plan.adapters)

    @property
    def languages(self) -> tuple[str, ...]:
        """Whisper's codes; empty of an English-only checkpoint."""
        return tuple(self._backend.special_tokens.languages)

    @property
    def window_seconds(self) -> float:
        """Of the sound that the model hears at once."""
        return self._backend.features.window_samples / SAMPLING_RATE

    def use(self, adapter: str | None, scale: float = 1.0) -> None:
        """Go on with another adapter, or with so much of what it adds; None: the base alone.

        Raises:
            UserError: there is no such adapter; or one of DoRA at another scale than 0 or 1.
        """
        if adapter is not None and adapter not in self._plan.adapters:
            known = ", ".join(self.adapters) or "none"
            raise UserError(f"{adapter!r} is not among the adapters: {known}.")
        if not 0 <= scale <= 10:
            raise UserError(f"scale: expected 0 … 10, found {scale}.")
        with self._lock:
            if self._weights is not None:
                folder = None if adapter is None else self._plan.adapters[adapter]
                self._weights.use(folder, scale)
            self._backend.forget()
            self.adapter, self.scale = adapter, scale

    def transcribe(
        self,
        audio: Audio,
        *,
        sampling_rate: int = SAMPLING_RATE,
        word_times: bool = False,
        on_progress: Progress | None = None,
        **options: Any,
    ) -> Transcript:
        """Transcribe a recording of any length.

        Args:
            audio: a file, or samples: (samples,) or (samples, channels).
            sampling_rate: of samples; a file says it itself.
            word_times: whether each word's are found as well.
            on_progress: called with the seconds that are done.
            options: keys of `lora-whisper transcribe --help`: language, task, prompt, words, beams,
                temperature_fallback, timestamps, previous_text, vad, batch_size.

        Raises:
            UserError: sound that cannot be read, or an option that does not fit.
        """
        from lora_whisper.transcription.sound import FileSound, held_sound

        chosen = configured(TranscriptionConfig, options)
        sound: Sound
        if isinstance(audio, str | Path):
            sound = FileSound(local_path(str(audio)), str(audio))
        else:
            sound = held_sound(audio, sampling_rate)
        ((_, result),) = self.transcribe_all(
            [sound], chosen, word_times=word_times, on_progress=on_progress
        )
        if isinstance(result, Failed):
            raise UserError(result.reason)
        return result

    def transcribe_all(
        self,
        sounds: Sequence[Sound],
        options: TranscriptionConfig,
        *,
        word_times: bool = False,
        on_progress: Progress | None = None,
    ) -> Iterator[tuple[int, Transcript | Failed]]:
        """Transcribe several together; yield each one's index and text as it is done.

        Raises:
            UserError: an option that does not fit the model.
        """
        from lora_whisper.transcription.batches import Batches
        from lora_whisper.transcription.states import Asking

        backend = self._backend
        check_task(backend.special_tokens, options.task)
        language = None
        if options.language is not None:
            language = language_code(backend.special_tokens, options.language)
        asking = Asking(
            options.task,
            self._prefix(options),
            options.timestamps,
            options.previous_text,
            self._falls_back(options.temperature_fallback),
            word_times,
            self._plan.padding,
        )
        batches = Batches(
            backend,
            asking,
            language=language,
            beams=options.beams,
            batch_size=options.batch_size or scoring_batch_for_width(backend.width),
            seed=SEED,
            find_speech=self._speech_detector() if options.vad else None,
            on_progress=on_progress,
        )
        with self._lock:
            yield from batches.run(sounds)

    def _speech_detector(self) -> SpeechDetector:
        if self._detector is None:
            from lora_whisper.transcription.speech import SpeechDetector

            self._detector = SpeechDetector(self.window_seconds)
        return self._detector

    def _falls_back(self, asked: bool | None) -> bool:
        if asked and not self._backend.draws_by_seed:
            raise UserError(
                "temperature_fallback=true draws tokens, and CTranslate2 cannot draw the same ones "
                "twice. Type temperature_fallback=false, or the checkpoint that it was made of."
            )
        return self._backend.draws_by_seed if asked is None else asked

    def _prefix(self, options: TranscriptionConfig) -> tuple[int, ...]:
        """Tokens of what stands before each text.

        Raises:
            UserError: more than there is room for.
        """
        parts = [] if options.prompt is None else [options.prompt.strip()]
        if options.words is not None:
            parts.append(as_text(read_words(local_path(options.words), "words")))
        tokens = prompt_tokens(self._backend.tokenizer, " ".join(parts))
        room = self._backend.special_tokens.prompt_tokens
        if len(tokens) > room:
            raise UserError(
                f"prompt and words have {len(tokens)} tokens, and there is room for {room} before "
                "each text. Leave out what the model writes well without."
            )
        return tuple(tokens)


def _load(
    plan: LoadingPlan, asked: Dtype, device: str | None
) -> tuple[WhisperBackend | CTranslate2Backend, Any]:
    """The model, and its weights where adapters may go into them."""
    from lora_whisper.transcription.backends import CTranslate2Backend, WhisperBackend

    place, entry = _device(device), plan.entry
    if entry.folder is not None:
        kind = "default" if asked == "auto" else asked
        return CTranslate2Backend.load(entry.folder, str(place), kind), None
    assert entry.model is not None
    dtype: Dtype = "float32" if asked == "auto" and place.type == "cpu" else asked
    if dtype == "auto":
        dtype = cast(Dtype, str(dtype_of(entry, "auto", place)).removeprefix("torch."))
    model = dataclasses.replace(entry.model, dtype=dtype, attention="auto")
    entry = dataclasses.replace(entry, model=model)
    whisper, base = load_model(entry, dtype, place), base_of(entry)
    return WhisperBackend(whisper, base.processor, base.special_tokens, base.features), whisper


def _device(given: str | None) -> torch.device:
    import torch

    if given is not None:
        return torch.device(given)
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None else torch.device("cpu")
