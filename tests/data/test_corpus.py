"""What a corpus keeps, what it leaves out, and what it refuses."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from lora_whisper.data.corpus import Corpus, keep_what_fits, load_corpus, sample
from lora_whisper.data.vocabulary import Vocabulary
from lora_whisper.errors import UserError
from tests.configs import data_config
from tests.data.test_vocabulary import toy_vocabulary
from tests.toy_speech import toy_speech, write_clip, write_manifest
from tests.toy_tokenizers import toy_tokenizer

SWAHILI = Path("../shared/speech/swahili/metadata.jsonl")

FAIL = data_config(language="en", long_audio="fail")
SKIP = dataclasses.replace(FAIL, bad_audio="drop", long_audio="drop")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Rows 1 and 5 are good, 2 is missing, 3 no audio, 4 too long, 6 too short."""
    write_clip(tmp_path / "good.wav", 1.0)
    write_clip(tmp_path / "long.wav", 6.0)
    write_clip(tmp_path / "short.wav", 0.05)
    (tmp_path / "text.wav").write_text("no audio")
    names = ["good", "missing", "text", "long"]
    rows: list[dict[str, Any]] = [{"audio": f"{name}.wav", "text": name} for name in names]
    rows.append({"audio": "long.wav", "text": "a slice", "start": 1.0, "end": 3.5})
    rows.append({"audio": "short.wav", "text": "short"})
    return write_manifest(tmp_path / "a.jsonl", rows)


def test_durations_are_those_of_the_slices(tmp_path: Path) -> None:
    write_clip(tmp_path / "1.wav", 4.0, rate=22_050)
    slices: list[dict[str, Any]] = [{}, {"start": 1.5}, {"end": 1}, {"start": 1, "end": 1.25}]
    rows = [{"audio": "1.wav", "text": "a"} | each for each in slices]
    corpus = load_corpus(write_manifest(tmp_path / "a.jsonl", rows), "train", FAIL, 5.0)
    assert [one.duration_seconds for one in corpus.utterances] == [4.0, 2.5, 1.0, 0.25]
    assert corpus.seconds == 7.75
    assert corpus.hours == pytest.approx(7.75 / 3600)


def test_skip_leaves_out_and_counts(mixed: Path) -> None:
    corpus = load_corpus(mixed, "train", SKIP, window_seconds=5.0)
    assert [one.text for one in corpus.utterances] == ["good", "a slice"]
    bad = corpus.left_out["with audio that cannot be read"]
    assert [row.partition(": ")[0] for row in bad] == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:6"]
    (long,) = corpus.left_out["longer than the window of 5 s"]
    assert long.startswith("a.jsonl:4: ")


def test_fail_names_every_such_row_in_one_message(mixed: Path) -> None:
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


def test_each_policy_stands_alone(mixed: Path) -> None:
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
    manifest = write_manifest(tmp_path / "a.jsonl", [row, more])
    assert len(load_corpus(manifest, "train", FAIL, 30.0).utterances) == 2


def test_an_empty_split_says_which_there_are(tmp_path: Path) -> None:
    rows = [{"audio": "1.wav", "text": "a", "split": name} for name in ("test", "dev", "test")]
    manifest = write_manifest(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match=r"'train'; it has: test 2, validation 1"):
        load_corpus(manifest, "train", FAIL, 30.0)
    manifest.write_text("")
    with pytest.raises(UserError, match="no rows at all"):
        load_corpus(manifest, "train", FAIL, 30.0)


def test_a_split_that_is_empty_after_leaving_out_says_why(mixed: Path) -> None:
    with pytest.raises(UserError) as error:
        load_corpus(mixed, "train", SKIP, window_seconds=0.5)
    assert "3 with audio that cannot be read" in str(error.value)
    assert "3 longer than the window of 0.5 s" in str(error.value)


