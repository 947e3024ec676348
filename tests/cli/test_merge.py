"""`lora-whisper merge`: into the base that the adapter was trained on, or not unasked."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from lora_whisper.cli.merge import write_merged
from lora_whisper.config import in_own_dtype
from lora_whisper.files import write_json
from lora_whisper.lora.adapter import attach, load_adapter, save_adapter
from lora_whisper.lora.resolve import PICKLED
from lora_whisper.lora.saved import CONFIG_FILE, WEIGHTS_FILE, adapter_hashes
from lora_whisper.model import weights as weights_module
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import fingerprint, locate, weights_sha256
from lora_whisper.run_folder import RECIPE_FILE, RunFolder
from tests.cli.conftest import Line, Refusal, World
from tests.configs import adapter_config, model_config
from tests.lora.test_delta_weights import filled
from tests.merged import merged_weights
from tests.pickles import pickled
from tests.toys import toy_checkpoint, toy_inputs, toy_model

CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def adapter(folder: Path, base: object, kind: str = "lora", seed: int = 0) -> Path:
    """What training on the toy might have left, in a folder that is no run's."""
    model = attach(toy_model(), adapter_config(kind, rank=2, alpha=4.0), "none", False, 0)
    save_adapter(filled(model, seed), folder, locate(model_config(base)))
    return folder


@pytest.fixture
def two(world: World, tmp_path: Path) -> tuple[str, str]:
    """Adapters beside outputs/, as they are typed."""
    for seed, name in enumerate("ab"):
        adapter(tmp_path / name, world.checkpoint, seed=seed)
    return "a", "b"


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(Path("outputs") / name / "merged" / "model.safetensors")


def require_weights(name: str, expected: dict[str, torch.Tensor]) -> None:
    found = weights(name)
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        assert torch.equal(found[key], weight), key


def recipe(name: str) -> dict[str, Any]:
    path = Path("outputs") / name / "merged" / RECIPE_FILE
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def written() -> list[str]:
    return [str(path) for path in Path("outputs").rglob("*") if path.is_file()]


# ── what is merged ───────────────────────────────────────────────────────────────────────────


def test_a_run_is_merged_scored_and_says_what_it_is_made_of(world: World, line: Line) -> None:
    assert line("train", *world.arguments("a", "quantization=nf4", "data.validation=null")) == 0
    assert line("merge", "run=outputs/a", "into=nf4-dequantized") == 0
    run = RunFolder(Path("outputs/a"))
    base = locate(model_config(world.checkpoint))
    model = load_adapter(load_base(base, "nf4", torch.float32, CPU), run.adapter).eval()
    merged = WhisperForConditionalGeneration.from_pretrained(run.merged).eval()
    with torch.no_grad():
        logits = [one(**toy_inputs()).logits for one in (merged, model)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=0)
    summary = json.loads(run.summary.read_text())
    assert summary["merged"]["wer"] == summary["adapter"]["wer"]
    said = recipe("a")
    assert (said["into"], said["dtype"]) == ("nf4-dequantized", "float32")
    assert said["base"]["fingerprint"] == f"sha256:{weights_sha256(base)}"
    assert [(one["name"], one["weight"]) for one in said["adapters"]] == [("a", 1.0)]
    assert not re.search(r'"/|\\\\', json.dumps(said)), "a path of this machine"

    assert line("merge", "run=outputs/a") == 2
    assert line("merge", "run=outputs/a", "overwrite=true", "scale=0.5") == 0
    require_weights("a", merged_weights(base, (run.adapter, 0.5)))
    assert recipe("a")["adapters"][0]["weight"] == 0.5


