"""The models that `evaluate` takes: what a name on the command line stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lora_whisper.config import (
    NOT_QUANTIZED,
    ModelConfig,
    QuantizationConfig,
    TrainConfig,
    in_own_dtype,
)
from lora_whisper.errors import UserError, listing
from lora_whisper.lora.provenance import is_trained_adapter, named_base, require_trained_adapter
from lora_whisper.lora.resolve import (
    adapters_below,
    is_adapter_on_hub,
    resolve_adapter,
    resolve_run,
)
from lora_whisper.lora.saved import CONFIG_FILE, UnsoundAdapter, read_saved
from lora_whisper.model.checkpoint import locate
from lora_whisper.paths import local_path, plain_name
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import RunFolder, existing_run, run_around

Kind = Literal["base", "adapter", "merged", "checkpoint", "ctranslate2"]
BASE = "base"  # in models=[…]: of the first run or adapter beside it


@dataclass(frozen=True)
class ModelEntry:
    """One of the models that are scored side by side."""

    name: str  # of its folder below evaluation/, and in every table
    what: str  # as it was given
    kind: Kind
    model: ModelConfig | None  # the checkpoint, or the base of the adapter; None: CTranslate2
    quantization: QuantizationConfig = NOT_QUANTIZED
    precision: str = "auto"  # of a run's arithmetic
    adapter: Path | None = None
    run: RunFolder | None = None  # that made it
    folder: Path | None = None  # of CTranslate2
    named_in: str = ""  # the file that names the base, where nobody typed it
    broken: str = ""  # why it cannot be scored, known before anything is loaded


def entries_of_run(path: str, base: str | None = None) -> list[ModelEntry]:
    """The base, the adapter and, where it was merged, the merged model of a complete run.

    Args:
        base: where its base lies now.

    Raises:
        UserError: there is no such run, it is unfinished, or another adapter lies in it.
    """
    run = resolve_run(path, "evaluate")
    adapter = on_base(_of_run(run, "adapter", path), base)
    entries = [_base_of(adapter), adapter]
    return [*entries, merged_of(run)] if run.merged.is_dir() else entries


def merged_of(run: RunFolder) -> ModelEntry:
    """A run's merged folder, loaded in its own dtype as whoever deploys it will."""
    model = in_own_dtype(str(run.merged.absolute()))
    return ModelEntry("merged", str(run.merged), "merged", model, run=run)


def on_base(adapter: ModelEntry, base: str | None) -> ModelEntry:
    """With its base where it lies now, if that was typed."""
    if base is None or adapter.model is None or adapter.kind != "adapter":
        return adapter
    model = replace(adapter.model, checkpoint=base, revision=None)
    return replace(adapter, model=model, named_in="")


def find_entries(
    names: Sequence[str], allow_pickle: bool = False, base: str | None = None
) -> list[ModelEntry]:
    """What each name of `models=[…]` stands for, in their order; an unsound adapter says so itself.

    Args:
        base: of all adapters, in place of those that they name.

    Raises:
        UserError: names all that stand for nothing, or for the same folder of results.
    """
    entries: list[ModelEntry | None] = []
    problems = []
    for name in names:
        try:
            entries.append(None if name == BASE else find_entry(name, allow_pickle, base))
        except UnsoundAdapter as error:
            entries.append(ModelEntry(Path(name).name, name, "adapter", None, broken=str(error)))
        except UserError as error:
            problems.append(f"{name}: {error}")
    adapters = [one for one in entries if one is not None and one.kind == "adapter" and one.model]
    if BASE in names and not adapters:
        problems.append("base: expected a run or an adapter beside it, whose base it is")
    if problems:
        problems += [f"{one.what}: {one.broken}" for one in entries if one and one.broken]
        raise UserError(f"models=[{','.join(names)}] cannot be used:\n{listing(problems)}")
    return _with_own_names([_base_of(adapters[0]) if one is None else one for one in entries])


def find_entry(name: str, allow_pickle: bool = False, base: str | None = None) -> ModelEntry:
    """What one name stands for; see `find_entries`."""
    return on_base(_found(name, allow_pickle, base), base)


