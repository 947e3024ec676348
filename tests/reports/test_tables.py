"""One table in four ways: what is shown where, and that nothing in it is taken for markup."""

from __future__ import annotations

import csv
import io

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from lora_whisper.reports.html import environment
from lora_whisper.reports.tables import PLAIN, Cell, Column, Table

ODD = "[b]a|b[/b] <i>&\"'</i> *x*"


def table(name: str = "base") -> Table:
    made = Table(
        [
            Column("model", is_text=True),
            Column("WER", small_title="95 % interval", footer="2 models"),
            Column("CER"),
            Column("in error", is_of_page=True),
        ],
        "Scores",
        layout=PLAIN,
    )
    made.add(name, Cell("9.0 %", "8 – 10 %", order=0.09), Cell("4.0 %", "3 – 5 %"), "50 %")
    made.add("adapter", Cell("failed", style="red"), "", "", kind="best", starts_section=True)
    return made


def terminal(shown: Table) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(shown.terminal())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def page(shown: Table) -> str:
    source = '{% from "parts.html.j2" import table %}{{ table(one, "scores") }}'
    return environment().from_string(source).render(one=shown)


def test_the_terminal_has_small_print_where_it_has_a_heading() -> None:
    lines = [line.split() for line in terminal(table()).splitlines()]
    assert lines[0] == ["Scores"]
    assert "model WER 95 % interval CER".split() in lines
    assert "base 9.0 % 8 – 10 % 4.0 %".split() in lines
    assert "2 models".split() in lines


def test_a_page_has_all_of_it_and_what_to_sort_by() -> None:
    html = page(table())
    assert '<table class="scores">' in html
    assert '<td class="number" data-order="0.09"><bdi>9.0 %</bdi>' in html
    assert '<small dir="auto">3 – 5 %</small>' in html
    assert '<tr class="best">' in html
    assert "in error" in html


def test_markdown_and_csv_for_others() -> None:
    lines = table().markdown().splitlines()
    assert lines[:2] == ["| model | WER | CER | in error |", "|---|---:|---:|---:|"]
    assert lines[2] == "| base | 9.0 % (8 – 10 %) | 4.0 % (3 – 5 %) | 50 % |"
    read = [*csv.reader(io.StringIO(table(ODD).csv()))]
    assert read[1] == [ODD, "9.0 %", "4.0 %", "50 %"]


@pytest.mark.parametrize("way", ["terminal", "page", "markdown"])
def test_nothing_is_taken_for_markup(way: str) -> None:
    shown = table(ODD)
    if way == "terminal":
        assert ODD in terminal(shown)
    elif way == "page":
        assert "<i>" not in page(shown)
        assert "&lt;i&gt;&amp;" in page(shown)
    else:
        tokens = MarkdownIt("commonmark").enable("table").parse(shown.markdown())
        inline = [token for token in tokens if token.type == "inline"]
        kinds = {child.type for token in inline for child in token.children or ()}
        assert kinds <= {"text", "text_special"}
        assert "".join(child.content for child in inline[4].children or ()) == ODD


def test_a_row_has_a_cell_for_each_column() -> None:
    with pytest.raises(AssertionError):
        table().add("too few")


def test_a_name_that_is_folded_goes_on_below_its_beginning() -> None:
    table = Table([Column("", is_text=True), Column("WER")])
    table.add("  a name that is too long for it", "1.0 %")
    console = Console(width=24, file=io.StringIO(), color_system=None)
    console.print(table.terminal())
    assert isinstance(console.file, io.StringIO)
    rows = [line.split("│")[1] for line in console.file.getvalue().splitlines() if "│" in line]
    assert len(rows) > 2
    assert all(row.startswith("   ") and row[3] != " " for row in rows)
