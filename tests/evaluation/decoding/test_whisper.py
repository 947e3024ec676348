"""Greedy decoding against Transformers' `generate`, which keeps all that ours sums up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList

from lora_whisper.evaluation.decoding.decoder import DecodingOptions, DecodingTask
from lora_whisper.evaluation.decoding.greedy import drawn, timestamp_rules
from lora_whisper.evaluation.decoding.whisper import TokenLimit, WhisperDecoder
from tests.evaluation.toy_decoder import Toy, make_toy, prefer
from tests.toys import toy_inputs

MOST_TOKENS = (5, 30, 12, 40, 3, 21)
WITH_PROBABILITIES = DecodingOptions(beams=1, probabilities=True)


@pytest.fixture
def toy() -> Toy:
    return make_toy()


def tasks(toy: Toy, timestamps: bool) -> list[DecodingTask]:
    windows = toy_inputs(batch=len(MOST_TOKENS))["input_features"]
    prompt = tuple(toy.special_tokens.start("en", "transcribe", timestamps))
    return [
        DecodingTask(window, prompt, most, (7, index))
        for index, (window, most) in enumerate(zip(windows, MOST_TOKENS, strict=True))
    ]


def allow_timestamps(toy: Toy) -> None:
    prefer(toy.model, range(toy.special_tokens.timestamp_begin, toy.special_tokens.size), 1000.0)


def generated(toy: Toy, asked: list[DecodingTask]) -> Any:
    """Sequences and scores of Transformers' own loop, under its own timestamp rules."""
    decoder, eot = toy.decoder, toy.special_tokens.eot
    prompt = asked[0].prompt
    limit = TokenLimit(torch.tensor([task.most_tokens for task in asked]), len(prompt), eot)
    rules = [*timestamp_rules(decoder.special_tokens, prompt), limit]
    return GenerationMixin.generate(
        toy.model,
        torch.stack([task.features for task in asked]),
        decoder_input_ids=torch.tensor([task.prompt for task in asked]),
        generation_config=GenerationConfig(
            max_length=64,
            eos_token_id=eot,
            pad_token_id=eot,
            output_scores=True,
            return_dict_in_generate=True,
        ),
        logits_processor=LogitsProcessorList(rules),
    )


@pytest.mark.parametrize("timestamps", [False, True])
def test_tokens_and_their_probability_are_those_of_generate(toy: Toy, timestamps: bool) -> None:
    if timestamps:
        allow_timestamps(toy)
    asked = tasks(toy, timestamps)
    with toy.decoder.inference():
        found = toy.decoder.decode(asked, WITH_PROBABILITIES)
        theirs = generated(toy, asked)
    scores = toy.model.compute_transition_scores(
        theirs.sequences, theirs.scores, normalize_logits=True
    )
    for row, result in enumerate(found):
        tokens = theirs.sequences[row, len(asked[row].prompt) :].tolist()
        assert list(result.tokens) == tokens[: tokens.index(toy.special_tokens.eot)]
        count = len(result.tokens)
        summed = float(scores[row, :count].sum())
        if count < asked[row].most_tokens:  # else the limit was reached, and eot not chosen
            summed += float(scores[row, count])
        assert result.mean_log_probability == pytest.approx(summed / (count + 1), abs=1e-5)
    assert len({len(result.tokens) for result in found}) > 3, "they leave at different steps"


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("most", [1, 2, 4])
def test_a_batch_that_is_refilled_has_the_same_texts(toy: Toy, timestamps: bool, most: int) -> None:
    if timestamps:
        allow_timestamps(toy)
    asked = tasks(toy, timestamps)
    taken: list[int] = []

    def watched() -> Iterator[DecodingTask]:
        for number, task in enumerate(asked):
            taken.append(number)
            yield task

    with toy.decoder.inference():
        expected = toy.decoder.decode(asked, DecodingOptions(beams=1))
        found, waiting = {}, []
        for number, result in toy.decoder.decode_as_they_come(watched(), most):
            found[number] = result
            waiting.append(len(taken) - len(found))
    assert [found[number] for number in range(len(asked))] == expected
    assert list(found) != sorted(found) or most == 1, "they are done in another order"
    assert max(waiting) <= most, "no more are taken than there is room for"


def test_no_speech_is_asked_for_right_after_sot(toy: Toy) -> None:
    asked = tasks(toy, timestamps=False)
    with toy.decoder.inference():
        found = toy.decoder.decode(asked, WITH_PROBABILITIES)
        logits = toy.model(
            input_features=torch.stack([task.features for task in asked]),
            decoder_input_ids=torch.tensor([[toy.special_tokens.sot]] * len(asked)),
        ).logits[:, -1]
    expected = logits.softmax(-1)[:, toy.special_tokens.no_speech]
    np.testing.assert_allclose([one.no_speech_probability for one in found], expected, rtol=1e-4)


def test_beams_have_the_probability_of_their_text(toy: Toy) -> None:
    """A text that beams found is no less probable than the greedy one, but for its length."""
    asked = tasks(toy, timestamps=False)
    with toy.decoder.inference():
        greedy = toy.decoder.decode(asked, WITH_PROBABILITIES)
        beams = toy.decoder.decode(asked, DecodingOptions(beams=3, probabilities=True))
        plain = toy.decoder.decode(asked, DecodingOptions(beams=3))
    assert [one.tokens for one in beams] == [one.tokens for one in plain]
    same = [
        (one.mean_log_probability, other.mean_log_probability)
        for one, other in zip(greedy, beams, strict=True)
        if one.tokens == other.tokens
    ]
    assert same
    for one, other in same:
        assert other == pytest.approx(one, abs=1e-5)
    means = [[one.mean_log_probability for one in found] for found in (greedy, beams)]
    assert np.mean(means[1]) > np.mean(means[0])


def hear_drawn(decoder: WhisperDecoder, asked: list[DecodingTask]) -> list[tuple[int, ...]]:
    with decoder.inference():
        found = decoder.decode(asked, DecodingOptions(beams=3, temperature=0.8))
    return [one.tokens for one in found]


def test_draws_depend_on_the_seed_and_on_nothing_else(toy: Toy) -> None:
    decoder, asked = toy.decoder, tasks(toy, timestamps=False)
    together = hear_drawn(decoder, asked)
    torch.manual_seed(3)
    assert [hear_drawn(decoder, [task])[0] for task in asked] == together
    assert hear_drawn(decoder, asked[::-1])[::-1] == together
    other = [
        DecodingTask(task.features, task.prompt, task.most_tokens, (8, *task.seed[1:]))
        for task in asked
    ]
    assert hear_drawn(decoder, other) != together


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    scores = torch.tensor([[0.0, 1.0, -torch.inf, 2.0, -1.0]])
    draws = 20_000
    uniforms = torch.from_numpy(np.random.default_rng(0).random(draws))
    found = drawn(scores.expand(draws, -1), uniforms).bincount(minlength=5) / draws
    torch.testing.assert_close(found, scores[0].softmax(-1), atol=0.012, rtol=0)  # 3.5 deviations
    assert found[2] == 0


def test_the_ends_of_the_draw_are_tokens_that_may_be() -> None:
    scores = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]] * 2)
    assert drawn(scores, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 2]
