"""What is wrong with measured speech: each finding is a pure function of the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from lora_whisper.data.audio import SHORTEST_SECONDS
from lora_whisper.data.contents import Recordings
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.durations import why_absent
from lora_whisper.data.quality_findings import MEANINGS, Finding, Splits
from lora_whisper.data.quality_measures import (
    FULL_SCALE,
    KINDS,
    QUIET_DB,
    RECORD,
    SOUND_PROBLEMS,
    Measured,
    TextRules,
    comparable,
    digits,
    mixed_scripts,
)
from lora_whisper.data.text import leftovers, without_punctuation
from lora_whisper.model.published import SAMPLING_RATE

CLIPPED_SHARE = 0.001  # of the samples; speech that is loud, but whole, has none at full scale
SILENT_DBFS = -60.0  # a clip whose loudest 20 ms lie below has no speech in it
QUIET_SHARE = 0.5  # of a clip, more than 40 dB below its loudest frame: more pause than speech
FEWEST_RATES = 20  # utterances of a language, for a median that means something
RATE_DEVIATIONS = 4.0  # from the median, in robust standard deviations of the logarithm
RATE_RATIO = 1.5  # and at least this far off the median, however alike the others are
LOWEST_RATE, HIGHEST_RATE = 0.5, 40.0  # characters a second, in whatever language
NORMAL = 1.4826  # median absolute deviation → standard deviation, of a normal distribution
FEWEST_SHARE = 0.8  # scored of the written words; English with its numbers and fillers has 0.9
MOST_SHARE = 1.25  # contractions that are written out make 1.05 of English
LONGEST_WORD = 20.0  # characters on average: more is a sentence without spaces
HELD_OUT = ("validation", "test")  # splits that nothing else may share speech with


def inspect(splits: Splits, rules: TextRules, window_seconds: float) -> list[Finding]:
    """Every finding, in the order of MEANINGS, also those that found nothing."""
    limit = rules.vocabulary.max_tokens
    masks = {name: _masks(one.records, window_seconds, limit) for name, one in splits.items()}
    findings = {
        key: Finding(
            key, splits, {name: np.flatnonzero(masks[name][key]) for name in splits}, detail
        )
        for key, detail in _details(rules, window_seconds).items()
    }
    findings["split_badly"] = _with_characters(findings["split_badly"], rules)
    findings["scored_words"] = scored_words(splits)
    findings["duplicates"] = duplicates(splits)
    findings["contradicted"] = contradicted(splits)
    findings["rate_outliers"] = rate_outliers(splits)
    findings |= {key: shared(splits, key, field) for key, field in SHARED_FIELDS.items()}
    findings["shared_audio"] = _with_overlaps(findings["shared_audio"])
    return [findings[key] for key in MEANINGS]


# ── one row at a time ────────────────────────────────────────────────────────────────────────

Detail = Callable[[Measured, int], str]


def _masks(records: np.ndarray, window_seconds: float, max_tokens: int) -> dict[str, np.ndarray]:
    """By finding, which of the rows have it."""
    return {
        **{problem: records["problem"] == number for number, problem in enumerate(SOUND_PROBLEMS)},
        **{kind: records["remarks"] & (1 << number) != 0 for number, kind in enumerate(KINDS)},
        "over_window": over_window(records, window_seconds),
        "clipped": records["clipped_share"] > CLIPPED_SHARE,
        "silent": silent(records),
        "mostly_silent": mostly_silent(records),
        "labels_over_limit": records["tokens"] > max_tokens,
        "empty_texts": records["characters"] == 0,
        "no_transcript": records["has_leftovers"],
        "split_badly": records["is_spelled_in_bytes"],
        "digits": records["has_digits"],
        "mixed_scripts": records["has_mixed_scripts"],
        "unknown_language": records["has_unknown_language"],
    }


def _details(rules: TextRules, window_seconds: float) -> dict[str, Detail]:
    """By finding, what is to be said of a row that has it."""
    limit = rules.vocabulary.max_tokens
    return {
        **dict.fromkeys(SOUND_PROBLEMS[1:], _problem_detail),
        **{kind: partial(_remark_detail, kind) for kind in KINDS},
        "over_window": lambda one, row: (
            f"{one.records[row]['seconds']:.2f} s, room for {window_seconds:g} s"
        ),
        "clipped": lambda one, row: (
            f"{100 * one.records[row]['clipped_share']:.2f} % of the samples at full scale"
        ),
        "silent": lambda one, row: (
            f"nothing louder than {one.records[row]['loudest_dbfs']:.0f} dBFS"
        ),
        "mostly_silent": lambda one, row: (
            f"{one.records[row]['quiet_share'] * one.records[row]['seconds']:.1f} of "
            f"{one.records[row]['seconds']:.1f} s without speech"
        ),
        "labels_over_limit": lambda one, row: (
            f"{one.records[row]['tokens']} tokens, room for {limit}"
        ),
        "empty_texts": lambda one, row: "no text",
        "no_transcript": partial(_leftovers_detail, rules),
        "split_badly": partial(_bytes_detail, rules),
        "digits": lambda one, row: ", ".join(digits(one.utterances[row].text)),
        "mixed_scripts": lambda one, row: ", ".join(mixed_scripts(one.utterances[row].text)),
        "unknown_language": lambda one, row: rules.language_problem(one.utterances[row]),
    }


def _problem_detail(one: Measured, row: int) -> str:
    return one.details[row] + why_absent(one.utterances[row].audio)


def _remark_detail(kind: str, one: Measured, row: int) -> str:
    return next(remark.detail for remark in one.remarks[row] if remark.kind == kind)


def _leftovers_detail(rules: TextRules, one: Measured, row: int) -> str:
    utterance = one.utterances[row]
    return ", ".join(leftovers(utterance.text, rules.written(utterance)))


def _bytes_detail(rules: TextRules, one: Measured, row: int) -> str:
    letters = rules.spelled_in_bytes(one.utterances[row].text)
    return ", ".join(f"{letter} (U+{ord(letter):04X})" for letter in letters)


def sound_is_whole(records: np.ndarray) -> np.ndarray:
    return records["problem"] == 0


def over_window(records: np.ndarray, window_seconds: float) -> np.ndarray:
    """Longer than the model's window, to the sample, as training would find it."""
    with np.errstate(invalid="ignore"):
        samples = np.nan_to_num(np.round(records["seconds"] * SAMPLING_RATE))
    return sound_is_whole(records) & (samples > round(window_seconds * SAMPLING_RATE))


