"""The adapter's card: the hub reads its metadata, its code runs, and it names nobody's machine."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from lora_whisper.lora.delta_weights import DeltaWeights, write_delta_weights
from lora_whisper.lora.saved import B_SUFFIX, CONFIG_FILE, MAGNITUDE_SUFFIX, WEIGHTS_FILE
from lora_whisper.model.base import load_config, load_generation_config
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.paths import local_path
from lora_whisper.reports.model_card import adapter_card, merged_card
from lora_whisper.run_folder import RunFolder
from tests.cli.toy_run import BASE, Heard, toy_run
from tests.merged import write_merged_folder
from tests.reports.toy_evaluation import toy_card, word_recall

GENUINE = Path(__file__).parents[3] / "shared" / "whisper" / "whisper-tiny"
HUB = ("data=hub", "data.path=owner/speech", "data.config=sw", "data.train=train")
LOCAL = {"checkpoint": "/home/anna/models/mine", "checkpoint_fingerprint": f"sha256:{'b' * 64}"}


def card_of(folder: Path, *overrides: str, **settings: Any) -> ModelCard:
    return ModelCard(adapter_card(*toy_run(folder, *overrides, **settings)))


def code_of(card: ModelCard) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)


def test_metadata_as_the_hub_reads_it(tmp_path: Path) -> None:
    data = card_of(tmp_path / "toy", languages=["jw", "my dialect", "sw"]).data
    assert data.to_dict() | {"model-index": None} == {
        "base_model": "openai/whisper-small",
        "base_model_relation": "adapter",
        "language": ["jv", "sw"],
        "library_name": "peft",
        "metrics": ["wer", "cer"],
        "model-index": None,
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["lora", "whisper", "lora_whisper"],
    }
    wer, cer = data.eval_results
    assert (wer.metric_type, wer.metric_value, wer.dataset_split) == ("wer", 20.0, "test")
    assert cer.metric_type == "cer"


def test_an_error_rate_of_graphemes_is_not_sold_as_a_wer(tmp_path: Path) -> None:
    card = card_of(tmp_path / "toy", heard=[Heard("ไม่ดี", "ไม่มี", "ไม่ดี", language="th")])
    (cer,) = card.data.eval_results
    assert (cer.metric_type, cer.metric_value) == ("cer", 0.0)
    assert card.data.metrics == ["cer"]
    assert "| | CER | 95 % interval | error rate of graphemes | 95 % interval |" in card.text
    assert "held-out utterances with 3 graphemes" in card.text
    assert "WER" not in card.text


def test_data_sets_of_the_hub_are_linked(tmp_path: Path) -> None:
    mix = "data.mix=[{path:other/speech,train:train,weight:1}]"
    data = card_of(tmp_path / "toy", *HUB, mix).data
    assert data.datasets == ["other/speech", "owner/speech"]
    wer = data.eval_results[0]
    assert (wer.dataset_type, wer.dataset_config) == ("owner/speech", "sw")
    named = card_of(tmp_path / "named", *HUB, "data.test=held_out").data.eval_results[0]
    assert (named.dataset_type, named.dataset_name) == ("owner/speech", "owner/speech")
    assert named.dataset_split == "held_out"
    beside = card_of(tmp_path / "beside", *HUB, "data.test=/home/anna/mine.jsonl")
    own = beside.data.eval_results[0]
    assert (own.dataset_type, own.dataset_name) == ("hub", "mine.jsonl")
    (tmp_path / "copied").mkdir()
    here = card_of(tmp_path / "second", *HUB, f"data.path={tmp_path / 'copied'}")
    assert here.data.datasets is None
    assert "copied sw train" in here.text


def test_no_path_and_no_name_of_the_machine(tmp_path: Path) -> None:
    home = "/home/anna"
    files = [f"data.{split}={home}/speech/{split}.jsonl" for split in ("train", "test")]
    start = [f"model.checkpoint={home}/models/mine", f"adapter.init_from={home}/runs/near"]
    noise = f"augmentation.noise={{share:1,folder:{home}/noise,snr_db:[1,2]}}"
    mix = f"data.mix=[{{train:{home}/more.jsonl,weight:1}}]"
    card = card_of(tmp_path / "toy", *files, *start, noise, mix, **LOCAL)
    assert card.data.base_model is None, "the hub knows a base by its id alone"
    assert "train.jsonl, more.jsonl" in card.text
    assert "adapter.init_from: near" in card.text
    for name in ("anna", str(tmp_path), str(Path.cwd()), os.uname().nodename):
        assert name not in card.content


def test_scores_with_intervals_and_their_limits(tmp_path: Path) -> None:
    heard = [Heard("moja mbili tatu", "moja", "moja mbili", merged="moja mbili tatu")]
    text = card_of(tmp_path / "toy", heard=heard, quantization="nf4").text
    table = re.findall(r"^\| (\w.*?) \| (.*) \|$", text, flags=re.MULTILINE)
    assert [row[0] for row in table] == ["base (nf4)", "adapter (nf4)", "merged"]
    assert table[0][1].split(" | ")[:2] == ["66.7 %", "66.7 – 66.7 %"]
    assert len(table[0][1].split(" | ")) == 4
    assert "1 utterance with 3 words" in text
    assert "1 of the test set's 3 speakers" in text
    assert "scored on nf4 weights" in text
    assert "text that is trained on" not in text
    known = card_of(tmp_path / "known", heard=heard, test_texts_in_training=1)
    known = " ".join(known.text.split())
    assert re.search(r"1 of the test set's \d+ utterances have a text that is trained on", known)
    unknown = card_of(tmp_path / "second", test_speakers=0, test_speakers_in_training=0).text
    assert "not known whether they are seen in training" in unknown


def test_what_was_kept_and_lost_of_the_base(tmp_path: Path) -> None:
    text = card_of(tmp_path / "toy", card=toy_card()).text
    assert "## What adapter kept of base" in text
    assert "| timestamps | lost | 98 % | 12 % | -86 (-97 to -70) |" in text
    assert "- Lost for certain: timestamps 98 % → 12 %." in text
    (untested,) = (line for line in text.splitlines() if line.startswith("- Not tested:"))
    assert "long recordings" in untested
    assert "timestamps" not in untested
    assert "timestamps" in card_of(tmp_path / "without").text


def test_a_run_without_test_set_has_no_results(tmp_path: Path) -> None:
    card = card_of(tmp_path / "toy", heard=())
    assert card.data.eval_results is None
    assert "Nothing was scored" in card.text


def test_what_was_trained(tmp_path: Path) -> None:
    averaging = {"steps": [50, 75], "ships": True}
    card = card_of(
        tmp_path / "toy", "adapter=rslora", "adapter.alpha=8", ranks=(2, 4), averaging=averaging
    )
    assert "adapter: rslora, rank 2 – 4, trained with alpha 8" in card.text
    assert "the adapter is that of the mean of steps 50, 75" in card.text
    assert "adapter.kind: rslora\n" in card.text
    assert "1.00 h in 300 utterances, seen 2.0 times" in card.text
    streamed = card_of(tmp_path / "second", train_audio_seconds=0.0, utterances={})
    assert "2.00 h of a stream" in streamed.text


def test_the_base_is_loaded_as_it_was(tmp_path: Path) -> None:
    for number, (changes, expected) in enumerate(
        [
            ({}, f'revision="{"a" * 40}"'),
            (LOCAL, 'base = "path/to/the/base"'),
            (LOCAL | {"checkpoint": "embedded:nano"}, 'base = local_path("embedded:nano")'),
        ]
    ):
        load, _ = code_of(card_of(tmp_path / str(number), **changes))
        assert expected in load
        compile(load, "card", "exec")


def test_vllm_is_told_the_rank_or_why_it_is_not_asked(tmp_path: Path) -> None:
    run, summary = toy_run(tmp_path / "toy", ranks=(4, 16))
    assert "vllm serve openai/whisper-small --enable-lora --max-lora-rank 16" in adapter_card(
        run, summary
    )
    assert f"    --revision {'a' * 40} \\\n    --lora-modules toy=" in adapter_card(run, summary)
    assert "compare some transcripts" in adapter_card(run, summary)
    path, weights = (run.adapter / name for name in (CONFIG_FILE, WEIGHTS_FILE))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    tensors = load_file(weights)
    lengths = {
        name.replace(B_SUFFIX, MAGNITUDE_SUFFIX): torch.ones(len(one))
        for name, one in tensors.items()
        if name.endswith(B_SUFFIX)
    }
    save_file(tensors | lengths, weights)
    card = adapter_card(run, summary)
    assert "vllm serve" not in card
    assert "DoRA is not served" in card


def test_the_code_on_the_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nano and an adapter that changes what it hears: PEFT and Transformers say the same."""
    monkeypatch.chdir(tmp_path)
    nano = LOCAL | {"checkpoint": "embedded:nano"}
    run, summary = toy_run(
        tmp_path / "toy", prompt={"language": "en", "task": "transcribe"}, **nano
    )
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in ((4, 160), (640, 4)))
    write_delta_weights(
        DeltaWeights({"model.encoder.layers.0.fc1": (a, 0.1 * b)}, {}), run.adapter, BASE
    )
    load, merge = code_of(ModelCard(adapter_card(run, summary)))
    known = {"samples": clip()}
    adapted = said(load.replace("path/to/this/folder", str(run.adapter)), known)
    base = said(re.sub(r"PeftModel.*\)", "whisper", load), dict(known))
    assert adapted != base
    assert said(merge, known) == adapted


