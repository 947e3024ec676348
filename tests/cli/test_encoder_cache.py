"""Runs whose encoder is frozen: what it makes of a window is computed once, and changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lora_whisper import terminal
from lora_whisper.files import read_json, read_jsonl
from lora_whisper.locks import InUse
from lora_whisper.training import encoder_cache
from tests.cli.conftest import Line, World

# 20 windows of speech and one without: 40 to be kept, since each may be padded in two ways.
LONG_ENOUGH = ("training.max_steps=16", "training.validate_every_steps=16")
UNSCORED = ("data.test=null", "data.validation=null")
DECODER = ("adapter.layers=decoder", *LONG_ENOUGH, *UNSCORED)


def cached() -> list[Path]:
    return sorted(Path("cache/encoder").glob("*"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_WHISPER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many windows were encoded for the disk, portion after portion."""
    portions: list[int] = []
    encode = encoder_cache._encode

    def noted(chunk: Any, *more: Any) -> Any:
        portions.append(len(chunk))
        return encode(chunk, *more)

    monkeypatch.setattr(encoder_cache, "_encode", noted)
    return portions


def losses(name: str) -> list[float]:
    lines = read_jsonl(Path("outputs") / name / "metrics.jsonl")
    return [line["loss_per_token"] for line in lines if "loss_per_token" in line]


def summary(name: str) -> dict[str, Any]:
    return read_json(Path("outputs") / name / "summary.json")["encoder_cache"]


@pytest.mark.parametrize("windows", ["padded", "packed"])
@pytest.mark.parametrize("layers", ["decoder", "encoder.1+decoder"])
def test_a_run_learns_as_without(
    world: World, line: Line, encoded: list[int], layers: str, windows: str
) -> None:
    """In windows of one text and of several, with prompts, timestamps and both paddings."""
    more = [f"adapter.layers={layers}", f"data.windows={windows}", "training.log_every_steps=1"]
    steps = ["training.max_steps=20"]
    Path("words.txt").write_text("one\nthree\n")
    shares = ["data.timestamps_share=0.5", "data.previous_text_share=0.5", "data.words=words.txt"]
    arguments = world.arguments("a", *UNSCORED, *more, *shares, *steps)
    assert line("train", *arguments) == 0
    assert sum(encoded) == summary("a")["windows"]
    assert summary("a")["layers"] == (2 if layers == "decoder" else 1)
    assert summary("a")["dtype"] == ("float16" if layers == "decoder" else "bfloat16")
    plain = [one.replace("name=a", "name=plain") for one in arguments]
    assert line("train", *plain, "training.encoder_cache_gigabytes=0") == 0
    assert "encoder_cache" not in read_json(Path("outputs/plain/summary.json"))
    rounding = 1e-4 if layers == "decoder" else 1e-3
    assert losses("a") == pytest.approx(losses("plain"), rel=rounding)
    seen = [read_json(Path(f"outputs/{run}/summary.json")) for run in ("a", "plain")]
    assert seen[0]["train_audio_seconds_seen"] == seen[1]["train_audio_seconds_seen"]


