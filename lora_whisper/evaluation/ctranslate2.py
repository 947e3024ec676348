"""Placeholder until the recognizer is merged."""

from pathlib import Path


def is_ctranslate2(folder: Path) -> bool:
    return (folder / "model.bin").is_file()