# ── the merged model's ───────────────────────────────────────────────────────────────────────


def merged_run(folder: Path, **settings: Any) -> tuple[RunFolder, dict[str, Any]]:
    """A run whose merged model is only its configuration."""
    heard = [Heard("moja mbili tatu", "moja", "moja mbili", merged="moja mbili tatu")]
    run, summary = toy_run(folder, heard=heard, **settings)
    run.merged.mkdir()
    values = {"dtype": "float16", "vocab_size": 51865}
    (run.merged / "config.json").write_text(json.dumps(values))
    return run, summary


def test_the_merged_model_has_its_own_scores_and_says_the_same_of_its_making(
    tmp_path: Path,
) -> None:
    run, summary = merged_run(tmp_path / "toy")
    adapter, merged = ModelCard(adapter_card(run, summary)), ModelCard(merged_card(run, summary))
    assert (merged.data.library_name, merged.data.base_model_relation) == (
        "transformers",
        "finetune",
    )
    assert merged.data.base_model == adapter.data.base_model == "openai/whisper-small"
    assert [one.metric_value for one in merged.data.eval_results] == [0.0, 0.0]
    assert adapter.data.eval_results[0].metric_value == 33.33
    parts = [re.split("^## ", card.text, flags=re.MULTILINE) for card in (adapter, merged)]
    assert parts[0][1:-1] == parts[1][1:-1], "Scores, Limits, Speech, Training"
    assert "in float16" in parts[1][-1]
    assert "peft" not in parts[1][-1].lower()


