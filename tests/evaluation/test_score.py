import json

import numpy as np
import pytest
from scipy import stats

from lora_whisper.evaluation.metrics import Counts
from lora_whisper.evaluation.score import bootstrap_interval, score


def random_counts(utterances: int) -> list[Counts]:
    rng = np.random.default_rng(1)
    lengths, shares = rng.integers(1, 20, utterances), rng.random(utterances) / 2
    wrong = [int(length * share) for length, share in zip(lengths, shares, strict=True)]
    return [
        Counts(substitutions=errors, hits=int(length) - errors)
        for length, errors in zip(lengths, wrong, strict=True)
    ]


def test_normalized_and_orthographic_rates_hand_counted() -> None:
    result = score(["Habari, ya asubuhi!"], ["habari ya jioni"], "sw", 10, seed=0)
    assert result.wer == 1 / 3  # asubuhi → jioni
    assert result.wer_orthographic == 2 / 3  # and "Habari," is not "habari"
    assert result.cer == pytest.approx(6 / 17)  # asubuhi → jioni: 2 deletions, 4 substitutions
    assert (result.utterances, result.reference_words) == (1, 3)
    assert result.normalizer == "multilingual"


def test_spaces_and_unicode_encoding_are_no_orthographic_error() -> None:
    result = score(["kopi  ya\nbia"], [" kopi ya bia"], "sw", 10, seed=0)
    assert result.wer_orthographic == 0
    decomposed, composed = "cafe\u0301", "caf\u00e9"
    assert score([decomposed], [composed], "fr", 10, seed=0).wer_orthographic == 0


def test_marks_make_a_difference() -> None:
    # "kal" and "kāl", yesterday and time: without the vowel sign they would be the same word
    result = score(["कल"], ["काल"], "hi", 10, seed=0)
    assert (result.wer, result.cer) == (1.0, 1 / 2)


def test_spaceless_scripts_are_scored_by_grapheme() -> None:
    result = score(["今天天气很好。"], ["今天 天气不好"], "zh", 10, seed=0)
    assert result.wer == result.cer == 1 / 6
    assert result.normalizer == "multilingual-graphemes"


def test_references_that_normalize_to_nothing() -> None:
    silent = score(["", "(laughs)"], ["", "[music]"], "en", 10, seed=0)
    assert (silent.wer, silent.cer, silent.reference_words) == (0.0, 0.0, 0)
    assert silent.wer_ci95 == (0.0, 0.0)
    heard = score(["...", "one two"], ["thank you", "one two"], "fr", 10, seed=0)
    assert heard.wer == 2 / 2
    only_noise = score(["..."], ["thank you"], "fr", 10, seed=0)
    assert only_noise.wer == 2.0


def test_groups_are_scored_apart() -> None:
    references = ["a b", "c d", "e f", "g h"]
    hypotheses = ["a b", "c x", "e f", "y z"]
    result = score(references, hypotheses, "sw", 10, seed=0, groups=["f", "m", "f", "m"])
    assert result.wer == 3 / 8
    assert {name: group.wer for name, group in result.groups.items()} == {"f": 0.0, "m": 3 / 4}
    assert result.groups["m"] == score(references[1::2], hypotheses[1::2], "sw", 10, seed=0)


def test_each_utterance_is_normalized_in_its_own_language() -> None:
    result = score(["KIZ", "KIZ"], ["kız", "kiz"], ["tr", "sw"], 10, seed=0)  # noqa: RUF001
    assert result.wer == 0
    assert result.normalizer == "multilingual+multilingual-turkic"


def test_interval_equals_scipys_and_repeats_with_its_seed() -> None:
    counts = random_counts(300)
    interval = bootstrap_interval(counts, 2_000, seed=3)
    assert interval == bootstrap_interval(counts, 2_000, seed=3)
    assert interval != bootstrap_interval(counts, 2_000, seed=4)
    errors = np.array([utterance.errors for utterance in counts])
    lengths = np.array([utterance.reference_length for utterance in counts])
    theirs = stats.bootstrap(
        (errors, lengths),
        lambda errors, lengths, axis: errors.sum(axis) / lengths.sum(axis),
        paired=True,
        n_resamples=2_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert interval == pytest.approx((theirs.low, theirs.high), abs=0.004)
    assert interval[0] < errors.sum() / lengths.sum() < interval[1]


def test_to_dict_is_plain_json() -> None:
    result = score(["a b"], ["a"], "sw", 10, seed=0, groups=["one"])
    plain = result.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["wer_ci95"] == [0.5, 0.5]
    assert plain["cer_ci95"] == pytest.approx([2 / 3, 2 / 3])
    assert plain["groups"]["one"]["wer"] == 0.5
