"""Listening with nano to speech that it knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lora_whisper.config import ModelConfig
from lora_whisper.data.quality_measures import Measured, TextRules, measure
from lora_whisper.evaluation.decoding.whisper import WhisperDecoder
from lora_whisper.labels.evidence import Kept
from lora_whisper.labels.examination import clips_of
from lora_whisper.labels.listening import Clip, Listener, levels_of
from lora_whisper.model.base import read_base
from tests.evaluation.toy_decoder import general_speech, nano
from tests.toy_utterances import toy_utterances

CLIPS = 7


@pytest.fixture(scope="module")
def speech() -> list[Clip]:
    base = read_base(ModelConfig(checkpoint="embedded:nano"))
    rows = [
        {"audio": str(one.audio), "text": one.text, "language": "en"}
        for one in general_speech(CLIPS)
    ]
    rules = TextRules(base.processor.tokenizer, base.special_tokens)
    measured: dict[str, Measured] = measure({"train": toy_utterances(rows)}, rules)
    clips, not_heard = clips_of(base, measured)
    assert (len(clips), not_heard) == (CLIPS, {})
    return clips


@pytest.fixture
def listener(tmp_path: Path) -> Listener:
    toy = nano()
    base = read_base(ModelConfig(checkpoint="embedded:nano"))
    decoder = WhisperDecoder(toy.model, base.processor, base.special_tokens, base.features)
    return Listener(decoder, Kept("nano"))


def test_a_forced_transcript_costs_what_transformers_loss_says(
    listener: Listener, speech: list[Clip]
) -> None:
    from lora_whisper.data.audio import read_audio

    clip, other = speech[:2]
    whisper = listener.whisper
    extractor = read_base(ModelConfig(checkpoint="embedded:nano")).processor.feature_extractor
    samples = read_audio(clip.utterance.audio)
    features = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    text = [*clip.tokens, whisper.config.eos_token_id]
    inputs = torch.tensor([[*clip.prompt, *clip.tokens]])
    with torch.no_grad():
        logits = whisper(features.float(), decoder_input_ids=inputs).logits[0, -len(text) :]
        encoded = whisper.model.encoder(features.float()).last_hidden_state
        texts = [clip.tokens, other.tokens]
        own, _ = listener.forced(clip.prompt, texts, encoded.repeat(2, 1, 1))
    expected = cross_entropy(logits, torch.tensor(text), reduction="none").numpy()
    assert own == pytest.approx(expected, abs=2e-3)


def test_each_transcript_fits_its_own_clip_best(listener: Listener, speech: list[Clip]) -> None:
    listener.listen(speech, speech)
    for clip in speech:
        evidence = listener.kept.evidence(clip.pair_key)
        assert evidence is not None
        assert len(evidence.own) == len(clip.tokens) + 1
        assert evidence.gain > 1.0
        assert sum(count for _, count in evidence.words) == len(clip.tokens)
    sound, text = speech[0], speech[1]
    assert listener.fit(sound, text) > 2 * listener.fit(sound, sound)


def test_what_was_heard_is_not_heard_again(
    listener: Listener, speech: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.listen(speech[:4], speech)
    again = Listener(listener.decoder, Kept("nano"))
    monkeypatch.setattr(WhisperDecoder, "encode", lambda *_: pytest.fail("it is known"))
    told: list[int] = []
    again.listen(speech[:4], speech, told.append)
    assert told == [4]
    for clip in speech[:4]:
        before, now = (one.kept.evidence(clip.pair_key) for one in (listener, again))
        assert before is not None
        assert now is not None
        assert now.own == pytest.approx(before.own, abs=1e-3)
        assert (now.hypothesis, now.edits, now.words) == (
            before.hypothesis,
            before.edits,
            before.words,
        )
    assert Kept("another").evidence(speech[0].pair_key) is None


def test_a_check_that_was_stopped_comes_to_the_same(
    listener: Listener, speech: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which other clips a transcript is forced on does not hang on what was known."""
    listener.listen(speech, speech)
    monkeypatch.setenv("LORA_WHISPER_CACHE", str(tmp_path / "another"))
    stopped = Listener(listener.decoder, Kept("nano"))
    for part in (speech[4:6], speech[:3], speech):
        stopped.listen(part, speech)
    for clip in speech:
        whole, parts = (one.kept.evidence(clip.pair_key) for one in (listener, stopped))
        assert whole is not None
        assert parts is not None
        assert parts.others == pytest.approx(whole.others, abs=2e-3)
        assert parts.own == pytest.approx(whole.own, abs=2e-3)


def test_an_edge_in_the_middle_of_sound_is_loud() -> None:
    generator = np.random.default_rng(0)
    quiet, loud = generator.normal(0, 1e-4, 8_000), generator.normal(0, 0.1, 16_000)
    levels = levels_of(np.concatenate([quiet, loud]).astype(np.float32))
    assert levels.begins < -40
    assert levels.ends > -6
    assert levels.range > 40
    assert levels_of(loud.astype(np.float32)).range < 5
