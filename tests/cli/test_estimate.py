"""What a run is said to take, before its first step."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from lora_whisper.config import TrainConfig
from lora_whisper.data.loader import training_windows
from lora_whisper.data.speech import read_inputs
from lora_whisper.evaluation.estimate import Pace
from lora_whisper.schema import from_values
from lora_whisper.training import announce as estimate_module
from lora_whisper.training.announce import (
    Estimate,
    Left,
    estimate,
    estimate_lines,
    memory_needed,
    texts_of_windows,
    validations,
    windows_decoded,
)
from lora_whisper.training.memory_plan import decoding_bytes
from tests.cli.conftest import Line, World
from tests.composed import train_values
from tests.toys import toy_config, toy_model

PACE = Pace(window_seconds=1.0, token_seconds=0.1)
STEPS = range(10)


def estimated(
    world: World, *overrides: str, left: Left | None = None, window_seconds: float = 2.0
) -> Estimate:
    """Of a toy run on a machine that is as slow as that."""
    config = from_values(TrainConfig, train_values(*world.arguments("a", *overrides)))
    inputs = read_inputs(config.model, config.data)
    base, speech = inputs.base, inputs.speech
    windows = training_windows(config, base, speech)
    left = left or Left(STEPS, base=True)
    return estimate(config, base, speech, windows, left, window_seconds, PACE)


def test_each_window_of_each_step_takes_its_time(world: World) -> None:
    """20 utterances are 5 steps of 4."""
    spoken = ("data.validation=null", "data.no_speech_share=0", "data.windows=padded")
    alone = estimated(world, *spoken)
    assert alone.training_seconds == pytest.approx(10 * 4 * 2.0)
    short = estimated(world, *spoken, "training.global_batch=16")
    assert short.training_seconds == pytest.approx(10 * 10 * 2.0), "every other step has but four"


def test_scoring_counts_windows_and_tokens(world: World) -> None:
    """Four clips within the window; their texts as Transformers cuts them, and an eot each."""
    found = estimated(world)
    rows = (world.speech / "test.jsonl").read_text().splitlines()
    tokenizer = AutoTokenizer.from_pretrained(world.checkpoint)
    texts = [" " + json.loads(row)["text"] for row in rows]
    tokens = sum(1 + len(ids) for ids in tokenizer(texts, add_special_tokens=False).input_ids)
    assert found.scoring_seconds == pytest.approx(4 * 1.0 + 0.1 * tokens)
    assert found.base_seconds == found.scoring_seconds
    assert found.utterances == 4
    fewer = estimated(world, "evaluation.max_utterances=2")
    assert fewer.scoring_seconds < found.scoring_seconds
    assert fewer.utterances == 2


def test_what_lies_behind_takes_no_time(world: World) -> None:
    whole = estimated(world)
    later = estimated(world, left=Left(range(6, 10), base=False))
    assert later.base_seconds == 0
    assert later.scoring_seconds == whole.scoring_seconds
    assert 0 < later.training_seconds < whole.training_seconds
    none = estimated(world, "data.test=null")
    assert none.scoring_seconds == none.base_seconds == none.utterances == 0


def test_validations_take_their_time(world: World) -> None:
    often, seldom, never = (
        estimated(world, *one).training_seconds
        for one in (
            ["training.validate_every_steps=1"],
            ["training.validate_every_steps=5"],
            ["data.validation=null"],
        )
    )
    assert (often - never) == pytest.approx(5 * (seldom - never))


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(range(10), 3, 4), (range(9), 3, 3), (range(6, 10), 3, 2), (range(2), 5, 1), (range(0), 5, 0)],
)
def test_validations_are_those_of_the_loop(steps: range, every: int, expected: int) -> None:
    """One in so many steps, and one after the last."""
    assert validations(steps, every) == expected


def test_windows_that_are_packed_have_longer_texts(world: World) -> None:
    found = {}
    for kind in ("padded", "packed"):
        values = train_values(*world.arguments("a", f"data.windows={kind}"))
        config = from_values(TrainConfig, values)
        inputs = read_inputs(config.model, config.data)
        base, speech = inputs.base, inputs.speech
        windows = training_windows(config, base, speech)
        found[kind] = texts_of_windows(config, base, speech, windows)
    assert found["padded"].mean <= found["padded"].longest
    assert found["padded"].mean <= found["packed"].mean <= base.special_tokens.max_tokens
    assert found["packed"].longest == base.special_tokens.max_tokens


def test_prompts_of_words_make_texts_longer(world: World, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one\nthree\n")
    found = []
    for more in ([], [f"data.words={tmp_path / 'words.txt'}"]):
        values = train_values(*world.arguments("a", "data.windows=padded", *more))
        config = from_values(TrainConfig, values)
        inputs = read_inputs(config.model, config.data)
        windows = training_windows(config, inputs.base, inputs.speech)
        texts = texts_of_windows(config, inputs.base, inputs.speech, windows)
        batches = [batch for step in windows.load_whole(0, 20, 8) for batch in step]
        longest = max(batch.decoder_input.shape[1] for batch in batches)
        assert longest <= texts.longest + 1  # which counts no <|notimestamps|>
        found.append((texts.mean, texts.longest, longest))
    without, with_words = found
    assert all(one < other for one, other in zip(without, with_words, strict=True))


# ── what is said ─────────────────────────────────────────────────────────────────────────────


def said(found: Estimate, left: Left = Left(STEPS, base=True)) -> str:  # noqa: B008  frozen
    return "\n".join(estimate_lines(found, left, lambda: 3.14e9))


LONG = Estimate(training_seconds=780, scoring_seconds=360, base_seconds=360, utterances=240)


def test_a_long_run_says_what_takes_long_and_what_to_type() -> None:
    assert said(LONG).splitlines() == [
        "estimate    about 25 min on this machine, about 3.1 GB of memory",
        "  base      about 6 min to score",
        "  training  about 13 min",
        "  adapter   about 6 min to score",
        "  shorter   evaluation.max_utterances=100 scores a sample in about 2 min",
        "  shorter   training.max_steps=5 trains for about 6 min",
    ]
    assert max(map(len, said(LONG).splitlines())) <= 80


def test_a_short_run_needs_no_more_words() -> None:
    def never() -> float:
        raise AssertionError("it takes a second to find")

    short = dataclasses.replace(LONG, training_seconds=5, scoring_seconds=1, base_seconds=1)
    lines = list(estimate_lines(short, Left(STEPS, base=True), never))
    assert lines == ["estimate    less than a minute"]


def test_a_model_narrower_than_tiny_has_no_memory_worth_a_word() -> None:
    lines = list(estimate_lines(LONG, Left(STEPS, base=True), None))
    assert lines[0] == "estimate    about 25 min on this machine"


def test_nothing_is_advised_that_is_not_to_be_had() -> None:
    few = dataclasses.replace(LONG, utterances=99)
    assert "max_utterances" not in said(few)
    resumed = said(LONG, Left(range(5, 10), base=False))
    assert "max_steps" not in resumed, "its length is given"
    assert "base" not in resumed, "it has its score"
    alone = dataclasses.replace(LONG, scoring_seconds=0, base_seconds=0, utterances=0)
    assert "score" not in said(alone)


def test_a_run_says_it_before_its_base_is_scored(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the memory of the plan; and a second run finds its base decoded."""
    monkeypatch.setattr(estimate_module, "SHORT_SECONDS", 0.0)
    monkeypatch.setattr("lora_whisper.training.run.TINY_WIDTH", 1)
    assert line("train", *world.arguments("a", "training.max_steps=1")) == 0
    shown = capsys.readouterr().out
    told = [shown.index(word) for word in ("steps  ", "estimate ", "  base  ", "\nbase        WER")]
    assert told == sorted(told)
    assert " of memory" in shown
    assert line("train", *world.arguments("b", "training.max_steps=1")) == 0
    shown = capsys.readouterr().out
    assert "  base  " not in shown
    assert "  adapter  " in shown


