"""Packing: what shares a window, and that nothing is lost, doubled, cut or mixed."""

import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.data import packing
from lora_whisper.data.packing import LONGEST_GAP_SECONDS, Plan, plan
from lora_whisper.data.table import Utterances
from lora_whisper.data.windows import Segment, token_sequence
from lora_whisper.model.tokenizer import read_vocabulary, text_tokens
from tests.model.test_tokenizer import model_config
from tests.toy_tokenizers import toy_generation_config, toy_tokenizer
from tests.toy_utterances import toy_utterances

TOKENIZER = toy_tokenizer(window_seconds=30)
VOCABULARY = read_vocabulary(
    TOKENIZER, toy_generation_config(TOKENIZER), model_config(len(TOKENIZER))
)
WINDOW_SECONDS = 30.0


def packed(utterances: Utterances, **changes: Any) -> Plan:
    arguments = {"window_seconds": WINDOW_SECONDS, "windows": "packed"} | changes
    return plan(utterances, TOKENIZER, VOCABULARY, **arguments)


def parts(found: Plan) -> list[list[int]]:
    return [
        list(range(first, first + count))
        for first, count in zip(found.first.tolist(), found.count.tolist(), strict=True)
    ]


def test_padded_windows_hold_one_utterance_each() -> None:
    found = packed(toy_utterances([{}, {}, {}], [1.0, 30.0, 2.5]), windows="padded")
    assert parts(found) == [[0], [1], [2]]
    assert found.seconds.tolist() == [1.0, 30.0, 2.5]
    assert not found.continues.any()
    assert np.isnan(found.gaps_seconds).all()


def test_windows_are_filled_in_order_up_to_the_sample() -> None:
    found = packed(toy_utterances([{}] * 6, [10.0, 20.0, 10.0, 20.0001, 9.0, 30.0]))
    assert parts(found) == [[0, 1], [2], [3, 4], [5]]
    assert found.seconds.tolist() == pytest.approx([30.0, 10.0, 29.0001, 30.0])


@pytest.mark.parametrize(
    "changes", [{"speaker": "b"}, {"language": "de"}, {"task": "translate"}, {"speaker": None}]
)
def test_speaker_language_and_task_are_never_mixed(changes: dict[str, Any]) -> None:
    common = {"speaker": "a", "language": "en", "task": "transcribe"}
    found = packed(toy_utterances([common, common, common | changes, common]))
    assert parts(found) == [[0, 1], [2], [3]]
    assert found.continues.tolist() == [False, False, False]


def test_unknown_speakers_count_as_one() -> None:
    assert parts(packed(toy_utterances([{}, {"task": "transcribe"}, {}]))) == [[0, 1, 2]]


def test_a_window_continues_the_one_before_of_the_same_speaker() -> None:
    rows = [{"speaker": name} for name in "aaabbb"]
    found = packed(toy_utterances(rows, 15.0))
    assert parts(found) == [[0, 1], [2], [3, 4], [5]]
    assert found.continues.tolist() == [False, True, False, True]


def slices(*boundaries: tuple[float, float], audio: str = "/one.wav") -> list[dict[str, Any]]:
    return [{"audio": audio, "start": start, "end": end} for start, end in boundaries]


def test_gaps_between_slices_count() -> None:
    rows = slices((0, 10), (10.5, 20), (20.4, 30.2), (31, 40))
    found = packed(toy_utterances(rows))
    assert parts(found) == [[0, 1], [2, 3]], "the third would end at 30.2 s"
    assert found.seconds.tolist() == pytest.approx([20.0, 19.6])
    assert found.gaps_seconds.tolist() == pytest.approx([np.nan, 0.5, np.nan, 0.8], nan_ok=True)


def test_only_close_slices_of_one_file_are_read_in_one_go() -> None:
    far = 4.0 + LONGEST_GAP_SECONDS + 0.1
    rows = slices((0, 2), (2, 4), (far, far + 2), (far + 1, far + 3))
    rows += [*slices((far + 3, far + 4), audio="/two.wav"), {"audio": "/two.wav"}]
    gaps = packed(toy_utterances(rows)).gaps_seconds
    assert gaps.tolist() == pytest.approx([np.nan, 0.0] + [np.nan] * 4, nan_ok=True)


