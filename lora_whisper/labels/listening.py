"""Listening: each clip is decoded, and its transcript is forced on it and on other clips.

A transcript that belongs to its clip costs the model fewer nats a token with it than with another
clip, however hard the speech is; how many of them a token costs at all says little, for noise and
accents make all of it dear.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_whisper.data.audio import AudioError, read_audio
from lora_whisper.data.dataset import Utterance, token_language, written_language
from lora_whisper.evaluation.decoding.decoder import most_letters, text_of
from lora_whisper.evaluation.decoding.greedy import GreedySearch, Rows
from lora_whisper.evaluation.decoding.long_form import token_limit
from lora_whisper.evaluation.decoding.whisper import WhisperDecoder
from lora_whisper.labels.alignment import missing_runs
from lora_whisper.labels.evidence import Edit, Evidence, Hypothesis, Kept, Levels, key_of
from lora_whisper.model.features import content_frames
from lora_whisper.model.tokenizer import SpecialTokens, text_tokens
from lora_whisper.transcription.word_times import aligned, word_parts

OTHER_CLIPS = 2  # that a transcript is forced on beside its own
BATCH_CLIPS = 8
MOST_EDITS = 3  # of a transcript, that are tried
SHOWN_LANGUAGES = 3
FRAME_SAMPLES = 160  # 10 ms
EDGE_FRAMES = 5


@dataclass(frozen=True)
class Clip:
    """A row that can be listened to: it fits the window, and so does its text."""

    split: str
    number: int  # of its row in the split
    utterance: Utterance
    fingerprint: int  # of its samples, see `data.quality_measures`
    seconds: float
    prompt: tuple[int, ...]  # sot … <|notimestamps|>
    tokens: tuple[int, ...]  # of its transcript
    language: str | None  # that the transcript is written in
    loudest_dbfs: float = 0.0  # of its frames of 20 ms

    @property
    def clip_key(self) -> str:
        return key_of(self.fingerprint, self.prompt)

    @property
    def pair_key(self) -> str:
        return key_of(self.fingerprint, self.prompt, self.tokens)


def clip_of(
    tokenizer: Any,
    special_tokens: SpecialTokens,
    utterance: Utterance,
    split: str,
    number: int,
    fingerprint: int,
    seconds: float,
    loudest_dbfs: float = 0.0,
) -> Clip | None:
    """The row as the model is to hear it; None where its text has no room.

    Raises:
        UserError: a language that the checkpoint does not know.
    """
    written = written_language(special_tokens, utterance)
    text = unicodedata.normalize("NFC", utterance.text).strip()
    tokens = tuple(text_tokens(tokenizer, text, written))
    prompt = tuple(special_tokens.start(token_language(special_tokens, utterance), utterance.task))
    if len(prompt) + len(tokens) > special_tokens.max_tokens:
        return None
    heard = fingerprint, seconds, prompt, tokens, written, loudest_dbfs
    return Clip(split, number, utterance, *heard)


class Listener:
    """A model that listens, and what it said so far."""

    def __init__(self, decoder: WhisperDecoder, kept: Kept):
        self.decoder, self.kept = decoder, kept
        self.whisper = decoder.base
        self._near: dict[str, Heard | None] = {}  # of the last batch, by the pair's key

    def is_known(self, clip: Clip) -> bool:
        return self.kept.evidence(clip.pair_key) is not None

    def listen(
        self,
        clips: Sequence[Clip],
        among: Sequence[Clip],
        on_done: Callable[[int], object] = int,
    ) -> None:
        """Listen to those of `clips` that are not known yet; what is found is in `kept`.

        Args:
            among: all that the model listens to, where other clips are taken from: those that a
                transcript is forced on are the same, whatever is known already.
            on_done: is told how many more are done.
        """
        waiting = [clip for clip in clips if not self.is_known(clip)]
        on_done(len(clips) - len(waiting))
        waiting.sort(key=lambda clip: clip.seconds)
        others = _others(waiting, among)
        with self.decoder.inference():
            for first in range(0, len(waiting), BATCH_CLIPS):
                batch = slice(first, first + BATCH_CLIPS)
                self._listen(waiting[batch], others[batch])
                on_done(len(waiting[batch]))

    def _listen(self, batch: Sequence[Clip], others: Sequence[Sequence[Clip]]) -> None:
        """`others`: for each of the batch, those that its transcript is forced on as well."""
        wanted = {clip.pair_key: clip for clip in itertools.chain(batch, *others)}
        self._near = {
            key: self._near[key] if key in self._near else self.encoded(clip)
            for key, clip in wanted.items()
        }
        heard = [one for clip in batch if (one := self._near[clip.pair_key]) is not None]
        hypotheses = iter(self._hypotheses(heard))
        for clip, each in zip(batch, others, strict=True):
            if (one := self._near[clip.pair_key]) is None:
                continue
            beside = [other for it in each if (other := self._near[it.pair_key]) is not None]
            evidence = self._evidence(one, next(hypotheses), beside)
            self.kept.add(clip.clip_key, clip.pair_key, evidence)

    def encoded(self, clip: Clip) -> Heard | None:
        """None where its sound cannot be read any more."""
        utterance, features = clip.utterance, self.decoder.features
        times = utterance.start_seconds, utterance.end_seconds
        try:
            samples = read_audio(utterance.audio, *times)[: features.window_samples]
        except AudioError:  # which could be read when it was measured
            return None
        waveform = torch.from_numpy(samples).to(self.decoder.device)
        encoded = self.decoder.encode([features.clip(waveform, "sound")])[0]
        return Heard(clip, encoded, len(samples), levels_of(samples))

    @staticmethod
    def fit_key(sound: Clip, text: Clip) -> str:
        return key_of("fit", sound.fingerprint, text.prompt, text.tokens)

    def fit(self, sound: Clip, text: Clip) -> float:
        """Nats a token of the transcript of `text`, given the clip `sound`."""
        pair = self.fit_key(sound, text)
        if (known := self.kept.fit(pair)) is not None:
            return known
        with self.decoder.inference():
            heard = self.encoded(sound)
            if heard is None:
                return math.inf
            (costs,) = self.forced(text.prompt, [text.tokens], heard.encoded[None])
        self.kept.add_fit(pair, float(costs.mean()))
        return float(costs.mean())

    # ── what the model writes ────────────────────────────────────────────────────────────────

    def _hypotheses(self, heard: Sequence[Heard]) -> list[Hypothesis]:
        """What is known of the clips already, whatever their transcripts were, is taken."""
        found = {index: self.kept.hypothesis(one.clip.clip_key) for index, one in enumerate(heard)}
        lengths = {len(one.clip.prompt) for one in heard}
        for length in lengths:
            group = [
                index
                for index, one in enumerate(heard)
                if found[index] is None and len(one.clip.prompt) == length
            ]
            if group:
                decoded = self._decoded([heard[index] for index in group])
                found |= dict(zip(group, decoded, strict=True))
        return [one for one in found.values() if one is not None]

    def _decoded(self, heard: Sequence[Heard]) -> list[Hypothesis]:
        """By greedy search, as evaluation decodes; prompts of one length."""
        decoder, special_tokens = self.decoder, self.decoder.special_tokens
        prompts = [one.clip.prompt for one in heard]
        encoded = torch.stack([one.encoded for one in heard])
        most = [token_limit(special_tokens, one.samples, len(prompts[0])) for one in heard]
        letters = [most_letters(one.clip.seconds, one.clip.language) for one in heard]
        rows = Rows(
            encoded,
            torch.tensor(prompts, device=decoder.device),
            torch.tensor(most, device=decoder.device),
            letters=decoder.letters,
            most_letters=torch.tensor(letters, device=decoder.device),
        )
        rules = decoder.rules(prompts[0])
        search = GreedySearch(self.whisper, special_tokens, rows, rules, probabilities=True)
        texts = search.run()
        found = zip(
            texts.tokens,
            texts.mean_log_probabilities,
            texts.no_speech_probabilities,
            self._languages(encoded),
            strict=True,
        )
        return [
            Hypothesis(
                tuple(tokens),
                text_of(decoder, tokens),
                round(-mean, 3),
                round(silence, 4),
                likely,
            )
            for tokens, mean, silence, likely in found
        ]

    def _languages(self, encoded: Tensor) -> list[dict[str, float]]:
        """The likeliest languages of each clip; Radford et al. 2022, section 2.3."""
        tokens = self.decoder.special_tokens.languages
        if not tokens:
            return [{} for _ in encoded]
        sot = torch.full((len(encoded), 1), self.decoder.special_tokens.sot, device=encoded.device)
        hidden = self.whisper.model.decoder(
            input_ids=sot, encoder_hidden_states=encoded, use_cache=False
        ).last_hidden_state[:, 0]
        ids = torch.tensor(list(tokens.values()), device=encoded.device)
        shares = self.whisper.proj_out(hidden).float()[:, ids].softmax(-1)
        highest = shares.topk(min(SHOWN_LANGUAGES, len(tokens)))
        names = list(tokens)
        return [
            {names[index]: round(value, 4) for value, index in zip(*row, strict=True)}
            for row in zip(highest.values.tolist(), highest.indices.tolist(), strict=True)
        ]

    # ── what the transcript costs ────────────────────────────────────────────────────────────

    def _evidence(self, one: Heard, hypothesis: Hypothesis, others: Sequence[Heard]) -> Evidence:
        clip = one.clip
        words = tuple(word_parts(self.decoder.tokenizer, clip.tokens, clip.language))
        changes = self._suggested(clip, hypothesis, words)
        texts = [*[clip.tokens] * (1 + len(others)), *(change.tokens for change in changes)]
        sounds = [one, *others, *[one] * len(changes)]
        costs = self.forced(clip.prompt, texts, torch.stack([each.encoded for each in sounds]))
        own, foreign = costs[0], costs[1 : 1 + len(others)]
        edits = []
        for change, cost in zip(changes, costs[1 + len(others) :], strict=True):
            edit, span = change.edit, change.span
            count = span[1] - span[0] if edit.adds else 0
            added = float(cost[edit.first_token : edit.first_token + count].sum())
            nats = round(float(cost.sum()) - added, 3), round(added, 3)
            edit = replace(edit, shared_nats=nats[0], added_nats=nats[1], added_tokens=count)
            if edit.adds and edit.shared_nats < own.sum():  # it may become a finding
                times = self._times(one, hypothesis, span)
                edit = replace(edit, start_seconds=times[0], end_seconds=times[1])
            edits.append(edit)
        foreign_costs = np.array(foreign, float).reshape(len(foreign), len(own))
        return Evidence(hypothesis, own, foreign_costs, words, one.levels, tuple(edits))

    def forced(
        self, prompt: Sequence[int], texts: Sequence[Sequence[int]], encoded: Tensor
    ) -> list[np.ndarray]:
        """Nats of the tokens of each text and of its end, given (texts, positions, width)."""
        eot, start = self.decoder.special_tokens.eot, len(prompt) - 1
        longest = max(map(len, texts))
        filled = [[*prompt, *text, *[eot] * (longest - len(text))] for text in texts]
        inputs = torch.tensor(filled, device=encoded.device)
        hidden = self.whisper.model.decoder(
            input_ids=inputs, encoder_hidden_states=encoded, use_cache=False
        ).last_hidden_state
        found = []
        for row, text in zip(hidden, texts, strict=True):
            logits = self.whisper.proj_out(row[start : start + len(text) + 1]).float()
            targets = torch.tensor([*text, eot], device=encoded.device)[:, None]
            nats = logits.logsumexp(-1) - logits.gather(1, targets)[:, 0]
            found.append(nats.double().cpu().numpy())
        return found

    # ── what may be missing, and what is said too much ───────────────────────────────────────

    def _suggested(
        self, clip: Clip, hypothesis: Hypothesis, words: Sequence[tuple[str, int]]
    ) -> list[Change]:
        """Changes of the transcript by runs of words that only one of the two texts has."""
        heard = word_parts(self.decoder.tokenizer, hypothesis.tokens, clip.language)
        written_ends, heard_ends = _token_ends(words), _token_ends(heard)
        written, spoken = [text for text, _ in words], [text for text, _ in heard]
        found = []
        for run in missing_runs(spoken, written):
            at, span = written_ends[run.at], (heard_ends[run.first], heard_ends[run.last])
            added = hypothesis.tokens[slice(*span)]
            tokens = (*clip.tokens[:at], *added, *clip.tokens[at:])
            text = " ".join(spoken[run.first : run.last])
            edit = Edit(True, text, at, at, run.place, math.nan, math.nan, 0)
            found.append((run.letters, Change(edit, tokens, span)))
        for run in missing_runs(written, spoken):
            span = written_ends[run.first], written_ends[run.last]
            tokens = (*clip.tokens[: span[0]], *clip.tokens[span[1] :])
            text = " ".join(written[run.first : run.last])
            edit = Edit(False, text, *span, run.place, math.nan, math.nan, 0)
            found.append((run.letters, Change(edit, tokens, span)))
        room = self.decoder.special_tokens.max_tokens - len(clip.prompt)
        fitting = [one for one in found if len(one[1].tokens) < room]
        fitting.sort(key=lambda one: -one[0])
        return [change for _, change in fitting[:MOST_EDITS]]

    def _times(
        self, one: Heard, hypothesis: Hypothesis, span: tuple[int, int]
    ) -> tuple[float, float]:
        """Seconds into the clip at which these tokens of the hypothesis are spoken."""
        start = one.clip.prompt
        alignment = aligned(
            self.whisper, one.encoded, start, hypothesis.tokens, content_frames(one.samples)
        )
        begins = alignment.begins()
        return round(float(begins[span[0]]), 2), round(float(begins[span[1]]), 2)


@dataclass(frozen=True)
class Heard:
    """A clip as the encoder hears it."""

    clip: Clip
    encoded: Tensor  # (positions, width)
    samples: int
    levels: Levels


@dataclass(frozen=True)
class Change:
    """A changed transcript that is tried."""

    edit: Edit  # its nats are not known yet
    tokens: tuple[int, ...]
    span: tuple[int, int]  # tokens of the text that the run of words is of: first and last+1


def levels_of(samples: np.ndarray) -> Levels:
    """(samples,) at 16 kHz, in frames of 10 ms."""
    frames = len(samples) // FRAME_SAMPLES
    if frames < 2 * EDGE_FRAMES:
        return Levels(-99.0, -99.0, 0.0)
    power = np.square(samples[: frames * FRAME_SAMPLES].reshape(frames, -1)).mean(axis=1)
    decibels = 10 * np.log10(power.astype(np.float64) + 1e-10)
    quiet, loud = np.percentile(decibels, [10, 90])
    edges = decibels[:EDGE_FRAMES].max() - loud, decibels[-EDGE_FRAMES:].max() - loud
    return Levels(*(round(float(value), 1) for value in (*edges, loud - quiet)))


def _others(clips: Sequence[Clip], among: Sequence[Clip]) -> list[list[Clip]]:
    """For each clip, the next longer ones that say something else; shorter ones beside the last."""
    in_order = sorted(among, key=lambda clip: clip.seconds)
    places = {clip.pair_key: place for place, clip in enumerate(in_order)}
    found = []
    for clip in clips:
        at = places.get(clip.pair_key, len(in_order))
        in_turn = itertools.chain(range(at + 1, len(in_order)), reversed(range(at)))
        unlike = (
            each
            for each in map(in_order.__getitem__, in_turn)
            if each.tokens != clip.tokens and each.fingerprint != clip.fingerprint
        )
        found.append(list(itertools.islice(unlike, OTHER_CLIPS)))
    return found


def _token_ends(words: Sequence[tuple[str, int]]) -> list[int]:
    """Where each word begins, and where the last one ends: (words + 1,) tokens."""
    return [0, *itertools.accumulate(count for _, count in words)]
