"""Processes that answer: what becomes of the others when one crashes, hangs or is orphaned."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lora_whisper.data import isolation
from lora_whisper.data.isolation import (
    Allow,
    Answer,
    Crashed,
    Fields,
    Pool,
    TookTooLong,
    serve,
)


def answer(fields: Fields, content: bytes, allow: Allow) -> Answer:
    """What the processes of these tests do; it runs in them."""
    allow(fields.get("seconds", 5.0), 300e6)
    match fields["do"]:
        case "crash":
            ctypes.string_at(0)
        case "loop":
            while True:
                pass
        case "fill":
            try:
                return {"filled": len(bytearray(10**9))}, None
            except MemoryError:
                return {"filled": 0}, None
        case "print":
            os.write(1, b"what a library says\n")
    told = {"pid": os.getpid(), "do": fields["do"]}
    return told, np.frombuffer(content, np.float32) if content else None


def serve_here() -> None:
    serve(answer)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(f"{__name__}:serve_here")
    yield made
    made.close()


def test_an_answer_comes_as_it_was_given(pool: Pool) -> None:
    samples = np.random.default_rng(0).normal(size=3_000_000).astype(np.float32)
    fields, found = pool.ask({"do": "é\udcff"}, samples.tobytes())
    assert fields["do"] == "é\udcff"
    np.testing.assert_array_equal(found, samples)
    assert pool.ask({"do": "print"})[1] is None


def test_a_crash_is_told_and_costs_one_request(pool: Pool) -> None:
    with pytest.raises(Crashed, match="SIGSEGV"):
        pool.ask({"do": "crash"})
    assert pool.ask({"do": "on"})[0]["do"] == "on"


def test_what_takes_too_long_is_ended_by_the_kernel(pool: Pool) -> None:
    started = time.monotonic()
    with pytest.raises(TookTooLong, match="0 s"):
        pool.ask({"do": "loop", "seconds": 0.1})
    assert time.monotonic() - started < 20


def test_memory_is_limited(pool: Pool) -> None:
    assert pool.ask({"do": "fill"})[0]["filled"] == 0


def test_one_that_was_killed_while_idle_is_not_held_against_the_next_request(pool: Pool) -> None:
    pid = pool.ask({"do": "first"})[0]["pid"]
    os.kill(pid, signal.SIGKILL)
    assert pool.ask({"do": "second"})[0]["pid"] != pid


def test_one_that_was_suspended_is_not_held_against_its_request(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the whole machine, while the clock goes on."""
    pid = pool.ask({"do": "first"})[0]["pid"]
    monkeypatch.setattr(isolation, "STARTING_SECONDS", 3.0)
    os.kill(pid, signal.SIGSTOP)
    assert pool.ask({"do": "second"})[0]["pid"] != pid


def serve_after_deaths() -> None:
    """Is killed twice before it serves; a file counts."""
    with open(os.environ["STARTS_SO_FAR"], "a+") as file:
        file.write("x")
        if file.tell() < 3:
            os.kill(os.getpid(), signal.SIGKILL)
    serve_here()


def test_one_that_was_killed_while_it_started_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARTS_SO_FAR", str(tmp_path / "starts"))
    made = Pool(f"{__name__}:serve_after_deaths")
    assert made.ask({"do": "on"})[0]["do"] == "on"
    made.close()
    assert (tmp_path / "starts").read_text() == "xxx"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_to_the_whole_job_do_not_reach_it(pool: Pool, name: str) -> None:
    pid = pool.ask({"do": "first"})[0]["pid"]
    assert os.getpgid(pid) != os.getpgrp(), "nor while it starts, before it can ignore them"
    os.kill(pid, getattr(signal, name))
    assert pool.ask({"do": "second"})[0]["pid"] == pid


def test_threads_ask_at_once(pool: Pool) -> None:
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(pool.ask, {"do": str(number)}) for number in range(40)]
    assert [one.result()[0]["do"] for one in asked] == [str(number) for number in range(40)]
    assert 1 <= len(pool._idle) + len(pool._busy) <= (os.cpu_count() or 1)


def test_a_forked_process_has_its_own(pool: Pool) -> None:
    """As the loader's workers are: two that read from one pipe would get each other's answers."""
    mine = pool.ask({"do": "first"})[0]["pid"]
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.write(writing, str(pool.ask({"do": "in the child"})[0]["pid"]).encode())
        pool.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reading, 20)) != mine
    assert pool.ask({"do": "second"})[0]["pid"] == mine
    for pipe in (reading, writing):
        os.close(pipe)


@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_with_who_asked_even_if_that_was_killed(busy: bool) -> None:
    code = f"""if True:
        import threading
        from {__name__} import Pool
        pool = Pool("{__name__}:serve_here")
        pid = pool.ask({{"do": "first"}})[0]["pid"]
        thread = threading.Thread(target=pool.ask, args=({{"do": "loop", "seconds": 100}},))
        if {busy}:
            thread.start()
        print(pid, flush=True)
        threading.Event().wait()
    """
    asking = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    pid = int(asking.stdout.readline())
    asking.kill()
    asking.communicate()
    deadline = time.monotonic() + 20
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_closing_in_another_thread_is_no_harm(pool: Pool) -> None:
    thread = threading.Thread(target=pool.close)
    thread.start()
    thread.join()
    assert pool.ask({"do": "on"})[0]["do"] == "on"
