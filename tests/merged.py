"""What `lora-whisper merge` makes: of toys without writing them, or written of any model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from lora_whisper.export.huggingface import write_model
from lora_whisper.lora.merge import folded, read_change
from lora_whisper.model.checkpoint import Checkpoint, weight_files
from lora_whisper.model.quantization import Nf4
from lora_whisper.model.weights import TIED
from tests.toys import toy_model


def merged_weights(
    base: Checkpoint,
    *adapters: Path | tuple[Path, float],
    dtype: torch.dtype = torch.float32,
    nf4: Nf4 | None = None,
) -> dict[str, Tensor]:
    """By name, without the output projection; an adapter alone counts whole."""
    parts = [(one, 1.0) if isinstance(one, Path) else one for one in adapters]
    return dict(folded(weight_files(base), read_change(parts), dtype, nf4))


def merged_toy(
    base: Checkpoint, *adapters: Path | tuple[Path, float], nf4: Nf4 | None = None
) -> WhisperForConditionalGeneration:
    """In fp32 and in evaluation mode."""
    weights = merged_weights(base, *adapters, nf4=nf4)
    model = toy_model()
    found = model.load_state_dict(weights, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == ([TIED], [])
    return model


def write_merged_folder(
    model: WhisperForConditionalGeneration, checkpoint: Checkpoint, folder: Path
) -> None:
    """As if the model had been merged from the checkpoint, whose other files it takes."""
    weights = {name: one.detach() for name, one in model.state_dict().items() if name != TIED}
    shapes = {name: tuple(one.shape) for name, one in weights.items()}
    write_model(weights.items(), shapes, model.dtype, checkpoint, folder, {})
