"""Columns of the manifest first, then what is known without one; no audio is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_whisper.data.dataset import Utterance
from lora_whisper.errors import UserError
from lora_whisper.evaluation.groups import group_labels
from tests.evaluation.toy_listener import utterance


def row(seconds: float = 1.0, **values: object) -> Utterance:
    return utterance(Path("not-there.wav"), seconds, **values)


def test_a_column_of_the_manifest() -> None:
    rows = [row(columns={"voice": "heard"}), row(columns={"voice": 7}), row()]
    rows += [row(columns={"voice": None}), row(columns={"voice": ""}), row(columns={"voice": 0})]
    assert group_labels(rows, ["voice"]) == {"voice": ["heard", "7", "none", "none", "none", "0"]}


def test_several_columns_and_none() -> None:
    rows = [row(columns={"voice": "f", "accent": "x"}), row(columns={"voice": "m"})]
    found = group_labels(rows, ["accent", "voice"])
    assert found == {"accent": ["x", "none"], "voice": ["f", "m"]}
    assert group_labels(rows, []) == {}


@pytest.mark.parametrize(
    ("seconds", "label"),
    [
        *((0.4, "up to 2 s"), (2.0, "up to 2 s"), (2.1, "2 to 5 s"), (10.0, "5 to 10 s")),
        *((12.0, "10 to 20 s"), (30.0, "20 to 30 s"), (30.1, "over 30 s"), (0.0, "none")),
    ],
)
def test_durations_come_in_ranges(seconds: float, label: str) -> None:
    assert group_labels([row(seconds), row(4.0)], ["duration"])["duration"] == [label, "2 to 5 s"]


def test_speakers_and_languages_by_whatever_name_the_manifest_has() -> None:
    rows = [row(speaker="amina", columns={"client_id": "amina"}), row(language="sw")]
    found = group_labels(rows, ["speaker", "language"])
    assert found == {"speaker": ["amina", "none"], "language": ["en", "sw"]}


def test_a_real_column_goes_first() -> None:
    rows = [row(language="sw", columns={"language": "Swahili", "duration": "long"})]
    found = group_labels(rows, ["language", "duration"])
    assert found == {"language": ["Swahili"], "duration": ["long"]}


@pytest.mark.parametrize("given", [3.2, "3.2"])
def test_a_column_of_seconds_is_no_column_of_groups(given: object) -> None:
    """NeMo's manifests have one; every utterance would be its own group."""
    rows = [row(3.2, columns={"duration": given}), row(7.0, columns={})]
    assert group_labels(rows, ["duration"]) == {"duration": ["2 to 5 s", "5 to 10 s"]}


def test_a_column_that_no_row_has() -> None:
    rows = [row(columns={"voice": 1, "text": "one"})]
    with pytest.raises(UserError, match=r"evaluation\.group_by=accent") as raised:
        group_labels(rows, ["voice", "accent"])
    assert "they have text, voice, duration, language" in str(raised.value)
    assert "speaker" not in str(raised.value)  # nobody is named
    with pytest.raises(UserError, match=r"evaluation\.group_by=speaker"):
        group_labels(rows, ["speaker"])
