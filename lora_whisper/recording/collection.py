"""A folder that grows by a take at a time: FLAC files, and the manifest that `train` takes.

OUT/
    recordings.jsonl          a row a take, written anew after each
    clips/SPEAKER/00001.flac  mono, 16 kHz, 16 bits
    skipped.txt               who passed over which sentence

A take is on the disk before its row is, and a row before the next sentence is shown: whatever
happens in between, the manifest names whole files only, and nothing that was kept is lost.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from lora_whisper.config import SPLITS
from lora_whisper.data.audio import resample
from lora_whisper.data.sources.records import SUFFIXES
from lora_whisper.errors import UserError
from lora_whisper.files import contents, make_folder, tidy, write_whole
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.paths import is_plain_name, plain_name
from lora_whisper.recording.takes import Take, judge

MANIFEST, CLIPS, SKIPPED = "recordings.jsonl", "clips", "skipped.txt"
KEYS = ("audio", "text", "speaker", "split")
LONGEST_NAME = 60  # of a speaker: a folder is called so
FEW_TAKES = 10  # a speaker with fewer is not worth a test set
FEWEST_SPEAKERS = 3  # from which whole speakers are set aside
EVERY = 10  # of fewer speakers, each tenth sentence is, and each tenth for the validation


@dataclass(frozen=True)
class Row:
    """One take that was kept; `other` is what somebody else added to its line."""

    audio: str  # relative to the manifest
    text: str
    speaker: str
    split: str = "train"
    language: str | None = None
    duration: float = 0.0  # seconds
    warnings: tuple[str, ...] = ()
    other: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        known = {name: value for name, value in vars(self).items() if name != "other" and value}
        return json.dumps(known | self.other, ensure_ascii=False)


@dataclass(frozen=True)
class Progress:
    """How far a speaker has come, and the whole data set with them."""

    speaker: str
    sentences: int
    read: int  # of them, by this speaker
    skipped: int
    seconds: float  # of all speakers
    takes: int  # of all speakers
    speakers: tuple[str, ...]
    splits: dict[str, int]  # takes of each
    next: str | None  # the sentence that comes next; None: all are done


class Collection:
    """What was recorded in a folder, and what is still to be; safe to be used by several threads.

    Args:
        folder: which is made, and locked by the caller.
        sentences: that are to be read, see `read_sentences`.
        language: that is written into each row.

    Raises:
        UserError: the folder holds something else, or a manifest that cannot be gone on with.
    """

    def __init__(self, folder: Path, sentences: Sequence[str], language: str | None = None):
        require_own(folder)
        make_folder(folder)
        for name in (MANIFEST, SKIPPED):
            tidy(folder / name)
        self.folder, self.sentences, self.language = folder, list(sentences), language
        self._guard = threading.Lock()
        self.rows = read_rows(folder / MANIFEST)
        self._skipped = read_skipped(folder / SKIPPED)

    def progress(self, speaker: str) -> Progress:
        """Where the speaker goes on, after whatever happened before.

        Raises:
            UserError: the name is none.
        """
        speaker = speaker_name(speaker)
        with self._guard:
            return self._progress(speaker)

    def _progress(self, speaker: str) -> Progress:
        mine = {row.text for row in self.rows if row.speaker == speaker}
        passed = {text for name, text in self._skipped if name == speaker} - mine
        # First what nobody has read: more different sentences, and fewer that stand in training and
        # test in two voices.
        others = Counter(row.text for row in self.rows)
        left = [one for one in self.sentences if one not in mine and one not in passed]
        known = set(self.sentences)
        return Progress(
            speaker,
            len(self.sentences),
            len(mine & known),
            len(passed & known),
            sum(row.duration for row in self.rows),
            len(self.rows),
            tuple(dict.fromkeys(row.speaker for row in self.rows)),
            {split: sum(row.split == split for row in self.rows) for split in SPLITS},
            min(left, key=lambda one: others[one], default=None),
        )

    def row_of(self, speaker: str, text: str) -> Row | None:
        """The take of a sentence, if it was read."""
        return next((r for r in self.rows if (r.speaker, r.text) == (speaker, text)), None)

    def before(self, speaker: str, text: str | None) -> Row | None:
        """The take before that of a sentence, or the speaker's last one; None: there is none."""
        mine = [row for row in self.rows if row.speaker == speaker]
        texts = [row.text for row in mine]
        at = texts.index(text) if text in texts else len(mine)
        return mine[at - 1] if at else None

    def keep(self, speaker: str, text: str, samples: np.ndarray, rate: int) -> Take:
        """Judge a take and, if it is fit, write it; an earlier one of the sentence is replaced.

        When this returns, the take is on the disk.

        Args:
            samples: (samples,) float32, mono, full scale is 1.
            rate: samples a second.

        Raises:
            UserError: no such sentence, or the disk is full.
        """
        speaker = speaker_name(speaker)
        with self._guard:
            before = self.row_of(speaker, text)
            if before is None and text not in self.sentences:
                raise UserError("This sentence is not among those that are read here.")
            take = judge(samples, rate, text)
            if take.refusal is not None:
                return take
            clip = self._free_clip(speaker)
            write_whole(clip, flac(resample(samples, rate)))
            audio = clip.relative_to(self.folder).as_posix()
            row = Row(audio, text, speaker, "train", self.language, round(take.seconds, 3))
            row = replace(row, warnings=take.warnings)
            rows = [row if one is before else one for one in self.rows]
            self._write(rows if before is not None else [*rows, row])
            if before is not None:
                self._forget(before)
            return take

    def skip(self, speaker: str, text: str) -> None:
        """Pass over a sentence, now and the next time."""
        speaker = speaker_name(speaker)
        with self._guard:
            if text in self.sentences and (speaker, text) not in self._skipped:
                skipped = [*self._skipped, (speaker, text)]
                lines = "".join(f"{name}\t{sentence}\n" for name, sentence in skipped)
                write_whole(self.folder / SKIPPED, lines.encode())
                self._skipped = skipped

    def sound(self, speaker: str, text: str) -> bytes | None:
        """The FLAC file of a take, as it will be learnt from; None: there is none."""
        row = self.row_of(speaker, text)
        path = self.folder / row.audio if row is not None else None
        is_ours = path is not None and path.resolve().is_relative_to(self.folder.resolve())
        return path.read_bytes() if path is not None and is_ours and path.is_file() else None

    def _free_clip(self, speaker: str) -> Path:
        place = self.folder / CLIPS / plain_name(speaker)
        numbers = [int(one.stem) for one in place.glob("*.flac") if re.fullmatch(r"\d+", one.stem)]
        return place / f"{max(numbers, default=0) + 1:05}.flac"

    def _write(self, rows: Sequence[Row]) -> None:
        divided = [replace(r, split=s) for r, s in zip(rows, splits_of(rows), strict=True)]
        lines = "".join(f"{row.to_json()}\n" for row in divided)
        write_whole(self.folder / MANIFEST, lines.encode())
        self.rows = divided

    def _forget(self, row: Row) -> None:
        """Delete the file of a take that was read again, if no row names it any more."""
        path = (self.folder / row.audio).resolve()
        clips = (self.folder / CLIPS).resolve()
        if path.is_relative_to(clips) and all(one.audio != row.audio for one in self.rows):
            path.unlink(missing_ok=True)


