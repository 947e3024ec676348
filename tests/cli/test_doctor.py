"""The doctor tries what is there, names what is missing, and never shows a token."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest

from lora_whisper.cli import doctor

ROOT = Path(__file__).parents[2]


def test_this_machine_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    for word in ("torch", "bitsandbytes", "libsndfile", "FFmpeg", "disk", "HF_HUB_OFFLINE"):
        assert word in said
    assert max(map(len, said.splitlines())) <= 80


def test_it_knows_every_extra_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert doctor.EXTRAS.keys() == project["optional-dependencies"].keys() - {"dev"}
    assert {"search", "joblib", "submitit"} <= {
        name for name, module in doctor.EXTRAS.items() if doctor._is_installed(module)
    }
    assert not doctor._is_installed("no_such_package.module")


def test_json_says_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    assert doctor.main(["--json"]) == 0
    said = capsys.readouterr().out
    answer = json.loads(said)
    names = {one["name"] for one in answer["findings"]}
    assert names >= {"torch", "memory", "disk", "audio", "extras", "hub", "versions"}
    assert answer["allows"]
    assert "secret" not in said
    assert "a token is there" in said


def test_what_is_broken_is_named_and_the_rest_is_still_tried(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert doctor.main(["--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    (broken,) = [one for one in answer["findings"] if one["verdict"] == "broken"]
    assert broken["name"] == "audio"
    assert "pip install" in broken["type"]
    assert "versions" in {one["name"] for one in answer["findings"]}


def test_a_missing_extra_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"text": "no_such_module"})
    (found,) = doctor._extras()
    assert found.verdict == "missing"
    assert found.type is not None
    assert "lora-whisper[text]" in found.type


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ROOM_BYTES", 10**18)
    assert {one.verdict for one in doctor._disk()} == {"missing"}
