"""What is wrong with measured speech: each finding is a pure function of the records."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lora_whisper.config import DataConfig
from lora_whisper.data.audio import SHORTEST_SECONDS
from lora_whisper.data.contents import Recordings
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.durations import why_absent
from lora_whisper.data.quality_findings import FOLLOWED, MEANINGS, Finding, Splits
from lora_whisper.data.quality_measures import (
    FULL_SCALE,
    QUIET_DB,
    RECORD,
    REMARK_KINDS,
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


def inspect(
    splits: Splits, rules: TextRules, window_seconds: float, data: DataConfig | None = None
) -> list[Finding]:
    """Every finding, in the order of MEANINGS, also those that found nothing.

    Args:
        data: what is typed, which is not to be advised.
    """
    limit = rules.special_tokens.max_tokens
    masks = {name: _masks(one.records, window_seconds, limit) for name, one in splits.items()}
    findings = {}
    for key in next(iter(masks.values())):
        rows = {name: np.flatnonzero(of_split[key]) for name, of_split in masks.items()}
        detail = partial(_detail, key, rules, window_seconds)
        findings[key] = Finding(key, splits, rows, detail)
    spelled: Counter[str] = Counter()  # characters, with the number of texts that hold them
    for split, numbers in findings["split_badly"].numbers.items():
        for number in numbers.tolist():
            spelled.update(rules.spelled_in_bytes(splits[split].utterances[number].text))
    characters = {"characters": dict(spelled.most_common())}
    findings["split_badly"] = replace(findings["split_badly"], more=characters)
    findings["scored_words"] = scored_words(splits)
    findings["duplicates"] = duplicates(splits)
    findings["contradicted"] = contradicted(splits)
    findings["rate_outliers"] = rate_outliers(splits)
    findings |= {key: shared(splits, key, field) for key, field in SHARED_FIELDS.items()}
    findings["shared_audio"] = _with_overlaps(findings["shared_audio"])
    if data is not None:
        for key, followed in FOLLOWED.items():
            findings[key] = replace(findings[key], is_followed=followed.is_typed(data))
    return [findings[key] for key in MEANINGS]


# ── one row at a time ────────────────────────────────────────────────────────────────────────


def _masks(records: np.ndarray, window_seconds: float, max_tokens: int) -> dict[str, np.ndarray]:
    """By finding, which of the rows have it."""
    return {
        **{
            problem: records["problem"] == number
            for number, problem in enumerate(SOUND_PROBLEMS)
            if problem
        },
        **{
            kind: records["remarks"] & (1 << number) != 0
            for number, kind in enumerate(REMARK_KINDS)
        },
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


def _detail(key: str, rules: TextRules, window_seconds: float, one: Measured, row: int) -> str:
    """What is to be said of a row that has this finding."""
    record = one.records[row]
    match key:
        case "over_window":
            return f"{record['seconds']:.2f} s, room for {window_seconds:g} s"
        case "clipped":
            return f"{100 * record['clipped_share']:.2f} % of the samples at full scale"
        case "silent":
            return f"nothing louder than {record['loudest_dbfs']:.0f} dBFS"
        case "mostly_silent":
            quiet_seconds = record["quiet_share"] * record["seconds"]
            return f"{quiet_seconds:.1f} of {record['seconds']:.1f} s without speech"
        case "labels_over_limit":
            return f"{record['tokens']} tokens, room for {rules.special_tokens.max_tokens}"
        case "empty_texts":
            return "no text"
    if key in REMARK_KINDS:
        return next(remark.detail for remark in one.remarks[row] if remark.kind == key)
    utterance = one.utterances[row]
    match key:
        case "no_transcript":
            return ", ".join(leftovers(utterance.text, rules.written(utterance)))
        case "split_badly":
            letters = rules.spelled_in_bytes(utterance.text)
            return ", ".join(f"{letter} (U+{ord(letter):04X})" for letter in letters)
        case "digits":
            return ", ".join(digits(utterance.text))
        case "mixed_scripts":
            return ", ".join(mixed_scripts(utterance.text))
        case "unknown_language":
            return rules.language_problem(utterance)
    assert key in SOUND_PROBLEMS, f"nothing is said of {key}"
    return one.details[row] + why_absent(utterance.audio)


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


def scored_words(splits: Splits) -> Finding:
    """References whose scored words are not those that are spoken, in held-out splits.

    Texts of which nothing is left, always; others where most of their split is so, since a number
    in a sentence is no matter.
    """
    numbers = {}
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
        numbers[name] = np.flatnonzero(rows if name in HELD_OUT else np.zeros(len(rows), bool))

    def detail(one: Measured, row: int) -> str:
        record = one.records[row]
        return f"{record['written_words']} words are scored as {record['scored_words']}"

    return Finding("scored_words", splits, numbers, detail)


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
    numbers, firsts = {}, {}
    for name, one in splits.items():
        keys = np.where(silent(one.records), 0, one.records["fingerprint"])
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        firsts[name] = first[inverse]
        numbers[name] = np.flatnonzero((keys != 0) & (firsts[name] != np.arange(len(keys))))

    def detail(one: Measured, row: int) -> str:
        twin = one.utterances[int(firsts[one.split][row])]
        same = one.records[row]["text_key"] == one.records[int(firsts[one.split][row])]["text_key"]
        return f"sounds as {twin.row} does" + ("" if same else f", whose text is “{twin.text}”")

    return Finding("duplicates", splits, numbers, detail)


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
    numbers = {
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
        for name, rows in numbers.items()
    }
    return Finding("contradicted", splits, numbers, detail, len(of_sound), unusable=unusable)


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
    pairs = {}  # keys that two splits have in common, ascending, and where the later one has them
    for early, late in _pairs(splits):
        both, _, rows = np.intersect1d(keys[early], keys[late], return_indices=True)
        pairs[early, late] = both[both != NOTHING[field]], rows[both != NOTHING[field]]
    numbers = {}
    for name in splits:
        of_split = [common for (early, _), (common, _) in pairs.items() if early == name]
        rows = np.flatnonzero(np.isin(keys[name], _joined(of_split, field)))
        if field == "speaker":
            rows = rows[np.unique(keys[name][rows], return_index=True)[1]]
        numbers[name] = rows

    def detail(one: Measured, row: int) -> str:
        value, found = one.records[row][field], []
        for (early, late), (common, rows) in pairs.items():
            number = int(np.searchsorted(common, value))
            if early == one.split and number < len(common) and common[number] == value:
                found.append(f"also in {late}, {splits[late].utterances[int(rows[number])].row}")
        speaker = f"speaker {one.speakers[int(value)]}, " if field == "speaker" else ""
        return speaker + "; ".join(found)

    distinct = np.unique(_joined([common for common, _ in pairs.values()], field))
    counts = {f"{early}, {late}": len(common) for (early, late), (common, _) in pairs.items()}
    return Finding(key, splits, numbers, detail, len(distinct), {"pairs": counts})


def _pairs(splits: Splits) -> list[tuple[str, str]]:
    """Each held-out split with all that come before it."""
    names = sorted(splits, key=lambda name: name in HELD_OUT)  # mixed sources are training, too
    return [
        (early, late)
        for number, late in enumerate(names)
        for early in names[:number]
        if late in HELD_OUT
    ]


def _joined(keys: list[np.ndarray], field: str) -> np.ndarray:
    """One array; of the field's own type, also where there are none to join."""
    return np.concatenate([np.empty(0, RECORD[field]), *keys])


def _with_overlaps(same: Finding) -> Finding:
    """Add the slices that share half of themselves with a slice in a later, held-out split."""
    overlaps: dict[str, dict[int, str]] = {name: {} for name in same.splits}
    for early, late in _pairs(same.splits):
        recordings = Recordings([_stretches(same.splits[late])])
        rows = recordings.shared_with(_stretches(same.splits[early]))
        overlaps[early] |= dict.fromkeys(rows, late)
    numbers = {
        name: np.union1d(rows, list(overlaps[name])).astype(np.int64)
        for name, rows in same.numbers.items()
    }
    more_rows = sum(map(len, numbers.values())) - same.row_count

    def detail(one: Measured, row: int) -> str:
        late = overlaps[one.split].get(row)
        return same.detail(one, row) or f"{late} has a slice of the same stretch"

    return replace(same, numbers=numbers, detail=detail, distinct=same.count + more_rows)


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
    numbers = {}
    for name, one in rates.items():
        low, high = np.array([bounds[code][1:] for code in languages[name]]).reshape(-1, 2).T
        numbers[name] = np.flatnonzero((one < low) | (one > high))  # false for NaN

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
    return Finding("rate_outliers", splits, numbers, detail, more={"usual": settings})


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
