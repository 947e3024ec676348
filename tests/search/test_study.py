"""What a search draws: seeded, the same however often it is opened anew, and better by and by."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest

import lora_whisper.search.study as study_module
from lora_whisper.config import SearchConfig
from lora_whisper.model.base import read_base
from lora_whisper.schema import from_values
from lora_whisper.search.space import (
    Choice,
    Range,
    shown,
    space_of,
    train_config,
    typed_values,
    usual_values,
    with_values,
)
from lora_whisper.search.study import Study
from tests.composed import train_values

SPACE = {
    "learning_rate": Range(1e-5, 1e-1, is_logarithmic=True),
    "rank": Choice((4, 8, 16)),
    "targets": Choice(("attention", "all-linear")),
}
STEPS = 90


def search_config(*overrides: str) -> SearchConfig:
    return from_values(
        SearchConfig, train_values("experiment=quickstart", *overrides, primary="search")
    )


def study_in(folder: Path, *overrides: str) -> Study:
    pytest.importorskip("optuna")
    folder.mkdir(exist_ok=True)
    return Study(folder, search_config(*overrides).search, SPACE, seed=1, total_steps=STEPS)


def loss_of(values: dict[str, Any]) -> float:
    return abs(math.log10(values["learning_rate"]) + 3) + (values["rank"] != 8)


def carry_out(study: Study) -> dict[str, Any] | None:
    with study.claimed(may_begin=True) as claim:
        if claim is None:
            return None
        study.complete(claim, loss_of(claim.values))
        return claim.values


def test_a_trial_that_ends_while_another_reaches_for_it_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is free as soon as it has ended, which who looked before does not know."""
    first, second = study_in(tmp_path, "search.trials=1"), study_in(tmp_path, "search.trials=1")
    with first.claimed(may_begin=True) as claim:
        assert claim is not None

    def ended_meanwhile(number: int, held: Any) -> bool:
        first.complete(claim, 0.5)
        return True

    monkeypatch.setattr(second, "_is_taken", ended_meanwhile)
    with second.claimed(may_begin=False) as found:
        assert found is None


@pytest.mark.slow
def test_a_study_goes_on_the_same_whoever_opens_it(tmp_path: Path) -> None:
    kept = study_in(tmp_path / "kept", "search.trials=13")
    drawn: list[dict[str, Any]] = []
    opened_anew = {}
    for number in range(13):
        if number in (0, 1, 10, 12):  # the usual values; at random; by what was found
            copy = shutil.copytree(tmp_path / "kept", tmp_path / f"kept-{number}")
            opened_anew[number] = carry_out(study_in(copy, "search.trials=13"))
        values = carry_out(kept)
        assert values is not None
        drawn.append(values)
    assert carry_out(kept) is None
    assert opened_anew == {number: drawn[number] for number in opened_anew}
    assert len({str(values) for values in drawn}) == 13
    early, late = drawn[:10], drawn[10:]
    assert sum(map(loss_of, late)) / 3 < sum(map(loss_of, early)) / 10, "it learns"


@pytest.mark.parametrize("pruning", ["median", "hyperband", "none"])
def test_who_is_behind_is_pruned_after_its_share_of_the_steps(
    tmp_path: Path, pruning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "PRUNING_AFTER_TRIALS", 2)
    study = study_in(tmp_path, f"search.pruning={pruning}")
    pruned = {}
    for wer in (0.2, 0.2, 0.2, 0.9):
        with study.claimed(may_begin=True) as claim:
            assert claim is not None
            for step in range(18, STEPS, 18):
                claim.report(step, wer)
                claim.report(step, wer)  # as after a kill
                if claim.is_to_be_pruned():
                    pruned[claim.trial.number] = step
                    study.prune(claim, "behind")
                    break
            else:
                study.complete(claim, wer)
    assert pruned.get(3) == {"median": 36, "hyperband": 36, "none": None}[pruning]
    assert pruned.keys() <= {3}
    best = study.best()
    assert best is not None
    assert best.number == 0


def test_the_first_trial_is_what_train_would_have_been() -> None:
    config = search_config()
    common = train_config(config)
    space = space_of(config.search.space, common, read_base(config.model))
    assert space["learning_rate"] == Range(0.00075, 0.012, is_logarithmic=True)
    assert with_values(common, usual_values(space, common, read_base(config.model))) == common
    assert usual_values({"rank": Choice((4, 8))}, common, read_base(config.model)) == {}


def test_the_usual_rate_is_that_of_the_models_width() -> None:
    config = search_config("optimizer.learning_rate=null")  # nano is narrower than any other
    space = space_of(config.search.space, train_config(config), read_base(config.model))
    assert space["learning_rate"] == Range(0.0005, 0.008, is_logarithmic=True)


def test_what_is_printed_is_what_was_trained() -> None:
    config = search_config()
    common = train_config(config)
    drawn = {"learning_rate": 0.00123456, "rank": 8, "alpha_per_rank": 4.0, "dropout": 0.123456}
    trial = with_values(common, drawn)
    space = space_of(config.search.space, common, read_base(config.model))
    typed = [f"{key}={shown(value)}" for key, value in typed_values(space, trial).items()]
    assert typed == [
        "optimizer.learning_rate=0.00123",
        "adapter.rank=8",
        "adapter.alpha=32",
        "adapter.dropout=0.123",
        "adapter.targets=all-linear",
    ]
    again = from_values(
        SearchConfig, train_values("experiment=quickstart", *typed, primary="search")
    )
    assert train_config(again) == trial
    assert trial.resume == "auto"
