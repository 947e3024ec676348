"""What `check labels=true` finds of errors that were planted, and what it finds unasked.

    python -m benchmarks.label_doctor MODEL MANIFEST --language sw --split train

Plants one kind of error at a time, in 2, 5 and 10 % of the rows, with three seeds, and listens. In
a seed, the rows of a smaller share are among those of a larger one, and what a kind does to a row
is the same wherever it is planted: a clip is decoded once, whatever its transcript is, and what was
said of a clip and its transcript is kept (`labels/evidence.py`). So 27 plantings of a kind take
hardly more than the largest of each seed.

Counted are rows. Recall: of the planted ones, those with a finding of the kind that was planted; as
`any`, those with whatever finding. Precision: of the rows with a finding of that kind, those that
were planted; what is found in rows that nobody touched counts as false, also where real speech has
errors of its own. `hard` is no error but noise over speech, of which nothing is to be found: its
`any` is a rate of false alarms. Results go to benchmarks/results/label_doctor.json, or to
--result NAME, after each planting.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from benchmarks.results import write_result
from lora_whisper.config import CheckConfig, DataConfig, LabelsConfig, ModelConfig
from lora_whisper.data import quality_measures
from lora_whisper.data.acoustics import generated_noise
from lora_whisper.data.audio import read_audio
from lora_whisper.data.dataset import Utterance
from lora_whisper.data.quality_measures import (
    Measured,
    SoundMeasures,
    TextRules,
    measure,
    measure_sound,
)
from lora_whisper.data.sources import read_split
from lora_whisper.evaluation.loading import decoder_of
from lora_whisper.evaluation.models import trained
from lora_whisper.labels import comparison, findings, folds
from lora_whisper.labels.examination import clips_of, examine, kept_of
from lora_whisper.labels.listening import FRAME_SAMPLES, Clip, Heard, Listener
from lora_whisper.model.base import read_base
from lora_whisper.model.device import new_accelerator
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.options import composed

SHARES = (0.02, 0.05, 0.1)
SEEDS = (0, 1, 2)
CUT_SECONDS = 0.35  # into speech
SPEECH_DB, SPEECH_FRAMES = 20.0, 20  # below a clip's loudest tenth; of 10 ms
MISSING_SHARE = 0.3  # of a text's words
FEWEST_MISSING = 2
ADDED_WORDS = 5
STRANGE = (  # in a language that neither set speaks
    "Der alte Mann saß jeden Morgen am Fenster und wartete auf die Post.",
    "Wir müssen den Termin leider auf die nächste Woche verschieben.",
    "Im Garten blühen schon die ersten Rosen, obwohl es noch kalt ist.",
    "Die Kinder laufen nach der Schule schnell zum Fluss hinunter.",
    "Hast du gestern den Schlüssel auf dem Küchentisch gesehen?",
    "Der Zug nach München fährt heute von einem anderen Gleis ab.",
    "Ich habe das Buch zweimal gelesen und verstehe es immer noch nicht.",
    "Am Abend wird es windig, und in den Bergen kann es schneien.",
    "Meine Großmutter backt jeden Sonntag einen Kuchen mit Äpfeln.",
    "Bitte schließen Sie die Tür, wenn Sie das Zimmer verlassen.",
)
# What is planted, and the finding that it should be.
KINDS: Mapping[str, str] = {
    "swapped": "other_clip",
    "unrelated": "other_clip",
    "noise": "text_without_speech",
    "misses_beginning": "speech_without_text",
    "misses_middle": "speech_without_text",
    "misses_end": "speech_without_text",
    "says_more": "text_without_speech",
    "language": "wrong_language",
    "cut_beginning": "cut_ends",
    "cut_end": "cut_ends",
    "hard": "",  # noise over speech whose transcript is right: nothing is to be found
}
HARD_DB = 5.0  # of speech over noise


@dataclass(frozen=True)
class Row:
    """A row of the manifest that is written."""

    audio: str
    text: str
    language: str
    speaker: str | None
    start: float | None = None
    end: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("manifest")
    parser.add_argument("--language", required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument(
        "--labels",
        type=yaml.safe_load,
        help="of check, such as '{folds: 2}'; else the base listens",
    )
    parser.add_argument("--clips", type=int, help="the first ones; else all")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--folder", type=Path, default=Path("outputs/label-doctor"))
    parser.add_argument("--result", default="label_doctor")
    arguments = parser.parse_args()
    rows = read_rows(arguments.manifest, arguments.split, arguments.language, arguments.clips)
    doctor = Doctor(arguments.model, arguments.language, arguments.folder, arguments.labels)
    command = typed("label_doctor")
    clean = doctor.found_in(rows)
    figures: dict[str, Any] = {"rows": len(rows), "clean": counts(clean), "planted": []}
    print("clean", counts(clean), flush=True)
    for kind in arguments.kinds:
        for share in arguments.shares:
            outcomes = []
            for seed in arguments.seeds:
                chosen = chosen_rows(kind, rows, share, seed)
                found = doctor.found_in(planted(kind, rows, chosen, arguments.folder))
                outcomes.append(judged(found, set(chosen), KINDS[kind]))
            line = {"kind": kind, "share": share, **means(outcomes)}
            figures["planted"].append(line)
            print(json.dumps(line), flush=True)
            write_result(arguments.result, command, figures)


def typed(name: str) -> str:
    """The command, without the folders of whoever typed it."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return " ".join([f"python -m benchmarks.{name}", *words])


