"""`lora-whisper check`: what it finds, writes, refuses and repairs."""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from lora_whisper.data.quality_findings import MEANINGS, UNUSABLE
from tests.cli.conftest import Line, Refusal, World
from tests.toy_speech import tone, write_clip, write_manifest
from tests.toys import toy_checkpoint

SWAHILI = Path("../shared/speech/swahili/metadata.jsonl").absolute()
GENUINE = Path("../shared/whisper/whisper-tiny").absolute()
Rows = list[dict[str, Any]]


def sound_rows(folder: Path, split: str, count: int, first: int = 0) -> Rows:
    """Clips that sound unlike each other, and their texts."""
    rows = []
    for number in range(first, first + count):
        clip = write_clip(folder / f"{split}-{number}.wav", 1.0, frequency=150 + 7 * number)
        rows.append(
            {
                "audio": clip.name,
                "text": f"{split} {'abcdefghijklmnopqrstuvwxyz'[number]} words",
                "language": "en",
                "speaker": f"{split} speaker",
                "split": split,
            }
        )
    return rows


def broken_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Finding → a training row that has to go for it; the toy's window is 2 s."""
    folder.mkdir(exist_ok=True)
    (folder / "noise.wav").write_bytes(b"no sound")
    cut = write_clip(folder / "cut.wav", 1.9)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    write_clip(folder / "long.wav", 2.5)
    write_clip(folder / "short.wav", 0.05)
    write_clip(folder / "many.wav", 1.8, frequency=99.0)
    write_clip(folder / "copy.flac", 1.3, frequency=777.0)
    write_clip(folder / "unclear.wav", 1.2, frequency=666.0)
    soundfile.write(folder / "silent.wav", np.zeros(16_000), 16_000)
    rows = {
        "unreadable": {"audio": "noise.wav", "text": "cannot be read"},
        "truncated": {"audio": "cut.wav", "text": "is cut off"},
        "over_window": {"audio": "long.wav", "text": "is far too long"},
        "too_short": {"audio": "short.wav", "text": "hm"},
        "labels_over_limit": {"audio": "many.wav", "text": "too many words " * 5},
        "contradicted": {"audio": "unclear.wav", "text": "one of two"},
        "duplicates": {"audio": "copy.flac", "text": "said twice"},
        "shared_audio": {"audio": "test-0.wav", "text": "said in test too"},
        "shared_texts": {"audio": "own.wav", "text": "TEST b  words"},
        "silent": {"audio": "silent.wav", "text": "nothing to hear"},
    }
    write_clip(folder / "own.wav", 1.0, frequency=888.0)
    return {
        key: row | {"language": "en", "split": "train", "note": key} for key, row in rows.items()
    }


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A manifest with every fault, beside sound rows in three splits."""
    folder = tmp_path / "speech"
    faults = broken_rows(folder)
    first = faults["duplicates"] | {"note": "kept"}
    second = faults["contradicted"] | {"text": "two of two"}
    rows = [
        *sound_rows(folder, "train", 3),
        *sound_rows(folder, "validation", 2, 10),
        *sound_rows(folder, "test", 3, 0),
        first,
        second,
        *faults.values(),
        sound_rows(folder, "train", 1, 20)[0] | {"text": "<script>alert(1)</script> & co 7"},
    ]
    # Two files that are told apart by their frequency alone.
    for row in rows:
        if row["audio"].startswith("test-"):
            number = int(re.findall(r"\d+", row["audio"])[0])
            write_clip(folder / row["audio"], 1.0, frequency=500 + 7 * number)
    return write_manifest(folder / "all.jsonl", rows)


def arguments(world: World, manifest: Path, *more: str) -> list[str]:
    return ["name=c", f"model.checkpoint={world.checkpoint}", f"data.path={manifest}", *more]


def lines(manifest: Path) -> Rows:
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def report() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(Path("outputs/c/check.json").read_text(encoding="utf-8"))
    return result


def test_sound_speech_has_no_problems(
    world: World, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*sound_rows(tmp_path, "train", 4), *sound_rows(tmp_path, "test", 2, 10)]
    manifest = write_manifest(tmp_path / "all.jsonl", rows)
    assert line("check", *arguments(world, manifest, "strict=true")) == 0
    shown = capsys.readouterr().out
    assert "No problems found" in shown
    assert "outputs/c/check.html" in shown
    assert "lora-whisper train" in shown
    found = report()
    assert (found["utterances"], found["speakers"], found["problems"]) == (6, 2, 0)
    assert found["splits"]["train"]["rates"] == {"16000": 4}
    assert all(found[key] == found[key] | {"count": 0, "rows": []} for key in MEANINGS)
    assert "No problems found" in Path("outputs/c/check.html").read_text(encoding="utf-8")


def test_every_fault_is_found_in_its_row(
    world: World, line: Line, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line("check", *arguments(world, broken)) == 0
    found = report()
    notes = {row["note"]: n for n, row in enumerate(lines(broken), 1) if "note" in row}
    # Two texts of one sound are its duplicate, too; and train has another one of a test clip.
    several = {"contradicted": 3, "duplicates": 2}
    for key in UNUSABLE:
        rows = [row for row in found[key]["rows"] if row["split"] == "train"]
        assert len(rows) == several.get(key, 1), key
        assert f"all.jsonl:{notes[key]}" in [row["row"] for row in rows]
        assert all(Path(row["file"]).parent == broken.parent and row["detail"] for row in rows)
    assert found["digits"]["count"] == 1
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    assert line("check", *arguments(world, broken, "overwrite=true", "strict=true")) == 1


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]


def test_the_page_needs_nothing_and_runs_nothing(world: World, line: Line, broken: Path) -> None:
    assert line("check", *arguments(world, broken)) == 0
    page = Path("outputs/c/check.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.names
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co 7" in page
    assert tags.names.count("svg") == 5
    assert not [link for link in tags.links if not link.startswith("#")]
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_what_was_fixed_has_none_of_the_faults_and_trains(
    world: World, line: Line, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line("check", *arguments(world, broken, "fix=fixed")) == 0
    shown = capsys.readouterr().out
    assert "5 utterances; left out 11" in shown
    left_out = lines(Path("fixed/left_out.jsonl"))
    assert sorted(row["reason"] for row in left_out) == sorted([*UNUSABLE, "contradicted"])
    files = [f"data.{split}=fixed/{split}.jsonl" for split in ("train", "validation", "test")]
    checkpoint = f"model.checkpoint={world.checkpoint}"
    assert line("check", "name=d", checkpoint, *files) == 0
    again = json.loads(Path("outputs/d/check.json").read_text())
    assert {key: again[key]["count"] for key in UNUSABLE} == dict.fromkeys(UNUSABLE, 0)
    assert again["utterances"] == 10
    given = {file.split("=")[0] for file in files}
    others = [
        one
        for one in world.arguments("t", "training.max_steps=1")
        if one.split("=")[0] not in given
    ]
    assert line("train", *others, *files) == 0


def test_a_fixed_manifest_keeps_its_columns_and_can_be_moved(
    world: World, line: Line, tmp_path: Path
) -> None:
    """Audio is named relative to the manifest, texts are composed, foreign columns stay."""
    rows = [
        row | {"text": f"Cafe\u0301 {row['text']}", "mood": 3}
        for row in sound_rows(tmp_path / "in", "train", 2)
    ]
    manifest = write_manifest(tmp_path / "in" / "a.jsonl", rows)
    assert line("check", *arguments(world, manifest, f"fix={tmp_path / 'deep' / 'out'}")) == 0
    first = lines(tmp_path / "deep/out/train.jsonl")[0]
    assert first["audio"] == "../../in/train-0.wav"
    assert first["text"].startswith("Café")
    assert (first["mood"], first["speaker"], first["split"]) == (3, "train speaker", "train")
    assert not (tmp_path / "deep/out/test.jsonl").exists()


def test_long_clips_are_cut_where_their_pauses_are_known(
    world: World, line: Line, tmp_path: Path
) -> None:
    samples = np.concatenate([tone(1.2), np.zeros(8_000), tone(1.2, frequency=300.0)])
    soundfile.write(tmp_path / "long.wav", samples, 16_000)
    segments = [
        {"start": 0.0, "end": 1.2, "text": "first"},
        {"start": 1.7, "end": 2.9, "text": "second"},
    ]
    row = {
        "audio": "long.wav",
        "text": "first second",
        "language": "en",
        "segments": segments,
        "duration": 2.9,
    }
    manifest = write_manifest(tmp_path / "a.jsonl", [row])
    given = arguments(
        world,
        manifest,
        "fix=fixed",
        "data.long_audio=split",
        "data.validation_share=0",
        "data.test_share=0",
    )
    assert line("check", *given) == 0
    pieces = lines(Path("fixed/train.jsonl"))
    assert [piece["text"] for piece in pieces] == ["first", "second"]
    assert all(
        piece["duration"] == pytest.approx(piece["end"] - piece["start"]) for piece in pieces
    )
    assert Path("fixed/left_out.jsonl").read_text() == ""


def test_only_training_clips_are_cut_at_pauses(world: World, line: Line, tmp_path: Path) -> None:
    """As `train` does it: where a cut is likely right, and not certain, nothing is scored."""
    samples = np.concatenate([tone(1.3), np.zeros(9_600), tone(1.3, frequency=300.0)])
    soundfile.write(tmp_path / "long.wav", samples, 16_000)
    soundfile.write(tmp_path / "other.wav", 0.5 * samples, 16_000)
    row = {"audio": "long.wav", "text": "First. Later.", "language": "en", "split": "train"}
    other = {"audio": "other.wav", "text": "Third. Forth.", "language": "en", "split": "test"}
    manifest = write_manifest(tmp_path / "a.jsonl", [row, other])
    assert line("check", *arguments(world, manifest, "fix=fixed", "data.long_audio=split")) == 0
    assert [piece["text"] for piece in lines(Path("fixed/train.jsonl"))] == ["First.", "Later."]
    assert [one["audio"] for one in lines(Path("fixed/left_out.jsonl"))] == [
        str(tmp_path / "other.wav")
    ]


def test_what_to_type_after_the_repair(
    world: World, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row | {"language": "luo"} for row in sound_rows(tmp_path, "train", 2)]
    manifest = write_manifest(tmp_path / "a.jsonl", rows)
    own = ["data.language=luo", "data.language_token=en", "data.clean=[case,punctuation]"]
    assert line("check", *arguments(world, manifest, "fix=to train", *own)) == 0
    shown = capsys.readouterr().out
    command = shown[shown.index("lora-whisper train") :].replace("\\\n", " ")
    assert shlex.split(command)[2:] == [
        "name=c-fixed",
        f"model.checkpoint={world.checkpoint}",
        *own,
        "data.train=to train/train.jsonl",
    ]


def test_nothing_is_left_to_train_on(
    world: World, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row | {"audio": "gone.wav"} for row in sound_rows(tmp_path, "train", 2)]
    manifest = write_manifest(tmp_path / "a.jsonl", rows)
    assert line("check", *arguments(world, manifest, "fix=fixed")) == 0
    shown = capsys.readouterr().out
    assert "nothing is left to train on; fixed/left_out.jsonl says why" in shown
    assert "lora-whisper train" not in shown


def test_a_text_cannot_command_the_terminal(
    world: World, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row | {"text": "\x1b[31m1 \u202e2"} for row in sound_rows(tmp_path, "train", 1)]
    manifest = write_manifest(tmp_path / "a.jsonl", rows)
    assert line("check", *arguments(world, manifest)) == 0
    shown = capsys.readouterr().out
    assert "�[31m1, �2" in shown
    assert "\u202e" not in shown


def test_what_is_mixed_in_is_checked_and_must_not_be_tested(
    world: World, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest of the mixed source is not what `fix` writes."""
    rows = [*sound_rows(tmp_path, "train", 2), *sound_rows(tmp_path, "test", 2, 10)]
    manifest = write_manifest(tmp_path / "a.jsonl", rows)
    mixed = [*sound_rows(tmp_path, "rehearsed", 2, 20), rows[-1]]
    old = [{key: value for key, value in row.items() if key != "split"} for row in mixed]
    mix = f"data.mix=[{{weight: 0.5, train: '{write_manifest(tmp_path / 'b.jsonl', old)}'}}]"
    assert line("check", *arguments(world, manifest, mix, "fix=fixed")) == 0
    shown = capsys.readouterr().out
    assert not re.search(r"^mix 1 +0 utterances", shown, re.MULTILINE)
    assert "and the same data.mix=…" in shown
    found = report()
    assert found["splits"]["mix 1"]["utterances"] == 3
    assert [row["row"] for row in found["shared_audio"]["rows"]] == ["b.jsonl:3"]
    written = sorted(path.name for path in Path("fixed").iterdir())
    assert written == ["left_out.jsonl", "test.jsonl", "train.jsonl"]


