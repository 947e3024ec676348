"""What all pages share: how the names of rows are broken into lines."""

from __future__ import annotations

import html
import re

import pytest

from lora_whisper.reports.html import LONGEST_PIECE, environment, unbroken


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("adapter", ["adapter"]),
        ("rank 8, dropout 0.1", ["rank ", "8, ", "dropout ", "0.1"]),
        ("adapter.rank-8_optimizer.rate-1e-4", ["adapter.rank-8_", "optimizer.rate-1e-4"]),
        ("speakers/espeak:en-gb+m7", ["speakers/", "espeak:en-gb+m7"]),
        ("<b>&\"'", ["<b>&\"'"]),
        ("", []),
    ],
)
def test_a_name_ends_its_lines_between_its_words(name: str, lines: list[str]) -> None:
    written = str(unbroken(name))
    pieces = re.findall(r'<span class="piece">(.*?)</span>', written)
    assert [html.unescape(piece) for piece in pieces] == lines
    assert html.unescape(re.sub(r"</?(span|wbr)[^>]*>", "", written)) == name, "nothing is lost"


def test_a_word_wider_than_a_phone_may_break() -> None:
    assert "span" not in unbroken("x" * (LONGEST_PIECE + 1))


def test_a_name_is_escaped_once() -> None:
    written = environment().from_string('{{ "<i>&"|name }}').render()
    assert written == '<span class="piece">&lt;i&gt;&amp;</span>'
