"""What `merge` folds into what: every adapter, its weight, and the base, checked before the first
byte is written.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_whisper.config import MergeConfig, ModelConfig, in_own_dtype
from lora_whisper.errors import UserError
from lora_whisper.files import as_written
from lora_whisper.lora.provenance import (
    named_base,
    require_base,
    require_trained_adapter,
    trained_hashes,
)
from lora_whisper.lora.resolve import name_of, resolve_adapter, resolve_run
from lora_whisper.lora.saved import CONFIG_FILE, adapter_hashes, open_adapter, read_saved
from lora_whisper.lora.validation import require_shapes, shapes_of_weights
from lora_whisper.model.checkpoint import fingerprint, locate, merged_hashes, weight_files
from lora_whisper.model.weights import TIED, read_shapes
from lora_whisper.paths import file_name, plain_name, program
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import (
    MERGED_FILES,
    RECIPE_FILE,
    RunFolder,
    read_whole_summary,
    require_own_place,
)

log = logging.getLogger("lora_whisper")

ANOTHER_BASE = (
    "What it adds means nothing there. Type base=… with the base that it was trained on, or "
    "force=true to merge it all the same."
)


@dataclass(frozen=True)
class WeightedAdapter:
    """One of the adapters that are merged."""

    name: str  # of its run or folder, or its hub id
    folder: Path
    weight: float  # of what it adds, the scale of all included

    def hashes(self) -> dict[str, str]:
        """Of its tensors, and of the settings by which they are scaled."""
        found = adapter_hashes(self.folder)
        return {"sha256": found["adapter"], "settings_sha256": found["adapter_settings"]}


@dataclass(frozen=True)
class Recipe:
    """All that decides on the merged weights."""

    adapters: tuple[WeightedAdapter, ...]
    base: ModelConfig
    into: str
    dtype: str
    folder: RunFolder  # in which merged/ is put; not always a run

    def to_dict(self) -> dict[str, Any]:
        """As it is written beside the weights: no path, but what names the files exactly."""
        checkpoint = locate(self.base)
        return {
            "adapters": [
                {"name": one.name, "weight": one.weight} | one.hashes() for one in self.adapters
            ],
            "base": {"name": file_name(checkpoint.name), "fingerprint": fingerprint(checkpoint)},
            "into": self.into,
            "dtype": self.dtype,
        }


def read_recipe(
    config: MergeConfig, is_unfinished: Callable[[Recipe], bool] = lambda _: False
) -> Recipe:
    """Find the adapters and their base, and see that they belong together.

    Args:
        is_unfinished: whether what lies in merged/ only waits for its score.

    Raises:
        UserError: something is not there, is of another base, or does not fit; or a merged folder
            would be replaced unasked.
    """
    recipe = _of_run(config) if config.run else _of_adapters(config)
    if recipe.folder.merged.exists() and not (config.overwrite or is_unfinished(recipe)):
        raise UserError(f"{recipe.folder.merged} exists. Type overwrite=true to replace it.")
    named_in = ""
    if config.base is None:  # nobody typed it
        first = f"{CONFIG_FILE} of {recipe.adapters[0].name}"
        named_in = str(recipe.folder.config) if config.run else first
    checkpoint = locate(recipe.base, key="base", named_in=named_in)
    shapes = read_shapes(weight_files(checkpoint))
    shapes.pop(TIED, None)  # an adapter on it would untie it from the embeddings
    for adapter in recipe.adapters:
        saved = open_adapter(adapter.folder)
        require_shapes(saved, shapes_of_weights(shapes))
        require_base(saved, adapter.name, checkpoint, ANOTHER_BASE, config.force)
    return recipe


def merged_recipe(folder: RunFolder) -> dict[str, Any] | None:
    """What merged/ says that it was made of; None: it says nothing, or is not there.

    Raises:
        UserError: what it says was damaged or edited since; what to type.
    """
    path = folder.merged / RECIPE_FILE
    if not path.is_file():
        return None
    recipe = as_written(path, {"adapters"})
    adapters = recipe["adapters"] if recipe is not None else None
    if isinstance(adapters, list) and all(
        isinstance(one, dict) and "sha256" in one for one in adapters
    ):
        return recipe
    raise UserError(f"{path} is not what was written there.\nType {merge_again(folder)}")


def merge_again(folder: RunFolder) -> str:
    """What brings back a merged folder."""
    if not folder.is_run():
        return "the merge command that made it, and overwrite=true"
    return f"{program()} merge {shlex.quote(f'run={folder.path}')} overwrite=true"


def has_other_weights(
    folder: RunFolder, scored: Mapping[str, Any] | None, weights: Mapping[str, Any]
) -> bool:
    """Whether the recipe in merged/ is the one that was scored, and the weights beside it are not.

    With another recipe, a merge was killed before it could forget the score of the one before.

    Args:
        scored: the recipe, as summary.json has it.
        weights: hashes of what was scored, which older scores lack, or have in part.
    """
    recipe = merged_recipe(folder)
    if recipe is None or recipe != scored:
        return False
    there = merged_hashes(folder.merged)
    return any(
        weights[key] != there.get(key) for key in weights.keys() & {"checkpoint", "settings"}
    )


def require_current(folder: RunFolder) -> None:
    """See that a run's merged model was made of the adapter beside it.

    Raises:
        UserError: it was made of another, or by a version that did not say of which; or other
            weights were put there since.
    """
    summary = read_whole_summary(folder)
    score = summary.get("merged") or {}
    if has_other_weights(folder, summary.get("merge"), score.get("of", {}).get("weights", {})):
        raise UserError(
            f"{folder.merged} is not the model that was merged and scored there.\n"
            f"Type {merge_again(folder)}"
        )
    recipe = merged_recipe(folder)
    made_of = recipe["adapters"] if recipe else []
    own = trained_hashes(folder) or adapter_hashes(folder.adapter)
    settings = own.get("adapter_settings")  # which older runs and recipes lack
    if "adapter" in own and not any(
        one["sha256"] == own["adapter"] and settings in (None, one.get("settings_sha256", settings))
        for one in made_of
    ):
        raise UserError(
            f"{folder.merged} was not made of the adapter beside it, or by an older version.\n"
            f"Type {merge_again(folder)}"
        )


def require_whole_merged(folder: RunFolder) -> None:
    """See that a merged folder has all that programs and our exports read beside its weights.

    Raises:
        UserError: something is missing, or there is no folder.
    """
    merged = folder.merged
    missing = [name for name in (RECIPE_FILE, *MERGED_FILES) if not (merged / name).is_file()]
    if missing:
        what = f"lacks {', '.join(missing)}" if merged.is_dir() else "is no folder"
        raise UserError(f"{merged} {what}.\nType {merge_again(folder)}")


def is_same(written: Mapping[str, Any], recipe: Mapping[str, Any]) -> bool:
    """Whether what stands in a file is this recipe; older files say nothing of settings."""
    known = written.get("adapters", [])
    if not all("settings_sha256" in part for part in known):
        adapters = [
            {key: value for key, value in part.items() if key != "settings_sha256"}
            for part in recipe["adapters"]
        ]
        recipe = {**recipe, "adapters": adapters}
    return written == recipe


def is_whole(made_of: Mapping[str, Any]) -> bool:
    """Whether a recipe is that of one whole adapter in the full weights of its base."""
    return made_of["into"] == "full" and [one["weight"] for one in made_of["adapters"]] == [1.0]


def _of_run(config: MergeConfig) -> Recipe:
    assert config.run is not None
    run = resolve_run(config.run, "merge")
    require_trained_adapter(run)
    trained = read_config(run)
    kind = trained.quantization.kind
    if config.into == "nf4-dequantized" and kind != "nf4":
        raise UserError(
            f"into=nf4-dequantized: the run was trained with quantization={kind}, so that its "
            "adapter has never met weights of nf4.\nType into=full."
        )
    model = replace(trained.model, allow_pickle=config.allow_pickle or trained.model.allow_pickle)
    adapter = WeightedAdapter(run.path.name, run.adapter, config.scale)
    if config.base is not None:
        model = replace(model, checkpoint=config.base, revision=None)
    return Recipe((adapter,), model, config.into, config.dtype, run)


def _of_adapters(config: MergeConfig) -> Recipe:
    count = len(config.adapters)
    adapters = [
        WeightedAdapter(
            name_of(one.path),
            resolve_adapter(one.path, "adapter", config.allow_pickle),
            config.scale * (1 / count if one.weight is None else one.weight),
        )
        for one in config.adapters
    ]
    first = read_saved(adapters[0].folder)
    base = (config.base, None) if config.base else named_base(first)
    model = in_own_dtype(*base, allow_pickle=config.allow_pickle)
    folder = RunFolder(Path("outputs") / (config.name or plain_name(Path(adapters[0].name).name)))
    if folder.is_run():
        raise UserError(
            f"{folder.path} is a run, whose own adapter merged/ there would be taken for.\n"
            f"Type {shlex.quote(f'run={folder.path}')} to merge that, or name=… for another folder."
        )
    require_own_place(folder.path)
    if folder.path.exists() and not folder.path.is_dir():
        raise UserError(f"{folder.path} is there, and no folder. Type another name=…")
    return Recipe(tuple(adapters), model, config.into, config.dtype, folder)
