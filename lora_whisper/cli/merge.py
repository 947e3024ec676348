"""`lora-whisper merge`: fold an adapter into a fresh base, and score the result.

    lora-whisper merge run=outputs/mine
    lora-whisper merge adapter=somebody/whisper-small-sw
    lora-whisper merge 'adapter=[outputs/a,outputs/b]' name=both

The base is read anew in full precision, whatever the adapter was trained on, and what is scored is
the folder on disk, loaded as whoever deploys it will.
"""

from __future__ import annotations

import dataclasses
import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_whisper.cli.command import Command
from lora_whisper.config import EXPORT_DTYPES, MergeConfig, ModelConfig
from lora_whisper.data.corpus import sample
from lora_whisper.data.sources import read_split
from lora_whisper.data.speech import usable
from lora_whisper.evaluation.loading import load_model, weights_of
from lora_whisper.evaluation.models import merged_of
from lora_whisper.evaluation.results import Score
from lora_whisper.evaluation.run_summary import (
    is_unfinished,
    merged_recipe,
    read_as_written,
    write_summary,
)
from lora_whisper.evaluation.scoring import score_model
from lora_whisper.files import as_written, read_json, remove_folder
from lora_whisper.locks import locked
from lora_whisper.lora.recipe import Recipe, read_recipe
from lora_whisper.lora.resolve import resolve_run
from lora_whisper.model.base import read_base
from lora_whisper.paths import program
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import OWN_SET, RECIPE_FILE, RunFolder
from lora_whisper.terminal import megabytes

if TYPE_CHECKING:
    from lora_whisper.model.quantization import Nf4

log = logging.getLogger("lora_whisper")


@dataclass(frozen=True)
class MergePlan:
    """What is merged, and whether that is written anew."""

    config: MergeConfig
    recipe: Recipe


def prepare(config: MergeConfig, path: Path | None = None) -> MergePlan:
    """Find all that is merged, and see that it belongs together and replaces nothing unasked.

    Raises:
        UserError: see `read_recipe`; or the run's test set is gone.
    """
    if config.run:
        read_split(read_config(resolve_run(config.run, "merge")).data, "test")
    return MergePlan(config, read_recipe(config, is_unfinished))


def run(plan: MergePlan) -> None:
    """Write merged/; of a run, score it on its test set and bring up to date what the run says."""
    config, recipe = plan.config, plan.recipe
    place = recipe.folder
    with locked(place.path):
        if place.merged.exists() and is_unfinished(recipe) and not config.overwrite:
            log.info("merged      %s is there, and is scored now", place.merged)
        else:
            write_merged(recipe)
        _name_older_exports(place, config.base)
        _name_older_evaluation(place, config.base)
        if config.run:
            score_anew(place, recipe.base, config.base)
            return
    models = shlex.quote(f"models=[{place.merged}]")
    log.info("not scored  type %s evaluate %s data.test=… data.language=…", program(), models)


def write_merged(recipe: Recipe) -> None:
    """Fold the adapters in, tensor by tensor on the CPU, and write the folder."""
    import torch

    from lora_whisper.export.huggingface import write_model
    from lora_whisper.lora.merge import folded, read_change
    from lora_whisper.model.checkpoint import locate, weight_files
    from lora_whisper.model.weights import TIED, read_shapes

    checkpoint, dtype = locate(recipe.base), getattr(torch, recipe.dtype)
    files = weight_files(checkpoint)
    shapes = {name: shape for name, shape in read_shapes(files).items() if name != TIED}
    change = read_change([(one.folder, one.weight) for one in recipe.adapters])
    weights = folded(files, change, dtype, _nf4(recipe))
    merged, notes = recipe.folder.merged, {RECIPE_FILE: recipe.to_dict()}
    write_model(weights, shapes, dtype, checkpoint, merged, notes)
    size = sum(path.stat().st_size for path in merged.glob("*.safetensors"))
    log.info("merged      %s, %s in %s", merged, megabytes(size), recipe.dtype)


def _nf4(recipe: Recipe) -> Nf4 | None:
    """How the run's base was stored while it was trained on, if just that is asked for."""
    if recipe.into == "full":
        return None
    import torch

    from lora_whisper.model.device import choose_dtype
    from lora_whisper.model.quantization import Nf4

    config = read_config(recipe.folder)
    stored = read_json(recipe.folder.summary).get("base_dtype")  # which older runs lack
    dtype = (
        getattr(torch, stored)
        if stored
        else choose_dtype(config.model.dtype, config.training.precision)
    )
    return Nf4(dtype)


