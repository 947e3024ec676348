"""What `run=…` is told where no run is, and that it works when it is typed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lora_whisper.errors import UserError
from lora_whisper.evaluation.run_summary import write_summary
from lora_whisper.files import write_json
from lora_whisper.lora.resolve import Asking, resolve_run
from lora_whisper.run_folder import RECIPE_FILE, RunFolder
from tests.cli.conftest import Line, Refusal, World
from tests.cli.test_merge import adapter
from tests.cli.toy_run import toy_run


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run, an adapter, a base and what `merge adapter=…` writes, in the current folder."""
    run, summary = toy_run(tmp_path / "outputs/a")
    write_summary(run, summary)
    (run.checkpoints / "step-000003").mkdir(parents=True)
    shutil.copytree(run.adapter, tmp_path / "my adapter")
    for name in ("base", "outputs/m/merged"):
        write_json(tmp_path / name / "config.json", {})
    write_json(tmp_path / "outputs/m/merged" / RECIPE_FILE, {})
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "command", "said"),
    [
        *[(f"outputs/a/{part}", "merge", "lies in a run. Type run=outputs/a")
          for part in ("adapter", "checkpoints", "checkpoints/step-000003", "evaluation/base")],
        ("my adapter", "merge", "an adapter, and no run.\nType 'adapter=my adapter'"),
        ("my adapter", "evaluate", "Type 'models=[my adapter]' data.test=…"),
        ("my adapter", "export", "merge 'adapter=my adapter', and then run=outputs/my-adapter"),
        ("my adapter", "push", "Type hf upload OWNER/NAME 'my adapter'"),
        ("base", "merge", "a whole model, and no run.\nType adapter=… base=base"),
        ("base", "evaluate", "Type 'models=[base]' data.test=…"),
        ("base", "export", "export takes a run, or the folder that merge adapter=… has written"),
        ("base", "push", "Type hf upload OWNER/NAME base"),
        ("outputs/m", "merge", "It is merged already"),
        ("outputs/m", "evaluate", "Type 'models=[outputs/m/merged]' data.test=…"),
        ("outputs/m/merged", "export", "Type run=outputs/m"),
        ("outputs/m", "push", "Type hf upload OWNER/NAME outputs/m/merged"),
        ("outputs", "merge", "Runs found there: outputs/a"),
        ("gone", "merge", "there is no such folder"),
    ],
)  # fmt: skip
def test_what_lies_there_is_named_with_what_to_type(
    given: str, command: Asking, said: str, folders: None
) -> None:
    with pytest.raises(UserError) as raised:
        resolve_run(given, command)
    assert f"run={given}: " in str(raised.value)
    assert said in str(raised.value)


def test_from_inside_a_run_it_is_named_in_full(
    folders: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("outputs/a/adapter")
    with pytest.raises(UserError, match=f"Type run={tmp_path}/outputs/a$"):
        resolve_run(".", "merge")
    assert resolve_run("..", "merge").path == Path("..")


def test_every_command_says_so_and_what_it_says_works(
    world: World, line: Line, refusal: Refusal
) -> None:
    folder = adapter(Path("alone"), world.checkpoint)
    for command in ("merge", "evaluate", "export", "push"):
        more = {"export": ["format=ctranslate2"], "push": ["repo=owner/name"]}.get(command, [])
        assert "run=alone: an adapter, and no run" in refusal(command, f"run={folder}", *more)
    assert line("merge", "adapter=alone") == 0
    assert line("export", "run=outputs/alone", "format=ctranslate2", "parity.utterances=0") == 0
    test_set = f"data.test={world.speech / 'test.jsonl'}"
    assert line("evaluate", "models=[alone]", test_set, "evaluation.max_utterances=1") == 0
    assert not RunFolder(Path("alone")).merged.exists()
