"""Toys with random weights: their texts mean nothing, but end, and differ with what is heard."""

import dataclasses
import json
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers.utils import logging as transformers_logging

from lora_whisper.data.audio import read_audio
from lora_whisper.data.dataset import Utterance
from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding.decoder import (
    FREE_LETTERS,
    LETTERS_PER_SECOND,
    LOOKS_EVERY_TOKENS,
    BrokenModel,
)
from lora_whisper.evaluation.decoding.long_form import FREE_TOKENS, TOKENS_PER_SECOND, token_limit
from lora_whisper.evaluation.decoding.transcribe import side_by_side, transcribe
from lora_whisper.lora.adapter import adapter_parameters, attach
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import locate
from tests.configs import adapter_config, model_config
from tests.evaluation.toy_decoder import (
    GREEDY,
    IN_BATCHES,
    Toy,
    general_speech,
    make_toy,
    nano,
    prefer,
    utterance,
)
from tests.toy_speech import write_clip
from tests.toys import toy_checkpoint, toy_inputs


@pytest.fixture
def toy() -> Toy:
    return make_toy()


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Five clips of different length, pitch, language and task, in no order."""
    found = []
    for index, seconds in enumerate([0.5, 1.9, 0.2, 1.1, 0.8]):
        clip = write_clip(tmp_path / f"{index}.wav", seconds, frequency=150.0 * (index + 1))
        language = ["en", "de", "zh"][index % 3]
        task = "translate" if index == 4 else "transcribe"
        found.append(utterance(clip, seconds, language=language, task=task))
    return found


@pytest.mark.parametrize("beams", [1, 3])
def test_batching_does_not_change_the_text(
    toy: Toy, utterances: list[Utterance], beams: int
) -> None:
    settings = dataclasses.replace(GREEDY, beams=beams)
    alone = toy.transcribe(utterances, settings)
    together = toy.transcribe(utterances, dataclasses.replace(settings, batch_size=2))
    assert together.texts == alone.texts
    assert len(set(alone.texts)) == len(utterances)
    backwards = toy.transcribe(utterances[::-1], dataclasses.replace(settings, batch_size=5))
    assert backwards.texts[::-1] == alone.texts


@pytest.mark.parametrize("beams", [1, 3])
def test_threads_do_not_change_the_text(toy: Toy, utterances: list[Utterance], beams: int) -> None:
    settings = dataclasses.replace(GREEDY, beams=beams, batch_size=4)
    one, two = toy.decoder, toy.decoder
    one.threads, two.threads = 1, 2
    expected, found = (transcribe(each, utterances * 4, settings) for each in (one, two))
    assert found.texts == expected.texts
    assert found.seconds == expected.seconds


def whispers_own(toy: Toy, one: Utterance, **settings: object) -> str:
    """What Whisper's `generate` hears, which takes language and task by name."""
    window = toy.features(torch.from_numpy(read_audio(one.audio))[None])
    tokens = toy.model.generate(window, **settings)
    return toy.processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()


@pytest.mark.parametrize("beams", [1, 3])
def test_equal_to_whispers_own_generate(toy: Toy, utterances: list[Utterance], beams: int) -> None:
    texts = toy.transcribe(utterances, dataclasses.replace(GREEDY, beams=beams)).texts
    theirs = [
        whispers_own(toy, one, language=one.language, task=one.task, num_beams=beams)
        for one in utterances
    ]
    assert list(texts) == theirs


@pytest.mark.parametrize("beams", [1, 3])
def test_a_prompt_is_that_of_whispers_own_generate(
    toy: Toy, utterances: list[Utterance], beams: int
) -> None:
    settings = dataclasses.replace(GREEDY, beams=beams, batch_size=2)
    texts = toy.transcribe(utterances, settings, prompt="Mwanza, Kilosa").texts
    prompt = torch.from_numpy(toy.processor.get_prompt_ids("Mwanza, Kilosa"))
    theirs = [
        whispers_own(
            toy, one, language=one.language, task=one.task, num_beams=beams, prompt_ids=prompt
        )
        for one in utterances
    ]
    assert list(texts) == theirs
    assert texts != toy.transcribe(utterances, settings).texts


def test_language_and_task_reach_the_decoder(toy: Toy, utterances: list[Utterance]) -> None:
    one = utterances[1]
    variants = [
        one,
        dataclasses.replace(one, language="german"),  # the same as "de"
        dataclasses.replace(one, language="zh"),
        dataclasses.replace(one, task="translate"),
    ]
    texts = toy.transcribe(variants, IN_BATCHES).texts
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_a_language_that_the_checkpoint_lacks(toy: Toy, utterances: list[Utterance]) -> None:
    for language in ("sw", None):
        with pytest.raises(UserError, match=r"data\.language"):
            toy.transcribe([dataclasses.replace(utterances[0], language=language)])


