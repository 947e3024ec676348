"""OpenAI's own layout, the file of it that openai-whisper loads, and openai-whisper itself.

openai-whisper and whisper.cpp read the same tensors: those of OpenAI's `Whisper` module
(https://github.com/openai/whisper, whisper/model.py).

The loader of model.pt, `whisper.load_model` (whisper/__init__.py at v20250625), reads `dims` and
`model_state_dict`, computes in the precision that it is told, whatever the file's, and takes the
last half of the decoder's layers for alignment: the checkpoint's own alignment heads have no place
in the file. They matter for word timestamps alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_whisper.errors import UserError, listing
from lora_whisper.model import weights
from lora_whisper.model.weights import TIED, is_finite, is_pickled, weight_names
from lora_whisper.stand_ins import require_itself

FILE = "model.pt"
DTYPES = ("float16", "float32")  # OpenAI's own files are in float16
FEED_FORWARD_WIDTHS = 4  # of the model, in each feed-forward layer: not among the sizes

PARTS = {
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn.q_proj": "cross_attn.query",
    "encoder_attn.k_proj": "cross_attn.key",
    "encoder_attn.v_proj": "cross_attn.value",
    "encoder_attn.out_proj": "cross_attn.out",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
}
OUTSIDE_LAYERS = {
    "encoder.conv1.weight": "encoder.conv1.weight",
    "encoder.conv1.bias": "encoder.conv1.bias",
    "encoder.conv2.weight": "encoder.conv2.weight",
    "encoder.conv2.bias": "encoder.conv2.bias",
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "encoder.layer_norm.weight": "encoder.ln_post.weight",
    "encoder.layer_norm.bias": "encoder.ln_post.bias",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.layer_norm.weight": "decoder.ln.weight",
    "decoder.layer_norm.bias": "decoder.ln.bias",
}
LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a model, by the names of openai-whisper's `ModelDimensions`."""

    n_mels: int
    n_audio_ctx: int  # positions of the encoder, two frames each
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int  # tokens that the decoder has room for
    n_text_state: int
    n_text_head: int
    n_text_layer: int


def read_dimensions(checkpoint: Path) -> Dimensions:
    """Read the sizes from config.json.

    Raises:
        UserError: the model is of a kind that OpenAI's layout has no place for.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    width = config["d_model"]
    _require_plain(checkpoint, config, width)
    return Dimensions(
        n_mels=config["num_mel_bins"],
        n_audio_ctx=config["max_source_positions"],
        n_audio_state=width,
        n_audio_head=config["encoder_attention_heads"],
        n_audio_layer=config["encoder_layers"],
        n_vocab=config["vocab_size"],
        n_text_ctx=config["max_target_positions"],
        n_text_state=width,
        n_text_head=config["decoder_attention_heads"],
        n_text_layer=config["decoder_layers"],
    )


def _require_plain(checkpoint: Path, config: dict[str, Any], width: int) -> None:
    """All published checkpoints are; their files need not state what is as Transformers has it."""
    expected = {
        "encoder_ffn_dim": FEED_FORWARD_WIDTHS * width,
        "decoder_ffn_dim": FEED_FORWARD_WIDTHS * width,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
    }
    problems = [
        f"{key}: found {config[key]}, expected {value}"
        for key, value in expected.items()
        if config.get(key, value) != value
    ]
    if problems:
        raise UserError(
            f"{checkpoint} has no place in OpenAI's layout, which openai-whisper and whisper.cpp "
            f"read:\n{listing(problems)}\nExport it to another format: format=ctranslate2"
        )


def read_tensors(checkpoint: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield OpenAI's name and the weight as it is stored, one after the other."""
    names = weight_names(os.listdir(checkpoint))
    assert not is_pickled(names), "merged folders hold safetensors alone"
    for name, tensor in weights.read_tensors([checkpoint / one for one in names]):
        if name != TIED:
            yield openai_name(name), tensor


def openai_name(name: str) -> str:
    """`model.decoder.layers.0.fc1.bias` is `decoder.blocks.0.mlp.0.bias`.

    Raises:
        UserError: no weight of a Whisper.
    """
    inner = name.removeprefix("model.")
    if inner in OUTSIDE_LAYERS:
        return OUTSIDE_LAYERS[inner]
    match = LAYER.fullmatch(inner)
    if match is None or match[3] not in PARTS:
        raise UserError(f"{name} is no weight of a Whisper; merge the adapter again")
    return f"{match[1]}.blocks.{match[2]}.{PARTS[match[3]]}.{match[4]}"


