"""What findings are called and what to do about them; and manifests without the rows that training
cannot use, with a record of what was left out.
"""

from __future__ import annotations

import dataclasses
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lora_whisper.config import SPLITS, DataConfig
from lora_whisper.data.audio import EncodedAudio
from lora_whisper.data.dataset import Utterance
from lora_whisper.data.decisions import Mended
from lora_whisper.data.quality_measures import Measured, audio_name
from lora_whisper.data.text import without_number_words
from lora_whisper.errors import UserError, listing
from lora_whisper.files import written_whole

Splits = Mapping[str, Measured]


@dataclass(frozen=True)
class Meaning:
    """How a finding is called, and what to do about it."""

    title: str
    advice: str


MEANINGS = {
    "contradicted": Meaning(
        "The same sound under different texts",
        "One of the texts is wrong, or belongs to another clip: listen, and keep the right one; "
        "fix=FOLDER cannot know it, and leaves out all that are in one split.",
    ),
    "unreadable": Meaning("Audio that cannot be read", "Mend the files, or leave them out."),
    "truncated": Meaning(
        "Audio that is cut off", "Fetch or convert the files again, or leave them out."
    ),
    "short": Meaning(
        "Audio a little shorter than its header states",
        "It is read as far as there is sound; hear whether the last word is whole.",
    ),
    "unstated": Meaning(
        "Audio whose header states no length",
        "It is read to the end of its file; whether that is its own end nobody can tell.",
    ),
    "over_window": Meaning(
        "Clips longer than the window",
        "data.long_audio=split cuts them at pauses, drop leaves them out.",
    ),
    "too_short": Meaning("Clips too short to hold a word", "Look at their start and end."),
    "labels_over_limit": Meaning(
        "Texts longer than the decoder", "Cut clip and text, or leave them out."
    ),
    "no_transcript": Meaning(
        "Text that is no transcript",
        "Nothing of it is changed: mend the texts, or take the rows out. Tags go by "
        "data.clean=[annotations]; what is not seen is neither learnt nor scored.",
    ),
    "scored_words": Meaning(
        "Words that are scored otherwise than they are spoken",
        "The normalizer joins them (connected digits, abbreviations), finds none, or there are no "
        "spaces: look at CER and at the rates as written, and not at WER alone.",
    ),
    "empty_texts": Meaning(
        "Empty texts", "Right for clips without speech; give the others their text."
    ),
    "duplicates": Meaning("The same sound twice in a split", "Keep one of each."),
    "shared_audio": Meaning(
        "Sound in two splits", "Take it out of the earlier one, else a score on it is false."
    ),
    "shared_texts": Meaning(
        "Texts in two splits",
        "Take them out of the earlier one, or score words that were learnt by heart.",
    ),
    "shared_speakers": Meaning(
        "Speakers in two splits",
        "Divide by speaker; else the score is for known voices only.",
    ),
    "clipped": Meaning("Clipped audio", "Record with less gain; a few are no harm."),
    "beyond_scale": Meaning(
        "Samples beyond full scale",
        "Each file is turned down to full scale as a whole; export floats between -1 and 1.",
    ),
    "cancelling": Meaning(
        "Channels that cancel each other",
        "One of them is taken, for their mean is near silence; turn the other's polarity.",
    ),
    "silent": Meaning("Silent clips with a text", "Leave them out: they teach to invent text."),
    "mostly_silent": Meaning("Clips that are mostly pause", "Cut them closer to the speech."),
    "rate_outliers": Meaning(
        "Too much or too little text for the sound", "Listen to them: the text is often another's."
    ),
    "split_badly": Meaning(
        "Characters that the tokenizer spells in bytes",
        "They cost tokens and are learnt slowly; see that they are meant, and spelled in one way.",
    ),
    "digits": Meaning(
        "Texts with digits", "Spell them the same way everywhere: data.clean=[digits]."
    ),
    "mixed_scripts": Meaning(
        "Texts in several scripts", "Look for letters that only look alike, and foreign words."
    ),
    "unknown_language": Meaning(
        "Languages or tasks that the checkpoint does not know",
        "Say data.language=CODE; for a language it lacks, data.language_token=CODE too.",
    ),
}


@dataclass(frozen=True)
class Followed:
    """A finding about which a setting does what can be done."""

    is_typed: Callable[[DataConfig], bool]
    done: str


FOLLOWED = {
    "over_window": Followed(
        lambda data: data.long_audio == "split",
        "They are cut at pauses that fit the text (data.long_audio=split), else left out.",
    ),
    "digits": Followed(
        lambda data: "digits" in data.clean,
        "They are spelled in training (data.clean=[digits]); other splits keep them.",
    ),
    "no_transcript": Followed(
        lambda data: "annotations" in data.clean,
        "Tags go in training (data.clean=[annotations]). Mend the other texts, or take their rows "
        "out; what is not seen is neither learnt nor scored.",
    ),
}


