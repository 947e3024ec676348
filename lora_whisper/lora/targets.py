"""Which linear layers get an adapter, and of which rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_whisper.config import AdapterConfig
from lora_whisper.errors import UserError
from lora_whisper.layers import numbers

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
    wanted, ranks = PRESETS[config.targets], dict[str, int]()
    for module, given in config.ranges.items():
        # self_attn.q_proj, …, fc2: the linear layers of one Transformer layer that are wanted.
        names = [
            f"{one}.{name}" for one in ATTENTIONS[module] for name in wanted if name in ATTENTION
        ]
        names += [name for name in wanted if name not in ATTENTION]
        rank = getattr(config, f"{module}_rank") or config.rank
        for layer in _layers(module, given, getattr(shape, f"{module}_layers")):
            ranks |= {f"model.{module}.layers.{layer}.{name}": rank for name in names}
    return ranks


def layer_shapes(shape: WhisperConfig) -> dict[str, tuple[int, ...]]:
    """(outputs, inputs) of each linear layer of a checkpoint, and of its embeddings, by path."""
    width, shapes = shape.d_model, dict[str, tuple[int, ...]]()
    for module, attentions in ATTENTIONS.items():
        inner = getattr(shape, f"{module}_ffn_dim")
        for layer in range(getattr(shape, f"{module}_layers")):
            path = f"model.{module}.layers.{layer}"
            shapes |= {
                f"{path}.{one}.{name}": (width, width) for one in attentions for name in ATTENTION
            }
            shapes |= {f"{path}.fc1": (inner, width), f"{path}.fc2": (width, inner)}
    embeddings = (shape.vocab_size, width)
    return {**shapes, "model.decoder.embed_tokens": embeddings, "proj_out": embeddings}


def sees_sound(path: str) -> bool:
    """Whether a layer's inputs are of the encoder's positions, and not of the text's tokens."""
    return ".encoder." in path or path.endswith(SOUND_IN_DECODER)


def _layers(module: str, given: str, count: int) -> range:
    found = numbers(given, count)
    if found is None:
        raise UserError(
            f"adapter.layers={module}.{given}: the {module} has the layers 0 to {count - 1}"
        )
    return found
