"""What a run was made with: enough to explain a result, and nobody's name."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from lora_whisper import environment as environment_module
from lora_whisper.environment import environment, versions


def test_no_name_of_a_person_or_a_host() -> None:
    found = json.dumps({**environment(), **versions()})
    for name in (getpass.getuser(), os.uname().nodename, str(Path.home()), str(Path.cwd())):
        assert f'"{name}"' not in found
        assert f"{name}/" not in found


def test_what_could_explain_a_result() -> None:
    found = environment()
    assert found["threads"] == torch.get_num_threads()
    assert len(found["gpus"]) == torch.cuda.device_count()
    assert versions()["torch"] == torch.__version__


def test_the_commit_is_that_of_our_own_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not of a repository in which somebody has installed the package."""

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@y")
        done = subprocess.run(
            ["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    monkeypatch.setattr(environment_module, "CHECKOUT", tmp_path)
    assert environment()["commit"] == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("two")
    assert environment()["commit"] == git("rev-parse", "HEAD") + "-dirty"
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(environment_module, "CHECKOUT", tmp_path / "site-packages")
    assert environment()["commit"] is None
