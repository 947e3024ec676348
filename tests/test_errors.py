"""Messages of several lines."""

from __future__ import annotations

import pytest

from lora_whisper.errors import Problems, UserError, listing


def test_what_a_problem_says_in_further_lines_stands_below_it():
    inner = f"models/a is no Whisper:\n{listing(['x: missing', 'y: missing'])}"
    assert listing([inner, "b"]).splitlines() == [
        "  - models/a is no Whisper:",
        "      - x: missing",
        "      - y: missing",
        "  - b",
    ]


def test_beyond_a_few_problems_the_rest_are_counted():
    assert listing(["a", "b", "c"], shown=1).splitlines() == ["  - a", "  … and 2 more"]


def test_problems_come_at_once_and_each_of_them_once():
    problems = Problems()
    problems.raise_any()
    for said in ("a", "b\nmore", "a"):
        with problems.noted():
            raise UserError(said)
    with pytest.raises(UserError, match=r"^Several things are wrong:\n  - a\n  - b\n    more$"):
        problems.raise_any()
