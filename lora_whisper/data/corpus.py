"""From a manifest to the utterances that can be trained on or scored; the rest is counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lora_whisper.config import DataConfig
from lora_whisper.data.audio import SAMPLING_RATE, AudioError, read_header, slice_seconds
from lora_whisper.data.manifest import read_manifest, split_counts
from lora_whisper.data.utterance import Utterance
from lora_whisper.data.vocabulary import Vocabulary, check_task, language_code
from lora_whisper.data.windows import window_tokens
from lora_whisper.errors import UserError, listing

BAD_AUDIO = "with audio that cannot be read"


@dataclass(frozen=True)
class Corpus:
    """The usable utterances of one split, and what was left out of it."""

    utterances: tuple[Utterance, ...]
    left_out: Mapping[str, tuple[str, ...]]  # reason → "row: detail" of each

    @property
    def seconds(self) -> float:
        return sum(utterance.duration_seconds for utterance in self.utterances)

    @property
    def hours(self) -> float:
        return self.seconds / 3600


def load_corpus(manifest: Path, split: str, config: DataConfig, window_seconds: float) -> Corpus:
    """Read the rows of `split` and check each file's header; nothing is decoded.

    Raises:
        UserError: an unreadable manifest; audio that is missing, does not decode or is longer than
            the window, where the configuration says fail (every such row in one message); a split
            that is empty, or empty after leaving out.
    """
    rows = read_manifest(manifest, split, config.language, config.task)
    if not rows:
        raise UserError(_no_rows(manifest, split))
    with ThreadPoolExecutor() as pool:  # libsndfile waits for the disk without holding the GIL
        measured = list(pool.map(_measured, rows))
    usable: list[Utterance] = []
    left_out: dict[str, list[str]] = {}
    too_long = f"longer than the window of {window_seconds:g} s"
    for utterance, found in zip(rows, measured, strict=True):
        if isinstance(found, AudioError):
            left_out.setdefault(BAD_AUDIO, []).append(f"{utterance.row}: {found}")
        elif round(found * SAMPLING_RATE) > round(window_seconds * SAMPLING_RATE):
            clip = f"{utterance.row}: {utterance.audio}: {found:.2f} s"
            left_out.setdefault(too_long, []).append(clip)
        else:
            usable.append(dataclasses.replace(utterance, duration_seconds=found))
    return _corpus(usable, left_out, config, f"split {split!r} of {manifest}")


def keep_what_fits(
    corpus: Corpus, tokenizer: Any, vocabulary: Vocabulary, config: DataConfig
) -> Corpus:
    """Leave out texts with more tokens than the decoder has positions; name languages by code.

    Raises:
        UserError: a language or a task that the checkpoint does not know; a text too long where
            the configuration says that long clips fail; nothing left.
    """
    _check_languages(corpus.utterances, vocabulary)
    usable: list[Utterance] = []
    left_out = {reason: list(rows) for reason, rows in corpus.left_out.items()}
    too_long = f"with a text longer than {vocabulary.max_tokens} tokens"
    for utterance in corpus.utterances:
        tokens = len(window_tokens(utterance, tokenizer, vocabulary)) - 1
        if tokens > vocabulary.max_tokens:
            left_out.setdefault(too_long, []).append(f"{utterance.row}: {tokens} tokens")
        else:
            code = language_code(vocabulary, utterance.language)
            usable.append(dataclasses.replace(utterance, language=code))
    return _corpus(usable, left_out, config, "corpus")


def sample(utterances: Sequence[Utterance], count: int | None, seed: int) -> tuple[Utterance, ...]:
    """At most `count` utterances, always the same for a seed, in their original order."""
    if count is None or count >= len(utterances):
        return tuple(utterances)
    chosen = np.random.default_rng(seed).choice(len(utterances), size=count, replace=False)
    return tuple(utterances[index] for index in sorted(chosen))


def _measured(utterance: Utterance) -> float | AudioError:
    """Seconds of the utterance's slice, or why it cannot be read."""
    try:
        header = read_header(utterance.audio)
        start, end = slice_seconds(
            utterance.audio, header, utterance.start_seconds, utterance.end_seconds
        )
    except AudioError as error:
        return error
    return end - start


def _corpus(
    usable: list[Utterance], left_out: dict[str, list[str]], config: DataConfig, name: str
) -> Corpus:
    """The corpus, unless the configuration refuses what is left out, or nothing is left."""
    refused = []
    for reason, rows in left_out.items():
        key = "bad_audio" if reason == BAD_AUDIO else "long_audio"
        if getattr(config, key) == "fail":
            refused.append(f"{len(rows)} {reason}; data.{key}=drop leaves them out:")
            refused.append(listing(rows))
    if refused:
        raise UserError(f"The {name} has rows that cannot be used:\n" + "\n".join(refused))
    if not usable:
        counts = ", ".join(f"{len(rows)} {reason}" for reason, rows in left_out.items())
        examples = listing([row for rows in left_out.values() for row in rows], shown=3)
        raise UserError(f"Nothing in the {name} can be used: {counts}.\n{examples}")
    return Corpus(tuple(usable), {reason: tuple(rows) for reason, rows in left_out.items()})


def _no_rows(manifest: Path, split: str) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in split_counts(manifest).items())
    return (
        f"The manifest {manifest} has no rows for the split {split!r}; it has: "
        f'{counts or "no rows at all"}. A row belongs to the split that its key "split" names; '
        "without that key it belongs to the split that the manifest is given for."
    )


def _check_languages(utterances: Sequence[Utterance], vocabulary: Vocabulary) -> None:
    """One message for each language that the checkpoint does not know, with its first row."""
    problems: dict[str, str] = {}
    for utterance in utterances:
        try:
            language_code(vocabulary, utterance.language)
            check_task(vocabulary, utterance.task)
        except UserError as error:
            problems.setdefault(str(error), f"{utterance.row}: {error}")
    if problems:
        raise UserError("\n".join(problems.values()))
