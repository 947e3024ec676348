"""Is what is deployed what was measured? An export beside the models that it comes from.

All transcribe the same utterances of the test set, greedily; the export does in the program that it
is for, and the others with the padding of that program. What has to agree is the WER, and the texts
show where it does not; what the other padding would cost stands beside it.

Where a program takes a model for granted that has Whisper's window of 30 seconds and one of its
three vocabularies, a model without them is given to what lies below the program: the same weights,
read and computed by the same code, but prompts, features and the choice of tokens are ours.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, get_args

from lora_whisper.config import EvaluationConfig, ModelConfig, Padding
from lora_whisper.data.audio import AudioError, read_audio
from lora_whisper.data.dataset import Utterance, Utterances, token_language
from lora_whisper.data.windows import BadAudio
from lora_whisper.evaluation.loading import EntryDecoder, transcribe_with_bar, weights_of
from lora_whisper.evaluation.models import ModelEntry
from lora_whisper.evaluation.parity import OtherPadding, ParityResult
from lora_whisper.evaluation.results import ScoredSet
from lora_whisper.model.base import Base, load_generation_config
from lora_whisper.model.checkpoint import sha256
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.terminal import work

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lora_whisper.evaluation.decoding.decoder import Decoder
    from lora_whisper.evaluation.decoding.transcribe import Transcriptions
    from lora_whisper.evaluation.results import ScoredUtterance


PARITY_FILE = "parity.json"  # in the export's folder
ADAPTER, MERGED = "adapter", "merged"
SHOWN_TEXTS = 20  # of those that differ
PADDINGS: tuple[Padding, ...] = get_args(Padding)


@dataclass(frozen=True)
class Sample:
    """What everybody transcribes, and how."""

    utterances: Utterances
    base: Base
    settings: EvaluationConfig
    seed: int

    def padded(self, padding: Padding) -> Sample:
        return dataclasses.replace(
            self, settings=dataclasses.replace(self.settings, padding=padding)
        )

    def scored(self, found: Transcriptions, weights: Mapping[str, Any]) -> ScoredSet:
        from lora_whisper.evaluation.score import score_set

        given = (self.base.special_tokens, self.settings, self.seed)
        return score_set(self.utterances, found, *given, weights)


def greedily(settings: EvaluationConfig) -> EvaluationConfig:
    """The settings that every program has: no beams, no second try, no timestamps."""
    return dataclasses.replace(
        settings,
        beams=1,
        temperature_fallback=False,
        timestamps=False,
        previous_text=False,
        group_by=(),
    )


def transcribe_by_models(
    entries: Sequence[ModelEntry],
    sample: Sample,
    device: torch.device,
    paddings: Collection[Padding],
) -> dict[Padding, dict[str, ScoredSet]]:
    """Base, adapter and merged model, by name; what they said before is taken from the cache.

    Args:
        paddings: of the programs; the base, which may take long, is transcribed with no other.
    """
    scored: dict[Padding, dict[str, ScoredSet]] = {padding: {} for padding in PADDINGS}
    for one in entries:
        decoder = EntryDecoder(one, "auto", device, reuse=True)
        try:
            for padding in PADDINGS if one.name in (ADAPTER, MERGED) else paddings:
                padded = sample.padded(padding)
                title = f"transcribing {one.name}, padded {padding}"
                found, _ = decoder.transcribe(
                    title, padded.utterances, padded.settings, padded.seed
                )
                scored[padding][one.name] = padded.scored(found, weights_of(one))
        finally:
            decoder.close()
    return scored


def compare(
    name: str,
    runtime: Runtime,
    place: Path,
    scored: Mapping[Padding, Mapping[str, ScoredSet]],
    sample: Sample,
    tolerance: float,
    reference: str = MERGED,
) -> ParityResult:
    """Transcribe the export, and compare it with the model that it has to agree with.

    Args:
        place: the export's folder.
        sample: padded as the program pads it.
        reference: the model that it has to agree with.
    """
    found = runtime.transcribe(sample.utterances, sample.settings, sample.seed)
    files = [one for one in place.rglob("*") if one.is_file() and one.name != PARITY_FILE]
    export = sample.scored(found, {"export": sha256(*sorted(files))})
    padding = sample.settings.padding
    models = scored[padding]
    measured = models[reference]
    rate = measured.score.leading
    difference = export.score.rate(rate) - measured.score.rate(rate)
    differing = _differing(measured, export)
    (other,) = (one for one in PADDINGS if one != padding)
    otherwise = scored[other][reference]
    return ParityResult(
        consumer=runtime.name,
        skipped=runtime.skipped,
        unusual=runtime.unusual,
        padding=padding,
        utterances=len(export.utterances),
        reference=reference,
        rate=rate,
        difference=difference,
        tolerance=tolerance,
        is_within=abs(difference) <= tolerance,
        identical=len(export.utterances) - len(differing),
        identical_share=1 - len(differing) / len(export.utterances),
        other_padding=OtherPadding(
            other,
            otherwise.score.rate(rate) - measured.score.rate(rate),
            len(measured.utterances) - len(_differing(measured, otherwise)),
        ),
        scores={model: one.score for model, one in models.items()} | {name: export.score},
        differing=tuple(
            {"row": ours.row, "reference": ours.reference}
            | {reference: ours.hypothesis, name: theirs.hypothesis}
            for ours, theirs in differing[:SHOWN_TEXTS]
        ),
    )


def _differing(one: ScoredSet, other: ScoredSet) -> list[tuple[ScoredUtterance, ScoredUtterance]]:
    """Utterances of which two models wrote different texts."""
    pairs = zip(one.utterances, other.utterances, strict=True)
    return [(ours, theirs) for ours, theirs in pairs if ours.hypothesis != theirs.hypothesis]


# ── the programs that exports are for, each as what transcribes utterances ────────────────────

PUBLISHED_SIZES = (51864, 51865, 51866)  # vocabularies of .en, of all before large-v3, and of it
PUBLISHED_SECONDS = 30.0

Transcribe = Callable[[Sequence[Utterance], EvaluationConfig, int], "Transcriptions"]


class Program(Protocol):
    """A program as people run it, with an export loaded."""

    name: str  # with its version

    def transcribe(
        self, samples: np.ndarray, language: str | None, task: str, **prompt: str
    ) -> str:
        """The text of mono audio at 16 kHz in float32.

        Args:
            language: Whisper's code; None for English-only models.
            task: transcribe or translate.
            prompt: what goes before the text, if anything.
        """
        ...


@dataclass(frozen=True)
class Runtime:
    """A program with an export in it."""

    name: str  # with its version
    transcribe: Transcribe
    skipped: str = ""  # the program that this is below, where the model is unusual
    unusual: str = ""  # in what


@dataclass(frozen=True)
class FormatRuntime:
    """Where a format's runtime is found: the module of `export`, and what stands in it."""

    shown: str
    backend_shown: str  # what lies below it
    package: str  # whose version is told
    padding: Padding  # of the program, behind clips that are shorter than its window
    module: str  # of `export`
    program: str | None  # class in it; None: what lies below knows of no Whisper
    backend: str | None  # None: `evaluation` has it


