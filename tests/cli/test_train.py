"""The main job on toys: what lies in the run folder, and that it goes on where it stopped."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from lora_whisper.evaluation import capability_material
from lora_whisper.training import loop
from lora_whisper.training.run import Run
from tests.cli.conftest import QUICK, Line, Refusal, World
from tests.cli.test_resume import adapter, same
from tests.toy_speech import write_manifest
from tests.toys import toy_inputs


def test_train_merge_evaluate(world: World, line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    assert line("train", *world.arguments("a")) == 0
    run = Path("outputs/a")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["merged"] is None
    assert summary["steps"] == 4
    assert summary["seed"] == 1
    assert summary["adapter_bytes"] == (run / "adapter/adapter_model.safetensors").stat().st_size
    assert summary["trainable_parameters"] == sum(value.numel() for value in adapter("a").values())
    for model in ("base", "adapter"):
        score = summary[model]
        assert {"wer", "wer_orthographic", "cer", "utterances", "reference_words"} <= score.keys()
        assert score["wer_ci95"][0] <= score["wer"] <= score["wer_ci95"][1]
        assert score["utterances"] == 4
    lines = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines if "validation_wer" in row] == [2, 4]
    assert yaml.safe_load((run / "config.yaml").read_text())["adapter"]["rank"] == 2
    assert "validation WER" in (run / "train.log").read_text()
    card, report = run / "adapter/README.md", run / "report.html"
    assert "| merged |" not in card.read_text()
    cell = re.compile(r"<t[dh][^>]*>(<[^>]+>)*merged</")
    assert not cell.search(report.read_text())

    assert line("merge", f"run={run}") == 0
    merged = json.loads((run / "summary.json").read_text())["merged"]
    assert merged["wer"] == summary["adapter"]["wer"]
    assert "| merged |" in card.read_text()
    assert cell.search(report.read_text())
    check_stock_loading(run)

    capsys.readouterr()
    assert line("evaluate", f"run={run}", *QUICK) == 0
    again = json.loads((run / "summary.json").read_text())
    assert [again[model]["wer"] for model in ("base", "adapter", "merged")] == [
        summary["base"]["wer"],
        summary["adapter"]["wer"],
        merged["wer"],
    ]
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80, "fits a terminal of 80 columns"


def test_a_language_under_a_borrowed_token_that_is_learnt_anew(world: World, line: Line) -> None:
    """From training to the merged model; Whisper has no Luo, and the toy has en, zh and de."""
    rows = [json.loads(row) for row in (world.speech / "train.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"audio": str(world.speech / row["audio"]), "language": "luo"}
    for split, some in {"train": rows[:12], "validation": rows[12:15], "test": rows[15:]}.items():
        write_manifest(Path(f"{split}.jsonl"), some)
    splits = [f"data.{split}={split}.jsonl" for split in ("train", "validation", "test")]
    luo = [*splits, "data.language=luo", "data.language_token=de"]
    learnt = ["adapter.train_language_token=true", "data.windows=packed"]
    assert line("train", *world.arguments("a", *luo, *learnt)) == 0
    run = Path("outputs/a")
    tokens = [name for name in adapter("a") if "trainable_tokens" in name]
    assert len(tokens) == 1
    saved = json.loads((run / "adapter/adapter_config.json").read_text())
    base = WhisperForConditionalGeneration.from_pretrained(world.checkpoint)
    (german,) = saved["trainable_token_indices"]
    assert german == base.generation_config.lang_to_id["<|de|>"]
    learnt_row = adapter("a")[tokens[0]][0]
    assert not torch.equal(learnt_row, base.proj_out.weight[german])

    assert line("merge", f"run={run}") == 0
    merged = WhisperForConditionalGeneration.from_pretrained(run / "merged")
    assert merged.config.vocab_size == base.config.vocab_size
    assert torch.equal(merged.proj_out.weight[german], learnt_row)
    others = [index for index in range(merged.config.vocab_size) if index != german]
    assert torch.equal(merged.proj_out.weight[others], base.proj_out.weight[others])
    check_stock_loading(run)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["merged"]["wer"] == summary["adapter"]["wer"]
    assert summary["languages"] == ["luo"]
    assert summary["prompt"] == {"language": "de", "task": "transcribe"}


def test_a_token_to_learn_has_to_be_named(
    world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line("train", *world.arguments("a", "adapter.train_language_token=true")) == 2
    assert "data.language_token=CODE" in capsys.readouterr().err
    assert not Path("outputs/a").exists()


def check_stock_loading(run: Path) -> None:
    """PEFT and Transformers load what was written, without us, and agree with each other."""
    config = json.loads((run / "adapter/adapter_config.json").read_text())
    base = WhisperForConditionalGeneration.from_pretrained(config["base_model_name_or_path"])
    model = PeftModel.from_pretrained(base, str(run / "adapter")).eval()
    merged = WhisperForConditionalGeneration.from_pretrained(run / "merged").eval()
    inputs = toy_inputs()
    with torch.no_grad():
        torch.testing.assert_close(
            merged(**inputs).logits, model(**inputs).logits, rtol=1e-4, atol=1e-5
        )
    processor = WhisperProcessor.from_pretrained(run / "merged")
    assert processor.feature_extractor.feature_size == merged.config.num_mel_bins


def test_another_test_set_is_scored_beside_the_summary(
    world: World, line: Line, finished: list[str]
) -> None:
    before = Path("outputs/a/summary.json").read_text()
    other = world.speech / "validation.jsonl"
    assert line("evaluate", "run=outputs/a", f"data.test={other}", *QUICK) == 0
    assert Path("outputs/a/summary.json").read_text() == before
    (score,) = Path("outputs/a/evaluation/adapter").glob("*-validation/score.json")
    assert json.loads(score.read_text())["utterances"] == 3


def test_a_run_can_be_evaluated_from_another_folder(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths of the training command are found again."""
    monkeypatch.chdir(world.speech)
    relative = [f"data.{split}={split}.jsonl" for split in ("train", "validation", "test")]
    others = [one for one in world.arguments("a") if not one.startswith(("data.", "model."))]
    arguments = [*others, *relative, "model.checkpoint=../toy", "training.max_steps=1"]
    assert line("train", *arguments) == 0
    run = world.speech / "outputs" / "a"
    monkeypatch.chdir("/")
    assert line("merge", f"run={run}") == 0


