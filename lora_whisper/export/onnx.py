"""Write a merged model as two ONNX graphs, for ONNX Runtime and its relatives.

`encoder.onnx` hears a window once:

    input_features           (batch, mel bins, frames of the window)   float32
    → last_hidden_state      (batch, positions, width)
    → present.N.encoder.key, present.N.encoder.value
                             (batch, heads, positions, width / heads)  for each decoder layer N

`decoder.onnx` goes on from the tokens that it was given before, of which there may be none:

    input_ids                (batch, tokens)                           int64
    past_key_values.N.decoder.key, past_key_values.N.decoder.value
                             (batch, heads, past tokens, width / heads)
    past_key_values.N.encoder.key, past_key_values.N.encoder.value
                             what the encoder gave, the same at every step
    → logits                 (batch, tokens, vocabulary)               float32
    → present.N.decoder.key, present.N.decoder.value
                             (batch, heads, past tokens + tokens, width / heads)

At the first step "past tokens" is 0; afterwards it is what the step before gave. So one decoder
serves all steps, and what the sound's keys and values are is computed once a window, not at each
step. All rows of a batch have as many tokens: there is no mask for padding. What no type stands
beside has the weights' type.

Graphs whose weights are over 1.5 GiB keep them in a file beside them, encoder.onnx.data or
decoder.onnx.data: protobuf ends at 2 GB.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import DynamicCache, EncoderDecoderCache, WhisperForConditionalGeneration

from lora_whisper.errors import UserError, listing
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import SMALL_FILES, Checkpoint
from lora_whisper.stand_ins import require_itself

DTYPES = ("float32", "float16")  # the weights'
KINDS = ("key", "value")
ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
WEIGHTS_INDEX = "model.safetensors.index.json"
LOGGERS = ("torch.onnx", "torch.__trace")  # which speak while a graph is made
PACKAGES = ("onnx", "onnxscript", "onnxruntime")

# Sizes to follow the graphs with. PyTorch takes 0 and 1 for constants and all others for any size;
# what it finds holds for 0 past tokens and a batch of 1, too, which the tests see to.
BATCH, TOKENS, PAST_TOKENS = 2, 4, 3


def write(checkpoint: Path, folder: Path, dtype: str) -> None:
    """Write the two graphs, tokenizer and configurations of a merged model.

    Each graph's matrices are copied, as they lie the other way round than PyTorch's: large-v3 in
    float16 took 4.3 GB beside the checkpoint's files, which are mapped into memory. The exporter
    takes about 4 s a layer on one core, of whatever width.

    Args:
        checkpoint: as `export.huggingface` writes it.
        folder: exists and is empty.
        dtype: one of DTYPES. float16 halves the files; a CPU computes most of it in float32.

    Raises:
        UserError: a package is missing, or the checkpoint lacks weights.
    """
    assert dtype in DTYPES
    require_package()
    base = Checkpoint(str(checkpoint), None, str(checkpoint))
    whisper = load_base(base, "none", getattr(torch, dtype), torch.device("cpu"))
    whisper.set_attn_implementation("eager")  # products and a softmax, which every runtime has
    config = whisper.config
    _export(
        Encoder(whisper),
        (torch.zeros(BATCH, config.num_mel_bins, 2 * config.max_source_positions),),
        ({0: Dim("batch")},),
        ["input_features"],
        ["last_hidden_state", *cache_names("present", config.decoder_layers, "encoder")],
        folder / ENCODER,
    )
    _write_decoder(whisper, folder / DECODER)
    for path in chain.from_iterable(checkpoint.glob(pattern) for pattern in SMALL_FILES):
        if path.name != WEIGHTS_INDEX:
            shutil.copyfile(path, folder / path.name)


def require_package() -> None:
    """See that what writes and runs the graphs is installed.

    Raises:
        UserError: it is not.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"format=onnx needs {', '.join(missing)}: pip install 'lora-whisper[onnx]'")


class Encoder(nn.Module):
    """The encoder, and what the decoder's layers make of its output whatever the tokens are."""

    def __init__(self, whisper: WhisperForConditionalGeneration):
        super().__init__()
        self.encoder = whisper.model.encoder
        self.attentions = nn.ModuleList(
            layer.encoder_attn for layer in whisper.model.decoder.layers
        )

    def forward(self, input_features: Tensor) -> list[Tensor]:
        """See the module; keys and values of the layers take turns."""
        features = input_features.to(self.encoder.conv1.weight.dtype)
        encoded = self.encoder(features).last_hidden_state
        outputs = [encoded]
        attention: Any  # WhisperAttention
        for attention in self.attentions:
            for projection in (attention.k_proj, attention.v_proj):
                by_head = projection(encoded).unflatten(-1, (attention.num_heads, -1))
                outputs.append(by_head.transpose(1, 2))
        return outputs