@dataclass(frozen=True)
class FindingRow:
    """A row that a finding is about, as check.json has it."""

    split: str
    row: str  # where it stands, "a.jsonl:17"
    file: str
    detail: str  # what was found in it
    text: str


@dataclass(frozen=True)
class Finding:
    """Some rows with the same problem.

    It knows them by number and describes them when it is asked, so that one about a million rows
    takes no more memory than one about ten.
    """

    key: str  # in MEANINGS
    splits: Splits
    numbers: Mapping[str, np.ndarray]  # split → numbers of its rows
    detail: Callable[[Measured, int], str]
    distinct: int | None = None  # what is counted, where it is not the rows: texts, speakers
    more: Mapping[str, Any] = field(default_factory=dict)  # for check.json
    unusable: Mapping[str, np.ndarray] | None = None  # of the rows, where not all of them are
    is_followed: bool = False  # whether the setting that is advised is typed already

    @property
    def title(self) -> str:
        """What it is called, with the pairs of splits that have something in common."""
        pairs = self.more.get("pairs", {})
        named = ", ".join(
            f"{pair.replace(', ', ' and ')} {count:,}" for pair, count in pairs.items() if count
        )
        return f"{MEANINGS[self.key].title}{f' ({named})' if named else ''}"

    @property
    def advice(self) -> str:
        """What to do about it, in the languages of its rows, or what is done."""
        if self.is_followed:
            return FOLLOWED[self.key].done
        if self.key == "digits":
            languages = {
                self.splits[split].languages[int(number)] or "en"
                for split, rows in self.numbers.items()
                for number in set(self.splits[split].records["language"][rows].tolist())
            }
            if lacking := ", ".join(without_number_words(languages)):
                return f"Spell them the same way everywhere, by hand (num2words lacks {lacking})."
        return MEANINGS[self.key].advice

    @property
    def count(self) -> int:
        return self.row_count if self.distinct is None else self.distinct

    @property
    def row_count(self) -> int:
        return sum(len(rows) for rows in self.numbers.values())

    def rows(self) -> Iterator[FindingRow]:
        for split, numbers in self.numbers.items():
            measured = self.splits[split]
            for number in numbers:
                utterance = measured.utterances[int(number)]
                yield FindingRow(
                    split,
                    utterance.row,
                    audio_name(utterance.audio),
                    self.detail(measured, int(number)),
                    utterance.text,
                )


# ── repair ───────────────────────────────────────────────────────────────────────────────────────


LEFT_OUT = "left_out.jsonl"  # also tells that the folder is one that was written here
# Findings whose rows go; the first that holds is the reason. What is shared goes from the earlier
# split, the one that is trained on; of contradicted sounds, those with two texts in a split. The
# other findings are for people to judge.
UNUSABLE = (
    "unreadable",
    "truncated",
    "too_short",
    "contradicted",
    "duplicates",
    "shared_audio",
    "shared_texts",
    "silent",
    "labels_over_limit",
    "over_window",
)
CANNOT_SPLIT = "over_window, and cannot be split"

SplitLong = Callable[[Utterance, str], list[Utterance] | None]  # of a split; None: cannot be cut


@dataclass
class Repaired:
    """What was kept of each split, and what was not, by reason."""

    kept: Counter[str] = field(default_factory=Counter)
    pieces: Counter[str] = field(default_factory=Counter)  # among the kept, cut from longer clips
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    mended: Counter[str] = field(default_factory=Counter)  # among the kept, with another transcript

    def count(self, split: str, reason: str) -> None:
        self.left_out.setdefault(split, Counter())[reason] += 1


def require_repairable(
    folder: Path, splits: Mapping[str, Sequence[Utterance]], overwrite: bool
) -> None:
    """See that manifests can be written into `folder` without replacing anything of anybody's.

    Raises:
        UserError: the folder holds something; or the audio lies in a data set, without paths.
    """
    for utterances in splits.values():
        if utterances and isinstance(utterances[0].audio, EncodedAudio):
            raise UserError(
                "fix writes manifests, which name files, but this audio lies inside a data set. "
                "Leave fix out; data.bad_audio=drop and data.long_audio=drop leave rows out, too."
            )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"fix={folder} is a file. Type fix=FOLDER with a new folder.")
    there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    ours = {LEFT_OUT, *(f"{split}.jsonl" for split in SPLITS)}
    if there and (LEFT_OUT not in there or not ours >= set(there)):
        raise UserError(
            f"fix={folder} holds other things, which are left alone:\n{listing(there, 5)}\n"
            "Type fix=FOLDER with a new folder."
        )
    if there and not overwrite:
        raise UserError(
            f"fix={folder} exists. Type overwrite=true to replace it, or another fix=FOLDER."
        )


