"""Findings on records made by hand, where it is known what has to be found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from lora_whisper.data.dataset import Defaults, Row, Table, Utterances
from lora_whisper.data.quality import (
    contradicted,
    duplicates,
    inspect,
    over_window,
    rate_outliers,
    shared,
    totals,
)
from lora_whisper.data.quality_findings import MEANINGS, Finding
from lora_whisper.data.quality_measures import (
    RECORD,
    SOUND_PROBLEMS,
    Categories,
    Measured,
    TextRules,
)
from tests.configs import data_config
from tests.data.test_quality_measures import rules

__all__ = ["rules"]  # a fixture

WHOLE = {"seconds": 2.0, "loudest_dbfs": -10.0, "rms_dbfs": -20.0, "characters": 30, "language": 0}


def split(name: str, *rows: Mapping[str, Any], names: Categories | None = None) -> Measured:
    """A split with a record for each of `rows`, all else as in sound speech."""
    records = np.zeros(len(rows), RECORD)
    lines = []
    for index, row in enumerate(rows):
        values = WHOLE | {"fingerprint": hash((name, index)) % 2**63, "speaker": -1} | dict(row)
        text = values.pop("text", "some words")
        file, start, end = values.pop("slice", (f"/{name}/{index}.wav", None, None))
        for key, value in values.items():
            records[index][key] = value
        place = f"{name}.jsonl:{index + 1}"
        lines.append(Row(place, file, text, "en", None, start, end, None, None, name, "{}"))
    utterances = Utterances([Table.from_rows(lines)], Defaults("en", "transcribe"))
    languages = names or Categories()
    languages.number("sw")
    speakers, formats = Categories(), Categories()
    for speaker in ("ann", "ben", "eve"):
        speakers.number(speaker)
    formats.number("wav")
    return Measured(name, utterances, records, {}, languages, speakers, formats)


def found(finding: Finding) -> list[tuple[str, str]]:
    return [(row.row, row.detail) for row in finding.rows()]


def test_the_window_ends_at_a_sample() -> None:
    """As in training: half a sample more than 30 s is 30 s, one sample more is not."""
    seconds = [30.0, 30.0 + 0.4 / 16_000, 30.0 + 1 / 16_000, np.nan, 99.0]
    one = split("train", *({"seconds": value} for value in seconds))
    one.records["problem"][4] = SOUND_PROBLEMS.index("truncated")
    assert over_window(one.records, 30.0).tolist() == [False, False, True, False, False]


def test_duplicates_are_all_but_the_first() -> None:
    rows = [{"fingerprint": key, "text_key": key} for key in (7, 8, 7, 7)]
    rows[3] |= {"text_key": 9}
    rows += [{"fingerprint": 5, "loudest_dbfs": -120.0}] * 2  # silence
    rows += [{"fingerprint": 0, "problem": 1}] * 2  # nothing was decoded
    rows[0] |= {"text": "what was said"}
    assert found(duplicates({"train": split("train", *rows)})) == [
        ("train.jsonl:3", "sounds as train.jsonl:1 does"),
        ("train.jsonl:4", "sounds as train.jsonl:1 does, whose text is “what was said”"),
    ]


def test_the_same_sound_under_different_texts_comes_first(rules: TextRules) -> None:
    """Between validation and test as within a split; silence and equal texts are no finding."""
    silence = {"fingerprint": 5, "loudest_dbfs": -120.0}
    splits = {
        "train": split("train", *({"fingerprint": 7, "text_key": key} for key in (1, 1))),
        "validation": split(
            "validation", {"fingerprint": 2**63 + 1, "text_key": 3, "text": "moja"}
        ),
        "test": split(
            "test",
            {"fingerprint": 2**63 + 1, "text_key": 4, "text": "mbili"},
            {"fingerprint": 2**63 + 1, "text_key": 3, "text": "moja"},
            *(silence | {"text_key": key} for key in (8, 9)),
        ),
    }
    finding = contradicted(splits)
    assert finding.count == 1
    assert found(finding) == [
        ("validation.jsonl:1", "also in test, test.jsonl:1, as “mbili”"),
        ("test.jsonl:1", "also in validation, validation.jsonl:1, as “moja”"),
        ("test.jsonl:2", "also in test, test.jsonl:1, as “mbili”"),
    ]
    assert finding.unusable is not None
    unusable = {name: rows.tolist() for name, rows in finding.unusable.items()}
    assert unusable == {"train": [], "validation": [], "test": [0, 1]}
    findings = [each for each in inspect(splits, rules, 30.0) if each.count]
    assert findings[0].title == "The same sound under different texts"
    assert "Sound in two splits (validation and test 1)" in [each.title for each in findings]


def test_punctuation_and_capitals_contradict_nothing() -> None:
    texts = ["Hello, you!", "hello you", "Hello you."]
    rows = ({"fingerprint": 7, "text_key": key, "text": text} for key, text in enumerate(texts, 1))
    assert contradicted({"train": split("train", *rows)}).count == 0


def test_texts_are_shared_with_held_out_splits_only() -> None:
    """2**53 + 1 is no float: keys must not go through one."""
    big = 2**53
    splits = {
        "train": split("train", *({"text_key": key} for key in (1, 2, 2, 3, big, 0))),
        "validation": split("validation", *({"text_key": key} for key in (2, 4, 0))),
        "test": split("test", *({"text_key": key} for key in (5, 3, 4, 3, big + 1, 0))),
        "mix 1": split("mix 1", *({"text_key": key} for key in (1, 5))),
    }
    finding = shared(splits, "shared_texts", "text_key")
    assert finding.count == 4  # 2, 3, 4 and 5
    assert finding.more["pairs"] == {
        "train, validation": 1,
        "mix 1, validation": 0,
        "train, test": 1,
        "mix 1, test": 1,
        "validation, test": 1,
    }
    assert found(finding) == [
        ("train.jsonl:2", "also in validation, validation.jsonl:1"),
        ("train.jsonl:3", "also in validation, validation.jsonl:1"),
        ("train.jsonl:4", "also in test, test.jsonl:2"),
        ("validation.jsonl:2", "also in test, test.jsonl:3"),
        ("mix 1.jsonl:2", "also in test, test.jsonl:1"),
    ]


def test_a_shared_speaker_is_named_once() -> None:
    splits = {
        "train": split("train", *({"speaker": one} for one in (0, 1, 1, -1))),
        "test": split("test", *({"speaker": one} for one in (1, 2, -1))),
    }
    finding = shared(splits, "shared_speakers", "speaker")
    assert finding.count == 1
    assert found(finding) == [("train.jsonl:2", "speaker ben, also in test, test.jsonl:1")]


def test_slices_of_the_same_stretch_are_shared_audio(rules: TextRules) -> None:
    """By half of the shorter one, as `train` refuses them; otherwise sliced, they sound unlike."""
    slices = {"train": [(0.0, 2.0), (2.0, 4.0), (7.0, 9.0)], "test": [(0.1, 2.1), (3.9, 5.9)]}
    splits = {
        name: split(name, *({"slice": ("/talk.wav", *times)} for times in all_times))
        for name, all_times in slices.items()
    }
    (finding,) = [each for each in inspect(splits, rules, 30.0) if each.count]
    assert (finding.key, finding.count) == ("shared_audio", 1)
    assert found(finding) == [("train.jsonl:1", "test has a slice of the same stretch")]


def test_rates_far_from_what_a_language_has() -> None:
    generator = np.random.default_rng(0)
    usual = [{"characters": round(2 * rate)} for rate in generator.normal(15, 1.5, 200)]
    odd = [{"characters": 2}, {"characters": 60}, {"characters": 31}]
    names = Categories()
    for name in ("sw", "zh"):
        names.number(name)
    # A language of few utterances, for which 3 characters a second may be right.
    few = [{"characters": 6, "language": 1}] * 5 + [{"characters": 90, "language": 1}]
    one = split("train", *usual, *odd, *few, names=names)
    rows = found(rate_outliers({"train": one}))
    assert [row for row, _ in rows] == ["train.jsonl:201", "train.jsonl:202", "train.jsonl:209"]
    assert rows[0][1].startswith("1.0 characters a second; sw has 15, and ")
    assert rows[2][1].startswith("45.0 characters a second; zh has 3, and 0.5–40.0 is usual")


def test_without_any_sound_there_are_no_rates() -> None:
    one = split("train", {"problem": 1, "seconds": np.nan})
    assert rate_outliers({"train": one}).count == 0


@pytest.mark.parametrize(
    ("key", "row"),
    [
        ("unreadable", {"problem": 1}),
        ("truncated", {"problem": 2}),
        ("too_short", {"problem": 3}),
        ("over_window", {"seconds": 31.0, "characters": 400}),
        ("labels_over_limit", {"tokens": 65}),
        ("empty_texts", {"characters": 0}),
        ("clipped", {"clipped_share": 0.02}),
        ("silent", {"loudest_dbfs": -70.0}),
        ("mostly_silent", {"quiet_share": 0.6}),
        ("split_badly", {"is_spelled_in_bytes": True, "text": "ŋoma"}),
        ("digits", {"has_digits": True, "text": "14 19"}),
        ("mixed_scripts", {"has_mixed_scripts": True, "text": "P\u043elice"}),
        ("unknown_language", {"has_unknown_language": True}),
    ],
)
def test_each_finding_finds_its_row_and_no_other(
    rules: TextRules, key: str, row: dict[str, Any]
) -> None:
    one = split("train", {}, row, {})
    one.details[1] = "broken"
    findings = inspect({"train": one}, rules, 30.0)
    assert [finding.key for finding in findings] == list(MEANINGS)
    assert {finding.key: finding.count for finding in findings if finding.count} == {key: 1}
    (line,) = next(finding for finding in findings if finding.key == key).rows()
    assert (line.split, line.row, line.file) == ("train", "train.jsonl:2", "/train/1.wav")


def test_characters_are_named_with_their_number_of_texts(rules: TextRules) -> None:
    rows = [{"is_spelled_in_bytes": True, "text": text} for text in ("ŋŋ é", "ŋ")]
    (finding,) = [
        each for each in inspect({"train": split("train", *rows)}, rules, 30.0) if each.count
    ]
    assert finding.more["characters"] == {"ŋ": 2, "é": 1}


def test_totals() -> None:
    rows = [{"seconds": 1800.0, "rate": 48_000, "speaker": 1}] * 2
    rows += [{"seconds": np.nan, "problem": 1, "speaker": -1, "language": -1, "format": -1}]
    assert totals(split("train", *rows)) == {
        "utterances": 3,
        "hours": 1.0,
        "speakers": 1,
        "speaker_unknown": 1,
        "languages": {
            "sw": {"utterances": 2, "hours": 1.0},
            "unknown": {"utterances": 1, "hours": 0.0},
        },
        "rates": {48_000: 2},
        "formats": {"wav": 2, "unnamed": 1},
    }


@pytest.mark.parametrize(("language", "types"), [("sw", False), ("de", True)])
def test_numbers_are_spelled_by_program_only_where_it_can(
    rules: TextRules, language: str, types: bool
) -> None:
    pytest.importorskip("num2words")
    names = Categories()
    names.number(language)
    measured = {"train": split("train", {"has_digits": True, "text": "14"}, names=names)}
    found = next(one for one in inspect(measured, rules, 30.0) if one.key == "digits")
    assert ("data.clean=[digits]" in found.advice) == types


@pytest.mark.parametrize(
    ("key", "typed"),
    [
        ("over_window", {"long_audio": "split"}),
        ("digits", {"clean": ("digits",)}),
        ("no_transcript", {"clean": ("annotations",)}),
    ],
)
def test_what_is_typed_already_is_not_advised(
    rules: TextRules, key: str, typed: dict[str, Any]
) -> None:
    """But said to be done."""
    setting = f"data.{next(iter(typed))}="
    measured = {"train": split("train", {"seconds": 1.0})}
    for data, is_done in ((data_config(), False), (data_config(**typed), True)):
        found = next(one for one in inspect(measured, rules, 30.0, data) if one.key == key)
        assert setting in found.advice
        assert (f"({setting}" in found.advice) == is_done
