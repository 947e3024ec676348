"""adapter.init_from: what was saved is what training begins with, and nothing is lost unsaid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor

from lora_whisper.config import AdapterConfig
from lora_whisper.errors import UserError
from lora_whisper.files import write_json
from lora_whisper.lora.adapter import adapter_parameters, attach, save_adapter
from lora_whisper.lora.delta_weights import delta_weights_of
from lora_whisper.lora.initialization import (
    INITIAL_FILE,
    WatchedWindow,
    initialize_from,
    read_initial,
)
from lora_whisper.lora.resolve import name_of
from lora_whisper.lora.saved import read_saved
from lora_whisper.lora.validation import require_fit, require_same_base, resolve_initial
from lora_whisper.lora.variants import lora_layers
from lora_whisper.model.checkpoint import Checkpoint, fingerprint, locate
from lora_whisper.run_folder import MARKER, RunFolder
from tests.configs import adapter_config, model_config
from tests.lora.test_delta_weights import close, deltas, filled, stock
from tests.toys import (
    MEL_BINS,
    POSITIONS_PER_SECOND,
    WINDOW_SECONDS,
    toy_checkpoint,
    toy_config,
    toy_inputs,
    toy_model,
)

TOKENS = (264, 265)
LANGUAGES = {"zh": 264, "de": 265}
BASE = Checkpoint("owner/toy", None, "owner/toy")


def config(kind: str = "lora", **changes: Any) -> AdapterConfig:
    return adapter_config(kind, **({"rank": 6, "alpha": 12} | changes))


def fresh(given: AdapterConfig, tokens: tuple[int, ...] = ()) -> PeftModel:
    return attach(toy_model(), given, "none", False, 0, tokens).eval()


def saved(folder: Path, tokens: tuple[int, ...] = (), **changes: Any) -> PeftModel:
    """An adapter of rank 4 that a run of ours left in `folder`."""
    model = filled(fresh(config(**({"rank": 4, "alpha": 6} | changes)), tokens))
    save_adapter(model, folder, BASE)
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**toy_inputs()).logits


# ── what training begins with ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["lora", "rslora"])
@pytest.mark.parametrize("source", ["lora", "rslora", "dropped"])
def test_training_begins_with_what_was_saved(kind, source, tmp_path):
    before = saved(tmp_path, targets="attention" if source == "dropped" else "all-linear")
    model = fresh(config(kind))
    initialize_from(model, tmp_path)
    torch.testing.assert_close(logits(model), logits(before), atol=1e-5, rtol=0)
    assert (logits(model) - logits(toy_model())).abs().max() > 0.1
    found, expected = deltas(delta_weights_of(model)), deltas(delta_weights_of(before))
    assert not any(delta.any() for path, delta in found.items() if path not in expected)
    close({path: found[path] for path in expected}, expected)


def test_the_other_rows_stay_as_they_were_drawn_and_their_columns_zero(tmp_path):
    """They add nothing yet, and can learn: what was drawn for A is not zero."""
    saved(tmp_path)
    model, untouched = fresh(config()), adapter_parameters(fresh(config()))
    initialize_from(model, tmp_path)
    for name, value in adapter_parameters(model).items():
        if "lora_A" in name:
            assert torch.equal(value[4:], untouched[name][4:])
            assert value[4:].any(dim=1).all()
        else:
            assert not value[:, 4:].any()
            assert value[:, :4].any()


def test_a_start_of_the_same_shape_and_scale_is_taken_to_the_bit(tmp_path):
    before = adapter_parameters(saved(tmp_path, rank=6, alpha=12))
    model = fresh(config())
    initialize_from(model, tmp_path)
    for name, value in adapter_parameters(model).items():
        assert torch.equal(value, before[name])


def test_token_embeddings_are_taken_too(tmp_path):
    before = saved(tmp_path, tokens=TOKENS[1:])
    model = fresh(config(), TOKENS)
    initialize_from(model, tmp_path, TOKENS)
    start, end = (delta_weights_of(one).embeddings for one in (before, model))
    assert torch.equal(end[265], start[265])
    assert torch.equal(end[264], toy_model().proj_out.weight[264])


def test_an_adapter_that_stock_peft_saved_with_patterns_is_a_start(tmp_path):
    path = "model.encoder.layers.0.fc1"
    before = stock(lora_alpha=6, rank_pattern={path: 3}, alpha_pattern={path: 5})
    before.save_pretrained(tmp_path)
    model = fresh(config())
    initialize_from(model, tmp_path)
    torch.testing.assert_close(logits(model), logits(before), atol=1e-5, rtol=0)


# ── what is said before anything is loaded ───────────────────────────────────────────────────


def fit(folder: Path, given: AdapterConfig, tokens: tuple[int, ...] = ()) -> None:
    require_fit(read_saved(folder), given, toy_config(), LANGUAGES, tokens)


def test_what_has_room_is_let_through(tmp_path):
    saved(tmp_path, tokens=TOKENS[:1], targets="attention", layers="decoder.1")
    fit(tmp_path, config(), TOKENS)


WANTED = {
    "rank": ({}, {"rank": 2}, "adapter.rank=4"),
    "targets": ({}, {"targets": "attention-qv"}, "adapter.targets=all-linear"),
    "attention": (
        {"targets": "attention"},
        {"targets": "attention-qv"},
        "adapter.targets=attention",
    ),
    "stack": ({}, {"layers": "decoder"}, "adapter.layers=all"),
    "layers": ({}, {"layers": "encoder.1-+decoder"}, "adapter.layers=all"),
    "decoder's rank": ({}, {"decoder_rank": 3}, "adapter.decoder_rank=4"),
    "rank of the encoder only": (
        {"layers": "encoder"},
        {"rank": 3, "decoder_rank": 2},
        "adapter.rank=4",
    ),
    "several": (
        {"decoder_rank": 8},
        {"rank": 2, "layers": "encoder.0"},
        "adapter.rank=8 adapter.layers=all",
    ),
}


@pytest.mark.parametrize(("before", "now", "typed"), WANTED.values(), ids=WANTED)
def test_what_has_no_room_is_refused_with_what_to_type(before, now, typed, tmp_path):
    saved(tmp_path, **before)
    with pytest.raises(UserError, match="does not fit") as raised:
        fit(tmp_path, config(**now))
    *_, last = str(raised.value).splitlines()
    assert sorted(last.removeprefix("Type ").split()) == sorted(typed.split())
    settings: dict[str, Any] = {}
    for setting in typed.replace("adapter.", "").split():
        name, _, value = setting.partition("=")
        settings[name] = int(value) if value.isdigit() else None if value == "null" else value
    fit(tmp_path, config(**now | settings))


def test_a_trained_token_that_would_be_lost_is_refused(tmp_path):
    saved(tmp_path, tokens=TOKENS[:1])
    with pytest.raises(UserError, match=r"embedding of the token 264 \(zh\)") as raised:
        fit(tmp_path, config())
    assert "adapter.train_language_token=true data.language_token=zh" in str(raised.value)
    fit(tmp_path, config(), TOKENS[:1])


def test_the_output_projection_is_said_to_be_the_embeddings(tmp_path):
    config_of_others = LoraConfig(r=4, target_modules=["q_proj", "proj_out"])
    get_peft_model(toy_model(), config_of_others).save_pretrained(
        tmp_path, save_embedding_layers=False
    )
    with pytest.raises(UserError, match="proj_out: it is the embeddings again") as raised:
        fit(tmp_path, config())
    assert "Type" not in str(raised.value)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A complete run on the toy checkpoint."""
    folder = RunFolder(tmp_path / "run")
    checkpoint = locate(model_config(toy_checkpoint(tmp_path / "toy")))
    save_adapter(filled(fresh(config())), folder.adapter, checkpoint)
    folder.config.write_text(MARKER)
    write_json(folder.summary, {"checkpoint_fingerprint": fingerprint(checkpoint)})
    return folder