def _found(name: str, allow_pickle: bool, base: str | None) -> ModelEntry:
    from lora_whisper.evaluation.decoding.ctranslate2 import is_ctranslate2

    path = local_path(name)
    run = RunFolder(path)
    if run.is_run():
        return _of_run(existing_run(name), path.name, name)
    if (path / CONFIG_FILE).is_file() or (not path.exists() and is_adapter_on_hub(name)):
        return _of_adapter(resolve_adapter(name, "models", allow_pickle), name, allow_pickle, base)
    if is_ctranslate2(path):
        return ModelEntry(path.name, name, "ctranslate2", None, folder=path)
    parent = RunFolder(path.parent)
    if path == parent.merged and parent.is_run():
        return replace(merged_of(existing_run(str(parent.path))), what=name)
    model = in_own_dtype(name, allow_pickle=allow_pickle)
    try:
        locate(model, key="models")
    except UserError as error:
        reason = str(error).removeprefix(f"models={name}").lstrip(": ")
        if (around := run_around(name)) is not None:
            raise UserError(f"this folder lies in a run. Type models=[{around}]") from error
        if below := adapters_below(path):
            typed = " or ".join(f"models=[{Path(name) / one.relative_to(path)}]" for one in below)
            raise UserError(f"an adapter lies below it. Type {typed}") from error
        is_none = reason.startswith("is no ")
        reason = reason.removeprefix("is ") if is_none else f"as a checkpoint: {reason}"
        raise UserError(f"no run, no adapter, no folder of CTranslate2, and {reason}") from error
    return ModelEntry(path.name, name, "checkpoint", model)


def _of_run(run: RunFolder, name: str, what: str) -> ModelEntry:
    require_trained_adapter(run)
    config = read_config(run)
    # The kernel that it was trained with may be missing here.
    here = replace(config, model=replace(config.model, attention="auto"))
    named_in = str(run.config)
    return replace(trained(here, name, run.adapter), what=what, run=run, named_in=named_in)


def trained(config: TrainConfig, name: str, adapter: Path | None) -> ModelEntry:
    """The adapter of a run, or without one its base, as it is stored while it trains."""
    return ModelEntry(
        name,
        config.model.checkpoint,
        "adapter" if adapter else "base",
        config.model,
        config.quantization,
        config.training.precision,
        adapter,
    )


def _of_adapter(folder: Path, what: str, allow_pickle: bool, base: str | None) -> ModelEntry:
    """An adapter alone; its own file says on which base it was trained."""
    run = RunFolder(folder.parent)
    if folder == run.adapter and run.is_run() and is_trained_adapter(run):
        return _of_run(existing_run(str(run.path)), run.path.name, what)
    saved = read_saved(folder)
    model = in_own_dtype(*((base, None) if base else named_base(saved)), allow_pickle=allow_pickle)
    name = local_path(what).name
    named_in = "" if base else f"{CONFIG_FILE} of {name}"
    return ModelEntry(name, what, "adapter", model, adapter=folder, named_in=named_in)


def _base_of(adapter: ModelEntry) -> ModelEntry:
    assert adapter.model is not None
    return replace(
        adapter, name=BASE, what=adapter.model.checkpoint, kind="base", adapter=None, run=None
    )


def _with_own_names(entries: Sequence[ModelEntry]) -> list[ModelEntry]:
    """Names that are folders; those of the same last part get the one before it as well."""
    names = [one.name for one in entries]
    named = [
        replace(one, name=plain_name("-".join(Path(one.what).parts[-2:])))
        if names.count(one.name) > 1 or (one.name == BASE and one.kind != "base")
        else replace(one, name=plain_name(one.name))
        for one in entries
    ]
    own = [one.name for one in named]
    twice = sorted({name for name in own if own.count(name) > 1})
    if twice:
        both = [one.what for one in named if one.name == twice[0]]
        if len({local_path(what) for what in both}) == 1:
            raise UserError(f"models: {twice[0]} stands there twice")
        raise UserError(
            f"models: {' and '.join(both)} would both be called {twice[0]}.\n"
            "Leave one out, or give one of the folders another name, such as by a symbolic link."
        )
    return named
