"""Rules of Radford et al. 2022, section 4.5, on results that are given, and on a toy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch

from lora_whisper.evaluation.fallback import compression_ratio, decode_with_fallback, is_silence
from lora_whisper.evaluation.recognizer import DecodingOptions, DecodingResult, DecodingTask
from lora_whisper.model.features import LogMel
from tests.evaluation.toy_listener import GREEDY, make_toy, utterance
from tests.toy_speech import write_clip

GREEDILY = DecodingOptions(beams=5, probabilities=True)
FINE, REPEATED = "nothing is wrong with this", "again " * 20


class Scripted:
    """Gives each task the text, log-probability and no-speech probability of a script."""

    threads = 1
    draws_by_seed = True
    features = LogMel(16, 2.0)

    def __init__(self, script: dict[int, dict[float, tuple[str, float, float]]]):
        toy = make_toy()
        self.vocabulary, self.tokenizer = toy.vocabulary, toy.processor.tokenizer
        self.script = script
        self.asked: list[tuple[float, list[int]]] = []

    def decode(
        self, tasks: Sequence[DecodingTask], options: DecodingOptions
    ) -> list[DecodingResult]:
        names = [task.seed[0] for task in tasks]
        self.asked.append((options.temperature, names))
        return [self._result(name, options.temperature) for name in names]

    def _result(self, name: int, temperature: float) -> DecodingResult:
        text, log_probability, no_speech = self.script[name][temperature]
        tokens = self.tokenizer(text, add_special_tokens=False).input_ids
        return DecodingResult(tuple(tokens), temperature, log_probability, no_speech)

    def listening(self) -> AbstractContextManager[None]:
        return nullcontext()


def named(count: int) -> list[DecodingTask]:
    return [DecodingTask(torch.zeros(16, 200), (0,), 40, (name,)) for name in range(count)]


def test_only_what_failed_is_decoded_again_until_it_does_not() -> None:
    recognizer = Scripted(
        {
            0: {0.0: (FINE, -0.5, 0.0)},
            1: {0.0: (REPEATED, -0.1, 0.0), 0.2: (REPEATED, -0.2, 0.9), 0.4: (FINE, -0.9, 0.0)},
            2: {0.0: (FINE, -1.1, 0.0), 0.2: (FINE, -0.99, 0.0)},
            3: {0.0: (FINE, -1.1, 0.7)},  # nobody speaks
        }
    )
    results = decode_with_fallback(recognizer, named(4), GREEDILY)
    assert recognizer.asked == [(0.0, [0, 1, 2, 3]), (0.2, [1, 2]), (0.4, [1])]
    assert [result.temperature for result in results] == [0.0, 0.4, 0.2, 0.0]


def test_the_last_temperature_stands() -> None:
    bad = {step / 5: (REPEATED, -step / 10, 0.0) for step in range(6)}
    recognizer = Scripted({0: bad})
    (result,) = decode_with_fallback(recognizer, named(1), GREEDILY)
    assert [temperature for temperature, _ in recognizer.asked] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert (result.temperature, result.mean_log_probability) == (1.0, -0.5)


@pytest.mark.parametrize(
    ("log_probability", "no_speech", "silent"),
    [(-1.1, 0.61, True), (-0.9, 0.61, False), (-1.1, 0.6, False)],
)
def test_silence_is_improbable_text_where_nobody_probably_speaks(
    log_probability: float, no_speech: float, silent: bool
) -> None:
    assert is_silence(DecodingResult((), 0.0, log_probability, no_speech)) is silent


def test_compression_ratio() -> None:
    assert compression_ratio("") == 0
    assert compression_ratio("The quick brown fox jumps over the lazy dog.") < 1
    assert compression_ratio("thank you " * 30) > 2.4


def test_fallback_on_a_toy_is_the_same_in_any_batch_and_another_for_another_seed(
    tmp_path: Path,
) -> None:
    """Random weights are sure of nothing, so that everything is drawn."""
    toy = make_toy()
    clips = [
        utterance(
            write_clip(tmp_path / f"{index}.wav", seconds, frequency=150.0 * (index + 1)), seconds
        )
        for index, seconds in enumerate([0.5, 1.9, 0.2, 1.1, 0.8])
    ]
    settings = dataclasses.replace(GREEDY, temperature_fallback=True)
    alone = toy.hear(clips, settings)
    assert alone.texts != toy.hear(clips).texts
    assert (
        toy.hear(clips[::-1], dataclasses.replace(settings, batch_size=5)).texts[::-1]
        == alone.texts
    )
    assert toy.hear(clips[3:], settings).texts == alone.texts[3:]
    assert toy.hear(clips, settings, seed=1).texts != alone.texts
    renamed = [dataclasses.replace(one, row=f"{one.row[:-1]}2") for one in clips]
    other = toy.hear(renamed, settings).texts
    assert all(one != text for one, text in zip(other, alone.texts, strict=True))


def test_what_fallback_takes_for_silence_has_no_text(tmp_path: Path) -> None:
    toy = make_toy()
    clip = utterance(write_clip(tmp_path / "a.wav", 1.0), 1.0)
    settings = dataclasses.replace(GREEDY, temperature_fallback=True)
    assert toy.hear([clip], settings).texts != ("",)
    bias = torch.zeros(toy.vocabulary.size)
    bias[toy.vocabulary.no_speech] = 50.0  # which the suppressed tokens of the toy do not hold
    toy.model.generation_config.suppress_tokens.append(toy.vocabulary.no_speech)
    toy.model.proj_out.bias += bias
    assert toy.hear([clip], settings).texts == ("",)
