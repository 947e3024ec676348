"""What is said before a run or an evaluation begins: null and auto by what they have become."""

from types import SimpleNamespace

import pytest

from lora_whisper.config import TrainConfig
from lora_whisper.data.loader import WindowKind
from lora_whisper.evaluation.workload import further_decoding
from lora_whisper.schema import from_values
from lora_whisper.training.announce import course


def announced(width: int, micro_batch: int = 2, utterances: int = 0, **training: object) -> str:
    corpus = SimpleNamespace(utterances=range(utterances))
    speech = SimpleNamespace(validation=corpus, test=corpus if utterances else None)
    data = {"train": "a.jsonl"}
    config = from_values(TrainConfig, {"name": "a", "data": data, "training": training})
    windows = SimpleNamespace(per_epoch=64, steps_per_epoch=4, kind=WindowKind("padded"))
    base = SimpleNamespace(window_seconds=30.0)
    return "\n".join(course(config, base, windows, width, micro_batch, speech))


@pytest.mark.parametrize(("width", "rate"), [(384, "0.0015"), (768, "0.000431")])
def test_what_null_becomes_is_said(width: int, rate: str) -> None:
    said = announced(width)
    assert f"rate        {rate} at its peak" in said
    assert "steps       50, of 16 windows each, 2 in a forward pass" in said, (
        "the fewest, since 8 epochs of 4 steps are fewer"
    )
    assert "epochs      12.5, of 64 windows each" in said
    assert "validation  every 25 steps" in said


@pytest.mark.parametrize(("width", "asked", "word"), [(768, None, "kept"), (1024, None, "twice")])
def test_what_becomes_of_activations(width: int, asked: bool | None, word: str) -> None:
    assert word in announced(width)
    assert "twice" in announced(width, gradient_checkpointing=True)


def test_what_was_typed_goes_first() -> None:
    said = announced(384, micro_batch=99, max_steps=7, validate_every_steps=1)
    assert "steps       7, of 16 windows each, 16 in a forward pass" in said, "all there are"
    assert "validation  every 1 step" in said
    assert "epochs      1.8, of 64 windows each" in said, "in the form that the summary has it"


def test_a_short_run_is_validated_once() -> None:
    said = announced(384, max_steps=1)
    assert "validation  once, at the end" in said
    assert "epochs      0.2, of 64 windows each" in said


def test_how_many_utterances_are_scored_and_how_many_at_once() -> None:
    assert "scoring     231 utterances, 16 at once" in announced(384, utterances=231)
    assert "scoring     20 utterances, 4 at once" in announced(1024, utterances=20)
    assert "scoring" not in announced(384)


def test_an_evaluation_says_what_each_model_will_decode() -> None:
    def loaded(role: str, utterances: int) -> SimpleNamespace:
        return SimpleNamespace(role=role, corpus=SimpleNamespace(utterances=range(utterances)))

    sets = [loaded("test", 100), loaded("training", 40), loaded("retention", 10)]
    more = SimpleNamespace(diagnostics=True, adapter_scales=(0.5, 0.75))
    entries = [SimpleNamespace(adapter=None), SimpleNamespace(adapter="outputs/a/adapter")]
    plan = SimpleNamespace(
        words=(),
        prompts=False,
        card=False,
        conditions=("noise", "telephone"),
        more=more,
        entries=entries,
    )
    assert list(further_decoding(plan, sets)) == [
        "conditions  noise, telephone: each test utterance again in each of them",
        "no speech   16 clips without any: what does a model write there?",
        "scales      0.5, 0.75 of each adapter",
        "to decode   952 utterances in all, without those that were before",
    ]
    plan.conditions, more.diagnostics, more.adapter_scales = (), False, ()
    (line,) = further_decoding(plan, sets[:1])
    assert line.startswith("to decode   200 utterances in all")