def silent(records: np.ndarray) -> np.ndarray:
    """Without any speech, though there is a text."""
    return (records["loudest_dbfs"] < SILENT_DBFS) & (records["characters"] > 0)


def mostly_silent(records: np.ndarray) -> np.ndarray:
    is_speech = (records["characters"] > 0) & ~silent(records)
    return is_speech & (records["quiet_share"] > QUIET_SHARE)


def _with_characters(finding: Finding, rules: TextRules) -> Finding:
    """Name the characters, most frequent first, with the number of texts that hold them."""
    counts: Counter[str] = Counter()
    for split, numbers in finding.places.items():
        utterances = finding.splits[split].utterances
        for number in numbers:
            counts.update(rules.spelled_in_bytes(utterances[int(number)].text))
    return replace(finding, more={"characters": dict(counts.most_common())})


def scored_words(splits: Splits) -> Finding:
    """References whose scored words are not those that are spoken, in held-out splits.

    Texts of which nothing is left, always; others where most of their split is so, since a number
    in a sentence is no matter.
    """
    places = {}
    for name, one in splits.items():
        written, scored, letters = (
            one.records[field].astype(np.int64)
            for field in ("written_words", "scored_words", "characters")
        )
        rows = (scored == 0) & (letters > 0) & bool(scored.any() or written.any())
        if _is_off(written.sum(), scored.sum()):
            rows |= _is_off(written, scored)
        if _is_unspaced(letters.sum(), scored.sum()):
            rows |= _is_unspaced(letters, scored)
        places[name] = np.flatnonzero(rows if name in HELD_OUT else np.zeros(len(rows), bool))

    def detail(one: Measured, row: int) -> str:
        record = one.records[row]
        return f"{record['written_words']} words are scored as {record['scored_words']}"

    return Finding("scored_words", splits, places, detail)


