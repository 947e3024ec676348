"""`evaluation.json`, and the page and the tables that show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from lora_whisper.data.audio import AudioError, encode_mp3, read_audio
from lora_whisper.evaluation.evaluate import LoadedSet
from lora_whisper.evaluation.results import EvaluationResults, ScoredUtterance, to_json
from lora_whisper.files import write_json, write_whole
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import console


def write(
    folder: RunFolder,
    results: EvaluationResults,
    utterances: Mapping[str, Mapping[str, Sequence[ScoredUtterance]]],
    players: Sequence[LoadedSet],
) -> None:
    """Write evaluation.json, .html and .md.

    Args:
        utterances: set → model → what it made of each.
        players: sets whose sound the page plays.
    """
    from lora_whisper.reports.evaluation_page import page
    from lora_whisper.reports.evaluation_tables import markdown

    write_json(folder.results, to_json(results))
    write_whole(folder.results.with_suffix(".md"), markdown(results).encode())
    html = page(results, utterances, _sound(players))
    write_whole(folder.results.with_suffix(".html"), html.encode())


def show(folder: RunFolder, results: EvaluationResults) -> None:
    """Print the tables, and where everything lies."""
    from lora_whisper.paths import short
    from lora_whisper.reports.evaluation_tables import show_evaluation

    show_evaluation(results)
    console.print()
    for name, path in (
        ("page", folder.results.with_suffix(".html")),
        ("for a card", folder.results.with_suffix(".md")),
        ("hypotheses", folder.evaluation),
    ):
        console.print(f"{name:11} {short(path)}", markup=False)


def _sound(sets: Sequence[LoadedSet]) -> Callable[[str, ScoredUtterance], bytes | None]:
    """The sound of a line of hypotheses.jsonl, as a page plays it."""
    utterances = {one.name: one.corpus.utterances for one in sets}

    @cache
    def places(name: str) -> dict[str, int]:
        rows = utterances[name]
        return {rows.row(index).place: index for index in range(len(rows))}

    def sound(name: str, row: ScoredUtterance) -> bytes | None:
        if name not in utterances:
            return None
        utterance = utterances[name][places(name)[row.row]]
        try:
            samples = read_audio(utterance.audio, utterance.start_seconds, utterance.end_seconds)
        except AudioError:
            return None
        return encode_mp3(samples)

    return sound