class Decoder(nn.Module):
    """Transformers' layers, with a cache that comes and goes as tensors.

    Its own forward makes masks in a way that depends on whether there is a past; here one graph is
    to serve both.
    """

    def __init__(self, whisper: WhisperForConditionalGeneration):
        super().__init__()
        self.decoder, self.projection = whisper.model.decoder, whisper.proj_out

    def forward(
        self, input_ids: Tensor, past: Sequence[Tensor], sound: Sequence[Tensor]
    ) -> list[Tensor]:
        """See the module; keys and values of the layers take turns.

        Args:
            past: of the decoder's own tokens.
            sound: of the encoder's positions.
        """
        cache = self._cache(past, sound)
        past_tokens, tokens = past[0].shape[2], input_ids.shape[1]
        places = torch.arange(past_tokens, past_tokens + tokens)
        hidden = self.decoder.embed_tokens(input_ids) + self.decoder.embed_positions.weight[places]
        is_seen = torch.arange(past_tokens + tokens) <= places[:, None]
        mask = torch.where(is_seen, 0.0, torch.finfo(hidden.dtype).min).to(hidden.dtype)
        for layer in self.decoder.layers:
            # The encoder's output is asked for and not looked at, since its keys are known.
            hidden = layer(
                hidden,
                attention_mask=mask[None, None],
                encoder_hidden_states=hidden,
                past_key_values=cache,
            )
        logits = self.projection(self.decoder.layer_norm(hidden)).float()
        present = [(one.keys, one.values) for one in cache.self_attention_cache.layers]
        return [logits, *chain.from_iterable(present)]

    def _cache(self, past: Sequence[Tensor], sound: Sequence[Tensor]) -> Any:
        own, cross = DynamicCache(), DynamicCache()
        cache = EncoderDecoderCache(own, cross)
        for layer in range(len(self.decoder.layers)):
            key, value = 2 * layer, 2 * layer + 1
            own.update(past[key], past[value], layer)
            cross.update(sound[key], sound[value], layer)
            cache.is_updated[layer] = True
        return cache


def cache_names(prefix: str, layers: int, side: str) -> list[str]:
    """Names of keys and values, in the order of the graphs: `past_key_values.0.decoder.key` …"""
    return [f"{prefix}.{layer}.{side}.{kind}" for layer in range(layers) for kind in KINDS]


def _write_decoder(whisper: WhisperForConditionalGeneration, path: Path) -> None:
    config = whisper.config
    layers, heads = config.decoder_layers, config.decoder_attention_heads
    batch, tokens, past_tokens = Dim("batch"), Dim("tokens"), Dim("past_tokens")
    head_width = config.d_model // heads

    def keys_and_values(length: int) -> list[Tensor]:
        shape = (BATCH, heads, length, head_width)
        return [torch.zeros(shape, dtype=whisper.dtype) for _ in range(2 * layers)]

    _export(
        Decoder(whisper),
        (
            torch.zeros(BATCH, TOKENS, dtype=torch.long),
            keys_and_values(PAST_TOKENS),
            keys_and_values(config.max_source_positions),
        ),
        (
            {0: batch, 1: tokens},
            [{0: batch, 2: past_tokens}] * (2 * layers),
            [{0: batch}] * (2 * layers),
        ),
        [
            "input_ids",
            *cache_names("past_key_values", layers, "decoder"),
            *cache_names("past_key_values", layers, "encoder"),
        ],
        ["logits", *cache_names("present", layers, "decoder")],
        path,
    )


def _export(
    module: nn.Module,
    inputs: tuple[Any, ...],
    dynamic: tuple[Any, ...],
    input_names: list[str],
    output_names: list[str],
    path: Path,
) -> None:
    with _silence():
        program = torch.onnx.export(
            module.eval(),
            inputs,
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=input_names,
            output_names=output_names,
            verbose=False,
        )
        assert program is not None
        # Notes on where each node comes from: paths and lines of whoever exports.
        model: Any = program.model
        for holder in (model, model.graph, *model.graph.all_nodes()):
            holder.metadata_props.clear()
        program.save(path)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's remarks on its own insides from the user."""
    levels = {log: log.level for log in map(logging.getLogger, LOGGERS)}
    for log in levels:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in levels.items():
            log.setLevel(level)


# ── ONNX Runtime, which runs the graphs a token at a time ─────────────────────────────────────────

NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
ERRORS_ONLY = 3  # of ONNX Runtime's levels; below are its remarks on its own optimizations


class OnnxBackend:
    """Encoder and decoder on the CPU; `evaluation.decoding.stepwise` decodes with them.

    Keys and values stay ONNX Runtime's, from call to call.
    """

    def __init__(self, encoder: Any, decoder: Any, width: int):
        """`encoder`, `decoder`: sessions of the graphs that `export.onnx` describes."""
        self.encoder, self.decoder, self.width = encoder, decoder, width
        self.cache_outputs = [
            one.name for one in encoder.get_outputs() if one.name.startswith("present.")
        ]
        self.given = [one.name for one in decoder.get_outputs()]
        self.sound: dict[str, Any] = {}
        self.past: dict[str, Any] = {}

    @classmethod
    def load(cls, folder: Path) -> OnnxBackend:
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
        for name in (ENCODER, DECODER):
            require_itself(folder / name, "a graph of ONNX")
        try:
            width = int(json.loads((folder / "config.json").read_text("utf-8"))["d_model"])
            return cls(_session(folder / ENCODER), _session(folder / DECODER), width)
        except Exception as error:  # ONNX Runtime's have no class of their own in common
            raise UserError(f"{folder} does not load as an ONNX Whisper: {error}") from None

    def encode(self, features: Tensor) -> None:
        """Encode a window: log-mel (mel bins, frames) in float32 on the CPU."""
        window = _value(features[None].numpy())
        outputs = self.encoder.run_with_ort_values(self.cache_outputs, {"input_features": window})
        self.sound = dict(zip(map(_as_input, self.cache_outputs), outputs, strict=True))
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
