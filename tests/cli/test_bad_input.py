"""Bad input: exit code 2, one message that helps, and nothing written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Line, Refusal, World


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["adapter.rnak=4"], ["adapter.rnak", "Did you mean adapter.rank?"]),
        (["mdel=tiny", "optimiser.learning_rate=1"], ["mdel", "optimiser.learning_rate"]),
        (["model=enormous"], ["model=enormous", "large-v3-turbo"]),
        (["augmentation=[noise,speeed]", "seed=x"], ["Did you mean speed?", "telephone"]),
        (["experiment=quikstart"], ["experiment=quikstart", "quickstart"]),
        (
            ["adapter.rank=-1", "training.global_batch=0", "optimizer.schedule=steep"],
            ["adapter.rank", "training.global_batch", "optimizer.schedule"],
        ),
        (["adapter.rank=2,4"], ["adapter.rank=2,4", "lora-whisper train -m adapter.rank=2,4"]),
        (["data.train=gone.jsonl"], ["gone.jsonl", "data.train"]),
        (["model.checkpoint=nowhere/at-all"], ["nowhere/at-all", "model=nano"]),
        (["data.language=klingon"], ["klingon", "data.language=CODE"]),
        (["evaluation.group_by=shoe_size"], ["shoe_size", "text"]),
        (["name=../up"], ["name", "below outputs/"]),
    ],
    ids=lambda value: value[0] if value else "",
)
def test_one_message_and_nothing_written(
    world: World, refusal: Refusal, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    given = {argument.split("=")[0] for argument in arguments}
    others = [one for one in world.arguments("a") if one.split("=")[0] not in given]
    if "data.language=klingon" in arguments:
        rows = (world.speech / "train.jsonl").read_text().replace(', "language": "en"', "")
        (world.speech / "plain.jsonl").write_text(rows)
        others = [one for one in others if not one.startswith("data.")]
        others.append(f"data.train={world.speech / 'plain.jsonl'}")
    message = refusal("train", *others, *arguments)
    for part in parts:
        assert part in message
    assert "Traceback" not in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_line_that_is_no_json_is_named_by_file_and_line(
    world: World, refusal: Refusal, tmp_path: Path
) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio": "a.wav", "text": "x"}\n{"audio": \n[]\n')
    message = refusal("train", *world.arguments("a", f"data.train={manifest}"))
    assert "m.jsonl:2" in message
    assert "m.jsonl:3" in message
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    "content", ["", "\n\n", '{"audio": "a.wav", "text": "x", "split": "test"}\n']
)
def test_an_empty_split_is_refused(
    world: World, refusal: Refusal, tmp_path: Path, content: str
) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(content)
    assert "m.jsonl" in refusal("train", *world.arguments("a", f"data.train={manifest}"))


def test_a_split_whose_clips_are_all_too_long_says_how_long_the_window_is(
    world: World, refusal: Refusal, tmp_path: Path
) -> None:
    from tests.toy_speech import write_clip, write_manifest

    write_clip(tmp_path / "long.wav", 3.0)
    rows = [{"audio": "long.wav", "text": "one", "language": "en"}]
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    assert "2 s" in refusal("train", *world.arguments("a", f"data.train={manifest}"))


def test_all_points_of_a_sweep_are_checked_before_the_first_is_run(
    world: World, refusal: Refusal, tmp_path: Path
) -> None:
    arguments = world.arguments("s", "adapter.rank=2,-4", "optimizer.learning_rate=1e-3,0")
    message = refusal("train", "-m", *arguments)
    assert message.count("adapter.rank: expected 1 or more") == 2
    assert message.count("optimizer.learning_rate: expected more than 0") == 2
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("command", ["merge", "evaluate"])
def test_a_folder_that_is_no_run_is_refused(refusal: Refusal, tmp_path: Path, command: str) -> None:
    (tmp_path / "other").mkdir()
    assert "not a run" in refusal(command, "run=other")
    assert "no such folder" in refusal(command, "run=gone")
    assert "run: " in refusal(command)


def test_merge_replaces_nothing_unasked(line: Line, refusal: Refusal, finished: list[str]) -> None:
    assert line("merge", "run=outputs/a") == 0
    assert "overwrite=true" in refusal("merge", "run=outputs/a")
    assert line("merge", "run=outputs/a", "overwrite=true") == 0


def test_a_run_is_replaced_only_when_the_new_one_can_begin(
    line: Line, finished: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("outputs/a/summary.json").read_text()
    assert line("train", *finished, "overwrite=true", "adapter.layers=encoder.7-") == 2
    assert "layers 0 to 1" in capsys.readouterr().err
    assert Path("outputs/a/summary.json").read_text() == before
    assert line("train", *finished, "name=b", "adapter.layers=encoder.7-") == 2
    assert not Path("outputs/b").exists()


def test_a_complete_run_is_not_reported_for_another_configuration(
    line: Line, finished: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert line("train", *finished, "resume=auto", "adapter.alpha=1") == 2
    assert "adapter.alpha: was 32.0, is 1.0" in capsys.readouterr().err


def test_training_on_the_test_recordings_is_refused(world: World, refusal: Refusal) -> None:
    arguments = world.arguments("a", f"data.test={world.speech / 'train.jsonl'}")
    assert "20 recordings of data.test are in data.train too" in refusal("train", *arguments)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["name=a,b"], "name cannot be swept"),
        (["adapter.rank=2,2"], "two points would share this folder"),
    ],
)
def test_a_sweep_that_would_lose_points_is_refused(
    world: World, refusal: Refusal, overrides: list[str], expected: str
) -> None:
    given = {one.split("=")[0] for one in overrides}
    others = [one for one in world.arguments("s") if one.split("=")[0] not in given]
    assert expected in refusal("train", "-m", *others, *overrides)
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("adapter.alhpa=3", "Did you mean adapter.alpha?"),
        ("model=enormous", "model=enormous"),
        ("adapter.rank=[2,3", "expected a whole number"),
        ("==", "=="),
    ],
)
def test_a_typo_beside_what_is_swept_is_the_users_to_mend(
    world: World,
    line: Line,
    capsys: pytest.CaptureFixture[str],
    override: str,
    expected: str,
) -> None:
    """Also where Hydra would meet it before any point is composed."""
    assert line("train", "-m", *world.arguments("s"), "adapter.dropout=0,0.1", override) == 2
    assert expected in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_audio_that_breaks_off_is_named(
    world: World, line: Line, refusal: Refusal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its header is sound, so that only decoding finds it: here in the base's score."""
    import soundfile

    from tests.toy_speech import tone, write_manifest

    clip = tmp_path / "cut.flac"
    soundfile.write(clip, tone(1.0), 16_000)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    rows = [{"audio": str(clip), "text": "one", "language": "en"}]
    test = write_manifest(tmp_path / "cut.jsonl", rows)
    few = ("training.max_steps=1", "data.validation=null")
    arguments = world.arguments("a", f"data.test={test}", *few)
    assert "cut.jsonl:1" in refusal("train", *arguments)
    assert line("train", *arguments, "overwrite=true", "data.bad_audio=drop") == 0
    assert "not decoded cut.jsonl:1" in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["training.patience=2", "training.averaging=best-2"])