def test_a_small_vocabulary_is_not_for_faster_whisper(tmp_path: Path) -> None:
    run, summary = merged_run(tmp_path / "toy")
    assert "ct2-transformers-converter" in merged_card(run, summary)
    assert 'transcribe(samples, language="sw", task="transcribe", beam_size=1)' in merged_card(
        run, summary
    )
    (run.merged / "config.json").write_text(json.dumps({"vocab_size": 600}))
    assert "ct2-transformers-converter" not in merged_card(run, summary)
    assert "take this small one for English alone" in merged_card(run, summary)


def test_a_merged_model_without_scores(tmp_path: Path) -> None:
    run, summary = merged_run(tmp_path / "toy")
    card = ModelCard(merged_card(run, replace(summary, merged=None)))
    assert card.data.eval_results is None
    assert "Nothing was scored" in card.text


def test_the_code_on_the_merged_card_runs(tmp_path: Path) -> None:
    run, summary = merged_run(tmp_path / "toy", prompt={"language": "en", "task": "transcribe"})
    nano = local_path("embedded:nano")
    shutil.copytree(nano, run.merged, dirs_exist_ok=True)
    (code,) = code_of(ModelCard(merged_card(run, summary)))
    known = {"samples": clip()}
    assert said(code.replace("path/to/this/folder", str(run.merged)), known)
    base = code.replace("path/to/this/folder", str(nano))
    assert said(base, {"samples": clip()}) == said(base, known)