def _is_off(written: Any, scored: Any) -> Any:
    return (written > 0) & ((scored < FEWEST_SHARE * written) | (scored > MOST_SHARE * written))


def _is_unspaced(letters: Any, scored: Any) -> Any:
    return (scored > 0) & (letters > LONGEST_WORD * scored)


# ── rows beside rows ─────────────────────────────────────────────────────────────────────────


def duplicates(splits: Splits) -> Finding:
    """All but the first of the rows of a split that sound the same, sample by sample.

    The name of the file does not count, nor its format where that is lossless. Silence is left to
    `silent`: silent clips of one length are all the same.
    """
    places, firsts = {}, {}
    for name, one in splits.items():
        keys = np.where(silent(one.records), 0, one.records["fingerprint"])
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        firsts[name] = first[inverse]
        places[name] = np.flatnonzero((keys != 0) & (firsts[name] != np.arange(len(keys))))

    def detail(one: Measured, row: int) -> str:
        twin = one.utterances[int(firsts[one.split][row])]
        same = one.records[row]["text_key"] == one.records[int(firsts[one.split][row])]["text_key"]
        return f"sounds as {twin.row} does" + ("" if same else f", whose text is “{twin.text}”")

    return Finding("duplicates", splits, places, detail)


def contradicted(splits: Splits) -> Finding:
    """Rows of any split that sound the same, sample by sample, and have different texts.

    Counted is each sound; silence and what was not decoded say nothing. Texts that differ in no
    more than punctuation do not contradict each other.
    """
    sounds = {
        name: np.where(silent(one.records), 0, one.records["fingerprint"])
        for name, one in splits.items()
    }
    texts = {name: one.records["text_key"] for name, one in splits.items()}
    both = np.stack([np.concatenate(list(each.values())) for each in (sounds, texts)], axis=1)
    fingerprints, counts = np.unique(np.unique(both, axis=0)[:, 0], return_counts=True)
    several = fingerprints[(counts > 1) & (fingerprints != 0)]
    of_sound: dict[int, dict[tuple[str, int], str]] = {}  # split and row → words
    for name, each in sounds.items():
        for row in np.flatnonzero(np.isin(each, several)).tolist():
            text = splits[name].utterances[row].text
            words = comparable(without_punctuation(text, None))
            of_sound.setdefault(int(each[row]), {})[name, row] = words
    of_sound = {sound: rows for sound, rows in of_sound.items() if len(set(rows.values())) > 1}
    places = {
        name: np.flatnonzero(np.isin(each, np.fromiter(of_sound, np.uint64)))
        for name, each in sounds.items()
    }

    def has_two_texts(split: str, row: int) -> bool:
        rows = of_sound[int(sounds[split][row])]
        return len({words for (name, _), words in rows.items() if name == split}) > 1

    def detail(one: Measured, row: int) -> str:
        rows = of_sound[int(sounds[one.split][row])]
        own = rows[one.split, row]
        name, other = next(place for place, words in rows.items() if words != own)
        twin = splits[name].utterances[other]
        return f"also in {name}, {twin.row}, as “{twin.text}”"

    unusable = {
        name: np.array([row for row in rows.tolist() if has_two_texts(name, row)], np.int64)
        for name, rows in places.items()
    }
    return Finding("contradicted", splits, places, detail, len(of_sound), unusable=unusable)


SHARED_FIELDS = {
    "shared_audio": "fingerprint",
    "shared_texts": "text_key",
    "shared_speakers": "speaker",
}
NOTHING = {"fingerprint": 0, "text_key": 0, "speaker": -1}