def test_english_only_checkpoints_take_neither(utterances: list[Utterance]) -> None:
    toy = make_toy(multilingual=False)
    english = [dataclasses.replace(one, language=None) for one in utterances]
    alone, together = toy.transcribe(english), toy.transcribe(english, IN_BATCHES)
    assert together.texts == alone.texts
    assert list(alone.texts) == [whispers_own(toy, one) for one in english]


def test_suppressed_tokens_are_not_heard(toy: Toy, utterances: list[Utterance]) -> None:
    ids = toy.processor.tokenizer.get_vocab()
    spoken = "".join(toy.transcribe(utterances).texts)
    letter = next(letter for letter in spoken if letter in ids)
    toy.model.generation_config.suppress_tokens.append(ids[letter])
    assert letter not in "".join(toy.transcribe(utterances).texts)


def test_the_first_token_obeys_begin_suppress_tokens(toy: Toy, utterances: list[Utterance]) -> None:
    """Where eot is the likeliest token everywhere, only the first place resists."""
    prefer(toy.model, [toy.special_tokens.eot], 100.0)
    assert all(len(text) <= 1 for text in toy.transcribe(utterances, IN_BATCHES).texts)
    toy.model.generation_config.begin_suppress_tokens = None
    assert set(toy.transcribe(utterances, IN_BATCHES).texts) == {""}


def test_the_limit_follows_the_duration_and_the_decoder(toy: Toy) -> None:
    short = token_limit(toy.special_tokens, samples=1_600, prompt_tokens=4)
    assert short == FREE_TOKENS + TOKENS_PER_SECOND / 10
    long = token_limit(toy.special_tokens, samples=480_000, prompt_tokens=4)
    assert long == toy.special_tokens.max_tokens - 4 - 1


def test_a_hallucination_ends_at_its_own_limit(toy: Toy, utterances: list[Utterance]) -> None:
    """A model that says one letter for ever: the loop is cut, and beams end at their limit."""
    letter = toy.processor.tokenizer.get_vocab()["a"]
    prefer(toy.model, [letter], 100.0)
    room = toy.special_tokens.max_tokens - 4 - 1
    limits = [
        min(FREE_TOKENS + round(TOKENS_PER_SECOND * one.duration_seconds), room)
        for one in utterances
    ]
    beams = dataclasses.replace(IN_BATCHES, beams=2)
    assert [text.count("a") for text in toy.transcribe(utterances, beams).texts] == limits
    lengths = [len(text) for text in toy.transcribe(utterances, IN_BATCHES).texts]
    for length, limit, one in zip(lengths, limits, utterances, strict=True):
        said = FREE_LETTERS + LETTERS_PER_SECOND * one.duration_seconds
        assert length == limit or said - 1 < length <= said + LOOKS_EVERY_TOKENS
    assert lengths != limits


def test_timestamps_and_special_tokens_are_no_text(toy: Toy, utterances: list[Utterance]) -> None:
    ids = toy.processor.tokenizer.get_vocab()
    prefer(toy.model, [ids["<|0.40|>"]], 1200.0)
    prefer(toy.model, [ids["<|de|>"], ids["<|nocaptions|>"]], 200.0)
    assert set(toy.transcribe(utterances, IN_BATCHES).texts) == {""}


def test_bad_audio_is_reported_and_heard_as_nothing(
    toy: Toy, utterances: list[Utterance], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    mixed = [
        utterances[0],
        utterance(broken, 1.0, row="a.jsonl:2"),
        utterances[1],
        utterance(tmp_path / "absent.wav", 1.5, row="a.jsonl:4"),
    ]
    found = toy.transcribe(mixed, IN_BATCHES)
    whole = toy.transcribe(utterances[:2], IN_BATCHES)
    assert found.texts == (whole.texts[0], "", whole.texts[1], "")
    assert found.seconds == (0.5, 0.0, 1.9, 0.0)
    reasons = {bad.row: bad.reason for bad in found.bad}
    assert reasons.keys() == {"a.jsonl:2", "a.jsonl:4"}
    assert "no such file" in reasons["a.jsonl:4"]
    assert found.audio_seconds == pytest.approx(0.5 + 1.9)
    many = [utterance(broken, 3.0, row=f"a.jsonl:{number}") for number in range(5)]
    assert toy.transcribe([*many, utterances[0]], IN_BATCHES).texts == ("",) * 5 + found.texts[:1]
    assert toy.transcribe(mixed[1:2]).texts == ("",)


def test_slices_are_decoded_apart(toy: Toy, tmp_path: Path) -> None:
    long = write_clip(tmp_path / "long.wav", 4.0)
    part = utterance(long, 1.0, start_seconds=2.5, end_seconds=3.5)
    found = toy.transcribe([part])
    assert found.bad == ()
    assert found.audio_seconds == pytest.approx(1.0)


def test_progress_counts_up_to_all(toy: Toy, utterances: list[Utterance]) -> None:
    seen: list[tuple[int, int]] = []
    transcribe(
        toy.decoder,
        utterances,
        IN_BATCHES,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 5) for done in range(1, 6)]