def test_a_run_and_its_adapter_are_the_same_start(run):
    assert resolve_initial(str(run.path)) == resolve_initial(str(run.adapter)) == run.adapter


def test_a_start_is_named_without_its_place(run):
    assert name_of(str(run.path)) == name_of(str(run.adapter)) == "run"


def test_what_is_no_start_is_named(run, tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        resolve_initial(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no adapter"):
        resolve_initial(str(tmp_path))
    run.summary.unlink()
    with pytest.raises(UserError, match="this run is unfinished"):
        resolve_initial(str(run.path))


def test_a_run_s_base_is_known_by_its_weights_wherever_they_lie(run, tmp_path):
    start = read_saved(run.adapter)
    (tmp_path / "toy").rename(tmp_path / "moved")
    require_same_base(start, locate(model_config(tmp_path / "moved")))
    other = toy_checkpoint(tmp_path / "toy", seed=1)  # where it lay when the adapter was trained
    with pytest.raises(UserError, match="trained on other weights"):
        require_same_base(start, locate(model_config(other)))


def test_other_adapters_name_their_base(tmp_path):
    saved(tmp_path)
    start = read_saved(tmp_path)
    require_same_base(start, BASE)
    require_same_base(start, Checkpoint("owner/toy", "main", "owner/toy"))
    for revision, name in ("v2", "owner/toy"), (None, "owner/other"):
        with pytest.raises(UserError, match=r"trained on owner/toy \(main\)") as raised:
            require_same_base(start, Checkpoint(name, revision, name))
        assert "Type model.checkpoint=" in str(raised.value)


def test_a_base_of_which_nobody_knows_is_not_another_base(tmp_path, caplog):
    """A folder may hold what the hub calls by its id, or what has moved."""
    saved(tmp_path)
    require_same_base(read_saved(tmp_path), Checkpoint("/a/toy", None, "a/toy"))
    assert "it names owner/toy (main), this is /a/toy" in caplog.text


def test_the_headers_alone_say_what_is_saved(tmp_path):
    saved(tmp_path, tokens=TOKENS, targets="attention-qv", layers="encoder")
    found = read_saved(tmp_path)
    assert found.tokens == TOKENS
    assert dict(found.ranks) == {
        f"model.encoder.layers.{layer}.self_attn.{name}": 4
        for layer in (0, 1)
        for name in ("q_proj", "v_proj")
    }
    assert found.config == json.loads((tmp_path / "adapter_config.json").read_text())


# ── EVA ───────────────────────────────────────────────────────────────────────────────────────────


RANK, POSITIONS = 4, WINDOW_SECONDS * POSITIONS_PER_SECOND
SOUND = ("encoder.layers.1.fc1", "decoder.layers.0.encoder_attn.k_proj")
TEXT = ("decoder.layers.1.fc2", "decoder.layers.0.self_attn.q_proj")


def windows(count: int = 12, seed: int = 0, silence: float = 0.0) -> list[WatchedWindow]:
    """Clips of very unequal lengths; `silence` is what stands behind the sound."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        positions = 20 + 6 * number
        features = torch.randn(MEL_BINS, 2 * POSITIONS, generator=generator)
        features[:, 2 * positions :] = silence
        tokens = torch.randint(0, 256, (8 + 3 * number,), generator=generator)
        found.append(WatchedWindow(features, tokens, positions))
    return found


def started(found: list[WatchedWindow], of: str = "eva", **changes: Any) -> dict[str, Tensor]:
    """The rows of A that the adapter starts with, by layer."""
    config = adapter_config(of, **({"rank": RANK} | changes))
    model = attach(toy_model(), config, "none", False, 0, inputs=lambda: found)
    return {path: layer.lora_A["default"].weight for path, layer in lora_layers(model).items()}


def inputs_of(path: str, found: list[WatchedWindow]) -> Tensor:
    """All inputs (rows, inputs) of a layer, one window at a time and without what is padded."""
    model, rows = toy_model(), []
    layer = model.model.get_submodule(path)
    layer.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0][0]))
    for window in found:
        with torch.no_grad():
            model(
                input_features=window.features[None],
                decoder_input_ids=window.decoder_input[None],
                use_cache=False,
            )
        if path in SOUND:
            rows[-1] = rows[-1][: window.positions]
    return torch.cat(rows)


def explained(inputs: Tensor, directions: Tensor) -> float:
    """Share of the inputs' variance that lies in the span of these rows."""
    centred = inputs - inputs.mean(dim=0)
    return float((centred @ directions.T).square().sum() / centred.square().sum())


@pytest.mark.parametrize("path", [*SOUND, *TEXT])
def test_the_rows_of_a_explain_as_much_as_any_can(path: str) -> None:
    found = windows()
    inputs = inputs_of(path, found)
    _, _, best = torch.linalg.svd(inputs - inputs.mean(dim=0), full_matrices=False)
    rows = started(found)[f"model.{path}"].detach()
    torch.testing.assert_close(rows @ rows.T, torch.eye(RANK), atol=1e-4, rtol=0)
    assert explained(inputs, rows) > 0.97 * explained(inputs, best[:RANK])
    random_rows, _ = torch.linalg.qr(torch.randn(rows.shape[1], RANK))
    assert explained(inputs, rows) > explained(inputs, random_rows.T) + 0.1


def test_every_layer_starts_from_directions_and_keeps_its_rank() -> None:
    drawn = started([], of="lora")
    for path, rows in started(windows(), encoder_rank=2).items():
        assert len(rows) == (2 if ".encoder." in path else RANK)
        assert not torch.equal(rows, drawn[path][: len(rows)])
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)), atol=1e-4, rtol=0)


