"""The merged folder loads in stock Transformers and lacks nothing that its converters read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig, WhisperForConditionalGeneration, WhisperProcessor

from benchmarks.random_checkpoint import write_random_checkpoint
from lora_whisper.export.huggingface import NAMES, write_model, write_weights
from lora_whisper.lora.merge import EMBEDDINGS, Change, folded
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import Checkpoint, locate, weight_files
from lora_whisper.model.weights import TIED, read_shapes
from tests.configs import model_config
from tests.toys import WINDOW_SECONDS, toy_checkpoint, toy_inputs, toy_model

GENUINE = Path(__file__).parents[3] / "shared" / "whisper" / "whisper-tiny"
OLDER_FILES = {
    "preprocessor_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
}
TEXT = " the <|notimestamps|> 12 naïve ÿ"


def located(folder: Path) -> Checkpoint:
    return locate(model_config(folder))


def export(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype = torch.float32
) -> WhisperForConditionalGeneration:
    """Write the base as if something had been merged into it; return it as it was loaded."""
    files = weight_files(checkpoint)
    shapes = {name: shape for name, shape in read_shapes(files).items() if name != TIED}
    weights = folded(files, Change({}), dtype)
    write_model(weights, shapes, dtype, checkpoint, folder, {"notes.json": {"from": "toys"}})
    return load_base(checkpoint, "none", dtype, torch.device("cpu"))


def toy_weights() -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    weights = {name: one for name, one in toy_model().state_dict().items() if name != TIED}
    return weights, {name: tuple(one.shape) for name, one in weights.items()}


def same_generation_config(folder: Path, base: Path) -> None:
    written = json.loads((folder / "generation_config.json").read_text())
    given = json.loads((base / "generation_config.json").read_text())
    assert {"lang_to_id", "task_to_id", "suppress_tokens"} <= given.keys()
    for key in given.keys() - {"transformers_version"}:
        assert written[key] == given[key], key
    loaded = WhisperForConditionalGeneration.from_pretrained(folder).generation_config
    assert isinstance(loaded, GenerationConfig)
    assert loaded.lang_to_id == given["lang_to_id"]


def same_tokenizer(folder: Path, base: Path) -> None:
    written = WhisperProcessor.from_pretrained(folder).tokenizer
    given = WhisperProcessor.from_pretrained(base).tokenizer
    assert written.get_vocab() == given.get_vocab()
    assert written(TEXT).input_ids == given(TEXT).input_ids
    assert written.all_special_ids == given.all_special_ids


def same_tokens_without_tokenizer_json(folder: Path, base: Path) -> None:
    """Converters that know only the older files find the same tokens in them."""
    vocabulary = json.loads((folder / "vocab.json").read_text())
    added = json.loads((folder / "added_tokens.json").read_text())
    given = WhisperProcessor.from_pretrained(base).tokenizer
    assert vocabulary | added == given.get_vocab()
    merges = (folder / "merges.txt").read_text().splitlines()
    rules = json.loads((base / "tokenizer.json").read_text())["model"]["merges"]
    rules = [rule if isinstance(rule, str) else " ".join(rule) for rule in rules]
    assert [line for line in merges if not line.startswith("#version")] == rules


def test_a_toy_comes_back_whole_from_stock_transformers(tmp_path):
    base = toy_checkpoint(tmp_path / "base")
    model = export(located(base), tmp_path / "merged")
    written = {path.name for path in (tmp_path / "merged").iterdir()}
    assert written >= OLDER_FILES | {"tokenizer.json", "tokenizer_config.json", "config.json"}
    stock = WhisperForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    heard, expected = (one(**toy_inputs()).logits for one in (stock, model))
    torch.testing.assert_close(heard, expected, atol=1e-5, rtol=0)
    assert stock.proj_out.weight is stock.model.decoder.embed_tokens.weight
    same_generation_config(tmp_path / "merged", base)
    same_tokenizer(tmp_path / "merged", base)
    same_tokens_without_tokenizer_json(tmp_path / "merged", base)


def test_whoever_may_read_the_configuration_may_read_the_weights(tmp_path):
    export(located(toy_checkpoint(tmp_path / "base")), tmp_path / "merged")
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "merged").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_a_short_window_survives(tmp_path):
    export(located(toy_checkpoint(tmp_path / "base")), tmp_path / "merged")
    extractor = WhisperProcessor.from_pretrained(tmp_path / "merged").feature_extractor
    assert extractor.n_samples == WINDOW_SECONDS * 16_000
    older = json.loads((tmp_path / "merged" / "preprocessor_config.json").read_text())
    assert older["chunk_length"] == WINDOW_SECONDS
    assert older["feature_size"] == extractor.feature_size == 16


def test_files_of_the_base_are_kept_byte_for_byte(tmp_path):
    base = toy_checkpoint(tmp_path / "base")
    (base / "normalizer.json").write_text('{"colour": "color"}')
    export(located(base), tmp_path / "merged")
    for name in ("normalizer.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (base / name).read_bytes(), name


def test_an_older_folder_is_replaced_only_by_a_complete_one(tmp_path, monkeypatch):
    checkpoint = located(toy_checkpoint(tmp_path / "base"))
    merged = tmp_path / "merged"
    export(checkpoint, merged)
    (merged / "of-the-older-one").touch()
    with monkeypatch.context() as patch:
        patch.setattr(WhisperProcessor, "save_pretrained", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export(checkpoint, merged)
    assert (merged / "of-the-older-one").exists()
    export(checkpoint, merged)
    assert not (merged / "of-the-older-one").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"base", "merged"}


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.skipif(not GENUINE.exists(), reason="the genuine tokenizer is not at hand")
def test_the_genuine_tiny_files_survive(tmp_path):
    base = tmp_path / "tiny"
    write_random_checkpoint(base, "tiny", GENUINE, seed=1, dtype=torch.float32)
    export(located(base), tmp_path / "merged")
    written = {path.name for path in (tmp_path / "merged").iterdir()}
    assert written >= OLDER_FILES | {"normalizer.json"}
    same_generation_config(tmp_path / "merged", GENUINE)
    heads = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert heads["alignment_heads"] == [[2, 2], [3, 0], [3, 2], [3, 3], [3, 4], [3, 5]]
    same_tokenizer(tmp_path / "merged", GENUINE)
    same_tokens_without_tokenizer_json(tmp_path / "merged", GENUINE)


# ── the weights' own format ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", NAMES, ids=str)
def test_a_file_is_read_as_if_safetensors_had_written_it(dtype, tmp_path):
    weights, shapes = toy_weights()
    weights = {name: one.to(dtype) for name, one in weights.items()}
    write_weights(weights.items(), shapes, dtype, tmp_path)
    save_file(weights, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    ours, theirs = (load_file(tmp_path / f"{one}.safetensors") for one in ("model", "theirs"))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert ours[name].dtype == weight.dtype
        assert torch.equal(ours[name], weight)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("size", [10_000, 1_000, 10**9])
def test_shards_load_in_stock_transformers_to_the_bit(size, tmp_path):
    toy_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    weights, shapes = toy_weights()
    write_weights(weights.items(), shapes, torch.float32, tmp_path, size)
    shards = {path.name for path in tmp_path.glob("*.safetensors")}
    if size == 10**9:
        assert shards == {"model.safetensors"}
        assert not (tmp_path / "model.safetensors.index.json").exists()
    else:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == shards
        assert index["metadata"]["total_size"] == sum(one.nbytes for one in weights.values())
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, weights.get(name, weights[EMBEDDINGS]))
    located(tmp_path)


def test_a_weight_that_is_not_as_announced_is_our_own_mistake(tmp_path):
    weights, shapes = toy_weights()
    *first, _ = weights.items()
    with pytest.raises(StopIteration):
        write_weights(first, shapes, torch.float32, tmp_path)
    with pytest.raises(AssertionError):
        write_weights(weights.items(), shapes, torch.float16, tmp_path)


def test_the_dtype_is_written_down(tmp_path):
    export(located(toy_checkpoint(tmp_path / "base")), tmp_path / "merged", torch.bfloat16)
    stock = WhisperForConditionalGeneration.from_pretrained(tmp_path / "merged", dtype="auto")
    assert {weight.dtype for weight in stock.state_dict().values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "merged" / "notes.json").read_text()) == {"from": "toys"}


def test_a_sharded_base_is_read_whole(tmp_path):
    base = toy_checkpoint(tmp_path / "base")
    toy_model().save_pretrained(base, max_shard_size="10KB")
    (base / "model.safetensors").unlink()
    model = export(located(base), tmp_path / "merged")
    stock = WhisperForConditionalGeneration.from_pretrained(tmp_path / "merged")
    for name, weight in model.state_dict().items():
        assert torch.equal(stock.state_dict()[name], weight)