def shared(splits: Splits, key: str, field: str) -> Finding:
    """What stands in a held-out split and in one before it; counted is each text, voice or sound.

    The rows are those of the earlier split, which are the ones to take out. Of a speaker it is the
    first row only.
    """
    keys = {name: one.records[field] for name, one in splits.items()}
    pairs = {
        (early, late): _common(keys[early], keys[late], NOTHING[field])
        for early, late in _pairs(splits)
    }
    places = {}
    for name in splits:
        of_split = [common.keys for (early, _), common in pairs.items() if early == name]
        rows = np.flatnonzero(np.isin(keys[name], _joined(of_split, field)))
        if field == "speaker":
            rows = rows[np.unique(keys[name][rows], return_index=True)[1]]
        places[name] = rows

    def detail(one: Measured, row: int) -> str:
        value = one.records[row][field]
        shares = [
            _found_in(splits[late], common, value)
            for (early, late), common in pairs.items()
            if early == one.split
        ]
        speaker = f"speaker {one.speakers[int(value)]}, " if field == "speaker" else ""
        return speaker + "; ".join(filter(None, shares))

    distinct = np.unique(_joined([common.keys for common in pairs.values()], field))
    counts = {f"{early}, {late}": len(common.keys) for (early, late), common in pairs.items()}
    return Finding(key, splits, places, detail, len(distinct), {"pairs": counts})


def _pairs(splits: Splits) -> list[tuple[str, str]]:
    """Each held-out split with all that come before it."""
    names = sorted(splits, key=lambda name: name in HELD_OUT)  # mixed sources are training, too
    return [
        (early, late)
        for number, late in enumerate(names)
        for early in names[:number]
        if late in HELD_OUT
    ]


@dataclass(frozen=True)
class _Common:
    """Keys that two splits have in common, and where the later one has them first."""

    keys: np.ndarray  # (n,) ascending
    rows: np.ndarray  # (n,)


def _common(early: np.ndarray, late: np.ndarray, nothing: int) -> _Common:
    both, _, rows = np.intersect1d(early, late, return_indices=True)
    return _Common(both[both != nothing], rows[both != nothing])


def _found_in(late: Measured, common: _Common, key: Any) -> str:
    """Where the later split has it first; "" if it does not."""
    place = int(np.searchsorted(common.keys, key))
    if place == len(common.keys) or common.keys[place] != key:
        return ""
    return f"also in {late.split}, {late.utterances[int(common.rows[place])].row}"


def _joined(keys: list[np.ndarray], field: str) -> np.ndarray:
    """One array; of the field's own type, also where there are none to join."""
    return np.concatenate([np.empty(0, RECORD[field]), *keys])


def _with_overlaps(same: Finding) -> Finding:
    """Add the slices that share half of themselves with a slice in a later, held-out split."""
    overlaps: dict[str, dict[int, str]] = {name: {} for name in same.splits}
    for early, late in _pairs(same.splits):
        learnt = Recordings([_stretches(same.splits[late])])
        rows = learnt.shared_with(_stretches(same.splits[early]))
        overlaps[early] |= dict.fromkeys(rows, late)
    places = {
        name: np.union1d(rows, list(overlaps[name])).astype(np.int64)
        for name, rows in same.places.items()
    }
    more_rows = sum(map(len, places.values())) - same.row_count

    def detail(one: Measured, row: int) -> str:
        late = overlaps[one.split].get(row)
        return same.detail(one, row) or f"{late} has a slice of the same stretch"

    return replace(same, places=places, detail=detail, distinct=same.count + more_rows)


def _stretches(one: Measured) -> Utterances:
    """The utterances with their measured length, which those that do not decode lack."""
    return one.utterances.with_durations(one.records["seconds"])


def rate_outliers(splits: Splits) -> Finding:
    """Utterances whose characters a second are far from what their language usually has.

    In the logarithm, where twice as fast is as far as half as fast, by median and median absolute
    deviation, which the outliers themselves do not move (Iglewicz and Hoaglin 1993, "How to detect
    and handle outliers"). Languages of few utterances have the absolute bounds only.
    """
    rates = {name: characters_per_second(one.records) for name, one in splits.items()}
    languages = {name: one.records["language"] for name, one in splits.items()}
    bounds = _rate_bounds(
        np.concatenate(list(rates.values())), np.concatenate(list(languages.values()))
    )
    places = {}
    for name, one in rates.items():
        low, high = np.array([bounds[code][1:] for code in languages[name]]).reshape(-1, 2).T
        places[name] = np.flatnonzero((one < low) | (one > high))  # false for NaN

    def detail(one: Measured, row: int) -> str:
        code = int(one.records[row]["language"])
        median, low, high = bounds[code]
        usual = f"{one.languages[code] or 'this speech'} has {median:.0f}, and {low:.1f}–{high:.1f}"
        return f"{rates[one.split][row]:.1f} characters a second; {usual} is usual"

    settings = {
        next(iter(splits.values())).languages[code] or "unknown": {
            "median": round(median, 2),
            "lowest": round(low, 2),
            "highest": round(high, 2),
        }
        for code, (median, low, high) in bounds.items()
    }
    return Finding("rate_outliers", splits, places, detail, more={"usual": settings})


