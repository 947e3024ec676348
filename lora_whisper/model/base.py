"""A base checkpoint as a command reads it: configuration, tokenizer, window, and then its weights.

What `checkpoint` has located and seen to be sound is loaded here, by classes that are named
outright. torch and Transformers are imported where they are used: a configuration error is answered
without them.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lora_whisper.config import ModelConfig
from lora_whisper.errors import UserError, listing
from lora_whisper.json_files import read_object
from lora_whisper.model import base_files, published
from lora_whisper.model.checkpoint import (
    Checkpoint,
    first_line,
    locate,
    locate_config,
    snapshot,
    weight_files,
)
from lora_whisper.model.published import (
    FRAMES_PER_POSITION,
    completed,
    is_complete,
    plain_search,
    searched_otherwise,
)
from lora_whisper.model.weights import is_pickled, read_tensors, require_finite
from lora_whisper.paths import local_path

if TYPE_CHECKING:
    import torch
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    from lora_whisper.model.features import LogMel
    from lora_whisper.model.tokenizer import SpecialTokens

log = logging.getLogger("lora_whisper")

FRAMES_PER_SECOND = 100  # 16,000 samples a second, 160 a frame
SMALL_FILES = (".json", ".txt")  # tokenizer and configurations, beside the weights


@dataclass(frozen=True)
class Base:
    """Everything about the base checkpoint but its weights."""

    checkpoint: Checkpoint
    processor: WhisperProcessor
    special_tokens: SpecialTokens
    features: LogMel
    mel_bins: int
    window_seconds: float


def read_base(config: ModelConfig, with_weights: bool = True) -> Base:
    """Find the checkpoint and read its tokenizer and configurations.

    Without weights it suffices that those are there.

    Raises:
        UserError: it is not there, or its files do not belong together.
    """
    checkpoint = locate(config, with_weights)
    small = sorted(path for path in snapshot(checkpoint).iterdir() if path.suffix in SMALL_FILES)
    stats = [path.stat() for path in small if path.is_file()]
    return _read(checkpoint, tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


@lru_cache(maxsize=4)  # models that are scored side by side, as long as their files stay the same
def _read(checkpoint: Checkpoint, states: tuple[tuple[int, int], ...]) -> Base:
    from lora_whisper.model.features import LogMel
    from lora_whisper.model.tokenizer import read_special_tokens

    shape, processor = load_config(checkpoint), load_processor(checkpoint)
    generation = load_generation_config(checkpoint)
    special_tokens = read_special_tokens(processor.tokenizer, generation, shape)
    seconds = window_seconds(shape)
    mel_bins = shape.num_mel_bins
    return Base(checkpoint, processor, special_tokens, LogMel(mel_bins, seconds), mel_bins, seconds)


def load_processor(checkpoint: Checkpoint) -> WhisperProcessor:
    """Load tokenizer and feature extractor.

    Raises:
        UserError: the tokenizer's files do not load.
    """
    from transformers import WhisperFeatureExtractor, WhisperProcessor

    # As the checkpoint's window and mel bins have it, with which the extractor's file was compared.
    config = _read_config(checkpoint)
    seconds = config["max_source_positions"] / base_files.POSITIONS_PER_SECOND
    extractor = WhisperFeatureExtractor(
        feature_size=config["num_mel_bins"],
        chunk_length=int(seconds) if seconds.is_integer() else seconds,
        **base_files.LOG_MEL,
    )
    return WhisperProcessor(extractor, load_tokenizer(snapshot(checkpoint)))


def load_tokenizer(folder: Path) -> WhisperTokenizer:
    """Load the tokenizer of a folder, by Whisper's class whatever class the folder names.

    Raises:
        UserError: its files do not load.
    """
    from transformers import WhisperTokenizer

    try:
        return WhisperTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of Transformers and of the tokenizers' library, as files have it
        raise UserError(
            f"The tokenizer in {folder} does not load: {first_line(error)}\n"
            "Take its files from the checkpoint that the model was made of."
        ) from error


def _read_config(checkpoint: Checkpoint) -> dict[str, Any]:
    return read_object(snapshot(checkpoint) / base_files.CONFIG)


def load_config(checkpoint: Checkpoint) -> WhisperConfig:
    """Load the model's shape and token ids, and nothing else that config.json may hold."""
    from transformers import WhisperConfig

    values = _read_config(checkpoint)
    known = {*base_files.SIZES, *base_files.config_schema(values["vocab_size"])} - {"max_length"}
    taken = {key: value for key, value in values.items() if key in known}
    taken["dtype"] = taken.pop("dtype", None) or taken.pop("torch_dtype", None)
    taken["init_std"] = float(taken.get("init_std", 0.02))  # a whole one is no float to it
    # Whisper's defaults are ids of a published vocabulary, not of every one.
    usual = dict.fromkeys(("bos_token_id", "pad_token_id"), values["eos_token_id"])
    return WhisperConfig(**usual | {"begin_suppress_tokens": None} | taken)


