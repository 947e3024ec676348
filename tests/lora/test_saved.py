"""The one door for adapters' folders: what comes through it is sound, what is not is one message.

Each input here made a traceback, a hang or a score of something else, in one command or another.
"""

from __future__ import annotations

import itertools
import json
import random
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoKrConfig, LoraConfig, PeftModel, PeftType, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from lora_whisper.errors import UserError
from lora_whisper.lora.adapter import attach, load_adapter, save_adapter
from lora_whisper.lora.adapter_config import FOLDABLE, targeted
from lora_whisper.lora.delta_weights import (
    DeltaWeights,
    delta_weights_of,
    read_delta_weights,
    write_delta_weights,
)
from lora_whisper.lora.saved import (
    CONFIG_FILE,
    VLLM_RANKS,
    WEIGHTS_FILE,
    exported_ranks,
    open_adapter,
    read_saved,
    vllm_is_to_be_compared,
    vllm_max_rank,
    vllm_obstacles,
)
from lora_whisper.lora.validation import require_shapes, shapes_of_weights
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import Checkpoint, locate
from tests.configs import adapter_config, model_config
from tests.lora.test_delta_weights import filled
from tests.toys import toy_checkpoint, toy_inputs, toy_model

FC1 = "model.encoder.layers.0.fc1"
KEY_A = f"base_model.model.{FC1}.lora_A.weight"
KEY_B = f"base_model.model.{FC1}.lora_B.weight"
SLOW = r"(\w|\w\w|\.)+[^\w.]"  # which backtracks for ever on the name of a layer
SETTINGS: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "fc1"]}


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_whisper.lora.adapter_config.EXPRESSION_SECONDS", 0.1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stock PEFT saves."""
    folder = tmp_path_factory.mktemp("whole")
    filled(get_peft_model(toy_model(), LoraConfig(**SETTINGS))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base() -> dict[str, tuple[int, ...]]:
    weights = toy_model().state_dict()
    return shapes_of_weights({name: tuple(one.shape) for name, one in weights.items()})


@pytest.fixture
def adapter(whole: Path, tmp_path: Path) -> Path:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    return tmp_path


def configured(folder: Path, **changes: Any) -> Path:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)
    return folder


def through(folder: Path, base: dict[str, tuple[int, ...]]) -> None:
    require_shapes(open_adapter(folder), base)


def refused(folder: Path, base: dict[str, tuple[int, ...]]) -> str:
    started = time.monotonic()
    with pytest.raises(UserError) as raised:
        through(folder, base)
    assert time.monotonic() - started < 10, "a hang"
    return str(raised.value)


# ── settings ─────────────────────────────────────────────────────────────────────────────────

