"""`lora-whisper export`: write the merged model for another program, and try it there.

    lora-whisper export run=outputs/mine format=ctranslate2
    lora-whisper export run=outputs/mine 'format=[ctranslate2,ggml]'
    lora-whisper export run=outputs/mine format=ctranslate2 dtype=int8 overwrite=true

What is written into outputs/NAME/export/FORMAT/ hears the run's test set in its own program, beside
base, adapter and merged model. A difference in WER that is over the tolerance is exit code 1.
"""

from __future__ import annotations

import dataclasses
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.cli.command import Command
from lora_whisper.config import (
    USUAL_SEED,
    EvaluationConfig,
    ExportConfig,
    MergeConfig,
    ModelConfig,
    Padding,
    TrainConfig,
    in_own_dtype,
)
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.sources import read_split
from lora_whisper.errors import UserError
from lora_whisper.evaluation.models import ModelEntry, entries_of_run, merged_of
from lora_whisper.evaluation.parity import ParityResult
from lora_whisper.evaluation.results import Json
from lora_whisper.evaluation.run_summary import is_unfinished, merged_recipe, read_summary
from lora_whisper.evaluation.test_sets import data_to_score
from lora_whisper.export.parity import (
    adapter_runtime,
    is_program,
    load_backend,
    load_runtime,
    module_of,
    padding_in,
    require_packages,
    why_untried,
)
from lora_whisper.files import as_written, write_json, write_whole, written_whole
from lora_whisper.locks import locked
from lora_whisper.lora.provenance import require_base, require_trained_adapter
from lora_whisper.lora.recipe import is_whole, read_recipe, require_current, require_whole_merged
from lora_whisper.lora.resolve import resolve_run
from lora_whisper.lora.saved import WEIGHTS_FILE, open_adapter
from lora_whisper.model.base import read_base
from lora_whisper.model.checkpoint import at_hand, locate, sha256
from lora_whisper.model.weights import require_range
from lora_whisper.paths import local_path, short
from lora_whisper.reports.model_card import CARD_FILE
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import METADATA_FILE, RunFolder, existing_run
from lora_whisper.terminal import console, megabytes

if TYPE_CHECKING:
    import torch

    from lora_whisper.evaluation.results import ScoredSet
    from lora_whisper.export.parity import Sample
    from lora_whisper.hub import HubBase

log = logging.getLogger("lora_whisper")

OPENAI_LAYOUT = {"ggml", "openai"}  # formats that hold what OpenAI's own models have, no more


@dataclass(frozen=True)
class Source:
    """What is exported: a run with its merged model, or a merged model alone."""

    folder: RunFolder
    trained: TrainConfig | None
    given: str | None  # where the run's base lies now, if it was typed

    @property
    def base(self) -> ModelConfig:
        """That the adapter was trained on."""
        assert self.trained is not None, "an adapter is exported of a run alone"
        model = self.trained.model
        if self.given is None:
            return model
        return dataclasses.replace(model, checkpoint=self.given, revision=None)

    def entries(self) -> Sequence[ModelEntry]:
        if self.trained is not None:
            return entries_of_run(str(self.folder.path), self.given)
        return [merged_of(self.folder)]


@dataclass(frozen=True)
class ExportPlan:
    """What is exported of what."""

    config: ExportConfig  # with the formats that are still to be written or tried
    source: Source
    asked: tuple[str, ...]  # all formats


def prepare(config: ExportConfig, path: Path) -> ExportPlan:
    """Find the run, its speech and the programs; see that nothing is replaced unasked.

    Raises:
        UserError: something is not there; what to type.
    """
    source, asked = _source(config), config.format
    config = _without_done(config, source)
    for name in config.format:
        require_packages(name)
        place = source.folder.export / name
        if place.exists() and not (config.overwrite or _is_untried(name, config, source)):
            raise UserError(f"{place} exists. Type overwrite=true to replace it.")
    if "adapter" in config.format:
        _base_of_adapter(config, source)
    _require_sound(config, source)
    if OPENAI_LAYOUT & set(config.format):
        _require_layout(source)
    if config.parity.utterances:
        _rows(config, source)
    return ExportPlan(config, source, asked)


