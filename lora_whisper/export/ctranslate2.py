"""The folder that CTranslate2 loads, and with it faster-whisper, whisperX and their relatives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lora_whisper.errors import UserError
from lora_whisper.export.openai_layout import converted, read_tensors

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
    from transformers.utils.logging import disable_progress_bar

    assert dtype in DTYPES, dtype
    disable_progress_bar()  # of reading the weights, which the converter does with Transformers
    half = dtype in ("float16", "int8_float16")
    converter = _converter_class()(
        str(checkpoint),
        copy_files=[name for name in COMPANIONS if (checkpoint / name).is_file()],
        load_as_float16=half,
        low_cpu_mem_usage=True,
    )
    if half:
        _require_half(checkpoint)
    # It wants the folder to itself.
    converter.convert(str(folder), quantization=dtype, force=True)


def require_package() -> None:
    """See that CTranslate2 is installed.

    Raises:
        UserError: it is not.
    """
    _converter_class()


def _converter_class() -> Any:
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError:
        raise UserError(
            "To export to CTranslate2, its package is needed: "
            "pip install 'lora-whisper[ctranslate2]'"
        ) from None
    return TransformersConverter


def _require_half(checkpoint: Path) -> None:
    """The converter would write infinity."""
    for name, weight in read_tensors(checkpoint):
        converted(name, weight, torch.float16)