TEXTS = {
    "a list": b"[]",
    "a text": b'"LORA"',
    "null": b"null",
    "broken": b'{"r": ',
    "empty": b"",
    "a page": b"<!DOCTYPE html>\n<html></html>",
    "UTF-16": '{"r": 4}'.encode("utf-16"),
    "no UTF-8": b'{"peft_type": "\xff"}',
    "deep": b'{"r": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of 10,000 digits": b'{"peft_type": "LORA", "r": ' + b"9" * 10_000 + b"}",
    "NaN": b'{"peft_type": "LORA", "lora_alpha": NaN}',
    "a key twice": b'{"peft_type": "LORA", "r": 4, "r": 8}',
    "large": b'{"peft_type": "' + b" " * 2_000_000 + b'"}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_no_configuration_is_named(text, adapter, base):
    (adapter / CONFIG_FILE).write_bytes(text)
    assert CONFIG_FILE in refused(adapter, base)


VALUES = {
    "r": [0, -1, None, "x", 1.5, True, 10**9, [4], 8],
    "lora_alpha": [0, None, "x", 1e308, True, [6]],
    "rank_pattern": [[], "fc1", {"fc1": 0}, {"fc1": "4"}, {"fc1": 3}, {"(": 4}, {SLOW: 4}],
    "alpha_pattern": [
        7,
        {"fc1": None},
        {"(": 1},
        {SLOW: 1},
        {"x" * 60_000 + "|": 1},
        {"a{1000000000}": 1},
        {"(?R)": 1},
    ],
    "use_dora": [True, "yes"],
    "use_rslora": [1, "false"],
    "target_modules": [7, [1], "(", SLOW, ["q_proj", "fc1", "fc2"], "all-linear"],
    "exclude_modules": [{}, "(", SLOW],
    "layers_to_transform": ["1", [1.5]],
    "trainable_token_indices": [-1, [-1], [10**9], ["a"], [True], {"proj_out": [1]}, [1, 1]],
    "base_model_name_or_path": [3, "a\nb", "a\x1b[2J"],
    "revision": [[], "\x00"],
    "bias": ["all", "lora_only", 1],
    "modules_to_save": [["proj_out"], "proj_out"],
    "init_lora_weights": ["loftq", "corda", "pissa", "pissa_niter_16", "olora", ["pissa"]],
    "layer_replication": [[[0, 2]]],
    "lora_bias": [True],
    "target_parameters": [["fc1.weight"]],
    "megatron_config": [{"a": 1}],
    "alora_invocation_tokens": [[1]],
    "peft_type": ["IA3", "XLORA", "PROMPT_TUNING", "VERA", "lora", None, 3, ["LORA"]],
}
ODD = [(name, value) for name, values in VALUES.items() for value in values]


@pytest.mark.parametrize(
    ("name", "value"), ODD, ids=[f"{name}-{value!s:.20}" for name, value in ODD]
)
def test_a_setting_that_cannot_be_followed_is_named(name, value, adapter, base):
    said = refused(configured(adapter, **{name: value}), base)
    assert name in said or (name in ("r", "use_dora") and (FC1 in said or "rank" in said))
    assert "\x1b" not in said


def test_layers_by_number_need_no_expression_of_the_folder_s(adapter, base):
    """But are tried with a limit, where there is one; 0 and 1 are all that the toy has."""
    through(configured(adapter, layers_to_transform=[0, 1]), base)
    through(configured(adapter, layers_pattern="layers"), base)
    assert "layers_pattern" in refused(configured(adapter, layers_pattern=[SLOW]), base)


# ── tensors ──────────────────────────────────────────────────────────────────────────────────


def put(key: str, value: Any) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.__setitem__(key, value)


def with_number(key: str, number: float) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors[key].view(-1).__setitem__(-1, number)


def without_a_third(tensors: dict[str, Tensor]) -> None:
    for key in [key for key in tensors if "layers.1.fc1" in key]:
        del tensors[key]


CHANGES: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "NaN": (with_number(KEY_B, float("nan")), f"{FC1}: 1 of the 128 numbers in lora_B"),
    "infinite": (with_number(KEY_A, float("inf")), f"{FC1}: 1 of the 64 numbers in lora_A"),
    "beyond float32": (put(KEY_A, torch.full((4, 16), 1e300, dtype=torch.float64)), "not finite"),
    "bfloat16 NaN": (put(KEY_A, torch.full((4, 16), float("nan")).bfloat16()), "not finite"),
    "no B": (lambda tensors: tensors.pop(KEY_B), f"{FC1}: its matrix B is missing"),
    "no A": (lambda tensors: tensors.pop(KEY_A), f"{FC1}: its matrix A is missing"),
    "layers missing": (without_a_third, "layers.1.fc1: target_modules names it"),
    "nothing": (dict.clear, "holds no matrices"),
    "something else": (put("x.weight", torch.zeros(2)), "x.weight: not a matrix"),
    "rank 0": (put(KEY_A, torch.zeros(0, 16)), FC1),
    "a number for a matrix": (put(KEY_A, torch.tensor(1.0)), FC1),
    "of another rank": (put(KEY_A, torch.zeros(3, 16)), "A is of rank 3, B of rank 4"),
    "of another size": (put(KEY_A, torch.zeros(4, 20)), "expected 32 × 16"),
    "int8": (put(KEY_A, torch.zeros(4, 16, dtype=torch.int8)), "found I8"),
    "bool": (put(KEY_A, torch.zeros(4, 16, dtype=torch.bool)), "found BOOL"),
    "fp8": (put(KEY_A, torch.zeros(4, 16).to(torch.float8_e4m3fn)), "found F8_E4M3"),
    "DoRA's": (put(f"base_model.model.{FC1}.lora_magnitude_vector", torch.ones(32)), "use_dora"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_what_is_missing_or_no_number_is_named(change, said, adapter, base):
    assert said in refused(rewritten(adapter, change), base)


def test_a_file_that_is_cut_or_lies_about_its_sizes_is_named(adapter, base):
    path = adapter / WEIGHTS_FILE
    whole = path.read_bytes()
    lie = whole.replace(b'"shape":[4,16]', b'"shape":[4,96]', 1)
    for damaged in (b"", whole[:5], whole[:100], whole[:-1], whole + b"x", lie, b"\xff" * 64):
        path.write_bytes(damaged)
        said = refused(adapter, base)
        assert WEIGHTS_FILE in said
        assert "Download or copy it again" in said
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    assert f"git lfs pull --include {WEIGHTS_FILE}" in refused(adapter, base)


def test_what_is_no_file_is_no_adapter(adapter, base):
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        (adapter / name).unlink()
        (adapter / name).mkdir()
        assert name in refused(adapter, base)
        (adapter / name).rmdir()
        (adapter / name).symlink_to(name)  # to itself
        assert "holds no adapter" in refused(adapter, base)


# ── what is sound ────────────────────────────────────────────────────────────────────────────


FOLDED_BY_PEFT: dict[str, Any] = {
    "IA3": IA3Config(target_modules=["q_proj", "fc1"], feedforward_modules=["fc1"]),
    "LOKR": LoKrConfig(r=2, target_modules=["q_proj", "fc1"]),
    "bias": LoraConfig(**SETTINGS, bias="all"),
    "bias: expected": LoraConfig(**SETTINGS, bias="lora_only"),
    "lora_bias": LoraConfig(**SETTINGS, lora_bias=True),
    "target_parameters": LoraConfig(target_modules=["q_proj"], target_parameters=["fc1.weight"]),
    "modules_to_save": LoraConfig(**SETTINGS, modules_to_save=["conv1", "layer_norm"]),
    "modules_to_save: expected": LoraConfig(
        **SETTINGS, modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
}


@pytest.mark.parametrize(("named", "config"), FOLDED_BY_PEFT.items(), ids=FOLDED_BY_PEFT)
def test_what_only_peft_folds_is_folded_by_the_line_that_is_printed(
    named, config, tmp_path, base, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    toy_checkpoint(tmp_path / "base")
    model = get_peft_model(WhisperForConditionalGeneration.from_pretrained("base"), config)
    filled(model).save_pretrained("adapter")
    said = refused(tmp_path / "adapter", base)
    assert named in said
    (typed,) = [line for line in said.splitlines() if line.startswith("python -c ")]
    exec(shlex.split(typed)[2], {})
    found = locate(model_config("folded"))  # as models=[folded] is
    expected = model.eval()(**toy_inputs()).logits
    folded = load_base(found, "none", torch.float32, torch.device("cpu"))
    torch.testing.assert_close(folded(**toy_inputs()).logits, expected, atol=1e-5, rtol=0)


PARTS: dict[str, Any] = {
    "projection": LoraConfig(**SETTINGS, modules_to_save=["proj_out"]),
    "embeddings": LoraConfig(**SETTINGS, modules_to_save=["embed_tokens"]),
    "a part of the name": LoraConfig(**SETTINGS, modules_to_save=["tokens", "conv1"]),
    "LoRA on embeddings": LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
    "LoRA on projection": LoraConfig(r=4, target_modules=["proj_out", "q_proj"]),
    "LoKr on projection": LoKrConfig(r=4, target_modules=["proj_out", "q_proj"]),
}


@pytest.mark.parametrize("config", PARTS.values(), ids=PARTS)
def test_what_parts_embeddings_and_projection_is_not_folded_by_peft_either(config, tmp_path, base):
    """PEFT's folder is no Whisper, or, of LoRA, changes both: logits of a toy were 26 off."""
    filled(get_peft_model(toy_model(), config)).save_pretrained(tmp_path)
    said = refused(tmp_path, base)
    assert "merge_and_unload" not in said
    assert said.endswith("trainable_token_indices changes tokens in both.")


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "FOO"},
        {"peft_type": "PROMPT_TUNING"},
        {"bias": 1},
        {"bias": "all", "r": 0},
        {"peft_type": "IA3", "target_modules": "("},
    ],
    ids=str,
)
def test_what_peft_does_not_fold_either_is_not_said_to_be_folded(changes, adapter, base):
    assert "merge_and_unload" not in refused(configured(adapter, **changes), base)


def test_a_base_that_lies_elsewhere_is_left_to_be_typed(adapter, base):
    changes = {"bias": "all", "base_model_name_or_path": "/home/bob/models/whisper-base"}
    assert '; b="BASE"; ' in refused(configured(adapter, **changes), base)


def test_kinds_that_peft_folds_are_kinds_of_peft():
    assert set(FOLDABLE) < {kind.value for kind in PeftType}


ALPHAS = {
    "plain names": {"fc1": 5, "encoder.layers.1.fc1": 7},
    "the first one": {r"encoder\.layers\.\d+\.fc1": 5, "layers.1.fc1": 7},
    "an expression": {"self_attn.(q|k)_proj": 3},
    "rslora": {"fc1": 5},
}


@pytest.mark.parametrize("name", ALPHAS)
def test_scales_are_those_of_stock_peft(name, tmp_path):
    settings = SETTINGS | {"alpha_pattern": ALPHAS[name], "rank_pattern": {"q_proj": 2}}
    model = get_peft_model(toy_model(), LoraConfig(**settings, use_rslora=name == "rslora"))
    filled(model).save_pretrained(tmp_path)
    ours = load_adapter(toy_model(), tmp_path)
    for one in (PeftModel.from_pretrained(toy_model(), tmp_path), ours):
        inner: Any = one.get_base_model()
        expected = {
            path: layer.scaling["default"]
            for path, layer in inner.named_modules()
            if isinstance(layer, LoraLayer)
        }
        saved = read_saved(tmp_path)
        assert {path: layer.scale for path, layer in saved.layers.items()} == expected
    found = dict(ours.named_parameters())
    for path, layer in model.named_parameters():
        assert torch.equal(found[path], layer)


EMBEDDINGS = {
    "list": [3, 5],
    "by name": {"embed_tokens": [3, 5]},
    "by path": {"model.decoder.embed_tokens": [3, 5]},
    "tied": {"embed_tokens": [3, 5], "proj_out": [3, 5]},
}


@pytest.mark.parametrize("tokens", EMBEDDINGS.values(), ids=EMBEDDINGS)
def test_trained_tokens_are_those_of_stock_peft_however_it_names_them(tokens, tmp_path, base):
    model = get_peft_model(toy_model(), LoraConfig(**SETTINGS, trainable_token_indices=tokens))
    filled(model).save_pretrained(tmp_path)
    through(tmp_path, base)
    with torch.no_grad():
        expected = PeftModel.from_pretrained(toy_model(), tmp_path)(**toy_inputs()).logits
        torch.testing.assert_close(
            load_adapter(toy_model(), tmp_path)(**toy_inputs()).logits, expected
        )


def test_an_expression_may_name_every_layer(adapter, base):
    """What PEFT or its users join out of names is long, and quick."""
    names = [name for name in base if name.endswith(("q_proj", "fc1"))]
    others = [f"model.encoder.layers.{number}.q_proj" for number in range(100)]
    through(configured(adapter, target_modules="|".join([*names, *others])), base)


TARGETS: list[dict[str, Any]] = [
    {"target_modules": ["q_proj", "encoder.layers.1.fc1"]},
    {"target_modules": r".*decoder.*\.(q|v)_proj"},
    {"target_modules": "all-linear"},
    {"target_modules": "all-linear", "exclude_modules": ["fc2", "out_proj"]},
    {"target_modules": ["fc1"], "exclude_modules": r".*layers\.1\..*"},
    {"target_modules": ["fc1"], "layers_to_transform": 1},
    {"target_modules": ["fc1"], "layers_to_transform": [0], "layers_pattern": ["layers"]},
    {"target_modules": ["model.encoder.layers.1.fc1", "fc2"], "layers_to_transform": [0]},
]


@pytest.mark.parametrize("settings", TARGETS, ids=str)
def test_the_layers_that_are_meant_are_those_that_stock_peft_adapts(settings, base):
    inner: Any = get_peft_model(toy_model(), LoraConfig(**settings)).get_base_model()
    adapted = {path for path, one in inner.named_modules() if isinstance(one, LoraLayer)}
    assert set(targeted(settings, list(base))) == adapted


def test_half_precision_is_read(adapter, base):
    tensors = load_file(adapter / WEIGHTS_FILE)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        rounded = {key: value.to(dtype) for key, value in tensors.items()}
        save_file(rounded, adapter / WEIGHTS_FILE)
        through(adapter, base)


# ── anything at all ──────────────────────────────────────────────────────────────────────────


def mutations(config: dict[str, Any], weights: bytes, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """Folders that differ from a sound one by little, endlessly."""
    generator = random.Random(seed)
    odd = [
        None,
        True,
        -1,
        0,
        1.5,
        1e308,
        10**30,
        "",
        "x",
        SLOW,
        "(",
        [],
        ["x"],
        {},
        {"fc1": 1},
        [[1]],
    ]
    text = json.dumps(config).encode()
    header = 8 + int.from_bytes(weights[:8], "little")
    while True:
        name, value = generator.choice(sorted(config)), generator.choice(odd)
        yield json.dumps(config | {name: value}).encode(), weights
        place = generator.randrange(len(text))
        yield text[:place] + bytes([generator.randrange(256)]) + text[place + 1 :], weights
        place = generator.randrange(header)
        yield text, weights[:place] + bytes([generator.randrange(256)]) + weights[place + 1 :]
        yield text, weights[: generator.randrange(len(weights))]


def test_whatever_is_in_a_folder_it_is_read_or_refused(adapter, base):
    """Seeded; what is let through is what stock PEFT would add, or another name for its base."""
    config, weights = json.loads((adapter / CONFIG_FILE).read_text()), adapter / WEIGHTS_FILE
    expected, refusals = read_delta_weights(adapter), 0
    some = itertools.islice(mutations(config, weights.read_bytes(), seed=14), 200)
    for text, tensors in some:
        (adapter / CONFIG_FILE).write_bytes(text)
        weights.write_bytes(tensors)
        started = time.monotonic()
        try:
            through(adapter, base)
            found = read_delta_weights(adapter)
            assert found.ranks == expected.ranks
            assert all(bool(b.isfinite().all()) for _, b in found.matrices.values())
        except UserError:
            refusals += 1
        assert time.monotonic() - started < 10, "a hang"
    assert 50 < refusals < 200


# ── what vLLM takes ───────────────────────────────────────────────────────────────────────────────


BASE = Checkpoint("owner/toy", None, "owner/toy")
PER_STACK = {"encoder_rank": 4, "decoder_rank": 8}


def saved(folder: Path, kind: str = "lora", tokens: tuple[int, ...] = (), **changes: Any) -> Path:
    config = adapter_config(kind, **({"rank": 8} | changes))
    save_adapter(attach(toy_model(), config, "none", False, 0, tokens), folder, BASE)
    return folder


@pytest.mark.parametrize(
    ("kind", "tokens", "changes", "obstacles"),
    [
        ("lora", (), {}, []),
        ("rslora", (), {}, []),
        ("eva", (), {}, []),
        ("lora", (), {"layers": "encoder", "encoder_rank": 4}, []),
        ("dora", (), {}, ["DoRA is not served"]),
        ("lora", (264,), {}, ["re-learnt token embeddings are not served"]),
        ("lora", (), {"rank": 520}, ["rank 520 is over its limit of 512"]),
        ("lora", (), PER_STACK, ["the layers' scales differ"]),
        ("rslora", (), PER_STACK, ["the layers' scales differ"]),
    ],
)
def test_obstacles_of_vllm(
    tmp_path: Path,
    kind: str,
    tokens: tuple[int, ...],
    changes: dict[str, Any],
    obstacles: list[str],
) -> None:
    found = vllm_obstacles(saved(tmp_path, kind, tokens, **changes))
    assert len(found) == len(obstacles)
    assert all(one.startswith(start) for one, start in zip(found, obstacles, strict=True))


def test_a_plain_adapter_of_many_ranks_is_served(tmp_path: Path) -> None:
    """Its scale is 1 in every layer, which is what vLLM takes for all of them."""
    config = adapter_config(rank=8, **PER_STACK)
    model = attach(toy_model(), config, "none", False, 0)
    write_delta_weights(delta_weights_of(model), tmp_path, BASE)
    assert exported_ranks(tmp_path) == (4, 8)
    assert vllm_obstacles(tmp_path) == []


@pytest.mark.parametrize(("rank", "asked"), [(1, 1), (3, 8), (8, 8), (9, 16), (300, 320)])
def test_the_rank_to_ask_vllm_for(tmp_path: Path, rank: int, asked: int) -> None:
    assert asked in VLLM_RANKS
    assert vllm_max_rank(saved(tmp_path, rank=rank, targets="attention-qv")) == asked


def test_layers_that_see_sound_are_not_vouched_for(tmp_path: Path) -> None:
    """The decoder's keys and values of the sound see it as well as the encoder."""
    encoder = saved(tmp_path / "encoder", layers="encoder")
    decoder = saved(tmp_path / "decoder", layers="decoder", targets="attention-qv")
    assert vllm_is_to_be_compared(encoder)
    assert vllm_is_to_be_compared(decoder)
    text = saved(tmp_path / "text", layers="decoder", targets="attention-qv")
    plain = read_delta_weights(text)
    kept = {path: pair for path, pair in plain.matrices.items() if "encoder_attn" not in path}
    write_delta_weights(DeltaWeights(kept, {}), text, BASE)
    assert not vllm_is_to_be_compared(text)
