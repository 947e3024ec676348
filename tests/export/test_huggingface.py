"""The merged folder loads in stock Transformers and lacks nothing that its converters read."""

import json
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, WhisperForConditionalGeneration, WhisperProcessor

from benchmarks.random_checkpoint import write_random_checkpoint
from lora_whisper.export.huggingface import write_model
from lora_whisper.model.checkpoint import (
    Checkpoint,
    load_base,
    load_generation_config,
    load_processor,
    locate,
)
from tests.configs import model_config
from tests.toys import WINDOW_SECONDS, toy_checkpoint, toy_inputs

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


def export(checkpoint: Checkpoint, folder: Path) -> WhisperForConditionalGeneration:
    model = load_base(checkpoint, "none", torch.float32, torch.device("cpu"))
    processor, generation = load_processor(checkpoint), load_generation_config(checkpoint)
    model.generation_config = GenerationConfig()  # whatever decoding left there does not ship
    write_model(model, processor, generation, checkpoint, folder)
    return model


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
    assert torch.equal(stock(**toy_inputs()).logits, model(**toy_inputs()).logits)
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