def test_a_data_set_s_own_audio_is_checked(world: World, line: Line, tmp_path: Path) -> None:
    """Audio inside a Parquet file has no path, but a name."""
    from datasets import Audio, Dataset

    rows = sound_rows(tmp_path, "train", 3)
    columns = {
        "audio": [str(tmp_path / row["audio"]) for row in rows],
        "text": [row["text"] for row in rows],
    }
    speech = Dataset.from_dict(columns).cast_column("audio", Audio(decode=False))
    (tmp_path / "set").mkdir()
    embedded = speech.map(
        lambda row: {"audio": {"bytes": Path(row["audio"]["path"]).read_bytes(), "path": None}}
    )
    embedded.to_parquet(tmp_path / "set" / "train.parquet")
    given = ["data=hub", f"data.path={tmp_path / 'set'}", "data.language=en"]
    given += ["data.validation_share=0", "data.test_share=0"]
    assert line("check", "name=c", f"model.checkpoint={world.checkpoint}", *given) == 0
    found = report()
    assert (found["utterances"], found["problems"]) == (3, 0)
    assert line("check", "name=d", f"model.checkpoint={world.checkpoint}", *given, "fix=f") == 2


def test_examples_to_hear(world: World, line: Line) -> None:
    files = [one for one in world.arguments("c") if one.startswith(("name", "model", "data"))]
    assert line("check", *files, "augmentation=speed", "listen=2") == 0
    heard = sorted(path.name for path in Path("outputs/c/listen").iterdir())
    assert len(heard) == 4
    assert sum("before" in name for name in heard) == 2


