"""What was decoded before is taken again, and only that."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lora_whisper.data.audio import EncodedAudio
from lora_whisper.data.windows import BadAudio
from lora_whisper.evaluation.decoding.cache import (
    read_transcriptions,
    transcriptions_key,
    write_transcriptions,
)
from lora_whisper.evaluation.decoding.long_form import Segment
from lora_whisper.evaluation.decoding.transcribe import Transcriptions
from lora_whisper.evaluation.provenance import decoding_of
from tests.evaluation.toy_decoder import GREEDY, utterance
from tests.toy_speech import write_clip

FOUND = Transcriptions(
    texts=("größe\u2028zwei", ""),
    seconds=(1.5, 0.0),
    segments=((Segment(0.0, 1.5, "größe"),), ()),
    bad=(BadAudio("a.wav:2", "no such file"),),
    decode_seconds=0.25,
)


def key(clip: Path, condition: str = "clean", seed: int = 1, model: str = "m", **changes) -> str:
    settings = dataclasses.replace(
        GREEDY, **{name: changes.pop(name) for name in [*changes] if hasattr(GREEDY, name)}
    )
    decoding = decoding_of(settings, seed, condition)
    return transcriptions_key(model, [utterance(clip, 1.0, **changes)], decoding)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    name = key(write_clip(tmp_path / "a.wav", 1.0))
    assert read_transcriptions(name) is None
    write_transcriptions(name, FOUND)
    assert read_transcriptions(name) == FOUND


def test_what_may_decode_another_time_is_not_kept(tmp_path: Path) -> None:
    name = key(write_clip(tmp_path / "a.wav", 1.0))
    late = BadAudio("a.wav:2", "took its decoder longer than 10 s", may_pass=True)
    write_transcriptions(name, dataclasses.replace(FOUND, bad=(*FOUND.bad, late)))
    assert read_transcriptions(name) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"texts": []}'])
def test_a_damaged_file_is_as_none(content: str, tmp_path: Path) -> None:
    name = key(write_clip(tmp_path / "a.wav", 1.0))
    write_transcriptions(name, FOUND)
    (path,) = Path(__import__("os").environ["LORA_WHISPER_CACHE"]).rglob(f"{name}.json")
    path.write_text(content)
    assert read_transcriptions(name) is None


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"condition": "noise-5db"},
        {"beams": 2},
        {"timestamps": True},
        {"previous_text": True},
        {"padding": "log-mel"},
        {"temperature_fallback": True},
        {"language": "zh"},
        {"task": "translate"},
        {"language_token": "de"},
        {"start_seconds": 0.2},
        {"row": "a.wav:2"},
    ],
)
def test_each_thing_that_decides_on_a_text_is_in_the_key(change: dict, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.wav", 1.0)
    assert key(clip, **change) != key(clip)


@pytest.mark.parametrize("change", [{"batch_size": 7}, {"words": "words.txt"}, {"text": "hi"}])
def test_what_decides_on_none_is_not(change: dict, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.wav", 1.0)
    assert key(clip, **change) == key(clip)


def test_the_seed_counts_where_something_is_drawn(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.wav", 1.0)
    assert key(clip, seed=1) == key(clip, seed=2)
    for drawn in ({"condition": "noise-5db"}, {"temperature_fallback": True}):
        assert key(clip, seed=1, **drawn) != key(clip, seed=2, **drawn)


def test_audio_that_changed_is_other_audio(tmp_path: Path) -> None:
    first = key(write_clip(tmp_path / "a.wav", 1.0))
    assert key(write_clip(tmp_path / "a.wav", 1.0, frequency=550.0)) != first
    inside = [EncodedAudio("set train:1", lambda data=data: data) for data in (b"a", b"a", b"b")]
    names = [
        transcriptions_key("m", [dataclasses.replace(utterance(Path("x"), 1.0), audio=one)], {})
        for one in inside
    ]
    assert names[0] == names[1] != names[2]
