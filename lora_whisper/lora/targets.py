"""Which linear layers get an adapter, and of which rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_whisper.config import AdapterConfig
from lora_whisper.errors import UserError

if TYPE_CHECKING:
    from transformers import WhisperConfig

ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
PRESETS = {
    "attention-qv": ("q_proj", "v_proj"),
    "attention": ATTENTION,
    "all-linear": (*ATTENTION, "fc1", "fc2"),
}
SOUND_IN_DECODER = ("encoder_attn.k_proj", "encoder_attn.v_proj")
ATTENTIONS = {"encoder": ("self_attn",), "decoder": ("self_attn", "encoder_attn")}


def target_ranks(config: AdapterConfig, shape: WhisperConfig) -> dict[str, int]:
    """The rank for each layer that gets an adapter, by its path in the model.

    Raises:
        UserError: a range of layers that the checkpoint does not have.
    """
    counts = {"encoder": shape.encoder_layers, "decoder": shape.decoder_layers}
    return {
        f"model.{stack}.layers.{layer}.{name}": getattr(config, f"{stack}_rank") or config.rank
        for stack in (counts if config.stack == "both" else (config.stack,))
        for layer in _layers(stack, getattr(config, f"{stack}_layers"), counts[stack])
        for name in _linear_names(stack, PRESETS[config.targets])
    }


def layer_shapes(shape: WhisperConfig) -> dict[str, tuple[int, ...]]:
    """(outputs, inputs) of each linear layer of a checkpoint, and of its embeddings, by path."""
    width, shapes = shape.d_model, dict[str, tuple[int, ...]]()
    for stack, attentions in ATTENTIONS.items():
        inner = getattr(shape, f"{stack}_ffn_dim")
        for layer in range(getattr(shape, f"{stack}_layers")):
            path = f"model.{stack}.layers.{layer}"
            shapes |= {
                f"{path}.{one}.{name}": (width, width) for one in attentions for name in ATTENTION
            }
            shapes |= {f"{path}.fc1": (inner, width), f"{path}.fc2": (width, inner)}
    embeddings = (shape.vocab_size, width)
    return {**shapes, "model.decoder.embed_tokens": embeddings, "proj_out": embeddings}


def sees_sound(path: str) -> bool:
    """Whether a layer's inputs are of the encoder's positions, and not of the text's tokens."""
    return ".encoder." in path or path.endswith(SOUND_IN_DECODER)


def _linear_names(stack: str, wanted: tuple[str, ...]) -> list[str]:
    """`self_attn.q_proj`, …, `fc2`: the linear layers of one Transformer layer that are wanted."""
    attention = [name for name in wanted if name in ATTENTION]
    return [f"{one}.{name}" for one in ATTENTIONS[stack] for name in attention] + [
        name for name in wanted if name not in ATTENTION
    ]


def _layers(stack: str, given: str | None, count: int) -> range:
    """`24-31`, `24-`, `-7` and `5`, of `count` layers that are numbered from 0."""
    if given is None:
        return range(count)
    first, dash, last = given.partition("-")
    start = int(first) if first else 0
    end = int(last) if last else (count - 1 if dash else start)
    if not start <= end < count:
        raise UserError(
            f"adapter.{stack}_layers={given}: the {stack} has the layers 0 to {count - 1}"
        )
    return range(start, end + 1)
