"""What a prompt of words is worth, before and after training with `data.words`.

    python -m benchmarks.prompted_words MODEL --folder runs --seeds 0 1 2 -- training.max_epochs=4

On the embedded dictation, with drug names that no training text has: every third of the 44 is held
out, and so is each sentence with one of them. For each seed a run without `data.words` and one with
it (of the names that are not held out) is trained with the settings behind `--`, and then scored
beside MODEL: with all names as a prompt and without, on the test set, to which further sentences
with held-out names are added, and on sentences of another domain, where none of the names is said.

    --many               trains with 300 sentences of other words beside them, with the first seed:
                         all their longer words are in the list, so that nobody learns them by heart
    --invented 1200      trains, for each seed, with so many sentences more, each with another
                         invented name (benchmarks.nano.invented; Debian's espeak-ng and flite),
                         which only a prompt can tell how to write; all names are in the list
    --kinds plain words  the runs to train for each seed
    --shares 0.25 0.8    trains with these `data.words_share`, too, with the first seed
    --lists              scores the first seed's run with lists of several lengths
    --exports            puts the first seed's run into faster-whisper, with `hotwords` and
                         `initial_prompt`

What is in the folder is not computed again. Results go to benchmarks/results/prompted_words.json,
or to --result NAME, after each run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lora_whisper as lw
from benchmarks.nano import invented
from benchmarks.nano.dictation import DRUGS
from benchmarks.results import write_result
from lora_whisper.data.audio import read_audio
from lora_whisper.data.words import as_text, parts_of, spoken_in
from lora_whisper.evaluation.diagnostics import word_recall
from lora_whisper.evaluation.results import EvaluationResults, WordRecall
from lora_whisper.evaluation.score import score_utterance
from lora_whisper.export import ctranslate2
from lora_whisper.export.ctranslate2 import FasterWhisperProgram
from lora_whisper.files import read_json, read_jsonl, write_json
from lora_whisper.paths import local_path

EVERY = 3  # of so many names one is held out
FURTHER = 30  # sentences with held-out names that are added to the test set
GENERAL = 50  # sentences of another domain
SPEECH = local_path("embedded:speech")
# Given names and surnames that nobody says, a token or two each: with the held-out names and these
# a prompt is as full as it can be.
NAMES = """Adam Alice Anna Ben Carl Clara David Emma Eric Frank Grace Harry Helen Henry Jack James
Jane John Kate Laura Linda Lucy Mark Martin Mary Max Michael Nancy Oliver Oscar Paul Peter Rachel
Robert Rose Ruth Sam Sarah Simon Susan Thomas Tom Victor Walter William Brown Clark Cooper Davis
Evans Fisher Green Hall Harris Hill Hunter Jackson Johnson Jones King Lewis Miller Moore Morris
Parker Phillips Roberts Scott Smith Stewart Taylor Turner Walker Wilson""".split()
WITHOUT, WITH = "plain", "words"
MANY, MANY_WITHOUT = "many", "many-plain"  # beside them sentences with many other words
INVENTED, INVENTED_WITHOUT = "invented", "invented-plain"  # and some with invented names, too
OTHERS = 300  # such sentences
INVENTED_SEED = 0
FEWEST_LETTERS = 5  # of the words in them that are in the list


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--shares", nargs="*", type=float, default=[])
    parser.add_argument("--many", action="store_true")
    parser.add_argument("--invented", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=(WITHOUT, WITH), default=[WITHOUT, WITH])
    parser.add_argument("--lists", action="store_true")
    parser.add_argument("--exports", action="store_true")
    parser.add_argument("--result", default="prompted_words")
    typed, _, settings = " ".join(sys.argv[1:]).partition(" -- ")
    given = parser.parse_args(typed.split())
    given.settings = settings.split()
    given.model, given.folder = given.model.absolute(), given.folder.absolute()
    given.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(given.folder)
    unseen = write_speech(given.folder)
    if given.invented:
        write_invented(given.folder, given.invented)
    figures: dict[str, Any] = {"unseen": unseen}
    for part in measurements(given, unseen):
        name, rows = part
        figures.setdefault(name, []).extend(rows)
        shown = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
        command = " ".join(["python -m benchmarks.prompted_words", *shown])
        path = write_result(given.result, command, figures)
        print(table(rows), f"\nwritten to {path}", flush=True)


def measurements(
    given: argparse.Namespace, unseen: Sequence[str]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Names of results, and their rows, as they come."""
    every = given.folder / "all.txt"
    for number, seed in enumerate(given.seeds):
        for kind in given.kinds:
            run = trained(given, f"{kind}-{seed}", kind, seed)
            models = 2 if number == 0 and kind == WITHOUT else 1  # the base once
            yield "runs", scored(given, run, every, models)
        for kind in (INVENTED, INVENTED_WITHOUT) if given.invented else ():
            yield "invented", scored(given, trained(given, f"{kind}-{seed}", kind, seed), every)
    first = given.seeds[0]
    for kind in (MANY, MANY_WITHOUT) if given.many else ():
        yield "many", scored(given, trained(given, f"{kind}-{first}", kind, first), every)
    if given.lists:
        for length, words in lists(unseen).items():
            path = write_list(given.folder / f"list-{length}.txt", words)
            yield "lists", scored(given, f"{WITH}-{first}", path)
    if given.exports:
        yield "exports", exported(given, f"{WITH}-{first}", every, unseen)
    for share in given.shares:
        run = trained(
            given, f"{WITH}-{share:g}-{first}", WITH, first, [f"data.words_share={share:g}"]
        )
        yield "shares", scored(given, run, every)


