"""`train` on speech as people have it: packed, augmented, mixed, streamed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from lora_whisper.files import read_json
from lora_whisper.model.encoder import encode
from lora_whisper.training import loss
from tests.cli.conftest import QUICK, Line, Refusal, World
from tests.toy_hub import write_plain
from tests.toy_speech import toy_speech, write_manifest


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """24 short clips in two files, one clip beyond the toy's window, and four for a test."""
    seconds = [0.5 + 0.05 * number for number in range(24)]
    write_plain(tmp_path / "set", "train", [*seconds, 3.0], files=2)
    write_plain(tmp_path / "set", "test", [0.6, 0.7, 0.8, 0.9])
    return tmp_path / "set"


def metrics(name: str) -> list[dict[str, float]]:
    """What was logged of the training steps."""
    lines = Path(f"outputs/{name}/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [values for line in lines if "epoch" in (values := json.loads(line))]


def test_packed_augmented_and_mixed_windows_train(
    world: World, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three things at once, as a user would; 20 clips fill fewer windows than 20."""
    other = toy_speech(tmp_path / "other", count=6, seed=9)
    arguments = world.arguments(
        "all",
        "data.windows=packed",
        "data.clean=[case]",
        f"data.mix=[{{train: {other}, weight: 0.5}}]",
        "augmentation=[speed,gain,spec_augment]",
    )
    assert line("train", *arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mix 1 6 utterances" in shown
    assert "augmented by speed, gain, spec_augment" in shown
    shares = "timestamps 0.2, previous text 0.2, no speech 0.02, log-mel padding 0.5"
    assert f"windows packed shares {shares}" in shown
    assert "texts cleaned 26 texts, changed by step" in shown
    found = re.search(r"epochs [\d.]+, of (\d+) windows each", shown)
    assert found is not None
    windows = int(found[1])
    assert windows < 26
    assert metrics("all")[-1]["epoch"] == pytest.approx(4 / -(-windows // 4), abs=1e-3)


def test_trimmed_windows_are_of_training_alone(
    world: World,
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever is scored is scored in whole windows, as the model will be used."""
    frames: dict[bool, set[int]] = {True: set(), False: set()}

    def noted(encoder: WhisperEncoder, features: Tensor, *known: None) -> Tensor:
        frames[encoder.training].add(features.shape[-1])
        return encode(encoder, features)

    monkeypatch.setattr(loss, "encode", noted)
    trimmed = {"margin_seconds": [0.1, 0.3], "whole_share": 0.3}
    settings = [f"data.trimmed.{name}={value}" for name, value in trimmed.items()]
    arguments = world.arguments("cut", "data.windows=trimmed", *settings, "training.max_steps=8")
    assert line("train", *arguments) == 0
    assert frames[False] == {200}
    assert 200 in frames[True]
    assert len(frames[True]) > 2
    assert (
        """
windows     trimmed 0.1 – 0.3 s behind a clip
  whole     30 % of them
  packed    25 % of the speech, once more
  shares    no speech 0.03, """
        in capsys.readouterr().out
    )
    assert read_json(Path("outputs/cut/summary.json"))["windows"] == "trimmed"
    assert "trimmed windows" in Path("outputs/cut/adapter/README.md").read_text()


def test_a_step_by_seconds_has_as_many_clips_as_they_are_short(
    world: World, line: Line, refusal: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["data.windows=trimmed", "data.trimmed.margin_seconds=[0.1,0.3]"]
    more = ["training.global_batch=null", "training.global_batch_seconds=8", "data.test=null"]
    arguments = world.arguments("level", *short, *more)
    with_windows = [one for one in arguments if one != "training.global_batch=null"]
    assert "type training.global_batch=null or" in refusal("train", *with_windows)
    too_few = [*arguments, "training.global_batch_seconds=1.5"]
    assert "less than one window of 2 s. Type 2 or more; " in refusal("train", *too_few)
    assert not Path("outputs").exists()
    assert line("train", *arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    found = re.search(
        r"steps 4, of 8 s or about (\d+) windows each, 2 in a forward pass, or", shown
    )
    assert found is not None
    assert int(found[1]) > 4, "as many as whole ones would be"
    card = Path("outputs/level/adapter/README.md").read_text()
    assert "4 of 8 s of trimmed windows" in card
    assert line("train", *arguments, "resume=auto") == 0


def test_a_list_of_words_is_announced_and_kept(
    world: World, line: Line, refusal: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my words.txt").write_text("three\nnever said\nfive\n")
    texts = [json.loads(row)["text"] for row in (world.speech / "train.jsonl").open()]
    number = sum("three" in text or "five" in text for text in texts)
    given = world.arguments("a", "data.words=my words.txt", "training.max_steps=1")
    assert line("train", *given, "data.test=null", "data.validation=null") == 0
    shown = " ".join(capsys.readouterr().out.split())
    said = f"words 3 words of my words.txt, 2 of them said in {number} of 20 utterances"
    assert f"{said}; as a prompt in 50 % of the windows" in shown
    assert Path("outputs/a/words.txt").read_text() == Path("my words.txt").read_text()
    Path("other.txt").write_text("penicillin\n")
    arguments = world.arguments("b", "data.words=other.txt")
    assert "none of its 1 word is said in 20 training texts" in refusal("train", *arguments)
    assert not Path("outputs/b").exists()


def test_a_stream_trains_and_goes_on(
    world: World, line: Line, hub_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speech = [f"data.path={hub_folder}", "data.streaming=true", "data.language=en", "data=hub"]
    given = [one for one in world.arguments("streamed") if not one.startswith("data.")]
    given += [*speech, "training.max_steps=8"]
    assert line("train", *given) == 0
    shown = capsys.readouterr().out
    assert "streamed from" in shown
    assert "windows     padded, as a stream cannot be put in order\n" in shown
    assert "longer than the window of 2 s" in shown, "the long clip is met and named"
    summary = read_json(Path("outputs/streamed/summary.json"))
    assert summary["train_audio_seconds_seen"] > 0
    assert summary["adapter"]["utterances"] == 4, "the data set's own test split"
    assert line("train", *given, "resume=auto") == 0


def test_a_stream_needs_to_know_its_end(world: World, refusal: Refusal, hub_folder: Path) -> None:
    given = [
        one for one in world.arguments("endless") if not one.startswith(("data.", "training."))
    ]
    speech = [f"data.path={hub_folder}", "data.streaming=true", "data.language=en", "data=hub"]
    assert "training.max_steps=" in refusal("train", *given, *speech)
    assert not Path("outputs").exists()


def test_one_file_without_splits_is_enough(world: World, line: Line) -> None:
    """What no split is named for is divided by hash, the same for train and evaluate."""
    given = [one for one in world.arguments("divided") if not one.startswith("data.")]
    speech = [f"data.path={world.speech / 'train.jsonl'}", "data.test_share=0.3"]
    assert line("train", *given, *speech, "data.validation_share=0") == 0
    tested = read_json(Path("outputs/divided/summary.json"))["adapter"]["utterances"]
    assert 0 < tested < 20
    assert line("evaluate", "run=outputs/divided", *QUICK) == 0


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("augmentation=telephone augmentation.telephone.codecs=[opus]", "is no setting any more"),
        ("augmentation=noise augmentation.noise.folder=empty", "empty"),
        ("data.mix=[{train: nowhere.jsonl, weight: 1}]", "nowhere.jsonl"),
        ("data.language=luo data.language_token=de", "no row of data.train is in luo, but in en"),
        ("data.mix=[{train: nowhere.jsonl}]", "data.mix[0].weight: missing"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_written(
    world: World, refusal: Refusal, override: str, expected: str
) -> None:
    more = [override] if override.startswith("data.mix") else override.split(" ")
    assert expected in refusal("train", *world.arguments("bad", *more))
    assert not Path("outputs").exists()


def test_translations_are_cleaned_as_the_english_that_they_are(
    world: World, line: Line, refusal: Refusal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """num2words speaks no Luo."""
    row = json.loads(toy_speech(tmp_path, count=1).read_text(encoding="utf-8"))
    row |= {"language": "luo", "text": "the 3"}
    given = ["data.clean=[digits]", "data.language=luo", "data.language_token=de"]
    given.append("training.max_steps=1")
    for task in ("translate", "transcribe"):
        write_manifest(tmp_path / f"{task}.jsonl", [row | {"task": task}])
    translated = world.arguments("a", *given, f"data.train={tmp_path / 'translate.jsonl'}")
    assert line("train", *translated) == 0
    assert "'the 3' → 'the three'" in capsys.readouterr().out
    spoken = world.arguments("b", *given, f"data.train={tmp_path / 'transcribe.jsonl'}")
    assert "digits cannot be spelled in luo" in refusal("train", *spoken)
