"""Words that matter, names of drugs or of people: their list, where they are said, and as a prompt.

Before <|startoftranscript|> Whisper's decoder may be given a text, meant for what was said before.
A list stands there as one text, `metformin, warfarin`, with a space in front. faster-whisper makes
the same tokens of that text by `hotwords` and by `initial_prompt`, openai-whisper by
`initial_prompt`, and Transformers by `get_prompt_ids`; so what is trained with is what is typed.
They differ where it is too long: `hotwords` keeps its beginning, the others its end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import regex

from lora_whisper.errors import UserError
from lora_whisper.model.tokenizer import text_tokens, without_unseen

# Of the prompts, in which words that are said are missing: at use a list never has all of them, and
# a word that is not in it is to be written all the same.
ABSENT_SHARE = 0.2
UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}"
    r"\p{Script=Myanmar}"
)
# Letters and digits in a row; of scripts without spaces each letter, with its marks.
PART = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED}]]+", regex.V1)

Phrase = tuple[str, ...]


def read_words(path: Path, key: str) -> tuple[str, ...]:
    """Read a file with a word or a phrase a line, in UTF-8; empty lines do not count.

    Args:
        key: what was typed, for the message.

    Raises:
        UserError: no such file, not a text, or no word in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError):
            why = f"it is not UTF-8 (byte {error.start})"
        else:
            why = (error.strerror or str(error)).lower()
        raise UserError(
            f"{key}={path}: {why}. Expected a text file in UTF-8 with a word or a phrase a line."
        ) from None
    words = [" ".join(line.split()) for line in lines if line.strip()]
    if not words:
        raise UserError(f"{key}={path}: found no word in it. Write a word or a phrase a line.")
    return tuple(dict.fromkeys(words))


# ── where they are said ──────────────────────────────────────────────────────────────────────


class Phrases:
    """Words and phrases as they stand in texts that are split as they are."""

    def __init__(self, words: Sequence[str], split: Callable[[str], Iterable[str]]):
        self.names: dict[Phrase, str] = {}  # phrase → word, the first of those that are the same
        for word in words:
            self.names.setdefault(tuple(split(word)), word)
        self.names.pop((), None)
        self.by_first: Mapping[str, list[Phrase]] = {}
        for phrase in self.names:
            self.by_first.setdefault(phrase[0], []).append(phrase)

    def count(self, parts: Iterable[str]) -> Counter[str]:
        """How often each word stands in a text; occurrences of one do not overlap."""
        text = tuple(parts)
        counts: Counter[str] = Counter()
        ends: dict[Phrase, int] = {}
        for start, part in enumerate(text):
            for phrase in self.by_first.get(part, ()):
                end = start + len(phrase)
                if text[start:end] == phrase and ends.get(phrase, 0) <= start:
                    counts[self.names[phrase]] += 1
                    ends[phrase] = end
        return counts


def parts_of(text: str) -> list[str]:
    """A text's words in small letters, without punctuation."""
    return PART.findall(without_unseen(text).casefold())


@dataclass(frozen=True)
class Spoken:
    """What of a list is said in some texts."""

    times: Counter[str]  # that each word is said; those that are not are missing
    texts: int  # that have one of them
    of_texts: int


def spoken_in(words: Sequence[str], texts: Iterable[str]) -> Spoken:
    """Count words in texts as they are written, capitals and punctuation aside."""
    phrases, times = Phrases(words, parts_of), Counter[str]()
    with_some = of_texts = 0
    for text in texts:
        found = phrases.count(parts_of(text))
        times.update(found)
        with_some += bool(found)
        of_texts += 1
    return Spoken(times, with_some, of_texts)


# ── as a prompt ──────────────────────────────────────────────────────────────────────────────


def as_text(words: Sequence[str]) -> str:
    """`metformin, warfarin`"""
    return ", ".join(words)


def prompt_tokens(tokenizer: Any, text: str) -> list[int]:
    """Of a text before <|startoftranscript|>; a space is in front of it in every language.

    Nothing in it becomes a special token.
    """
    return text_tokens(tokenizer, text, None)


def before_text(words: Sequence[int], previous: Sequence[int], room_tokens: int) -> list[int]:
    """Words, and as much of the end of a previous text as has room behind them."""
    kept = max(0, room_tokens - len(words))
    return [*words, *previous[max(0, len(previous) - kept) :]]


def first_that_fit(words: Sequence[str], tokenizer: Any, room_tokens: int) -> list[str]:
    """The longest beginning of a list that the decoder has room for."""
    fits, beyond = 0, len(words) + 1
    while beyond - fits > 1:
        half = (fits + beyond) // 2
        if len(prompt_tokens(tokenizer, as_text(words[:half]))) <= room_tokens:
            fits = half
        else:
            beyond = half
    return list(words[:fits])


@dataclass(frozen=True)
class WordPrompts:
    """Prompts of training windows: what is said of a list, among words that are not.

    How many there are is drawn evenly by their logarithm, from one to as many as have room: at use
    some give three names, and others all that they have.
    """

    words: tuple[str, ...]
    distractors: tuple[str, ...]  # of them, those that are named without being said
    share: float  # of the windows
    tokenizer: Any

    @cached_property
    def _phrases(self) -> Phrases:
        return Phrases(self.words, parts_of)

    @cached_property
    def costs_tokens(self) -> dict[str, int]:
        """Of each word, with the comma behind it."""
        return {word: len(prompt_tokens(self.tokenizer, word)) + 1 for word in self.words}

    def tokens(
        self, generator: np.random.Generator, texts: Sequence[str], room_tokens: int
    ) -> list[int]:
        """Draw the prompt of a window; empty where nothing has room.

        Args:
            texts: that are said in it.
        """
        parts = (part for text in texts for part in parts_of(text))
        said = list(self._phrases.count(parts))
        others = [word for word in self.distractors if word not in said]
        is_absent = generator.random() < ABSENT_SHARE
        number = round(math.exp(generator.uniform(0, math.log(max(1, self._most(room_tokens))))))
        chosen = [] if is_absent else [said[index] for index in generator.permutation(len(said))]
        more = min(len(others), max(number - len(chosen), 0))
        chosen += [others[index] for index in generator.permutation(len(others))[:more]]
        kept, used = list[str](), 0
        for word in chosen:  # those that are said before those that are not
            if used + self.costs_tokens[word] <= room_tokens:
                kept.append(word)
                used += self.costs_tokens[word]
        kept = [kept[index] for index in generator.permutation(len(kept))]
        # Marks at a word's end can make other tokens with the comma than without.
        return prompt_tokens(
            self.tokenizer, as_text(first_that_fit(kept, self.tokenizer, room_tokens))
        )

    def lengths_tokens(self, room_tokens: int) -> tuple[float, int]:
        """Of a prompt on the mean, and at most, with <|startofprev|>."""
        most = self._most(room_tokens)
        words = (most - 1) / math.log(most) if most > 1 else 1.0  # the mean of what `tokens` draws
        return 1 + words * self._mean_cost, 1 + min(room_tokens, sum(self.costs_tokens.values()))

    @property
    def _mean_cost(self) -> float:
        return sum(self.costs_tokens.values()) / len(self.costs_tokens)

    def _most(self, room_tokens: int) -> int:
        """Words of the mean length that have room."""
        return min(len(self.distractors), int(room_tokens / self._mean_cost))
