"""What a corpus keeps, what it leaves out, and what it refuses."""

import dataclasses
import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.config import DataConfig
from lora_whisper.data import corpus as corpus_module
from lora_whisper.data.audio import AudioError
from lora_whisper.data.corpus import Corpus, keep_what_fits, load_corpus, sample
from lora_whisper.data.dataset import Defaults, Table, Utterance, Utterances
from lora_whisper.errors import UserError
from lora_whisper.model.tokenizer import SpecialTokens, text_tokens
from tests.configs import data_config
from tests.model.test_tokenizer import toy_special_tokens
from tests.toy_speech import tone, write_clip
from tests.toy_tokenizers import toy_tokenizer
from tests.toy_utterances import manifest_utterances, toy_row

SWAHILI = Path("../shared/speech/swahili")

FAIL = data_config(language="en", long_audio="fail")
SKIP = dataclasses.replace(FAIL, bad_audio="drop", long_audio="drop")


def corpus_of(
    folder: Path, rows: list[dict[str, Any]], config: DataConfig, window_seconds: float = 5.0
) -> Corpus:
    return load_corpus(manifest_utterances(folder, rows, config), "train", config, window_seconds)


@pytest.fixture
def mixed(tmp_path: Path) -> Utterances:
    """Rows 1 and 5 are good, 2 is missing, 3 no audio, 4 too long, 6 too short."""
    write_clip(tmp_path / "good.wav", 1.0)
    write_clip(tmp_path / "long.wav", 6.0)
    write_clip(tmp_path / "short.wav", 0.05)
    (tmp_path / "text.wav").write_text("no audio")
    names = ["good", "missing", "text", "long"]
    rows: list[dict[str, Any]] = [{"audio": f"{name}.wav", "text": name} for name in names]
    rows.append({"audio": "long.wav", "text": "a slice", "start": 1.0, "end": 3.5})
    rows.append({"audio": "short.wav", "text": "short"})
    return manifest_utterances(tmp_path, rows, FAIL)


def test_durations_are_those_of_the_slices(tmp_path: Path) -> None:
    write_clip(tmp_path / "1.wav", 4.0, rate=22_050)
    slices: list[dict[str, Any]] = [{}, {"start": 1.5}, {"end": 1}, {"start": 1, "end": 1.25}]
    rows = [{"audio": "1.wav", "text": "a"} | each for each in slices]
    corpus = corpus_of(tmp_path, rows, FAIL)
    assert [one.duration_seconds for one in corpus.utterances] == [4.0, 2.5, 1.0, 0.25]
    assert corpus.seconds == 7.75
    assert corpus.hours == pytest.approx(7.75 / 3600)


def test_skip_leaves_out_and_counts(mixed: Utterances) -> None:
    corpus = load_corpus(mixed, "train", SKIP, window_seconds=5.0)
    assert [one.text for one in corpus.utterances] == ["good", "a slice"]
    bad = corpus.left_out["with audio that cannot be read"]
    assert [row.partition(": ")[0] for row in bad] == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:6"]
    (long,) = corpus.left_out["longer than the window of 5 s"]
    assert long.startswith("a.jsonl:4: ")


def test_fail_names_every_such_row_in_one_message(mixed: Utterances) -> None:
    with pytest.raises(UserError) as error:
        load_corpus(mixed, "train", FAIL, window_seconds=5.0)
    message = str(error.value)
    for expected in (
        "a.jsonl:2: ",
        "no such file",
        "a.jsonl:3: ",
        "does not decode",
        "a.jsonl:4: ",
        "6.00 s",
        "1 longer than the window of 5 s",
        "data.bad_audio=drop",
        "data.long_audio=drop",
    ):
        assert expected in message


def test_each_policy_stands_alone(mixed: Utterances) -> None:
    bad_only = dataclasses.replace(SKIP, bad_audio="fail")
    with pytest.raises(UserError) as error:
        load_corpus(mixed, "train", bad_only, window_seconds=5.0)
    assert "long.wav" not in str(error.value)
    assert load_corpus(mixed, "train", SKIP, window_seconds=30.0).left_out.keys() == {
        "with audio that cannot be read"
    }


def test_a_clip_as_long_as_the_window_is_not_too_long(tmp_path: Path) -> None:
    write_clip(tmp_path / "1.wav", 40.0, rate=8_000)
    row = {"audio": "1.wav", "text": "a", "start": 5.3, "end": 35.3}  # 29.999999999999996 s
    more = row | {"start": 2.2, "end": 32.2}  # 30.000000000000004 s
    assert len(corpus_of(tmp_path, [row, more], FAIL, 30.0).utterances) == 2


