"""The list of adapters: found wherever they lie, in 80 columns, and broken ones do not stop it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from lora_whisper.cli import adapters
from lora_whisper.lora.saved import FLOATS
from lora_whisper.model.checkpoint import sha256
from lora_whisper.reports.run import write_results
from lora_whisper.run_folder import RunFolder
from tests.cli.toy_run import Heard, toy_run


def finished_run(folder: Path, **settings: Any) -> RunFolder:
    run, summary = toy_run(folder, **{"finished": "2026-01-31T12:00:00+00:00"} | settings)
    write_results(run, summary)
    return run


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    """Of 80 columns, that keeps what is printed."""
    kept = Console(width=80, record=True, file=open(os.devnull, "w"), highlight=False)  # noqa: SIM115
    monkeypatch.setattr(adapters, "console", kept)
    return kept


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert adapters.main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_runs_sweeps_copies_and_exports_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path / "outputs" / "one", ranks=(2, 4))
    finished_run(tmp_path / "outputs" / "sweeps" / "two" / "adapter.rank-4")
    shutil.copytree(run.adapter, tmp_path / "outputs" / "copied")
    shutil.copytree(run.adapter, run.path / "export" / "adapter")
    shutil.copytree(run.adapter, run.checkpoints / "average")
    shutil.copytree(run.adapter, run.path / ".adapter.part")
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(run.adapter, tmp_path / "elsewhere" / "other")
    (tmp_path / "outputs" / "link").symlink_to(tmp_path / "elsewhere")
    found = as_json(capsys, str(tmp_path / "outputs"))
    assert found["broken"] == {}
    assert [one["path"] for one in found["adapters"]] == [
        "copied",
        "one",
        "one/export/adapter",
        "sweeps/two/adapter.rank-4",
    ]
    copied, original, *_ = found["adapters"]
    assert copied | {"path": ""} == original | {"path": ""}
    assert original == {
        "path": "one",
        "has_record": True,
        "is_unfinished": False,
        "is_changed": False,
        "is_damaged": False,
        "name": "toy",
        "base": "openai/whisper-small",
        "rank": 4,
        "lowest_rank": 2,
        "bytes": (run.adapter / "adapter_model.safetensors").stat().st_size,
        "dtype": "float32",
        "hours": 1.0,
        "languages": ["sw"],
        "metric": "wer",
        "before": 0.8,
        "after": 0.2,
        "date": "2026-01-31",
    }


def test_the_folder_of_an_adapter_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path / "toy")
    (listed,) = as_json(capsys, str(run.adapter))["adapters"]
    assert listed["path"] == "adapter"
    monkeypatch.chdir(tmp_path)
    assert adapters.main([]) == 2
    shutil.copytree("toy", "outputs/toy")
    (listed,) = as_json(capsys)["adapters"]
    assert listed["path"] == "toy"


def test_weights_from_elsewhere_have_not_the_score_of_those_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], console: Console
) -> None:
    run, other = finished_run(tmp_path / "a"), finished_run(tmp_path / "b", ranks=(8, 8))
    weights = "adapter_model.safetensors"
    for name in (weights, "adapter_config.json"):
        shutil.copy(other.adapter / name, run.adapter / name)
    changed, _ = as_json(capsys, str(tmp_path))["adapters"]
    assert changed["is_changed"]
    assert (changed["metric"], changed["after"]) == (None, None)
    assert adapters.main([str(tmp_path)]) == 0
    shown = console.export_text()
    assert "other weights" in " ".join(shown.split())
    assert shown.count("20.0 %") == 1


def test_a_folder_that_was_copied_whole_is_not_what_the_run_trained(tmp_path: Path) -> None:
    """Its record came with it, and is true; the path is of another run."""
    run, summary = toy_run(tmp_path / "a")
    trained = sha256(run.adapter / "adapter_model.safetensors")
    write_results(run, replace(summary, adapter_sha256=trained))
    (listed,), _ = adapters.find_adapters(run.path)
    assert not listed.is_changed
    other = finished_run(tmp_path / "b", ranks=(8, 8))
    shutil.copytree(other.adapter, run.adapter, dirs_exist_ok=True)
    (listed,), _ = adapters.find_adapters(run.path)
    assert listed.is_changed
    assert listed.after is None


def test_a_run_whose_summary_was_cut_is_marked(tmp_path: Path, console: Console) -> None:
    run = finished_run(tmp_path / "cut")
    run.summary.write_text(run.summary.read_text()[:300])
    (listed,), _ = adapters.find_adapters(tmp_path)
    assert listed.is_damaged
    assert listed.after is None
    assert adapters.main([str(tmp_path)]) == 0
    assert "run damaged" in console.export_text()


def test_an_unfinished_run_of_the_embedded_base_has_its_name(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "toy", checkpoint="embedded:nano")
    file = run.adapter / "adapter_config.json"
    path = {"base_model_name_or_path": "/elsewhere/lora_whisper/quickstart/nano"}
    file.write_text(json.dumps(json.loads(file.read_text()) | path))
    run.reopen()
    (listed,), _ = adapters.find_adapters(tmp_path)
    assert adapters._cells(listed)["base"] == "embedded:nano"


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (20, ["base", "size", "data", "WER", "date"]),
        (40, ["base", "size", "data", "date"]),
        (50, ["size", "data", "date"]),
        (80, []),
        (120, []),
    ],
)
def test_the_name_is_always_there_and_figures_stand_on_one_line(
    width: int, left_out: list[str], tmp_path: Path, console: Console
) -> None:
    """Less important columns go first, and that is said."""
    name = "an-adapter-of-a-long-name-seed-1"
    run, summary = toy_run(tmp_path / name, checkpoint="embedded:nano")
    rates = {"base": 1.057, "adapter": 1.038}
    known = summary.scores
    scores = {model: replace(known[model], wer=rate) for model, rate in rates.items()}  # type: ignore[type-var]
    write_results(run, summary.with_scores(scores))
    console.width = width
    assert adapters.main([str(tmp_path)]) == 0
    shown = console.export_text()
    lines = shown.splitlines()
    assert max(map(len, lines)) <= width
    first = next(number for number, line in enumerate(lines) if line.startswith("adapter"))
    every = ["adapter", "base", "rank", "size", "data", "WER", "date"]
    assert lines[first].split() == [one for one in every if one not in left_out]
    assert "".join(line.split(" ")[0] for line in lines[first + 2 :]).startswith(name)
    cells = {"WER": "105.7 → 103.8 %", "size": "0.0 MB", "base": "embedded:nano"}
    for column, cell in cells.items():
        assert (cell in shown) is (column not in left_out)
    assert ("no room for" in shown) is bool(left_out)


def test_the_table_is_80_columns_wide(tmp_path: Path, console: Console) -> None:
    finished_run(tmp_path / "quickstart", checkpoint="embedded:nano")
    name = "an-adapter-with-a-long-name-of-words_seed-1"
    finished_run(tmp_path / "sweeps" / name, ranks=(4, 128), languages=["sw", "en", "fr"])
    finished_run(
        tmp_path / "thai",
        heard=[Heard("ไม่ดี", "ไม่มี", "ไม่ดี", language="th")],
        checkpoint="owner/whisper-small-of-mine",
    )
    assert adapters.main([str(tmp_path)]) == 0
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    lines = shown.splitlines()
    quick = next(line for line in lines if "quickstart" in line)
    for part in ("embedded:nano", " 4 ", "0.0 MB", "1.0 h sw", "80.0 → 20.0 %", "2026-01-31"):
        assert part in quick
    for part in ("4–128", "+1", "(CER)", "whisper-small"):
        assert part in shown
    first = next(number for number, line in enumerate(lines) if "sweeps/" in line)
    cells = [line.split(" ")[0] for line in lines[first:]]
    last = next(at for at in range(9) if "".join(cells[: at + 1]) == f"sweeps/{name}")
    assert all(cell[-1] in "/-_" for cell in cells[:last]), "broken where its words end"
    assert "…" not in shown, "nothing is cut short"


def test_every_type_that_is_read_has_a_name() -> None:
    assert adapters.DTYPES.keys() == FLOATS.keys()


def test_foreign_adapters_show_what_peft_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], console: Console
) -> None:
    run = finished_run(tmp_path / "toy", ranks=(8, 16))
    foreign = shutil.copytree(run.adapter, tmp_path / "foreign" / "[red]a")
    (foreign / "lora_whisper.json").unlink()
    os.utime(foreign / "adapter_model.safetensors", (0, 0))
    path = foreign / "adapter_config.json"
    changes = {"base_model_name_or_path": "/home/anna/mine"}
    weights = foreign / "adapter_model.safetensors"
    save_file({name: value.half() for name, value in load_file(weights).items()}, weights)
    os.utime(weights, (0, 0))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (listed,) = as_json(capsys, str(foreign.parent))["adapters"]
    assert not listed["has_record"]
    assert (listed["base"], listed["rank"], listed["lowest_rank"]) == ("/home/anna/mine", 16, 8)
    assert (listed["metric"], listed["hours"], listed["date"]) == (None, None, "1970-01-01")
    assert adapters.main([str(foreign.parent)]) == 0
    shown = console.export_text()
    assert "[red]a" in shown
    assert "(float16)" in shown
    assert "anna" not in shown


def test_broken_ones_are_named_and_do_not_stop_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], console: Console
) -> None:
    run = finished_run(tmp_path / "whole")
    broken = {name: shutil.copytree(run.adapter, tmp_path / name) for name in "abcdefg"}
    (broken["a"] / "adapter_config.json").write_text("{")
    (broken["b"] / "adapter_model.safetensors").rename(broken["b"] / "adapter_model.bin")
    record = json.loads((broken["c"] / "lora_whisper.json").read_text())
    (broken["c"] / "lora_whisper.json").write_text(json.dumps(record | {"name": "../x"}))
    (broken["d"] / "adapter_config.json").write_text("[]")
    (broken["e"] / "lora_whisper.json").write_bytes(b"\xff\xfe")
    links = {"f": "adapter_model.safetensors", "g": "adapter_config.json"}
    for name, file in links.items():
        (broken[name] / file).unlink()
        (broken[name] / file).symlink_to("gone/elsewhere")
    found = as_json(capsys, str(tmp_path))
    assert [one["path"] for one in found["adapters"]] == ["whole"]
    reasons = found["broken"]
    assert "JSON" in reasons["a"]
    assert "found adapter_model.bin, which is not read" in reasons["b"]
    assert "name: expected" in reasons["c"]
    assert "expected a JSON object" in reasons["d"]
    assert "JSON" in reasons["e"]
    for name, file in links.items():
        assert reasons[name] == f"{file} is a link to gone/elsewhere, and nothing is there"
    assert adapters.main([str(tmp_path)]) == 0
    assert "not listed: a: adapter_config.json: expected JSON" in " ".join(
        console.export_text().split()
    )


def test_of_many_problems_of_one_adapter_a_few_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], console: Console
) -> None:
    """An adapter that says it is of DoRA, and has no lengths of any of its layers: 80 lines."""
    run = finished_run(tmp_path / "whole", ranks=[4] * 36)
    config = shutil.copytree(run.adapter, tmp_path / "bad") / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    reason = as_json(capsys, str(tmp_path))["broken"]["bad"]
    assert reason.count("its lengths are missing") == 5
    assert reason.endswith("; … and 31 more")
    assert adapters.main([str(tmp_path)]) == 0
    assert console.export_text().count("lengths are missing") <= 5


def test_an_unfinished_run_does_not_show_the_scores_of_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], console: Console
) -> None:
    run = finished_run(tmp_path / "toy")
    run.reopen()
    (listed,) = as_json(capsys, str(tmp_path))["adapters"]
    assert listed["is_unfinished"]
    assert listed["after"] is None
    adapters.main([str(tmp_path)])
    assert "unfinished" in console.export_text()


@pytest.mark.parametrize("folder", ["gone", "empty"])
def test_nothing_found_is_one_clear_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert adapters.main([str(tmp_path / folder)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {tmp_path / folder}: ")
    assert "lora-whisper " in said.err
