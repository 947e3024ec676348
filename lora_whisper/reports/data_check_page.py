"""What `check` found, as one HTML page that needs nothing but itself: no network and no script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_whisper.data.quality import characters_per_second
from lora_whisper.data.quality_findings import MEANINGS, UNUSABLE, Finding
from lora_whisper.data.quality_measures import QUIETEST_DBFS, Measured
from lora_whisper.reports.html import (
    LIGHT,
    SERIES,
    STYLE,
    add_legend,
    new_axes,
    render,
    shorten,
    svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_ROWS = 200  # of a finding; the rest are counted, and stand in check.json
SHOWN_BARS = 20  # speakers and languages with the most speech
BINS = 40


def page(
    report: Mapping[str, Any], measured: Mapping[str, Measured], findings: Sequence[Finding]
) -> str:
    """The whole page. Whatever comes from the data is escaped."""
    found = [finding for finding in findings if finding.count]
    return render(
        "data_check.html.j2",
        report=report,
        figures=figures(measured, report["settings"]["window_seconds"]),
        limits=limits(report["settings"]),
        findings=[_section(finding) for finding in found],
        count=lambda number: f"{number:,}" if number else "",
        listed=_listed,
        rates=lambda split: [f"{rate / 1000:g}" for rate in split["rates"]],
        tally=_tally,
        absent=[MEANINGS[finding.key].title for finding in findings if not finding.count],
    )


def limits(settings: Mapping[str, float]) -> dict[str, str]:
    """From where on something is found, in words: each of `inspection.settings` is in them."""
    phrases = {
        "too long": "above {window_seconds:g} s, the window; a text above {max_tokens:g} tokens",
        "too short": "below {shortest_seconds:g} s",
        "clipped": "more than {clipped_share:.1%} of the samples at {full_scale:.0%} of full scale "
        "or more",
        "silent": "nothing louder than {silent_dbfs:g} dB of full scale",
        "mostly pause": "more than {quiet_share:.0%} of the clip at least {quiet_db:g} dB below "
        "its loudest moment",
        "too much or too little text": "below {lowest_characters_per_second:g} or above "
        "{highest_characters_per_second:g} characters a second; or {rate_deviations:g} standard "
        "deviations (robust, of the logarithm) from the median of the language, if that is a "
        "factor of at least {rate_ratio:g}",
    }
    written = {name: phrase.format_map(settings) for name, phrase in phrases.items()}
    return {
        name: text.replace("%", " %").replace("-", "\N{MINUS SIGN}")
        for name, text in written.items()
    }


def _section(finding: Finding) -> dict[str, Any]:
    return {
        "title": finding.title,
        "advice": finding.advice,
        "is_unusable": finding.key in UNUSABLE,
        "count": finding.count,
        "rows": list(islice(finding.rows(), SHOWN_ROWS)),
        "hidden": max(0, finding.row_count - SHOWN_ROWS),
        "characters": _tally(finding.more.get("characters", {}), SHOWN_ROWS),
        "pairs": _tally(finding.more.get("pairs", {})),
    }


def _tally(counts: Mapping[str, int], shown: int = 10) -> str:
    """`12 over_window, 3 shared_texts`"""
    return _listed([f"{count} {name}" for name, count in counts.items() if count], shown)


def _listed(names: Iterable[object], shown: int = 10) -> str:
    everything = [str(name) for name in names]
    rest = f" and {len(everything) - shown} more" if len(everything) > shown else ""
    return ", ".join(everything[:shown]) + rest


# ── plots ────────────────────────────────────────────────────────────────────────────────────


def figures(measured: Mapping[str, Measured], window_seconds: float) -> list[tuple[str, str]]:
    """Each plot as its caption and its SVG; those without anything to show are left out."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        plots = [
            ("Durations", _durations(measured, window_seconds)),
            ("Characters a second", _rates(measured)),
            ("Level", _levels(measured)),
            ("Languages", _bars(measured, "language")),
            ("Speakers", _bars(measured, "speaker")),
        ]
    return [(caption, drawn) for caption, drawn in plots if drawn]


