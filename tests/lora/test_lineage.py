"""An adapter is a change of certain weights: known by commit or by hash, wherever they lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_whisper.lora import provenance
from lora_whisper.lora.provenance import BaseProvenance, compared, provenance_of
from lora_whisper.model.checkpoint import Checkpoint, locate, weights_sha256
from lora_whisper.run_folder import MARKER, RunFolder, write_json
from tests.configs import model_config
from tests.toys import toy_checkpoint

THIS, OTHER, HASH = "a" * 40, "b" * 40, "c" * 64


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return locate(model_config(toy_checkpoint(tmp_path / "toy")))


def of_hub(monkeypatch: pytest.MonkeyPatch, sha256: str | None) -> Checkpoint:
    """At the commit THIS; None: its weights must not be read."""

    def hashed(_: Checkpoint) -> str:
        assert sha256 is not None, "gigabytes were read for nothing"
        return sha256

    monkeypatch.setattr(provenance, "fingerprint", lambda _: f"commit:{THIS}")
    monkeypatch.setattr(provenance, "weights_sha256", hashed)
    return Checkpoint("owner/toy", None, "owner/toy")


@pytest.mark.parametrize(
    ("known", "sha256", "verdict"),
    [
        (BaseProvenance(THIS, HASH), None, "same"),
        (BaseProvenance(THIS, None), None, "same"),
        (BaseProvenance(OTHER, None), None, "another"),
        (BaseProvenance(OTHER, HASH), HASH, "same"),  # a commit that changed the card alone
        (BaseProvenance(OTHER, HASH), "d" * 64, "another"),
        (BaseProvenance(None, HASH), HASH, "same"),  # it was trained on a folder
        (BaseProvenance(None, None), None, "unknown"),
    ],
)
def test_a_base_of_the_hub(known, sha256, verdict, monkeypatch):
    assert compared(known, of_hub(monkeypatch, sha256))[0] == verdict


def test_a_base_in_a_folder(checkpoint):
    own = weights_sha256(checkpoint)
    assert compared(BaseProvenance(THIS, own), checkpoint) == ("same", f"sha256:{own}")
    assert compared(BaseProvenance(None, HASH), checkpoint) == ("another", f"sha256:{own}")
    assert compared(BaseProvenance(THIS, None), checkpoint)[0] == "unknown", (
        "a folder has no commit"
    )


@pytest.mark.parametrize(
    ("fingerprint", "expected"),
    [
        (f"commit:{THIS}", BaseProvenance(THIS, None)),
        (f"sha256:{HASH}", BaseProvenance(None, HASH)),
    ],
)
def test_a_run_knows_its_base_by_its_summary(fingerprint, expected, tmp_path):
    run = RunFolder(tmp_path)
    run.adapter.mkdir()
    assert provenance_of(run.adapter) == BaseProvenance(None, None)
    run.config.write_text(MARKER)
    write_json(run.summary, {"checkpoint_fingerprint": fingerprint})
    assert provenance_of(run.adapter) == expected


def test_what_is_known_can_be_shown():
    assert str(BaseProvenance(THIS, HASH)) == f"commit:{THIS} sha256:{HASH}"
    assert str(BaseProvenance(None, None)) == ""
