"""The commands that take trained models: `evaluate`, `merge`, `export`, `push`, `report`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import model_validator

from lora_whisper.config.evaluation import RescoringConfig, TestDataConfig, TestSetConfig
from lora_whisper.config.types import (
    OF_PICKLE,
    Dtype,
    HubId,
    Name,
    Scale,
    below_outputs,
    owner_and_name,
    require_one,
)
from lora_whisper.paths import local_path
from lora_whisper.schema import (
    Amount,
    Field,
    Flag,
    Listed,
    Misfit,
    Number,
    Seed,
    Share,
    Text,
    ValidationInfo,
    group,
    require,
    rule,
)


@group
class ModelsCommandConfig:
    """What `evaluate` and `merge` take alike."""

    run: Text | None = Field(
        None, description="folder that train wrote: its base, its adapter and its merged/"
    )
    base: Text | None = Field(
        None, description="a folder or hub id in place of the base that runs and adapters name"
    )
    allow_pickle: Flag = Field(False, description=OF_PICKLE)
    overwrite: Flag = Field(
        False, description="replace merged/, or a report that was asked for with other values"
    )


@group
class EvaluateConfig(ModelsCommandConfig):
    """All of `lora-whisper evaluate`."""

    models: Listed[Text] = Field(
        (),
        description='in place of run: "base", runs, adapters, checkpoints, CTranslate2 folders',
    )
    name: Name = Field(
        "evaluation",
        description="the report's folder below outputs/; with run=, evaluation is the run's own",
    )
    seed: Seed | None = Field(
        None,
        description="of intervals, samples, noise and drawn texts; null: the run's, or 1",
    )
    dtype: Dtype = Field(
        "auto",
        description="of checkpoints; auto: their own, but float32 for float16 on a CPU. Bases and "
        "adapters of runs are scored as they were trained",
    )
    data: TestDataConfig = Field(default_factory=TestDataConfig)
    sets: Listed[TestSetConfig] = Field(
        (), description="more test sets beside data.test, or instead of the run's own"
    )
    card: Flag = Field(
        False,
        description="also find out what was kept, lost and gained beside words: languages, "
        "timestamps, long recordings, silence, prompts, translation, punctuation; some 200 windows "
        "more of each model",
    )
    evaluation: RescoringConfig = Field(default_factory=RescoringConfig)

    @rule("models")
    @classmethod
    def _is_one_of_them(cls, models: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        require_one("run", models, info, "a run=… or models=[…], one of them")
        return models


# ── merge and export ─────────────────────────────────────────────────────────────────────────────


@group
class PartConfig:
    """One of the adapters that are merged together."""

    path: Text = Field(description="a run, an adapter's folder or a hub id")
    weight: Annotated[Number, Ge(-10), Le(10)] | None = Field(
        None, description="of what it adds; null: all parts the same, together 1"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_a_text(cls, values: Any) -> Any:
        """A text alone is the path."""
        return {"path": values} if isinstance(values, str) else values


@group
class MergeConfig(ModelsCommandConfig):
    """All of `lora-whisper merge`."""

    adapters: Listed[PartConfig] = Field(
        (), description="in place of run, adapter=…: one or several, for outputs/NAME/merged"
    )
    name: Text | None = Field(
        None,
        description="without run=: of the folder below outputs/; null: the adapter's own",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="of the merged weights"
    )
    scale: Scale = Field(1.0, description="of what the adapters add; 1 is all of it")
    into: Literal["full", "nf4-dequantized"] = Field(
        "full",
        description="the base's weights as they are, or as nf4 had them while the adapter was "
        "trained",
    )
    force: Flag = Field(
        False, description="merge into other weights than those that the adapter was trained on"
    )

    @rule("adapters")
    @classmethod
    def _go_together(
        cls, adapters: tuple[PartConfig, ...], info: ValidationInfo
    ) -> tuple[PartConfig, ...]:
        require_one("run", adapters, info, "a run=… or an adapter=…, one of them")
        are_alike = len({part.weight is None for part in adapters}) <= 1
        require(are_alike, "expected a weight of each adapter or of none", at="adapter")
        return adapters

    @rule("name")
    @classmethod
    def _is_of_a_folder(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is None:
            is_known = len(info.data.get("adapters", ())) <= 1
            require(is_known, "expected a name=… for what several adapters become")
        elif info.data.get("run"):
            raise Misfit("given, but with run=… the merged model goes into the run's folder")
        else:
            below_outputs(name)
        return name

    @rule("into")
    @classmethod
    def _is_of_a_run(cls, into: str, info: ValidationInfo) -> str:
        require(
            into == "full" or bool(info.data.get("run", True)),
            "nf4-dequantized takes a run=…, which knows how its base was quantized",
        )
        return into


Format = Literal["ctranslate2", "ggml", "onnx", "openai", "adapter"]
EXPORT_DTYPES: dict[str, tuple[str, ...]] = {  # of the written weights; the first is the usual one
    "ctranslate2": ("float16", "float32", "int8", "int8_float16"),
    "ggml": ("f16", "f32"),
    "onnx": ("float32", "float16"),
    "openai": ("float16", "float32"),
    "adapter": ("float32", "float16", "bfloat16"),
}


@group
class ParityConfig:
    """What is written is tried in the program that it is for, beside the model that was scored."""

    utterances: Amount = Field(32, description="of the test set, drawn; 0: it is not tried")
    tolerance: Share = Field(
        0.01,
        description="difference of the WER (or CER, where it leads) from the merged model's, as a "
        "fraction; over it, the exit code is 1",
    )


@group
class ExportConfig:
    """All of `lora-whisper export`."""

    run: Text = Field(description="folder that train wrote, or one that merge adapter=… did")
    format: Listed[Format] = Field(description="one or several")
    dtype: Text | None = Field(
        None, description="of the written weights; null: a format's usual one"
    )
    base: Text | None = Field(
        None, description="a folder in place of the run's base; format=adapter: its hub id"
    )
    overwrite: Flag = Field(False, description="replace what was exported before")
    data: TestDataConfig = Field(default_factory=TestDataConfig)
    parity: ParityConfig = Field(default_factory=ParityConfig)

    @rule("format")
    @classmethod
    def _are_formats(cls, format: tuple[Format, ...]) -> tuple[Format, ...]:
        require(bool(format), f"expected {' or '.join(EXPORT_DTYPES)}, found nothing")
        twice = sorted({name for name in format if format.count(name) > 1})
        require(not twice, f"{', '.join(twice)} stands there twice")
        return format

    @rule("dtype")
    @classmethod
    def _is_of_each_format(cls, dtype: str | None, info: ValidationInfo) -> str | None:
        formats = info.data.get("format", ()) if dtype is not None else ()
        unfit = [
            f"{name} has {', '.join(EXPORT_DTYPES[name])}, found {dtype}"
            for name in formats
            if dtype not in EXPORT_DTYPES[name]
        ]
        require(not unfit, "; ".join(unfit))
        return dtype

    @rule("base")
    @classmethod
    def _is_folder_or_on_the_hub(cls, base: str | None) -> str | None:
        return base if base is None or local_path(base).is_dir() else owner_and_name(base)

    def dtype_for(self, name: str) -> str:
        return self.dtype or EXPORT_DTYPES[name][0]


# ── push and report ──────────────────────────────────────────────────────────────────────────────


@group
class PushConfig:
    """All of `lora-whisper push`."""

    run: Text = Field(description="folder that train wrote")
    repo: HubId = Field(description="owner/name on the hub; it is made where it does not exist")
    what: Literal["adapter", "merged", "both"] = Field(
        "adapter", description="both: the adapter in a folder of that name"
    )
    private: Flag = Field(
        True,
        description="whether only its owner sees it; a repository that is there is not changed",
    )
    base: HubId | None = Field(
        None, description="hub id of the base, where it was trained from a folder"
    )
    dry_run: Flag = Field(False, description="print what would be sent, and send nothing")


@group
class ReportConfig:
    """All of `lora-whisper report`."""

    sweep: Text | None = Field(
        None, description="folder of a sweep, which may be typed without its key"
    )
    runs: Listed[Text] = Field((), description="or these: folders that train wrote")
    name: Name = Field("report", description="without sweep=: the report's folder below outputs/")
    overwrite: Flag = Field(False, description="replace a report of other runs")

    @rule("runs")
    @classmethod
    def _is_one_of_them(cls, runs: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        folder = "the folder of a sweep, such as outputs/sweeps/ranks"
        require_one("sweep", runs, info, f"{folder}, or runs=[…]")
        return runs
