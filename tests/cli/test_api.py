"""`import lora_whisper as lw`: the commands as functions, by the same code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

import lora_whisper as lw
from lora_whisper.config import TrainConfig
from lora_whisper.lora.saved import WEIGHTS_FILE
from lora_whisper.options import configured
from tests.cli.conftest import QUICK, STRONG, Line, World


def nested(arguments: list[str]) -> dict[str, object]:
    """What is typed, as Python has it."""
    import yaml

    settings: dict[str, object] = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        *groups, last = key.split(".")
        place = settings
        for group in groups:
            place = place.setdefault(group, {})  # type: ignore[assignment]
        place[last] = yaml.safe_load(value)
    return settings


def test_from_training_to_a_model_in_python(
    trained: Path, world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = nested(world.arguments("a", *STRONG))
    name = str(settings.pop("name"))
    run = lw.train(name, **settings)
    weights = (run.path / "adapter" / WEIGHTS_FILE).read_bytes()
    assert weights == (trained / "adapter" / WEIGHTS_FILE).read_bytes(), "as the command trains"
    assert run.config.adapter.rank == 2
    assert run.summary.adapter is not None
    assert run.summary.merged is None

    merged = lw.merge(run)
    again = lw.load("outputs/a")
    assert again.summary.merged is not None
    assert again.summary.merged.wer == run.summary.adapter.wer

    model, processor = again.model()
    features = torch.zeros(1, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    start = torch.tensor([[model.config.decoder_start_token_id]])
    whole = WhisperForConditionalGeneration.from_pretrained(merged)
    with torch.no_grad():
        ours = model(input_features=features, decoder_input_ids=start).logits
        theirs = whole(input_features=features, decoder_input_ids=start).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert processor.tokenizer.vocab_size > 0

    options = nested([*QUICK, "evaluation.conditions=[noise-10db]"])
    results = lw.evaluate(again, **options)
    assert results.scores["test"]["merged"].wer == again.summary.merged.wer
    assert results.conditions["test"].keys() == {"clean", "noise-10db"}
    assert lw.train(name, **settings).summary == lw.load("outputs/a").summary, "a cell run again"
    with pytest.raises(lw.UserError, match="is complete"):
        lw.train(name, resume=None, **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"adapter": {"rnak": 4}}, "adapter.rnak: unknown key"),
        ({"adapter": {"rank": 0}}, "adapter.rank: expected 1 or more, found 0"),
        ({"adapter": "lroa"}, "adapter=lroa: there is no such option. There are adalora, dora"),
        ({}, "data.train: missing"),
        ({"data": {"train": "gone.jsonl"}, "model": "nano"}, "gone.jsonl"),
    ],
)
def test_what_the_command_refuses_is_raised(
    settings: dict[str, object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lw.UserError, match=said):
        lw.train("a", **settings)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_and_paths_are_taken_for_what_they_are() -> None:
    config = configured(
        TrainConfig,
        {
            "name": Path("a"),
            "model": {"checkpoint": Path("x") / "y"},
            "data": {"train": Path("a.jsonl")},
            "adapter": {"rank": np.int64(2), "alpha": np.float32(4)},
            "overwrite": np.bool_(True),
        },
    )
    assert (config.name, config.adapter.rank, config.adapter.alpha) == ("a", 2, 4.0)
    assert (config.model.checkpoint, config.overwrite) == ("x/y", True)
    for odd in ({"rank": np.array([1, 2])}, {"rank": None}, [None, "dora"]):
        with pytest.raises(lw.UserError, match="adapter"):
            configured(TrainConfig, {"name": "a", "data": {"train": "b"}, "adapter": odd})


def test_nothing_heavy_is_loaded_before_it_is_needed(tmp_path: Path) -> None:
    script = (
        "import sys, lora_whisper as lw\n"
        "heavy = {'torch', 'hydra'} & {*sys.modules}\n"
        "try: lw.train('a', model='nano', data={'train': 'gone.jsonl'})\n"
        "except lw.UserError: print(heavy, 'hydra' in sys.modules)\n"
        "try: lw.tarin\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    lines = done.stdout.splitlines()
    assert lines == ["set() False", "module 'lora_whisper' has no attribute 'tarin'"], done.stderr
