"""The rerun rule, the lock, and files that are never half."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lora_whisper.errors import UserError
from lora_whisper.run_folder import (
    MARKER,
    RunFolder,
    existing_run,
    locked,
    rerun_rule,
    write_json,
    written_whole,
)


def a_run(path: Path, complete: bool) -> RunFolder:
    path.mkdir(parents=True)
    folder = RunFolder(path)
    folder.config.write_text(MARKER + "name: x\n")
    if complete:
        folder.summary.write_text("{}")
    return folder


def test_absent_and_empty_folders_are_new(tmp_path: Path) -> None:
    assert rerun_rule(RunFolder(tmp_path / "none"), overwrite=False, resume=False) == "new"
    (tmp_path / "empty").mkdir()
    assert rerun_rule(RunFolder(tmp_path / "empty"), overwrite=False, resume=True) == "new"


@pytest.mark.parametrize(
    ("complete", "overwrite", "resume", "start"),
    [
        (True, True, False, "new"),
        (False, True, False, "new"),
        (True, False, True, "complete"),
        (False, False, True, "resume"),
    ],
)
def test_an_existing_run_does_what_was_asked(
    tmp_path: Path, complete: bool, overwrite: bool, resume: bool, start: str
) -> None:
    folder = a_run(tmp_path / "run", complete)
    assert rerun_rule(folder, overwrite, resume) == start
    assert folder.is_run(), "the rule only says; nothing is removed"


@pytest.mark.parametrize("complete", [True, False])
def test_an_existing_run_is_refused_unasked(tmp_path: Path, complete: bool) -> None:
    folder = a_run(tmp_path / "run", complete)
    with pytest.raises(UserError, match=r"resume=auto .* overwrite=true"):
        rerun_rule(folder, overwrite=False, resume=False)


@pytest.mark.parametrize(("overwrite", "resume"), [(True, False), (False, True), (False, False)])
def test_a_folder_with_other_things_is_never_touched(
    tmp_path: Path, overwrite: bool, resume: bool
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "config.yaml").write_text("theme: hugo\n")
    with pytest.raises(UserError, match="is not a run"):
        rerun_rule(RunFolder(tmp_path), overwrite, resume)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_run_that_is_none_is_told_what_is_there(tmp_path: Path) -> None:
    a_run(tmp_path / "good", complete=True)
    with pytest.raises(UserError, match="no such folder") as error:
        existing_run(str(tmp_path / "goood"))
    assert "good" in str(error.value)
    with pytest.raises(UserError, match="not a run"):
        existing_run(str(tmp_path))
    a_run(tmp_path / "half", complete=False)
    with pytest.raises(UserError, match="unfinished"):
        existing_run(str(tmp_path / "half"))


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run"
    script = (
        "import sys, pathlib\n"
        "from lora_whisper.run_folder import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="in use by another process"), locked(path):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with locked(path):
        pass


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "summary.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "a"
    with written_whole(folder) as aside:
        (aside / "one").write_text("1")
        assert not folder.exists()
    with contextlib.suppress(KeyboardInterrupt), written_whole(folder) as aside:
        (aside / "two").write_text("2")
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["one"]
    with written_whole(folder) as aside:
        (aside / "two").write_text("2")
    assert [path.name for path in folder.iterdir()] == ["two"]
    assert [path.name for path in folder.parent.iterdir()] == ["a"]