def _durations(measured: Mapping[str, Measured], window_seconds: float) -> str:
    seconds = {name: one.records["seconds"] for name, one in measured.items()}
    longest = max(values[~np.isnan(values)].max(initial=0.0) for values in seconds.values())
    # A recording of hours would leave all others in one bar; it stands in the last one.
    high = min(max(longest, 1.15 * window_seconds), 2 * window_seconds)
    axes = _histogram(seconds, 0.0, high)
    if axes is None:
        return ""
    axes.axvline(window_seconds, color=LIGHT["bad"], linestyle="--", linewidth=1.5)
    axes.annotate(
        f"window, {window_seconds:g} s",
        (window_seconds, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(5, 0),  # beside the line
        textcoords="offset points",
        color=LIGHT["bad"],
        va="top",
        rotation=90,
    )
    axes.set_xlabel("seconds")
    return svg(axes)


def _rates(measured: Mapping[str, Measured]) -> str:
    rates = {name: characters_per_second(one.records) for name, one in measured.items()}
    known = np.concatenate([values[~np.isnan(values)] for values in rates.values()])
    axes = _histogram(rates, 0.0, 3 * float(np.median(known)) if len(known) else 1.0)
    if axes is None:
        return ""
    axes.set_xlabel("characters a second")
    return svg(axes)


def _levels(measured: Mapping[str, Measured]) -> str:
    levels = {name: one.records["rms_dbfs"] for name, one in measured.items()}
    known = np.concatenate([values[~np.isnan(values)] for values in levels.values()])
    lowest = max(QUIETEST_DBFS, min(-40.0, float(known.min(initial=-40.0)) - 1))
    axes = _histogram(levels, lowest, 0.0)
    if axes is None:
        return ""
    axes.set_xlabel("mean level, dB below full scale")
    return svg(axes)


def _histogram(values: Mapping[str, np.ndarray], low: float, high: float) -> Axes | None:
    """Utterances over a value, the splits stacked; what lies outside stands in the last bars."""
    inside = {name: np.clip(each[~np.isnan(each)], low, high) for name, each in values.items()}
    if not any(len(each) for each in inside.values()):
        return None
    axes = new_axes(2.7)
    axes.hist(
        list(inside.values()),
        bins=BINS,
        range=(low, high),
        stacked=True,
        label=list(inside),
        color=[SERIES[number % len(SERIES)] for number in range(len(inside))],
    )
    axes.set_ylabel("utterances")
    axes.locator_params(axis="y", integer=True)
    axes.set_xlim(low, high)
    if len(inside) > 1:
        add_legend(axes)
    return axes


def _bars(measured: Mapping[str, Measured], field: str) -> str:
    """Hours or minutes by language or speaker, the most first."""
    records = np.concatenate([one.records for one in measured.values()])
    one = next(iter(measured.values()))
    names = one.languages.all if field == "language" else one.speakers.all
    if not names:
        return ""
    known = records[records[field] >= 0]
    seconds = np.bincount(known[field], np.nan_to_num(known["seconds"]), len(names))
    most = np.argsort(-seconds, kind="stable")[:SHOWN_BARS]
    axes = new_axes(0.9 + 0.26 * len(most))
    unit, unit_seconds = ("hours", 3600) if seconds.max() >= 1800 else ("minutes", 60)
    # By number, and not by name: names that are equal when shortened would share one bar.
    axes.barh(range(len(most)), seconds[most] / unit_seconds, color=SERIES[0])
    axes.set_yticks(range(len(most)), [shorten(names[number]) for number in most])
    axes.set_ylim(len(most) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)  # more run into each other where hours are few
    rest = len(names) - len(most)
    axes.set_xlabel(unit + (f" (and {rest:,} more {field}s)" if rest else ""))
    return svg(axes)
