"""The plots of the page: every speaker has a bar of their own, and names are taken as they are."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from lora_whisper.data.quality import settings
from lora_whisper.data.quality_measures import Categories
from lora_whisper.reports.data_check import SHOWN_BARS, figures, limits
from tests.data.test_quality import split

pytestmark = pytest.mark.drawn

TEXT = "{http://www.w3.org/2000/svg}text"


def plots(names: list[str]) -> dict[str, list[str]]:
    """Caption → all letters of a plot, for a split with one utterance of each speaker."""
    one = split("train", *({"speaker": number} for number in range(len(names))))
    speakers = Categories()
    for name in names:
        speakers.number(name)
    svgs = dict(figures({"train": replace(one, speakers=speakers)}, 30.0))
    return {
        caption: [
            "".join(text.itertext()).strip() for text in ElementTree.fromstring(svg).iter(TEXT)
        ]
        for caption, svg in svgs.items()
    }


def test_names_alike_have_a_bar_each() -> None:
    shown = plots([f"somebody {number} of a long name" for number in range(3)])["Speakers"]
    assert shown.count("somebod…ong name") == 3


def test_names_are_neither_formulas_nor_tags() -> None:
    assert {"$x_1$", "<b>&amp;", "እ"} <= set(plots(["$x_1$", "<b>&amp;", "እ"])["Speakers"])


def test_the_rest_of_many_speakers_is_counted() -> None:
    shown = plots([f"s{number}" for number in range(SHOWN_BARS + 5)])["Speakers"]
    assert "minutes (and 5 more speakers)" in shown


def test_what_is_unknown_is_not_drawn() -> None:
    one = split("train", {"problem": 1, "seconds": float("nan"), "language": -1})
    one.records["rms_dbfs"] = float("nan")
    empty = replace(one, languages=Categories(), speakers=Categories())
    assert figures({"train": empty}, 30.0) == []


def test_every_limit_stands_in_words() -> None:
    asked: set[str] = set()

    class Asked(dict[str, float]):
        def __getitem__(self, key: str) -> float:
            asked.add(key)
            return super().__getitem__(key)

    known = Asked(settings(30.0, 448))
    text = " ".join(limits(known).values())
    assert asked == set(known), "each is said, and no other"
    assert "above 30 s, the window; a text above 448 tokens" in text
    assert "0.1 % of the samples at 99 % of full scale" in text
    assert "_" not in text