# ── what is said ─────────────────────────────────────────────────────────────────────────────


def write_speech(folder: Path) -> list[str]:
    """Write manifests and lists; return the names that are held out."""
    unseen = DRUGS[1::EVERY]
    seen = [drug for drug in DRUGS if drug not in unseen]
    write_list(folder / "seen.txt", seen)
    # In turn, so that no part of a prompt has the ones alone; the last may have no room.
    every = [drug for pair in zip(seen[::2], unseen, strict=False) for drug in pair]
    write_list(folder / "all.txt", [*every, *(drug for drug in seen if drug not in every)])
    rows = {part: rows_of(SPEECH / "dictation" / f"{part}.jsonl") for part in ("train", "test")}
    has_unseen = [bool(spoken_in(unseen, [row["text"]]).times) for row in rows["train"]]
    kept = [row for row, held_out in zip(rows["train"], has_unseen, strict=True) if not held_out]
    further = [row for row, held_out in zip(rows["train"], has_unseen, strict=True) if held_out]
    write_rows(folder / "train.jsonl", kept)
    others = rows_of(SPEECH / "rehearsal" / "train.jsonl")[:OTHERS]
    write_rows(folder / "train-many.jsonl", [*kept, *others])
    more = {part for row in others for part in parts_of(row["text"]) if len(part) >= FEWEST_LETTERS}
    write_list(folder / "many.txt", [*seen, *sorted(more - {*seen})])
    write_rows(folder / "test.jsonl", [*rows["test"], *further[:FURTHER]])
    write_rows(folder / "general.jsonl", rows_of(SPEECH / "general" / "test.jsonl")[:GENERAL])
    return unseen


def write_invented(folder: Path, count: int) -> None:
    """Write a manifest with the sentences of `--many` and those with invented names, and a list."""
    place = folder / "invented" / "train.jsonl"
    if not place.exists() or len(read_jsonl(place)) != count:
        invented.write(place.parent, INVENTED_SEED, count, 1)
    rows = [*read_jsonl(folder / "train-many.jsonl"), *rows_of(place)]
    write_rows(folder / "train-invented.jsonl", rows)
    seen = (folder / "seen.txt").read_text().split()
    write_list(folder / "invented.txt", [*seen, *invented.names(INVENTED_SEED, count)])