def small_corpus(folder: Path, **columns: Any) -> Corpus:
    write_clip(folder / "1.wav", 1.0)
    rows = [{"audio": "1.wav", "text": "hi", **columns}, {"audio": "1.wav", "text": "hi hi hi"}]
    return load_corpus(write_manifest(folder / "a.jsonl", rows), "train", FAIL, 5.0)


def short_decoder(max_tokens: int) -> Vocabulary:
    return dataclasses.replace(toy_vocabulary(), max_tokens=max_tokens)


def test_texts_longer_than_the_decoder_are_left_out(tmp_path: Path) -> None:
    # " hi" is 3 tokens; sot, language, task and no-timestamps stand before it
    corpus, tokenizer = small_corpus(tmp_path), toy_tokenizer()
    assert len(keep_what_fits(corpus, tokenizer, short_decoder(13), FAIL).utterances) == 2
    kept = keep_what_fits(corpus, tokenizer, short_decoder(12), SKIP)
    assert [one.text for one in kept.utterances] == ["hi"]
    assert kept.left_out == {"with a text longer than 12 tokens": ("a.jsonl:2: 13 tokens",)}
    with pytest.raises(UserError, match=r"1 with a text longer than 12 tokens.*long_audio"):
        keep_what_fits(corpus, tokenizer, short_decoder(12), FAIL)


def test_languages_are_named_by_code_afterwards(tmp_path: Path) -> None:
    corpus = small_corpus(tmp_path, language="Chinese")
    kept = keep_what_fits(corpus, toy_tokenizer(), toy_vocabulary(), FAIL)
    assert [one.language for one in kept.utterances] == ["zh", "en"]


def test_an_unknown_language_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    corpus = small_corpus(tmp_path, language="klingon")
    with pytest.raises(UserError, match=r"a\.jsonl:1: .*does not know the language 'klingon'"):
        keep_what_fits(corpus, toy_tokenizer(), toy_vocabulary(), FAIL)


def test_an_english_only_checkpoint_cannot_translate(tmp_path: Path) -> None:
    vocabulary = toy_vocabulary(multilingual=False)
    with pytest.raises(UserError, match="cannot translate"):
        keep_what_fits(
            small_corpus(tmp_path, task="translate"), toy_tokenizer(False), vocabulary, FAIL
        )


def test_a_sample_is_fixed_and_in_order(tmp_path: Path) -> None:
    utterances = load_corpus(toy_speech(tmp_path, count=10), "train", FAIL, 5.0).utterances
    chosen = sample(utterances, 4, seed=1)
    assert chosen == sample(utterances, 4, seed=1) != sample(utterances, 4, seed=2)
    positions = [utterances.index(one) for one in chosen]
    assert positions == sorted(set(positions))
    assert len(positions) == 4
    assert sample(utterances, None, seed=1) == sample(utterances, 99, seed=1) == utterances


@pytest.mark.skipif(not SWAHILI.exists(), reason="the recordings are absent")
def test_real_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(soundfile.SoundFile, "read")  # headers only: 0.4 s for 463 files
    splits = {
        split: load_corpus(SWAHILI, split, SKIP, window_seconds=30.0)
        for split in ("train", "validation", "test")
    }
    kept = sum(len(corpus.utterances) for corpus in splits.values())
    left_out = [rows for corpus in splits.values() for rows in corpus.left_out.items()]
    assert {reason for reason, _ in left_out} == {"longer than the window of 30 s"}
    assert sum(len(rows) for _, rows in left_out) == 20
    assert kept == 463 - 20
    for utterance in splits["test"].utterances:
        assert utterance.duration_seconds == pytest.approx(utterance.columns["duration"], abs=0.1)


def test_a_missing_manifest_is_answered_before_the_heavy_libraries_load() -> None:
    script = (
        "import sys, lora_whisper.data.corpus; print({'torch', 'transformers'} & {*sys.modules})"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.stdout.strip() == "set()"