def test_a_sweep_encodes_once_and_a_run_goes_on_to_the_same_adapter(
    world: World,
    line: Line,
    encoded: list[int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminal, "PLAIN_SECONDS", 0.0)  # every line of progress
    more = ["adapter.dropout=0.2", "training.checkpoint_every_steps=4"]
    arguments = world.arguments("a", *DECODER, *more)
    ranked = [one for one in arguments if not one.startswith("adapter.rank")]
    assert line("train", "-m", *ranked, "adapter.rank=2,3") == 0
    assert sum(encoded) == 20
    shown = " ".join(capsys.readouterr().out.split())
    assert "encoder 2 layers of it frozen, computed once for 20 windows" in shown
    assert shown.index("computed once for 20") < shown.index("encoding")
    assert "which is in" in shown
    assert "encoder the first 2 layers not in the steps: computed once, in 0:0" in shown
    run = Path("outputs/sweeps/a/adapter.rank-2")
    shutil.copytree(run, "outputs/a")
    for checkpoint in Path("outputs/a/checkpoints").glob("*-*"):
        if int(checkpoint.name.split("-")[1]) > 12:
            shutil.rmtree(checkpoint)
    for name in ("summary.json", "adapter"):
        path = Path("outputs/a", name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree("cache/encoder")
    assert line("train", *arguments, "resume=auto") == 0
    assert sum(encoded) == 40, "what was deleted is computed again"
    adapters = [folder / "adapter/adapter_model.safetensors" for folder in (run, Path("outputs/a"))]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_a_killed_writer_leaves_nothing_that_is_read(
    world: World, line: Line, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Nothing is tidied up after it."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(encoder_cache, "_finish", die)
        patch.setattr("lora_whisper.files.tidy", lambda path: None)
        with pytest.raises(Killed):
            line("train", *world.arguments("a", *DECODER))
    (left,) = cached()
    assert left.name.endswith(".part")
    assert line("train", *world.arguments("a", *DECODER, "overwrite=true")) == 0
    (folder,) = cached()
    assert left.name == f".{folder.name}.part"
    assert sum(encoded) == 40


@pytest.mark.parametrize("name", ["encoded.json", "windows.npz", "activations.bin"])
def test_what_was_damaged_is_computed_again(
    world: World, line: Line, encoded: list[int], name: str
) -> None:
    assert line("train", *world.arguments("a", *DECODER)) == 0
    (folder,) = cached()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-7] + (b"" if name == "activations.bin" else b"0123456"))
    assert line("train", *world.arguments("b", *DECODER)) == 0
    assert sum(encoded) == 40
    assert (folder / name).read_bytes() == content


def test_other_speech_or_another_base_is_another_thing(
    world: World, line: Line, encoded: list[int], tmp_path: Path
) -> None:
    """Of the same names and lengths, even."""
    speech = shutil.copytree(world.speech, tmp_path / "speech")
    arguments = [
        one.replace(str(world.speech), str(speech)) for one in world.arguments("a", *DECODER)
    ]
    assert line("train", *arguments) == 0
    rows = [json.loads(row) for row in (speech / "train.jsonl").read_text().splitlines()]
    same_length = sorted(
        (speech / row["audio"] for row in rows), key=lambda one: one.stat().st_size
    )
    shutil.copy(same_length[0], same_length[1])
    assert line("train", *[one.replace("name=a", "name=b") for one in arguments]) == 0
    assert len(cached()) == 2
    assert sum(encoded) == 40


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["data.windows=trimmed"], "trimmed windows draw in each step"),
        (
            ["augmentation=[gain]", "data.windows=padded"],
            "augmentation.gain makes another window of it",
        ),
        (["training.max_steps=8"], "the run meets too few windows twice"),
        (["training.encoder_cache_gigabytes=1e-6"], "of all windows it takes 0.1 MB, more"),
    ],
)
def test_where_it_is_not_done_one_line_says_why(
    world: World,
    line: Line,
    encoded: list[int],
    capsys: pytest.CaptureFixture[str],
    settings: list[str],
    reason: str,
) -> None:
    assert line("train", *world.arguments("a", *DECODER, *settings)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"encoder frozen, but computed in each step: {reason}" in shown
    assert not encoded
    assert not cached()


def test_what_another_process_writes_is_waited_for(
    world: World,
    line: Line,
    encoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And does not count twice: the limit is that of one."""
    arguments = world.arguments("a", *DECODER, "training.encoder_cache_gigabytes=2e-4")
    assert line("train", *arguments) == 0
    (folder,) = cached()
    unfinished = folder.rename(folder.with_name(f".{folder.name}.part"))

    def in_use(_: Path) -> None:
        raise InUse("by another process")

    monkeypatch.setattr(encoder_cache, "locked", in_use)
    monkeypatch.setattr(encoder_cache.time, "sleep", lambda _: unfinished.rename(folder))
    assert line("train", *[one.replace("name=a", "name=b") for one in arguments]) == 0
    assert "waiting for another process, which encodes" in " ".join(capsys.readouterr().out.split())
    assert sum(encoded) == 20
    assert summary("b")["seconds"] == 0.0


@pytest.mark.parametrize("trouble", ["no lock", "no folder", "full of others"])
def test_a_disk_that_keeps_nothing_ends_no_run(
    world: World, line: Line, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, trouble: str,
) -> None:  # fmt: skip
    cache = Path("cache").absolute()
    arguments = world.arguments("a", *DECODER)
    if trouble == "no folder":
        cache.write_text("")
    elif trouble == "full of others":
        (cache / "encoder/other").mkdir(parents=True)
        (cache / "encoder/other/activations.bin").write_bytes(bytes(1_000_000))
        arguments.append("training.encoder_cache_gigabytes=1e-3")
    else:

        def unlocked(*_: object) -> None:
            raise OSError(37, "No locks available")

        monkeypatch.setattr(encoder_cache, "locked", unlocked)
    assert line("train", *arguments) == 0
    assert "computed in each step" in " ".join(capsys.readouterr().out.split())
    assert "encoder_cache" not in read_json(Path("outputs/a/summary.json"))
