"""What is said in a recording, and when."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A word with its punctuation, and where the model's attention found it."""

    start_seconds: float
    end_seconds: float
    text: str
    probability: float  # the mean of its tokens'


@dataclass(frozen=True)
class Segment:
    """A piece of a text, by Whisper's own timestamps."""

    start_seconds: float
    end_seconds: float
    text: str
    words: tuple[Word, ...] = ()  # where they were asked for; all of them within the segment
    mean_log_probability: float | None = None  # of the window's tokens; None: not asked for
    no_speech_probability: float | None = None  # of the window
    temperature: float = 0.0  # above 0, the window's text was drawn


@dataclass(frozen=True)
class Transcript:
    """A recording's text."""

    text: str
    language: str | None  # Whisper's code; None of an English-only checkpoint
    language_probability: float | None  # None: the language was given
    seconds: float  # of audio
    segments: tuple[Segment, ...]
    remarks: tuple[str, ...] = ()  # what its owner should know of the file


@dataclass(frozen=True)
class Failed:
    """A recording that could not be transcribed, and why."""

    reason: str  # names it