def lists(unseen: Sequence[str]) -> dict[int, list[str]]:
    """Held-out names among more and more that are never said; all are in the prompt."""
    found = {}
    for length in (len(unseen), 44, 88):
        more = NAMES[: length - len(unseen)]
        # The names that are said stand evenly among the others.
        every = max(1, len(more) // len(unseen))
        words = []
        for place, drug in enumerate(unseen):
            words += [drug, *more[place * every : (place + 1) * every]]
        found[length] = list(dict.fromkeys([*words, *more]))
    return found


def rows_of(manifest: Path) -> list[dict[str, Any]]:
    return [
        {"audio": str(manifest.parent / row["audio"]), "text": row["text"]}
        | {"speaker": row["speaker"], "language": "en"}
        for row in read_jsonl(manifest)
    ]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_list(path: Path, words: Sequence[str]) -> Path:
    path.write_text("".join(f"{word}\n" for word in words))
    return path


SPEECH_OF = {
    **dict.fromkeys((WITHOUT, WITH), "train.jsonl"),
    **dict.fromkeys((MANY, MANY_WITHOUT), "train-many.jsonl"),
    **dict.fromkeys((INVENTED, INVENTED_WITHOUT), "train-invented.jsonl"),
}
LIST_OF = {WITH: "seen.txt", MANY: "many.txt", INVENTED: "invented.txt"}


# ── runs ─────────────────────────────────────────────────────────────────────────────────────


def trained(
    given: argparse.Namespace, name: str, kind: str, seed: int, more: Sequence[str] = ()
) -> str:
    """Train a run, unless it is there."""
    if not Path(f"outputs/{name}/summary.json").exists():
        command = [
            *(sys.executable, "-m", "lora_whisper", "train", f"name={name}", f"seed={seed}"),
            *(f"model={given.model}", f"data.train={given.folder / SPEECH_OF[kind]}"),
            *("data.language=en", "data.validation_share=0", "data.test_share=0"),
            *("resume=auto", "card=false", *given.settings, *more),
        ]
        if kind in LIST_OF:
            command.append(f"data.words={given.folder / LIST_OF[kind]}")
        subprocess.run(command, check=True, env=os.environ | {"CI": "true"})
    return name


def scored(
    given: argparse.Namespace, name: str, words: Path, models: int = 1
) -> list[dict[str, Any]]:
    """With the list as a prompt and without; of two models, the base comes first."""
    known = Path(f"scored-{name}-{words.stem}.json")
    if not known.exists():
        write_json(known, {"rows": decoded_and_scored(given, name, words, models)})
    rows: list[dict[str, Any]] = read_json(known)["rows"]
    return rows


def decoded_and_scored(
    given: argparse.Namespace, name: str, words: Path, models: int
) -> list[dict[str, Any]]:
    run, folder = f"outputs/{name}", given.folder
    results = lw.evaluate(
        models=["base", run] if models == 2 else [run],
        base=str(given.model),
        data={"language": "en", "test": str(folder / "test.jsonl")},
        sets=[str(folder / "general.jsonl")],
        name=f"scored-{name}-{words.stem}",
        overwrite=True,
        evaluation={"players": False, "diagnostics": False, "words": str(words)},
    )
    test, general = (one.name for one in results.sets if one.role == "test")
    steps = read_json(Path(f"{run}/summary.json"))["steps"]
    rows = []
    for model in results.scores[test]:
        whose = "base" if model == "base" else name
        for prompt in (False, True):
            row = {"run": whose, "list": len(results.prompt_words), "prompt": prompt}
            if model != "base":
                row["steps"] = steps
            rows.append(
                row
                | figures_of(results, test, model, prompt)
                | {
                    f"general_{key}": value
                    for key, value in figures_of(results, general, model, prompt).items()
                    if key in ("wer", "wer_ci95", "false_alarms", "verdict", "p_value")
                }
            )
    return rows


def figures_of(
    results: EvaluationResults, name: str, model: str, has_prompt: bool
) -> dict[str, Any]:
    """In per cent."""
    prompted = results.prompted[name][model]
    score = prompted.score if has_prompt else results.scores[name][model]
    words = prompted.recall if has_prompt else results.keywords[name][model]
    assert score is not None
    found = {"wer": round(100 * score.wer, 2), "wer_ci95": in_percent(score.wer_ci95)}
    found |= recalls(words)
    if has_prompt:
        found |= {"verdict": prompted.comparison.verdict}
        found |= {"p_value": round(prompted.comparison.p_value, 4)}
    return found


def recalls(words: WordRecall) -> dict[str, Any]:
    found: dict[str, Any] = {"false_alarms": words.false_alarms}
    for part, one in (words.parts or {"unseen": words}).items():
        found[f"{part}_recall"] = None if one.recall is None else round(100 * one.recall, 2)
        found[f"{part}_ci95"] = in_percent(one.ci95)
        found[f"{part}_said"] = one.said
    return found


def in_percent(bounds: Sequence[float] | None) -> list[float] | None:
    return None if bounds is None else [round(100 * bound, 1) for bound in bounds]


# ── in another program ───────────────────────────────────────────────────────────────────────


def exported(
    given: argparse.Namespace, name: str, words: Path, unseen: Sequence[str]
) -> list[dict[str, Any]]:
    """What faster-whisper makes of the exported run, and how many texts are ours."""
    run = Path(f"outputs/{name}")
    place = given.folder / f"{name}-in-ctranslate2"
    if not place.exists():
        place.mkdir()
        ctranslate2.write(lw.merge(run, overwrite=True), place, "float32")
    results = lw.evaluate(
        models=[str(run)],
        base=str(given.model),
        data={"language": "en", "test": str(given.folder / "test.jsonl")},
        name=f"padded-{name}",
        overwrite=True,
        evaluation={
            **{"players": False, "diagnostics": False, "words": str(words)},
            "padding": "log-mel",
        },
    )
    (test,) = (one.name for one in results.sets)
    ours = {
        prompt: [row["hypothesis"] for row in read_jsonl(hypotheses(f"padded-{name}", test, end))]
        for prompt, end in ((False, ""), (True, "-prompted"))
    }
    program = FasterWhisperProgram.load(place)
    rows, prompt = [], as_text(results.prompt_words)
    for option in ("", "hotwords", "initial_prompt"):
        texts, scored_rows = [], []
        for row in read_jsonl(given.folder / "test.jsonl"):
            samples = read_audio(Path(row["audio"]), None, None)
            asked = {option: prompt} if option else {}
            texts.append(program.transcribe(samples, None, "transcribe", **asked))
            scored_rows.append(score_utterance(row["audio"], None, row["text"], texts[-1]))
        seen = [word for word in words.read_text().split() if word not in unseen]
        recall = word_recall(scored_rows, words.read_text().split(), 1000, 1, seen)
        same = sum(one == other for one, other in zip(texts, ours[bool(option)], strict=True))
        shown = {"run": f"{name} in {program.name}", "list": len(results.prompt_words)}
        errors = sum(row.errors for row in scored_rows)
        wer = round(100 * errors / sum(row.reference_words for row in scored_rows), 2)
        rows.append(
            shown
            | {"prompt": option, "wer": wer, **recalls(recall)}
            | {"same_texts": same, "texts": len(texts)}
        )
    return rows


def hypotheses(report: str, test: str, end: str) -> Path:
    (path,) = Path(f"outputs/{report}/evaluation").glob(f"*/{test}{end}/hypotheses.jsonl")
    return path


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    keys = ("run", "list", "prompt", "seen_recall", "unseen_recall", "false_alarms", "wer")
    keys += ("general_wer", "general_false_alarms", "same_texts")
    lines = [f"| {' | '.join(keys)} |", "|---" * len(keys) + "|"]
    lines += [f"| {' | '.join(str(row.get(key, '')) for key in keys)} |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