def test_the_rerun_rule(
    line: Line, refusal: Refusal, finished: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    written = Path("outputs/a/summary.json").stat().st_mtime_ns
    assert "overwrite=true" in refusal("train", *finished)
    assert line("train", *finished, "resume=auto") == 0
    assert "complete" in capsys.readouterr().out
    assert Path("outputs/a/summary.json").stat().st_mtime_ns == written
    assert line("train", *finished, "training.max_steps=1", "overwrite=true") == 0
    assert Path("outputs/a/summary.json").stat().st_mtime_ns != written


def test_an_interrupted_run_goes_on_to_the_same_adapter(
    world: World,
    line: Line,
    refusal: Refusal,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ("adapter.dropout=0.3", "training.max_steps=6", "data.test=null")
    assert line("train", *world.arguments("through", *more)) == 0
    halves = world.arguments("halves", *more)
    whole_step = loop.train_step

    def step_and_ctrl_c(trainer: loop.Trainer, step: int, *rest: object) -> loop.StepResult:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return whole_step(trainer, step, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "train_step", step_and_ctrl_c)
    assert line("train", *halves) == 130
    monkeypatch.setattr(loop, "train_step", whole_step)
    assert "resume=auto" in capsys.readouterr().err
    assert not Path("outputs/halves/summary.json").exists()
    assert line("train", *halves) == 2, "an unfinished run is not replaced unasked"
    assert "adapter.rank: was 2, is 3" in refusal("train", *halves, "resume=auto", "adapter.rank=3")
    assert line("train", *halves, "resume=auto", "training.log_every_steps=1") == 0
    assert same("through", "halves")
    steps = [
        json.loads(row)["step"]
        for row in Path("outputs/halves/metrics.jsonl").read_text().split()
        if row.startswith("{") and row.endswith("}")
    ]
    assert steps == sorted(steps)


def test_the_same_seed_gives_the_same_adapter(world: World, line: Line) -> None:
    few = ("data.validation=null", "data.test=null")
    assert line("train", *world.arguments("one", *few, "training.loader_workers=2")) == 0
    assert line("train", *world.arguments("two", *few)) == 0
    assert line("train", *world.arguments("three", *few, "seed=2")) == 0
    assert same("one", "two")
    assert not same("one", "three")


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantized_training_and_a_full_precision_merge(world: World, line: Line, kind: str) -> None:
    unscored = ("data.validation=null", "data.test=null")
    assert line("train", *world.arguments("q", *unscored, f"quantization={kind}")) == 0
    assert any(value.abs().max() > 0 for name, value in adapter("q").items() if "lora_B" in name)
    assert line("merge", "run=outputs/q", "dtype=float16") == 0
    merged = load_file("outputs/q/merged/model.safetensors")
    assert {value.dtype for value in merged.values()} == {torch.float16}


def test_bad_audio_is_skipped_only_when_told(
    world: World, line: Line, refusal: Refusal, tmp_path: Path
) -> None:
    rows = (world.speech / "train.jsonl").read_text().replace('"train/', f'"{world.speech}/train/')
    manifest = tmp_path / "some.jsonl"
    (tmp_path / "broken.wav").write_bytes(b"RIFF, but no more than that")
    bad = '{"audio": "gone.wav", "text": "x", "language": "en"}\n'
    broken = '{"audio": "broken.wav", "text": "x", "language": "en"}\n'
    manifest.write_text(rows + bad + broken)
    few = ("training.max_steps=1", "data.validation=null", "data.test=null")
    arguments = world.arguments("a", f"data.train={manifest}", *few)
    message = refusal("train", *arguments)
    assert "some.jsonl:21" in message
    assert "some.jsonl:22" in message
    assert "data.bad_audio=drop" in message
    assert not Path("outputs").exists() or not any(Path("outputs").iterdir())
    assert line("train", *arguments, "data.bad_audio=drop") == 0
    summary = json.loads(Path("outputs/a/summary.json").read_text())
    assert sum(summary["left_out"]["train"].values()) == 2


def test_patience_ends_a_run_early_and_the_summary_says_so(
    world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a rate of nothing no validation is better than the first."""
    settings = ["training.validate_every_steps=1", "training.patience=2", "training.max_steps=30"]
    settings.append("data.test=null")
    arguments = world.arguments("a", *settings, "optimizer.learning_rate=1e-30")
    assert line("train", *arguments) == 0
    summary = json.loads(Path("outputs/a/summary.json").read_text())
    assert (summary["steps"], summary["ended_early"]) == (3, True)
    assert (summary["adapter_step"], summary["skipped_steps"]) == (1, 0)
    assert "training.patience ended training at step 3" in capsys.readouterr().out


def test_the_first_batch_is_shown(
    world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("training.max_steps=1", "data.validation=null", "data.test=null")
    assert line("train", *world.arguments("a", *few, "training.micro_batch=auto")) == 0
    shown = capsys.readouterr().out
    assert "of 4 windows each, 4 in a forward pass" in shown, "no more than there are"
    assert "estimate    less than a minute" in shown
    assert shown.index("estimate ") < shown.index("first batch ")
    assert "  reads     <|startoftranscript|><|en|><|transcribe|><|notimestamps|>" in shown
    assert "  learns    <|en|><|transcribe|><|notimestamps|>" in shown


def test_out_of_memory_says_what_to_type(
    world: World, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: Run) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Run, "carry_out", full)
    message = refusal("train", *world.arguments("a"))
    assert "training.gradient_checkpointing=true" in message
    assert "quantization=nf4" in message


def test_other_settings_are_scored_beside_the_summary(line: Line, finished: list[str]) -> None:
    """Scores of one utterance and of four do not stand in one table."""
    before = Path("outputs/a/summary.json").read_text()
    assert line("evaluate", "run=outputs/a", "evaluation.max_utterances=1", *QUICK) == 0
    assert Path("outputs/a/summary.json").read_text() == before
    score = Path("outputs/a/evaluation/adapter/test-max_utterances-1/score.json")
    assert json.loads(score.read_text())["utterances"] == 1


def test_several_runs_are_evaluated_with_m(world: World, line: Line, finished: list[str]) -> None:
    short = ("training.max_steps=1", "data.validation=null")
    assert line("train", *world.arguments("b", *short)) == 0
    assert line("evaluate", "-m", "run=outputs/a,outputs/b", *QUICK) == 0
    assert line("merge", "-m", "run=outputs/a,outputs/b") == 0
    assert Path("outputs/b/merged/model.safetensors").exists()


def test_every_step_is_in_the_metrics(world: World, line: Line) -> None:
    """Also those after the last multiple of log_every_steps."""
    unscored = ("data.validation=null", "data.test=null")
    arguments = world.arguments("a", *unscored, "training.log_every_steps=3")
    assert line("train", *arguments) == 0
    rows = Path("outputs/a/metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [3, 4]


def test_the_log_file_tells_how_a_run_ended(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: Run) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Run, "carry_out", broken)
    with pytest.raises(RuntimeError):
        line("train", *world.arguments("a"))
    assert "RuntimeError: out of luck" in Path("outputs/a/train.log").read_text()


def test_a_runs_own_configuration_begins_another(finished: list[str], line: Line) -> None:
    """Such a file does not say where: Hydra would make a folder by date and time."""
    short = ("training.max_steps=1", "data.test=null", "data.validation=null")
    own = ("--config-dir", "outputs/a", "--config-name", "config")
    assert line("train", *own, "name=b", *short, "training.validate_every_steps=null") == 0
    assert {path.name for path in Path("outputs").iterdir() if path.is_dir()} == {"a", "b"}


def test_what_is_lost_beside_words_is_found_where_a_test_set_can_tell(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six clips and more; `card=false` does without."""
    monkeypatch.setattr(capability_material, "NO_SPEECH_CLIPS", 1)
    rows = [json.loads(each) for each in (world.speech / "train.jsonl").read_text().splitlines()]
    test = [row | {"audio": str(world.speech / row["audio"])} for row in rows[:6]]
    train = [row | {"audio": str(world.speech / row["audio"])} for row in rows[6:]]
    typed = [
        *(one for one in world.arguments("a") if not one.startswith("data.")),
        f"data.train={write_manifest(Path('train.jsonl'), train)}",
        f"data.test={write_manifest(Path('test.jsonl'), test)}",
        "training.max_steps=1",
        "training.validate_every_steps=null",
    ]
    assert line("train", *typed) == 0
    summary = json.loads(Path("outputs/a/summary.json").read_text())
    assert summary["scoring_seconds"] > summary["card"]["seconds"]
    rows_of_card = {row["name"]: row for row in summary["card"]["rows"]}
    assert rows_of_card["words"]["adapter"] == summary["adapter"]["wer"]
    assert {"language found", "timestamps", "text in silence"} <= rows_of_card.keys()
    assert "long recordings" not in rows_of_card, "which take long"
    assert line("train", *typed, "card=false", "overwrite=true") == 0
    assert "card" not in json.loads(Path("outputs/a/summary.json").read_text())