def test_what_compares_adapters_needs_a_validation_set(
    world: World, refusal: Refusal, setting: str
) -> None:
    message = refusal("train", *world.arguments("a", "data.validation=null", setting))
    assert f"{setting.split('=')[0]}" in message
    assert "Type data.validation=…" in message
    assert not Path("outputs").exists()


def test_a_folder_that_cannot_be_made_is_named(
    world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("outputs").write_text("a file of mine")
    for command, arguments in (
        ("train", world.arguments("a")),
        ("check", world.arguments("a")[:5]),
        ("search", world.arguments("a", "search.trials=1")),
    ):
        assert line(command, *arguments) == 2, command
        message = capsys.readouterr().err
        assert "error: outputs" in message, (command, message)
    assert Path("outputs").read_text() == "a file of mine"


def test_a_name_that_is_too_long_is_to_be_shorter(world: World, refusal: Refusal) -> None:
    message = refusal("check", *world.arguments("ü" * 150)[:5])
    assert "File name too long" in message
    assert message.rstrip().endswith("Type a shorter name.")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(
    world: World, refusal: Refusal, tmp_path: Path
) -> None:
    tmp_path.chmod(0o555)
    assert "error: outputs: Permission denied" in refusal("train", *world.arguments("a"))


@pytest.mark.parametrize("fault", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_base_that_is_broken_is_refused_by_every_command(
    world: World, line: Line, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    base = Path(shutil.copytree(world.checkpoint, "whisper"))
    (base / fault).write_bytes((base / fault).read_bytes()[:100])
    model = f"model.checkpoint={base}"
    test = f"data.test={world.speech}/test.jsonl"
    typed = [
        ["train", *world.arguments("a"), model],
        ["evaluate", f"models=[{base}]", test],
        ["plan", f"model={base.absolute()}"],
        ["check", model, f"data.train={world.speech}/train.jsonl", "name=a"],
    ]
    unread = {"model.safetensors": ("plan", "check"), "tokenizer.json": ("plan",)}
    for command, *arguments in typed:
        if command not in unread.get(fault, ()):
            assert line(command, *arguments) == 2, command
            assert fault in capsys.readouterr().err, command
            assert not Path("outputs").exists(), command


def test_beside_a_run_that_exists_layers_that_there_are_not_are_named(
    finished: list[str], refusal: Refusal
) -> None:
    said = refusal("train", *finished, "adapter.layers=encoder.9")
    assert "outputs/a exists and is complete" in said
    assert "encoder.9" in said
    assert "Several" not in refusal("train", *finished)