def test_a_folder_without_weights_is_checked_and_not_trained(
    world: World, line: Line, refusal: Refusal, tmp_path: Path
) -> None:
    bare = toy_checkpoint(tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    manifest = write_manifest(tmp_path / "a.jsonl", sound_rows(tmp_path, "train", 3))
    given = [f"model.checkpoint={bare}", f"data.train={manifest}"]
    assert line("check", "name=c", *given) == 0
    assert "weights" in refusal("train", "name=t", *given)


# ── what it refuses ──────────────────────────────────────────────────────────────────────────


def test_a_report_is_replaced_only_on_request_and_a_run_never(
    world: World, line: Line, refusal: Refusal, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path / "a.jsonl", sound_rows(tmp_path, "train", 3))
    given = arguments(world, manifest, "data.train=train")
    assert line("check", *given) == 0
    before = Path("outputs/c/check.json").read_bytes()
    assert "overwrite=true" in refusal("check", *given, "seed=2")
    assert Path("outputs/c/check.json").read_bytes() == before
    assert line("check", *given, "overwrite=true") == 0
    Path("outputs/c/config.yaml").write_text("a: run")
    assert "no report of check" in refusal("check", *given, "overwrite=true")
    assert sorted(path.name for path in Path("outputs").iterdir()) == ["c"]


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (["data.path=gone.jsonl"], ["gone.jsonl"]),
        (["model.checkpoint=nowhere/at-all"], ["nowhere/at-all"]),
        (["fix=speech"], ["fix=", "speech", "holds other things"]),
        (["fix=speech/all.jsonl"], ["is a file"]),
        (["fix=outputs/c/fixed"], ["the report's own folder"]),
        (["lsiten=2"], ["lsiten", "Did you mean listen?"]),
        (["listen=-1", "seed=-1"], ["listen", "seed"]),
        (["name=../up"], ["below outputs/"]),
        (["data=hub", "data.streaming=true"], ["data.streaming=false"]),
        (["listen=1", "augmentation=noise", "augmentation.noise.folder=nowhere"], ["nowhere"]),
    ],
    ids=lambda value: value[0],
)
def test_bad_input_is_answered_before_anything_is_written(
    world: World, refusal: Refusal, broken: Path, tmp_path: Path, given: list[str], parts: list[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    keys = {one.split("=")[0] for one in given}
    others = [one for one in arguments(world, broken) if one.split("=")[0] not in keys]
    message = refusal("check", *others, *given)
    for part in parts:
        assert part in message
    assert "Traceback" not in message
    assert sorted(tmp_path.rglob("*")) == before


def test_a_fixed_folder_is_replaced_only_on_request(
    world: World, line: Line, refusal: Refusal, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path / "a.jsonl", sound_rows(tmp_path, "train", 3))
    given = arguments(world, manifest, "fix=fixed", "data.train=train")
    assert line("check", *given) == 0
    assert "fix=" in refusal("check", *given, "name=d")
    assert not Path("outputs/d").exists()
    assert line("check", *given, "overwrite=true") == 0


def test_a_point_of_a_sweep_that_finds_something_fails(
    world: World, line: Line, broken: Path
) -> None:
    given = arguments(world, broken, "strict=true", "seed=1,2")
    assert line("check", "-m", *given) == 1
    assert len(list(Path("outputs/sweeps/c").glob("*/check.json"))) == 2


# ── real speech ──────────────────────────────────────────────────────────────────────────────


def chosen_rows() -> Rows:
    """Long clips, and texts in two splits, by the manifest's own word; and a few others."""
    rows = lines(SWAHILI)
    splits = defaultdict(set)
    for row in rows:
        splits[row["transcription"]].add(row["split"])
    kept = [row for row in rows if row["duration"] > 30 or len(splits[row["transcription"]]) > 1]
    kept += rows[::100]
    return [row | {"file_name": str(SWAHILI.parent / row["file_name"])} for row in kept]


@pytest.mark.skipif(not SWAHILI.exists() or not GENUINE.is_dir(), reason="without real speech")
def test_real_speech_has_20_long_clips_and_3_shared_texts(line: Line, tmp_path: Path) -> None:
    """Which the whole of it has, too; the other 430 clips take 15 s to decode."""
    manifest = write_manifest(tmp_path / "a.jsonl", chosen_rows())
    given = ["name=c", f"model.checkpoint={GENUINE}", f"data.path={manifest}", "data.language=sw"]
    assert line("check", *given) == 0
    found = report()
    assert found["over_window"]["count"] == 20
    assert found["shared_texts"]["count"] == 3
    assert found["shared_texts"]["pairs"]["train, test"] == 3
    assert {row["split"] for row in found["shared_texts"]["rows"]} == {"train"}
    for key in ("unreadable", "truncated", "duplicates", "shared_audio", "clipped", "silent"):
        assert found[key]["count"] == 0