def run(plan: ExportPlan) -> int:
    """Merge if need be, write each format, try each; the exit code is 1 where one is off."""
    config, source = plan.config, plan.source
    for name in sorted({*plan.asked} - {*config.format}):
        log.info("export      %s is there as it is asked for", source.folder.export / name)
    _merge_if_need_be(config, source)
    sample = _sample(config, source) if config.parity.utterances else None
    with locked(source.folder.path):
        for name in config.format:
            if _is_untried(name, config, source) and not config.overwrite:
                log.info("export      %s is there, and is tried now", source.folder.export / name)
            else:
                _write(name, config, source)
        if sample is None:
            log.warning("not tried   since parity.utterances=0: nobody knows what it hears")
            return 0
        return 0 if _try_all(config, source, sample) else 1


def _source(config: ExportConfig) -> Source:
    """The run, or the folder that `merge adapter=…` wrote.

    Raises:
        UserError: it is neither; another adapter lies in the run; or merged/ there is of another
            than the one beside it.
    """
    folder = RunFolder(Path(config.run).expanduser())
    if folder.is_run():
        folder = existing_run(config.run)
        require_trained_adapter(folder)
        if folder.merged.exists():
            require_current(folder)
            require_whole_merged(folder)
        trained = read_config(folder)
        return Source(folder, trained, _place_of_base(config, trained))
    if merged_recipe(folder) is not None:
        require_whole_merged(folder)
        if "adapter" in config.format:
            raise UserError(
                f"run={config.run}: a merged model alone, without the adapter that it was made of. "
                "format=adapter takes the run."
            )
        return Source(folder, None, None)
    return Source(resolve_run(config.run, "export"), None, None)  # says what is there


def _place_of_base(config: ExportConfig, trained: TrainConfig) -> str | None:
    """Where the base is read from, if not where the run had it.

    A hub id is what others call it, and is read where the run's own is gone.
    """
    own, given = trained.model, config.base
    if given is None or local_path(given).is_dir():
        return given
    return None if at_hand(own.checkpoint, own.revision) else given


def _is_to_be_merged(config: ExportConfig, source: Source) -> bool:
    """An adapter alone can be written without the model that it makes."""
    is_needed = config.parity.utterances > 0 or set(config.format) != {"adapter"}
    return is_needed and not source.folder.merged.is_dir()


def _require_sound(config: ExportConfig, source: Source) -> None:
    """See that what is needed of a run's adapter and base is there, and belongs together.

    Raises:
        UserError: the adapter is unsound; or the base is gone, or another one.
    """
    if source.trained is None:
        return
    saved = open_adapter(source.folder.adapter)
    with _written_without_its_base(config, source):
        if _is_to_be_merged(config, source):
            read_recipe(_merging(source), is_unfinished)
        elif config.parity.utterances:
            named_in = "" if source.given else str(source.folder.config)
            checkpoint = locate(source.base, key="base", named_in=named_in)
            if source.given is not None:
                name = source.folder.path.name
                advice = "Type base=… with the one that it was made on."
                require_base(saved, name, checkpoint, advice)


@contextmanager
def _written_without_its_base(config: ExportConfig, source: Source) -> Iterator[None]:
    """An adapter can be written where its base is not at hand; it cannot be tried there.

    Its name for others, which is typed as base=…, says nothing of a folder that was renamed.
    """
    from lora_whisper.reports.model_card import is_of_hub

    try:
        yield
    except UserError as error:
        if set(config.format) != {"adapter"} or not config.parity.utterances:
            raise
        assert source.trained is not None, "an adapter is exported of a run alone"
        place = local_path(source.trained.model.checkpoint)
        is_elsewhere = not (place.exists() or is_of_hub(read_summary(source.folder)))
        link = f"ln -s FOLDER {shlex.quote(str(place))}"
        again = f" To try it, let its base lie where the run had it: {link}" if is_elsewhere else ""
        raise UserError(
            f"{error}\nTo write the adapter without trying it, add parity.utterances=0.{again}"
        ) from error


def _require_layout(source: Source) -> None:
    """See that OpenAI's layout has a place for the model.

    Raises:
        UserError: it has none.
    """
    from lora_whisper.export.openai_whisper import read_dimensions
    from lora_whisper.model.checkpoint import snapshot

    merged = source.folder.merged
    read_dimensions(
        merged if merged.is_dir() else snapshot(locate(source.base, with_weights=False))
    )


def _merge_if_need_be(config: ExportConfig, source: Source) -> None:
    """Merge a run that was not merged yet, or finish what was interrupted."""
    from lora_whisper.cli import merge

    folder = source.folder
    if _is_to_be_merged(config, source):
        merge.run(merge.prepare(_merging(source)))
    elif source.trained is not None and folder.merged.is_dir():
        summary = read_summary(folder)
        if summary.adapter is not None and summary.merged is None:
            with locked(folder.path):
                merge.score_anew(folder, source.base, source.given)


