"""Run exported ONNX graphs in ONNX Runtime, a token at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_whisper.errors import UserError, listing
from lora_whisper.export.onnx import DECODER, ENCODER, require_package

NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
ERRORS_ONLY = 3  # of ONNX Runtime's levels; below are its remarks on its own optimizations


class OnnxEngine:
    """Encoder and decoder on the CPU; `evaluation.decoding.stepwise` decodes with them.

    Keys and values stay ONNX Runtime's, from call to call.
    """

    def __init__(self, encoder: Any, decoder: Any, width: int):
        """`encoder`, `decoder`: sessions of the graphs that `export.onnx` describes."""
        self.encoder, self.decoder, self.width = encoder, decoder, width
        self.heard = [one.name for one in encoder.get_outputs() if one.name.startswith("present.")]
        self.given = [one.name for one in decoder.get_outputs()]
        self.sound: dict[str, Any] = {}
        self.past: dict[str, Any] = {}

    @classmethod
    def load(cls, folder: Path) -> OnnxEngine:
        """Load encoder.onnx and decoder.onnx.

        Raises:
            UserError: a package is missing, or a file is, or the folder does not load.
        """
        require_package()
        missing = [
            f"{name}: missing"
            for name in (ENCODER, DECODER, "config.json")
            if not (folder / name).is_file()
        ]
        if missing:
            raise UserError(f"{folder} is no exported ONNX Whisper:\n{listing(missing)}")
        try:
            width = int(json.loads((folder / "config.json").read_text("utf-8"))["d_model"])
            return cls(_session(folder / ENCODER), _session(folder / DECODER), width)
        except Exception as error:  # ONNX Runtime's have no class of their own in common
            raise UserError(f"{folder} does not load as an ONNX Whisper: {error}") from None

    def hear(self, features: Tensor) -> None:
        """Encode a window: log-mel (mel bins, frames) in float32 on the CPU."""
        window = _value(features[None].numpy())
        outputs = self.encoder.run_with_ort_values(self.heard, {"input_features": window})
        self.sound = dict(zip(map(_as_input, self.heard), outputs, strict=True))
        self.past = {
            one.name: _value(np.zeros((1, one.shape[1], 0, one.shape[3]), NUMPY_TYPES[one.type]))
            for one in self.decoder.get_inputs()
            if ".decoder." in one.name
        }

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """Give the decoder more tokens: (vocabulary,) in float32, of the next one."""
        given = _value(np.array([tokens], dtype=np.int64))
        logits, *present = self.decoder.run_with_ort_values(
            self.given, {"input_ids": given} | self.past | self.sound
        )
        self.past = dict(zip(map(_as_input, self.given[1:]), present, strict=True))
        return torch.from_numpy(logits.numpy()[0, -1])


def _as_input(output: str) -> str:
    return output.replace("present.", "past_key_values.")


def _session(path: Path) -> Any:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = ERRORS_ONLY
    return InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _value(array: np.ndarray) -> Any:
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
