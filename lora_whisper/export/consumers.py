"""The programs that exports are for, each as something that hears utterances.

Where a program takes a model for granted that has Whisper's window of 30 seconds and one of its
three vocabularies, a model without them is given to what lies below the program: the same weights,
read and computed by the same code, but prompts, features and the choice of tokens are ours.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.config import EvaluationConfig, ModelConfig, Padding
from lora_whisper.data.dataset import Utterance
from lora_whisper.model.base import Base
from lora_whisper.terminal import work

if TYPE_CHECKING:
    import torch

    from lora_whisper.evaluation.decoding.decoder import Recognizer
    from lora_whisper.evaluation.decoding.transcribe import Hypotheses

PUBLISHED_SIZES = (51864, 51865, 51866)  # vocabularies of .en, of all before large-v3, and of it
PUBLISHED_SECONDS = 30.0

Hear = Callable[[Sequence[Utterance], EvaluationConfig, int], "Hypotheses"]


@dataclass(frozen=True)
class Consumer:
    """A program with an export in it."""

    name: str  # with its version
    hear: Hear
    skipped: str = ""  # the program that this is below, where the model is unusual
    unusual: str = ""  # in what


@dataclass(frozen=True)
class Kind:
    """Where a format's consumer is found: modules of `export`, and what stands in them."""

    shown: str
    engine_shown: str  # what lies below it
    package: str  # whose version is told
    padding: Padding  # of the program, behind clips that are shorter than its window
    modules: tuple[str, ...]  # that have packages of their own
    program: tuple[str, str] | None  # module and class
    engine: tuple[str, str] | None  # None: `evaluation` has it


KINDS = {
    "ctranslate2": Kind(
        "faster-whisper",
        "CTranslate2",
        "ctranslate2",
        "log-mel",
        ("ctranslate2", "faster_whisper"),
        program=("faster_whisper", "FasterWhisperProgram"),
        engine=None,
    ),
    "ggml": Kind(
        "whisper.cpp",
        "whisper.cpp",
        "pywhispercpp",
        "sound",
        ("whisper_cpp",),
        program=("whisper_cpp", "WhisperCppProgram"),
        engine=("whisper_cpp", "WhisperCppEngine"),
    ),
    "onnx": Kind(
        "ONNX Runtime",
        "ONNX Runtime",
        "onnxruntime",
        "sound",
        ("onnx",),
        program=None,  # it runs graphs, and knows of no Whisper
        engine=("onnxruntime", "OnnxEngine"),
    ),
    "openai": Kind(
        "openai-whisper",
        "openai-whisper",
        "openai-whisper",
        "log-mel",
        ("openai_whisper",),
        program=("openai_whisper", "OpenAIWhisperProgram"),
        engine=("openai_whisper", "OpenAIWhisperEngine"),
    ),
}


def padding_in(name: str, base: Base, usual: Padding) -> Padding:
    """How what runs a format pads short clips; `usual` where features are ours."""
    return KINDS[name].padding if is_program(name, base) else usual


def require_packages(name: str) -> None:
    """See that all packages of a format are installed; an adapter needs no others.

    Raises:
        UserError: one is missing; what to type.
    """
    for module in KINDS[name].modules if name in KINDS else ():
        importlib.import_module(f"lora_whisper.export.{module}").require_package()


def load_consumer(name: str, folder: Path, base: Base, device: torch.device) -> Consumer:
    """Load the export of a format in `folder` as its users do, if the model is one of theirs.

    Args:
        base: what its tokens and its window are.

    Raises:
        UserError: it does not load there.
    """
    kind, unusual = KINDS[name], unusual_in(base)
    if is_program(name, base):
        assert kind.program is not None
        program = _class(kind.program).load(folder, str(device))
        return Consumer(program.name, lambda *given: _by_program(program, base, *given))
    below = load_engine(name, folder, base, device)
    is_skipped = kind.program is not None
    return dataclasses.replace(below, skipped=kind.shown, unusual=unusual) if is_skipped else below


def is_program(name: str, base: Base) -> bool:
    """Whether a format has a program that takes models like this one as they are."""
    return name in KINDS and KINDS[name].program is not None and not unusual_in(base)


