"""Decoder input and labels, token by token, for each of Whisper's vocabularies.

Ids are looked up by the tokens' own names in the tokenizer, the toy's and the genuine ones.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperTokenizer
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from lora_whisper.config import AugmentationConfig, SpeedConfig
from lora_whisper.data.audio import read_audio
from lora_whisper.data.augmentation import Augmenter
from lora_whisper.data.batches import collate
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.sampler import pack
from lora_whisper.data.windows import (
    IGNORED,
    BadAudio,
    LeftOut,
    Segment,
    Window,
    WindowMaker,
    WindowSource,
    fits_with_timestamps,
    token_sequence,
    window_tokens,
)
from lora_whisper.data.words import WordPrompts
from lora_whisper.model.tokenizer import SpecialTokens, read_special_tokens
from tests.model.test_tokenizer import GENUINE, model_config, needs_genuine
from tests.toy_speech import tone, write_clip
from tests.toy_tokenizers import toy_generation_config, toy_tokenizer
from tests.toy_utterances import recorded, toy_utterances

LAYOUTS = {
    51864: {"multilingual": False, "languages": 99, "window_seconds": 30, "text_tokens": 50256},
    51865: {"languages": 99, "window_seconds": 30, "text_tokens": 50257},
    51866: {"languages": 100, "window_seconds": 30, "text_tokens": 50257},
}
Tokens = tuple[WhisperTokenizer, SpecialTokens]


@functools.cache
def toy(size: int) -> Tokens:
    layout: Any = LAYOUTS[size]
    tokenizer = toy_tokenizer(**layout)
    generation = toy_generation_config(tokenizer, layout.get("multilingual", True))
    assert len(tokenizer) == size
    return tokenizer, read_special_tokens(tokenizer, generation, model_config(size))


@functools.cache
def genuine(name: str) -> Tokens:
    folder = GENUINE / name
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    has_generation = (folder / "generation_config.json").exists()
    generation = GenerationConfig.from_pretrained(folder) if has_generation else None
    return tokenizer, read_special_tokens(
        tokenizer, generation, WhisperConfig.from_pretrained(folder)
    )


def vocabularies(*toys: int) -> Any:
    """Each toy, and each genuine tokenizer with a multilingual layout."""
    names = ["whisper-tiny", "whisper-large-v3", "whisper-large-v3-turbo"]
    return pytest.mark.parametrize(
        "tokens",
        [pytest.param(functools.partial(toy, size), id=str(size)) for size in toys]
        + [
            pytest.param(functools.partial(genuine, name), id=name, marks=needs_genuine)
            for name in names
        ],
    )


def ids(tokenizer: WhisperTokenizer, *parts: str | int) -> list[int]:
    """Tokens by name, "<|sw|>"; texts by the tokenizer itself; ids as they are."""
    found: list[int] = []
    for part in parts:
        if isinstance(part, int):
            found.append(part)
        elif part.startswith("<|"):
            found.append(tokenizer.get_vocab()[part])
        else:
            found += tokenizer(part, add_special_tokens=False).input_ids
    return found


def segment(tokenizer: WhisperTokenizer, text: str, start: float, end: float) -> Segment:
    return Segment(ids(tokenizer, text) if text else [], start, end)


def two(tokenizer: WhisperTokenizer) -> list[Segment]:
    return [segment(tokenizer, " Habari.", 0.0, 2.4), segment(tokenizer, " Asante.", 2.5, 5.1)]


def no_speech_name(tokenizer: WhisperTokenizer) -> str:
    return "<|nospeech|>" if "<|nospeech|>" in tokenizer.get_vocab() else "<|nocaptions|>"


SOT, EOT, NO_TIMES = "<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"


@vocabularies(51865, 51866)
def test_plain(tokens: functools.partial[Tokens]) -> None:
    tokenizer, special_tokens = tokens()
    given, labels = token_sequence(special_tokens, two(tokenizer), "sw", "transcribe")
    whole = ids(tokenizer, SOT, "<|sw|>", "<|transcribe|>", NO_TIMES, " Habari.", " Asante.", EOT)
    assert (given, labels) == (whole[:-1], whole[1:])
    shifted = shift_tokens_right(torch.tensor([labels]), special_tokens.eot, special_tokens.sot)
    assert shifted.tolist() == [given], "Transformers would shift our labels to our decoder input"


@vocabularies(51865, 51866)
def test_timestamps(tokens: functools.partial[Tokens]) -> None:
    tokenizer, special_tokens = tokens()
    given, labels = token_sequence(
        special_tokens, two(tokenizer), "sw", "translate", timestamps=True
    )
    start = (SOT, "<|sw|>", "<|translate|>")
    first = ("<|0.00|>", " Habari.", "<|2.40|>")
    whole = ids(tokenizer, *start, *first, "<|2.50|>", " Asante.", "<|5.10|>", EOT)
    assert (given, labels) == (whole[:-1], whole[1:])


@vocabularies(51865, 51866)
def test_transformers_reads_our_timestamps(tokens: functools.partial[Tokens]) -> None:
    tokenizer, special_tokens = tokens()
    given, _ = token_sequence(special_tokens, two(tokenizer), "sw", "transcribe", timestamps=True)
    start = len(special_tokens.start("sw", "transcribe", timestamps=True))
    _, read = tokenizer._decode_asr(  # what its pipeline reads recordings with
        [{"tokens": torch.tensor([given[start:]])}],
        return_timestamps=True,
        return_language=False,
        time_precision=0.02,
    )
    assert read["chunks"] == [
        {"timestamp": (0.0, 2.4), "text": " Habari."},
        {"timestamp": (2.5, 5.1), "text": " Asante."},
    ]


@vocabularies(51865, 51866)
def test_previous_text_is_given_and_not_learnt(tokens: functools.partial[Tokens]) -> None:
    tokenizer, special_tokens = tokens()
    previous = ids(tokenizer, " Jambo rafiki")
    given, labels = token_sequence(
        special_tokens, two(tokenizer), "sw", "transcribe", previous=previous
    )
    plain = ids(tokenizer, SOT, "<|sw|>", "<|transcribe|>", NO_TIMES, " Habari.", " Asante.", EOT)
    prompt = tokenizer.get_prompt_ids("Jambo rafiki").tolist()  # Transformers' own
    assert given == prompt + plain[:-1]
    assert labels == [IGNORED] * len(prompt) + plain[1:]
    assert labels[given.index(special_tokens.sot)] == plain[1], "the language is learnt after sot"


@vocabularies(51865, 51866)
def test_no_speech(tokens: functools.partial[Tokens]) -> None:
    tokenizer, special_tokens = tokens()
    silent = [segment(tokenizer, "", 0.0, 3.0)]
    given, labels = token_sequence(
        special_tokens, silent, "sw", "transcribe", timestamps=True, previous=[1, 2]
    )
    assert given == ids(tokenizer, SOT, "<|sw|>", "<|transcribe|>", NO_TIMES)
    assert labels == ids(tokenizer, no_speech_name(tokenizer), IGNORED, IGNORED, EOT)


def test_english_only() -> None:
    tokenizer, special_tokens = toy(51864)
    segments = two(tokenizer)
    plain = ids(tokenizer, SOT, NO_TIMES, " Habari.", " Asante.", EOT)
    given, labels = token_sequence(special_tokens, segments, None, "transcribe")
    assert (given, labels) == (plain[:-1], plain[1:])
    first = ids(tokenizer, SOT, "<|0.00|>", " Habari.", "<|2.40|>")
    timed = first + ids(tokenizer, "<|2.50|>", " Asante.", "<|5.10|>", EOT)
    given, labels = token_sequence(special_tokens, segments, None, "transcribe", True, [1, 2])
    assert given == ids(tokenizer, "<|startofprev|>", 1, 2) + timed[:-1]
    assert labels == [IGNORED] * 3 + timed[1:]
    given, labels = token_sequence(special_tokens, [], None, "transcribe")
    assert given == ids(tokenizer, SOT, NO_TIMES)
    assert labels == ids(tokenizer, no_speech_name(tokenizer), EOT)


@pytest.mark.parametrize(
    ("size", "sequence"),
    [
        (51864, [50257, 50363, 71, 50483, 50488, 72, 50618, 50256]),
        (51865, [50258, 50318, 50359, 50364, 71, 50484, 50489, 72, 50619, 50257]),
        (51866, [50258, 50318, 50360, 50365, 71, 50485, 50490, 72, 50620, 50257]),
    ],
)
def test_written_by_hand(size: int, sequence: list[int]) -> None:
    _, special_tokens = toy(size)
    segments = [Segment([71], 0.0, 2.4), Segment([72], 2.5, 5.1)]
    language = "sw" if special_tokens.multilingual else None
    given, labels = token_sequence(
        special_tokens, segments, language, "transcribe", timestamps=True
    )
    assert (given, labels) == (sequence[:-1], sequence[1:])


@pytest.mark.parametrize("size", LAYOUTS)
@pytest.mark.parametrize("text_tokens", [1, 200, 300, 440, 443, 444, 445, 446])
@pytest.mark.parametrize("previous_tokens", [1, 50, 1000])
def test_the_prompt_is_cut_from_the_left_and_never_the_text(
    size: int, text_tokens: int, previous_tokens: int
) -> None:
    _, special_tokens = toy(size)
    language = "sw" if special_tokens.multilingual else None
    start = special_tokens.start(language, "transcribe")
    if len(start) + text_tokens > special_tokens.max_tokens:
        return
    text = [Segment([7] * text_tokens, 0.0, 9.0)]
    previous = list(range(previous_tokens))
    given, labels = token_sequence(special_tokens, text, language, "transcribe", previous=previous)
    assert len(given) == len(labels) <= special_tokens.max_tokens == 448
    prompt, rest = (
        given[: given.index(special_tokens.sot)],
        given[given.index(special_tokens.sot) :],
    )
    assert rest == start + [7] * text_tokens
    room = min(448 - len(rest), 448 // 2 - 1)
    kept = min(previous_tokens, room - 1)
    expected = [special_tokens.previous, *previous[previous_tokens - kept :]] if kept > 0 else []
    assert prompt == expected


def test_timestamps_never_run_backwards() -> None:
    _, special_tokens = toy(51865)
    crossing = [Segment([71], 0.0, 1.011), Segment([72], 1.009, 2.0)]
    given, _ = token_sequence(special_tokens, crossing, "sw", "transcribe", timestamps=True)
    times = [token for token in given if token >= special_tokens.timestamp_begin]
    assert times == sorted(times)
    assert len(times) == 4


def test_room_for_timestamps_is_counted_to_the_token() -> None:
    for size in LAYOUTS:
        _, special_tokens = toy(size)
        language = "sw" if special_tokens.multilingual else None
        for count in range(430, 448):
            segments = [Segment([7] * count, 0.0, 9.0)]
            given, _ = token_sequence(
                special_tokens, segments, language, "transcribe", timestamps=True
            )
            assert fits_with_timestamps(special_tokens, segments) == (len(given) <= 448)


# ── whole windows ────────────────────────────────────────────────────────────────────────────

SMALL = {"languages": 3, "window_seconds": 5.0}


def maker(**changes: Any) -> WindowMaker:
    tokenizer = toy_tokenizer(**SMALL)
    special_tokens = read_special_tokens(
        tokenizer, toy_generation_config(tokenizer), model_config(len(tokenizer))
    )
    return WindowMaker(tokenizer, special_tokens, **({"window_seconds": 5.0} | changes))


def source(utterances: Utterances, make: WindowMaker, windows: str = "packed") -> WindowSource:
    return WindowSource(
        utterances, pack(utterances, make.tokenizer, make.special_tokens, 5.0, windows, make.clean)
    )


def made(windows: WindowSource, make: WindowMaker, window: int = 0, epoch: int = 0) -> Window:
    found = make.speech(windows, window, epoch)
    assert isinstance(found, Window)
    return found


def text_of(make: WindowMaker, window: Window) -> str:
    return "".join(make.tokenizer.convert_ids_to_tokens(window.decoder_input)).replace("Ġ", " ")


def test_a_padded_window_is_its_utterance(tmp_path: Path) -> None:
    make = maker()
    window = made(source(recorded(tmp_path, [1.0, 2.0]), make, "padded"), make, 1)
    assert window.rows == ("a.jsonl:2",)
    assert np.array_equal(window.samples, read_audio(tmp_path / "1.wav"))
    whole = ids(make.tokenizer, SOT, "<|en|>", "<|transcribe|>", NO_TIMES, " hi", EOT)
    assert (window.decoder_input, window.labels) == (whole[:-1], whole[1:])


def test_files_are_joined_and_their_boundaries_become_timestamps(tmp_path: Path) -> None:
    make = maker(timestamps_share=1.0)
    window = made(source(recorded(tmp_path, [1.0, 0.5, 2.0]), make), make)
    assert window.rows == ("a.jsonl:1", "a.jsonl:2", "a.jsonl:3")
    clips = [read_audio(tmp_path / f"{index}.wav") for index in range(3)]
    assert np.array_equal(window.samples, np.concatenate(clips))
    times = "<|0.00|> hi<|1.00|><|1.00|> hi<|1.50|><|1.50|> hi<|3.50|>"
    assert text_of(make, window) == "<|startoftranscript|><|en|><|transcribe|>" + times


def test_a_source_may_have_its_own_share_of_timestamps(tmp_path: Path) -> None:
    """Packed windows among trimmed ones, which have none."""
    make = maker()
    speech = source(recorded(tmp_path, [1.0]), make)
    with_times = dataclasses.replace(speech, timestamps_share=1.0)
    assert NO_TIMES in text_of(make, made(speech, make))
    assert "<|0.00|> hi" in text_of(make, made(with_times, make))


def sliced(path: Path, *slices: tuple[float, float]) -> Utterances:
    return toy_utterances([{"audio": str(path), "start": a, "end": b} for a, b in slices])


def test_slices_of_one_file_are_read_with_the_gaps_between_them(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "long.wav", 9.0)
    make = maker(timestamps_share=1.0)
    window = made(source(sliced(clip, (2.0, 3.0), (3.5, 4.0), (6.0, 7.5)), make), make)
    near, far = read_audio(clip, 2.0, 4.0), read_audio(clip, 6.0, 7.5)
    assert np.array_equal(window.samples, np.concatenate([near, far]))
    times = "<|0.00|> hi<|1.00|><|1.50|> hi<|2.00|><|2.00|> hi<|3.50|>"
    assert text_of(make, window).endswith(times), "two seconds may hold what another split says"


def test_an_utterance_without_text_is_silence_among_others(tmp_path: Path) -> None:
    make = maker(timestamps_share=1.0)
    clips = recorded(tmp_path, [1.0, 1.0, 1.0])
    rows = [
        {"audio": str(one.audio), "text": text}
        for one, text in zip(clips, ("a", "", "b"), strict=True)
    ]
    window = made(source(toy_utterances(rows), make), make)
    assert text_of(make, window).endswith("<|0.00|> a<|1.00|><|2.00|> b<|3.00|>")
    assert len(window.samples) == 48_000


def test_a_packed_window_goes_on_without_what_does_not_decode(tmp_path: Path) -> None:
    make = maker(timestamps_share=1.0)
    utterances = recorded(tmp_path, [1.0, 1.0, 1.0])
    (tmp_path / "1.wav").write_text("gone bad")
    window = made(source(utterances, make), make)
    assert window.rows == ("a.jsonl:1", "a.jsonl:3")
    assert [bad.row for bad in window.bad] == ["a.jsonl:2"]
    assert text_of(make, window).endswith("<|0.00|> hi<|1.00|><|1.00|> hi<|2.00|>")
    for index in (0, 2):
        (tmp_path / f"{index}.wav").unlink()
    nothing = made(source(utterances, make), make)
    assert (nothing.rows, len(nothing.bad)) == ((), 3)


def test_bad_audio_is_a_value() -> None:
    make = maker()
    found = make.speech(source(toy_utterances([{}]), make, "padded"), 0, 0)
    assert found == BadAudio("a.jsonl:1", "/absent/1.wav: no such file")


def test_audio_longer_than_its_header_said_is_not_cut(tmp_path: Path) -> None:
    utterances = recorded(tmp_path, [2.0, 2.0])
    write_clip(tmp_path / "1.wav", 4.0)
    make = maker()
    window = made(source(utterances, make), make)
    assert window.rows == ("a.jsonl:1",)
    assert "4.00 s, where 3.00 s were planned" in window.bad[0].reason


def test_timestamps_are_left_out_where_only_the_text_fits(tmp_path: Path) -> None:
    make = maker(timestamps_share=1.0)
    for letters, has_timestamps in [(442, True), (443, False)]:  # and the space in front
        utterances = recorded(tmp_path, [1.0], text="h" * letters)
        window = made(source(utterances, make, "padded"), make)
        assert (make.special_tokens.no_timestamps in window.decoder_input) != has_timestamps
        assert len(window.decoder_input) <= 448
    found = make.speech(source(recorded(tmp_path, [1.0], text="h" * 444), make, "padded"), 0, 0)
    assert found == LeftOut("a.jsonl:1", "a text of 449 tokens, where the decoder has 448")


def test_the_previous_text_of_a_row_goes_before_that_of_the_window_before(tmp_path: Path) -> None:
    make = maker(previous_text_share=1.0)
    rows = [
        {"audio": str(one.audio), "text": f"t{i}"}
        for i, one in enumerate(recorded(tmp_path, [3.0] * 4))
    ]
    rows[2]["previous_text"] = "said"
    rows[3]["speaker"] = "another"
    windows = source(toy_utterances(rows, 3.0), make)
    prompts = []
    for number in range(4):
        window = made(windows, make, number)
        text = make.tokenizer.decode(window.decoder_input)
        prompts.append(text.partition("<|startoftranscript|>")[0])
        assert window.labels.count(IGNORED) == window.decoder_input.index(make.special_tokens.sot)
    assert prompts == ["", "<|startofprev|> t0", "<|startofprev|> said", ""]


def test_padded_windows_take_only_the_row_s_own_previous_text(tmp_path: Path) -> None:
    make = maker(previous_text_share=1.0)
    windows = source(recorded(tmp_path, [1.0, 1.0]), make, "padded")
    assert made(windows, make, 1).decoder_input[0] == make.special_tokens.sot


def test_texts_and_previous_texts_are_cleaned(tmp_path: Path) -> None:
    make = maker(previous_text_share=1.0, clean=("annotations", "case"))
    utterances = recorded(tmp_path, [1.0], text="[Noise] Hi", previous_text="[x] There")
    window = made(source(utterances, make), make)
    assert make.tokenizer.decode(window.decoder_input) == (
        "<|startofprev|> there<|startoftranscript|><|en|><|transcribe|><|notimestamps|> hi"
    )


def test_a_borrowed_token_and_a_language_of_its_own(tmp_path: Path) -> None:
    make = maker()
    clip = write_clip(tmp_path / "1.wav", 1.0)
    (one,) = toy_utterances([{"audio": str(clip), "language": "yue"}])
    window = make.of([dataclasses.replace(one, language_token="zh")], key=(0, 0, 0))
    assert isinstance(window, Window)
    whole = ids(make.tokenizer, SOT, "<|zh|>", "<|transcribe|>", NO_TIMES, "hi")
    assert window.decoder_input == whole, "Cantonese is written without spaces"


def test_no_speech_is_as_long_as_a_window_and_says_so(tmp_path: Path) -> None:
    make = maker(seed=3)
    windows = source(recorded(tmp_path, [1.5, 2.5, 3.0]), make)
    window = make.no_speech(windows, 1, epoch=0)
    assert window.samples.shape == (3 * 16_000,)
    assert window.samples.dtype == np.float32
    assert window.labels == [
        make.special_tokens.no_speech,
        IGNORED,
        IGNORED,
        make.special_tokens.eot,
    ]
    again, other = make.no_speech(windows, 1, epoch=0), make.no_speech(windows, 1, epoch=1)
    assert np.array_equal(again.samples, window.samples)
    others = [make.no_speech(windows, 1, epoch).samples for epoch in range(8)]
    assert any(not np.array_equal(each, window.samples) for each in [other.samples, *others])


def test_windows_without_speech_are_padded_as_those_with_some(tmp_path: Path) -> None:
    """Or silence would be told by its padding."""
    make = maker(log_mel_padding_share=0.5)
    windows = source(recorded(tmp_path, [0.2]), make)
    found = {make.no_speech(windows, 0, epoch).padding for epoch in range(40)}
    assert found == {"sound", "log-mel"}


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_shares_are_kept_and_drawn_apart(tmp_path: Path, share: float) -> None:
    utterances = recorded(tmp_path, [0.2], previous_text="before")
    shares = ("timestamps_share", "previous_text_share", "log_mel_padding_share")
    make = maker(**dict.fromkeys(shares, share))
    windows = source(utterances, make)
    drawn = [made(windows, make, epoch=epoch) for epoch in range(800)]
    padded = np.array([each.padding == "log-mel" for each in drawn])
    times = np.array(
        [make.special_tokens.no_timestamps not in each.decoder_input for each in drawn]
    )
    prompts = np.array([make.special_tokens.previous in each.decoder_input for each in drawn])
    error = 3 * np.sqrt(share * (1 - share) / 800)
    assert abs(times.mean() - share) < error
    assert abs(prompts.mean() - share) < error
    assert abs(padded.mean() - share) < error
    assert abs((times & prompts).mean() - share**2) < error
    assert abs((times & padded).mean() - share**2) < error
    again = dataclasses.replace(make, previous_text_share=0.0)
    assert [
        make.special_tokens.no_timestamps not in made(windows, again, epoch=epoch).decoder_input
        for epoch in range(100)
    ] == times[:100].tolist(), "one draw does not depend on another"


WORDS = ("hi", "moja", "mbili", "tatu")


def prompts_of(make: WindowMaker, words: tuple[str, ...] = WORDS, share: float = 1.0) -> Any:
    return WordPrompts(words, words, share, make.tokenizer)


def test_words_stand_before_a_previous_text_and_are_not_learnt(tmp_path: Path) -> None:
    make = maker(previous_text_share=1.0, timestamps_share=0.5)
    given = dataclasses.replace(make, words=prompts_of(make))
    windows = source(recorded(tmp_path, [0.5], previous_text="before"), make, "padded")
    prompts = set()
    for epoch in range(40):
        without, window = made(windows, make, epoch=epoch), made(windows, given, epoch=epoch)
        assert np.array_equal(without.samples, window.samples), "what else is drawn is the same"
        sot = window.decoder_input.index(make.special_tokens.sot)
        own = without.decoder_input.index(make.special_tokens.sot)
        assert window.decoder_input[sot:] == without.decoder_input[own:]
        assert window.labels[sot:] == without.labels[own:]
        assert set(window.labels[:sot]) == {IGNORED}
        text = make.tokenizer.decode(window.decoder_input[:sot])
        assert text.startswith("<|startofprev|>")
        assert text.endswith(" before")
        prompts.add(text)
    assert len(prompts) > 10, "drawn anew in each epoch"
    again = [made(windows, given, epoch=epoch).decoder_input for epoch in range(5)]
    assert again == [made(windows, given, epoch=epoch).decoder_input for epoch in range(5)]


def test_where_nobody_speaks_words_are_given_and_nothing_is_written(tmp_path: Path) -> None:
    make = maker()
    given = dataclasses.replace(make, words=prompts_of(make))
    windows = source(recorded(tmp_path, [1.5]), make)
    without, window = make.no_speech(windows, 0, 0), given.no_speech(windows, 0, 0)
    sot = window.decoder_input.index(make.special_tokens.sot)
    assert sot > 1
    assert window.labels == [IGNORED] * sot + without.labels
    assert np.array_equal(window.samples, without.samples)


@pytest.mark.parametrize("letters", [1, 300, 430, 436, 440, 442])
def test_words_have_the_room_that_the_text_leaves(tmp_path: Path, letters: int) -> None:
    make = maker()
    make = dataclasses.replace(make, words=prompts_of(make, (*WORDS, "n" * 200)))
    windows = source(recorded(tmp_path, [0.5], text="h" * letters), make, "padded")
    lengths = set()
    for epoch in range(30):
        window = made(windows, make, epoch=epoch)
        assert len(window.decoder_input) == len(window.labels) <= 448
        assert window.labels.count(IGNORED) == window.decoder_input.index(make.special_tokens.sot)
        lengths.add(window.labels.count(IGNORED))
    assert (max(lengths) > 0) == (letters < 440)


class Slower:
    """An augmenter that plays everything at 0.8 of its speed, and hides the first frames."""

    def __call__(self, samples: np.ndarray, seed: tuple[int, ...]) -> Any:
        slow = np.repeat(samples, 5)[::4]
        self.seed = seed
        return type("Augmented", (), {"samples": slow, "speed": 0.8})()

    def masks(self, samples: int, seed: tuple[int, ...]) -> Any:
        assert seed != self.seed
        return (("time", 0, samples // 160),)


def test_timestamps_follow_the_speed(tmp_path: Path) -> None:
    make = maker(timestamps_share=1.0, augmenter=Slower())
    window = made(source(recorded(tmp_path, [1.0, 2.0]), make), make)
    assert text_of(make, window).endswith("<|0.00|> hi<|1.24|><|1.24|> hi<|3.76|>")
    assert len(window.samples) == round(3.0 / 0.8 * 16_000)
    assert window.masks == (("time", 0, 375),)


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_the_last_timestamp_is_the_end_of_the_augmented_sound(tmp_path: Path, speed: float) -> None:
    settings = AugmentationConfig(SpeedConfig(1.0, (speed, speed)), *[None] * 5)
    make = maker(timestamps_share=1.0, augmenter=Augmenter(settings, 5.0, 80))
    window = made(source(recorded(tmp_path, [1.0, 2.0]), make), make)
    assert len(window.samples) == pytest.approx(3.0 / speed * 16_000, abs=1)
    *_, last, _ = [*window.decoder_input, make.special_tokens.eot]
    assert last == make.special_tokens.timestamp(len(window.samples) / 16_000)


def test_the_plain_sequence_for_whoever_counts_tokens(tmp_path: Path) -> None:
    make = maker()
    (one,) = toy_utterances([{"text": "hi there"}])
    whole = ids(make.tokenizer, SOT, "<|en|>", "<|transcribe|>", NO_TIMES, " hi there", EOT)
    assert window_tokens(one, make.tokenizer, make.special_tokens) == whole


def test_what_is_remarked_on_the_sound_goes_with_the_window(tmp_path: Path) -> None:
    samples = tone(1.0)
    soundfile.write(tmp_path / "a.wav", np.stack([samples, -samples], 1), 16_000)
    make = maker()
    window = made(source(sliced(tmp_path / "a.wav", (0.0, 1.0)), make), make)
    assert [remark.kind for _, remark in window.remarks] == ["cancelling"]
    np.testing.assert_allclose(window.samples, samples, atol=1e-4)
    assert collate([window], 0).remarks == window.remarks
