"""What a name on the command line of `evaluate` stands for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from lora_whisper.errors import UserError
from lora_whisper.evaluation.loading import dtype_of, identity
from lora_whisper.evaluation.models import entries_of_run, find_entries
from lora_whisper.evaluation.run_summary import write_summary
from lora_whisper.files import write_json
from tests.cli.conftest import Line, World
from tests.cli.toy_run import toy_run

CPU = torch.device("cpu")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two complete runs, and an adapter that is nobody's."""
    for name in ("a", "b"):
        run, summary = toy_run(tmp_path / "outputs" / name)
        write_summary(run, summary)
    shutil.copytree(tmp_path / "outputs/a/adapter", tmp_path / "alone")
    return tmp_path


def test_a_run_stands_for_its_base_its_adapter_and_what_was_merged(runs: Path) -> None:
    path = runs / "outputs/a"
    assert [one.name for one in entries_of_run(str(path))] == ["base", "adapter"]
    (path / "merged").mkdir()
    base, adapter, merged = entries_of_run(str(path))
    assert (base.kind, base.what, base.adapter) == ("base", "openai/whisper-small", None)
    assert (adapter.kind, adapter.adapter) == ("adapter", path / "adapter")
    assert (merged.kind, merged.model.checkpoint) == ("merged", str(path / "merged"))


def test_models_side_by_side_keep_their_order_and_have_names_of_folders(
    runs: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    given = ["base", "outputs/a", "outputs/b", "alone", str(world.checkpoint)]
    found = find_entries(given)
    assert [(one.name, one.kind) for one in found] == [
        ("base", "base"),
        ("a", "adapter"),
        ("b", "adapter"),
        ("alone", "adapter"),
        ("toy", "checkpoint"),
    ]
    assert found[0].model.checkpoint == found[3].model.checkpoint == "openai/whisper-small"


def test_the_same_last_name_twice_brings_the_one_before_it(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    for name in ("a", "b"):
        (runs / "outputs" / name / "merged").mkdir()
    found = find_entries(["outputs/a/merged", "outputs/b/merged", "outputs/a/adapter"])
    assert [one.name for one in found] == ["a-merged", "b-merged", "a"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["base"], "base: expected a run or an adapter beside it"),
        (["outputs/a", "outputs/a"], "outputs-a stands there twice"),
        (["outputs/unfinished"], "unfinished"),
        (["outputs/a/evaluation"], r"lies in a run\. Type models=\[outputs/a\]"),
    ],
)
def test_what_stands_for_nothing_is_named(
    runs: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], message: str
) -> None:
    monkeypatch.chdir(runs)
    toy_run(runs / "outputs/unfinished")
    with pytest.raises(UserError, match=message):
        find_entries(given)


def test_what_is_wrong_with_several_models_stands_below_each(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    for name in "xy":
        write_json(runs / name / "config.json", {"model_type": "llama"})
    with pytest.raises(UserError) as raised:
        find_entries(["x", "y", "a/b/c"])
    first, *lines = str(raised.value).splitlines()
    assert first == "models=[x,y,a/b/c] cannot be used:"
    tops = [line for line in lines if line.startswith("  - ")]
    wrong = "no run, no adapter, no folder of CTranslate2, and "
    assert tops[:2] == [f"  - {name}: {wrong}no Whisper checkpoint:" for name in "xy"]
    assert tops[2].startswith(f"  - a/b/c: {wrong}as a checkpoint: not a folder")
    assert "      - config.json: expected model_type 'whisper', found 'llama'" in lines


def test_an_adapter_that_names_no_base_is_named(runs: Path) -> None:
    config = runs / "alone" / "adapter_config.json"
    config.write_text(config.read_text().replace('"openai/whisper-small"', "null"))
    with pytest.raises(UserError, match="names no base"):
        find_entries([str(runs / "alone")])


def test_hypotheses_are_of_weights_storage_and_adapter(world: World, line: Line) -> None:
    """Names of what decides on a text: equal where nothing of that differs, else not."""
    short = ("training.max_steps=1", "data.validation=null", "data.test=null")
    for name, more in (("a", ""), ("b", "seed=2"), ("c", "quantization=nf4")):
        assert line("train", *world.arguments(name, *short, *filter(None, [more]))) == 0
    names = {}
    for name in "abc":
        for one in entries_of_run(f"outputs/{name}"):
            names[name, one.name] = identity(one, "auto", CPU)
    assert names["a", "base"] == names["b", "base"]
    assert len(set(names.values())) == 5
    checkpoint = find_entries([str(world.checkpoint)])[0]
    assert identity(checkpoint, "auto", CPU) == names["a", "base"]
    assert identity(checkpoint, "bfloat16", CPU) != names["a", "base"]


def test_a_half_precision_checkpoint_is_computed_in_float32_on_a_cpu(
    world: World, tmp_path: Path
) -> None:
    for stored, computed in (("float16", torch.float32), ("bfloat16", torch.bfloat16)):
        folder = tmp_path / stored
        shutil.copytree(world.checkpoint, folder)
        config = folder / "config.json"
        config.write_text(config.read_text().replace('"float32"', f'"{stored}"'))
        (found,) = find_entries([str(folder)])
        assert dtype_of(found, "auto", CPU) == computed
        assert dtype_of(found, "float32", CPU) == torch.float32


def test_hypotheses_are_of_the_tokenizer_and_the_suppressed_tokens_too(
    world: World, tmp_path: Path
) -> None:
    names = set()
    for name, change in {"same": "", "suppressed": " ", "retokenized": " "}.items():
        folder = tmp_path / name
        shutil.copytree(world.checkpoint, folder)
        file = "generation_config.json" if name == "suppressed" else "tokenizer.json"
        (folder / file).write_text((folder / file).read_text() + change)
        (found,) = find_entries([str(folder)])
        names.add(identity(found, "auto", CPU))
    assert len(names) == 3
    (found,) = find_entries([str(world.checkpoint)])
    assert identity(found, "auto", CPU) in names