def characters_per_second(records: np.ndarray) -> np.ndarray:
    """(rows,) float64; NaN where there is no sound or no text."""
    is_speech = sound_is_whole(records) & (records["characters"] > 0) & ~silent(records)
    return np.where(is_speech, records["characters"] / np.maximum(records["seconds"], 1e-3), np.nan)


def _rate_bounds(rates: np.ndarray, languages: np.ndarray) -> dict[int, tuple[float, float, float]]:
    """Median, lowest and highest usual rate of each language."""
    bounds = {}
    for code in np.unique(languages).tolist():
        known = rates[(languages == code) & ~np.isnan(rates)]
        median = float(np.median(known)) if len(known) else float("nan")
        low, high = LOWEST_RATE, HIGHEST_RATE
        if len(known) >= FEWEST_RATES:
            logs = np.log(known)
            deviation = NORMAL * float(np.median(np.abs(logs - np.log(median))))
            factor = max(RATE_RATIO, float(np.exp(RATE_DEVIATIONS * deviation)))
            low, high = max(low, median / factor), min(high, median * factor)
        bounds[code] = (median, low, high)
    return bounds


# ── all rows together ────────────────────────────────────────────────────────────────────────


def totals(measured: Measured) -> dict[str, Any]:
    """How much speech a split holds, of whom, in what languages and kinds of file."""
    records = measured.records
    seconds = np.nan_to_num(records["seconds"])
    return {
        "utterances": len(records),
        "hours": round(float(seconds.sum()) / 3600, 4),
        "speakers": len(np.unique(records["speaker"][records["speaker"] >= 0])),
        "speaker_unknown": int((records["speaker"] < 0).sum()),
        "languages": _tally(measured.languages.all, records["language"], seconds),
        "rates": _counts(records["rate"][records["rate"] > 0]),
        "formats": {
            measured.formats[int(code)] or "unnamed": count
            for code, count in _counts(records["format"]).items()
        },
    }


def _tally(names: list[str], codes: np.ndarray, seconds: np.ndarray) -> dict[str, Any]:
    """Utterances and hours by name, most hours first."""
    counts = np.bincount(codes + 1, minlength=len(names) + 1)
    hours = np.bincount(codes + 1, weights=seconds, minlength=len(names) + 1) / 3600
    named = zip(["unknown", *names], counts.tolist(), hours.tolist(), strict=True)
    rows = [(name, count, hour) for name, count, hour in named if count]
    return {
        name: {"utterances": count, "hours": round(hour, 4)}
        for name, count, hour in sorted(rows, key=lambda row: -row[2])
    }


def _counts(values: np.ndarray) -> dict[int, int]:
    """How often each value occurs, most frequent first."""
    distinct, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return dict(zip(distinct[order].tolist(), counts[order].tolist(), strict=True))


def settings(window_seconds: float, max_tokens: int) -> dict[str, float]:
    """The limits that the findings were found with."""
    return {
        "window_seconds": window_seconds,
        "max_tokens": max_tokens,
        "shortest_seconds": SHORTEST_SECONDS,
        "full_scale": FULL_SCALE,
        "clipped_share": CLIPPED_SHARE,
        "silent_dbfs": SILENT_DBFS,
        "quiet_db": QUIET_DB,
        "quiet_share": QUIET_SHARE,
        "rate_deviations": RATE_DEVIATIONS,
        "rate_ratio": RATE_RATIO,
        "lowest_characters_per_second": LOWEST_RATE,
        "highest_characters_per_second": HIGHEST_RATE,
    }
