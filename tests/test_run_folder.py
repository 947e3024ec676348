"""The rerun rule, the lock, and files that are never half."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lora_whisper import files
from lora_whisper.errors import UserError
from lora_whisper.files import (
    DiskFull,
    append_jsonl,
    as_written,
    is_disk_full,
    read_json,
    write_json,
    written_whole,
)
from lora_whisper.locks import is_acquired, locked, locked_in_turn, require_free
from lora_whisper.run_folder import MARKER, RunFolder, existing_run, rerun_rule


class Killed(BaseException):
    """Nothing is tidied up after it, as after SIGKILL."""


def killed_at(point: int, exchanges: bool, action: Callable[[], None]) -> bool:
    """Carry it out until that many names have changed; return whether it came to its end."""
    count = itertools.count()

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **named: Any) -> Any:
            if next(count) >= point:
                raise Killed
            return call(*args, **named)

        return step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.replace", dying(os.replace))
        patch.setattr("shutil.rmtree", dying(shutil.rmtree))
        for name in ("rename", "unlink"):
            patch.setattr(Path, name, dying(getattr(Path, name)))
        exchange = dying(files._is_exchanged) if exchanges else lambda first, second: False
        patch.setattr(files, "_is_exchanged", exchange)
        try:
            action()
        except Killed:
            return False
    return True


def a_run(path: Path, complete: bool) -> RunFolder:
    path.mkdir(parents=True)
    folder = RunFolder(path)
    folder.config.write_text(MARKER + "name: x\n")
    if complete:
        folder.summary.write_text('{"checkpoint": "x", "base": null, "adapter": null}')
    return folder


def test_absent_and_empty_folders_are_new(tmp_path: Path) -> None:
    assert rerun_rule(RunFolder(tmp_path / "none"), overwrite=False, resume=False) == "new"
    (tmp_path / "empty").mkdir()
    assert rerun_rule(RunFolder(tmp_path / "empty"), overwrite=False, resume=True) == "new"


@pytest.mark.parametrize("name", [".config.yaml.part", ".failure.json.part", "failure.json"])
def test_what_a_killed_start_left_is_no_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("half")
    for resume in (False, True):
        assert rerun_rule(RunFolder(tmp_path), overwrite=False, resume=resume) == "new"


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
    given = "adapter.init_from" if complete else "resume=auto"
    with pytest.raises(UserError, match=rf"{given}.* overwrite=true"):
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


@pytest.mark.parametrize("damaged", [b"", b"\0\0", b'{"adapter": {', b"[]", b"{}", b"\xff"])
def test_a_damaged_summary_is_named(tmp_path: Path, damaged: bytes) -> None:
    folder = a_run(tmp_path / "mine", complete=True)
    folder.summary.write_bytes(damaged)
    with pytest.raises(UserError, match=r"summary\.json is not what was written there"):
        existing_run(str(folder.path))


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run"
    script = (
        "import sys, pathlib\n"
        "from lora_whisper.locks import locked\n"
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
    with pytest.raises(UserError, match="in use by another process"):
        require_free(path)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    require_free(path)
    with locked(path):
        pass
    require_free(path)
    assert list(tmp_path.iterdir()) == []


def test_another_thread_of_this_process_is_refused_too(tmp_path: Path) -> None:
    """The system holds a process's own locks against others alone."""
    path = tmp_path / "run"
    with locked(path):
        for look in (lambda: require_free(path), lambda: locked(path).__enter__()):
            with pytest.raises(UserError, match="in use"):
                look()
        with locked(tmp_path / "other"):
            pass
    with locked(path):
        pass


def test_brackets_without_end_are_no_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    assert as_written(path) is None
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(path)


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
    with contextlib.suppress(KeyboardInterrupt), written_whole(tmp_path / "new" / "a"):
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("exchanges", [True, False])
def test_killed_at_any_rename_there_is_the_old_folder_or_the_new_one(
    tmp_path: Path, exchanges: bool
) -> None:
    if exchanges:
        (tmp_path / "x").mkdir()
        (tmp_path / "y").mkdir()
        if not files._is_exchanged(tmp_path / "x", tmp_path / "y"):
            pytest.skip("this system does not exchange names")
    folder = tmp_path / "runs" / "a" / "merged"

    def write(text: str) -> None:
        with written_whole(folder) as aside:
            write_json(aside / "said.json", text)

    for point in itertools.count():
        shutil.rmtree(folder.parent, ignore_errors=True)
        write("old")
        survived = killed_at(point, exchanges, lambda: write("new"))
        if exchanges:
            assert read_json(folder / "said.json") in ("old", "new")
        with locked(folder.parent):
            assert read_json(folder / "said.json") in (("new",) if survived else ("old", "new"))
            assert [path.name for path in folder.parent.iterdir()] == ["merged"]
        if survived:
            break
    assert point > 2


def test_a_run_that_is_removed_half_is_not_put_back(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", complete=True)
    assert not killed_at(2, True, folder.remove)
    assert not folder.path.exists()
    with locked(folder.path):
        assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]


