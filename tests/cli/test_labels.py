"""`check labels=true` from the command line to what `train` makes of its decisions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from lora_whisper.__main__ import carry_out
from lora_whisper.cli import check
from tests.cli.conftest import Line, Refusal, World, working_in
from tests.evaluation.toy_decoder import general_speech
from tests.toy_speech import write_manifest

COUNT, SWAPPED = 16, (3, 9)


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with speech in which two transcripts have changed places, and its report."""
    folder = tmp_path_factory.mktemp("labels")
    clips = general_speech(COUNT)
    texts = [clip.text for clip in clips]
    first, second = SWAPPED
    texts[first], texts[second] = texts[second], texts[first]
    rows = [
        {"audio": str(clip.audio), "transcription": text, "language": "en", "note": number}
        for number, (clip, text) in enumerate(zip(clips, texts, strict=True))
    ]
    write_manifest(folder / "train.jsonl", rows)
    with working_in(folder):
        assert carry_out("check", arguments("labels=true")) == 0
    return folder


def arguments(*more: str) -> list[str]:
    return ["name=c", "model=nano", "data.train=train.jsonl", *more]


def report(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "outputs/c/check.json").read_text())
    return values


def decisions(folder: Path, decision: str = "accept") -> Path:
    """As the page saves them."""
    path = folder / f"{decision}.jsonl"
    lines = [
        {"row": one["name"], "finding": one["kind"], "decision": decision, "fits": one["fits"]}
        for one in report(folder)["labels"]["findings"]
    ]
    return write_manifest(path, lines)


def test_transcripts_that_changed_places_are_found_and_nothing_else(examined: Path) -> None:
    labels = report(examined)["labels"]
    assert labels["utterances"] == COUNT
    assert labels["counts"] == {"other_clip": 2}
    rows = {one["row"]: one for one in labels["findings"]}
    places = [f"train.jsonl:{number + 1}" for number in SWAPPED]
    assert set(rows) == set(places)
    for place, other in zip(places, reversed(places), strict=True):
        assert rows[place]["text_of"] == f"train, {other}"
        assert rows[place]["better_text"] == rows[other]["text"]


def test_the_page_has_what_it_needs_in_itself(examined: Path) -> None:
    page = (examined / "outputs/c/check.html").read_text(encoding="utf-8")
    assert page.count('<article class="sample label"') == 2
    assert page.count("data:audio/mpeg;base64,") == 2
    assert page.count("<script>") == 1
    kinds = report(examined)["problems"] + 1  # exchanged transcripts
    name = "kind of problem" if kinds == 1 else "kinds of problems"
    assert f"<dt>{name}</dt>\n<dd>{kinds}</dd>" in page
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "").replace("https://matplotlib.org", "")


