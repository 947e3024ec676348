"""What is transcribed with: a base or a merged model, and the adapters that go on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_whisper.config import NOT_QUANTIZED, Padding
from lora_whisper.errors import UserError
from lora_whisper.evaluation.models import ModelEntry, find_entry
from lora_whisper.lora.provenance import require_base
from lora_whisper.lora.resolve import name_of, resolve_adapter, resolve_run
from lora_whisper.lora.saved import open_adapter
from lora_whisper.lora.validation import require_shapes, shapes_of_weights
from lora_whisper.model.checkpoint import locate, weight_files
from lora_whisper.model.weights import TIED, read_shapes
from lora_whisper.options import composed, configuration_folder
from lora_whisper.paths import local_path
from lora_whisper.run_config import read_config

ADVICE = "Type base=… with the checkpoint that it was trained on, or leave it out."


@dataclass(frozen=True)
class LoadingPlan:
    """Files that belong together."""

    entry: ModelEntry  # a checkpoint, the base of the adapters, or a folder of CTranslate2
    adapters: dict[str, Path]  # by their names, in the order in which they were given
    padding: Padding


def find_models(
    run: str | None = None,
    model: str | None = None,
    adapters: Sequence[str] = (),
    base: str | None = None,
    allow_pickle: bool = False,
) -> LoadingPlan:
    """What is loaded; nothing is read but headers.

    Args:
        run: whose base and adapter are taken.
        model: or a checkpoint, a merged folder, a run, an adapter, a folder of CTranslate2.
        adapters: more of them, on the same base; without run and model, on that of the first.
        base: in place of the one that run or adapters name.

    Raises:
        UserError: something is not there, or does not belong together.
    """
    given = list(adapters)
    if run is not None:
        entry = find_entry(str(resolve_run(run, "transcribe").path), allow_pickle, base)
    elif model is not None:
        entry = _named("model", _checkpoint(model), allow_pickle, base)
    elif given:
        entry = _named("adapter", given.pop(0), allow_pickle, base)
        if entry.adapter is None:
            raise UserError(f"adapter={adapters[0]}: no adapter. Type model={adapters[0]}")
    else:
        raise UserError("expected a run=…, a model=… or an adapter=…")
    found = {name_of(entry.what): entry.adapter} if entry.adapter else {}
    found |= _named_apart(
        {name: resolve_adapter(name, "adapter", allow_pickle) for name in given}, found
    )
    if found and entry.kind == "ctranslate2":
        raise UserError(
            f"model={entry.what}: a folder of CTranslate2, into which no adapter goes. Type the "
            "checkpoint that it was made of, or export the run's merged model."
        )
    padding = read_config(entry.run).evaluation.padding if entry.run else "sound"
    plain = dataclasses.replace(entry, quantization=NOT_QUANTIZED, adapter=None)
    if entry.model is not None:
        _require_fit(plain, found)
    return LoadingPlan(plain, found, padding)


def _named(key: str, name: str, allow_pickle: bool, base: str | None) -> ModelEntry:
    try:
        return find_entry(name, allow_pickle, base)
    except UserError as error:
        said = str(error).replace("models=[", f"{key}=").replace("]", "")
        raise UserError(said if said.startswith(key) else f"{key}={name}: {said}") from error


def _checkpoint(model: str) -> str:
    """`small` is openai/whisper-small, as it is for `train`."""
    is_option = (configuration_folder() / "model" / f"{model}.yaml").is_file()
    if local_path(model).exists() or not is_option:
        return model
    return str(composed({"model": model})["model"]["checkpoint"])


def _named_apart(adapters: dict[str, Path], known: dict[str, Path]) -> dict[str, Path]:
    """By short names where those are all different, else as they were given."""
    short = [name_of(name) for name in adapters]
    taken = [*known, *short]
    return {
        name if taken.count(one) > 1 else one: folder
        for (name, folder), one in zip(adapters.items(), short, strict=True)
    }


def _require_fit(entry: ModelEntry, adapters: dict[str, Path]) -> None:
    """See that the checkpoint is there, and that each adapter is a change of it."""
    assert entry.model is not None
    checkpoint = locate(entry.model, key="base", named_in=entry.named_in)
    if not adapters:
        return
    shapes = read_shapes(weight_files(checkpoint))
    shapes.pop(TIED, None)
    for name, folder in adapters.items():
        saved = open_adapter(folder)
        require_shapes(saved, shapes_of_weights(shapes))
        require_base(saved, name, checkpoint, ADVICE)
