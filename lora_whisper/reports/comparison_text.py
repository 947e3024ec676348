"""What is said of runs side by side, in words: the same on the page and as Markdown."""

from __future__ import annotations

from collections import Counter

from lora_whisper.evaluation.results import with_interval
from lora_whisper.files import read_jsonl
from lora_whisper.lora.saved import WEIGHTS_FILE
from lora_whisper.model.checkpoint import EMBEDDED
from lora_whisper.paths import file_name
from lora_whisper.reports.comparison import (
    Report,
    anonymous,
    smallest_as_good,
    some_of,
    test_set_of,
)
from lora_whisper.reports.evaluation_text import how_scored
from lora_whisper.reports.summary import EMBEDDED_NOTE, model_name
from lora_whisper.reports.sweep import NO_GAIN, Point, State, is_in_search
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import counted, megabytes, percent


def about(report: Report) -> str:
    """How many runs there are, of which base, and what they were scored on."""
    states = Counter(entry.point.state for entry in report.entries)
    states_named = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    summaries = [entry.point.summary for entry in report.entries if entry.point.summary]
    bases = dict.fromkeys(
        model_name(file_name(one.checkpoint), one.quantization) for one in summaries
    )
    based = " and ".join(bases)
    all_alike = [
        f"{name} {values[0]}"
        for name, values in ((name, known(report, name)) for name in ("rank", "targets"))
        if len(values) == 1
    ]
    parts = [f"{counted(len(report.entries), 'run')} ({states_named}) of {based}", *all_alike]
    scored = f". Test set: {test_set_of(report.score)}" if report.score else ""
    return ", ".join(parts) + scored


def known(report: Report, name: str) -> list[str]:
    """The different `rank`s or `targets` of the runs that have one."""
    values = [getattr(entry.point, name) for entry in report.entries]
    return list(dict.fromkeys(value for value in values if value is not None))


def remarks(report: Report) -> list[tuple[str, str]]:
    """A "warning" or a "note", and its text."""
    unfinished, pruned = _labels(report, "unfinished"), _labels(report, "pruned")
    warnings = [
        f"without scores, since unfinished: {some_of(unfinished)}" if unfinished else "",
        f"without scores, since the search ended them early: {some_of(pruned)}" if pruned else "",
        never_begun(report),
        without_adapter(report),
        NO_GAIN if report.none_beats_base else "",
        report.caution,
    ]
    notes = []
    if not report.scored:
        in_search = any(is_in_search(entry.point) for entry in report.entries)
        notes.append(
            "nothing was scored yet: a search scores its best trial alone, at its end"
            if in_search
            else "nothing was scored: the runs have no test set"
        )
    if len(report.scored) > 1:
        notes.append(
            f"the best of {len(report.scored)} runs was found on this test set, which flatters it: "
            "expect a little more errors in new speech, and score it once more on speech that had "
            "no say in the choice"
        )
    if not report.has_one_base:
        notes.append("the runs' bases differ, so that each has a base rate of its own")
    summaries = [entry.point.summary for entry in report.entries if entry.point.summary]
    if any(summary.checkpoint.startswith(EMBEDDED) for summary in summaries):
        notes.append(EMBEDDED_NOTE)
    return [("warning", text) for text in warnings if text] + [("note", text) for text in notes]


def _labels(report: Report, state: State) -> list[str]:
    return [entry.label for entry in report.entries if entry.point.state == state]


def never_begun(report: Report) -> str:
    """Names the points of a sweep that nobody has begun; empty where there are none."""
    labels = _labels(report, "never begun")
    again = "The command of the sweep begins them, typed again"
    return f"never begun: {some_of(labels)}. {again}" if labels else ""


def without_adapter(report: Report) -> str:
    """Names the complete runs whose adapter is gone; empty where there are none."""
    labels = [
        entry.label
        for entry in report.entries
        if entry.point.state == "complete"
        and not (RunFolder(entry.point.folder).adapter / WEIGHTS_FILE).is_file()
    ]
    return f"without {WEIGHTS_FILE}: {some_of(labels)}. Bring it back from a copy" if labels else ""


def failed(report: Report) -> str:
    """Names the runs that failed or cannot be read, with the reasons; empty where none did."""
    reasons = {
        entry.label: anonymous(entry.point.reason).split("\n")[0]
        for entry in report.entries
        if entry.point.state == "failed"
    }
    runs = [f"{label} ({reason})" for label, reason in reasons.items()]
    return f"failed: {some_of(runs)}" if runs else ""


def method(report: Report) -> str:
    """How text was normalized, and what the intervals and verdicts are made of."""
    score = report.score
    assert score is not None, "of a report with a best run"
    text = (
        f"{how_scored([score])} "
        f"Verdicts against the {report.best_name} are by approximate randomization, paired and "
        "two-sided, at 5 %, and not corrected for the number of runs."
    )
    if score.leading == "cer":
        text += f" WER and verdicts are of {score.units}."
    return text


def progress(point: Point) -> str:
    """How far an unfinished run is, as its metrics.jsonl says."""
    steps = [line.get("step", 0) for line in read_jsonl(point.folder / "metrics.jsonl")]
    return f"stopped or running, after step {max(steps)}" if steps else "stopped before any step"


def base_rates(report: Report) -> str:
    """`80.0 %`, of the one base; empty where bases differ or none was scored."""
    return "" if report.base_rate is None else percent(report.base_rate)


def conclusion(report: Report) -> str:
    """Which run is the best, and which smaller one is as good as far as can be shown."""
    best, small = report.best, smallest_as_good(report)
    assert best is not None
    assert best.point.score is not None
    base = base_rates(report)
    text = (
        (f"{capitalized(NO_GAIN)}. The lowest: " if report.none_beats_base else "Best: ")
        + f"{best.label}, {report.rate} {with_interval(best.point.score, report.leading)}"
        + (f"; the base has {base}" if base else "")
        + f". Its adapter has {megabytes(best.point.adapter_bytes or 0)}."
        + (f" {report.caution}." if report.caution else "")
    )
    if small is not None and small.point is not best.point:
        text += (
            f" Not shown to be worse, and the smallest: {small.label}, "
            f"{percent(small.point.rate or 0)} with {megabytes(small.point.adapter_bytes or 0)}."
        )
    return text


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
