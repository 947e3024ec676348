"""Toy data sets as the hub has them: Parquet files with the audio inside, in a folder."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from datasets import Audio, ClassLabel, Features, Value

from tests.toy_speech import tone

FLEURS = Features(  # as its card says, less what nobody reads
    {
        "id": Value("int32"),
        "num_samples": Value("int32"),
        "path": Value("string"),
        "audio": Audio(sampling_rate=16_000),
        "transcription": Value("string"),
        "raw_transcription": Value("string"),
        "gender": ClassLabel(names=["male", "female", "other"]),
        "lang_id": ClassLabel(names=["af_za", "cmn_hans_cn", "sw_ke"]),
        "language": Value("string"),
    }
)
VOXPOPULI = Features(
    {
        "audio_id": Value("string"),
        "language": ClassLabel(names=["en", "de", "en_accented"]),
        "audio": Audio(sampling_rate=16_000),
        "raw_text": Value("string"),
        "normalized_text": Value("string"),
        "gender": Value("string"),
        "speaker_id": Value("string"),
        "is_gold_transcript": Value("bool"),
        "accent": Value("string"),
    }
)
PLAIN = Features({"audio": Audio(sampling_rate=16_000), "text": Value("string")})


def encoded(seconds: float, format: str = "FLAC", rate: int = 16_000) -> bytes:
    """A tone as a sound file, higher the longer it is."""
    buffer = io.BytesIO()
    kind = {"format": "OGG", "subtype": "OPUS"} if format == "OPUS" else {"format": format}
    soundfile.write(buffer, tone(seconds, rate, frequency=300 + 100 * seconds), rate, **kind)
    return buffer.getvalue()


def clip(number: int, seconds: float, format: str = "FLAC") -> dict[str, Any]:
    """What an Audio column holds."""
    return {"bytes": encoded(seconds, format), "path": f"{number}.{format.lower()}"}


def write_parquet(
    file: Path, features: Features, columns: Mapping[str, Sequence[Any]], group_rows: int = 100
) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(columns), schema=features.arrow_schema)
    pq.write_table(table, file, row_group_size=group_rows)
    return file


def write_plain(
    folder: Path, split: str, seconds: Sequence[float], files: int = 1, first: int = 0
) -> None:
    """Clips of these lengths with texts that tell them apart, in one or several files."""
    numbers = range(first, first + len(seconds))
    for file in range(files):
        own = [number for number in numbers if number % files == file]
        columns = {
            "audio": [clip(number, seconds[number - first]) for number in own],
            "text": [f"number {number}" for number in own],
        }
        name = f"{split}-{file:05d}-of-{files:05d}.parquet"
        write_parquet(folder / "data" / name, PLAIN, columns)


def write_fleurs(folder: Path, config: str, rows: Mapping[str, int]) -> Path:
    """The layout of google/fleurs: parquet-data/CONFIG/SPLIT-00000-of-00001.parquet."""
    for split, count in rows.items():
        columns = {
            "id": range(count),
            "num_samples": [16_000] * count,
            "path": [f"{number}.wav" for number in range(count)],
            "audio": [clip(number, 0.5 + number / 10, "WAV") for number in range(count)],
            "transcription": [f"habari ya {split} {number}" for number in range(count)],
            "raw_transcription": [f"Habari ya {split} {number}." for number in range(count)],
            "gender": [number % 2 for number in range(count)],
            "lang_id": [FLEURS["lang_id"].names.index(config)] * count,
            "language": ["Swahili" if config == "sw_ke" else "other"] * count,
        }
        file = folder / "parquet-data" / config / f"{split}-00000-of-00001.parquet"
        write_parquet(file, FLEURS, columns)
    return folder


def write_card(folder: Path, splits: Mapping[str, Sequence[str]], pattern: str) -> None:
    """README.md with configurations as the hub writes them; `pattern` has {config} and {split}."""
    lines = ["---", "configs:"]
    for config, names in splits.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split in names:
            path = pattern.format(config=config, split=split)
            lines += [f"  - split: {split}", f"    path: {path}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
