"""The command line: overrides, sweeps' folders, help, and configuration folders of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lora_whisper.cli import app, train
from lora_whisper.cli.compose import hydra_over
from lora_whisper.cli.overrides import readable_overrides
from lora_whisper.cli.sweep import point_name
from lora_whisper.evaluation.decoding import transcribe
from tests.cli.conftest import Line, Refusal, World


@pytest.mark.parametrize(
    "path",
    [
        "/data/a.jsonl",
        "/my data (1)/a.jsonl",
        "/données/été.jsonl",
        "/データ/a.jsonl",
        "/run=3/a.jsonl",
        "~/a.jsonl",
        "/it's/a.jsonl",
        "C:\\data\\a.jsonl",
        "C:\\data\\",
        "2026_11_22",
        "/Doe, Jane/a.jsonl",
        "true",
        "/a/b-c_d.e+f@g/h#1.jsonl",
        "/100%/a.jsonl",
        "nan",
    ],
)
def test_ordinary_paths_need_no_quotes(path: str) -> None:
    (override,) = readable_overrides([f"data.train={path}"])
    parsed = OverridesParser.create().parse_override(override)
    assert parsed.value() == path


@pytest.mark.parametrize(
    "override",
    [
        "adapters={path: a, weight: 0.5}",
        "adapter.rank=4,8",
        "a=[1,2]",
        "~data.test",
        "+x=1",
        "a='b c'",
        "a=null",
    ],
)
def test_what_hydra_can_read_is_left_alone(override: str) -> None:
    assert readable_overrides([override]) == [override]


def test_point_names_need_no_quoting_and_never_meet() -> None:
    keys = ["adapter.rank", "data.train"]
    assert point_name(["adapter.rank=4", "name=x"], keys) == "adapter.rank-4"
    one = point_name(["adapter.rank=4", "data.train=/a b/c"], keys)
    two = point_name(["adapter.rank=4", "data.train=/a/b/c"], keys)
    assert one != two
    long = [point_name([f"data.train=/{'x' * 250}/{split}"], keys) for split in ("a", "b")]
    assert len({*long}) == 2
    assert max(map(len, long)) < 220, "file systems allow 255 letters"
    assert not set(one + two) - set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    )


@pytest.mark.parametrize(
    ("run_dir", "folder"),
    [
        (None, "outputs/x"),
        ("mine/${now:%Y}/${name}", f"mine/{datetime.now():%Y}/x"),
        ("outputs/${now:%Y-%m-%d}", f"outputs/{datetime.now():%Y-%m-%d}"),
    ],
)
def test_a_folder_by_date_is_where_it_was_asked_for(run_dir: str | None, folder: str) -> None:
    """A configuration without a folder of its own has outputs/NAME, and not Hydra's by the time."""
    asked = ["name=x", "data.train=a.jsonl", *([f"hydra.run.dir={run_dir}"] if run_dir else [])]
    with hydra_over("train", None) as hydra:
        _, found = app._configure(train.COMMAND, hydra, "train", readable_overrides(asked))
    assert found == Path(folder)


def test_help_and_cfg(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    assert line("train", "--help") == 0
    shown = capsys.readouterr().out
    for part in ("--config-dir", "large-v3-turbo", "rank: 16"):
        assert part in shown
    assert line("train", "--cfg", "job", "adapter.rank=5") == 0
    assert "rank: 5" in capsys.readouterr().out


def test_help_lists_what_the_command_takes(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    assert line("check", "--help") == 0
    groups = capsys.readouterr().out.split("== Groups")[1].split("== Configuration")[0]
    assert "model: base" in groups
    assert "adapter:" not in groups
    assert "_common_" not in groups


def test_a_configuration_folder_of_ones_own(
    line: Line, refusal: Refusal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nadapter:\n  rank: 7\n")
    arguments = ["--config-dir", str(own.parent), "experiment=mine"]
    assert line("train", *arguments, "--cfg", "job") == 0
    assert "rank: 7" in capsys.readouterr().out
    assert "no such folder" in refusal("train", "--config-dir", "gone", "--cfg", "job")


def test_sweeps_name_their_folders_by_the_swept_keys_and_decode_the_base_once(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[int] = []
    decode = transcribe.transcribe

    def counted(decoder: Any, utterances: Sequence[Any], *more: Any, **named: Any) -> Any:
        heard.append(len(utterances))
        return decode(decoder, utterances, *more, **named)

    monkeypatch.setattr(transcribe, "transcribe", counted)
    short = ["training.max_steps=1", "data.validation=null", "training.validate_every_steps=null"]
    arguments = world.arguments("two", *short, "adapter.rank=2,3", "seed=range(1,2)")
    assert line("train", "-m", *arguments) == 0
    done = {path.parent.name for path in Path("outputs/sweeps/two").glob("*/summary.json")}
    assert done == {f"adapter.rank-{rank}_seed-1" for rank in (2, 3)}
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("decoded before") == 1
    assert heard == [4] * 3, "the base, and two adapters"
    assert all(f"adapter.rank-{rank}" in shown for rank in (2, 3)), "a row for each point"


def test_a_current_folder_that_was_deleted_is_named(
    refusal: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "current folder is not there any more" in refusal("check", "data.train=a.jsonl")