def converted(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in another precision.

    Raises:
        UserError: it is not finite there.
    """
    result = weight.to(dtype)
    if not is_finite(result):
        raise UserError(
            f"{name}: values that are not finite numbers in {str(dtype).removeprefix('torch.')}. "
            "The weights are too large for it, or broken: say dtype=float32; if that gives "
            "the same, train again at a lower optimizer.learning_rate."
        )
    return result


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


# ── openai-whisper: the program, and the model below it ───────────────────────────────────────────


class OpenAIWhisperBackend:
    """OpenAI's own module in float32, for windows and vocabularies of any size.

    See `Backend` of evaluation/decoding/stepwise.py.
    """

    def __init__(self, model: Any):
        self.model, self.width = model.eval(), model.dims.n_audio_state
        # Its modules keep their keys and values in the dictionary that they are given.
        self.cache, _ = model.install_kv_cache_hooks()

    @classmethod
    def load(cls, folder: Path) -> OpenAIWhisperBackend:
        """Load the model.pt of a folder onto the CPU.

        Raises:
            UserError: the package is missing, or the file does not load.
        """
        return cls(load_model(folder, "cpu"))

    def encode(self, features: Tensor) -> None:
        """See `Backend`."""
        self.encoded = self.model.encoder(features[None])
        self.cache.clear()

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """See `Backend`."""
        # With keys of earlier tokens, its attention is right for one token at a time only.
        parts = [[token] for token in tokens] if self.cache else [tokens]
        for part in parts:
            given = torch.tensor([part])
            scores = self.model.decoder(given, self.encoded, kv_cache=self.cache)
        last: Tensor = scores[0, -1]
        return last


class OpenAIWhisperProgram:
    """openai-whisper as people run it, for models of a published size.

    Greedy, one window after the other, without timestamps, previous text, fallback and thresholds.
    It ends a window's text after 224 tokens, half of what the decoder has room for. Behind a
    recording that is shorter than its window, its log-mel goes on with 0.0; Transformers and
    whisper.cpp hear silence there, which is lower. Recordings of 30 s are heard alike.
    """

    def __init__(self, model: Any, device: str):
        self.model = model
        self.half = device != "cpu"  # as the program itself does by default
        self.name = f"openai-whisper {version('openai-whisper')}"

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> OpenAIWhisperProgram:
        """Load the model.pt of a folder.

        Raises:
            UserError: the package is missing, or the file does not load.
        """
        return cls(load_model(folder, device), device)

    def transcribe(
        self, samples: np.ndarray, language: str | None, task: str, **prompt: str
    ) -> str:
        """See `parity.Program`; as a prompt it takes `initial_prompt`."""
        result = self.model.transcribe(
            samples,
            language=language or "en",
            task=task,
            temperature=0.0,
            fp16=self.half,
            without_timestamps=True,
            condition_on_previous_text=False,
            compression_ratio_threshold=None,
            logprob_threshold=None,
            no_speech_threshold=None,
            **prompt,
        )
        return str(result["text"]).strip()


def require_package() -> None:
    """See that openai-whisper is installed.

    Raises:
        UserError: it is not.
    """
    _package()


def load_model(folder: Path, device: str) -> Any:
    """Load an exported folder's file, by openai-whisper's own function.

    Raises:
        UserError: the package is missing, or the file does not load.
    """
    package, path = _package(), folder / FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no {FILE}; export it: format=openai")
    require_itself(path, "a checkpoint of openai-whisper")
    try:
        return package.load_model(str(path), device=device)
    except (OSError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} does not load in openai-whisper: {error}") from None


def _package() -> ModuleType:
    try:
        import whisper

        whisper.load_model  # noqa: B018 (another package has the same name)
    except (ImportError, AttributeError):
        raise UserError(
            "To run a model in OpenAI's layout, openai-whisper is needed: "
            "pip install 'lora-whisper[openai]'"
        ) from None
    return whisper  # type: ignore[no-any-return]