def test_an_empty_split_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"split 'train' of a\.jsonl .* it has no rows"):
        corpus_of(tmp_path, [], FAIL)


def test_a_split_that_is_empty_after_leaving_out_says_why(mixed: Utterances) -> None:
    with pytest.raises(UserError) as error:
        load_corpus(mixed, "train", SKIP, window_seconds=0.5)
    assert "3 with audio that cannot be read" in str(error.value)
    assert "3 longer than the window of 0.5 s" in str(error.value)


def small_corpus(folder: Path, **columns: Any) -> Corpus:
    write_clip(folder / "1.wav", 1.0)
    rows = [{"audio": "1.wav", "text": "hi", **columns}, {"audio": "1.wav", "text": "hi hi hi"}]
    return corpus_of(folder, rows, FAIL)


def short_decoder(max_tokens: int) -> SpecialTokens:
    return dataclasses.replace(toy_special_tokens(), max_tokens=max_tokens)


def test_texts_longer_than_the_decoder_are_left_out(tmp_path: Path) -> None:
    # " hi" is 3 tokens; sot, language, task and no-timestamps stand before it
    corpus, tokenizer = small_corpus(tmp_path), toy_tokenizer()
    assert len(keep_what_fits(corpus, tokenizer, short_decoder(13), FAIL).utterances) == 2
    kept = keep_what_fits(corpus, tokenizer, short_decoder(12), SKIP)
    assert [one.text for one in kept.utterances] == ["hi"]
    assert kept.left_out == {"with a text longer than 12 tokens": ("a.jsonl:2: 13 tokens",)}
    with pytest.raises(UserError, match=r"1 with a text longer than 12 tokens.*long_audio"):
        keep_what_fits(corpus, tokenizer, short_decoder(12), FAIL)


def test_texts_are_counted_as_they_will_be_learnt(tmp_path: Path) -> None:
    """Digits make a short text a long one, once they are spelled."""
    write_clip(tmp_path / "1.wav", 1.0)
    rows = [{"audio": "1.wav", "text": text} for text in ("777777", "hi", "[noise] hi")]
    corpus, tokenizer, decoder = corpus_of(tmp_path, rows, SKIP), toy_tokenizer(), short_decoder(14)
    assert len(keep_what_fits(corpus, tokenizer, decoder, SKIP).utterances) == 2
    cleaned = keep_what_fits(corpus, tokenizer, decoder, SKIP, ("digits", "annotations"))
    assert [one.text for one in cleaned.utterances] == ["hi", "[noise] hi"]


def test_languages_are_named_by_code_afterwards(tmp_path: Path) -> None:
    corpus = small_corpus(tmp_path, language="Chinese")
    kept = keep_what_fits(corpus, toy_tokenizer(), toy_special_tokens(), FAIL)
    assert [one.language for one in kept.utterances] == ["zh", "en"]


def test_an_unknown_language_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    corpus = small_corpus(tmp_path, language="klingon")
    with pytest.raises(UserError, match=r"a\.jsonl:1: .*does not know the language 'klingon'"):
        keep_what_fits(corpus, toy_tokenizer(), toy_special_tokens(), FAIL)


def test_an_english_only_checkpoint_cannot_translate(tmp_path: Path) -> None:
    special_tokens = toy_special_tokens(multilingual=False)
    with pytest.raises(UserError, match="cannot translate"):
        keep_what_fits(
            small_corpus(tmp_path, task="translate"), toy_tokenizer(False), special_tokens, FAIL
        )


def test_a_sample_is_fixed_and_in_order() -> None:
    table = Table.from_rows(toy_row(number) for number in range(10))
    utterances = Utterances([table], Defaults("en", "transcribe"))
    chosen = sample(utterances, 4, seed=1)
    assert list(chosen) == list(sample(utterances, 4, seed=1))
    assert list(chosen) != list(sample(utterances, 4, seed=2))
    assert chosen.rows.tolist() == sorted({*chosen.rows.tolist()})
    assert len(chosen) == 4
    assert sample(utterances, None, seed=1) is sample(utterances, 99, seed=1) is utterances


# ── long clips ───────────────────────────────────────────────────────────────────────────────

SPLIT = dataclasses.replace(FAIL, long_audio="split")