def _merging(source: Source) -> MergeConfig:
    return MergeConfig(run=str(source.folder.path), base=source.given)


def _without_done(config: ExportConfig, source: Source) -> ExportConfig:
    """Without formats that an earlier call has written and tried, before it was killed."""
    done = [name for name in config.format if "scores" in _as_asked(name, config, source)]
    if config.overwrite or not done or len(done) == len(config.format):
        return config
    left = tuple(name for name in config.format if name not in done)
    return dataclasses.replace(config, format=left)


def _is_untried(name: str, config: ExportConfig, source: Source) -> bool:
    """Whether the export is there, just as it is asked for, and was not tried: it was killed."""
    found = _as_asked(name, config, source)
    return bool(config.parity.utterances and found) and "scores" not in found


def _as_asked(name: str, config: ExportConfig, source: Source) -> Json:
    """What parity.json says of an export that is there as it is asked for; empty: it is not."""
    from lora_whisper.export.parity import PARITY_FILE

    made_of = merged_recipe(source.folder)
    asked = {"format": name, "dtype": config.dtype_for(name), "merged": made_of}
    found = as_written(source.folder.export / name / PARITY_FILE, asked)
    return found if made_of and found and found | asked == found else {}


# ── writing ──────────────────────────────────────────────────────────────────────────────────


def _write(name: str, config: ExportConfig, source: Source) -> None:
    from lora_whisper.export.parity import PARITY_FILE

    dtype, place = config.dtype_for(name), source.folder.export / name
    with written_whole(place) as aside:
        if name == "adapter":
            _write_adapter(config, source, aside, dtype)
        else:
            require_range(sorted(source.folder.merged.glob("*.safetensors")), dtype)
            module_of(name).write(source.folder.merged, aside, dtype)
        write_json(aside / PARITY_FILE, _made(name, dtype, source))
    size_bytes = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    log.info("export      %s, %s in %s", place, megabytes(size_bytes), dtype)
    merged = in_own_dtype(str(source.folder.merged.absolute()))
    if name == "ctranslate2" and is_program(name, read_base(merged)):
        typed = f"faster_whisper.WhisperModel({str(short(place))!r}).transcribe(…)"
        console.print(f"in Python   {typed}", markup=False, soft_wrap=True)
    if name == "ggml":
        _show_quantizer(place)


def _show_quantizer(place: Path) -> None:
    """Not broken into lines, of which each would be a command of its own when it is pasted."""
    from lora_whisper.export.whisper_cpp import quantize_command

    console.print(f"smaller     {quantize_command(place)}", markup=False, soft_wrap=True)


def _made(name: str, dtype: str, source: Source) -> Json:
    """What parity.json says of an export that was not tried yet.

    An adapter can be written before anything is merged.
    """
    from lora_whisper.environment import versions

    made_of = merged_recipe(source.folder)
    return {"format": name, "dtype": dtype, "merged": made_of, "versions": versions()}


def _write_adapter(config: ExportConfig, source: Source, folder: Path, dtype: str) -> None:
    """The adapter with its card and its record, all of which name the base as others find it."""
    from lora_whisper.export.adapter import write
    from lora_whisper.hub import card_of, record_of

    run, summary = source.folder, read_summary(source.folder)
    base, name = _base_of_adapter(config, source)
    obstacles = write(run.adapter, name, base.revision, folder, dtype)
    for obstacle in obstacles:
        log.warning("vLLM        does not serve it: %s", obstacle)
    weights, record = folder / WEIGHTS_FILE, record_of(run, summary, base)
    record["adapter"] |= {"sha256": sha256(weights), "bytes": weights.stat().st_size}
    write_json(folder / METADATA_FILE, record)
    write_whole(folder / CARD_FILE, card_of(run, summary, base, "adapter").encode())


def _base_of_adapter(config: ExportConfig, source: Source) -> tuple[HubBase, str]:
    """The hub id by which others find the base, and its commit."""
    from lora_whisper.hub import hub_base, require_base_name

    summary = read_summary(source.folder)
    is_folder = config.base is not None and local_path(config.base).is_dir()
    base = hub_base(None if is_folder else config.base, summary)
    return base, require_base_name(base, summary)