RUNTIMES = {
    "ctranslate2": FormatRuntime(
        "faster-whisper",
        "CTranslate2",
        "ctranslate2",
        "log-mel",
        "ctranslate2",
        program="FasterWhisperProgram",
        backend=None,
    ),
    "ggml": FormatRuntime(
        "whisper.cpp",
        "whisper.cpp",
        "pywhispercpp",
        "sound",
        "whisper_cpp",
        program="WhisperCppProgram",
        backend="WhisperCppBackend",
    ),
    "onnx": FormatRuntime(
        "ONNX Runtime",
        "ONNX Runtime",
        "onnxruntime",
        "sound",
        "onnx",
        program=None,  # it runs graphs
        backend="OnnxBackend",
    ),
    "openai": FormatRuntime(
        "openai-whisper",
        "openai-whisper",
        "openai-whisper",
        "log-mel",
        "openai_whisper",
        program="OpenAIWhisperProgram",
        backend="OpenAIWhisperBackend",
    ),
}


def padding_in(name: str, base: Base, usual: Padding) -> Padding:
    """How what runs a format pads short clips; `usual` where features are ours."""
    return RUNTIMES[name].padding if is_program(name, base) else usual


def module_of(name: str) -> ModuleType:
    """What writes a format and loads it again."""
    return importlib.import_module(f"lora_whisper.export.{RUNTIMES[name].module}")


def require_packages(name: str) -> None:
    """See that all packages of a format are installed; an adapter needs no others.

    Raises:
        UserError: one is missing; what to type.
    """
    if name in RUNTIMES:
        module_of(name).require_package()