def load_engine(name: str, folder: Path, base: Base, device: torch.device) -> Consumer:
    """Load the export into what lies below its program: the same weights, prompts of ours."""
    engine = f"{KINDS[name].engine_shown} {_version(name)}"
    return Consumer(engine, _by_engine(name, folder, base, device))


def _version(name: str) -> str:
    if name != "ggml":
        return version(KINDS[name].package)
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
    if base.vocabulary.size not in PUBLISHED_SIZES:
        found.append(f"{base.vocabulary.size:,} tokens")
    if base.window_seconds != PUBLISHED_SECONDS:
        found.append(f"{base.window_seconds:g} s")
    return " and ".join(found)


def adapter_consumer(folder: Path, base: ModelConfig, device: torch.device) -> Consumer:
    """Stock PEFT, which puts the exported adapter on the base in full precision."""
    from lora_whisper.evaluation.loading import Listening
    from lora_whisper.evaluation.models import Contender

    model = dataclasses.replace(base, dtype="float32")
    contender = Contender("adapter", str(folder), "adapter", model, adapter=folder)

    def hear(utterances: Sequence[Utterance], settings: EvaluationConfig, seed: int) -> Hypotheses:
        listening = Listening(contender, "float32", device, reuse=False)
        try:
            return listening.hear("hearing in PEFT", utterances, settings, seed)[0]
        finally:
            listening.close()

    return Consumer(f"PEFT {version('peft')}", hear)


def _class(place: tuple[str, str]) -> Any:
    module, name = place
    return getattr(importlib.import_module(f"lora_whisper.export.{module}"), name)


# ── the program ──────────────────────────────────────────────────────────────────────────────


def _by_program(
    program: Any,
    base: Base,
    utterances: Sequence[Utterance],
    settings: EvaluationConfig,
    seed: int,
) -> Hypotheses:
    """One utterance after the other, as a program hears files."""
    from lora_whisper.data.audio import AudioError, read_audio
    from lora_whisper.data.dataset import token_language
    from lora_whisper.data.windows import BadAudio
    from lora_whisper.evaluation.decoding.transcribe import Hypotheses
    from lora_whisper.model.rates import SAMPLING_RATE

    started, texts, seconds, bad = time.perf_counter(), [], [], []
    with work(f"hearing in {program.name.split()[0]}", len(utterances)) as bar:
        for done, one in enumerate(utterances, start=1):
            try:
                samples = read_audio(one.audio, one.start_seconds, one.end_seconds)
                if done == 1 and hasattr(program, "try_out"):
                    program.try_out(samples)
                language = token_language(base.vocabulary, one)
                texts.append(program.hear(samples, language, one.task).strip())
                seconds.append(len(samples) / SAMPLING_RATE)
            except AudioError as error:
                texts.append("")
                seconds.append(0.0)
                bad.append(BadAudio(one.row, str(error)))
            bar.update(done)
    nothing = ((),) * len(texts)
    taken = time.perf_counter() - started
    return Hypotheses(tuple(texts), tuple(seconds), nothing, tuple(bad), taken)


# ── what lies below it ───────────────────────────────────────────────────────────────────────


def _by_engine(name: str, folder: Path, base: Base, device: torch.device) -> Hear:
    recognizer = _recognizer(name, folder, base, device)

    def hear(utterances: Sequence[Utterance], settings: EvaluationConfig, seed: int) -> Hypotheses:
        from lora_whisper.evaluation.decoding.transcribe import transcribe
        from lora_whisper.evaluation.loading import with_batch_size

        with work(f"hearing in {KINDS[name].shown}", len(utterances)) as bar:
            return transcribe(
                recognizer,
                utterances,
                with_batch_size(settings, recognizer),
                seed,
                on_progress=lambda done, total: bar.update(done),
            )

    return hear


def _recognizer(name: str, folder: Path, base: Base, device: torch.device) -> Recognizer:
    engine = KINDS[name].engine
    if engine is None:
        from lora_whisper.evaluation.decoding.ctranslate2 import CTranslate2Recognizer

        return CTranslate2Recognizer.load(folder, str(device))
    from lora_whisper.evaluation.decoding.stepwise import StepwiseRecognizer
    from lora_whisper.model.checkpoint import load_generation_config

    return StepwiseRecognizer(
        _class(engine).load(folder),
        base.processor.tokenizer,
        load_generation_config(base.checkpoint),
        base.vocabulary,
        base.features,
    )
