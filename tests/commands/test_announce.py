"""What a run says before it begins: null and auto by what they have become."""

import copy
from types import SimpleNamespace

import pytest

from lora_whisper.commands._announce import course
from lora_whisper.commands._composition import defaults
from lora_whisper.composing import to_config
from lora_whisper.config import TrainConfig


def announced(width: int, utterances: int = 0, **training: object) -> str:
    values = copy.deepcopy(defaults("train")) | {"name": "a"}
    values["data"] |= {"train": "a.jsonl"}
    values["training"] |= training
    corpus = SimpleNamespace(utterances=range(utterances))
    speech = SimpleNamespace(validation=corpus, test=corpus if utterances else None)
    config = to_config(TrainConfig, values)
    return "\n".join(course(config, SimpleNamespace(per_epoch=64), width, speech))


@pytest.mark.parametrize(("width", "rate", "micro"), [(384, "0.0015", "8"), (768, "0.000431", "4")])
def test_what_null_becomes_is_said(width: int, rate: str, micro: str) -> None:
    said = announced(width)
    assert f"rate        {rate} at its peak" in said
    assert f"of 16 windows each, {micro} in a forward pass" in said
    assert "steps       150" in said, "the fewest, since 15 epochs of 4 steps are fewer"
    assert "validation  every 25 steps" in said


def test_what_was_typed_and_what_memory_decides() -> None:
    said = announced(384, micro_batch="auto", max_steps=7, validate_every_steps=1)
    assert "steps       7, of 16 windows each, as many as memory holds in a forward pass" in said
    assert "validation  every 1 step" in said


def test_scoring_many_utterances_is_said_with_how_to_score_fewer() -> None:
    assert "evaluation.max_utterances=100 scores a sample" in announced(384, utterances=231)
    assert "max_utterances" not in announced(384, utterances=20)
