"""What a model says of a clip and its transcript, and where it is kept.

    outputs of `listening`, in the cache, by what they hang on:
    labels/MODEL.jsonl    a line for each clip and transcript, appended as they come

So a check that was killed goes on where it was, and a check after some transcripts were mended
listens to those alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lora_whisper.errors import UserError
from lora_whisper.files import append_jsonl, read_jsonl
from lora_whisper.paths import cache_folder

log = logging.getLogger("lora_whisper")

Place = Literal["beginning", "middle", "end"]
DECIMALS = 3  # of nats, in the file


@dataclass(frozen=True)
class Hypothesis:
    """What the model writes of a clip, whatever its transcript says."""

    tokens: tuple[int, ...]
    text: str
    nats: float  # a token, end of text included: minus the mean log-probability
    no_speech: float  # probability of <|nospeech|>
    languages: Mapping[str, float]  # the likeliest ones, with their probabilities; empty for `.en`


@dataclass(frozen=True)
class Levels:
    """How loud a clip is, in dB: what may be cut in its sound, or has no speech."""

    begins: float  # its first 50 ms, beside its loudest tenth
    ends: float
    range: float  # from its quietest tenth to its loudest


@dataclass(frozen=True)
class Edit:
    """A change of the transcript that the hypothesis suggests."""

    adds: bool  # words of the hypothesis; else words of the transcript go
    words: str
    first_token: int  # of the transcript: where they are added, or the first that goes
    last_token: int  # behind the last that goes
    place: Place
    shared_nats: float  # of all tokens that both have, and the end of text, in the changed one
    added_nats: float  # of the added words
    added_tokens: int
    start_seconds: float | None = None  # where the added words are spoken
    end_seconds: float | None = None


@dataclass(frozen=True)
class Evidence:
    """What a model says of a clip with its transcript."""

    hypothesis: Hypothesis
    own: np.ndarray  # (tokens + 1,) nats of each token and of the end of text, given the clip
    others: np.ndarray  # (clips, tokens + 1) the same, given other clips
    words: tuple[tuple[str, int], ...]  # of the transcript, with how many tokens each has
    levels: Levels
    edits: tuple[Edit, ...] = ()

    @property
    def gain(self) -> float:
        """Nats a token that the own clip saves beside others."""
        return float(self.others.mean() - self.own.mean())


def key_of(*parts: object) -> str:
    """Name what evidence hangs on."""
    return hashlib.blake2b(
        repr(parts).encode("utf-8", "surrogateescape"), digest_size=12
    ).hexdigest()


class Kept:
    """Evidence of one model in its file, and in memory as it was written."""

    def __init__(self, model: str):
        """`model` names weights, storage, device and decoding exactly."""
        self.path: Path = cache_folder("labels") / f"{key_of(model)}.jsonl"
        self._hypotheses: dict[str, Hypothesis] = {}
        self._evidence: dict[str, Evidence] = {}
        self._fits: dict[str, float] = {}
        for line in read_jsonl(self.path):
            try:
                self._take(line)
            except (KeyError, TypeError, ValueError):  # of another version, or edited since
                continue

    def hypothesis(self, clip: str) -> Hypothesis | None:
        return self._hypotheses.get(clip)

    def evidence(self, pair: str) -> Evidence | None:
        return self._evidence.get(pair)

    def fit(self, pair: str) -> float | None:
        return self._fits.get(pair)

    def add(self, clip: str, pair: str, evidence: Evidence) -> None:
        self._hypotheses[clip], self._evidence[pair] = evidence.hypothesis, evidence
        self._write({"clip": clip, "pair": pair, **_as_json(evidence)})

    def add_fit(self, pair: str, nats: float) -> None:
        """What a transcript costs a token, given another clip than its own."""
        self._fits[pair] = nats
        self._write({"fit": pair, "nats": round(nats, DECIMALS)})

    def _write(self, line: dict[str, Any]) -> None:
        """Append it; where nothing can be written, it is in memory alone."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_jsonl(self.path, line)
        except (OSError, UserError) as error:
            log.warning("cache       cannot be written: %s", error)

    def _take(self, line: Mapping[str, Any]) -> None:
        if "fit" in line:
            self._fits[line["fit"]] = float(line["nats"])
            return
        tokens = tuple(line["hypothesis"]["tokens"])
        hypothesis = Hypothesis(**line["hypothesis"] | {"tokens": tokens})
        self._hypotheses[line["clip"]] = hypothesis
        self._evidence[line["pair"]] = Evidence(
            hypothesis,
            np.array(line["own"], float),
            np.array(line["others"], float).reshape(-1, len(line["own"])),
            tuple((str(text), int(count)) for text, count in line["words"]),
            Levels(**line["levels"]),
            tuple(Edit(**edit) for edit in line["edits"]),
        )


def _as_json(evidence: Evidence) -> dict[str, Any]:
    values = dataclasses.asdict(evidence)
    values["own"] = _rounded(evidence.own)
    values["others"] = [_rounded(row) for row in evidence.others]
    return values


def _rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(value), DECIMALS) for value in values]