def adapted(toy: Toy) -> PeftModel:
    """An adapter with B drawn at random, so that it changes what is heard; and dropout."""
    settings = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5, init_lora_weights=False
    )
    torch.manual_seed(0)
    return get_peft_model(toy.model, settings)


def test_an_adapter_is_heard_without_its_dropout(toy: Toy, utterances: list[Utterance]) -> None:
    base = toy.transcribe(utterances, IN_BATCHES).texts
    model = adapted(toy).train()
    wrapped = dataclasses.replace(toy, model=model)
    heard = wrapped.transcribe(utterances, IN_BATCHES).texts
    assert heard != base
    assert wrapped.transcribe(utterances, IN_BATCHES).texts == heard
    assert all(module.training for module in model.modules())
    with model.disable_adapter():
        assert wrapped.transcribe(utterances, IN_BATCHES).texts == base


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_training_goes_on_after_decoding(
    toy: Toy, utterances: list[Utterance], quantization: str, tmp_path: Path
) -> None:
    """What inference mode leaves behind must not stand in the way of a gradient."""
    folder = str(toy_checkpoint(tmp_path / "toy"))
    checkpoint = locate(model_config(folder, dtype="float32"))
    base = load_base(checkpoint, quantization, torch.float32, torch.device("cpu"))
    lora = adapter_config(rank=2, alpha=4.0, targets="attention-qv")
    model = attach(base, lora, quantization, gradient_checkpointing=True, seed=0).train()
    dataclasses.replace(toy, model=model).transcribe(utterances, IN_BATCHES)
    model(**toy_inputs()).logits.float().logsumexp(-1).sum().backward()
    assert all(matrix.grad is not None for matrix in adapter_parameters(model).values())


def test_half_precision_weights(toy: Toy, utterances: list[Utterance]) -> None:
    toy.model.to(torch.bfloat16)
    assert len(set(toy.transcribe(utterances, IN_BATCHES).texts)) > 1


def test_no_warning_reaches_the_user(
    toy: Toy, utterances: list[Utterance], caplog: pytest.LogCaptureFixture
) -> None:
    transformers_logging.warning_once.cache_clear()
    root = logging.getLogger("transformers")
    root.addHandler(caplog.handler)
    try:
        toy.transcribe(utterances, IN_BATCHES)
        toy.transcribe(utterances, dataclasses.replace(IN_BATCHES, beams=2))
    finally:
        root.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records] == []


def test_a_language_that_whisper_lacks_is_heard_under_its_borrowed_token(
    toy: Toy, utterances: list[Utterance]
) -> None:
    lent = [dataclasses.replace(one, language="de") for one in utterances]
    luo = [dataclasses.replace(one, language="luo", language_token="german") for one in utterances]
    english = [dataclasses.replace(one, language="en") for one in utterances]
    assert toy.transcribe(luo).texts == toy.transcribe(lent).texts != toy.transcribe(english).texts


def generated_one_by_one(nano: Toy, clips: list[Utterance]) -> list[str]:
    """Plain Transformers: its features, its `generate`, a clip at a time, with our limit."""
    texts = []
    for clip in clips:
        samples = read_audio(clip.audio)
        inputs = nano.processor(samples, sampling_rate=16_000, return_tensors="pt")
        limit = token_limit(nano.special_tokens, len(samples), prompt_tokens=4)
        tokens = nano.model.generate(
            inputs.input_features, language="en", task="transcribe", max_new_tokens=limit
        )
        texts.append(nano.processor.decode(tokens[0], skip_special_tokens=True).strip())
    return texts


def test_identical_to_transformers_one_by_one_on_speech() -> None:
    hearing, clips = nano(), general_speech(21)
    expected = generated_one_by_one(hearing, clips)
    assert sum(text == clip.text for text, clip in zip(expected, clips, strict=True)) > 5
    for batch_size in (1, 7, 21):
        settings = dataclasses.replace(GREEDY, batch_size=batch_size)
        assert list(hearing.transcribe(clips, settings).texts) == expected


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_of_no_numbers_is_refused(
    toy: Toy, utterances: list[Utterance], beams: int, value: float
) -> None:
    toy.model.model.decoder.layers[1].fc1.weight[0, 0] = value
    with pytest.raises(BrokenModel, match=r"not finite numbers.*lower optimizer\.learning_rate"):
        toy.transcribe(utterances, dataclasses.replace(IN_BATCHES, beams=beams))


