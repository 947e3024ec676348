"""`lora-whisper check`: find what is wrong with speech before an hour of training does.

    lora-whisper check name=mine model=small data.language=sw \\
        data.train=train.jsonl data.validation=validation.jsonl data.test=test.jsonl

Every file is decoded. Of the model, its tokenizer and configuration are read, and its weights only
where labels=true asks it to listen for transcripts that are not those of their clips.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from lora_whisper import terminal
from lora_whisper.cli.command import Command
from lora_whisper.config import SPLITS, CheckConfig, DataConfig, LabelsConfig
from lora_whisper.data.audio import read_audio
from lora_whisper.data.augmentation import Augmenter, write_examples
from lora_whisper.data.corpus import require_language
from lora_whisper.data.dataset import Utterance, Utterances
from lora_whisper.data.decisions import Decisions, mended, read_decisions, require_known
from lora_whisper.data.quality import HELD_OUT, inspect, over_window, sound_is_whole
from lora_whisper.data.quality_findings import (
    Finding,
    Repaired,
    SplitLong,
    require_repairable,
    write_repaired,
)
from lora_whisper.data.quality_measures import Measured, TextRules, measure
from lora_whisper.data.segmentation import split_long
from lora_whisper.data.sources import read_split
from lora_whisper.data.speech import training_rows
from lora_whisper.data.text import cleaning_report, require_cleanable
from lora_whisper.errors import UserError
from lora_whisper.evaluation.scored_words import words_of
from lora_whisper.files import contents, write_whole, written_whole
from lora_whisper.model.base import Base, read_base
from lora_whisper.model.tokenizer import code_of
from lora_whisper.paths import local_path
from lora_whisper.reports import data_check
from lora_whisper.reports.labels import LabelSection

log = logging.getLogger("lora_whisper")

Split = TypeVar("Split")

REPORT, PAGE, EXAMPLES = "check.json", "check.html", "listen"


@dataclass(frozen=True)
class CheckPlan:
    """What is looked at, with which tokenizer."""

    config: CheckConfig
    folder: Path
    base: Base
    splits: dict[str, Utterances]
    decisions: Decisions | None = None


def prepare(config: CheckConfig, folder: Path) -> CheckPlan:
    """Find everything that would stop the check, before anything is decoded or written.

    Raises:
        UserError: a folder that would be replaced unasked; speech, tokenizer or augmentation that
            cannot be read.
    """
    refuse_replacing(folder, config.overwrite)
    if config.data.streaming:
        raise UserError(
            "check looks at every row, so nothing is gained by streaming. "
            "Type data.streaming=false to download the data set, or check a part: "
            "data.train='train[:1000]'"
        )
    splits = read_splits(config.data)
    if config.fix is not None:
        repaired = local_path(config.fix)
        if repaired.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"fix={config.fix} lies in the report's own folder, which is replaced as a whole. "
                "Type fix=FOLDER with another one."
            )
        require_repairable(repaired, splits, config.overwrite)
    decisions = None
    if config.decisions is not None:
        if config.fix is None and not config.labels:
            raise UserError(
                f"decisions={config.decisions} says what fix is to mend. Type fix=FOLDER as well, "
                "or labels=true to go on deciding."
            )
        decisions = read_decisions(config.decisions, "decisions")
        require_known(list(splits.values()), config.decisions, decisions)
    if config.labels:
        _require_parts(config.labels, splits)
    base = read_base(config.model, with_weights=bool(config.labels))
    _tell_of_language(base, splits)
    _require_cleanable(config.data, splits)
    if config.listen:
        Augmenter(config.augmentation, base.window_seconds, base.mel_bins)
    return CheckPlan(config, folder, base, splits, decisions)


def refuse_replacing(folder: Path, overwrite: bool) -> None:
    """A report is replaced when that is asked for, anything else never.

    Raises:
        UserError: there is something, and it stays.
    """
    names = contents(folder)
    if folder.exists() and (not folder.is_dir() or names - {REPORT, PAGE, EXAMPLES}):
        raise UserError(f"{folder} exists and is no report of check. Type another name=…")
    if names and not overwrite:
        raise UserError(
            f"The report {folder} exists. Type overwrite=true to replace it, or another name=…"
        )


def _require_parts(labels: bool | LabelsConfig, splits: Mapping[str, Utterances]) -> None:
    """See that the training speech can be divided, before all of it is decoded."""
    from lora_whisper.labels.folds import require_parts

    texts = (text for rows in _trained_on(splits) for text in rows.column("text").to_pylist())
    require_parts(texts, LabelsConfig() if isinstance(labels, bool) else labels)


def _tell_of_language(base: Base, splits: Mapping[str, Utterances]) -> None:
    """A `data.language` that is none is a finding where rows are in it, else `train` refuses it."""
    for rows in splits.values():
        if rows.defaults.language not in rows.column("language").unique().to_pylist():
            require_language(rows.defaults, base.special_tokens)


def read_splits(data: DataConfig) -> dict[str, Utterances]:
    """The rows of every split that there is, and of what is mixed in, as "mix 1", "mix 2", …"""
    train, mixed = training_rows(data)
    read = {split: train if split == "train" else read_split(data, split) for split in SPLITS}
    splits = {split: rows for split, rows in read.items() if rows is not None}
    return splits | {f"mix {number}": rows for number, rows in enumerate(mixed, 1)}


def run(plan: CheckPlan) -> int:
    """Measure everything, and write and show what was found."""
    config, folder, base = plan.config, plan.folder, plan.base
    refuse_replacing(folder, config.overwrite)
    rules = TextRules(base.processor.tokenizer, base.special_tokens, words_of)
    with terminal.work("listening", sum(map(len, plan.splits.values()))) as work:
        measured = measure(plan.splits, rules, work.update)
    findings = inspect(measured, rules, base.window_seconds, config.data)
    cleaning = _cleaning(config.data, measured, rules)
    labels = _listened(plan, measured) if config.labels else None
    repaired = None if config.fix is None else _fix(plan, measured, findings)
    report = data_check.summary(config, base, measured, findings, cleaning, repaired, labels)
    with written_whole(folder) as aside:
        data_check.write(aside / REPORT, report, findings)
        page = data_check.page(report, measured, findings, labels)
        write_whole(aside / PAGE, page.encode())
        if config.listen:
            examples = drawn(measured["train"], config.listen, config.seed, base.window_seconds)
            augmenter = Augmenter(config.augmentation, base.window_seconds, base.mel_bins)
            write_examples(examples, augmenter, aside / EXAMPLES, config.seed)
    data_check.show(folder, report, findings, labels)
    found = any(finding.count for finding in findings) or bool(labels and labels.findings)
    return int(config.strict and found)


def _require_cleanable(data: DataConfig, splits: dict[str, Utterances]) -> None:
    named = {
        language
        for rows in _trained_on(splits)
        for language in rows.column("language").unique().to_pylist()
    }
    require_cleanable(data.clean, [name and code_of(name) for name in named])


def _trained_on(splits: Mapping[str, Split]) -> list[Split]:
    """Train, and what is mixed into it."""
    return [rows for name, rows in splits.items() if name not in ("validation", "test")]


def _cleaning(
    data: DataConfig, measured: dict[str, Measured], rules: TextRules
) -> dict[str, object] | None:
    """What `data.clean` will change in the training texts; None where it is empty."""
    if not data.clean:
        return None
    texts = (
        (utterance.text, rules.written(utterance))
        for split in _trained_on(measured)
        for utterance in split.utterances
    )
    return vars(cleaning_report(texts, data.clean)) | {"steps": list(data.clean)}


def _listened(plan: CheckPlan, measured: Mapping[str, Measured]) -> LabelSection:
    """What a model hears in the training speech, held against its transcripts."""
    from lora_whisper.labels.examination import examine
    from lora_whisper.labels.shown import section

    learnt = {split: one for split, one in measured.items() if split not in HELD_OUT}
    return section(examine(plan.config, plan.base, learnt), learnt, plan.decisions)


def _fix(plan: CheckPlan, measured: dict[str, Measured], findings: list[Finding]) -> Repaired:
    config, folder = plan.config, plan.config.fix
    assert folder is not None
    cut: SplitLong | None = None
    if config.data.long_audio == "split":
        cut = partial(_cut, window_seconds=plan.base.window_seconds)
    decided = mended(plan.splits, plan.decisions) if plan.decisions else None
    return write_repaired(local_path(folder), measured, findings, cut, decided)


def _cut(utterance: Utterance, split: str, window_seconds: float) -> list[Utterance] | None:
    """As `train` does: at pauses, where a cut is likely right and not certain, only to learn."""
    return split_long(utterance, window_seconds, by_pauses=split == "train")


def drawn(
    train: Measured, count: int, seed: int, window_seconds: float
) -> Iterator[tuple[str, np.ndarray]]:
    """At most `count` utterances whose sound is whole and fits the window, with their row."""
    fits = sound_is_whole(train.records) & ~over_window(train.records, window_seconds)
    usable = np.flatnonzero(fits)
    chosen = np.random.default_rng(seed).permutation(usable)[:count]
    for index in sorted(chosen.tolist()):
        clip: Utterance = train.utterances[index]
        yield clip.row, read_audio(clip.audio, clip.start_seconds, clip.end_seconds)


def with_name(arguments: Sequence[str]) -> list[str]:
    """`experiment=small-cpu` is reported in outputs/small-cpu-check: small-cpu is the run's."""
    keys = [argument.partition("=")[0] for argument in arguments]
    if "experiment" not in keys or "name" in keys:
        return list(arguments)
    value = arguments[keys.index("experiment")].partition("=")[2]
    return [*arguments, f"name={re.sub(r'[^A-Za-z0-9.-]+', '-', value).strip('-.')}-check"]


COMMAND = Command("check", CheckConfig, prepare, run, as_keys=with_name)
