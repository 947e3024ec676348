"""The notebook and the Dockerfile: they run, and name what there is."""

from __future__ import annotations

import ast
import json
import re
import shutil
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pysubs2
import pytest

from lora_whisper.reports.charts import Chart

ROOT = Path(__file__).parents[1]
NOTEBOOK, DOCKERFILE = ROOT / "examples/adapt_whisper.ipynb", ROOT / "Dockerfile"


def cells(kind: str) -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(one["source"]) for one in notebook["cells"] if one["cell_type"] == kind]


def test_the_notebook_is_one_that_others_open() -> None:
    """By https://nbformat.readthedocs.io: version 4.5, each cell with its own id, nothing run."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [one["id"] for one in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", one) for one in ids)
    code = [one for one in notebook["cells"] if one["cell_type"] == "code"]
    assert all(one["outputs"] == [] and one["execution_count"] is None for one in code)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


def test_the_notebook_runs_from_speech_to_adapter_and_subtitles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cell by cell, as it stands, but for one step and few utterances."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Chart, "svg", lambda chart: "<svg></svg>")  # drawing is tested elsewhere
    code = "\n".join(cells("code"))
    short = {
        '{"max_epochs": 4}': '{"max_steps": 1, "loader_workers": 0}',
        "EVALUATION = {}": 'EVALUATION = {"max_utterances": 4, "max_validation_utterances": 1}',
    }
    for shown, shorter in short.items():
        assert code.count(shown) == 1
        code = code.replace(shown, shorter)
    scope: dict[str, Any] = {}
    exec(compile(ast.parse(code), str(NOTEBOOK), "exec"), scope)
    assert scope["run"].summary.adapter.utterances == 4
    assert [cue.plaintext for cue in pysubs2.load("000.srt")] == [
        segment.text for segment in scope["transcript"].segments
    ]
    with zipfile.ZipFile("mine-adapter.zip") as archive:
        assert {"adapter_config.json", "adapter_model.safetensors"} <= set(archive.namelist())
    assert "word error rate  before" in capsys.readouterr().out


def test_the_image_is_built_of_what_its_file_names(tmp_path: Path) -> None:
    """The package can be built of what is copied, and the extras and pins are there."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            place = tmp_path / target / (source if target == "./" else "")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target)
            else:
                shutil.copyfile(ROOT / source, place)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = re.search(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    assert extras is not None
    assert set(extras[1].split(",")) <= project["optional-dependencies"].keys()
    needed = [project["readme"], *project["license-files"][:1], "constraints.txt"]
    assert all((tmp_path / name).is_file() for name in needed)
    assert (tmp_path / "conf/train.yaml").is_file()
    version = re.search(r"^FROM python:(3\.\d+)", text, re.MULTILINE)
    assert version is not None
    assert tuple(map(int, version[1].split("."))) >= (3, 11)


def test_the_image_s_commands_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its head tells people to type after the image's name."""
    from lora_whisper.cli.compose import COMMANDS

    typed = re.findall(
        r"^#   docker run .* lora-whisper(?::cuda)? (\S+) (.+)$",
        DOCKERFILE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert [name for name, _ in typed] == ["train", "transcribe", "train"]
    assert {name for name, _ in typed} <= COMMANDS.keys()