def read_rows(manifest: str, split: str, language: str, count: int | None) -> list[Row]:
    config = DataConfig(path=manifest, train=split, language=language)
    if manifest.endswith(".jsonl") and split == "train":
        config = DataConfig(train=manifest, language=language)
    utterances = read_split(config, "train")
    assert utterances is not None
    rows = [row_of(utterance) for utterance in utterances[:count]]
    return [row for row in rows if row.text]


def row_of(utterance: Utterance) -> Row:
    times = utterance.start_seconds, utterance.end_seconds
    speaker, language = utterance.speaker, utterance.language or "en"
    return Row(str(utterance.audio), utterance.text, language, speaker, *times)


# ── listening ────────────────────────────────────────────────────────────────────────────────


class Remembering(Listener):
    """Keeps what the encoder made of each clip, in 16 bits: the same ones come again and again."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self._memory: dict[int, Heard | None] = {}

    def encoded(self, clip: Clip) -> Heard | None:
        if clip.fingerprint not in self._memory:
            one = super().encoded(clip)
            half = one and dataclasses.replace(one, encoded=one.encoded.half())
            self._memory[clip.fingerprint] = half
        one = self._memory[clip.fingerprint]
        return one and dataclasses.replace(one, clip=clip, encoded=one.encoded.float())


SOUNDS: dict[tuple[object, ...], SoundMeasures] = {}


def remembered_sound(utterance: Utterance) -> SoundMeasures:
    place = (utterance.audio, utterance.start_seconds, utterance.end_seconds)
    if place not in SOUNDS:
        SOUNDS[place] = measure_sound(utterance)
    return SOUNDS[place]


class Doctor:
    """A base in memory, which listens to one planting after the other."""

    def __init__(
        self, model: str, language: str, folder: Path, labels: Mapping[str, Any] | None = None
    ):
        self.folder, self.language = folder, language
        is_folder = Path(model).is_dir()
        chosen = {"checkpoint": model} if is_folder else composed({"model": model})["model"]
        self.model = ModelConfig(**chosen)
        self.base = read_base(self.model)
        self.device = new_accelerator("auto").device
        config = CheckConfig(
            name="doctor",
            model=self.model,
            data=DataConfig(train="none", language=language),
            labels=LabelsConfig(**labels) if labels else True,
        )
        self.config = config if labels else None  # as `check` listens, each time from the beginning
        self.entry = trained(folds.training_config(config, LabelsConfig()), "base", None)
        self._open = folds.opened(self.entry, self.device)
        decoder = decoder_of(self._open.__enter__(), self.base)
        self.listener = Remembering(decoder, kept_of(self.entry, self.device))
        quality_measures.measure_sounds = functools.partial(map, remembered_sound)

    def found_in(self, rows: Sequence[Row]) -> list[findings.LabelFinding]:
        measured = {"train": self.measured(rows)}
        if self.config is not None:
            return list(examine(self.config, self.base, measured).findings)
        clips, _ = clips_of(self.base, measured)
        self.listener.listen(clips, clips)
        pairs = [(clip, self.listener.kept.evidence(clip.pair_key)) for clip in clips]
        known = [(clip, one) for clip, one in pairs if one is not None]
        heard = comparison.compare([clip for clip, _ in known], [one for _, one in known])
        fits = {
            findings.pair_of(*pair): self.listener.fit(*pair) for pair in findings.wanted(heard)
        }
        return findings.find(heard, fits)

    def measured(self, rows: Sequence[Row]) -> Measured:
        lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) for row in rows]
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha1("\n".join(lines).encode()).hexdigest()[:12]
        manifest = self.folder / f"{name}.jsonl"
        manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
        utterances = read_split(DataConfig(train=str(manifest), language=self.language), "train")
        assert utterances is not None
        rules = TextRules(self.base.processor.tokenizer, self.base.special_tokens)
        return measure({"train": utterances}, rules)["train"]


# ── planting ─────────────────────────────────────────────────────────────────────────────────


def chosen_rows(kind: str, rows: Sequence[Row], share: float, seed: int) -> list[int]:
    """The same ones for each kind, and among those of a larger share; two at the least."""
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    if kind.startswith("misses"):
        order = [row for row in order if len(rows[row].text.split()) >= 2 * FEWEST_MISSING]
    return sorted(order[: max(2, round(share * len(rows)))])


def planted(kind: str, rows: Sequence[Row], chosen: Sequence[int], folder: Path) -> list[Row]:
    """The rows, with errors of this kind in those that were chosen."""
    found = list(rows)
    if kind == "swapped":
        for row, other in zip(chosen, [*chosen[1:], chosen[0]], strict=True):
            found[row] = dataclasses.replace(rows[row], text=rows[other].text)
        return found
    if kind == "unrelated":
        return unrelated(rows, chosen)
    for row in chosen:
        found[row] = PLANTS[kind](rows, row, folder)
    return found


def unrelated(rows: Sequence[Row], chosen: Sequence[int]) -> list[Row]:
    """Transcripts of clips that are not in the set: their own rows have none, and are not heard."""
    found, others = list(rows), [row for row in range(len(rows)) if row not in chosen]
    for place, row in enumerate(chosen):
        other = others[(place * 7 + row) % len(others)]
        found[row] = dataclasses.replace(rows[row], text=rows[other].text)
        found[other] = dataclasses.replace(found[other], text="")
    return found


def noise(rows: Sequence[Row], row: int, folder: Path) -> Row:
    generator = np.random.default_rng(row)
    samples = generated_noise("pink", len(sound(rows[row])), generator)
    return with_sound(rows[row], samples, folder / f"noise-{row}.wav")


def hard(rows: Sequence[Row], row: int, folder: Path) -> Row:
    samples = sound(rows[row])
    rustle = generated_noise("pink", len(samples), np.random.default_rng(row))
    level = np.sqrt(np.mean(samples**2) / np.mean(rustle**2)) * 10 ** (-HARD_DB / 20)
    mixed = samples + level * rustle
    mixed /= max(1.0, float(np.abs(mixed).max()))
    return with_sound(rows[row], mixed, folder / f"hard-{row}.wav")


def misses(place: str) -> Callable[[Sequence[Row], int, Path], Row]:
    def plant(rows: Sequence[Row], row: int, folder: Path) -> Row:
        words = rows[row].text.split()
        count = max(FEWEST_MISSING, round(MISSING_SHARE * len(words)))
        last = len(words) - count
        first = {"beginning": 0, "end": last, "middle": max(1, last // 2)}[place]
        kept = [*words[:first], *words[first + count :]]
        return dataclasses.replace(rows[row], text=" ".join(kept))

    return plant


def says_more(rows: Sequence[Row], row: int, folder: Path) -> Row:
    """Words of another transcript, before or behind its own."""
    words = rows[(row + 1) % len(rows)].text.split()[:ADDED_WORDS]
    parts = [rows[row].text, " ".join(words)]
    return dataclasses.replace(rows[row], text=" ".join(parts if row % 2 else parts[::-1]))


def language(rows: Sequence[Row], row: int, folder: Path) -> Row:
    return dataclasses.replace(rows[row], text=STRANGE[row % len(STRANGE)])


def cut(side: str) -> Callable[[Sequence[Row], int, Path], Row]:
    def plant(rows: Sequence[Row], row: int, folder: Path) -> Row:
        samples = sound(rows[row])
        gone = round(CUT_SECONDS * SAMPLING_RATE)
        if side == "beginning":
            kept = samples[speech_begins(samples) + gone :]
        else:
            kept = samples[: len(samples) - speech_begins(samples[::-1]) - gone]
        return with_sound(rows[row], kept, folder / f"cut-{side}-{row}.wav")

    return plant


def speech_begins(samples: np.ndarray) -> int:
    """The sample at which speech begins, and not a click: most of the next 0.2 s is loud."""
    frames = len(samples) // FRAME_SAMPLES
    power = np.square(samples[: frames * FRAME_SAMPLES].reshape(frames, -1)).mean(axis=1)
    loud = power > np.percentile(power, 90) * 10 ** (-SPEECH_DB / 10)
    lasting = np.convolve(loud, np.ones(SPEECH_FRAMES), "valid") > 0.75 * SPEECH_FRAMES
    starts = np.flatnonzero(lasting & loud[: len(lasting)])
    return int(starts[0]) * FRAME_SAMPLES if len(starts) else 0


PLANTS: Mapping[str, Callable[[Sequence[Row], int, Path], Row]] = {
    "noise": noise,
    "misses_beginning": misses("beginning"),
    "misses_middle": misses("middle"),
    "misses_end": misses("end"),
    "says_more": says_more,
    "language": language,
    "cut_beginning": cut("beginning"),
    "cut_end": cut("end"),
    "hard": hard,
}


def sound(row: Row) -> np.ndarray:
    return read_audio(Path(row.audio), row.start, row.end)


def with_sound(row: Row, samples: np.ndarray, path: Path) -> Row:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, SAMPLING_RATE)
    return dataclasses.replace(row, audio=str(path.absolute()), start=None, end=None)


# ── judging ──────────────────────────────────────────────────────────────────────────────────


def counts(found: Sequence[findings.LabelFinding]) -> dict[str, int]:
    """Rows with each kind of finding."""
    rows = {(one.kind, one.clip.number) for one in found}
    kinds = [kind for kind, _ in rows]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def judged(
    found: Sequence[findings.LabelFinding], chosen: set[int], expected: str
) -> dict[str, float]:
    """Rows are counted."""
    of_kind = {one.clip.number for one in found if one.kind == expected}
    anything = {one.clip.number for one in found}
    named = [
        one for one in found if one.clip.number in chosen and one.text_of and one.fits is not None
    ]
    return {
        "planted": len(chosen),
        "found": len(of_kind & chosen),
        "found_any": len(anything & chosen),
        "false": len(of_kind - chosen),
        "false_any": len(anything - chosen),
        "named": len({one.clip.number for one in named}),
    }


def means(outcomes: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Over seeds: their counts added up, and the shares of all of them together."""
    total = {key: sum(one[key] for one in outcomes) for key in outcomes[0]}
    recalls = [one["found"] / one["planted"] for one in outcomes]
    return {
        **total,
        "recall": round(total["found"] / total["planted"], 3),
        "recall_any": round(total["found_any"] / total["planted"], 3),
        "precision": round(total["found"] / max(total["found"] + total["false"], 1), 3),
        "lowest_recall": round(min(recalls), 3),
        "mean_false": round(statistics.mean(one["false"] for one in outcomes), 2),
    }


if __name__ == "__main__":
    main()