def test_what_a_killed_process_left_is_taken_away_where_this_one_holds(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "search")
    mine = (".summary.json.part", "evaluation/base/.test.part/score.json", "export/.ggml.removed/a")
    others = ("trial-1/.summary.json.part", ".trial-2.removed/config.yaml", ".hidden", "a.part")
    for name in (*mine, *others):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text("")
    with locked(run.path):
        left = {str(one.relative_to(run.path)) for one in run.path.rglob("*") if one.is_file()}
        assert left == {*others}


def test_a_folder_is_had_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second waits, and says so once, until the holder lets go."""
    path, holder, told, looks = tmp_path / "run", contextlib.ExitStack(), [], []

    def look(_: float) -> None:
        looks.append("look")
        if len(looks) == 3:
            holder.close()

    holder.enter_context(locked(path))
    monkeypatch.setattr("lora_whisper.locks.time.sleep", look)
    with locked_in_turn(path, lambda: told.append("told")):
        with pytest.raises(UserError, match="in use"):
            require_free(path)
        assert (len(looks), told) == (3, ["told"])
    require_free(path)


def test_a_name_that_the_holder_removed_is_not_taken_for_the_lock(tmp_path: Path) -> None:
    """Two processes would hold it: one the file without a name, the next a new one."""
    path = tmp_path / "run"
    with open(tmp_path / ".run.lock", "w") as handle:
        (tmp_path / ".run.lock").unlink()
        assert not is_acquired(handle, tmp_path / ".run.lock")
    with locked(path):
        pass


def test_the_last_checkpoint_is_that_of_the_highest_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.last_checkpoint() is None
    for name in (
        "step-000100",
        "step-1000000",
        "step-000900",
        "best-2000000",
        ".step-3000000.part",
    ):
        (folder.checkpoints / name).mkdir(parents=True)
    assert folder.last_checkpoint() == folder.checkpoints / "step-1000000"


def test_a_complete_run_that_goes_on_has_no_result_any_more(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", complete=True)
    for kept in (folder.evaluation / "base", folder.adapter, folder.checkpoints):
        kept.mkdir(parents=True)
    for stale in (folder.merged, folder.evaluation / "adapter", folder.evaluation / "merged"):
        stale.mkdir(parents=True)
    folder.reopen()
    assert not folder.is_complete()
    left = [path.relative_to(folder.path) for path in folder.path.rglob("*") if path.is_dir()]
    assert sorted(map(str, left)) == ["adapter", "checkpoints", "evaluation", "evaluation/base"]
    folder.reopen()


@contextlib.contextmanager
def full_disk(size_bytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_said_and_nothing_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with full_disk(100), pytest.raises(DiskFull) as error:
        write_json(path, {"a": "x" * 200})
    assert re.search(r"a\.json could not be written: it needs 2\d\d bytes;", str(error.value))
    assert json.loads(path.read_text()) == {"a": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    with full_disk(100), pytest.raises(DiskFull, match=r"m\.jsonl could not be written"):
        append_jsonl(tmp_path / "m.jsonl", {"a": "x" * 200})
    assert (tmp_path / "m.jsonl").read_bytes() == b""
    append_jsonl(tmp_path / "m.jsonl", {"a": 1})
    with full_disk(20), pytest.raises(DiskFull):
        append_jsonl(tmp_path / "m.jsonl", {"a": "x" * 200})
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"a": 1}


@pytest.mark.parametrize(
    ("number", "cause", "advice"),
    [
        (errno.ENOSPC, r"^The disk is full\. .*a\.json .* [MG]B are free there", "Free some space"),
        (errno.EDQUOT, r"^Your quota on this disk is used up\. .*a\.json", "what is yours"),
        (errno.EFBIG, r"^The file is too large for its file system\. .*a\.json", "another"),
    ],
)
def test_a_disk_a_quota_and_a_limit_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, cause: str, advice: str
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(DiskFull, match=cause) as error:
        write_json(tmp_path / "a.json", {})
    assert advice in error.value.advice
    assert ("B are free" in str(error.value)) == (number == errno.ENOSPC)
    assert not list(tmp_path.iterdir())


def test_a_limit_of_the_process_is_named(tmp_path: Path) -> None:
    with (
        full_disk(2_000_000),
        pytest.raises(DiskFull, match=r"2\.0 MB .*ulimit -f"),
    ):
        write_json(tmp_path / "a.json", {"a": "x" * 2_000_000})


def test_what_a_library_says_of_a_full_disk_is_understood(tmp_path: Path) -> None:
    """safetensors has no error number, and its words are all that there is."""
    tensors = {"a": torch.zeros(1000)}
    folder = tmp_path / "adapter"
    with (
        full_disk(100),
        pytest.raises(DiskFull, match="adapter could not"),
        written_whole(folder) as aside,
    ):
        save_file(tensors, aside / "adapter.safetensors")
    assert list(tmp_path.iterdir()) == []
    assert not is_disk_full(ValueError("(os error 2)"))
    assert not is_disk_full(OSError(2, "No such file"))
