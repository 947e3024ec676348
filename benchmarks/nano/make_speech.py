"""Writes the embedded speech: a dictation to adapt to, and the base's own domain.

    python -m benchmarks.nano.make_speech lora_whisper/quickstart/speech

Ogg Opus files of about 16 kbit/s and a manifest for each set. A row says `voices: heard` where
the model in question knows the voice: in `general`, the base; in `dictation/test`, whoever heard
dictation/train.
"""

import argparse
import json
from pathlib import Path
from random import Random

from benchmarks.nano.dictation import DRUGS
from benchmarks.nano.grammar import Phrase
from benchmarks.nano.synthesis import (
    BASE_VOICES,
    DICTATION_UNHEARD_VOICES,
    DICTATION_VOICES,
    SAMPLE_RATE_HZ,
    UNHEARD_VOICES,
    draw_base_voice,
    read_out,
    write_opus,
)
from benchmarks.nano.texts import dictation_sentences, general_sentences


def write_clip(path: Path, sentence: Phrase, voice: str, seed: int) -> float:
    """Synthesises one sentence; returns its seconds."""
    samples = read_out(sentence.spoken, voice, Random(seed))
    write_opus(path, samples)
    return round(len(samples) / SAMPLE_RATE_HZ, 3)


def write_set(
    manifest: Path,
    sentences: list[Phrase],
    voices: list[str],
    seed: int,
    known: frozenset[str] | None,
) -> None:
    """One clip for each sentence and voice; `known` voices are marked heard, the others unheard."""
    rows = []
    for index, (sentence, voice) in enumerate(zip(sentences, voices, strict=True)):
        audio = Path(manifest.stem) / f"{index:03d}.opus"
        seconds = write_clip(manifest.parent / audio, sentence, voice, seed + index)
        row: dict[str, object] = {
            "audio": audio.as_posix(),
            "text": sentence.written,
            "language": "en",
        }
        row |= {"speaker": voice, "duration": seconds}
        if known is not None:
            row["voices"] = "heard" if voice in known else "unheard"
        rows.append(row)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    manifest.write_text(lines, encoding="utf-8")


def in_turn(voices: tuple[str, ...], count: int) -> list[str]:
    return [voices[index % len(voices)] for index in range(count)]


def write_dictation(folder: Path) -> None:
    """Half of the test voices and of the test utterances are not in train."""
    folder.mkdir(parents=True, exist_ok=True)
    sentences, known = dictation_sentences(), frozenset(DICTATION_VOICES)
    for seed, part in ((51_000, "train"), (52_000, "validation")):
        voices = in_turn(DICTATION_VOICES, len(sentences[part]))
        write_set(folder / f"{part}.jsonl", sentences[part], voices, seed, None)
    half = len(sentences["test"]) // 2
    voices = in_turn(DICTATION_VOICES, half) + in_turn(DICTATION_UNHEARD_VOICES, half)
    write_set(folder / "test.jsonl", sentences["test"], voices, 53_000, known)
    (folder / "drugs.txt").write_text("".join(f"{drug}\n" for drug in DRUGS), encoding="utf-8")


def write_general(folder: Path) -> None:
    """`general/test`, half of it in voices that the base knows, and `rehearsal/train`, all."""
    sentences, random = general_sentences(), Random(54)
    half = len(sentences["test"]) // 2
    heard = [draw_base_voice(random) for _ in range(half)]
    voices = heard + in_turn(UNHEARD_VOICES, half)
    (folder / "general").mkdir(parents=True, exist_ok=True)
    manifest = folder / "general" / "test.jsonl"
    write_set(manifest, sentences["test"], voices, 55_000, frozenset(BASE_VOICES))
    (folder / "rehearsal").mkdir(parents=True, exist_ok=True)
    voices = [draw_base_voice(random) for _ in sentences["rehearsal"]]
    write_set(folder / "rehearsal" / "train.jsonl", sentences["rehearsal"], voices, 56_000, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    write_dictation(folder / "dictation")
    write_general(folder)


if __name__ == "__main__":
    main()
