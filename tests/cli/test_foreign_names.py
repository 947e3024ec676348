"""What other programs call a setting is answered with ours, and the answer can be typed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lora_whisper.cli.foreign_names import FOREIGN, FOREIGN_OPTIONS, ours_for
from lora_whisper.cli.misfits import known_keys, unknown_key
from lora_whisper.config import TrainConfig
from lora_whisper.schema import from_values
from tests.composed import train_values

TRAIN = set(known_keys("train"))
# In whose place a value of one's own is typed; each fits.
EXAMPLES = {
    "name": "mine",
    "adapter": "dora",
    "adapter.targets": "attention",
    "adapter.layers": "decoder.6-",
    "model.attention": "sdpa",
    "optimizer.warmup": "0.1",
    "optimizer.schedule": "cosine",
    "quantization": "int8",
    "tracking": "wandb",
    "training.precision": "bf16",
    "training.global_batch": "8",
    "data.validation": "validation.jsonl",
}
ANSWERS = sorted({ours.typed.replace("=…", "=") for ours in FOREIGN.values() if ours.typed})


def test_every_answer_is_a_key_or_an_option_of_train() -> None:
    options = [ours for ours in FOREIGN.values() if ours.typed and ours.typed[-2:] != "=…"]
    assert {ours.typed.partition("=")[0] for ours in options} <= TRAIN


def test_every_answer_composes() -> None:
    """All at once but for those of one key: a second one takes the first one's place."""
    rest = list(ANSWERS)
    while rest:
        now: dict[str, str] = {}
        later = []
        for answer in rest:
            key, _, value = answer.partition("=")
            one = value or (EXAMPLES[key] if answer.endswith("=") else "")
            if key in now or any(key.startswith(f"{other}.") for other in now):
                later.append(answer)
            elif one:
                now[key] = one
        rest = later if now else []
        if now:
            train_values(*(f"{key}={value}" for key, value in now.items()))


def test_every_option_by_another_name_composes() -> None:
    for group, names in FOREIGN_OPTIONS.items():
        for answer in set(names.values()):
            train_values(*f"{group}={answer}".split())


@pytest.mark.parametrize(
    ("typed", "value", "advice"),
    [
        ("training.batch_size", "4", "Type training.micro_batch=4"),
        ("train.batch_size", "4", "Type training.micro_batch=4"),
        ("lora.r", "4", "Type adapter.rank=4."),
        ("r", "8", "Type adapter.rank=8."),
        ("peft_config.lora_alpha", "8", "Type adapter.alpha=8."),
        ("lr", "1e-4", "Type optimizer.learning_rate=1e-4."),
        ("optim.lr", "1e-4", "Type optimizer.learning_rate=1e-4."),
        ("epochs", "3", "Type training.max_epochs=3."),
        ("output_dir", "out", "Type name=…"),
        ("per_device_train_batch_size", "4", "Type training.micro_batch=4"),
        ("load_in_4bit", "true", "Type quantization=nf4."),
        ("fp16", "true", "Type training.precision=fp16."),
        ("gradient_accumulation_steps", "4", "Type training.global_batch=…"),
        ("push_to_hub", "true", "lora-whisper push"),
        # ours, but not whole or not spelt so
        ("learning_rate", "1", "Did you mean optimizer.learning_rate?"),
        ("language", "sw", "Did you mean data.language?"),
        ("evaluaton.batch_size", "1", "Did you mean evaluation.batch_size?"),
        ("eval.batch_size", "1", "Did you mean evaluation.batch_size?"),
        ("augmentation.noise.share", "1", "Type augmentation=noise as well"),
    ],
)
def test_train_answers_with_ours(typed: str, value: str, advice: str) -> None:
    assert advice in unknown_key(typed, value, "train")


@pytest.mark.parametrize(
    ("command", "key", "answer"),
    [
        ("evaluate", "experiment", "train, search, check and plan have it"),
        ("merge", "adapter.rank", "train, search and plan have it"),
        ("merge", "lora.r", "It is called adapter.rank here"),
        ("push", "model", "train, search, check and plan have it"),
        ("check", "overwirte", "Did you mean overwrite?"),
    ],
)
def test_a_key_of_other_commands_is_said_to_be_theirs(command: str, key: str, answer: str) -> None:
    said = unknown_key(key, "1", command)
    assert answer in said
    assert f"Did you mean {key}?" not in said


def test_names_are_known_in_any_spelling() -> None:
    assert ours_for("--Learning-Rate".lstrip("-")) is None, "it is ours already"
    assert ours_for("Num-Train-Epochs") == FOREIGN["num_train_epochs"]
    assert not TRAIN & {name for name in FOREIGN if name not in ("timestamps",)}


def test_the_answers_make_a_configuration() -> None:
    values = train_values("name=x", "data.train=a.jsonl", "adapter.targets=attention")
    assert replace(from_values(TrainConfig, values), name="y").name == "y"