# ── who is set aside ─────────────────────────────────────────────────────────────────────────


def splits_of(rows: Sequence[Row]) -> list[str]:
    """The split of each take: whole speakers for the test, as soon as there are enough of them.

    Of three speakers or more with ten takes each, in the order in which they came to that, the
    third, eighth, … are the test set, the fourth, ninth, … the validation set: nobody moves when
    others join. As long as a split has no speaker of its own, it has each tenth sentence of the
    others, whoever reads it.
    """
    of_speaker = _roles(rows)
    trained_on = (row.text for row in rows if of_speaker.get(row.speaker, "train") == "train")
    texts = {text: number for number, text in enumerate(dict.fromkeys(trained_on))}
    of_sentence = {EVERY - 1: "test", EVERY // 2 - 1: "validation"}
    for split in of_speaker.values():
        of_sentence = {at: name for at, name in of_sentence.items() if name != split}
    return [
        of_speaker.get(row.speaker) or of_sentence.get(texts[row.text] % EVERY, "train")
        for row in rows
    ]


def _roles(rows: Sequence[Row]) -> dict[str, str]:
    """The speakers who are set aside as a whole, and for what."""
    counts: Counter[str] = Counter()
    established = []
    for row in rows:
        counts[row.speaker] += 1
        if counts[row.speaker] == FEW_TAKES:
            established.append(row.speaker)
    if len(established) < FEWEST_SPEAKERS:
        return {}
    of_five = {2: "test", 3: "validation"}
    numbered = enumerate(established)
    return {name: of_five[number % 5] for number, name in numbered if number % 5 in of_five}


# ── files ────────────────────────────────────────────────────────────────────────────────────


def speaker_name(given: str) -> str:
    """A name as it stands in the manifest.

    Raises:
        UserError: it cannot be a folder's.
    """
    name = " ".join(given.split())
    if not is_plain_name(name) or len(name) > LONGEST_NAME or name.startswith("."):
        raise UserError(
            f"speaker={given!r}: expected a name of up to {LONGEST_NAME} letters, without / and \\."
        )
    return name


def require_own(folder: Path) -> None:
    """See that `train` will find what is recorded there, and nothing else; writes nothing.

    Raises:
        UserError: something else lies there.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out={folder} is a file. Type out=FOLDER, for what is recorded.")
    others = [name for name in contents(folder) if Path(name).suffix.lower() in SUFFIXES]
    if others := sorted(name for name in others if name != MANIFEST):
        raise UserError(
            f"out={folder} has a manifest of its own, {others[0]}, and train would take that one. "
            "Type another out=FOLDER."
        )


def read_rows(path: Path) -> list[Row]:
    """The takes so far.

    Raises:
        UserError: a line is none of ours.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _row(path: Path, number: int, line: str) -> Row:
    try:
        values = json.loads(line)
        given = {key: values.pop(key) for key in KEYS}
        language, duration = values.pop("language", None), float(values.pop("duration", 0.0))
        warnings = tuple(map(str, values.pop("warnings", ())))
        if not all(isinstance(value, str) for value in given.values()):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}:{number} is no take of this program ({', '.join(KEYS)}). Mend the line, or "
            "type another out=FOLDER."
        ) from None
    return Row(**given, language=language, duration=duration, warnings=warnings, other=values)


def read_skipped(path: Path) -> list[tuple[str, str]]:
    """Speakers and sentences that they passed over."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.partition("\t") for line in lines)
    return [(speaker, text) for speaker, _, text in pairs if text]


def flac(samples: np.ndarray) -> bytes:
    """(samples,) float32 at 16 kHz as a FLAC file of 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, samples.clip(-1, 1), SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def training_command(program: str, folder: str, rows: Iterable[Row]) -> str:
    """What trains on it; a language that no row names has to be filled in."""
    given = " data.language=…" if any(row.language is None for row in rows) else ""
    name = plain_name(Path(folder).name)
    return f"{program} train model=small name={name} data.path={shlex.quote(folder)}{given}"
