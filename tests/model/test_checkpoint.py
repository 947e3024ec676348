"""Locating, reading and loading a base checkpoint."""

import hashlib
import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import GenerationConfig

from lora_whisper.config import ModelConfig
from lora_whisper.errors import UserError
from lora_whisper.model import checkpoint as checkpoints
from lora_whisper.model.base import (
    load_base,
    load_config,
    load_generation_config,
    load_processor,
    read_base,
    window_seconds,
)
from lora_whisper.model.checkpoint import Checkpoint, locate
from lora_whisper.model.weights import weight_names
from tests.configs import model_config
from tests.toys import WINDOW_SECONDS, toy_checkpoint, toy_inputs, toy_model

CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def given(name: object) -> ModelConfig:
    return model_config(str(name), dtype="auto")


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_checkpoint(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def copy(toy_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_folder, tmp_path / "copy"))


@pytest.fixture
def cached_hub(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds the toy as owner/toy; returns its snapshot."""
    repository = tmp_path / "hub" / "models--owner--toy"
    snapshot = Path(shutil.copytree(toy_folder, repository / "snapshots" / COMMIT))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


def test_a_folder_is_found_at_its_absolute_path(toy_folder, monkeypatch):
    monkeypatch.chdir(toy_folder.parent)
    found = locate(given(toy_folder.name))
    assert found == Checkpoint(str(toy_folder.resolve()), None, toy_folder.name)


def test_an_embedded_model_is_a_folder_of_the_package(toy_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("lora_whisper.paths.__file__", str(tmp_path / "lora_whisper" / "paths.py"))
    embedded = shutil.copytree(toy_folder, tmp_path / "lora_whisper" / "quickstart" / "nano")
    assert locate(given("embedded:nano")).path == str(embedded)
    with pytest.raises(UserError, match="embedded:pico"):
        locate(given("embedded:pico"))


@pytest.mark.parametrize("name", ["nobody/nothing-of-the-kind", "no/such/folder", "tiny"])
def test_an_unknown_checkpoint_is_answered_with_what_to_do(name):
    with pytest.raises(UserError) as caught:
        locate(given(name))
    assert name in str(caught.value)
    for way_out in ("model=tiny", "model.checkpoint=", "--local-dir", "model=nano"):
        assert way_out in str(caught.value)


def test_locating_imports_no_torch(toy_folder):
    script = f"""
        import sys
        from lora_whisper.config import ModelConfig
        from lora_whisper.errors import UserError
        from lora_whisper.model.checkpoint import locate
        locate(ModelConfig({str(toy_folder)!r}, None, "auto", "auto", False))
        try:
            locate(ModelConfig("nobody/nothing", None, "auto", "auto", False))
        except UserError:
            print(sorted({{"torch", "transformers"}} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("removed", "named"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "weights"),
        ("tokenizer.json", "tokenizer.json"),
        ("preprocessor_config.json", "preprocessor_config.json"),
    ],
)
def test_an_incomplete_folder_is_named_with_what_it_lacks(copy, removed, named):
    (copy / removed).unlink()
    with pytest.raises(UserError, match=rf"{named}.*: missing; found .*json"):
        locate(given(copy))


def test_a_base_is_read_again_when_a_file_of_it_changed(copy):
    base = read_base(given(copy))
    assert read_base(given(copy)) is base
    path = copy / "generation_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"max_length": 7}))
    assert read_base(given(copy)) is not base


def test_a_folder_without_weights_suffices_where_none_are_wanted(copy):
    (copy / "model.safetensors").unlink()
    checkpoint = locate(given(copy), with_weights=False)
    assert load_processor(checkpoint).tokenizer.encode("a")
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: missing"):
        locate(given(copy), with_weights=False)


def test_all_problems_of_a_folder_come_at_once(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError) as caught:
        locate(given(tmp_path))
    for problem in ("expected model_type 'whisper', found 'gpt2'", "weights", "tokenizer.json"):
        assert problem in str(caught.value)


def test_an_adapter_given_as_checkpoint_is_told_apart(tmp_path):
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(UserError, match="found an adapter"):
        locate(given(tmp_path))


def test_a_broken_config_is_named(copy):
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: expected JSON"):
        locate(given(copy))


def test_a_cached_hub_checkpoint_needs_no_network(cached_hub):
    found = locate(given("owner/toy"))
    assert (found.path, found.revision) == ("owner/toy", None)
    assert checkpoints.snapshot(found) == cached_hub
    assert checkpoints.fingerprint(found) == f"commit:{COMMIT}"
    load_base(found, "none", torch.float32, CPU)


def test_a_half_cached_hub_checkpoint_is_not_there(cached_hub):
    (cached_hub / "model.safetensors").unlink()
    with pytest.raises(UserError, match="offline mode"):
        locate(given("owner/toy"))


def test_a_download_asks_for_one_copy_of_the_weights(toy_folder, monkeypatch):
    asked = []

    def snapshot_download(path: str, allow_patterns: list[str], **where: object) -> str:
        if where.get("local_files_only"):
            raise LocalEntryNotFoundError("nothing is cached")
        asked.append((path, where["revision"], allow_patterns))
        return str(toy_folder)

    files = ["config.json", "model.safetensors", "model.fp32-00001-of-00002.safetensors"]
    files += ["pytorch_model.bin", "flax_model.msgpack", "tf_model.h5"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: files)
    assert checkpoints.snapshot(Checkpoint("owner/toy", "v2", "owner/toy")) == toy_folder
    assert asked == [("owner/toy", "v2", ["*.json", "*.txt", "model.safetensors"])]


def test_a_download_without_weights_asks_for_small_files_only(copy, monkeypatch):
    asked = {}

    def download(name, **wanted):
        if "local_files_only" in wanted:
            raise LocalEntryNotFoundError("not cached")
        asked.update(wanted)
        return copy

    (copy / "model.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    checkpoints.snapshot(Checkpoint("owner/toy", None, "owner/toy", has_weights=False))
    assert asked["allow_patterns"] == ["*.json", "*.txt"]


def test_another_architecture_on_the_hub_is_told_before_its_weights_are_fetched(
    tmp_path, monkeypatch
):
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *_, **__: str(tmp_path / "config.json")
    )
    with pytest.raises(UserError, match="expected model_type 'whisper', found 'wav2vec2'"):
        locate(given("owner/wav2vec"))


def test_weights_are_one_file_or_all_shards_and_safetensors_first():
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert weight_names({"model.safetensors", "pytorch_model.bin"}) == ["model.safetensors"]
    assert weight_names({*shards, "model.fp32-00001-of-00002.safetensors"}) == shards
    assert weight_names({shards[1], "pytorch_model.bin"}) == ["pytorch_model.bin"]
    assert weight_names({shards[0]}) == []


def test_the_fingerprint_is_the_sha256_of_the_weights(copy):
    found = locate(given(copy))
    data = (copy / "model.safetensors").read_bytes()
    assert checkpoints.fingerprint(found) == f"sha256:{hashlib.sha256(data).hexdigest()}"
    (copy / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert checkpoints.fingerprint(found) != f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_the_base_is_frozen_tied_in_evaluation_mode_and_computes_what_was_saved(toy_folder):
    base = load_base(locate(given(toy_folder)), "none", torch.float32, CPU)
    assert not base.training
    assert not any(parameter.requires_grad for parameter in base.parameters())
    assert base.proj_out.weight is base.model.decoder.embed_tokens.weight
    heard, expected = (one(**toy_inputs()).logits for one in (base, toy_model()))
    torch.testing.assert_close(heard, expected, atol=1e-5, rtol=0)


def test_the_generation_config_is_kept_whole(toy_folder):
    found = locate(given(toy_folder))
    stored = json.loads((toy_folder / "generation_config.json").read_text())
    loaded = load_base(found, "none", torch.float32, CPU).generation_config.to_dict()
    read = load_generation_config(found).to_dict()
    assert {"lang_to_id", "task_to_id", "suppress_tokens"} <= stored.keys()
    for key in stored.keys() - {"transformers_version"}:
        assert loaded[key] == stored[key] == read[key], key


def test_window_and_processor_follow_the_checkpoint(toy_folder):
    found = locate(given(toy_folder))
    assert window_seconds(load_config(found)) == WINDOW_SECONDS
    extractor = load_processor(found).feature_extractor
    assert extractor.n_samples == WINDOW_SECONDS * 16_000


def test_a_configuration_of_2022_neither_forces_english_nor_stops_saving(copy, tmp_path):
    values = json.loads((copy / "config.json").read_text())
    values |= {"forced_decoder_ids": [[1, 1], [2, 2]], "max_length": 448, "suppress_tokens": [1]}
    (copy / "config.json").write_text(json.dumps(values))
    base = load_base(locate(given(copy)), "none", torch.float32, CPU)
    features = toy_inputs()["input_features"]
    for said in ({"language": "zh", "task": "transcribe"}, {}):  # without: the model detects it
        plain = toy_model().generate(features, **said, max_new_tokens=4)
        assert torch.equal(base.generate(features, **said, max_new_tokens=4), plain)
    base.save_pretrained(tmp_path / "saved")
    assert load_base(locate(given(copy)), "none", torch.float32, CPU).config.suppress_tokens == [1]


def test_no_code_of_the_checkpoint_runs(copy, tmp_path):
    values = json.loads((copy / "config.json").read_text())
    values["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModelForSpeechSeq2Seq": "evil.Evil"}
    (copy / "config.json").write_text(json.dumps(values))
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    load_base(locate(given(copy)), "none", torch.float32, CPU)
    load_processor(locate(given(copy)))
    assert not (tmp_path / "ran").exists()


def test_missing_weights_are_an_error_and_not_drawn_at_random(copy):
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | {"encoder_layers": 3}))
    with pytest.raises(UserError, match=r"encoder\.layers\.2\..*: missing"):
        load_base(locate(given(copy)), "none", torch.float32, CPU)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_only_linear_layers_of_encoder_and_decoder_are_quantized(toy_folder, kind):
    base = load_base(locate(given(toy_folder)), kind, torch.bfloat16, CPU)
    stored = {"int8": torch.int8, "nf4": torch.uint8}[kind]
    linear = [module for module in base.model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == 2 * 6 + 2 * 10
    assert {layer.weight.dtype for layer in linear} == {stored}
    whole = [base.proj_out, base.model.decoder.embed_tokens, base.model.encoder.conv1]
    assert {module.weight.dtype for module in whole} == {torch.bfloat16}
    assert base.proj_out.weight is base.model.decoder.embed_tokens.weight
    unquantized = load_base(locate(given(toy_folder)), "none", torch.bfloat16, CPU)
    assert base.get_memory_footprint() < unquantized.get_memory_footprint()


def test_weights_bytes_is_the_size_on_disk(toy_folder):
    found = locate(given(toy_folder))
    assert checkpoints.weights_bytes(found) == (toy_folder / "model.safetensors").stat().st_size


def test_without_generation_config_the_model_s_own_ids_are_used(copy):
    (copy / "generation_config.json").unlink()
    derived = load_generation_config(locate(given(copy)))
    assert isinstance(derived, GenerationConfig)
    assert derived.eos_token_id == toy_model().config.eos_token_id
