"""One table, shown in four ways: in the terminal, on a page, in Markdown, and as CSV.

A page shows it with the macro `table` of `templates/parts.html.j2`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table as TerminalTable
from rich.text import Text

from lora_whisper.evaluation.results import Rate, Rates, interval
from lora_whisper.terminal import percent

PLAIN: Mapping[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False}  # a line below the headings


@dataclass(frozen=True)
class Cell:
    """What stands in a row and a column."""

    text: str = ""
    small: str = ""  # what stands below it, such as an interval
    order: float | None = None  # what a page sorts it by; None: by its text
    style: str = ""  # in the terminal


@dataclass(frozen=True)
class Column:
    """Figures, to be read from the right, or text."""

    title: str = ""
    is_text: bool = False
    is_code: bool = False  # as it is typed
    small_title: str = ""  # where only a page has small print: of the column that it fills there
    is_small_below: bool = False  # in the terminal, too
    is_of_page: bool = False  # too much for the terminal
    footer: str = ""
    layout: Mapping[str, Any] = field(default_factory=dict)  # in the terminal, as rich calls it


@dataclass(frozen=True)
class Row:
    cells: Sequence[Cell]
    kind: str = ""  # a class of the page's style
    style: str = ""  # in the terminal
    starts_section: bool = False


@dataclass
class Table:
    """Columns and rows; nothing in it is taken for markup."""

    columns: Sequence[Column]
    title: str = ""
    below: str = ""  # what a page says of it below its title
    terminal_title: str = ""  # where that is another
    layout: Mapping[str, Any] = field(default_factory=dict)  # in the terminal, as rich calls it
    rows: list[Row] = field(default_factory=list)
    kind: str = ""  # a class of the page's style

    def add(
        self, *cells: str | Cell, kind: str = "", style: str = "", starts_section: bool = False
    ) -> None:
        """Add a row. What has no more to say than its text is given as text."""
        whole = [Cell(cell) if isinstance(cell, str) else cell for cell in cells]
        assert len(whole) == len(self.columns), [cell.text for cell in whole]
        self.rows.append(Row(whole, kind, style, starts_section))

    def terminal(self) -> TerminalTable:
        """To be printed; small print is left out where its column does not say where it goes."""
        title = Text(self.terminal_title or self.title, "bold") if self.title else None
        has_footer = any(column.footer for column in self.columns)
        shown = TerminalTable(
            title=title, title_justify="left", show_footer=has_footer, **self.layout
        )
        columns = [column for column in self.columns if not column.is_of_page]
        for column in columns:
            justify = "left" if column.is_text else "right"
            look: Any = {"justify": justify, "overflow": "fold"} | dict(column.layout)
            shown.add_column(Text(column.title), column.footer, **look)
            if column.small_title:
                shown.add_column(Text(column.small_title), **look)
        for row in self.rows:
            if row.starts_section:
                shown.add_section()
            texts: list[RenderableType] = []
            for column, cell in zip(self.columns, row.cells, strict=True):
                if not column.is_of_page:
                    below = f"\n{cell.small}" if column.is_small_below else ""
                    texts.append(_indented(Text.assemble((cell.text, cell.style), below)))
                    texts += [Text(cell.small)] * bool(column.small_title)
            shown.add_row(*texts, style=row.style or None)
        return shown

    def markdown(self) -> str:
        """Small print stands in brackets."""
        lines = [[column.title for column in self.columns]]
        for row in self.rows:
            lines.append(
                [f"{one.text} ({one.small})" if one.small else one.text for one in row.cells]
            )
        headings, *others = (f"| {' | '.join(map(escaped, line))} |" for line in lines)
        marks = "|".join("---" if column.is_text else "---:" for column in self.columns)
        return "\n".join([headings, f"|{marks}|", *others])

    def csv(self) -> str:
        """For programs; small print is left out."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([column.title for column in self.columns])
        writer.writerows([cell.text for cell in row.cells] for row in self.rows)
        return buffer.getvalue()


def _indented(text: Text) -> RenderableType:
    """What is folded goes on below where it began."""
    spaces = len(text.plain) - len(text.plain.lstrip(" "))
    return Padding(text[spaces:], (0, 0, 0, spaces)) if spaces else text


def rate_cell(score: Rates | None, rate: Rate) -> Cell:
    """A rate with its interval, which a page sorts by it; empty where nothing was scored."""
    if score is None:
        return Cell()
    value = score.rate(rate)
    return Cell(percent(value), interval(score.ci95(rate)), value)


def escaped(text: str) -> str:
    """Text as Markdown shows it: no cell of its own, no tag, no emphasis."""
    return re.sub(r"([\\`*_{}\[\]>|#~]|<(?=[\w/!?]))", r"\\\1", " ".join(text.split()))
