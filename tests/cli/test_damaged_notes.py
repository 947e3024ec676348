"""Damage to what commands note for each other: one message, and what it says mends it."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_whisper.cli.app import _of_another_process
from lora_whisper.errors import UserError
from lora_whisper.evaluation.models import find_entries
from lora_whisper.files import as_written
from lora_whisper.lora.recipe import merged_recipe
from lora_whisper.run_folder import HOLDERS, MARKER, MERGED_FILES, RunFolder
from tests.cli.conftest import QUICK, Line, Refusal, World

DAMAGE = ("", '{"adapters', "null", "[]", '"x"', "{}", "[" * 10_000, "\udcff")
ADAPTER_WEIGHTS = "adapter/adapter_model.safetensors"
MERGE_AGAIN = "merge run=outputs/a overwrite=true"


@pytest.mark.parametrize("text", DAMAGE)
def test_damaged_notes_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "note.json"
    assert as_written(path) is None, "nothing is there"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert as_written(path, {"key"}) is None
    path.write_text('{"key": null, "more": 1}')
    assert as_written(path, {"key"}) == {"key": None, "more": 1}


@pytest.mark.parametrize("text", [*DAMAGE[:-1], '{"adapters": 3}', '{"adapters": [{"name": "a"}]}'])
@pytest.mark.parametrize("is_run", [True, False])
def test_a_damaged_recipe_is_named_with_what_makes_it_anew(
    tmp_path: Path, text: str, is_run: bool
) -> None:
    folder = RunFolder(tmp_path / "a run")
    folder.merged.mkdir(parents=True)
    assert merged_recipe(folder) is None
    if is_run:
        folder.config.write_text(MARKER)
    (folder.merged / "merge.json").write_text(text)
    with pytest.raises(UserError, match=r"merge\.json is not what was written there") as caught:
        merged_recipe(folder)
    assert "overwrite=true" in str(caught.value)
    if is_run:
        assert shlex.quote(f"run={folder.path}") in str(caught.value)


def test_a_merged_folder_that_lost_something_is_refused_and_made_again(
    finished: list[str], line: Line, refusal: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line("merge", "run=outputs/a") == 0
    whole, merged = Path("whole"), Path("outputs/a/merged")
    shutil.copytree(merged, whole)
    for command, damage in DAMAGES:
        shutil.rmtree(merged, ignore_errors=True)
        shutil.copytree(whole, merged)
        damage(merged)
        capsys.readouterr()
        found = refusal(*command)
        assert MERGE_AGAIN in found
        assert "Traceback" not in found
    assert not Path("outputs/a/export").exists()
    assert line("merge", "run=outputs/a", "overwrite=true") == 0, "what they all say"


EXPORT = ("export", "run=outputs/a", "format=openai", "parity.utterances=0")
EVALUATE = ("evaluate", "run=outputs/a", *QUICK)


def lost(name: str) -> Callable[[Path], None]:
    return lambda merged: (merged / name).unlink()


def in_place_of_it(merged: Path) -> None:
    shutil.rmtree(merged)
    merged.write_text("x")


DAMAGES = (
    *((EXPORT, lost(name)) for name in (*MERGED_FILES, "merge.json")),
    (EXPORT, lambda merged: (merged / "merge.json").write_text("[]")),
    (EVALUATE, lambda merged: (merged / "merge.json").write_text("null")),
    (EXPORT, in_place_of_it),
)


def set_in(path: str, key: str, value: object) -> Callable[[], object]:
    def change() -> None:
        known = json.loads(Path(path).read_text())
        Path(path).write_text(json.dumps(known | {key: value}))

    return change


PUSH = ("push", "run=outputs/a", "repo=ada/sw", "base=ada/toy", "dry_run=true")
MERGED = "outputs/a/merged"


@pytest.mark.parametrize("key", ["use_rslora", "lora_alpha"])
def test_other_settings_are_another_adapter(
    finished: list[str], line: Line, refusal: Refusal, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    """The tensors are those that were trained, and what they add is another matter."""
    config = "outputs/a/adapter/adapter_config.json"
    set_in(config, "base_model_name_or_path", "elsewhere")()
    set_in(config, "target_modules", json.loads(Path(config).read_text())["target_modules"][::-1])()
    assert line(*PUSH) == 0, "neither where its base lay nor an order decides on anything"
    set_in(config, key, {"use_rslora": True, "lora_alpha": 64.0}[key])()
    for command in (PUSH, ("merge", "run=outputs/a"), EXPORT, EVALUATE):
        capsys.readouterr()
        assert "adapter_config.json is not what the run trained" in refusal(*command)
    assert line("report", "outputs") == 0
    assert "is of other weights or settings" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "change",
    [
        set_in(f"{MERGED}/config.json", "activation_function", "relu"),
        set_in(f"{MERGED}/generation_config.json", "repetition_penalty", 50.0),
        lambda: Path(MERGED, "merges.txt").write_text("#version: 0.2\n"),
    ],
)
def test_other_files_beside_the_weights_are_another_merged_model(
    finished: list[str],
    line: Line,
    refusal: Refusal,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[], object],
) -> None:
    assert line("merge", "run=outputs/a") == 0
    assert line(*PUSH, "what=merged") == 0
    change()
    for command in ((*PUSH, "what=merged"), EXPORT):
        capsys.readouterr()
        found = refusal(*command)
        assert "is not the model that was merged and scored there" in found
        assert MERGE_AGAIN in found
    assert line("merge", "run=outputs/a", "overwrite=true") == 0
    assert line(*PUSH, "what=merged") == 0


def test_a_damaged_report_is_replaced_where_that_is_asked_for(
    finished: list[str], line: Line, refusal: Refusal
) -> None:
    assert line(*EVALUATE) == 0
    results = Path("outputs/a/evaluation.json")
    for text in ("", "null", "{}", '{"models": ['):
        results.write_text(text)
        assert "evaluation.json is not what was written there" in refusal(*EVALUATE)
    results.write_text("null")
    assert line("merge", "run=outputs/a") == 0, "which asks what the report is of"
    assert line(*EVALUATE, "overwrite=true") == 0
    assert json.loads(results.read_text())["scores"]


def test_a_damaged_summary_is_written_again_from_a_checkpoint_and_never_by_training_anew(
    finished: list[str], line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    summary, weights = Path("outputs/a/summary.json"), Path("outputs/a", ADAPTER_WEIGHTS)
    before, whole = weights.read_bytes(), json.loads(summary.read_text())
    summary.write_text("{}")
    assert line("train", *finished, "resume=auto") == 0
    assert json.loads(summary.read_text())["adapter"]["wer"] == whole["adapter"]["wer"]
    assert weights.read_bytes() == before
    shutil.rmtree("outputs/a/checkpoints")
    summary.write_text("{}")
    assert line("train", *finished, "resume=auto") == 2
    assert "summary.json is not what was written there" in capsys.readouterr().err
    assert weights.read_bytes() == before


def test_what_holds_runs_takes_in_no_others(
    world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search that is replaced would take them along."""
    for file in HOLDERS:
        folder = Path("outputs/searches/s", file)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.write_text("{}")
        for inner in ("searches/s/mine", "searches/s/deep/mine"):
            assert line("train", *world.arguments(inner)) == 2
            assert "outputs/searches/s. Type another name=…" in capsys.readouterr().err
        folder.unlink()


