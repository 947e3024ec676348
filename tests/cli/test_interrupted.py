"""Killed, edited or out of room in between: no score stands beside what it is not of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lora_whisper.__main__ import carry_out
from lora_whisper.cli import export, merge
from lora_whisper.evaluation import scoring
from lora_whisper.evaluation.run_summary import read_summary
from lora_whisper.files import read_json, write_json
from lora_whisper.model.checkpoint import sha256
from lora_whisper.run_folder import RunFolder
from lora_whisper.training import run
from tests.cli.conftest import QUICK, STRONG, Line, Refusal, World, working_in
from tests.test_run_folder import Killed, full_disk
from tests.toy_speech import write_manifest

RUN = RunFolder(Path("outputs/a"))
MERGED = Path("outputs/a/merged/model.safetensors")


def kill_at(owner: Any, name: str, command: Callable[[], int]) -> None:
    """Carry it out until it calls that."""

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            command()


@pytest.fixture(scope="module")
def merged_run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, merged, with a test set of its own that can be edited."""
    folder = tmp_path_factory.mktemp("merged")
    shutil.copytree(trained, folder / "outputs/a")
    with working_in(folder):
        assert carry_out("merge", ["run=outputs/a"]) == 0
    return folder / "outputs/a"


@pytest.fixture
def here(merged_run: Path, line: Line) -> None:
    shutil.copytree(merged_run, RUN.path)


def edit_test_set(world: World, folder: Path, **changed: Any) -> None:
    """Let the run's test set be a copy with another second row."""
    rows = [json.loads(one) for one in (world.speech / "test.jsonl").read_text().splitlines()]
    rows = [row | {"audio": str(world.speech / row["audio"])} for row in rows]
    rows[1] |= changed
    manifest = write_manifest(folder / "edited.jsonl", rows)
    config = RUN.config.read_text()
    RUN.config.write_text(config.replace(str(world.speech / "test.jsonl"), str(manifest)))


# ── merge ────────────────────────────────────────────────────────────────────────────────────


