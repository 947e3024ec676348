"""Charts: intervals reach as far as they say, and what a page needs of an SVG."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lora_whisper.reports.charts import LIGHT, Chart, Scale, course, courses, shorten

pytestmark = pytest.mark.drawn


def drawn(x: Scale, y: Scale) -> str:
    chart = Chart(2.0, x, y)
    chart.line([1, 2, 400], np.array([[3.0, 2.0, 4.0], [2.0, 1.0, 3.0], [1.0, 1.0, 2.0]]), "set")
    chart.dots([1, 2, 400], np.array([[3.0, 3.5, 4.0], [2.0, 1.0, 3.0], [1.0, 1.0, 2.0]]))
    chart.names([1], [3.0], ["first & <best>"])
    chart.level(2.5, "base")
    return chart.svg()


def test_colours_are_the_page_s_and_no_name_is_shared_by_two_charts() -> None:
    svg = drawn(Scale("steps"), Scale("WER", unit=" %", from_zero=True))
    assert svg.startswith("<svg")
    assert [name for name, light in LIGHT.items() if light in svg] == []
    assert "var(--blue)" in svg
    assert not re.search(r' id="[A-Za-z]\w*_\d+"', svg)
    assert svg == drawn(Scale("steps"), Scale("WER", unit=" %", from_zero=True))


def test_what_stands_beside_it_is_text() -> None:
    svg = drawn(Scale("steps"), Scale("WER", unit=" %", from_zero=True))
    for text in ("steps", "WER", "0 %", "set", "base", "first &amp; &lt;best&gt;"):
        assert f">{text}</text>" in svg


def test_ticks_are_plain_numbers_on_a_logarithmic_scale() -> None:
    texts = re.findall(r">([^<>]*)</text>", drawn(Scale("rate", is_log=True), Scale()))
    assert {"1", "3", "10", "100", "300"} <= set(texts)
    assert "10^2" not in "".join(texts)


def test_a_long_course_is_thinned_to_the_means_of_neighbours() -> None:
    lines = [{"step": step, "loss": float(step)} for step in range(1, 1001)]
    steps, means = course([{"step": 0, "loss": None}, {"step": 0}, *lines], "loss", 10)
    assert len(steps) == 10
    assert means[0] == pytest.approx(np.mean(range(1, 101)))
    assert means == pytest.approx(steps)
    assert [len(each) for each in course([], "loss", 10)] == [0, 0]


def test_a_course_is_steep_where_it_would_lie_on_the_ground() -> None:
    def is_log(*values: float) -> bool:
        chart = courses([(np.arange(len(values)), np.array(values), {})], is_loss=True)
        assert chart is not None
        return chart.y.is_log

    assert is_log(21.0, 1.0)
    assert not is_log(19.0, 1.0)
    assert not is_log(21.0, 0.0), "which no logarithm has"
    assert courses([(np.array([]), np.array([]), {})]) is None


def test_names_keep_both_their_ends() -> None:
    assert shorten("x" * 16) == "x" * 16
    assert shorten("outputs/whisper-small-seed-2") == "outputs…l-seed-2"
