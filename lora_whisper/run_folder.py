"""A run's folder: what lies where, and the one rule for a folder that is there already.

outputs/NAME/
    config.yaml       resolved configuration; makes the folder a run
    rows.npz          hashes of the rows that it began with
    metrics.jsonl     one object a logged step, units in the keys
    tracking/         files of trackers such as TensorBoard, where one was asked for
    train.log         what the terminal showed, with time stamps
    checkpoints/      to continue from, and the best adapter so far
    adapter/          stock PEFT folder
    evaluation/       scores and hypotheses, by model and test set
    evaluation.json   what `lora-whisper evaluate` found; also as .html and .md
    merged/           stock Transformers folder, after `lora-whisper merge`
    export/FORMAT/    for other programs, after `lora-whisper export`
    report.html       curves, scores, samples and configuration on one page
    summary.json      what the run gave; written when it is complete
    pruned.json       where a search ended it early; such a run has no summary.json
    failure.json      why a point of a sweep failed; gone as soon as it is run again
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import resource
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from lora_whisper.errors import UserError

MODELS = ("base", "adapter", "merged")


SUMMARY_FORMAT = 2  # raised when a key of summary.json changes its meaning
SUMMARY_KEYS = {"checkpoint", "base", "adapter"}  # that every version wrote
RESULTS_KEYS = {"models", "scores"}  # of evaluation.json
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota used up, file too large
METADATA_FILE = "lora_whisper.json"  # in an adapter's folder: what it is, and was worth
RECIPE_FILE = "merge.json"  # in a merged folder: what it was made from
SEARCH_FILE = "search.json"  # what is searched, which makes a folder a search's
PLAN_FILE = "sweep.json"  # {"points": […]}: the names of all points that a sweep has
HOLDERS = {SEARCH_FILE: "search", PLAN_FILE: "sweep", RECIPE_FILE: "merged model"}
# Of other programs, which a merged folder has beside its weights, whatever its base came with.
MERGED_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
)
OWN_SET = "test"  # folder below evaluation/MODEL/ of the scores that summary.json holds
SCORE, HYPOTHESES = "score.json", "hypotheses.jsonl"  # in such a folder, and written together
MARKER = "# A run of lora_whisper; this file makes its folder one.\n"


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def rows(self) -> Path:
        return self.path / "rows.npz"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def tracking(self) -> Path:
        return self.path / "tracking"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def merged(self) -> Path:
        return self.path / "merged"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def results(self) -> Path:
        """Of `evaluate`; beside it lie the same for people, as .html and .md."""
        return self.path / "evaluation.json"

    @property
    def export(self) -> Path:
        """Of `export`; a folder for each format."""
        return self.path / "export"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def pruned(self) -> Path:
        return self.path / "pruned.json"

    @property
    def failure(self) -> Path:
        """{"reason": …} of a sweep's point that failed; there may be no run beside it."""
        return self.path / "failure.json"

    def config_text(self) -> str:
        """config.yaml as it is, below the line that makes it ours."""
        return self.config.read_text(encoding="utf-8").removeprefix(MARKER)

    def is_run(self) -> bool:
        """Whether config.yaml was written by us: other programs have a file of that name, too."""
        return self.config.is_file() and self.config.read_bytes().startswith(MARKER.encode())

    def is_complete(self) -> bool:
        return self.is_run() and self.summary.is_file()

    def last_checkpoint(self) -> Path | None:
        """That a run goes on from, or None."""
        return next(iter(reversed(step_folders(self.checkpoints))), None)

    def reopen(self) -> None:
        """Take away what a complete run says of an adapter that is going to be another one."""
        for file in (self.summary, self.adapter / METADATA_FILE):
            file.unlink(missing_ok=True)
        scores = (self.evaluation / name for name in ("merged", "adapter"))
        for path in (self.merged, self.export, *scores):
            if path.exists():
                remove_folder(path)

    def remove(self) -> None:
        """Delete the run, under another name first: cut short, it leaves no half of a run."""
        assert self.is_run(), self.path
        remove_folder(self.path)