def test_the_same_windows_give_the_same_start() -> None:
    first, second = started(windows()), started(windows())
    assert all(torch.equal(rows, second[path]) for path, rows in first.items())


def test_without_windows_it_starts_as_lora_does() -> None:
    """As a run does that goes on: its matrices come from a checkpoint."""
    model = attach(toy_model(), adapter_config("eva", rank=RANK), "none", False, 0)
    drawn = started([], of="lora")
    for path, layer in lora_layers(model).items():
        assert torch.equal(layer.lora_A["default"].weight, drawn[path])


@pytest.mark.parametrize(
    ("count", "rank", "message"),
    [
        (1, 8, r"needs 16 tokens of text, found 8 in 1 windows.*adapter\.rank"),
        (0, 4, "found 0 in 0 windows"),
        (12, 9, r"up to 8 directions.*rank is 9.*adapter\.rank"),
    ],
)
def test_too_little_for_the_rank_says_what_to_type(count: int, rank: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        started(windows(count), rank=rank)


def test_windows_are_not_asked_for_by_other_kinds() -> None:
    def never() -> Iterator[WatchedWindow]:
        raise AssertionError("decoding audio for nothing")

    attach(toy_model(), adapter_config(rank=RANK), "none", False, 0, inputs=never)


# ── PiSSA ─────────────────────────────────────────────────────────────────────────────────────────


def pissa(initial: dict[str, Tensor] | None = None, dtype: torch.dtype = torch.float32) -> Any:
    config = adapter_config("pissa", rank=RANK, alpha=6.0)
    return attach(toy_model().to(dtype), config, "none", False, 0, initial=initial).eval()


def start_of(model: PeftModel, folder: Path) -> dict[str, Tensor]:
    """The start, written and read."""
    start = {name: value.detach() for name, value in adapter_parameters(model).items()}
    save_file(start, folder / INITIAL_FILE)
    found = read_initial(folder / INITIAL_FILE)
    assert found is not None
    return found


def test_the_start_is_peft_s() -> None:
    config = LoraConfig(
        r=RANK, lora_alpha=6, target_modules=["fc1", "q_proj"], init_lora_weights="pissa"
    )
    stock, ours = lora_layers(get_peft_model(toy_model(), config)), lora_layers(pissa())
    for path, layer in stock.items():
        for name, value in layer.named_parameters():
            found = ours[path].get_parameter(name)
            torch.testing.assert_close(found, value, atol=1e-6, rtol=0, msg=f"{path} {name}")


def test_a_bfloat16_base_starts_off_by_the_rounding_of_the_rest_alone() -> None:
    """Half a unit in the last of bfloat16's 8 binary digits."""
    whole = dict(toy_model().bfloat16().named_modules())
    for path, layer in lora_layers(pissa(dtype=torch.bfloat16)).items():
        weight = whole[path].weight.float()
        rest, taken = layer.get_base_layer().weight.float(), layer.get_delta_weight("default")
        allowed = (weight - taken).abs() * 2**-8 + 1e-6
        assert ((rest + taken - weight).abs() <= allowed).all()


def test_the_largest_singular_values_are_trained_and_the_others_are_frozen() -> None:
    whole = dict(toy_model().named_modules())
    for path, layer in lora_layers(pissa()).items():
        values = torch.linalg.svdvals(whole[path].weight)
        trained = torch.linalg.svdvals(layer.get_delta_weight("default"))[:RANK]
        frozen = torch.linalg.svdvals(layer.get_base_layer().weight)
        torch.testing.assert_close(trained, values[:RANK], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(frozen[: len(values) - RANK], values[RANK:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_that_goes_on_has_the_same_weights_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    first = pissa(dtype=dtype)
    initial = start_of(first, tmp_path)
    monkeypatch.setattr(torch.linalg, "svd", None)  # another machine's may differ
    second = pissa(initial, dtype).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.state_dict().items())


def test_there_is_no_start_where_none_was_written(tmp_path: Path) -> None:
    assert read_initial(tmp_path / INITIAL_FILE) is None


def test_an_untrained_adapter_adds_nothing(tmp_path: Path) -> None:
    model = pissa()
    matrices = delta_weights_of(model, start_of(model, tmp_path)).matrices
    assert max((b @ a).abs().max().item() for a, b in matrices.values()) < 1e-5


def test_the_change_ships_at_twice_the_rank_and_fits_the_whole_base(tmp_path: Path) -> None:
    model = pissa()
    initial = start_of(model, tmp_path)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in adapter_parameters(model).values():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
        trained = model(**toy_inputs()).logits
        save_adapter(model, tmp_path, BASE, initial)
        shipped = PeftModel.from_pretrained(toy_model(), tmp_path)(**toy_inputs()).logits
    assert set(read_saved(tmp_path).ranks.values()) == {2 * RANK}
    torch.testing.assert_close(shipped, trained, atol=1e-5, rtol=0)


def test_a_rank_over_the_number_of_components_says_what_to_type() -> None:
    with pytest.raises(UserError, match=r"has 16 components.*rank is 17.*adapter\.rank"):
        attach(toy_model(), adapter_config("pissa", rank=17), "none", False, 0)