def test_new_weights_never_have_the_score_of_older_ones(
    here: None, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("merge", "run=outputs/a", "scale=0.5")
    # The first thing after the weights.
    kill_at(merge, "_forget_score", lambda: line(*given, "overwrite=true"))
    assert read_json(RUN.summary)["merged"] is not None, "the old one, on the disk"
    assert read_summary(RUN).merged is None
    assert line("push", "run=outputs/a", "repo=me/it", "what=merged", "dry_run=true") == 2
    assert line("merge", "run=outputs/a", "scale=0.25") == 2, "another one than that which is there"
    capsys.readouterr()
    assert line(*given) == 0
    assert "is there, and is scored now" in capsys.readouterr().out
    summary = read_summary(RUN)
    assert summary.merged is not None
    assert summary.merged.of is not None
    assert summary.merge is not None
    assert summary.merged.of.weights["checkpoint"] == sha256(MERGED)
    assert summary.merge["adapters"][0]["weight"] == 0.5
    assert line(*given) == 2, "it is finished, and is replaced only when that is asked for"


def test_a_merged_model_that_somebody_replaced_has_no_score(
    here: None, line: Line, refusal: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the old one nor one of its own: the run says that it is made of its adapter."""
    own = MERGED.read_bytes()
    save_file({name: -value for name, value in load_file(MERGED).items()}, MERGED)
    assert read_summary(RUN).merged is None
    before = RUN.summary.read_bytes()
    again = "merge run=outputs/a overwrite=true"
    assert again in " ".join(capsys.readouterr().out.split())
    for given in (
        ("evaluate", "run=outputs/a", "overwrite=true", *QUICK),
        ("export", "run=outputs/a", "format=ctranslate2"),
        ("push", "run=outputs/a", "repo=me/it", "what=merged", "base=me/base", "dry_run=true"),
    ):
        assert again in refusal(*given), given
    shutil.copytree(MERGED.parent, "whole")
    made_of = read_json(Path("whole/merge.json"))
    made_of["adapters"][0]["sha256"] = "0" * 64
    write_json(Path("whole/merge.json"), made_of)
    shutil.move(MERGED.parent, "aside")
    shutil.move("whole", MERGED.parent)
    assert again in refusal("evaluate", "run=outputs/a", "overwrite=true", *QUICK), "of another run"
    shutil.rmtree(MERGED.parent)
    shutil.move("aside", MERGED.parent)
    assert line("merge", "run=outputs/a") == 2, "it is not finished, but replaced when asked for"
    assert RUN.summary.read_bytes() == before
    assert line(*again.split()) == 0
    assert MERGED.read_bytes() == own


def test_the_adapter_of_another_run_never_goes_by_this_runs_name(
    world: World, here: None, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = RUN.adapter / "adapter_model.safetensors"
    trained = sha256(weights)
    tensors = {name: -value for name, value in load_file(weights).items()}
    save_file(tensors, weights, {"format": "pt"})
    before = {path: path.read_bytes() for path in RUN.path.rglob("*") if path.is_file()}
    test = f"data.test={world.speech / 'test.jsonl'}"
    for given in (
        ("merge", "run=outputs/a", "overwrite=true"),
        ("merge", "run=outputs/a", "overwrite=true", "force=true"),
        ("merge", "adapter=outputs/a", "name=x"),
        ("evaluate", "run=outputs/a", "overwrite=true", *QUICK),
        ("evaluate", "models=[outputs/a]", test, *QUICK),
        ("export", "run=outputs/a", "format=adapter", "base=me/base"),
        ("push", "run=outputs/a", "repo=me/it", "base=me/base", "dry_run=true"),
        ("push", "run=outputs/a", "repo=me/it", "what=merged", "dry_run=true"),
        ("train", *world.arguments("x", "adapter.init_from=outputs/a")),
    ):
        assert line(*given) == 2, given
        said = capsys.readouterr().err
        assert trained in said, given
        assert sha256(weights) in said
        assert "outputs/a/adapter name=other" in said
    found = {path: path.read_bytes() for path in RUN.path.rglob("*") if path.is_file()}
    assert found == before
    assert read_summary(RUN).adapter is None
    assert "bring it back from a copy" in " ".join(capsys.readouterr().out.split())
    assert line("merge", "adapter=outputs/a/adapter", "name=other") == 0, "as it is advised"
    assert line("evaluate", "models=[outputs/a/adapter]", test, *QUICK) == 0
    merged = {**read_json(Path("outputs/other/merged/merge.json"))["adapters"][0]}
    assert merged["sha256"] == sha256(weights)
    assert read_json(RUN.adapter / "lora_whisper.json")["adapter"]["sha256"] == trained


def test_a_run_writes_its_adapter_again_where_another_lies_there(
    world: World, line: Line, refusal: Refusal
) -> None:
    arguments = world.arguments("a", *STRONG, "data.test=null", "training.max_steps=2")
    assert line("train", *arguments) == 0
    weights = RUN.adapter / "adapter_model.safetensors"
    own = weights.read_bytes()
    weights.write_bytes(own[:-1] + b"\x00")
    assert "take outputs/a/summary.json away" in " ".join(refusal("merge", "run=outputs/a").split())
    RUN.summary.unlink()
    assert line("train", *arguments, "resume=auto") == 0
    assert weights.read_bytes() == own
    assert line("merge", "run=outputs/a") == 0


def test_a_merged_model_is_not_scored_on_another_test_set_than_its_adapter(
    world: World, here: None, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_test_set(world, tmp_path, text="quite another text")
    assert line("merge", "run=outputs/a", "overwrite=true") == 0
    assert "other texts" in " ".join(capsys.readouterr().out.split())
    assert read_json(RUN.summary)["merged"] is None
    assert line("evaluate", "run=outputs/a", "overwrite=true", *QUICK) == 0, "as it is advised"
    summary = read_summary(RUN)
    assert len({score and score.of and score.of.texts for score in summary.scores.values()}) == 1


def test_scores_of_different_test_sets_do_not_stand_in_one_table(
    here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = read_json(RUN.summary)
    for key, value in (("rows", "0"), ("texts", "0"), ("decoding", {"beams": 5})):
        changed = summary["base"] | {"of": summary["base"]["of"] | {key: value}}
        write_json(RUN.summary, summary | {"base": changed})
        assert read_summary(RUN).base is None
        assert read_summary(RUN).adapter is not None
    older = {name: {**summary[name]} for name in ("base", "adapter")}
    for score in older.values():
        del score["of"]
    write_json(RUN.summary, summary | older)
    assert read_summary(RUN).base is not None, "as far as an older version knew, they compare"
    older["base"]["utterances"] = 3
    write_json(RUN.summary, summary | older)
    assert read_summary(RUN).base is None


# ── train ────────────────────────────────────────────────────────────────────────────────────


def test_the_base_is_scored_anew_where_its_score_is_of_something_else(
    world: World, line: Line
) -> None:
    arguments = world.arguments("a", *STRONG, "data.validation=null", "training.max_steps=1")
    kill_at(run.Run, "_score_adapter", lambda: line("train", *arguments))
    place = RUN.evaluation / "base/test/score.json"
    before = read_json(place)
    write_json(place, before | {"wer": 0.5, "of": before["of"] | {"texts": "0"}})
    assert line("train", *arguments, "resume=auto") == 0
    assert read_json(place)["wer"] == before["wer"]
    assert read_json(RUN.summary)["base"]["of"] == before["of"]


# ── export ───────────────────────────────────────────────────────────────────────────────────


def test_an_export_that_was_killed_is_tried_when_it_is_typed_again(
    here: None, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("dtype=float32", "parity.utterances=2")
    given = ("export", "run=outputs/a", "format=ctranslate2", *few)
    kill_at(export, "_try_all", lambda: line(*given))
    assert line(*given[:3], "dtype=int8") == 2, "another one"
    capsys.readouterr()
    assert line(*given) == 0
    assert "is there, and is tried now" in capsys.readouterr().out
    found = read_json(RUN.export / "ctranslate2/parity.json")
    assert len({one["of"]["texts"] for one in found["scores"].values()}) == 1
    assert line(*given) == 2


# ── evaluate ─────────────────────────────────────────────────────────────────────────────────


def test_another_evaluation_replaces_none_unasked(here: None, line: Line, refusal: Refusal) -> None:
    given = ("evaluate", "run=outputs/a", "evaluation.max_utterances=2", *QUICK)
    assert line(*given) == 0
    first = RUN.results.read_bytes()
    assert line(*given, "evaluation.players=false") == 0, "the same again"
    more = "evaluation.max_utterances=1"
    assert "evaluation.max_utterances: was 2, is 1" in refusal(*given, more)
    assert line(*given, more, "name=other") == 0
    assert len(read_json(Path("outputs/other/evaluation.json"))["scores"]) == 1
    assert json.loads(first)["scores"].keys() == read_json(RUN.results)["scores"].keys()
    assert line(*given, more, "overwrite=true") == 0
    assert read_json(RUN.results)["asked"]["evaluation.max_utterances"] == 1


def test_on_a_full_disk_hypotheses_and_score_stay_together(
    refusal: Refusal, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RUN.evaluation / "adapter/test"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write = scoring.write_synced

    def on_a_full_disk(path: Path, data: bytes) -> None:
        with full_disk(100):
            write(path, data)

    monkeypatch.setattr(scoring, "write_synced", on_a_full_disk)
    said = refusal("evaluate", "run=outputs/a", *QUICK)
    assert "hypotheses.jsonl could not be written" in said
    assert "type it again" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not list(RUN.path.rglob(".*"))
