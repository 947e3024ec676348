"""The console: what moves on a terminal, what is written elsewhere, and the log's file."""

from __future__ import annotations

import errno
import io
import logging
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lora_whisper import terminal
from lora_whisper.errors import UserError
from lora_whisper.terminal import hanging


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a console without a terminal writes."""
    written = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=written, width=80))
    return written


@pytest.mark.parametrize(
    ("is_terminal", "ci", "expected"),
    [(True, "", True), (True, "true", False), (True, "1", False), (False, "", False)],
)
def test_a_bar_moves_on_a_terminal_that_is_not_a_cis(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, ci: str, expected: bool
) -> None:
    console = Console(file=io.StringIO(), force_terminal=is_terminal)
    monkeypatch.setattr(terminal, "console", console)
    monkeypatch.setenv("CI", ci)
    assert terminal.is_live() is expected


@pytest.mark.parametrize(("part_seconds", "lines"), [(0.25, 8), (0.1, 4), (0.01, 0)])
def test_long_work_is_about_ten_plain_lines_and_short_work_none(
    part_seconds: float, lines: int, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 200 parts that are left, as a fifth was done before."""
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.work("scoring", 250, done=50) as work:
        for done in range(51, 251):
            now[0] += part_seconds
            work.update(done)
    found = written.getvalue().splitlines()
    assert len(found) == lines
    assert not found or found[-1].startswith("scoring 250/250")


def test_long_work_says_how_long_as_soon_as_it_can_know(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.work("scoring base", 231) as work:
        for done in range(1, 25):
            now[0] += 60 if done == 1 else 3  # what starts up is no measure of the others
            work.update(done)
    first, second = written.getvalue().splitlines()
    assert first == "scoring base 3/231 1:06 left 11:24", "not only after a tenth"
    assert second == "scoring base 24/231 2:09 left 10:21"


def test_few_parts_that_take_long_tell_no_time_before_it_is_known(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.work("scoring base", 8) as work:
        for done, seconds in enumerate((70, 20, 20, 10), 1):
            now[0] += seconds
            work.update(done)
    assert written.getvalue().splitlines() == [
        "scoring base 1/8 1:10",
        "scoring base 2/8 1:30",
        "scoring base 3/8 1:50 left 1:40",
        "scoring base 4/8 2:00 left 1:07",
    ]


def test_a_bar_tells_no_time_before_it_is_known() -> None:
    now = [0.0]
    progress = Progress(get_time=lambda: now[0], speed_estimate_period=3600.0)
    column, work = terminal._TimeLeft(compact=True), terminal._LiveWork(progress, "scoring", 8, 0)
    shown = []
    for done in range(1, 5):
        now[0] += 40  # slower than rich's own half minute
        work.update(done)
        shown.append(str(column.render(progress.tasks[0])))
    assert shown == ["-:--", "-:--", "03:20", "02:40"]


def test_the_logs_file_has_levels_and_how_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    log = logging.getLogger("lora_whisper")
    log.setLevel(logging.INFO)

    def work() -> None:
        with terminal.log_to_file(path):
            log.info("a line")
            log.warning("a warning")
            raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        work()
    log.info("after the end")
    lines = path.read_text().splitlines()
    assert lines[0].endswith("INFO a line")
    assert lines[1].endswith("WARNING a warning")
    assert "ERROR ended by ValueError('no luck')" in lines[2]
    assert "after the end" not in path.read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_left_to_others_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    """/dev/full takes no byte; nor does a disk on which a checkpoint has found no room."""

    def work() -> None:
        with terminal.log_to_file(Path("/dev/full")):
            logging.getLogger("lora_whisper").warning("a warning")
            raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="the disk is full"):
        work()
    assert "Traceback" not in capsys.readouterr().err


def test_markup_in_a_log_line_is_text(written: io.StringIO) -> None:
    """File names may have brackets, which rich would take for colours."""
    record = logging.LogRecord("x", logging.WARNING, "", 0, "left out [red]a.wav[/]", None, None)
    terminal._ConsoleHandler().emit(record)
    assert written.getvalue() == "left out [red]a.wav[/]\n"


def test_the_console_is_one_however_often_it_is_asked_for() -> None:
    handlers = logging.getLogger("lora_whisper").handlers
    terminal.log_to_console()
    before = len(handlers)
    terminal.log_to_console()
    assert len(handlers) == before


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (59, "less than a minute"),
        (60, "about 1 min"),
        (1490, "about 25 min"),
        (89 * 60, "about 89 min"),
        (2.46 * 3600, "about 2.5 h"),
        (31.2 * 3600, "about 31 h"),
        (75 * 3600, "about 3 days"),
    ],
)
def test_about(seconds: float, expected: str) -> None:
    assert terminal.about(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0:00"), (65.4, "1:05"), (59.6, "1:00"), (7384, "2:03:04")]
)
def test_clock(seconds: float, expected: str) -> None:
    assert terminal.clock(seconds) == expected


def test_figures_with_their_units() -> None:
    assert terminal.percent(0.1234) == "12.3 %"
    assert terminal.megabytes(3_140_000) == "3.1 MB"
    assert terminal.gigabytes(10_350_000_000) == "10.3 GB"