def test_a_run_without_nf4_is_not_merged_into_nf4(
    world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("training.max_steps=1", "data.validation=null", "data.test=null")
    assert line("train", *world.arguments("a", *few)) == 0
    assert line("merge", "run=outputs/a", "into=nf4-dequantized") == 2
    assert "trained with quantization=none" in capsys.readouterr().err
    assert not Path("outputs/a/merged").exists()
    assert line("merge", "run=outputs/a") == 0, "also without a test set"


def test_a_folder_is_merged_without_a_run(world: World, line: Line, two: tuple[str, str]) -> None:
    assert line("merge", "adapter=a") == 0
    base = locate(model_config(world.checkpoint))
    require_weights("a", merged_weights(base, Path("a")))
    (part,) = recipe("a")["adapters"]
    hashes = adapter_hashes(Path("a"))
    assert part["name"] == "a"
    assert part["sha256"] == hashes["adapter"]
    assert part["settings_sha256"] == hashes["adapter_settings"], "its scale stands there alone"
    assert {path.name for path in Path("a").iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, "README.md"}


def test_several_are_merged_with_their_weights(
    world: World, line: Line, two: tuple[str, str]
) -> None:
    base = locate(model_config(world.checkpoint))
    assert line("merge", "adapter=[a,b]", "name=mean") == 0
    require_weights("mean", merged_weights(base, (Path("a"), 0.5), (Path("b"), 0.5)))
    weighted = "adapter=[{path: a, weight: 1.0}, {path: b, weight: -0.25}]"
    assert line("merge", weighted, "name=sum", "scale=2") == 0
    require_weights("sum", merged_weights(base, (Path("a"), 2.0), (Path("b"), -0.5)))
    assert [one["weight"] for one in recipe("sum")["adapters"]] == [2.0, -0.5]


# ── the base ─────────────────────────────────────────────────────────────────────────────────


def test_another_base_is_refused_unless_it_is_forced(
    world: World, line: Line, refusal: Refusal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = toy_checkpoint(tmp_path / "other", seed=1)
    assert line("train", *world.arguments("a", "data.test=null", "training.max_steps=1")) == 0
    before = written()
    message = refusal("merge", "run=outputs/a", f"base={other}")
    assert "a was trained on other weights" in message
    for checkpoint in (world.checkpoint, other):
        assert weights_sha256(locate(model_config(checkpoint))) in message
    assert written() == before
    assert line("merge", "run=outputs/a", f"base={other}", "force=true") == 0
    assert "forced      a was trained on" in capsys.readouterr().out
    require_weights("a", merged_weights(locate(model_config(other)), Path("outputs/a/adapter")))


def test_the_same_weights_elsewhere_are_the_same_base(
    world: World, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy, and on the hub at a commit that the run has never heard of."""
    assert line("train", *world.arguments("a", "data.test=null", "training.max_steps=1")) == 0
    copy = shutil.copytree(world.checkpoint, tmp_path / "copy")
    assert line("merge", "run=outputs/a", f"base={copy}") == 0
    repository = tmp_path / "hub" / "models--owner--toy"
    shutil.copytree(world.checkpoint, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert line("merge", "run=outputs/a", "base=owner/toy", "overwrite=true") == 0
    assert recipe("a")["base"] == {"name": "owner/toy", "fingerprint": f"commit:{COMMIT}"}


def test_an_adapter_that_only_names_its_base_is_not_taken_to_another(
    world: World,
    line: Line,
    refusal: Refusal,
    tmp_path: Path,
    two: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert line("merge", "adapter=a") == 0
    assert capsys.readouterr().out.count("not checked a does not say which weights") == 1
    toy_checkpoint(tmp_path / "other", seed=1)
    assert "force=true" in refusal("merge", "adapter=b", "base=other")


def test_a_base_that_nobody_typed_is_said_to_be_named_by_a_file(
    world: World, refusal: Refusal, tmp_path: Path
) -> None:
    adapter(tmp_path / "a", world.checkpoint)
    changes = {"base_model_name_or_path": "/home/bob/models/whisper-base"}
    config = tmp_path / "a" / CONFIG_FILE
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    (tmp_path / "a/lora_whisper.json").unlink(missing_ok=True)
    given = ("models=[a]", f"data.test={world.speech / 'test.jsonl'}", "name=e")
    for typed in (("merge", "adapter=a"), ("evaluate", *given)):
        said = refusal(*typed)
        assert (
            f"{changes['base_model_name_or_path']}, the base that adapter_config.json of a " in said
        )
        assert "base=/home" not in said
        assert "error: base=gone: " in refusal(*typed, "base=gone")


def test_an_adapter_of_another_size_is_named_by_its_modules(
    world: World, line: Line, two: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(Path("a") / WEIGHTS_FILE)
    key = "base_model.model.model.encoder.layers.0.fc1.lora_B.weight"
    save_file(tensors | {key: torch.zeros(24, 2)}, Path("a") / WEIGHTS_FILE)
    assert line("merge", "adapter=a", "force=true") == 2
    assert "layers.0.fc1: found an adapter of 24 × 16 (outputs × inputs), expected 32 × 16" in (
        capsys.readouterr().err
    )
    assert written() == []


# ── what is refused ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run: expected a run=… or an adapter=…"),
        (["run=x", "adapter=a"], "one of them"),
        (["adapter=[a,b]"], "name: expected a name=…"),
        (["adapter=gone"], "there is no such folder"),
        (["adapter=[a,gone]", "name=x"], "adapter=gone"),
        (["adapter=a", "base=no/where"], "base=no/where: no such folder"),
        (["adapter=a", "name=../up"], "below outputs/"),
        (["adapter=a", "name=/tmp/up"], "below outputs/"),
        (["adapter=a", "into=nf4-dequantized"], "takes a run=…"),
        (["adapter=a", "scale=-1"], "scale: expected 0 … 10"),
        (["adapter=a", "dtype=int8"], "dtype"),
        (["adapter=[{path: a, weight: 99}]"], "weight: expected -10 … 10"),
        (["adapter=[{path: a, weight: 0.7}, b]", "name=x"], "adapter: expected a weight of each"),
    ],
)
def test_what_cannot_be_merged_is_named_and_nothing_written(
    refusal: Refusal, two: tuple[str, str], arguments: list[str], message: str
) -> None:
    assert message in refusal("merge", *arguments)
    assert not Path("outputs").exists()


def test_what_float16_cannot_hold_is_not_written_as_infinity(
    line: Line, refusal: Refusal, two: tuple[str, str]
) -> None:
    tensors = load_file(Path("a") / WEIGHTS_FILE)
    save_file({key: 1e4 * value for key, value in tensors.items()}, Path("a") / WEIGHTS_FILE)
    said = refusal("merge", "adapter=a", "dtype=float16")
    assert "float16" in said
    assert "dtype=float32" in said
    assert not Path("outputs/a/merged").exists()
    assert line("merge", "adapter=a", "dtype=float32") == 0
    assert all(value.isfinite().all() for value in weights("a").values())


def test_dora_is_not_scaled_and_not_added(
    world: World, line: Line, refusal: Refusal, tmp_path: Path, two: tuple[str, str]
) -> None:
    adapter(tmp_path / "dora", world.checkpoint, "dora")
    for arguments in (["adapter=dora", "scale=0.5"], ["adapter=[a,dora]", "name=x"]):
        assert "Merge it alone, with scale=1" in refusal("merge", *arguments)
    assert written() == []
    assert line("merge", "adapter=dora") == 0


def test_what_breaks_off_leaves_what_was_there(
    line: Line, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert line("merge", "adapter=a", "name=x") == 0
    before = {path: Path(path).read_bytes() for path in written()}
    with monkeypatch.context() as patch:
        patch.setattr("lora_whisper.lora.merge.is_linear", interrupted)
        patch.setattr("lora_whisper.lora.merge.fold", interrupted)
        assert line("merge", "adapter=b", "name=x", "overwrite=true") == 130
    assert {path: Path(path).read_bytes() for path in written()} == before
    assert [path.name for path in Path("outputs/x").iterdir()] == ["merged"]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_a_run_says_is_of_the_model_that_is_there(
    line: Line,
    finished: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also after scoring was interrupted; and it says what is unusual about the model."""
    assert line("merge", "run=outputs/a") == 0
    run = RunFolder(Path("outputs/a"))
    made_of = json.loads((run.merged / RECIPE_FILE).read_text())
    for name in ("openai", "onnx", "adapter"):
        write_json(run.export / name / "parity.json", {"merged": made_of})
    scored = {"kind": "merged", "fingerprint": fingerprint(locate(in_own_dtype(str(run.merged))))}
    write_json(run.results, {"models": [scored]})
    capsys.readouterr()
    given = ("run=outputs/a", "overwrite=true")
    with monkeypatch.context() as patch:
        patch.setattr("lora_whisper.cli.merge.score_model", interrupted)
        assert line("merge", *given) == 130
    assert "older" not in capsys.readouterr().out, "the same was merged again"
    assert json.loads(run.summary.read_text())["merged"] is None
    assert line("push", "run=outputs/a", "repo=o/n", "what=merged", "dry_run=true") == 2
    assert "was not scored" in capsys.readouterr().err

    assert line("merge", *given, "scale=0.5") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "older onnx, openai in outputs/a/export" in said
    assert "run=outputs/a 'format=[onnx,openai]' overwrite=true" in said
    assert "evaluation.json is of a merged model that stood here before" in said
    assert "note the merged model has 0.5 times what the adapter adds" in said
    for folder in (run.adapter, run.merged):
        assert "The merged model has 0.5 times" in (folder / "README.md").read_text()
    assert json.loads(run.summary.read_text())["merged"] is not None


def test_a_file_is_not_taken_for_a_folder(refusal: Refusal, two: tuple[str, str]) -> None:
    Path("outputs").mkdir()
    Path("outputs/x").write_text("mine")
    assert "outputs/x is there, and no folder" in refusal("merge", "adapter=a", "name=x")
    assert Path("outputs/x").read_text() == "mine"


def test_what_to_type_next_is_quoted(
    world: World, line: Line, two: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert line("merge", "adapter=a", "name=a b") == 0
    said = " ".join(capsys.readouterr().out.split())
    command = shlex.split(said[said.index("not scored type ") :])[3:]
    assert command[0].endswith("lora-whisper")
    assert command[1:3] == ["evaluate", "models=[outputs/a b/merged]"]
    assert command[3:] == ["data.test=…", "data.language=…"]
    typed = [*command[1:3], f"data.test={world.speech / 'test.jsonl'}", "data.language=en"]
    assert line(*typed, "evaluation.max_utterances=1") == 0, "what was said works"


def test_a_run_s_folder_is_not_taken_for_another_adapter_s(
    refusal: Refusal, two: tuple[str, str], finished: list[str]
) -> None:
    assert "outputs/a is a run" in refusal("merge", "adapter=b", "name=a")


@pytest.mark.parametrize("given", ["deep/..", "deep/../..", ".", "deep/."])
def test_what_is_merged_stays_below_outputs(
    world: World, line: Line, tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the adapter lies, and whatever its folder is called."""
    inside = tmp_path / "in"
    (inside / "deep").mkdir(parents=True)
    monkeypatch.chdir(inside)
    adapter((inside / given).resolve(), world.checkpoint)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert line("merge", f"adapter={given}") == 0
    after = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert after
    assert all(path.is_relative_to(inside / "outputs") for path in after)


# ── pickles ──────────────────────────────────────────────────────────────────────────────────


def test_a_pickled_base_is_refused_by_every_command_unless_allowed(
    world: World, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Path(shutil.copytree(world.checkpoint, tmp_path / "base"))
    adapter(tmp_path / "mine", base)
    pickled(base / "model.safetensors", "pytorch_model.bin")
    few = ("training.max_steps=1", "data.validation=null")
    arguments = world.arguments("a", f"model.checkpoint={base}", *few)
    evaluate = ["models=[mine]", f"data.test={world.speech / 'test.jsonl'}", "name=e"]
    commands = {"merge": ["adapter=mine"], "evaluate": evaluate}
    for command, given in {"train": arguments, **commands}.items():
        assert line(command, *given) == 2
        allowed = "model.allow_pickle=true" if command == "train" else "allow_pickle=true"
        assert f"made it, type {allowed}\n" in capsys.readouterr().err
    assert written() == []
    for command, given in commands.items():
        weights_module._warn.cache_clear()  # each has a process of its own
        assert line(command, *given, "allow_pickle=true") == 0
        assert "are read from pickled files, as you allowed" in capsys.readouterr().out
    assert line("train", *arguments, "model.allow_pickle=true") == 0
    assert line("merge", "run=outputs/a") == 0, "what the run was allowed"


def test_a_pickled_adapter_is_refused_by_every_command_unless_allowed(
    world: World, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = adapter(tmp_path / "mine", world.checkpoint)
    expected = merged_weights(locate(model_config(world.checkpoint)), folder)
    pickled(folder / WEIGHTS_FILE, PICKLED)
    evaluate = ["models=[mine]", f"data.test={world.speech / 'test.jsonl'}", "name=e"]
    settings = ["adapter.init_from=mine", "adapter.alpha=4", "training.max_steps=1"]
    arguments = world.arguments("a", *settings, "data.validation=null", "data.test=null")
    commands = {"merge": ["adapter=mine"], "evaluate": evaluate, "train": arguments}
    for command, given in commands.items():
        assert line(command, *given) == 2
        allowed = "model.allow_pickle=true" if command == "train" else "allow_pickle=true"
        assert f"made it, type {allowed}\n" in capsys.readouterr().err
    for command, given in commands.items():
        allowed = "model.allow_pickle=true" if command == "train" else "allow_pickle=true"
        assert line(command, *given, allowed) == 0
    require_weights("mine", expected)


def test_pickles_that_would_run_something_run_nothing(
    world: World, line: Line, refusal: Refusal, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    base = Path(shutil.copytree(world.checkpoint, tmp_path / "base"))
    for name in ("good", "bad"):
        adapter(tmp_path / name, base)
    pickled(tmp_path / "bad" / WEIGHTS_FILE, PICKLED, touching=ran)
    assert line("merge", "adapter=bad", "allow_pickle=true") == 2
    pickled(base / "model.safetensors", "pytorch_model.bin", touching=ran)
    assert line("merge", "adapter=good", "allow_pickle=true") == 2
    arguments = world.arguments("a", f"model.checkpoint={base}", "model.allow_pickle=true")
    assert refusal("train", *arguments).count("holds more than weights") == 3
    assert not ran.exists()


# ── code that a folder names ─────────────────────────────────────────────────────────────────


def test_no_file_of_a_base_names_code_to_run(
    world: World, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(shutil.copytree(world.checkpoint, tmp_path / "base"))
    (base / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(base))
    kinds = ("AutoConfig", "AutoModel", "AutoModelForSpeechSeq2Seq", "AutoProcessor")
    kinds += ("AutoFeatureExtractor",)
    mapped: dict[str, Any] = dict.fromkeys(kinds, "evil_module.Evil")
    mapped["AutoTokenizer"] = ["evil_module.Evil", "evil_module.Evil"]
    for name in ("config", "tokenizer_config", "preprocessor_config", "generation_config"):
        path = base / f"{name}.json"
        write_json(path, json.loads(path.read_text()) | {"auto_map": mapped})
    write_json(base / "processor_config.json", {"auto_map": mapped})
    adapter(tmp_path / "mine", base)
    assert line("merge", "adapter=mine") == 0
    evaluate = ["models=[mine]", f"data.test={world.speech / 'test.jsonl'}", "name=e"]
    assert line("evaluate", *evaluate) == 0
    assert not (tmp_path / "ran").exists()


def test_nothing_lets_transformers_run_downloaded_code() -> None:
    package = Path(write_merged.__code__.co_filename).parents[1]
    files = [*package.rglob("*.py"), *package.rglob("*.j2")]
    texts = {path: path.read_text() for path in files}
    allowing = re.compile(r"trust_remote_code=(?!False)")
    assert [path for path, text in texts.items() if allowing.search(text)] == []
    # These look up which class a folder names, and ask whether to run it where it is not their own.
    looking = re.compile(
        r"\b(Auto(Model|Config|Tokenizer|Processor|FeatureExtractor)\w*|pipeline)[.(]"
    )
    ours = {path: text for path, text in texts.items() if path.suffix == ".py"}
    assert [path for path, text in ours.items() if looking.search(text)] == []
    assert {path.name for path, text in texts.items() if "WhisperProcessor.from_pre" in text} == {
        "adapter_card.md.j2",  # what people type
        "merged_card.md.j2",
    }
