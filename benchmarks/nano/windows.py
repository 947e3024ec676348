"""Windows for the pre-training of `nano`: speech from the cache, treated, with Whisper's labels."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperTokenizer

from benchmarks.nano.acoustics import (
    LONGEST_RATIO,
    SHORTEST_RATIO,
    Acoustics,
    Shares,
    resample,
)
from benchmarks.nano.synthesis import SAMPLE_RATE_HZ, WINDOW_SECONDS
from lora_whisper.data.windows import IGNORED
from lora_whisper.model.features import LogMel
from lora_whisper.model.tokenizer import text_tokens

WINDOW_SAMPLES = round(WINDOW_SECONDS * SAMPLE_RATE_HZ)
STEP_SAMPLES = SAMPLE_RATE_HZ // 5  # trimmed batches come in lengths of 0.2 s
TIMESTAMP_SHARE, PROMPT_SHARE, NO_SPEECH_SHARE = 0.2, 0.1, 0.015
SPLIT_SHARE = 0.2  # of windows have tokens taken apart
SPLIT_TOKENS_SHARE = 0.3  # of the tokens in them


@dataclass(frozen=True)
class Batch:
    """Features (batch, 80, frames); decoder input and labels (batch, tokens), -100 where there
    is no loss; phonemes (batch, phonemes) with their counts (batch,), 0 for the CTC blank."""

    features: Tensor
    decoder_input: Tensor
    labels: Tensor
    phonemes: Tensor
    phoneme_counts: Tensor


class Corpus:
    """All shards of a cache whose names begin with `prefix`."""

    def __init__(self, cache_folder: Path, prefix: str) -> None:
        self.rows: list[dict] = []
        audio: list[np.ndarray] = []
        for folder in sorted(cache_folder.glob(f"{prefix}*")):
            if (folder / "rows.jsonl").exists():
                lines = (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()
                shard = len(audio)
                self.rows += [json.loads(line) | {"shard": shard} for line in lines]
                audio.append(np.memmap(folder / "audio.i16", dtype=np.int16, mode="r"))
        self.audio = audio

    def samples(self, index: int) -> np.ndarray:
        """Float samples (samples,) of one sentence."""
        row = self.rows[index]
        stretch = self.audio[row["shard"]][row["start"] : row["start"] + row["samples"]]
        return stretch.astype(np.float32) / 32768.0

    def phoneme_inventory(self) -> list[str]:
        return sorted({phoneme for row in self.rows for phoneme in row["phonemes"]})


@cache
def log_mel(samples: int) -> LogMel:
    return LogMel(80, samples / SAMPLE_RATE_HZ)


class WindowMaker:
    """Draws batches from a corpus; one generator decides everything."""

    def __init__(
        self, corpus: Corpus, tokenizer: WhisperTokenizer, seed: int, inventory: list[str]
    ) -> None:
        self.corpus = corpus
        self.random = np.random.default_rng(seed)
        self.acoustics = Acoustics(self.random, corpus.audio[0])
        self.phoneme_ids = {phoneme: i + 1 for i, phoneme in enumerate(inventory)}
        # With the leading space of Whisper's own convention, as the adapters are trained.
        self.tokens = [text_tokens(tokenizer, row["text"], "en") for row in corpus.rows]
        self.parents = merge_parents(tokenizer)
        names = "endoftext startoftranscript en transcribe notimestamps startofprev nospeech 0.00"
        tokens = [f"<|{name}|>" for name in names.split()]
        numbers: Any = tokenizer.convert_tokens_to_ids(tokens)
        self.ids: dict[str, int] = dict(zip(names.split(), numbers, strict=True))

    def index_batches(self, size: int) -> Iterator[np.ndarray]:
        """For ever: indices of sentences of about the same length, in a mixed order."""
        samples = np.array([row["samples"] for row in self.corpus.rows])
        while True:
            order = self.random.permutation(len(samples))
            for start in range(0, len(order) - 16 * size + 1, 16 * size):
                pool = order[start : start + 16 * size]
                pool = pool[np.argsort(samples[pool], kind="stable")]
                yield from self.random.permutation(pool.reshape(-1, size))

    def text(self, index: int) -> list[int]:
        """The sentence's tokens, some of them taken apart in some windows.

        Of the 1,024 ordinary tokens 290 only ever stand inside of longer ones. Never a target, they
        cannot be learned by an adapter that leaves embeddings alone: before this, one on the
        dictation wrote `metjmin` for `metformin`, whose `for` is such a token, whatever it did."""
        tokens = self.tokens[index]
        if self.random.random() >= SPLIT_SHARE:
            return tokens
        return [part for token in tokens for part in self.parts(token)]

    def parts(self, token: int) -> list[int]:
        """The token, or the two that it was merged from, which may be taken apart in turn."""
        if token not in self.parents or self.random.random() >= SPLIT_TOKENS_SHARE:
            return [token]
        return [part for parent in self.parents[token] for part in self.parts(parent)]

    def labels(
        self, index: int, begin_seconds: float, end_seconds: float
    ) -> tuple[list[int], list[int]]:
        """Prompt (no loss) and the tokens from start-of-transcript on, in Whisper's own order."""
        ids, text = self.ids, self.text(index)
        head = [ids["startoftranscript"], ids["en"], ids["transcribe"]]
        if self.random.random() < TIMESTAMP_SHARE:
            first, last = (ids["0.00"] + round(s / 0.02) for s in (begin_seconds, end_seconds))
            tokens = [*head, first, *text, last, ids["endoftext"]]
        else:
            tokens = [*head, ids["notimestamps"], *text, ids["endoftext"]]
        if self.random.random() >= PROMPT_SHARE:
            return [], tokens
        other = self.tokens[self.random.integers(len(self.tokens))]
        return [ids["startofprev"], *other], tokens

    def place(self, index: int, shares: Shares, longest_samples: int) -> tuple[np.ndarray, int]:
        """The sentence at another speed, after a short silence; and that silence's samples."""
        samples = self.corpus.samples(index)
        if self.random.random() < shares.resampled:
            ratio = self.random.uniform(SHORTEST_RATIO, LONGEST_RATIO)
            samples = resample(samples, min(ratio, 0.98 * WINDOW_SAMPLES / len(samples)))
        room = min(longest_samples, WINDOW_SAMPLES - len(samples))
        silence = int(self.random.integers(0, max(1, room)))
        return np.concatenate([np.zeros(silence, np.float32), samples]), silence

    def batch(self, indices: np.ndarray, padded: bool, strength: float) -> Batch:
        """One batch; trimmed to its longest sentence unless `padded` to the window."""
        shares = Shares().scaled(strength)
        longest_silence = int((0.5 if padded else 0.15) * SAMPLE_RATE_HZ)
        placed = [self.place(int(index), shares, longest_silence) for index in indices]
        waveforms = stack([samples for samples, _ in placed], padded)
        silent = self.random.random(len(placed)) < NO_SPEECH_SHARE
        waveforms[torch.from_numpy(silent)] = 0.0
        sequences, targets = [], []
        for index, (samples, silence), mute in zip(indices, placed, silent, strict=True):
            seconds = (silence / SAMPLE_RATE_HZ, len(samples) / SAMPLE_RATE_HZ)
            sequences.append(self.no_speech() if mute else self.labels(int(index), *seconds))
            phonemes = [] if mute else self.corpus.rows[int(index)]["phonemes"]
            targets.append([self.phoneme_ids[p] for p in phonemes if p in self.phoneme_ids])
        heard = self.acoustics(waveforms, shares)
        features = self.masked(log_mel(heard.shape[1])(heard), strength)
        return Batch(
            features, *decoder_tensors(sequences, self.ids["endoftext"]), *ctc_targets(targets)
        )

    def no_speech(self) -> tuple[list[int], list[int]]:
        ids = self.ids
        return [], [ids["startoftranscript"], ids["nospeech"], ids["endoftext"]]

    def masked(self, features: Tensor, strength: float) -> Tensor:
        """SpecAugment (Park et al. 2019), light: a band of at most 10 mel bins in some windows."""
        for window in features:
            if self.random.random() < 0.3 * strength:
                first, width = self.random.integers(0, 70), self.random.integers(1, 11)
                window[first : first + width] = window.mean()
        return features