def test_what_libraries_say_of_themselves_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """bitsandbytes misses a kernel on import, on processors with AVX512-BF16."""
    terminal.quiet_libraries()
    library = logging.getLogger("bitsandbytes.backends.cpu.ops")
    library.warning("Failed to load CPU gemm_4bit_forward from kernels-community")
    assert not caplog.records
    library.error("broken")
    assert [record.message for record in caplog.records] == ["broken"]


# ── streams ──────────────────────────────────────────────────────────────────────────────────


class Broken(io.TextIOWrapper):
    """A stream whose writing fails."""

    def __init__(self, error: Exception):
        super().__init__(io.BytesIO(), encoding="utf-8")
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        BlockingIOError(errno.EAGAIN, "would block"),
        ValueError("I/O operation on closed file"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", terminal.STREAMS)
def test_work_goes_on_without_the_display(
    monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    monkeypatch.setattr(sys, name, Broken(error))
    shown = Console(width=80, stderr=name == "stderr")
    with terminal.guarded():
        for _ in range(2):
            print("a line", file=getattr(sys, name), flush=True)
            shown.print("a line", Table("a table"))


@pytest.mark.parametrize("name", terminal.STREAMS)
def test_a_stream_may_be_missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where a process is started with `>&-`, Python has None."""
    monkeypatch.setattr(sys, name, None)
    with terminal.guarded():
        print("a line", file=getattr(sys, name), flush=True)
        Console(width=80, stderr=name == "stderr").print(Table("a table"))
        assert not getattr(sys, name).isatty()
        terminal.require_delivered()
        with pytest.raises(UserError) if name == "stdout" else nullcontext():
            terminal.print_result("what it is for")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_replaced(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with terminal.guarded():
        print("a – … ☃ \udcff b")
        Console(width=80).print("ሰላም …", Table("ቀን"))
    stream.seek(0)
    assert "a " in stream.read()


def test_a_guard_is_one_and_goes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stdout
    with terminal.guarded():
        guard = sys.stdout
        with terminal.guarded():
            assert sys.stdout is guard
        assert sys.stdout is guard
    assert sys.stdout is before


def test_a_result_that_does_not_arrive_is_an_error_unless_nobody_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for error, is_refused in ((errno.ENOSPC, True), (errno.EPIPE, False), (errno.EIO, False)):
        monkeypatch.setattr(sys, "stdout", Broken(OSError(error, "why")))
        with terminal.guarded():
            refused = pytest.raises(UserError) if is_refused else nullcontext()
            with refused:
                terminal.print_result("{}")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "> /dev/full", "| true"])
@pytest.mark.parametrize("variables", ["", "LC_ALL=POSIX HOME=/dev/null COLUMNS=20 TERM=dumb"])
def test_help_ends_well_whatever_becomes_of_it(closed: str, variables: str) -> None:
    python = f"{variables} PYTHONIOENCODING=latin-1 {sys.executable}"
    line = f"set -o pipefail; {python} -m lora_whisper --help {closed}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    lost = "error: standard output cannot be written to: No space left on device.\n"
    expected = (2, lost) if closed == "> /dev/full" else (0, "")
    assert (done.returncode, done.stderr) == expected


# ── lines of the log ─────────────────────────────────────────────────────────────────────────


def test_a_long_line_goes_on_below_its_text() -> None:
    line = "base        openai/whisper-small, 241.7 M parameters, window 30 s, quantization none"
    assert hanging(line, 60).splitlines() == [
        "base        openai/whisper-small, 241.7 M parameters, window",
        "            30 s, quantization none",
    ]
    assert hanging(line, 100) == line


def test_what_ends_a_command_is_broken_between_words_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not in a file, where others look for it."""
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    message = f"error: two of them:\n  - {words} fifteen sixteen\n    pip install {words} more"
    for is_terminal in (True, False):
        shown = io.StringIO()
        monkeypatch.setattr(shown, "isatty", lambda answer=is_terminal: answer)
        monkeypatch.setattr(sys, "stderr", shown)
        monkeypatch.setattr(terminal, "console", Console(width=80))
        terminal.print_error(message)
        lines = shown.getvalue().splitlines()
        assert len(lines) == (4 if is_terminal else 3)
        assert shown.getvalue().split() == message.split()
    monkeypatch.setattr(shown, "isatty", lambda: True)
    terminal.print_error(message)
    assert "\n    fourteen fifteen sixteen\n    pip install one" in shown.getvalue()


@pytest.mark.parametrize("width", [10, 40, 80])
def test_paths_and_commands_stay_whole(width: int) -> None:
    path = "/data/" + "a-long_name/" * 12 + "train.jsonl"
    lines = hanging(f"splits      {path} has others\n  {path} too", width).splitlines()
    assert sum(path in line for line in lines) == 2
    command = f"next        lora-whisper train data.train={path} name=a model=small"
    assert hanging(command, width) == command


def test_nothing_is_lost_in_between() -> None:
    message = "warning     one two three\n\n  · four five six seven\nerror: eight nine"
    for width in range(14, 60):
        found = hanging(message, width)
        assert found.split() == message.split()
        assert all(len(line) <= max(24, width) for line in found.splitlines())