def test_the_adapter_is_that_of_a_run_that_was_not_timed(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("training.max_steps=2", "adapter.dropout=0.5", "data.test=null")
    assert line("train", *world.arguments("a", *arguments)) == 0
    monkeypatch.setattr("lora_whisper.training.run.seconds_per_window", lambda *_: 1.0)
    monkeypatch.setattr("lora_whisper.training.run.scoring_pace", lambda *_: PACE)
    assert line("train", *world.arguments("b", *arguments)) == 0
    timed, plain = (adapter_bytes(name) for name in ("a", "b"))
    assert timed == plain


def adapter_bytes(run: str) -> Any:
    return Path(f"outputs/{run}/adapter/adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("overrides", "windows"),
    [
        ((), 4),
        (("data.test=null",), 3),
        (("evaluation.max_utterances=2",), 3),
        (("data.test=null", "data.validation=null"), 0),
    ],
)
def test_memory_for_decoding_is_of_as_many_windows_as_are_decoded(
    world: World, overrides: tuple[str, ...], windows: int
) -> None:
    """Beside training's on a CPU; a batch has room for 16."""
    config = from_values(TrainConfig, train_values(*world.arguments("a", *overrides)))
    inputs = read_inputs(config.model, config.data)
    assert windows_decoded(config, inputs.base, inputs.speech) == windows
    plan: Any = SimpleNamespace(
        peaks=[False], device="cpu", memory=lambda *_: SimpleNamespace(total=7.0)
    )
    needed = memory_needed(plan, config, toy_model(), 1, windows)
    assert needed == 7.0 + decoding_bytes(toy_config(), windows, 4)
