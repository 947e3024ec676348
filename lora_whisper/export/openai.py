"""The file that openai-whisper loads: `whisper.load_model("model.pt")`.

Its loader (whisper/__init__.py at v20250625) reads `dims` and `model_state_dict`, computes in the
precision that it is told, whatever the file's, and takes the last half of the decoder's layers for
alignment: the checkpoint's own alignment heads have no place in the file. They matter for word
timestamps alone.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from lora_whisper.export.openai_layout import converted, read_dimensions, read_tensors

FILE = "model.pt"
DTYPES = ("float16", "float32")  # OpenAI's own files are in float16


def write(checkpoint: Path, folder: Path, dtype: str) -> None:
    """Write model.pt into `folder` from a merged checkpoint.

    All weights are in memory at once, in `dtype`.

    Raises:
        UserError: no model that the layout has a place for, or weights too large for float16.
    """
    assert dtype in DTYPES, dtype
    dimensions = read_dimensions(checkpoint)
    weights = {
        name: converted(name, weight, getattr(torch, dtype)).clone()
        for name, weight in read_tensors(checkpoint)
    }
    content = {"dims": dataclasses.asdict(dimensions), "model_state_dict": weights}
    torch.save(content, folder / FILE)