def step_folders(checkpoints: Path) -> list[Path]:
    """The checkpoints after so many steps, the last one last; what else lies there is none."""
    named = (path for path in checkpoints.glob("step-*") if re.fullmatch(r"step-\d+", path.name))
    return sorted((path for path in named if path.is_dir()), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


Start = Literal["new", "resume", "complete"]


def rerun_rule(
    folder: RunFolder, overwrite: bool, resume: bool, can_be_longer: bool = False
) -> Start:
    """Say what `train` does with `folder`; nothing is written or removed here.

    A folder that is absent, or empty but for the reason of a failure and for what a killed start
    left, is a new run. An existing run
    is refused unless `overwrite` (it becomes new) or `resume` (it is continued, or reported as
    complete) is given. A folder with anything else in it is never touched.

    Raises:
        UserError: the run exists and neither was given, or the folder is not a run.
    """
    # `can_be_longer`: whether its settings allow more steps, see `free_to_change`.
    path = folder.path
    require_outside_runs(path)
    if not path.exists() or (path.is_dir() and contents(path) <= {folder.failure.name}):
        return "new"
    if not folder.is_run():
        raise UserError(
            f"{path} exists and is not a run (it holds no config.yaml of ours).\n"
            "It is left alone. Type another name=…, or take it away."
        )
    if overwrite:
        return "new"
    if resume:
        if not folder.is_complete():
            return "resume"
        if folder.last_checkpoint() is None:  # nothing that a new summary could be made of
            read_whole_summary(folder)
        return "complete" if as_written(folder.summary, SUMMARY_KEYS) else "resume"
    if not folder.is_complete():
        raise UserError(
            f"The run {path} exists and is unfinished.\n"
            "Type resume=auto to continue it, overwrite=true to replace it, or another name=…"
        )
    longer = "resume=auto training.max_steps=… to make it longer, " if can_be_longer else ""
    raise UserError(
        f"The run {path} exists and is complete.\n"
        f"Type {further(path)}, {longer}overwrite=true to replace it, or another name=…"
    )


def require_outside_runs(path: Path) -> None:
    """See that a new folder is no part of a run, which would take it along when it is replaced.

    Raises:
        UserError: it is.
    """
    around = next((folder for folder in path.parents if RunFolder(folder).is_run()), None)
    if around is not None:
        raise UserError(f"{path} lies in the run {around}. Type another name=…")


def require_own_place(path: Path) -> None:
    """See that what is typed alone is no new part of anything, neither a run nor what holds some.

    Raises:
        UserError: it is.
    """
    require_outside_runs(path)
    for around in path.parents:
        for file, what in HOLDERS.items():
            if (around / file).is_file() and not RunFolder(path).is_run():
                raise UserError(f"{path} lies in the {what} {around}. Type another name=…")


def further(run: Path) -> str:
    """What to type to train on where a complete run has ended."""
    return f"{shlex.quote(f'adapter.init_from={run}')} name=… to train its adapter further"


def existing_run(path: str) -> RunFolder:
    """The run in the folder `path`, which must be complete.

    Raises:
        UserError: there is no such folder, it is not a run, or the run is unfinished.
    """
    folder = RunFolder(Path(path).expanduser())
    if not folder.path.is_dir():
        named = Path("outputs") / path
        meant = f" Type {shlex.quote(f'run={named}')}." if RunFolder(named).is_run() else ""
        raise UserError(
            f"run={path}: there is no such folder.{meant}{_known_runs(folder.path.parent)}"
        )
    if not folder.is_run():
        raise UserError(
            f"run={path}: this folder is not a run (it holds no config.yaml of ours)."
            + _known_runs(folder.path)
        )
    if folder.pruned.is_file() and not folder.is_complete():
        raise UserError(
            f"run={path}: a search ended this run early, since others were better.\n"
            f"Type the search's best one, or another that is complete."
            + _known_runs(folder.path.parent)
        )
    if not folder.is_complete():
        raise UserError(
            f"run={path}: this run is unfinished (it holds no summary.json).\n"
            "Finish it with the command that began it and resume=auto."
        )
    read_whole_summary(folder)
    return folder


def run_around(given: str) -> Path | None:
    """The run that a folder lies in, such as its checkpoint, as it would be typed; or None."""
    path = Path(given).expanduser()
    above = (*path.parents, *path.absolute().parents)
    return next((folder for folder in above if RunFolder(folder).is_run()), None)


def read_whole_summary(folder: RunFolder) -> dict[str, Any]:
    """What summary.json says, as it was written.

    Raises:
        UserError: it was damaged or edited since.
    """
    values = as_written(folder.summary, SUMMARY_KEYS)
    if values is None:
        raise damaged_summary(folder)
    return values


def damaged_summary(folder: RunFolder) -> UserError:
    return UserError(
        f"{folder.summary} is not what was written there.\n"
        "Bring it back from a copy. Or take it away, and type the command that began the run with "
        "resume=auto, which scores the adapter and writes it again; then merge and export again."
    )


def _known_runs(parent: Path) -> str:
    runs = sorted(str(path.parent) for path in parent.glob("*/summary.json"))
    return "\nRuns found there: " + ", ".join(runs[:10]) if runs else ""


def make_folder(path: Path) -> None:
    """Make a folder that is to be written to, if it is not there.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(
            f"{path} cannot be written to: {error.strerror or error}.\n"
            "Go to a folder of yours, or mend what is named here."
        ) from error


class InUse(UserError):
    """Another process has what this one wants to write to."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the folder `path` for this process; the lock dies with the process, however it ends.

    What a killed process left there is taken away, see `tidy_run`.

    The lock lies beside the folder and not in it, so that an overwritten run keeps its holder.

    Raises:
        InUse: another process holds it.
        UserError: nothing can be written beside it.
    """
    make_folder(path.parent)
    lock = _lock_of(path)
    with open(lock, "w") as handle:
        if not is_acquired(handle, lock):
            raise _in_use(path)
        try:
            tidy_run(path)
            yield
        finally:
            lock.unlink(missing_ok=True)


def require_free(path: Path) -> None:
    """See that no other process holds the folder `path`, before it is asked for; makes nothing.

    Not for a process that holds it itself: looking would let it go.

    Raises:
        InUse: another one does.
    """
    lock = _lock_of(path)
    # What else is wrong with the place, `locked` says.
    with contextlib.suppress(OSError), open(lock, "r+") as handle:
        if not is_acquired(handle, lock) and lock.exists():
            raise _in_use(path)


def _lock_of(path: Path) -> Path:
    return path.parent / f".{path.name}.lock"


def _in_use(path: Path) -> InUse:
    return InUse(f"{path} is in use by another process.\nWait for it, or type another name=…")


def is_acquired(handle: TextIO, lock: Path) -> bool:
    """Take the lock of the open file `lock` for this process, if no other one has it."""
    try:
        # Of the process, not of the open file: loader workers that outlive a SIGKILL of it by some
        # seconds have inherited the file, and must not hold the lock.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    # A holder that just ended may have removed the name of the file that was opened here.
    return lock.exists() and os.path.samestat(os.fstat(handle.fileno()), lock.stat())


# ── writing: whole files and folders, or none; a full disk is said ───────────────────────────
#
# Every file of a run is written here, or into a folder that `written_whole` gives; a test walks the
# sources for others. What a killed process leaves has a name of its own, which `tidy` knows.

UNFINISHED, REPLACED, REMOVED = "part", "replaced", "removed"  # .NAME.part and so on, beside NAME
LEFTOVER = re.compile(rf"\.(.+)\.(?:{UNFINISHED}|{REPLACED}|{REMOVED})")
PARTS = ("adapter", "merged", "export", "checkpoints", "evaluation")  # folders in a run's


class DiskFull(UserError):
    """There is no room for a file, for the reason that is said; `advice` is what helps."""

    def __init__(self, message: str, advice: str):
        super().__init__(message)
        self.advice = advice


@contextlib.contextmanager
def room_for(path: Path, size_bytes: int | None = None) -> Iterator[None]:
    """Turn the system's refusal to store more into `DiskFull`, which names what was written."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFull) or not is_disk_full(error):
            raise
        raise no_room(error, path, size_bytes) from error


def no_room(error: Exception, path: Path | None = None, size_bytes: int | None = None) -> DiskFull:
    """What the system's refusal means: a full disk, a quota or a limit have different cures."""
    if isinstance(error, DiskFull):
        return error
    what = "" if path is None else f" {path} could not be written:"
    needed = "" if size_bytes is None else f" it needs {size_bytes / 1e6:.1f} MB;"
    number = _refusal(error)
    if number == errno.EDQUOT:
        message = f"Your quota on this disk is used up.{what}{needed} {error}."
        return DiskFull(message, "Free some of what is yours there")
    if number != errno.EFBIG:
        free = shutil.disk_usage(_existing(path or Path.cwd())).free / 1e6
        message = f"The disk is full.{what}{needed} {free:.1f} MB are free there ({error})."
        return DiskFull(message, "Free some space")
    limit_bytes = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit_bytes == resource.RLIM_INFINITY:
        message = f"The file is too large for its file system.{what}{needed} {error}."
        return DiskFull(message, "Write to another disk")
    limit = f"{limit_bytes / 1e6:.1f} MB a file are allowed (ulimit -f)"
    message = f"The file is larger than this process may write.{what}{needed} {limit}."
    return DiskFull(message, "Raise the limit")


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def is_disk_full(error: Exception) -> bool:
    """Whether there is no room: on the disk, within a quota or a file's largest size."""
    return _refusal(error) is not None


def _refusal(error: Exception) -> int | None:
    """The system's number for that, or SQLite's word, behind what Optuna makes of it.

    safetensors has the number in its text alone.
    """
    if isinstance(error, OSError):
        return error.errno if error.errno in NO_ROOM else None
    if isinstance(error, DiskFull):
        return errno.ENOSPC
    if isinstance(error, UserError):
        return None
    if "database or disk is full" in f"{error} {error.__cause__}":
        return errno.ENOSPC
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match is not None and int(match[1]) in NO_ROOM else None


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file to the disk, inside what `written_whole` gives.

    Raises:
        DiskFull: there is no room.
    """
    with room_for(path, len(data)):
        _write(path, data)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, never half of one.

    Raises:
        DiskFull: there is no room; the old one is as it was.
    """
    with room_for(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = _beside(path, UNFINISHED)
        try:
            _write(aside, data)
            os.replace(aside, path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes `folder`, in place of the old one, when all is written.

    A reader finds the old folder or the new one; when writing fails, nothing has changed.
    """
    is_first = not folder.parent.exists()
    with room_for(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        tidy(folder)
        aside = _beside(folder, UNFINISHED)
        aside.mkdir(parents=True)  # another process may have given up, and taken the parent away
        try:
            yield aside
            for written in [*aside.rglob("*"), aside]:
                sync(written)
            _put_in_place(aside, folder)
            sync(folder.parent)
        finally:
            tidy(folder)
            if is_first and not folder.exists():
                with contextlib.suppress(OSError):  # of others, which are not done
                    folder.parent.rmdir()


def _put_in_place(aside: Path, folder: Path) -> None:
    """Let `aside` have the name; what had it before is left at one of the names that `tidy` knows.

    Linux exchanges two folders at once. Where a file system does not, there is a moment without
    either; killed in it, `tidy` puts the old one back.
    """
    if folder.exists() and not _is_exchanged(aside, folder):
        folder.rename(_beside(folder, REPLACED))
    if aside.exists() and not folder.exists():
        aside.rename(folder)


def _is_exchanged(first: Path, second: Path) -> bool:
    """Exchange the names of two folders, if the system can."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if exchange is None:
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    names = (os.fsencode(first.absolute()), os.fsencode(second.absolute()))
    return bool(exchange(here, names[0], here, names[1], swap) == 0)


def tidy(path: Path) -> None:
    """Take away what a killed process left of writing or removing `path`, beside it.

    A folder that it had put aside, and nothing in its place yet, is put back.
    """
    replaced = _beside(path, REPLACED)
    if replaced.exists() and not path.exists():
        replaced.rename(path)
    for end in (UNFINISHED, REPLACED, REMOVED):
        _remove(_beside(path, end))


def tidy_run(path: Path) -> None:
    """The same of the folder of a run, or of a report, and of all that is written in it.

    Only what this process holds: a search's folder has runs in it that others may be at.
    """
    tidy(path)
    if not path.is_dir():
        return
    inside = [one for part in PARTS for one in (path / part).rglob(".*")]
    mine = [one for one in path.iterdir() if one.is_file() or leftover_of(one) in PARTS]
    for one in mine + inside:
        if (name := leftover_of(one)) is not None:
            tidy(one.with_name(name))


def leftover_of(path: Path) -> str | None:
    """The name that a killed process was writing or removing, where this is what it left."""
    match = LEFTOVER.fullmatch(path.name)
    return match and match[1]


def contents(path: Path) -> set[str]:
    """The names in a folder, if there is one, without what a killed process left."""
    names = path.iterdir() if path.is_dir() else ()
    return {entry.name for entry in names if leftover_of(entry) is None}


def _beside(path: Path, end: str) -> Path:
    return path.with_name(f".{path.name}.{end}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Delete a folder, under another name first: cut short, it leaves no half of one."""
    aside = _beside(path, REMOVED)
    _remove(aside)
    path.rename(aside)
    _remove(aside)


def sync(path: Path) -> None:
    """See that a file's content, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without it, over FUSE
            raise
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    write_whole(path, f"{text}\n".encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def as_written(path: Path, keys: Iterable[str] = ()) -> dict[str, Any] | None:
    """The object with these keys that a file of ours holds; None: not there, or damaged since.

    Its values are believed, since whoever edits them means to.
    """
    with contextlib.suppress(FileNotFoundError, ValueError, RecursionError):
        values = read_json(path)
        if isinstance(values, dict) and values.keys() >= set(keys):
            return values
    return None


def append_jsonl(path: Path, value: dict[str, Any]) -> None:
    """Add a line, or nothing.

    Raises:
        DiskFull: there is no room; the lines before are as they were.
    """
    line = f"{json.dumps(value, ensure_ascii=False)}\n".encode()
    with room_for(path), open(path, "ab", buffering=0) as handle:
        size_bytes = os.fstat(handle.fileno()).st_size
        try:
            if handle.write(line) < len(line):  # the rest says why
                handle.write(line[handle.tell() - size_bytes :])
        except OSError:
            with contextlib.suppress(OSError):  # /dev/full has no size
                handle.truncate(size_bytes)
            raise


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All lines but one that was cut by a crash; none where there is no file."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