# ── trying ───────────────────────────────────────────────────────────────────────────────────


def _try_all(config: ExportConfig, source: Source, sample: Sample) -> bool:
    """Try every export; return whether those that could be tried are close enough."""
    from lora_whisper.export.parity import PARITY_FILE, transcribe_by_models
    from lora_whisper.model.device import new_accelerator
    from lora_whisper.reports.parity import show_parity

    reasons = {name: why_untried(name, config.dtype_for(name)) for name in config.format}
    for name, reason in reasons.items():
        if reason:
            log.warning("not tried   %s: %s", name, reason)
    tried = [name for name, reason in reasons.items() if not reason]
    if not tried:
        return True
    entries = source.entries()
    device = new_accelerator(entries[0].precision).device
    usual = sample.settings.padding
    paddings = {padding_in(name, sample.base, usual) for name in tried}
    scored = transcribe_by_models(entries, sample, device, paddings)
    found = {}
    for name in tried:
        try:
            found[name] = _try(name, config, source, scored, sample, device)
        except UserError as error:  # the other formats may be sound
            log.error("broken      %s: %s", source.folder.export / name, error)
    if found:
        quantization = source.trained.quantization.kind if source.trained else "none"
        show_parity([*found.values()], quantization)
    for name, parity in found.items():
        if not parity.is_within:
            place = source.folder.export / name
            log.error("differs     %s is not what was measured; see its %s", place, PARITY_FILE)
    return len(found) == len(tried) and all(parity.is_within for parity in found.values())


def _try(
    name: str,
    config: ExportConfig,
    source: Source,
    scored: Mapping[Padding, Mapping[str, ScoredSet]],
    sample: Sample,
    device: torch.device,
) -> ParityResult:
    """Transcribe one export, and write what was found beside it."""
    from lora_whisper.export.parity import ADAPTER, MERGED, PARITY_FILE, compare

    place, dtype = source.folder.export / name, config.dtype_for(name)
    sample = sample.padded(padding_in(name, sample.base, sample.settings.padding))
    runtime = (
        adapter_runtime(place, source.base, device)
        if name == "adapter"
        else load_runtime(name, place, sample.base, device)
    )
    title, tolerance = f"{name} {dtype}", config.parity.tolerance
    made_of = merged_recipe(source.folder)
    assert made_of is not None, "an export is made of it"
    # Of an adapter that was merged in part, or into other weights, the merged model is another one.
    is_of_adapter = name == "adapter" and not is_whole(made_of)
    reference = ADAPTER if is_of_adapter else MERGED
    parity = compare(title, runtime, place, scored, sample, tolerance, reference)
    if not parity.is_within and is_program(name, sample.base):
        backend = load_backend(name, place, sample.base, device)
        below = compare(title, backend, place, scored, sample, tolerance, reference)
        parity = dataclasses.replace(parity, below=below)
    write_json(place / PARITY_FILE, _made(name, dtype, source) | parity.to_json())
    return parity


def _sample(config: ExportConfig, source: Source) -> Sample:
    """So many utterances of the test set that fit into the window."""
    from lora_whisper.data.corpus import load_corpus, sample, with_codes
    from lora_whisper.export.parity import Sample, greedily

    base = read_base(in_own_dtype(str(source.folder.merged.absolute())))
    data, rows = _rows(config, source)
    seed = source.trained.seed if source.trained else USUAL_SEED
    fitting = dataclasses.replace(data, long_audio="drop")
    corpus = load_corpus(rows, "test", fitting, base.window_seconds)
    chosen = sample(corpus.utterances, config.parity.utterances, seed)
    corpus = with_codes(dataclasses.replace(corpus, utterances=chosen), base.special_tokens)
    settings = source.trained.evaluation if source.trained else EvaluationConfig()
    return Sample(corpus.utterances, base, greedily(settings), seed)


def _rows(config: ExportConfig, source: Source) -> tuple[Any, Utterances]:
    data = data_to_score(config.data, source.trained)
    rows = read_split(data, "test") if data.test or data.path else None
    if rows is None:
        raise UserError(
            f"run={config.run}: there is no test set to try the export on. Type "
            "data.test=FILE.jsonl, or parity.utterances=0 to go without a trial"
        )
    return data, rows


COMMAND = Command(
    "export",
    ExportConfig,
    prepare,
    run,
    place=lambda plan: plan.source.folder.export / "+".join(sorted(plan.asked)),
)
