"""When each word is spoken, by the attention of the decoder to the sound.

Some heads of the decoder's cross-attention follow the sound; dynamic time warping finds the way
through theirs on which tokens and time both go forward. openai/whisper, `whisper/timing.py` (#869,
#1114), whose filters, thresholds and rules for punctuation these are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lora_whisper.model.tokenizer import SPACELESS_LANGUAGES
from lora_whisper.transcription.results import Word

SECONDS_PER_POSITION = 0.02  # of the encoder
MEDIAN_POSITIONS = 7  # that attention is smoothed over
OPENING, SENTENCE_ENDS = "\"'“¿([{-", ".。!！?？"  # noqa: RUF001
LONGEST_WORD_SECONDS = 0.7  # beside a pause, and no more than twice the median word
REPLACEMENT = "\ufffd"  # of bytes that are no whole character yet


@dataclass(frozen=True)
class Alignment:
    """A way through a text and its window, both from their beginnings to their ends."""

    tokens: np.ndarray  # (steps,): which token is next, the last step's being eot
    positions: np.ndarray  # (steps,), of 0.02 s
    probabilities: np.ndarray  # (tokens,), without eot

    def begins(self) -> np.ndarray:
        """Seconds at which each token begins, and eot: (tokens + 1,)."""
        is_first = np.diff(self.tokens, prepend=-1) > 0
        return self.positions[is_first] * SECONDS_PER_POSITION


def aligned(
    whisper: Any, encoded: Tensor, start: Sequence[int], tokens: Sequence[int], frames: int
) -> Alignment:
    """Align a text with its window.

    Args:
        encoded: (positions, width), of the encoder.
        start: what comes before the text, the last token of it <|notimestamps|>.
        tokens: of the text alone.
        frames: of the window that are the recording's, two a position.
    """
    device, eot = encoded.device, whisper.config.eos_token_id
    inputs = torch.tensor([[*start, *tokens, eot]], device=device)
    heads = alignment_heads(whisper)
    with _attention(whisper, heads) as found:
        hidden = whisper.model.decoder(
            input_ids=inputs, encoder_hidden_states=encoded[None], use_cache=False
        ).last_hidden_state[0]
    positions = max(1, -(-frames // 2))
    weights = torch.stack([one[:, :positions] for one in found()]).float().softmax(-1)
    deviation = weights.std(dim=-2, keepdim=True, unbiased=False).clamp(min=1e-10)
    weights = (weights - weights.mean(dim=-2, keepdim=True)) / deviation
    matrix = median_filtered(weights, MEDIAN_POSITIONS).mean(dim=0)
    # The row of a token is that of the one before it, which foretells it.
    rows = slice(len(start) - 1, len(start) + len(tokens))
    along_tokens, along_positions = time_warping(-matrix[rows].double().cpu().numpy())
    logits = whisper.proj_out(hidden[len(start) - 1 : -2]).float()[:, :eot]
    chosen = torch.tensor(list(tokens), device=device)[:, None]
    probabilities = logits.softmax(-1).gather(1, chosen)[:, 0]
    return Alignment(along_tokens, along_positions, probabilities.cpu().numpy())


def alignment_heads(whisper: Any) -> list[tuple[int, int]]:
    """(layer, head) of those that follow the sound; where nobody knows, the upper half's."""
    known = getattr(whisper.generation_config, "alignment_heads", None)
    if known:
        return [(layer, head) for layer, head in known]
    layers, heads = whisper.config.decoder_layers, whisper.config.decoder_attention_heads
    return list(itertools.product(range(layers // 2, layers), range(heads)))


@contextmanager
def _attention(whisper: Any, heads: Sequence[tuple[int, int]]) -> Iterator[Any]:
    """Notes queries and keys of a forward pass, whatever kernel computes its attention."""
    noted: dict[tuple[int, str], Tensor] = {}

    def note(layer: int, name: str, module: nn.Module) -> Any:
        return module.register_forward_hook(
            lambda _, inputs, output: noted.__setitem__((layer, name), output[0])
        )

    width = whisper.config.d_model // whisper.config.decoder_attention_heads

    def found() -> Iterator[Tensor]:
        """(tokens, positions) of each head, before the softmax."""
        for layer, head in heads:
            part = slice(head * width, (head + 1) * width)
            query, key = noted[layer, "q"][:, part].float(), noted[layer, "k"][:, part].float()
            yield query @ key.T * width**-0.5

    layers = whisper.model.decoder.layers
    hooks = [
        note(layer, name, getattr(layers[layer].encoder_attn, f"{name}_proj"))
        for layer in sorted({layer for layer, _ in heads})
        for name in "qk"
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def median_filtered(values: Tensor, width: int) -> Tensor:
    """The median of each value's neighbours along the last axis, mirrored at its ends."""
    half = width // 2
    if values.shape[-1] <= half:
        return values
    padded = nn.functional.pad(values, (half, half), mode="reflect")
    return padded.unfold(-1, width, 1).sort(dim=-1).values[..., half]


def time_warping(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest way from the first to the last corner of (rows, columns): rows, columns.

    A diagonal at a time: 1,500 positions with 100 tokens take 20 ms, cell by cell 300 ms.
    """
    rows, columns = costs.shape
    row, column = np.indices(costs.shape)
    skewed = np.full((rows + columns - 1, rows), np.inf)
    skewed[row + column, row] = costs
    trace = np.zeros(skewed.shape, np.int8)
    before, last = np.full(rows + 1, np.inf), np.full(rows + 1, np.inf)  # two diagonals, one row up
    before[0] = 0.0
    for diagonal, own in enumerate(skewed):
        both, up, left = before[:-1], last[:-1], last[1:]
        is_both, is_up = (both < up) & (both < left), (up < both) & (up < left)
        trace[diagonal] = np.where(is_both, 0, np.where(is_up, 1, 2))
        now = np.full(rows + 1, np.inf)
        now[1:] = own + np.where(is_both, both, np.where(is_up, up, left))
        before, last = last, now
    way = [(rows - 1, columns - 1)]
    while (at := way[-1]) != (0, 0):
        step = trace[sum(at), at[0]]
        way.append((at[0] - (step != 2), at[1] - (step != 1)))
    found = np.array(way[::-1])
    return found[:, 0], found[:, 1]


# ── words ────────────────────────────────────────────────────────────────────────────────────


def words_of(
    tokenizer: Any,
    alignment: Alignment,
    texts: Sequence[Sequence[int]],
    language: str | None,
    offset_seconds: float,
) -> list[list[Word]]:
    """The words of each text of a window that begins at `offset_seconds`."""
    begins, at = alignment.begins() + offset_seconds, 0
    parts = [word_parts(tokenizer, tokens, language) for tokens in texts]
    words = []
    for text, count in itertools.chain.from_iterable(parts):
        probability = float(alignment.probabilities[at : at + count].mean())
        words.append(Word(float(begins[at]), float(begins[at + count]), text, probability))
        at += count
    left = iter(without_pauses(words))
    return [list(itertools.islice(left, len(own))) for own in parts]


def word_parts(
    tokenizer: Any, tokens: Sequence[int], language: str | None
) -> list[tuple[str, int]]:
    """Texts of words with their punctuation, and how many tokens each has.

    Where words are not parted by spaces, each character is one.
    """
    parts: list[tuple[str, int]] = []
    opened = False  # the last part is punctuation of the next
    for text, count in _characters(tokenizer, tokens):
        is_punctuation = not any(character.isalnum() for character in text)
        begins = language in SPACELESS_LANGUAGES and not is_punctuation
        begins = begins or text.startswith(" ")
        if parts and (not begins or (opened and not text.startswith(" "))):
            parts[-1] = parts[-1][0] + text, parts[-1][1] + count
        else:
            parts.append((text, count))
        opened = parts[-1][0].strip() in OPENING
    return [(text.strip(), count) for text, count in parts]


def _characters(tokenizer: Any, tokens: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Whole characters, which several tokens may share the bytes of."""
    waiting: list[int] = []
    for token in tokens:
        waiting.append(token)
        text = tokenizer.decode(waiting, clean_up_tokenization_spaces=False)
        if REPLACEMENT not in text:
            yield text, len(waiting)
            waiting = []
    if waiting:
        yield tokenizer.decode(waiting, clean_up_tokenization_spaces=False), len(waiting)


def without_pauses(words: Sequence[Word]) -> list[Word]:
    """With what is too long beside the end of a sentence made shorter: a pause is no word."""
    lengths = [word.end_seconds - word.start_seconds for word in words]
    spoken = [length for length in lengths if length > 0]
    most = min(LONGEST_WORD_SECONDS, 2 * float(np.median(spoken))) if spoken else 0.0
    found, ended = [], True
    for word, length in zip(words, lengths, strict=True):
        start, end = word.start_seconds, word.end_seconds
        ends = word.text[-1:] in tuple(SENTENCE_ENDS)
        if length > most and ended:
            start = end - most
        elif length > most and ends:
            end = start + most
        found.append(Word(start, end, word.text, word.probability))
        ended = ends
    return found


def within(words: Sequence[Word], start_seconds: float, end_seconds: float) -> tuple[Word, ...]:
    """Rounded to 0.01 s, none before the one before it, all inside their segment."""
    found, earliest = [], start_seconds
    for word in words:
        start = min(max(round(word.start_seconds, 2), earliest), end_seconds)
        earliest = min(max(round(word.end_seconds, 2), start), end_seconds)
        found.append(Word(start, earliest, word.text, round(word.probability, 4)))
    return tuple(found)
