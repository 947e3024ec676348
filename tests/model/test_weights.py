"""Weights from one file, from shards and from a pickle are the same; a pickle runs nothing."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_whisper.errors import UserError
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import locate, weight_files
from lora_whisper.model.weights import read_pickled, read_shapes, read_tensors
from tests.configs import model_config
from tests.pickles import Touching, pickled
from tests.toys import toy_checkpoint, toy_inputs, toy_model

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toy_checkpoint(tmp_path / "toy")


def sharded(folder: Path) -> Path:
    toy_model().save_pretrained(folder, max_shard_size="10KB")
    (folder / "model.safetensors").unlink()
    return folder


def files(folder: Path, allow_pickle: bool = False) -> list[Path]:
    return weight_files(locate(model_config(folder, allow_pickle=allow_pickle)))


def require_toy_s(found: list[Path]) -> None:
    tensors, expected = dict(read_tensors(found)), toy_model().state_dict()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name])
    assert tensors.keys() | {"proj_out.weight"} == expected.keys()
    shapes = [(name, tuple(tensor.shape)) for name, tensor in tensors.items()]
    assert list(read_shapes(found).items()) == shapes, "in the same order"


def test_one_file_and_all_of_its_shards_hold_the_same(folder):
    require_toy_s(files(folder))
    assert len(files(sharded(folder))) > 3
    require_toy_s(files(folder))


def test_tensors_come_in_the_order_in_which_they_lie(folder):
    """What is read forward is read once."""
    (path,) = files(folder)
    header = path.read_bytes()
    places = [header.index(f'"{name}"'.encode()) for name, _ in read_tensors([path])]
    assert len(places) > 32, "the file is opened more than once"
    assert places == sorted(places)


def test_a_pickle_is_read_where_it_is_allowed_and_with_a_warning(folder, caplog):
    pickled(folder / "model.safetensors", "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickled.*\n.*allow_pickle=true"):
        files(folder)
    with caplog.at_level(logging.WARNING, "lora_whisper"):
        require_toy_s(files(folder, allow_pickle=True))
        files(folder, allow_pickle=True)
    assert len(caplog.records) == 1, "warned once"
    assert str(folder) in caplog.text
    model = load_base(locate(model_config(folder, allow_pickle=True)), "none", torch.float32, CPU)
    heard, expected = (one(**toy_inputs()).logits for one in (model, toy_model()))
    torch.testing.assert_close(heard, expected, atol=1e-5, rtol=0)


def test_safetensors_are_taken_where_both_are_there(folder):
    torch.save({"more": Touching(folder / "ran")}, folder / "pytorch_model.bin")
    assert [path.name for path in files(folder)] == ["model.safetensors"]
    load_base(locate(model_config(folder)), "none", torch.float32, CPU)
    assert not (folder / "ran").exists()


def test_a_pickle_of_before_archives_is_read_too(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    require_toy_s(files(folder, allow_pickle=True))


def test_a_pickle_that_would_run_something_runs_nothing(folder, tmp_path):
    path = pickled(folder / "model.safetensors", "pytorch_model.bin", touching=tmp_path / "ran")
    with pytest.raises(UserError, match=r"holds more than weights \(getattr\)") as raised:
        read_pickled(path)
    assert "weights_only" not in str(raised.value), "PyTorch's advice is to run it"
    with pytest.raises(UserError, match="holds more than weights"):
        locate(model_config(folder, allow_pickle=True))
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Touching(tmp_path / "ran")))
    assert (tmp_path / "ran").exists(), "whereas pickle's own loader runs it"


@pytest.mark.parametrize("value", [[1, 2], {"a": 3}, {1: torch.zeros(1)}])
def test_a_pickle_of_something_else_is_named(value, tmp_path):
    torch.save(value, tmp_path / "x.bin")
    with pytest.raises(UserError, match="expected nothing but tensors"):
        read_pickled(tmp_path / "x.bin")
    (tmp_path / "x.bin").write_bytes(b"PK")
    with pytest.raises(UserError, match="damaged"):
        read_pickled(tmp_path / "x.bin")


STAND_INS = {
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
        "git lfs pull --include {}",
    ),
    "a page": (b"<!DOCTYPE html><html><head></head></html>", "is a web page"),
    "nothing": (b"", "found an empty file. Download or copy it again"),
    "cut short": (None, "ownload or copy it again"),
}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(("content", "said"), STAND_INS.values(), ids=STAND_INS)
def test_what_a_download_left_in_the_place_of_weights_is_named(name, content, said, folder):
    path = folder / name
    if name.endswith(".bin"):
        pickled(folder / "model.safetensors", name)
    path.write_bytes(path.read_bytes()[:-1_000] if content is None else content)
    with pytest.raises(UserError) as raised:
        files(folder, allow_pickle=True)
    assert name in str(raised.value)
    assert said.format(name) in str(raised.value)
    assert "weights_only" not in str(raised.value), "PyTorch's advice is to run it"


def test_all_shards_that_are_stand_ins_are_named_at_once(folder):
    first, second, *_ = files(sharded(folder))
    for path in (first, second):
        path.write_bytes(STAND_INS["a pointer"][0])
    with pytest.raises(UserError, match=rf"(?s){first.name}.*{second.name}"):
        files(folder)


def test_shards_that_are_missing_are_named(folder):
    found = [path.name for path in files(sharded(folder))]
    (folder / found[1]).unlink()
    with pytest.raises(UserError, match=rf"  - {found[1]}: missing"):
        files(folder)
    for name in found[2:]:
        (folder / name).unlink()
    with pytest.raises(UserError, match=rf"and {len(found) - 4} more: missing"):
        files(folder)


INDICES = {
    "missing": (None, "missing; it says which of the"),
    "empty": ("", "expected JSON, found an empty file"),
    "no JSON": ("{", "expected JSON, found an error"),
    "without files": ("{}", "weight_map: expected names with their files, found null"),
}


@pytest.mark.parametrize(("content", "said"), INDICES.values(), ids=INDICES)
def test_what_is_wrong_with_an_index_is_said(content, said, folder):
    index = sharded(folder) / "model.safetensors.index.json"
    index.unlink() if content is None else index.write_text(content)
    with pytest.raises(UserError, match=rf"model\.safetensors\.index\.json: {said}"):
        files(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "more.bin"])
def test_an_index_reads_no_other_files(name, folder, tmp_path):
    """Transformers would follow it, and so measure other weights than those that are merged."""
    index = sharded(folder) / "model.safetensors.index.json"
    (tmp_path / "outside.safetensors").write_bytes(b"secret")
    first = files(folder)[0].name
    index.write_text(index.read_text().replace(first, name))
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json: expected"):
        locate(model_config(folder))


def test_an_adapter_beside_the_whole_model_is_refused(folder):
    """Transformers would load it into the base, and nobody would see it in a score."""
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="found an adapter beside the whole model"):
        locate(model_config(folder))
