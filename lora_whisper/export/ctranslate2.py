"""The folder that CTranslate2 loads, with its relatives; and faster-whisper, which hears it.

Models of other windows and vocabularies than the published ones go to `evaluation`'s decoder for
CTranslate2, which has no faster-whisper around it.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding.ctranslate2 import opened
from lora_whisper.export.openai_whisper import converted, read_tensors

DTYPES = ("float16", "float32", "int8", "int8_float16")
# What faster-whisper reads beside the model; without the second it computes 80 mel bins, always.
# generation_config.json is read by those who look for a prompt's ids.
COMPANIONS = ("tokenizer.json", "preprocessor_config.json", "generation_config.json")


def write(checkpoint: Path, folder: Path, dtype: str) -> None:
    """Convert a merged checkpoint into `folder`, by CTranslate2's own converter.

    Alignment heads, suppressed tokens and language ids go from generation_config.json to
    config.json. With float16 and int8_float16 the model is in memory in float16.

    Raises:
        UserError: the package is missing, or weights are too large for float16.
    """
    assert dtype in DTYPES, dtype
    disable_progress_bar()  # of reading the weights, which the converter does with Transformers
    half = dtype in ("float16", "int8_float16")
    converter = _converter_class()(
        str(checkpoint),
        copy_files=[name for name in COMPANIONS if (checkpoint / name).is_file()],
        load_as_float16=half,
        low_cpu_mem_usage=True,
    )
    if half:  # the converter would write infinity
        for name, weight in read_tensors(checkpoint):
            converted(name, weight, torch.float16)
    # It wants the folder to itself.
    converter.convert(str(folder), quantization=dtype, force=True)


def require_package() -> None:
    """See that what writes such a folder is installed, and what runs it.

    Raises:
        UserError: it is not.
    """
    _converter_class()
    _model_class()


def _converter_class() -> Any:
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError:
        raise UserError(
            "To export to CTranslate2, its package is needed: "
            "pip install 'lora-whisper[ctranslate2]'"
        ) from None
    return TransformersConverter


# ── faster-whisper ────────────────────────────────────────────────────────────────────────────────

ENGLISH = "en"


class FasterWhisperProgram:
    """faster-whisper as people run it, for models of a published size.

    Greedy, one window after the other, without timestamps, previous text, fallback, thresholds and
    voice detection. Behind a recording that is shorter than its window, its log-mel goes on with
    0.0; Transformers and whisper.cpp hear silence there, which is lower. Recordings of 30 s are
    heard alike.
    """

    def __init__(self, model: Any):
        self.model = model
        # Otherwise the prompt is <|startoftranscript|> <|notimestamps|>: without language and task.
        self.prompts_with_language = bool(model.model.is_multilingual)
        backend = version("ctranslate2")
        self.name = f"faster-whisper {version('faster-whisper')} (CTranslate2 {backend})"

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> FasterWhisperProgram:
        """Load an exported folder; `device` is "cpu", "cuda" or "cuda:1".

        Raises:
            UserError: the package is missing, or the folder does not load.
        """
        threads = torch.get_num_threads()
        return cls(opened(_model_class(), folder, device, "in faster-whisper", cpu_threads=threads))

    def transcribe(
        self, samples: np.ndarray, language: str | None, task: str, **prompt: str
    ) -> str:
        """See `parity.Program`; as a prompt it takes `hotwords` or `initial_prompt`."""
        segments, _ = self.model.transcribe(
            samples,
            language=language or ENGLISH,
            task=task,
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
            vad_filter=False,
            **prompt,
        )
        return " ".join(segment.text.strip() for segment in segments)

    def try_out(self, samples: np.ndarray) -> None:
        """Detect the language and ask for timestamps, which `hear` does not and most people do.

        Raises:
            UserError: it fails.
        """
        try:
            segments, _ = self.model.transcribe(samples, beam_size=1, temperature=0.0)
            for _ in segments:
                pass
        except Exception as error:  # an IndexError, where config.json has no languages
            raise UserError(
                f"faster-whisper fails where it is told no language and gives timestamps: "
                f"{error!r:.200}.\nMerge again (overwrite=true), which completes the ids."
            ) from error


def _model_class() -> Any:
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        raise UserError(
            "To run an exported CTranslate2 model, faster-whisper is needed: "
            "pip install 'lora-whisper[ctranslate2]'"
        ) from None
    return WhisperModel