def in_seconds(
    utterance: Utterance, window_seconds: float, by_pauses: bool
) -> list[Utterance] | None:
    """Cut after each second; "whole" cannot be cut, and "broken" does not decode."""
    if utterance.text == "broken":
        raise AudioError("broken.wav: does not decode")
    if utterance.text == "whole":
        return None
    ends = range(1, int(utterance.duration_seconds) + 1)
    return [
        dataclasses.replace(
            utterance,
            text=f"{utterance.text} {end}",
            start_seconds=end - 1.0,
            end_seconds=float(end),
            duration_seconds=1.0,
        )
        for end in ends
    ]


@pytest.fixture
def cut_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_whisper.data.corpus.split_long", in_seconds)


@pytest.mark.usefixtures("cut_in_seconds")
def test_pieces_stand_in_the_place_of_long_clips(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_clip(tmp_path / "1.wav", 1.0)
    write_clip(tmp_path / "3.wav", 3.0)
    texts = {"a": 1, "whole": 3, "b": 3, "c": 1, "broken": 3, "gone": 9, "d": 3, "short": 1}
    rows = [{"audio": f"{clip}.wav", "text": text} for text, clip in texts.items()]
    config = dataclasses.replace(SPLIT, bad_audio="drop")
    with caplog.at_level(logging.INFO, "lora_whisper"):
        corpus = corpus_of(tmp_path, rows, config, window_seconds=2.0)
    texts_left = [one.text for one in corpus.utterances]
    assert texts_left == ["a", "b 1", "b 2", "b 3", "c", "d 1", "d 2", "d 3", "short"]
    assert corpus.seconds == len(corpus.utterances)
    (unsplit,) = corpus.left_out["longer than the window of 2 s that cannot be split"]
    assert unsplit.startswith("a.jsonl:2: ")
    bad = corpus.left_out["with audio that cannot be read"]
    assert [line.partition(": ")[0] for line in bad] == ["a.jsonl:6", "a.jsonl:5"]
    assert "2 clips over 2 s into 6 pieces" in caplog.text


@pytest.mark.usefixtures("cut_in_seconds")
def test_audio_that_breaks_while_it_is_split_is_refused_too(tmp_path: Path) -> None:
    write_clip(tmp_path / "3.wav", 3.0)
    rows = [{"audio": "3.wav", "text": text} for text in ("b", "broken")]
    with pytest.raises(UserError, match=r"a\.jsonl:2: broken\.wav: does not decode"):
        corpus_of(tmp_path, rows, SPLIT, window_seconds=2.0)


def test_a_long_clip_with_boundaries_of_its_own_is_cut_there(tmp_path: Path) -> None:
    write_clip(tmp_path / "3.wav", 3.0)
    segments = [{"start": 0, "end": 1.4, "text": "one"}, {"start": 1.6, "end": 3, "text": " two"}]
    rows = [{"audio": "3.wav", "text": "one two", "segments": segments}]
    corpus = corpus_of(tmp_path, rows, SPLIT, window_seconds=2.0)
    assert [one.text for one in corpus.utterances] == ["one", "two"]
    assert [one.duration_seconds for one in corpus.utterances] == pytest.approx([1.5, 1.5])
    assert [one.start_seconds for one in corpus.utterances] == pytest.approx([0.0, 1.5])
    assert corpus.left_out == {}


# ── texts and tokens ─────────────────────────────────────────────────────────────────────────


@settings(deadline=None)
@given(st.lists(st.text("aé\u0958\u0301 \u3000ก한😀", max_size=12), min_size=1, max_size=4))
def test_only_texts_that_may_be_too_long_are_tokenized(texts: list[str]) -> None:
    """None that is too long is missed, though NFC lengthens some (U+0958 to twice its bytes)."""
    table = Table.from_rows(toy_row(text=text) for text in texts)
    utterances = Utterances([table], Defaults("en", "transcribe"))
    tokenizer = toy_tokenizer()
    for room in (3, 8, 20):
        longer = [
            index
            for index, text in enumerate(texts)
            if len(text_tokens(tokenizer, text, "en")) > room
        ]
        perhaps = corpus_module._perhaps_too_long(utterances, room)
        assert {*longer} <= {*perhaps}
        for index in perhaps:
            assert len(unicodedata.normalize("NFC", texts[index]).encode()) + 1 > room


def test_a_language_that_whisper_lacks_borrows_a_token(tmp_path: Path) -> None:
    luo = dataclasses.replace(FAIL, language="luo", language_token="English")
    write_clip(tmp_path / "1.wav", 1.0)
    rows: list[dict[str, Any]] = [{}, {"language": "luo"}, {"language": "chinese"}]
    corpus = corpus_of(tmp_path, [{"audio": "1.wav", "text": "a"} | row for row in rows], luo)
    kept = keep_what_fits(corpus, toy_tokenizer(), toy_special_tokens(), luo).utterances
    assert [one.language for one in kept] == ["luo", "luo", "zh"]
    assert [one.language_token for one in kept] == ["en", "en", None]
    unknown = dataclasses.replace(luo, language_token="luo")
    corpus = corpus_of(tmp_path, [{"audio": "1.wav", "text": "a"}], unknown)
    with pytest.raises(UserError, match="does not know the language 'luo'"):
        keep_what_fits(corpus, toy_tokenizer(), toy_special_tokens(), unknown)


@pytest.mark.skipif(not SWAHILI.exists(), reason="the recordings are absent")
def test_real_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(soundfile.SoundFile, "read")  # headers only: 0.4 s for 463 files
    lines = (SWAHILI / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    placed = [row | {"audio": row["file_name"]} for row in rows]
    corpus = corpus_of(SWAHILI, placed, SKIP, window_seconds=30.0)
    (left_out,) = corpus.left_out.items()
    assert left_out[0] == "longer than the window of 30 s"
    assert len(left_out[1]) == 20
    assert len(corpus.utterances) == 463 - 20
    for utterance in corpus.utterances:
        assert utterance.duration_seconds == pytest.approx(utterance.columns["duration"], abs=0.1)


def test_timestamps_in_a_text_are_neither_learnt_nor_scored(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.wav", 1.0)
    rows = [{"audio": "a.wav", "text": "<|0.00|> one<|0.50|><|0.60|> two <|1.00|>"}]
    rows.append({"audio": "a.wav", "text": "three <|laughs|>"})
    rows.append({"audio": "a.wav", "text": "four", "previous_text": "<|0.00|>three<|1.00|>"})
    found = corpus_of(tmp_path, rows, FAIL).utterances
    assert [one.text for one in found] == ["one two", "three <|laughs|>", "four"]
    assert [one.row for one in found] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]
    assert found[2].previous_text == "three"
    assert found.durations_seconds.tolist() == [1.0, 1.0, 1.0]


def test_only_training_speech_is_cut_at_pauses(tmp_path: Path) -> None:
    """0.4 s of silence between two sentences of even length: a certain cut, but by ear."""
    sound = tone(2.5)
    silence = np.zeros(6_400, np.float32)
    soundfile.write(tmp_path / "long.wav", np.concatenate([sound, silence, sound]), 16_000)
    write_clip(tmp_path / "short.wav", 1.0)
    rows = [{"audio": "long.wav", "text": "one two three four. five six seven ate."}]
    rows.append({"audio": "short.wav", "text": "one"})
    splitting = dataclasses.replace(SKIP, long_audio="split")
    utterances = manifest_utterances(tmp_path, rows, splitting)
    assert len(load_corpus(utterances, "train", splitting, 4.0).utterances) == 3
    tested = load_corpus(utterances, "test", splitting, 4.0)
    assert len(tested.utterances) == 1
    assert list(tested.left_out) == ["longer than the window of 4 s that cannot be split"]


def test_remarks_of_headers_are_kept_and_said_in_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recording apps state a little too much; durations are known on the second run."""
    monkeypatch.setenv("LORA_WHISPER_CACHE", str(tmp_path / "cache"))
    for name in ("a.wav", "b.wav", "whole.wav"):
        write_clip(tmp_path / name, 1.0)
    for name in ("a.wav", "b.wav"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: round(0.97 * len(content))])
    rows = [toy_row(number, audio=tmp_path / f"{name}.wav") for number, name in enumerate("ab")]
    rows.append(toy_row(2, audio=tmp_path / "whole.wav"))
    for _ in range(2):
        table = Table.cached("remarks-1", lambda: rows)
        corpus = load_corpus(Utterances([table], Defaults("en", "transcribe")), "train", FAIL, 5.0)
        assert len(corpus.utterances) == 3
        assert list(corpus.remarks) == ["short"]
        first, second = corpus.remarks["short"]
        assert first.endswith(": 3.0 % of what its header states is missing")
        assert first != second