def test_audio_inside_a_data_set_is_read_row_by_row() -> None:
    rows = slices((0, 2), (2, 4), audio="")
    assert np.isnan(packed(toy_utterances(rows)).gaps_seconds).all()


def greedy(utterances: Utterances) -> list[list[int]]:
    """Packing as one would write it without a thought of speed."""
    windows: list[list[int]] = []
    for index, one in enumerate(utterances):
        before = utterances[index - 1] if index else None
        same = before is not None and (before.speaker, before.language) == (
            one.speaker,
            one.language,
        )
        if same and fits([utterances[number] for number in [*windows[-1], index]]):
            windows[-1].append(index)
        else:
            windows.append([index])
    return windows


def fits(utterances: list[Any]) -> bool:
    segments = [Segment(tokens(one.text), 0.0, 1.0) for one in utterances]
    given, _ = token_sequence(VOCABULARY, segments, "en", "transcribe", timestamps=True)
    seconds = sum(one.duration_seconds for one in utterances)
    return len(given) <= VOCABULARY.max_tokens and seconds <= WINDOW_SECONDS


def tokens(text: str) -> list[int]:
    composed = unicodedata.normalize("NFC", text)  # which toy tokenizers do not do by themselves
    return TOKENIZER(f" {composed}", add_special_tokens=False).input_ids


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(1, 240).map(lambda eighths: eighths / 8),  # sums are exact
            st.sampled_from([5, 60, 150, 300, 445]),
            st.sampled_from(["the in ", "x", "é", "<|en|>", "e\u0301"]),
            st.sampled_from("aab"),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_equal_to_a_plain_greedy_packing(rows: list[tuple[float, int, str, str]]) -> None:
    utterances = toy_utterances(
        [
            {"text": (word * letters)[:letters].strip(), "speaker": speaker}
            for _, letters, word, speaker in rows
        ],
        [seconds for seconds, *_ in rows],
    )
    special = any("<|" in word for _, _, word, _ in rows)
    found = parts(packed(utterances))
    assert [index for window in found for index in window] == list(range(len(rows)))
    if not special:  # the tokenizer would take it for a token, and not for letters
        assert found == greedy(utterances)


def test_labels_fit_whether_or_not_timestamps_are_drawn() -> None:
    room = VOCABULARY.max_tokens - 3
    exactly = [{"text": "x" * 199}, {"text": "x" * (room - 4 - 200 - 1)}]  # and a space each
    assert parts(packed(toy_utterances(exactly))) == [[0, 1]]
    exactly[1]["text"] += "x"
    assert parts(packed(toy_utterances(exactly))) == [[0], [1]]


def test_texts_are_counted_as_they_will_be_after_cleaning() -> None:
    rows = [{"text": "x" * 300}, {"text": "[" + "x" * 300 + "]"}]
    assert parts(packed(toy_utterances(rows))) == [[0], [1]]
    assert parts(packed(toy_utterances(rows), clean=("annotations",))) == [[0, 1]]


def test_nothing_gives_no_windows() -> None:
    assert len(packed(toy_utterances([]))) == 0


@pytest.mark.parametrize(("letters", "counted"), [(60, 0), (120, 3_000)])
def test_a_text_is_tokenized_once_and_only_where_its_bytes_leave_the_question_open(
    letters: int, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = toy_utterances([{"text": ("the in her " * 20)[:letters].strip()}], 4.0)
    utterances = Utterances(one.tables, one.defaults, np.zeros(3_000, np.int64), np.full(3_000, 4))
    texts: list[str] = []

    def counting(tokenizer: Any, text: str, language: str | None) -> list[int]:
        texts.append(text)
        return text_tokens(tokenizer, text, language)

    monkeypatch.setattr(packing, "text_tokens", counting)
    assert packed(utterances).count.sum() == 3_000
    forgotten = 2 * 7 * (3_000 // packing.REMEMBERED_COUNTS)  # a window's, when room is made
    assert counted <= len(texts) <= counted + (forgotten if counted else 0)