def test_a_model_that_says_nothing_is_heard_as_nothing(
    toy: Toy, utterances: list[Utterance]
) -> None:
    prefer(toy.model, [toy.special_tokens.eot], 1000.0)
    toy.model.generation_config.begin_suppress_tokens = None
    for beams in (1, 2):
        for fallback in (False, True):
            settings = dataclasses.replace(
                IN_BATCHES, beams=beams, temperature_fallback=fallback, timestamps=fallback
            )
            found = toy.transcribe(utterances, settings)
            assert set(found.texts) == {""}
            assert set(found.segments) == {()}
            assert found.bad == ()


def test_a_change_is_heard_instead_of_the_clip(toy: Toy, tmp_path: Path) -> None:
    low = write_clip(tmp_path / "low.wav", 1.0, frequency=200.0)
    high = write_clip(tmp_path / "high.wav", 0.5, frequency=400.0)
    seen: list[str] = []

    def twice_as_fast(samples: np.ndarray, one: Utterance) -> np.ndarray:
        seen.append(one.row)
        return samples[::2].copy()

    found = transcribe(toy.decoder, [utterance(low, 1.0)], GREEDY, change=twice_as_fast)
    assert (
        found.texts
        == toy.transcribe([utterance(high, 0.5)]).texts
        != toy.transcribe([utterance(low, 1.0)]).texts
    )
    assert found.seconds == (0.5,)
    assert seen == ["low.wav:1"]


def test_a_change_may_make_a_clip_longer_than_the_window(toy: Toy, tmp_path: Path) -> None:
    clip = utterance(write_clip(tmp_path / "a.wav", 1.5), 1.5)
    found = transcribe(toy.decoder, [clip], GREEDY, change=lambda samples, _: np.tile(samples, 3))
    assert found.seconds == (4.5,)
    assert found.bad == ()


def test_segments_have_the_words_of_the_text_and_their_times() -> None:
    hearing, clips = nano(), general_speech(6)
    plain = hearing.transcribe(clips, IN_BATCHES)
    assert set(plain.segments) == {()}
    found = hearing.transcribe(clips, dataclasses.replace(IN_BATCHES, timestamps=True))
    for text, segments, seconds in zip(found.texts, found.segments, found.seconds, strict=True):
        assert " ".join(segment.text for segment in segments) == text
        times = [time for one in segments for time in (one.start_seconds, one.end_seconds)]
        assert times == sorted(times)
        assert 0 <= times[0] < times[-1] <= seconds + 0.3


def test_hypotheses_are_plain_values(toy: Toy, utterances: list[Utterance]) -> None:
    found = toy.transcribe(utterances, dataclasses.replace(IN_BATCHES, timestamps=True))
    again = json.loads(json.dumps(dataclasses.asdict(found)))
    assert tuple(again["texts"]) == found.texts
    assert len(again["segments"]) == len(again["seconds"]) == len(utterances)


# ── Threads that share rows: all of them are done, and a failure ends all ───────────────────────


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_row_comes_once_from_threads_that_work_at_the_same_time(threads: int) -> None:
    met = threading.Barrier(threads, timeout=20)
    seen: dict[int, int] = {}

    def function(part: Sequence[int]) -> Iterator[int]:
        met.wait()
        for row in part:
            seen[row] = threading.get_ident()
            yield row

    assert sorted(side_by_side(threads, function, range(7))) == list(range(7))
    assert len(set(seen.values())) == threads


def test_pytorchs_threads_are_shared_and_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        found = set(side_by_side(2, lambda part: [torch.get_num_threads()] * len(part), range(4)))
        assert found == {2}
        assert torch.get_num_threads() == 4
        new: list[int] = []
        thread = threading.Thread(target=lambda: new.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert new == [4]
    finally:
        torch.set_num_threads(before)


def test_a_failure_in_one_thread_ends_the_others() -> None:
    failed, given = threading.Event(), []

    def function(part: Sequence[int]) -> Iterator[int]:
        for row in part:
            if row == 1:
                failed.set()
                raise ValueError("row 1")
            failed.wait(20)
            given.append(row)
            yield row

    rows = range(2_000_001)
    with pytest.raises(ValueError, match="row 1"):
        list(side_by_side(2, function, rows))
    assert len(given) < len(rows) // 2


def test_who_stops_listening_stops_the_threads() -> None:
    given: list[int] = []
    before = threading.active_count()

    def function(part: Sequence[int]) -> Iterator[int]:
        for row in part:
            given.append(row)
            yield row

    rows = range(2_000_001)
    for row in side_by_side(2, function, rows):
        if row > 10:
            break
    assert len(given) < len(rows)
    assert threading.active_count() <= before
