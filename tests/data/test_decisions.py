"""What was decided about rows: read, found again, and carried out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lora_whisper.data.decisions import (
    Decisions,
    mended,
    read_decisions,
    require_known,
    row_names,
    without_excluded,
)
from lora_whisper.errors import UserError
from tests.toy_utterances import recorded, toy_utterances


def lines(folder: Path, *values: object) -> str:
    path = folder / "decisions.jsonl"
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values), encoding="utf-8")
    return str(path)


def accept(name: str, finding: str = "other_clip", **more: str) -> dict[str, str]:
    return {"row": name, "decision": "accept", "finding": finding, **more}


def test_a_row_is_the_same_one_wherever_it_stands(tmp_path: Path) -> None:
    rows = recorded(tmp_path, [1.0, 1.1, 1.2], text="hello")
    names = row_names(rows)
    assert len(set(names)) == 3
    order = [2, 0, 1]
    assert row_names(rows.select(order)) == [names[row] for row in order]
    other = toy_utterances([{"audio": str(tmp_path / "0.wav"), "text": "hello there"}])
    assert row_names(other)[0] not in names, "another transcript is another row"


def test_what_was_accepted_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    rows = recorded(tmp_path, [1.0, 1.1, 1.2, 1.3])
    names = row_names(rows)
    reject = {"row": names[1], "decision": "reject"}
    file = lines(tmp_path, accept(names[2]), reject, accept("0" * 16))
    (left,) = without_excluded([rows], file)
    assert row_names(left) == [names[0], names[1], names[3]]
    everything = lines(tmp_path, *map(accept, names))
    with pytest.raises(UserError, match="leaves nothing of 4"):
        without_excluded([rows], everything)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{oops", "line 1: expected a JSON object"),
        ('{"audio": "a.wav", "text": "a"}', 'line 1: expected "row"'),
        ('{"row": "0123456789abcdef", "decision": "maybe"}', "found 'maybe'"),
        ("\n[]", "line 2"),
    ],
)
def test_another_file_is_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"check\.html saved") as error:
        read_decisions(str(path), "data.exclude")
    assert message in str(error.value)


def test_what_is_no_text_of_decisions_is_named(tmp_path: Path) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_bytes(b"{\xff\xfe")
    for name, message in (("absent", "no such file"), ("", "it is a folder"), (file.name, "UTF-8")):
        with pytest.raises(UserError, match=message) as error:
            read_decisions(str(tmp_path / name), "decisions")
        assert "codec" not in str(error.value)
    file.write_text("\n\n")
    with pytest.raises(UserError, match="found no decision in it"):
        read_decisions(str(file), "decisions")


def test_some_decisions_have_to_be_about_these_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = recorded(tmp_path, [1.0, 1.1])
    some = lines(tmp_path, accept(row_names(rows)[0]), accept("0" * 16))
    require_known([rows], some, read_decisions(some, "decisions"))
    assert "1 of 2 are of rows that are not there" in caplog.text
    none = lines(tmp_path, accept("0" * 16))
    with pytest.raises(UserError, match="none of its 1 decisions"):
        require_known([rows], none, read_decisions(none, "decisions"))
    with pytest.raises(UserError, match="none of its 1 decisions"):
        without_excluded([rows, rows], none, is_all=True)
    (same,) = without_excluded([rows], none)
    assert len(same) == 2, "they may be about what is mixed in"


def test_transcripts_go_round_and_come_home(tmp_path: Path) -> None:
    """Any permutation of transcripts among accepted rows is undone by what fits."""
    texts = ["one", "two", "three", "four", "five"]
    whole = recorded(tmp_path, [1.0, 1.1, 1.2, 1.3, 1.4])
    paths = whole.column("audio").to_pylist()
    order = np.random.default_rng(3).permutation(5).tolist()
    moved = toy_utterances(
        [{"audio": path, "text": texts[at]} for path, at in zip(paths, order, strict=True)]
    )
    names = row_names(moved)
    home = {at: row for row, at in enumerate(order)}  # transcript → row that has it
    accepted = dict.fromkeys(names, "other_clip")
    fits = {names[row]: names[home[row]] for row in range(5)}
    changes = mended({"train": moved}, Decisions(accepted, fits=fits))["train"]
    assert [changes[row].text for row in range(5)] == texts


def test_a_transcript_is_given_away_once_and_only_by_its_own_row(tmp_path: Path) -> None:
    rows = recorded(tmp_path, [1.0, 1.1, 1.2, 1.3])
    names = row_names(rows)
    accepted = {names[0]: "other_clip", names[1]: "other_clip", names[2]: "other_clip"}
    fits = {names[0]: names[1], names[2]: names[1], names[1]: names[3]}  # 3 is not accepted
    changes = mended({"train": rows}, Decisions(accepted, fits=fits))["train"]
    assert changes.keys() == {0, 1, 2}
    assert [changes[row].text is not None for row in range(3)] == [True, False, False]