def write_repaired(
    folder: Path,
    splits: Mapping[str, Measured],
    findings: Sequence[Finding],
    split_long: SplitLong | None,
    decided: Mapping[str, Mapping[int, Mended]] | None = None,
) -> Repaired:
    """Write a manifest for each split, and `left_out.jsonl`; whole, or not at all.

    Args:
        split_long: cuts a clip that is longer than the window, None where it cannot; without it,
            such clips are left out.
        decided: by split, rows about whose transcripts a person decided.
    """
    result, home = Repaired(), os.path.realpath(folder)
    by_key = {finding.key: finding for finding in findings}
    with written_whole(folder) as aside, open(aside / LEFT_OUT, "w", encoding="utf-8") as left_out:
        for split in (split for split in SPLITS if split in splits):
            reasons: dict[int, Finding] = {}  # by row, the first finding that makes it unusable
            for finding in (by_key[key] for key in UNUSABLE):
                for row in (finding.unusable or finding.numbers).get(split, ()):
                    reasons.setdefault(int(row), finding)
            path, mended = aside / f"{split}.jsonl", (decided or {}).get(split, {})
            with open(path, "w", encoding="utf-8") as file:
                for utterance in _kept(
                    splits[split], reasons, split_long, result, left_out, mended
                ):
                    values = manifest_row(utterance, split, home)
                    file.write(json.dumps(values, ensure_ascii=False) + "\n")
            if path.stat().st_size == 0:  # a split of which nothing is left gets no manifest
                path.unlink()
    return result


def _kept(
    measured: Measured,
    reasons: Mapping[int, Finding],
    split_long: SplitLong | None,
    result: Repaired,
    left_out: Any,
    decided: Mapping[int, Mended],
) -> Iterator[Utterance]:
    """The rows to keep, and the pieces of those that are cut; the others go to `left_out`."""
    split = measured.split
    for row, utterance in enumerate(measured.utterances):
        finding, decision = reasons.get(row), decided.get(row)
        if finding is None and decision is not None:
            if decision.text is not None:
                result.kept[split] += 1
                result.mended[split] += 1
                yield _with_text(utterance, decision.text)
                continue
            detail = "accepted as wrong, by a person"
            _leave_out(result, left_out, split, utterance, decision.finding, detail)
            continue
        pieces = [utterance] if finding is None else None
        if finding is not None and finding.key == "over_window" and split_long is not None:
            seconds = float(measured.records[row]["seconds"])
            pieces = split_long(dataclasses.replace(utterance, duration_seconds=seconds), split)
            if pieces:
                result.pieces[split] += len(pieces)
        if pieces:
            result.kept[split] += len(pieces)
            yield from pieces
        else:
            assert finding is not None
            cannot = finding.key == "over_window" and split_long is not None
            reason = CANNOT_SPLIT if cannot else finding.key
            detail = finding.detail(measured, row)
            _leave_out(result, left_out, split, utterance, reason, detail)


def _leave_out(
    result: Repaired, file: Any, split: str, utterance: Utterance, reason: str, detail: str
) -> None:
    result.count(split, reason)
    values = {
        "split": split,
        "row": utterance.row,
        "audio": audio_name(utterance.audio),
        "text": utterance.text,
        "reason": reason,
        "detail": detail,
    }
    file.write(json.dumps(values, ensure_ascii=False) + "\n")


def _with_text(utterance: Utterance, text: str) -> Utterance:
    """With another transcript, and without the columns that hold its own."""
    columns = {key: value for key, value in utterance.columns.items() if value != utterance.text}
    return dataclasses.replace(utterance, text=text, columns=columns)


def manifest_row(utterance: Utterance, split: str, home: str) -> dict[str, Any]:
    """The row as `data=manifest` reads it from the folder `home`; its own columns follow.

    Of a piece of a longer clip, `start` and `end` are its own, and so is `duration`.
    """
    assert isinstance(utterance.audio, Path)
    folder, name = os.path.split(utterance.audio)
    parts = {
        "audio": os.path.join(os.path.relpath(os.path.realpath(folder), home), name),
        "text": unicodedata.normalize("NFC", utterance.text),
        "language": utterance.language,
        "task": utterance.task,
        "speaker": utterance.speaker,
        "start": utterance.start_seconds,
        "end": utterance.end_seconds,
        "previous_text": utterance.previous_text,
        "split": split,
    }
    row = {key: value for key, value in parts.items() if value is not None}
    row |= {key: value for key, value in utterance.columns.items() if key not in row}
    if "duration" in row and utterance.end_seconds is not None:
        row["duration"] = round(utterance.end_seconds - (utterance.start_seconds or 0.0), 6)
    return row