def _name_older_exports(place: RunFolder, base: str | None) -> None:
    """Say which exports are of a model that stood here before: they stay, and are not of this."""
    from lora_whisper.export.parity import PARITY_FILE

    made_of, older = merged_recipe(place), []
    for name in EXPORT_DTYPES:
        found = place.export / name / PARITY_FILE
        known = as_written(found)
        is_same = known is not None and known.get("merged") == made_of
        if found.parent.is_dir() and name != "adapter" and not is_same:
            older.append(name)
    if older:
        given = shlex.join([*_typed(place, base), f"format=[{','.join(older)}]"])
        log.warning(
            "older       %s in %s may be of a model that stood here before. Type %s export %s "
            "overwrite=true",
            ", ".join(older),
            place.export,
            program(),
            given,
        )


def _name_older_evaluation(place: RunFolder, base: str | None) -> None:
    """Say so where `evaluate` has scored a model that stood here before; its report stays."""
    from lora_whisper.model.checkpoint import fingerprint, locate

    known = as_written(place.results, {"models"})
    models = known["models"] if known else []
    scored = [one["fingerprint"] for one in models if one["kind"] == "merged"]
    merged = merged_of(place).model
    assert merged is not None, "a merged model is a checkpoint"
    if scored and fingerprint(locate(merged)) not in scored:
        log.warning(
            "older       %s is of a merged model that stood here before. Type %s evaluate %s",
            place.results,
            program(),
            shlex.join([*_typed(place, base), "overwrite=true"]),
        )


def _typed(place: RunFolder, base: str | None) -> list[str]:
    """The run, with the base that was typed for it: commands that are advised need it, too."""
    return [f"run={place.path}", *([] if base is None else [f"base={base}"])]


def _forget_score(folder: RunFolder) -> None:
    """Take away the scores of the model that stood here before.

    If scoring is interrupted, the old figures would be taken for those of the new one.
    """
    if (scores := folder.evaluation / "merged").exists():
        remove_folder(scores)
    summary = read_as_written(folder)
    write_summary(folder, dataclasses.replace(summary, merged=None, merge=merged_recipe(folder)))


def score_anew(folder: RunFolder, base: ModelConfig, given: str | None) -> None:
    """Score the merged model as base and adapter were, and bring up to date what the run says.

    Args:
        base: that it was made of, whose tokenizer it has.
        given: the same, if it was typed.
    """
    from lora_whisper.evaluation.run_summary import read_summary
    from lora_whisper.reports.run import write_results
    from lora_whisper.reports.summary import show_summary

    _forget_score(folder)
    summary = read_summary(folder)
    merged = _score(folder, base, given, summary.adapter)
    write_results(folder, dataclasses.replace(summary, merged=merged))
    show_summary(folder, given)


def _score(
    folder: RunFolder, model: ModelConfig, given: str | None, beside: Score | None
) -> Score | None:
    """Hear the run's test set, if it is still the one that the adapter's score is of."""
    from lora_whisper.evaluation.provenance import between, provenance
    from lora_whisper.model.device import new_accelerator

    config = read_config(folder)
    base = read_base(model)
    rows = read_split(config.data, "test")
    if rows is None:
        return None
    corpus = usable(rows, "test", config.data, base)
    merged, settings = merged_of(folder), config.evaluation
    chosen = sample(corpus.utterances, settings.max_utterances, config.seed)
    now = provenance(weights_of(merged), chosen, base.special_tokens, settings, config.seed)
    if changed := between(beside.of, now) if beside and beside.of else []:
        log.warning(
            "not scored  the test set is not what the adapter was scored on (%s). To score base, "
            "adapter and merged model on what it is now, type %s evaluate %s",
            ", ".join(changed),
            program(),
            shlex.join([*_typed(folder, given), "overwrite=true"]),
        )
        return None
    device = new_accelerator(config.training.precision).device
    return score_model(
        merged,
        load_model(merged, "auto", device),
        corpus.utterances,
        base,
        config,
        folder.evaluation / "merged" / OWN_SET,
    )


COMMAND = Command(
    "merge",
    MergeConfig,
    prepare,
    run,
    place=lambda plan: plan.recipe.folder.merged,
    aliases={"adapter": "adapters"},  # Hydra takes adapter= for a choice among conf/adapter/
)
