"""What an evaluation may have found, made up, as small as it can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lora_whisper.evaluation.results import EvaluationResults, ScoredUtterance, from_json
from lora_whisper.evaluation.score import score_utterance

REFERENCES = (
    "Take two tablets of tramadol.",
    "Refill ibuprofen.",
    "Good morning, the patient is doing well today.",
)
HEARD = {
    "base": ("take to tablet of tram a doll", "refill i be pro fen", "good morning"),
    "adapter": (
        "take two tablets of tramadol",
        "refill ibuprofen now",
        "good morning the patient is doing well",
    ),
}


def row(
    number: int, reference: str, heard: str, language: str = "en", **more: Any
) -> ScoredUtterance:
    """A line of hypotheses.jsonl."""
    found = score_utterance(f"test.jsonl:{number}", language, reference, heard, seconds=2.5)
    return replace(found, **more)


def typed(results: Mapping[str, Any]) -> EvaluationResults:
    return from_json(EvaluationResults, results)


def rows(
    heard: Mapping[str, Sequence[str]] = HEARD,
    references: Sequence[str] = REFERENCES,
    language: str = "en",
) -> dict[str, list[ScoredUtterance]]:
    """Model → its rows on one set."""
    return {
        model: [
            row(number, reference, text, language)
            for number, (reference, text) in enumerate(zip(references, texts, strict=True), 1)
        ]
        for model, texts in heard.items()
    }


def rated(wer: float) -> dict[str, Any]:
    return {
        "wer": wer,
        "wer_ci95": [0.8 * wer, 1.1 * wer],
        "cer": wer / 2,
        "cer_ci95": [0.4 * wer, 0.6 * wer],
    }


def score(wer: float, **more: Any) -> dict[str, Any]:
    """As evaluation.json holds it."""
    return {
        **rated(wer),
        "wer_orthographic": 1.1 * wer,
        "cer_orthographic": 0.55 * wer,
        "substitutions": 4,
        "insertions": 3,
        "deletions": 2,
        "sentence_error_rate": 0.75,
        "utterances": 3,
        "reference_words": 15,
        "no_reference": 0,
        "leading": "wer",
        "units": "graphemes" if more.get("leading") == "cer" else "words",
        "normalizer": "whisper-english",
        "resampled": "utterances",
        "bad_audio": 0,
        "audio_seconds": 7.5,
        "decode_seconds": 0.5,
        "groups": {},
    } | more


def compared(verdict: str, p_value: float, difference: float = -0.4) -> dict[str, Any]:
    return {
        "against": "base",
        "difference": difference,
        "ci95": [difference - 0.1, difference + 0.1],
        "p_value": p_value,
        "verdict": verdict,
        "resampled": "utterances",
    }


def word_recall(found: int, **more: Any) -> dict[str, Any]:
    """Of 8; as older versions wrote it, which did not count false alarms."""
    return {
        "recall": found / 8,
        "ci95": [0.4, 0.8],
        "said": 8,
        "found": found,
        "written": found + 1,
        "resampled": "utterances",
        "precision": 0.8,
        "words": [["tramadol", 5, found - 3], ["ibuprofen", 3, 3]],
    } | more


def speech_set(name: str, role: str = "test", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "role": role,
        "utterances": 3,
        "hours": 0.25,
        "speakers": 0,
        "languages": ["en"],
        "left_out": {},
        "leaks": [],
    } | more


def model(name: str, failed: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "what": f"outputs/{name}",
        "kind": "adapter",
        "quantization": "none",
        "dtype": "float32",
        "fingerprint": "sha256:abc",
        "failed": failed,
    } | more


def toy_results(**changes: Any) -> dict[str, Any]:
    """Two models on one test set and nothing else that could be asked for."""
    return {
        "format": 1,
        "name": "pharmacy",
        "models": [model("base", kind="base"), model("adapter")],
        "against": "base",
        "sets": [speech_set("test")],
        "scores": {"test": {"base": score(0.9), "adapter": score(0.2)}},
        "comparisons": {"test": {"adapter": compared("better", 0.0004)}},
        "mistakes": {},
        "keywords": {},
        "hallucination": {},
        "probes": {},
        "conditions": {},
        "scales": {},
        "warnings": [],
        "settings": {"beams": 1, "timestamps": False},
        "environment": {"gpus": [], "cuda": None},
        "versions": {"lora_whisper": "0.0.1"},
    } | changes


def capability(name: str, verdict: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "how": "all text between pairs that go forward",
        "unit": "share",
        "is_better_higher": True,
        "tolerance": 0.1,
        "base": 0.98,
        "adapter": 0.12,
        "ci95": [-0.97, -0.7],
        "counted": "32 clips",
        "verdict": verdict,
        "why": "",
    } | more


def toy_card() -> dict[str, Any]:
    """Something lost, and something that was not measured."""
    nothing = {"base": None, "adapter": None, "ci95": None, "counted": ""}
    english = capability("translation", "not measured", why="it is English already", **nothing)
    rows = [capability("timestamps", "lost"), capability("language found", "kept"), english]
    return {"against": "base", "rows": rows, "seconds": 12.0}


def asked_for() -> dict[str, dict[str, Any]]:
    """Each part that may be asked for, with the title of what shows it on the page."""
    both = {"base": 0.9, "adapter": 0.2}
    grouped = {
        name: score(wer, groups={"accent": {"scots": score(2 * wer), "welsh": score(wer / 2)}})
        for name, wer in both.items()
    }
    kinds = ("looping", "too_long", "compression", "any")
    example = {"row": "test.jsonl:3", "hypothesis": "thank you thank you", "why": "repeats"}
    return {
        "Kept and lost": {"cards": {"adapter": toy_card()}},
        "Conditions": {
            "conditions": {
                "test": {
                    name: {model: rated(harder * wer) for model, wer in both.items()}
                    for name, harder in (("clean", 1.0), ("noise-0db", 2.0))
                }
            }
        },
        "Adapter scale": {
            "scales": {
                "adapter": [
                    {"scale": scale, "scores": {"test": rated(0.9 - 0.7 * scale)}}
                    for scale in (0.0, 0.5, 1.0)
                ]
            }
        },
        "Groups": {"scores": {"test": grouped}},
        "Mistakes": {
            "mistakes": {
                "test": {
                    model: {
                        "confusions": [["two", "too", 7]],
                        "lost": [["well", 3, 5]],
                        "inserted": [["um", 4]],
                    }
                    for model in both
                }
            }
        },
        "Word list": {
            "keywords": {"test": {model: word_recall(5) for model in both}},
            "prompted": {
                "test": {
                    "adapter": {
                        "recall": word_recall(
                            7,
                            false_alarm_rate=0.125,
                            false_alarm_ci95=[0.05, 0.2],
                            parts={"seen": word_recall(4), "unseen": word_recall(3)},
                        ),
                        "score": rated(0.1),
                        "comparison": compared("better", 0.01),
                    }
                }
            },
            "prompt_words": ["tramadol", "ibuprofen"],
        },
        "Hallucination": {
            "hallucination": {
                "test": {
                    model: {
                        "utterances": 3,
                        **dict.fromkeys(kinds, 1),
                        "on_silence": 0,
                        "examples": [example],
                    }
                    for model in both
                }
            },
            "probes": {
                model: {"silence": {"clips": 4, "with_text": 1, "texts": ["bye"]}} for model in both
            },
        },
        "Overfitting": {
            "sets": [speech_set("test"), speech_set("seen", "training")],
            "scores": {
                name: {"base": score(0.9), "adapter": score(wer)}
                for name, wer in (("test", 0.2), ("seen", 0.01))
            },
        },
    }
