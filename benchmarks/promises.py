"""What README promises, once on a pretrained checkpoint: each part is tried, and said how it went.

    python -m benchmarks.promises MODEL --language sw --train A.jsonl --validation B.jsonl \\
        --test C.jsonl [--only kinds,exports]

Runs are of 20 steps with 2 windows each, and score 6 utterances: enough to see that the loss falls,
that adapter and merged model write the same, and that other programs read what was made. It says
nothing of quality.
Every part goes on where another failed; benchmarks/results/promises.json has what was found.
"""

from __future__ import annotations

import argparse
import json
import statistics
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.results import write_result
from lora_whisper.__main__ import carry_out
from lora_whisper.data.audio import read_audio
from lora_whisper.files import read_json, read_jsonl
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.run_folder import HYPOTHESES, RunFolder

OUTPUTS = Path("outputs/promises")
STEPS, UTTERANCES = 20, 6
KINDS = {
    "lora": [],
    "lora-int8": ["quantization=int8"],
    "lora-nf4": ["quantization=nf4"],
    "rslora": ["adapter=rslora"],
    "dora": ["adapter=dora"],
    "pissa": ["adapter=pissa"],
    "eva": ["adapter=eva"],
    "adalora": ["adapter=adalora"],
}
Given = argparse.Namespace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    for name in ("language", "train", "validation", "test"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--only", default=",".join(PARTS))
    given = parser.parse_intermixed_args()
    path = Path(__file__).parent / "results" / "promises.json"
    known = read_json(path)["parts"] if path.is_file() else {}
    for name in given.only.split(","):
        try:
            known[name] = PARTS[name](given)
        except Exception:
            known[name] = {"failed": traceback.format_exc(limit=-3)}
        print(name, json.dumps(known[name], indent=2, ensure_ascii=False), flush=True)
        write_result("promises", "python -m benchmarks.promises MODEL …", {"parts": known})


# ── the parts ────────────────────────────────────────────────────────────────────────────────


def kinds(given: Given) -> dict[str, Any]:
    """Each kind of adapter and quantization: does the loss fall, does the merged model agree?"""
    return {name: attempt(trained_and_merged, given, name, more) for name, more in KINDS.items()}


def trained_and_merged(given: Given, name: str, more: list[str]) -> dict[str, Any]:
    run = trained(given, name, *more)
    losses = [
        line["loss_per_token"] for line in read_jsonl(run.metrics) if "loss_per_token" in line
    ]
    require(carry_out("merge", [f"run={run.path}", "overwrite=true"]))
    ours, theirs = (texts(run.evaluation / model / "test") for model in ("adapter", "merged"))
    summary = read_json(run.summary)
    return {
        "first_loss": statistics.mean(losses[:3]),
        "last_loss": statistics.mean(losses[-3:]),
        "texts_as_merged": [sum(map(str.__eq__, ours, theirs)), len(ours)],
        "wer": {model: summary[model]["wer"] for model in ("base", "adapter", "merged")},
        "resident_memory_bytes": summary.get("resident_memory_bytes"),
    }


def sweep(given: Given) -> dict[str, Any]:
    arguments = train_arguments(given, "ranks", "adapter.rank=2,8", "training.max_steps=4")
    require(carry_out("train", ["-m", *arguments]))
    place = Path("outputs/sweeps/promises/ranks")
    require(carry_out("report", [str(place)]))
    page_bytes = (place / "report.html").stat().st_size
    return {"points": len([*place.glob("*/summary.json")]), "page_bytes": page_bytes}


def checked(given: Given) -> dict[str, Any]:
    speech = [f"data.{name}={getattr(given, name)}" for name in SPEECH]
    require(
        carry_out(
            "check", [f"model={given.model}", "name=promises/check", "overwrite=true", *speech]
        )
    )
    return {"page_bytes": (OUTPUTS / "check/check.html").stat().st_size}


def planned(given: Given) -> dict[str, Any]:
    """`plan` beside what the run of `kinds` took; on a CPU that has the libraries in it, too."""
    require(carry_out("plan", [f"model={given.model}", "training.micro_batch=2", "tokens=100"]))
    summary = read_json(RunFolder(OUTPUTS / "lora").summary)
    return {"measured_bytes": summary.get("resident_memory_bytes")}


def evaluated(given: Given) -> dict[str, Any]:
    require(
        carry_out(
            "evaluate",
            [
                f"run={OUTPUTS / 'lora'}",
                "evaluation.conditions=all",
                "evaluation.retention=embedded:speech/general/test.jsonl",
                "evaluation.adapter_scales=[0,0.5,1]",
                f"evaluation.max_utterances={UTTERANCES}",
                "overwrite=true",
            ],
        )
    )
    found = read_json(RunFolder(OUTPUTS / "lora").results)
    (conditions,) = found["conditions"].values()
    return {
        "conditions": {
            name: {model: score["wer"] for model, score in models.items()}
            for name, models in conditions.items()
        },
        "probes": found["probes"],
        "warnings": found["warnings"],
    }


def rehearsed(given: Given) -> dict[str, Any]:
    mix = "data.mix=[{train: embedded:speech/rehearsal/train.jsonl, language: en, weight: 0.5}]"
    run = trained(given, "rehearsal", mix)
    return {"wer": read_json(run.summary)["adapter"]["wer"]}


def long_form(given: Given) -> dict[str, Any]:
    """Some utterances joined into one recording, heard by base and merged model."""
    rows = [json.loads(line) for line in Path(given.test).read_text("utf-8").splitlines()][:5]
    folder = Path(given.test).parent
    samples = np.concatenate([read_audio(folder / row["audio"]) for row in rows])
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    soundfile.write(OUTPUTS / "long.wav", samples, SAMPLING_RATE)
    text = " ".join(row.get("text") or row["transcription"] for row in rows)
    row = {"audio": "long.wav", "text": text, "language": given.language}
    (OUTPUTS / "long.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    merged = RunFolder(OUTPUTS / "lora").merged
    require(
        carry_out(
            "evaluate",
            [
                f"models=[{given.model},{merged}]",
                f"data.test={OUTPUTS / 'long.jsonl'}",
                "evaluation.diagnostics=false",
                "name=promises/long",
                "overwrite=true",
            ],
        )
    )
    found = read_json(RunFolder(OUTPUTS / "long").results)
    scores = next(iter(found["scores"].values()))  # the other set is of what was trained on
    rates = {model: score["wer"] for model, score in scores.items()}
    return {"seconds": len(samples) / SAMPLING_RATE, "wer": rates}


def in_transformers(given: Given) -> dict[str, Any]:
    """The merged model in Transformers' pipeline, told a language and asked for timestamps."""
    from transformers import pipeline

    run = RunFolder(OUTPUTS / "lora")
    decoder: Any = pipeline("automatic-speech-recognition", model=str(run.merged))
    said = {"language": given.language, "task": "transcribe", "num_beams": 1, "do_sample": False}
    rows = read_jsonl(run.evaluation / "merged" / "test" / HYPOTHESES)
    sounds = [{"raw": one, "sampling_rate": SAMPLING_RATE} for one in sounds_of(given, rows)]
    heard = [decoder(dict(one), generate_kwargs=said)["text"].strip() for one in sounds]
    timed = decoder(dict(sounds[0]), return_timestamps=True, generate_kwargs=said)
    same = sum(map(str.__eq__, heard, (row["hypothesis"] for row in rows)))
    return {"texts_the_same": [same, len(rows)], "timestamps": timed["chunks"]}


def in_faster_whisper(given: Given) -> dict[str, Any]:
    """Language detection, segments and word times of the exported model."""
    from faster_whisper import WhisperModel

    run = RunFolder(OUTPUTS / "lora")
    carry_out(
        "export", [f"run={run.path}", "format=ctranslate2", "dtype=float32", "overwrite=true"]
    )
    model = WhisperModel(str(run.export / "ctranslate2"), device="cpu")
    rows = read_jsonl(run.evaluation / "merged" / "test" / HYPOTHESES)
    (samples, *_) = sounds_of(given, rows)
    segments, info = model.transcribe(samples, word_timestamps=True)
    found = [(one.start, one.end, one.text, len(one.words or [])) for one in segments]
    return {
        "language": info.language,
        "probability": info.language_probability,
        "segments": found,
    }


def in_peft(given: Given) -> dict[str, Any]:
    """Logits of the adapter in stock PEFT beside those of the merged model."""
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    run = RunFolder(OUTPUTS / "lora")
    whisper = WhisperForConditionalGeneration.from_pretrained(given.model, dtype=torch.float32)
    adapted: Any = PeftModel.from_pretrained(whisper, str(run.adapter)).eval()
    merged = WhisperForConditionalGeneration.from_pretrained(run.merged, dtype=torch.float32).eval()
    torch.manual_seed(0)
    inputs = {
        "input_features": torch.randn(1, merged.config.num_mel_bins, 3000),
        "decoder_input_ids": torch.tensor([[merged.config.decoder_start_token_id, 1, 2, 3]]),
    }
    with torch.inference_mode():
        apart = adapted.base_model.model(**inputs).logits - merged(**inputs).logits
    return {"largest_difference_of_logits": apart.abs().max().item()}


PARTS: dict[str, Callable[[Given], dict[str, Any]]] = {
    "kinds": kinds,
    "sweep": sweep,
    "check": checked,
    "plan": planned,
    "evaluate": evaluated,
    "rehearsal": rehearsed,
    "long_form": long_form,
    "transformers": in_transformers,
    "faster_whisper": in_faster_whisper,
    "peft": in_peft,
}


# ── what they share ──────────────────────────────────────────────────────────────────────────

SPEECH = ("language", "train", "validation", "test")


def train_arguments(given: Given, name: str, *more: str) -> list[str]:
    return [
        f"model={given.model}",
        f"name=promises/{name}",
        *(f"data.{one}={getattr(given, one)}" for one in SPEECH),
        f"training.max_steps={STEPS}",
        "training.global_batch=2",
        "training.micro_batch=2",
        "training.log_every_steps=1",
        f"training.validate_every_steps={STEPS}",
        f"evaluation.max_validation_utterances={UTTERANCES}",
        f"evaluation.max_utterances={UTTERANCES}",
        *more,
    ]


def trained(given: Given, name: str, *more: str) -> RunFolder:
    """A run of that name; one that is complete is taken as it is."""
    run = RunFolder(OUTPUTS / name)
    if not run.summary.is_file():
        require(carry_out("train", [*train_arguments(given, name, *more), "overwrite=true"]))
    return run


def attempt(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    try:
        return function(*arguments)
    except Exception:
        return {"failed": traceback.format_exc(limit=-3)}


def texts(folder: Path) -> list[str]:
    return [row["hypothesis"] for row in read_jsonl(folder / HYPOTHESES)]


def sounds_of(given: Given, rows: list[dict[str, Any]]) -> list[np.ndarray]:
    """Of scored rows, which are named by file and line."""
    manifest = Path(given.test)
    lines = manifest.read_text("utf-8").splitlines()
    audio = [json.loads(lines[int(row["row"].split(":")[1]) - 1])["audio"] for row in rows]
    return [read_audio(manifest.parent / one) for one in audio]


def require(code: int) -> None:
    if code:
        raise RuntimeError(f"exit code {code}")


if __name__ == "__main__":
    main()