def load_runtime(name: str, folder: Path, base: Base, device: torch.device) -> Runtime:
    """Load the export of a format in `folder` as its users do, if the model is one of theirs.

    Args:
        base: what its tokens and its window are.

    Raises:
        UserError: it does not load there.
    """
    runtime, unusual = RUNTIMES[name], unusual_in(base)
    if is_program(name, base):
        assert runtime.program is not None
        program = getattr(module_of(name), runtime.program).load(folder, str(device))
        return Runtime(program.name, lambda *given: _by_program(program, base, *given))
    below = load_backend(name, folder, base, device)
    is_skipped = runtime.program is not None
    return (
        dataclasses.replace(below, skipped=runtime.shown, unusual=unusual) if is_skipped else below
    )


def is_program(name: str, base: Base) -> bool:
    """Whether a format has a program that takes models like this one as they are."""
    return name in RUNTIMES and RUNTIMES[name].program is not None and not unusual_in(base)


def load_backend(name: str, folder: Path, base: Base, device: torch.device) -> Runtime:
    """Load the export into what lies below its program: the same weights, prompts of ours."""
    decoder = _decoder(name, folder, base, device)
    title = f"transcribing in {RUNTIMES[name].shown}"

    def transcribe_all(
        utterances: Sequence[Utterance], settings: EvaluationConfig, seed: int
    ) -> Transcriptions:
        return transcribe_with_bar(title, decoder, utterances, settings, seed)

    return Runtime(f"{RUNTIMES[name].backend_shown} {_version(name)}", transcribe_all)


def _version(name: str) -> str:
    if name != "ggml":
        return version(RUNTIMES[name].package)
    from lora_whisper.export.whisper_cpp import load_library

    return load_library().version()  # of whisper.cpp, not of the binding


def why_untried(name: str, dtype: str) -> str:
    """Why the installed program cannot run an export that another version can; "" where it can."""
    if name != "ggml":
        return ""
    from lora_whisper.export.whisper_cpp import load_library

    library = load_library()
    if library.computes(dtype):
        return ""
    return f"whisper.cpp {library.version()} does not compute with {dtype}; its quantizer reads it"


def unusual_in(base: Base) -> str:
    """What is not as in the published checkpoints; "" where nothing is."""
    found = []
    if base.special_tokens.size not in PUBLISHED_SIZES:
        found.append(f"{base.special_tokens.size:,} tokens")
    if base.window_seconds != PUBLISHED_SECONDS:
        found.append(f"{base.window_seconds:g} s")
    return " and ".join(found)


def adapter_runtime(folder: Path, base: ModelConfig, device: torch.device) -> Runtime:
    """Stock PEFT, which puts the exported adapter on the base in full precision."""
    model = dataclasses.replace(base, dtype="float32")
    entry = ModelEntry("adapter", str(folder), "adapter", model, adapter=folder)

    def transcribe_all(
        utterances: Sequence[Utterance], settings: EvaluationConfig, seed: int
    ) -> Transcriptions:
        decoder = EntryDecoder(entry, "float32", device, reuse=False)
        try:
            return decoder.transcribe("transcribing in PEFT", utterances, settings, seed)[0]
        finally:
            decoder.close()

    return Runtime(f"PEFT {version('peft')}", transcribe_all)


def _by_program(
    program: Program,
    base: Base,
    utterances: Sequence[Utterance],
    settings: EvaluationConfig,
    seed: int,
) -> Transcriptions:
    """One utterance after the other, as a program transcribes files."""
    from lora_whisper.evaluation.decoding.transcribe import Transcription, Transcriptions

    started, found = time.perf_counter(), []
    with work(f"transcribing in {program.name.split()[0]}", len(utterances)) as bar:
        for done, one in enumerate(utterances, start=1):
            try:
                samples = read_audio(one.audio, one.start_seconds, one.end_seconds)
                if done == 1 and hasattr(program, "try_out"):
                    program.try_out(samples)
                language = token_language(base.special_tokens, one)
                text = program.transcribe(samples, language, one.task).strip()
                found.append(Transcription(text, len(samples) / SAMPLING_RATE))
            except AudioError as error:
                found.append(Transcription(bad=BadAudio(one.row, str(error))))
            bar.update(done)
    return Transcriptions.of(found, time.perf_counter() - started)


def _decoder(name: str, folder: Path, base: Base, device: torch.device) -> Decoder:
    backend = RUNTIMES[name].backend
    if backend is None:
        from lora_whisper.evaluation.decoding.ctranslate2 import CTranslate2Decoder

        return CTranslate2Decoder.load(folder, str(device))
    from lora_whisper.evaluation.decoding.stepwise import StepwiseDecoder

    return StepwiseDecoder(
        getattr(module_of(name), backend).load(folder),
        base.processor.tokenizer,
        load_generation_config(base.checkpoint),
        base.special_tokens,
        base.features,
    )