def test_points_that_write_to_one_run_are_refused(
    finished: list[str], line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, swept in (("merge", "dtype=float16,float32"), ("evaluate", "seed=1,2")):
        assert line(command, "-m", "run=outputs/a", swept) == 2
        assert "two points would share this folder" in capsys.readouterr().err
    assert line("export", "-m", "run=outputs/a", "format=onnx", "dtype=float16,float32") == 2
    assert "two points would share this folder" in capsys.readouterr().err


def test_an_adapter_called_base_is_not_taken_for_the_base(trained: Path) -> None:
    place = trained.parent / "base"
    place.symlink_to(trained)
    try:
        names = [one.name for one in find_entries([str(place)], False, None)]
    finally:
        place.unlink()
    assert names == ["outputs-base"]


@pytest.mark.parametrize("command", ["train", "merge", "check", "evaluate"])
def test_nothing_is_put_into_a_run(refusal: Refusal, finished: list[str], command: str) -> None:
    """Replacing the run would take it along."""
    arguments = {
        "train": [*finished[1:], "name=a/inner"],
        "merge": ["adapter=outputs/a/adapter", "name=a/inner"],
        "check": [*finished[1:6], "name=a/inner"],
        "evaluate": ["models=[outputs/a]", finished[4], "data.language=en", "name=a/inner"],
    }
    assert "outputs/a/inner lies in the run outputs/a" in refusal(command, *arguments[command])
    assert not Path("outputs/a/inner").exists()


@pytest.mark.parametrize(
    "name", ["new\nline", "t\tb", "a\\b", "\u202e", "x" * 256, "a//b", "..", "", "sweeps"]
)
def test_names_that_no_file_should_have_are_refused_before_anything_is_done(
    refusal: Refusal, finished: list[str], name: str
) -> None:
    assert "name" in refusal("train", *finished[1:], f"name='{name}'")


@pytest.mark.parametrize(
    ("said", "is_lost"),
    [
        ("[pair.cc:537] Read error [127.0.0.1]:27569: Connection reset by peer. GLHF!", True),
        ("NCCL error: remote process exited or there was a network error", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_who_is_left_behind_says_so(said: str, is_lost: bool) -> None:
    found = _of_another_process(RuntimeError(said))
    assert (found is not None) == is_lost
    assert not is_lost or "resume=auto" in str(found)
    assert _of_another_process(ValueError(said)) is None
