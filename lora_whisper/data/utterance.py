"""The unit of everything below: a piece of audio, and what is said in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_whisper.model.languages import code_of
from lora_whisper.model.tokenizer import Vocabulary, language_code


@dataclass(frozen=True, slots=True)
class EncodedAudio:
    """An encoded audio file that lies inside a data set, and not in the file system."""

    name: str  # for messages: "google/fleurs train:17"
    load: Callable[[], bytes]  # picklable, so that loader workers can call it


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a source, or a piece of one that was split."""

    audio: Path | EncodedAudio
    text: str  # "" is no speech
    language: str | None  # what is spoken, as the row or the configuration names it
    task: str
    start_seconds: float | None  # of the slice; None: from the beginning of the file
    end_seconds: float | None  # None: to its end
    speaker: str | None
    row: str  # where it stands, "a.jsonl:17"
    columns: Mapping[str, Any]  # the row as it stands in its source
    duration_seconds: float = 0.0  # of the slice; `load_corpus` fills it from the audio's header
    previous_text: str | None = None  # what was said just before, for the prompt
    language_token: str | None = None  # language whose token stands for `language`; None: its own


def token_language(vocabulary: Vocabulary, utterance: Utterance) -> str | None:
    """Code of the language whose token the decoder is given; None for English-only checkpoints.

    A language that Whisper lacks borrows the token of another, its `language_token`.

    Raises:
        UserError: a language that the checkpoint does not know, or none where one is needed.
    """
    return language_code(vocabulary, utterance.language_token or utterance.language)


def written_language(vocabulary: Vocabulary, utterance: Utterance) -> str | None:
    """Code of the language that the text is in, which decides on spaces and normalization.

    A translation is English text, whatever was spoken. Under a borrowed token the language is the
    utterance's own, whether the checkpoint knows it or not.
    """
    if utterance.task == "translate":
        return "en"
    if utterance.language_token and utterance.language:
        return code_of(utterance.language)
    return language_code(vocabulary, utterance.language_token or utterance.language)
