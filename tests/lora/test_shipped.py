"""What is said of a saved adapter: its ranks, and whether vLLM serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_whisper.lora.adapter import attach, save_adapter
from lora_whisper.lora.delta_weights import (
    DeltaWeights,
    delta_weights_of,
    read_delta_weights,
    write_delta_weights,
)
from lora_whisper.lora.saved import (
    VLLM_RANKS,
    exported_ranks,
    vllm_is_to_be_compared,
    vllm_max_rank,
    vllm_obstacles,
)
from lora_whisper.model.checkpoint import Checkpoint
from tests.configs import adapter_config
from tests.toys import toy_model

BASE = Checkpoint("owner/toy", None, "owner/toy")
PER_STACK = {"encoder_rank": 4, "decoder_rank": 8}


def saved(folder: Path, kind: str = "lora", tokens: tuple[int, ...] = (), **changes: Any) -> Path:
    config = adapter_config(kind, **({"rank": 8} | changes))
    save_adapter(attach(toy_model(), config, "none", False, 0, tokens), folder, BASE)
    return folder


@pytest.mark.parametrize(
    ("kind", "tokens", "changes", "obstacles"),
    [
        ("lora", (), {}, []),
        ("rslora", (), {}, []),
        ("eva", (), {}, []),
        ("lora", (), {"stack": "encoder", "encoder_rank": 4}, []),
        ("dora", (), {}, ["DoRA is not served"]),
        ("lora", (264,), {}, ["re-learnt token embeddings are not served"]),
        ("lora", (), {"rank": 520}, ["rank 520 is over its limit of 512"]),
        ("lora", (), PER_STACK, ["the layers' scales differ"]),
        ("rslora", (), PER_STACK, ["the layers' scales differ"]),
    ],
)
def test_obstacles_of_vllm(
    tmp_path: Path,
    kind: str,
    tokens: tuple[int, ...],
    changes: dict[str, Any],
    obstacles: list[str],
) -> None:
    found = vllm_obstacles(saved(tmp_path, kind, tokens, **changes))
    assert len(found) == len(obstacles)
    assert all(one.startswith(start) for one, start in zip(found, obstacles, strict=True))


def test_a_plain_adapter_of_many_ranks_is_served(tmp_path: Path) -> None:
    """Its scale is 1 in every layer, which is what vLLM takes for all of them."""
    config = adapter_config(rank=8, **PER_STACK)
    model = attach(toy_model(), config, "none", False, 0)
    write_delta_weights(delta_weights_of(model), tmp_path, BASE)
    assert exported_ranks(tmp_path) == (4, 8)
    assert vllm_obstacles(tmp_path) == []


@pytest.mark.parametrize(("rank", "asked"), [(1, 1), (3, 8), (8, 8), (9, 16), (300, 320)])
def test_the_rank_to_ask_vllm_for(tmp_path: Path, rank: int, asked: int) -> None:
    assert asked in VLLM_RANKS
    assert vllm_max_rank(saved(tmp_path, rank=rank, targets="attention-qv")) == asked


def test_layers_that_see_sound_are_not_vouched_for(tmp_path: Path) -> None:
    """The decoder's keys and values of the sound see it as well as the encoder."""
    encoder = saved(tmp_path / "encoder", stack="encoder")
    decoder = saved(tmp_path / "decoder", stack="decoder", targets="attention-qv")
    assert vllm_is_to_be_compared(encoder)
    assert vllm_is_to_be_compared(decoder)
    text = saved(tmp_path / "text", stack="decoder", targets="attention-qv")
    plain = read_delta_weights(text)
    kept = {path: pair for path, pair in plain.matrices.items() if "encoder_attn" not in path}
    write_delta_weights(DeltaWeights(kept, {}), text, BASE)
    assert not vllm_is_to_be_compared(text)