def load_shape(config: ModelConfig) -> WhisperConfig:
    """`load_config` of a folder that need not hold anything but config.json.

    Raises:
        UserError: what it holds is not sound.
    """
    return load_config(locate_config(config))


def load_generation_config(checkpoint: Checkpoint) -> GenerationConfig:
    """Load what decoding reads: languages, tasks, suppressed tokens, alignment heads.

    What the folder leaves out is completed from its vocabulary. How its maker would search is left
    out: a merged model would have it, and no score would be of it.
    """
    from transformers import GenerationConfig

    folder, config = snapshot(checkpoint), _read_config(checkpoint)
    stated: dict[str, Any] = {}
    if (folder / base_files.GENERATION).is_file():
        values, known = read_object(folder / base_files.GENERATION), base_files.generation_schema
        stated = {key: values[key] for key in known(config) if key in values}
        if searched := searched_otherwise(stated, config):
            _say_left_out(checkpoint.given, ", ".join(f"{key}={searched[key]}" for key in searched))
            stated |= plain_search(config)
    if not is_complete(stated):
        stated = completed(stated, config, load_tokenizer(folder))
    return GenerationConfig(**stated)


@functools.cache  # once, however often it is loaded
def _say_left_out(name: str, settings: str) -> None:
    log.warning(
        "left out    generation_config.json of %s sets %s: scores and merged models are without",
        name,
        settings,
    )


def window_seconds(config: WhisperConfig) -> float:
    """Length of the audio that the encoder sees at once, 30 s for the published checkpoints."""
    return config.max_source_positions * FRAMES_PER_POSITION / FRAMES_PER_SECOND


def shape_of(config: ModelConfig) -> WhisperConfig:
    """The checkpoint's shape: its own config.json where it is at hand, else by its published name.

    Raises:
        UserError: neither is there.
    """
    folder = local_path(config.checkpoint)
    if (folder / "config.json").is_file():
        return load_shape(config)
    name = config.checkpoint.removeprefix("openai/whisper-")
    if not folder.exists() and name in published.shape_names():
        return published.shape(name)
    try:
        return load_config(locate(config, with_weights=False))
    except UserError:
        named = [one for one in published.shape_names() if f"whisper-{one}" in config.checkpoint]
        if not named or folder.exists():
            raise
        return published.shape(max(named, key=len))  # whisper-large-v3-turbo-sw holds three of them


def load_base(
    checkpoint: Checkpoint,
    quantization: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    attention: str = "auto",
    double_quantization: bool = True,
    compute_dtype: torch.dtype | None = None,
) -> WhisperForConditionalGeneration:
    """Load the frozen base in evaluation mode, straight onto `device`.

    With int8 or nf4 the linear layers of encoder and decoder are quantized by bitsandbytes;
    convolutions, embeddings and the output projection tied to them stay in `dtype`.

    Args:
        attention: auto, sdpa or flash.
        double_quantization: nf4: the scales of its blocks are quantized as well.
        compute_dtype: nf4: of the products with weights read back; None: `dtype`.

    Raises:
        UserError: the files lack weights that the configuration asks for, or FlashAttention is
            asked for and does not run here.
    """
    from lora_whisper.model.device import choose_attention
    from lora_whisper.model.quantization import bitsandbytes_config, settle

    attention = choose_attention(attention, dtype, device)
    if quantization == "none":
        model = _read_whole(checkpoint, dtype, device, attention)
        for name, value in model.named_parameters():
            require_finite(checkpoint.given, name, value)
    else:
        for _ in read_tensors(weight_files(checkpoint)):
            pass  # whose values cannot be looked at once they are quantized
        stored = bitsandbytes_config(quantization, compute_dtype or dtype, double_quantization)
        model = _read_whole(checkpoint, dtype, device, attention, quantization_config=stored)
        settle(model)
    return model.requires_grad_(False).eval()


def _read_whole(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, attention: str, **stored: Any
) -> WhisperForConditionalGeneration:
    """All weights that the configuration asks for; Transformers would draw others at random."""
    from transformers import WhisperForConditionalGeneration
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of reading shards; downloads keep theirs
    loaded: Any = WhisperForConditionalGeneration.from_pretrained(
        snapshot(checkpoint),
        config=load_config(checkpoint),
        generation_config=load_generation_config(checkpoint),
        dtype=dtype,
        device_map={"": device},
        attn_implementation=attention,
        use_safetensors=not is_pickled([path.name for path in weight_files(checkpoint)]),
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        **stored,
    )
    model, report = loaded
    if missing := [f"{key}: missing" for key in sorted(report["missing_keys"])]:
        raise UserError(f"{checkpoint.given} lacks weights:\n{listing(missing)}")
    return cast("WhisperForConditionalGeneration", model)
