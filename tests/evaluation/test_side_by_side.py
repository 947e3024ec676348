"""Threads that share rows: all of them are done, and a failure ends all."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
import torch

from lora_whisper.evaluation.side_by_side import side_by_side


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_row_comes_once_from_threads_that_work_at_the_same_time(threads: int) -> None:
    met = threading.Barrier(threads, timeout=20)
    seen: dict[int, int] = {}

    def function(part: Sequence[int]) -> Iterator[int]:
        met.wait()
        for row in part:
            seen[row] = threading.get_ident()
            yield row

    assert sorted(side_by_side(threads, function, range(7))) == list(range(7))
    assert len(set(seen.values())) == threads


def test_pytorchs_threads_are_shared_and_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        found = set(side_by_side(2, lambda part: [torch.get_num_threads()] * len(part), range(4)))
        assert found == {2}
        assert torch.get_num_threads() == 4
        new: list[int] = []
        thread = threading.Thread(target=lambda: new.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert new == [4]
    finally:
        torch.set_num_threads(before)


def test_a_failure_in_one_thread_ends_the_others() -> None:
    failed, given = threading.Event(), []

    def function(part: Sequence[int]) -> Iterator[int]:
        for row in part:
            if row == 1:
                failed.set()
                raise ValueError("row 1")
            failed.wait(20)
            given.append(row)
            yield row

    rows = range(2_000_001)
    with pytest.raises(ValueError, match="row 1"):
        list(side_by_side(2, function, rows))
    assert len(given) < len(rows) // 2


def test_who_stops_listening_stops_the_threads() -> None:
    given: list[int] = []
    before = threading.active_count()

    def function(part: Sequence[int]) -> Iterator[int]:
        for row in part:
            given.append(row)
            yield row

    rows = range(2_000_001)
    for row in side_by_side(2, function, rows):
        if row > 10:
            break
    assert len(given) < len(rows)
    assert threading.active_count() <= before