@pytest.mark.skipif(not GENUINE.is_dir(), reason="the genuine configurations are not here")
def test_faster_whisper_runs_by_what_the_card_says_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the genuine vocabulary, and a narrow model of random weights."""
    converter = pytest.importorskip("ctranslate2.converters.transformers")
    pytest.importorskip("faster_whisper")
    monkeypatch.chdir(tmp_path)
    run, summary = merged_run(tmp_path / "toy")
    narrow_model(tmp_path / "narrow", run.merged)
    card = ModelCard(merged_card(run, summary))
    (typed,) = re.findall(r"```bash\n(.*?)```", card.text, flags=re.DOTALL)
    joined = typed.replace("\\\n", "")
    words = shlex.split(joined.replace("path/to/this/folder", str(run.merged)))
    assert words[0] == "ct2-transformers-converter"
    monkeypatch.setattr(sys, "argv", words)
    converter.main()
    _, code = code_of(card)
    said(code, {"samples": clip()})


def narrow_model(base: Path, folder: Path) -> None:
    """A merged folder as `merge` writes it, of a base with the configurations of whisper-tiny."""
    shutil.copytree(GENUINE, base)
    checkpoint = Checkpoint(str(base), None, "narrow", has_weights=False)
    config = load_config(checkpoint)
    config.update({"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "init_std": 0.2})
    config.update({"encoder_attention_heads": 1, "decoder_attention_heads": 1})
    config.update({"encoder_ffn_dim": 64, "decoder_ffn_dim": 64})
    generation = load_generation_config(checkpoint)
    generation.alignment_heads = [[0, 0]]
    config.save_pretrained(base)
    generation.save_pretrained(base)
    write_merged_folder(WhisperForConditionalGeneration(config), checkpoint, folder)


def clip() -> Any:
    path = local_path("embedded:speech/dictation/test/000.opus")
    return soundfile.read(path, dtype="float32")[0]


def said(code: str, known: dict[str, Any]) -> str:
    """What the code prints; it uses and leaves names in `known`."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, known)
    return printed.getvalue().strip()


def test_a_name_is_a_name_wherever_it_stands(tmp_path: Path) -> None:
    """Neither a tag nor emphasis in Markdown, nor words of a shell."""
    run, summary = toy_run(tmp_path / "toy")
    card = adapter_card(run, replace(summary, name="<b>{{1}} `y` *z*; ls"))
    (heading,) = re.findall(r"^# (.*)", card, re.MULTILINE)
    assert heading == r"\<b\>\{\{1\}\} \`y\` \*z\*; ls"
    (line,) = re.findall(r"--lora-modules .*", card)
    assert shlex.split(line)[1].startswith("<b>{{1}} `y` *z*; ls=")
    assert len(shlex.split(line)) == 2


def test_a_word_list_that_was_scored(tmp_path: Path) -> None:
    words = {"listed": 44, "recall": word_recall(5), "prompted": word_recall(7)}
    words["prompted"]["parts"] = {"unseen": word_recall(3)}
    words["recall"]["parts"] = {"unseen": word_recall(2)}
    text = " ".join(card_of(tmp_path / "toy", words={"adapter": words}).text.split())
    assert (
        "Of 44 words that matter, said 8 times, it wrote 62.5 % (40.0 – 80.0 %) and "
        "87.5 % (40.0 – 80.0 %) with the list as a prompt."
    ) in text
    assert "never said in training, 8 times: 25.0 % (40.0 – 80.0 %) and 37.5 %" in text
    assert "Written, but not said: 1 time, and 1 with the prompt." in text
    assert "words that matter" not in card_of(tmp_path / "other").text
