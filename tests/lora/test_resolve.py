"""An adapter in a run, in a folder, on the hub; what a downloaded one says is not believed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_whisper.errors import UserError
from lora_whisper.files import write_json
from lora_whisper.lora.adapter import load_adapter
from lora_whisper.lora.delta_weights import read_delta_weights
from lora_whisper.lora.provenance import named_base
from lora_whisper.lora.resolve import PICKLED, is_adapter_on_hub, name_of, resolve_adapter
from lora_whisper.lora.saved import CONFIG_FILE, WEIGHTS_FILE, read_saved
from lora_whisper.model.checkpoint import is_hub_id
from lora_whisper.run_folder import MARKER, RunFolder
from tests.lora.test_delta_weights import STOCK, logits, stock
from tests.pickles import pickled
from tests.toys import toy_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder that is nobody's."""
    stock(**STOCK["tokens"]).save_pretrained(tmp_path / "mine", save_embedding_layers=False)
    return tmp_path / "mine"


@pytest.fixture
def cached(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds it as owner/adapter; returns its snapshot."""
    repository = tmp_path / "hub" / "models--owner--adapter"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return Path(shutil.copytree(adapter, snapshot))


def changed(adapter: Path, **values: object) -> Path:
    config = json.loads((adapter / CONFIG_FILE).read_text())
    (adapter / CONFIG_FILE).write_text(json.dumps(config | values))
    return adapter


# ── where it lies ────────────────────────────────────────────────────────────────────────────


def test_a_run_and_a_folder_stand_for_their_adapter(adapter, tmp_path):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(adapter, run.adapter)
    run.config.write_text(MARKER)
    with pytest.raises(UserError, match=r"adapter=.*unfinished"):
        resolve_adapter(str(run.path), "adapter")
    write_json(run.summary, {})
    assert resolve_adapter(str(run.path), "adapter") == run.adapter
    assert resolve_adapter(str(run.adapter), "adapter") == run.adapter
    assert resolve_adapter(str(adapter), "adapter") == adapter
    assert [name_of(str(one)) for one in (run.path, run.adapter, adapter)] == ["run", "run", "mine"]


@pytest.mark.parametrize("below", ["checkpoints/step-000003", "evaluation"])
def test_a_folder_in_a_run_is_answered_with_the_run(below, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder(Path("outputs/a"))
    (run.path / below).mkdir(parents=True)
    run.config.write_text(MARKER)
    with pytest.raises(UserError, match=r"It lies in a run: type adapter=outputs/a$"):
        resolve_adapter(f"outputs/a/{below}", "adapter")


@pytest.mark.parametrize("given", ["gone", "a/b/c", "owner/gone"])
def test_what_is_nowhere_is_answered_with_what_to_type(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"models={given}: .*no such folder") as raised:
        resolve_adapter(given, "models")
    assert ("hf download" in str(raised.value)) == is_hub_id(given)


def test_an_adapter_in_the_hub_s_cache_needs_no_network(cached):
    assert resolve_adapter("owner/adapter", "adapter") == cached
    assert is_adapter_on_hub("owner/adapter")
    assert not is_adapter_on_hub("owner/other")
    assert name_of("owner/adapter") == "owner/adapter"


def test_a_model_on_the_hub_that_is_no_adapter_is_named(cached):
    (cached / CONFIG_FILE).unlink()
    with pytest.raises(UserError, match=r"not an adapter of the hub"):
        resolve_adapter("owner/adapter", "adapter")


def test_a_folder_is_taken_before_a_hub_id_of_the_same_name(cached, adapter, tmp_path, monkeypatch):
    shutil.copytree(adapter, tmp_path / "owner" / "adapter")
    monkeypatch.chdir(tmp_path)
    assert resolve_adapter("owner/adapter", "adapter") == tmp_path / "owner" / "adapter"


# ── pickled weights ──────────────────────────────────────────────────────────────────────────


def test_a_pickled_adapter_is_taken_where_it_is_allowed(cached):
    expected = read_delta_weights(cached)
    pickled(cached / WEIGHTS_FILE, PICKLED)
    with pytest.raises(UserError, match=r"owner/adapter: the weights are pickled"):
        resolve_adapter("owner/adapter", "adapter")
    found = resolve_adapter("owner/adapter", "adapter", allow_pickle=True)
    assert [path.name for path in sorted(found.iterdir())] == [CONFIG_FILE, WEIGHTS_FILE]
    assert resolve_adapter("owner/adapter", "adapter", allow_pickle=True) == found
    again = read_delta_weights(found)
    for path, pair in expected.matrices.items():
        assert all(map(torch.equal, again.matrices[path], pair))


def test_a_pickled_adapter_that_would_run_something_runs_nothing(adapter, tmp_path):
    pickled(adapter / WEIGHTS_FILE, PICKLED, touching=tmp_path / "ran")
    with pytest.raises(UserError, match="holds more than weights"):
        resolve_adapter(str(adapter), "adapter", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_beside_safetensors_is_not_opened(adapter, tmp_path):
    before = logits(load_adapter(toy_model(), adapter))
    shutil.copyfile(adapter / WEIGHTS_FILE, tmp_path / "kept")
    pickled(adapter / WEIGHTS_FILE, PICKLED, touching=tmp_path / "ran")
    shutil.copyfile(tmp_path / "kept", adapter / WEIGHTS_FILE)
    found = resolve_adapter(str(adapter), "adapter")
    after = logits(load_adapter(toy_model(), found))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    assert not (tmp_path / "ran").exists()


# ── what a downloaded folder says ────────────────────────────────────────────────────────────


def test_the_base_is_named_by_its_file(adapter):
    changed(adapter, base_model_name_or_path="owner/toy", revision="v2")
    assert named_base(read_saved(adapter)) == ("owner/toy", "v2")


@pytest.mark.parametrize("name", [None, "", 3, ["a"], "a\x1b[2Jb", "a\nb"])
def test_a_base_that_is_no_name_is_refused_and_not_shown_as_it_is(name, adapter):
    changed(adapter, base_model_name_or_path=name)
    with pytest.raises(UserError, match="base_model_name_or_path") as raised:
        named_base(read_saved(adapter))
    assert "\x1b" not in str(raised.value)


def test_names_in_its_weights_are_not_shown_as_they_are(adapter):
    tensors = load_file(adapter / WEIGHTS_FILE)
    save_file(tensors | {"a\x1b[2Jb": torch.zeros(1)}, adapter / WEIGHTS_FILE)
    for reads in (read_saved, lambda folder: load_adapter(toy_model(), folder)):
        with pytest.raises(UserError, match=r"a\\x1b\[2Jb") as raised:
            reads(adapter)
        assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize(
    "named",
    [
        {"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil_module"}},
        {"megatron_config": {"a": 1}, "megatron_core": "evil_module"},
    ],
    ids=lambda named: next(iter(named)),
)
def test_no_code_that_it_names_is_imported(named, adapter, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    changed(adapter, **named)
    if "megatron_config" in named:
        with pytest.raises(UserError, match="megatron_config"):
            load_adapter(toy_model(), adapter)
        with pytest.raises(UserError, match="megatron_config"):
            read_delta_weights(adapter)
    else:
        load_adapter(toy_model(), adapter)
        read_delta_weights(adapter)
    assert not (tmp_path / "ran").exists()


def test_a_link_to_another_file_shows_nothing_of_it(adapter, tmp_path):
    (tmp_path / "secret").write_text("hunter2 is the password")
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        (adapter / name).unlink()
        (adapter / name).symlink_to(tmp_path / "secret")
        with pytest.raises(UserError, match=r"expected (JSON|safetensors)") as raised:
            read_saved(adapter)
        assert "hunter2" not in str(raised.value)