def test_accepted_pairs_exchange_their_transcripts(
    examined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(examined)
    fixed = tmp_path / "fixed"
    given = f"decisions={decisions(examined)}"
    assert carry_out("check", arguments("overwrite=true", f"fix={fixed}", given, "name=fixed")) == 0
    lines = [json.loads(line) for line in (fixed / "train.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [clip.text for clip in general_speech(COUNT)]
    assert [line["note"] for line in lines] == list(range(COUNT))
    assert all(line.get("transcription", line["text"]) == line["text"] for line in lines)


def test_what_nobody_accepted_stays(
    examined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(examined)
    for number, more in enumerate(([], [f"decisions={decisions(examined, 'reject')}"])):
        fixed = tmp_path / f"fixed-{number}"
        assert carry_out("check", arguments(f"name=f{number}", f"fix={fixed}", *more)) == 0
        assert len((fixed / "train.jsonl").read_text().splitlines()) == COUNT
        assert (fixed / "left_out.jsonl").read_text() == ""


def test_training_leaves_out_what_was_accepted(
    world: World, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str], refusal: Refusal
) -> None:
    from lora_whisper.config import DataConfig
    from lora_whisper.data.decisions import row_names
    from lora_whisper.data.sources import read_split

    rows = read_split(DataConfig(train=str(world.speech / "train.jsonl")), "train")
    assert rows is not None
    names = row_names(rows)
    accepted = [{"row": name, "decision": "accept", "finding": "cut_ends"} for name in names[:5]]
    file = write_manifest(tmp_path / "decisions.jsonl", accepted[:4])
    given = world.arguments("e", f"data.exclude={file}", "training.max_steps=2")
    assert line("train", *given) == 0
    assert "4 of 20 training rows are left out" in capsys.readouterr().out
    summary = json.loads(Path("outputs/e/summary.json").read_text())
    assert "16" in json.dumps(summary)
    Path("outputs/e/summary.json").unlink()
    write_manifest(file, accepted)
    assert "train: 16 rows before, 15 now" in refusal("train", *given, "resume=auto")


def test_no_adapter_listens_to_what_it_was_taught(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lora_whisper.config import DataConfig
    from lora_whisper.data.contents import row_hashes
    from lora_whisper.data.sources import read_split
    from lora_whisper.labels import folds
    from lora_whisper.paths import cache_folder

    speech = world.speech / "train.jsonl"
    given = [f"model.checkpoint={world.checkpoint}", f"data.train={speech}"]
    asked = "labels={folds: 2, epochs: 0.2}"
    assert line("check", "name=c", *given, asked) == 0
    assert "2 adapters" in Path("outputs/c/check.html").read_text(encoding="utf-8")
    runs = sorted((cache_folder("labels") / "folds").iterdir())
    taught = [np.load(run / "rows.npz")["train"] for run in runs]
    rows = read_split(DataConfig(train=str(speech), language="en"), "train")
    assert rows is not None
    everything = row_hashes(rows, "size")
    assert [len(each) for each in taught] == [10, 10]
    assert not set(taught[0].tolist()) & set(taught[1].tolist())
    assert set(np.concatenate(taught).tolist()) == set(everything.tolist())
    first = report(Path())["labels"]
    os.truncate(runs[0] / "adapter" / "adapter_model.safetensors", 100)
    capsys.readouterr()
    assert line("check", "name=c", *given, asked, "overwrite=true") == 0
    assert "is damaged: it is trained anew" in "".join(capsys.readouterr())
    assert report(Path())["labels"] == first
    monkeypatch.setattr(folds, "Run", lambda *given: pytest.fail("both are there"))
    assert line("check", "name=c", *given, asked, "overwrite=true") == 0
    assert report(Path())["labels"] == first


def test_what_cannot_be_used_is_said_before_anything_is_read(
    world: World, refusal: Refusal, tmp_path: Path
) -> None:
    speech = f"data.train={world.speech / 'train.jsonl'}"
    given = ["name=c", f"model.checkpoint={world.checkpoint}", speech]
    assert "no such file" in refusal("check", *given, "fix=out", "decisions=absent.jsonl")
    assert "no such file" in refusal("check", *given, "data.exclude=absent.jsonl")
    write_manifest(tmp_path / "d.jsonl", [{"row": "0" * 16, "decision": "accept"}])
    assert "Type fix=FOLDER" in refusal("check", *given, "decisions=d.jsonl")
    assert "labels.folds" in refusal("check", *given, "labels={folds: 1}")
    assert "labels" in refusal("check", *given, "labels=maybe")
    assert not Path("outputs").exists()


def test_decisions_about_other_rows_mend_nothing(
    world: World, refusal: Refusal, tmp_path: Path
) -> None:
    given = [f"model.checkpoint={world.checkpoint}", f"data.train={world.speech / 'train.jsonl'}"]
    file = write_manifest(tmp_path / "d.jsonl", [{"row": "0" * 16, "decision": "accept"}])
    for key, command in (
        ("decisions", "check"),
        ("data.exclude", "check"),
        ("data.exclude", "train"),
    ):
        more = ["fix=out"] if key == "decisions" else []
        said = refusal(command, "name=c", *given, *more, f"{key}={file}")
        assert "none of its 1 decisions is about one of" in said
        assert f"{key}=null" in said
    assert not Path("outputs").exists()
    assert not Path("out").exists()


@pytest.mark.parametrize("asked", ["true", "{folds: 2}"])
def test_what_cannot_be_divided_is_said_before_it_is_listened_to(
    world: World, refusal: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr(check, "measure", lambda *given: pytest.fail("all is decoded"))
    sound = str(general_speech(1)[0].audio)
    for texts in (["hello"], ["hello", "Hello "]):
        write_manifest(tmp_path / "train.jsonl", [{"audio": sound, "text": text} for text in texts])
        said = refusal("check", *arguments(f"labels={asked}"))
        assert "cannot be divided into 2 parts" in said
        assert "labels='{folds: 0}'" in said


def test_one_usable_row_is_not_divided(line: Line, refusal: Refusal, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    sounds = str(general_speech(1)[0].audio), str(broken)
    rows = [
        {"audio": sound, "text": f"text {place}", "language": "en"}
        for place, sound in enumerate(sounds)
    ]
    write_manifest(tmp_path / "train.jsonl", rows)
    assert "cannot be divided into 2 parts" in refusal("check", *arguments("labels={folds: 2}"))


def test_a_text_on_silence_is_found_whatever_is_heard(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for number in range(6):
        sound = tmp_path / f"{number}.wav"
        soundfile.write(sound, np.zeros(16_000 + number), 16_000)
        rows.append({"audio": str(sound), "text": f"these are words {number}", "language": "en"})
    write_manifest(tmp_path / "train.jsonl", rows)
    assert line("check", *arguments("labels=true")) == 0
    labels = report(tmp_path)["labels"]
    assert labels["counts"] == {"text_without_speech": 6}
    assert {one["certainty"] for one in labels["findings"]} == {1.0}
    said = capsys.readouterr().out
    assert "100 %" in said
    assert "open outputs/c/check.html, accept or reject" in said
    assert "fix=FOLDER decisions=FILE" in said
    assert "data.exclude=FILE" in said
