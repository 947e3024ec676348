"""`adapter/README.md`: what the adapter was trained on and what it gained, for whoever finds it."""

from __future__ import annotations

from typing import Any

from lora_whisper.commands._summary import remarks
from lora_whisper.config import TrainConfig
from lora_whisper.terminal import percent

CARD = """\
---
library_name: peft
base_model: {base}
pipeline_tag: automatic-speech-recognition
tags: [lora, whisper, lora_whisper]
---

# {name}

A LoRA adapter for Whisper, trained with lora_whisper {version}.

| | WER | 95 % interval | CER |
|---|---|---|---|
{scores}

WER is of text normalized by `{normalizer}`, on {utterances} held-out utterances with
{reference_words} words.

- base: `{base}`, {fingerprint}, quantization {quantization}
- adapter: rank {rank}, alpha {alpha:g}, on {targets}
- speech: {hours:.2f} h, language {language}, task {task}
- training: {steps} steps, seed {seed}, the adapter of step {adapter_step}
- made with: {versions}
{note}
```python
from peft import PeftModel
from transformers import WhisperForConditionalGeneration

base = WhisperForConditionalGeneration.from_pretrained("{base_path}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```
"""
UNSCORED = "| not scored: the run had no test set | | | |"


def adapter_card(config: TrainConfig, summary: dict[str, Any], base_path: str) -> str:
    """The card's Markdown, from a run's configuration and summary."""
    scores = {model: summary[model] for model in ("base", "adapter") if summary[model]}
    known = summary["adapter"] or {}
    note = "; ".join(text for _, text in remarks(summary))
    return CARD.format(
        name=config.name,
        version=summary["versions"]["lora_whisper"],
        base=summary["checkpoint"],
        base_path=base_path,
        scores="\n".join(_row(model, score) for model, score in scores.items()) or UNSCORED,
        normalizer=known.get("normalizer", "none"),
        utterances=known.get("utterances", 0),
        reference_words=known.get("reference_words", 0),
        fingerprint=summary["checkpoint_fingerprint"],
        quantization=summary["quantization"],
        rank=config.adapter.rank,
        alpha=config.adapter.alpha,
        targets=config.adapter.targets,
        hours=summary["train_audio_seconds"] / 3600,
        language=config.data.language or "of each row",
        task=config.data.task,
        steps=summary["steps"],
        seed=summary["seed"],
        adapter_step=summary["adapter_step"],
        versions=", ".join(f"{name} {number}" for name, number in summary["versions"].items()),
        note=f"- note: {note}\n" if note else "",
    )


def _row(model: str, score: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in score["wer_ci95"])
    wer, cer = percent(score["wer"]), percent(score["cer"])
    return f"| {model} | {wer} | {low:.1f} – {high:.1f} % | {cer} |"
