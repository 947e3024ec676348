"""The decoding benchmark runs, with the embedded nano; what it measures is not looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import decoding
from benchmarks.decoding import compared, measured, ours, read_clips
from lora_whisper.model.tokenizer import text_tokens
from tests.evaluation.toy_decoder import GENERAL, general_speech, nano


def manifest(folder: Path) -> Path:
    rows = [
        {
            "file_name": str(GENERAL / one.row),
            "transcription": one.text,
            "language": "en",
            "duration": one.duration_seconds,
        }
        for one in general_speech(5)
    ]
    rows.append(rows[0] | {"duration": 30.5})
    path = folder / "metadata.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_all_sides_give_the_same_texts_of_the_references_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hearing = nano()
    tokenizer = hearing.processor.tokenizer
    clips = read_clips(manifest(tmp_path), hearing.processor, count=10)
    assert [clip.utterance.text for clip in clips] == [one.text for one in general_speech(5)]
    monkeypatch.setattr(decoding, "THREADS", 1)
    monkeypatch.setattr(decoding, "PIPELINE_BATCHES", (2,))
    figures = measured(hearing.model, hearing.processor, clips, chunk=3)
    assert figures["different_texts"] == 0
    assert all(len(seconds) == 2 for seconds in figures["seconds"].values())
    texts = ours(hearing.model, hearing.processor)(clips)
    for clip, text in zip(clips, texts, strict=True):
        assert len(text_tokens(tokenizer, text, "en")) == pytest.approx(clip.text_tokens, abs=2)


def test_texts_that_differ_are_counted(tmp_path: Path) -> None:
    clips = read_clips(manifest(tmp_path), nano().processor, count=4)
    sides = {
        "plain": lambda part: [clip.utterance.text for clip in part],
        "pipeline": lambda part: [clip.utterance.text for clip in part],
        "ours": lambda part: [clip.utterance.text.replace("They", "We") for clip in part],
    }
    assert compared(sides, clips, chunk=2)["different_texts"] == 1
