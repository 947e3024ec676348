"""The capability card as people see it: one table, and a line of what is lost."""

from __future__ import annotations

from lora_whisper.evaluation.results import Capability, CapabilityCard, Kept
from lora_whisper.reports.tables import Cell, Column, Table

COLOURS = {"lost": "red", "gained": "green", "not certain": "yellow"}
FIGURES = {"min_width": 6, "max_width": 8}  # whatever a model is called, 80 columns are enough
METHOD = (
    "Lost and gained: the whole 95 % interval of the difference, paired, is on that side of zero. "
    "Kept: it shows that no more than the tolerance can be lost. Not lost: the same, and more than "
    "the tolerance is likely gained, but not for certain. Of twenty that are as they were, "
    "one is called lost or gained by chance. Everything here is decoded greedily."
)


def card_table(card: CapabilityCard, model: str) -> Table:
    """A row a capability, as it was and as it is; why nothing is known where that is so."""
    columns = [
        Column(is_text=True, layout={"min_width": 18}),
        Column(is_text=True, layout={"min_width": 12}),
        Column(card.against, layout=FIGURES),
        Column(model, layout=FIGURES),
        Column("difference (95 %)", is_text=True, layout={"min_width": 18}),
        Column("measured", is_text=True, is_of_page=True),
    ]
    title = f"What {model} kept of {card.against}"
    table = Table(columns, title, below=METHOD, kind="kept")
    for row in card.rows:
        is_measured = row.verdict != "not measured"
        tolerance = f"kept: at most {amount(row, row.tolerance)} lost"
        how = f"{row.how}: {row.counted}; {tolerance}" if is_measured else row.how
        table.add(
            row.name,
            Cell(row.verdict, style=COLOURS.get(row.verdict, "")),
            shown(row, row.base),
            shown(row, row.adapter),
            Cell(difference(row) if is_measured else row.why, "" if not is_measured else row.why),
            how,
        )
    return table


def losses(card: CapabilityCard) -> str:
    """`timestamps 98 % → 12 %; text in silence 0 % → 100 %`; empty where none is certain."""
    return "; ".join(
        f"{row.name} {shown(row, row.base)} → {shown(row, row.adapter)}"
        for row in card.having("lost")
    )


def nothing_lost(card: CapabilityCard) -> str:
    """How many there are of each verdict; empty where one is lost, or nothing was measured."""
    verdicts: tuple[Kept, ...] = ("gained", "not lost", "kept", "not certain")
    found = {one: len(card.having(one)) for one in verdicts}
    if card.having("lost") or not any(found.values()):
        return ""
    each = ", ".join(f"{number} {one}" for one, number in found.items() if number)
    return f"no capability is lost for certain: {each}"


def shown(row: Capability, value: float | None) -> str:
    """`98 %`, or `0.34 s`; a dash where nothing was measured."""
    if value is None:
        return "–"
    return f"{value:.2f} s" if row.unit == "seconds" else f"{round(100 * value)} %"


def difference(row: Capability) -> str:
    """`-86 (-97 to -70)`, in points or seconds."""
    if row.base is None or row.adapter is None:
        return ""
    factor, digits = (1, 2) if row.unit == "seconds" else (100, 0)

    def signed(value: float) -> str:
        return f"{factor * value:+.{digits}f}"

    if row.ci95 is None:
        return signed(row.adapter - row.base)
    low, high = map(signed, row.ci95)
    return f"{signed(row.adapter - row.base)} ({low} to {high})"


def amount(row: Capability, value: float) -> str:
    """`10 points`, or `0.25 s`."""
    return f"{value:g} s" if row.unit == "seconds" else f"{100 * value:g} points"