def merge_parents(tokenizer: WhisperTokenizer) -> dict[int, tuple[int, int]]:
    """For every merged token the two that it is made of, but for the starts of words: no text may
    begin with a lone space."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ids, merges = model["vocab"], [pair for pair in model["merges"] if pair[0] != "Ġ"]
    return {ids[left + right]: (ids[left], ids[right]) for left, right in merges}


def stack(waveforms: list[np.ndarray], padded: bool) -> Tensor:
    """(batch, samples), silence at the ends."""
    longest = max(len(samples) for samples in waveforms) + SAMPLE_RATE_HZ // 10
    length = min(WINDOW_SAMPLES, -(-longest // STEP_SAMPLES) * STEP_SAMPLES)
    stacked = np.zeros((len(waveforms), WINDOW_SAMPLES if padded else length), np.float32)
    for row, samples in zip(stacked, waveforms, strict=True):
        row[: len(samples)] = samples
    return torch.from_numpy(stacked)


def decoder_tensors(
    sequences: list[tuple[list[int], list[int]]], end: int
) -> tuple[Tensor, Tensor]:
    """Decoder input and labels, shifted by one; the prompt and the padding bear no loss."""
    length = max(len(prompt) + len(tokens) for prompt, tokens in sequences) - 1
    inputs = torch.full((len(sequences), length), end)
    labels = torch.full((len(sequences), length), IGNORED)
    for row, (prompt, tokens) in enumerate(sequences):
        whole = torch.tensor([*prompt, *tokens])
        inputs[row, : len(whole) - 1] = whole[:-1]
        labels[row, len(prompt) : len(whole) - 1] = whole[len(prompt) + 1 :]
    return inputs, labels


def ctc_targets(targets: list[list[int]]) -> tuple[Tensor, Tensor]:
    counts = torch.tensor([len(target) for target in targets])
    padded = torch.zeros((len(targets), int(counts.max())), dtype=torch.long)
    for row, target in enumerate(targets):
        padded[row, : len(target)] = torch.tensor(target)
    return padded, counts
