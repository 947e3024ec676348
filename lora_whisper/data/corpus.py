"""From the rows of a source to what can be trained on or scored; the rest is counted."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lora_whisper.config import DataConfig
from lora_whisper.data.audio import AudioError
from lora_whisper.data.dataset import Defaults, Utterance, Utterances, written_language
from lora_whisper.data.durations import measure, why_absent
from lora_whisper.data.segmentation import TIMESTAMP, split_long
from lora_whisper.data.text import clean as clean_text
from lora_whisper.data.text import leftovers, require_cleanable, suspects
from lora_whisper.errors import UserError, listing
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.model.tokenizer import (
    SpecialTokens,
    check_task,
    code_of,
    language_code,
    text_tokens,
)

log = logging.getLogger("lora_whisper")

BAD_AUDIO = "with audio that cannot be read"
NFC_GROWTH = 3  # most that NFC lengthens UTF-8, https://unicode.org/faq/normalization


@dataclass(frozen=True)
class Corpus:
    """The usable utterances of one split, and what was left out of it."""

    utterances: Utterances
    left_out: Mapping[str, tuple[str, ...]]  # reason → "row: detail" of each
    remarks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # the same, of what stays

    @property
    def seconds(self) -> float:
        return float(self.utterances.durations_seconds.sum())

    @property
    def hours(self) -> float:
        return self.seconds / 3600


def load_corpus(
    utterances: Utterances, split: str, config: DataConfig, window_seconds: float
) -> Corpus:
    """Check each file's header, and leave out or split what is longer than a window.

    Nothing is decoded but what `data.long_audio=split` has to hear for a place to cut.

    Raises:
        UserError: audio that is missing, does not decode or is longer than the window, where the
            configuration says fail (every such row in one message); a split that is empty after
            leaving out.
    """
    measured, problems, remarks = measure(utterances)
    _warn_of_leftovers(utterances, split)
    sieve = _Sieve(measured)
    explained = {
        index: f"{error}{why_absent(measured[index].audio)}" for index, error in problems.items()
    }
    sieve.leave_out(BAD_AUDIO, explained)
    samples = np.rint(np.nan_to_num(measured.durations_seconds) * SAMPLING_RATE)
    too_long = np.flatnonzero(samples > np.rint(window_seconds * SAMPLING_RATE)).tolist()
    longer = f"longer than the window of {window_seconds:g} s"
    pieces: dict[int, Sequence[Utterance]] = {}
    if config.long_audio == "split" and too_long:
        # A cut in a pause is likely right and never certain: good to learn from, not to score by.
        pieces, unsplit, undecoded = _split(measured, too_long, window_seconds, split == "train")
        sieve.leave_out(BAD_AUDIO, undecoded)
        sieve.leave_out(f"{longer} that cannot be split", unsplit)
    else:
        sieve.leave_out(longer, {index: _clip(measured[index]) for index in too_long})
    pieces = _without_marks(measured, set(sieve.indices) | pieces.keys()) | pieces
    source = getattr(config, split) or config.path
    corpus = sieve.corpus(config, f"split {split!r} of {source}", pieces)
    lines: dict[str, list[str]] = {}
    for index, of_row in sorted(remarks.items()):
        for remark in of_row:
            line = f"{measured.row(index).place}: {remark.detail}"
            lines.setdefault(remark.kind, []).append(line)
    return dataclasses.replace(corpus, remarks={kind: tuple(of) for kind, of in lines.items()})


def _warn_of_leftovers(utterances: Utterances, split: str) -> None:
    """Say that texts hold what nobody says; they stay as they are."""
    lines = {}
    for index in np.flatnonzero(suspects(utterances.column("text")).to_numpy()).tolist():
        one = utterances[index]
        language = code_of(one.language) if one.language else None
        if what := leftovers(one.text, language):
            lines[f"{one.row}: {', '.join(what)}"] = True
    if lines:
        _warn_once(
            f"{split:<11} {len(lines)} texts that are no transcripts are used as they are "
            f"(check lists them):\n{listing(list(lines), 3)}"
        )


def keep_what_fits(
    corpus: Corpus,
    tokenizer: Any,
    special_tokens: SpecialTokens,
    config: DataConfig,
    clean: Sequence[str] = (),
) -> Corpus:
    """Leave out texts with more tokens than the decoder has positions; name languages by code.

    Args:
        clean: what becomes of the texts before they are tokenized, see `text.clean`.

    Raises:
        UserError: a language or a task that the checkpoint does not know; one whose texts cannot
            be cleaned so; a text too long where the configuration says that long clips fail;
            nothing left.
    """
    utterances = _with_codes(corpus.utterances, special_tokens)
    if clean:
        columns = (utterances.column(name).to_pylist() for name in ("language", "task"))
        examples = {pair: index for index, pair in enumerate(zip(*columns, strict=True))}
        written = {
            written_language(special_tokens, utterances[index]) for index in examples.values()
        }
        require_cleanable(clean, written)
    # Before a text without timestamps there are as many, whatever its language and task.
    prompt = special_tokens.start(next(iter(special_tokens.languages), None), "transcribe")
    prompt_tokens = len(prompt)
    too_long = {}
    room_tokens = special_tokens.max_tokens - prompt_tokens
    for index in _perhaps_too_long(utterances, room_tokens, spells_digits="digits" in clean):
        one = utterances[index]
        language = written_language(special_tokens, one)
        text = clean_text(one.text, clean, language)
        tokens = prompt_tokens + len(text_tokens(tokenizer, text, language))
        if tokens > special_tokens.max_tokens:
            too_long[index] = f"{tokens} tokens"
    sieve = _Sieve(utterances, corpus.left_out)
    sieve.leave_out(f"with a text longer than {special_tokens.max_tokens} tokens", too_long)
    return dataclasses.replace(sieve.corpus(config, "corpus"), remarks=corpus.remarks)


def with_codes(corpus: Corpus, special_tokens: SpecialTokens) -> Corpus:
    """The same with languages named by code.

    Raises:
        UserError: a language or a task that the checkpoint does not know.
    """
    return dataclasses.replace(corpus, utterances=_with_codes(corpus.utterances, special_tokens))


def sample(utterances: Utterances, count: int | None, seed: int) -> Utterances:
    """At most `count` utterances, always the same for a seed, in their original order."""
    if count is None or count >= len(utterances):
        return utterances
    chosen = np.random.default_rng(seed).choice(len(utterances), size=count, replace=False)
    return utterances.select(np.sort(chosen))


class _Sieve:
    """What is left out of utterances, by reason, and the corpus of what remains."""

    def __init__(self, utterances: Utterances, before: Mapping[str, Sequence[str]] | None = None):
        self.utterances = utterances
        self.left_out = {reason: list(rows) for reason, rows in (before or {}).items()}
        self.indices: list[int] = []

    def leave_out(self, reason: str, details: Mapping[int, str]) -> None:
        """Leave out utterances by index; the detail says what was found."""
        for index, detail in details.items():
            line = f"{self.utterances.row(index).place}: {detail}"
            self.left_out.setdefault(reason, []).append(line)
            self.indices.append(index)

    def corpus(
        self, config: DataConfig, name: str, pieces: Mapping[int, Sequence[Utterance]] | None = None
    ) -> Corpus:
        """What remains, with pieces in the place of what was split.

        Raises:
            UserError: the configuration refuses what is left out, or nothing remains.
        """
        refused = []
        for reason, rows in self.left_out.items():
            key = "bad_audio" if reason == BAD_AUDIO else "long_audio"
            if getattr(config, key) == "fail":
                refused.append(f"{len(rows)} {reason}; data.{key}=drop leaves them out:")
                refused.append(listing(rows))
        if refused:
            raise UserError(f"The {name} has rows that cannot be used:\n" + "\n".join(refused))
        kept = np.setdiff1d(np.arange(len(self.utterances)), self.indices)
        if not len(kept):
            found = ", ".join(f"{len(rows)} {reason}" for reason, rows in self.left_out.items())
            examples = listing([row for rows in self.left_out.values() for row in rows], shown=3)
            raise UserError(
                f"Nothing in the {name} can be used: {found or 'it has no rows'}.\n{examples}"
            )
        by_place = {int(np.searchsorted(kept, index)): of for index, of in (pieces or {}).items()}
        utterances = self.utterances.select(kept).with_pieces(by_place)
        return Corpus(utterances, {reason: tuple(rows) for reason, rows in self.left_out.items()})


# ── long clips ───────────────────────────────────────────────────────────────────────────────


def _split(
    utterances: Utterances, indices: Sequence[int], window_seconds: float, by_pauses: bool
) -> tuple[dict[int, Sequence[Utterance]], dict[int, str], dict[int, str]]:
    """Pieces by index, and what there is to say of clips without any: uncut, or undecoded."""
    pieces: dict[int, Sequence[Utterance]] = {}
    unsplit: dict[int, str] = {}
    undecoded: dict[int, str] = {}
    cut = partial(_pieces, utterances, window_seconds=window_seconds, by_pauses=by_pauses)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # no more: each holds a decoded clip
        for index, parts in zip(indices, pool.map(cut, indices), strict=True):
            if isinstance(parts, AudioError):
                undecoded[index] = str(parts)
            elif not parts:
                unsplit[index] = _clip(utterances[index])
            else:
                pieces[index] = parts
    count = sum(map(len, pieces.values()))
    if pieces:
        log.info(
            "split       %d clips over %g s into %d pieces", len(pieces), window_seconds, count
        )
    return pieces, unsplit, undecoded


def _pieces(
    utterances: Utterances, index: int, window_seconds: float, by_pauses: bool
) -> Sequence[Utterance] | AudioError | None:
    try:
        return split_long(utterances[index], window_seconds, by_pauses)
    except AudioError as error:
        return error


def _without_marks(
    utterances: Utterances, handled: Collection[int]
) -> dict[int, Sequence[Utterance]]:
    """Texts that hold timestamps, as Whisper writes them, without: they are not spoken."""
    marked = np.zeros(len(utterances), bool)
    for name in ("text", "previous_text"):
        matches = pc.match_substring_regex(utterances.column(name), TIMESTAMP.pattern)
        marked |= pc.fill_null(matches, False).to_numpy()
    pieces: dict[int, Sequence[Utterance]] = {}
    for index in (index for index in np.flatnonzero(marked).tolist() if index not in handled):
        one = utterances[index]
        text, previous = (
            " ".join(TIMESTAMP.sub(" ", marked_text or "").split())
            for marked_text in (one.text, one.previous_text)
        )
        pieces[index] = [dataclasses.replace(one, text=text, previous_text=previous or None)]
    return pieces


def _clip(utterance: Utterance) -> str:
    return f"{utterance.audio.name}: {utterance.duration_seconds:.2f} s"


# ── languages and texts ──────────────────────────────────────────────────────────────────────


def _with_codes(utterances: Utterances, special_tokens: SpecialTokens) -> Utterances:
    """Languages by Whisper's code, but for one that borrows another's token.

    Raises:
        UserError: one line for each language or task that the checkpoint does not know, with its
            first row.
    """
    defaults = utterances.defaults
    codes: dict[str | None, str | None] = {}
    problems = []
    languages, tasks = utterances.column("language"), utterances.column("task")
    for language in languages.unique().to_pylist():
        borrows = defaults.language_token is not None and language == defaults.language
        try:
            code = language_code(special_tokens, defaults.language_token if borrows else language)
            codes[language] = language if borrows else code
        except UserError as error:
            problems.append(f"{_first_place(utterances, languages, language)}: {error}")
    for task in tasks.unique().to_pylist():
        try:
            check_task(special_tokens, task)
        except UserError as error:
            problems.append(f"{_first_place(utterances, tasks, task)}: {error}")
    if problems:
        raise UserError("\n".join(problems))
    require_language(defaults, special_tokens)
    _warn_of_overruled(utterances, languages)
    token = defaults.language_token and language_code(special_tokens, defaults.language_token)
    return utterances.with_codes(codes, token)


def require_language(defaults: Defaults, special_tokens: SpecialTokens) -> None:
    """See that `data.language` is one, also where every row names its own.

    Raises:
        UserError: the checkpoint does not know it, and no token is borrowed for it.
    """
    if defaults.language is None or defaults.language_token is not None:
        return
    try:
        language_code(special_tokens, defaults.language)
    except UserError as error:
        raise UserError(f"data.language={defaults.language}: {error}") from None


def _warn_of_overruled(utterances: Utterances, languages: pa.ChunkedArray) -> None:
    """Say that rows name another language than `data.language`: theirs counts."""
    given = utterances.defaults.language
    counts: Counter[str] = Counter()
    for each in languages.value_counts().to_pylist():
        counts[code_of(each["values"] or "")] += each["counts"]
    own = counts.pop(code_of(given or ""), 0)
    if given is not None and counts:
        named = ", ".join(f"{count:,} {code}" for code, count in counts.most_common(3))
        more = f" and {len(counts) - 3} more" if len(counts) > 3 else ""
        _warn_once(
            f"language    data.language={given}, but rows name their own, which counts: {named}"
            f"{more}; {'no row is' if not own else f'{own:,} are'} {code_of(given)} "
            f"({utterances.row(0).place} …)"
        )


@cache
def _warn_once(message: str) -> None:
    """Several models hear the same rows."""
    log.warning("%s", message)


def _first_place(utterances: Utterances, column: Any, value: str | None) -> str:
    holds = pc.is_null(column) if value is None else pc.equal(column, value)
    return utterances.row(pc.index(holds, True).as_py()).place


def _perhaps_too_long(
    utterances: Utterances, room_tokens: int, spells_digits: bool = False
) -> list[int]:
    """Those that may have more tokens than there is room for: few, so that few are tokenized.

    Byte-level BPE makes no more tokens than there are bytes, in NFC and with the space in front.
    Spelled, a digit may become a whole line of them.
    """
    texts = utterances.column("text")
    perhaps = pc.greater(pc.binary_length(texts), (room_tokens - 1) // NFC_GROWTH)
    if spells_digits:
        return np.flatnonzero(pc.or_(perhaps, pc.match_substring_regex(texts, r"\pN"))).tolist()
    indices = np.flatnonzero(perhaps)
    normalized = pc.utf8_normalize(texts.filter(perhaps), form="NFC")
    return indices[pc.binary_length(normalized).to_numpy() > room_tokens - 1].tolist()
