"""`evaluation.json`, and the page and the tables that show it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from lora_whisper.data.audio import AudioError, encode_mp3, read_audio
from lora_whisper.environment import environment, versions
from lora_whisper.evaluation.evaluate import Findings, Plan, Speech
from lora_whisper.evaluation.models import Contender
from lora_whisper.evaluation.test_sets import Leaks, find_leaks, learnt_speech, speakers
from lora_whisper.paths import below_home, mapped
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import RunFolder, write_json, write_whole
from lora_whisper.terminal import console, percent

log = logging.getLogger("lora_whisper")

FORMAT = 1  # raised when a key of evaluation.json changes its meaning


def write(
    folder: RunFolder,
    plan: Plan,
    speech: Sequence[Speech],
    findings: Findings,
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """Write evaluation.json, .html and .md; return what the first one holds.

    Args:
        asked: what was typed and decides on it.
    """
    from lora_whisper.reports.evaluation_page import page
    from lora_whisper.reports.evaluation_table import markdown

    results = new_results(folder, plan, speech, findings) | {"asked": dict(asked)}
    rows = {
        name: {model: [dataclasses.asdict(row) for row in some] for model, some in models.items()}
        for name, models in findings.rows.items()
    }
    write_json(folder.results, results)
    write_whole(folder.results.with_suffix(".md"), markdown(results).encode())
    sound = _sound(speech) if plan.more.players else lambda name, row: None
    write_whole(folder.results.with_suffix(".html"), page(results, rows, sound).encode())
    return results


def show(folder: RunFolder, results: Mapping[str, Any]) -> None:
    """Print the tables, and where everything lies."""
    from lora_whisper.paths import short
    from lora_whisper.reports.evaluation_table import show_evaluation

    show_evaluation(results)
    console.print()
    for name, path in (
        ("page", folder.results.with_suffix(".html")),
        ("for a card", folder.results.with_suffix(".md")),
        ("hypotheses", folder.evaluation),
    ):
        console.print(f"{name:11} {short(path)}", markup=False)


def new_results(
    folder: RunFolder, plan: Plan, speech: Sequence[Speech], findings: Findings
) -> dict[str, Any]:
    """What evaluation.json holds."""
    leaks = _leaks(plan, speech)
    names = [one.name for one in plan.contenders]
    scores = {
        one.name: {name: findings.scores.get(one.name, {}).get(name) for name in names}
        for one in speech
    }
    return {
        "format": FORMAT,
        "name": folder.path.name,
        "models": [_model(one, findings) for one in plan.contenders],
        "against": names[0],
        "sets": [_set(one, leaks) for one in speech],
        "scores": scores,
        "comparisons": findings.comparisons,
        "mistakes": findings.mistakes,
        "keywords": findings.keywords,
        "hallucination": findings.hallucination,
        "probes": findings.probes,
        "conditions": findings.conditions,
        "scales": findings.scales,
        "warnings": list(_overfitted(speech, findings, names[0])),
        "settings": mapped({**vars(plan.settings), "seed": plan.seed}, below_home),
        "environment": environment(),
        "versions": versions(),
    }


def _model(contender: Contender, findings: Findings) -> dict[str, Any]:
    return {
        "name": contender.name,
        "what": below_home(contender.what),
        "kind": contender.kind,
        "quantization": contender.quantization.kind,
        "failed": findings.failed.get(contender.name),
        **findings.storage[contender.name],
    }


def _set(speech: Speech, leaks: Mapping[str, Sequence[Leaks]]) -> dict[str, Any]:
    utterances = speech.corpus.utterances
    return {
        "name": speech.name,
        "role": speech.role,
        "utterances": len(utterances),
        "hours": speech.corpus.hours,
        "speakers": len(speakers(utterances)),
        "languages": sorted(filter(None, utterances.column("language").unique().to_pylist())),
        "left_out": {reason: len(rows) for reason, rows in speech.corpus.left_out.items()},
        "leaks": [dataclasses.asdict(one) for one in leaks[speech.name]],
    }


def _leaks(plan: Plan, speech: Sequence[Speech]) -> dict[str, list[Leaks]]:
    """By set, what each run among the models knows of it; of a training sample nobody asks."""
    held_out = {one.name: one.corpus.utterances for one in speech if one.role != "training"}
    found: dict[str, list[Leaks]] = {one.name: [] for one in speech}
    runs = {one.run.path: one.run for one in plan.contenders if one.run is not None}
    for path, run in runs.items():
        learnt = learnt_speech(path.name, read_config(run))
        if learnt is not None:
            for name, leaks in find_leaks(path.name, learnt, held_out).items():
                found[name].append(leaks)
    return found


def _overfitted(speech: Sequence[Speech], findings: Findings, base: str) -> Iterator[str]:
    """Models that know their training set far better than a test set, as `base` does not."""
    by_role = {one.role: one.name for one in reversed(speech)}
    if not {"training", "test"} <= by_role.keys():
        return
    learnt, tested = (findings.scores.get(by_role[role], {}) for role in ("training", "test"))
    before = tested[base]["wer"] - learnt[base]["wer"] if base in tested and base in learnt else 0.0
    for model in (name for name in learnt if name in tested and name != base):
        gap = tested[model]["wer"] - learnt[model]["wer"]
        if gap > max(before, 0.0) and _is_apart(learnt[model], tested[model]):
            yield (
                f"{model} has a WER of {percent(learnt[model]['wer'])} on what it was trained on "
                f"and {percent(tested[model]['wer'])} on {by_role['test']}: overfitting, or a test "
                "set that is harder"
            )


def _is_apart(learnt: Mapping[str, Any], tested: Mapping[str, Any]) -> bool:
    """Whether the intervals do not meet."""
    return bool(learnt["wer_ci95"][1] < tested["wer_ci95"][0])


def _sound(speech: Sequence[Speech]) -> Callable[[str, Mapping[str, Any]], bytes | None]:
    """The sound of a line of hypotheses.jsonl, as a page plays it."""
    utterances = {one.name: one.corpus.utterances for one in speech}

    @cache
    def places(name: str) -> dict[str, int]:
        rows = utterances[name]
        return {rows.row(index).place: index for index in range(len(rows))}

    def sound(name: str, row: Mapping[str, Any]) -> bytes | None:
        utterance = utterances[name][places(name)[row["row"]]]
        try:
            samples = read_audio(utterance.audio, utterance.start_seconds, utterance.end_seconds)
        except AudioError:
            return None
        return encode_mp3(samples)

    return sound
