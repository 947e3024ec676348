"""What people copy today to tune Whisper with LoRA, to be measured beside.

    python -m benchmarks.reference_recipe MODEL MANIFEST --language sw --steps 12

Log-mel features by `datasets.map`, every clip padded to 30 seconds, PEFT's LoRA on the query and
value projections, and Transformers' `Seq2SeqTrainer`: the parts and settings of PEFT's notebook on
Whisper (`examples/int8_training/peft_bnb_whisper_large_v2_training.ipynb` of huggingface/peft: rank
32, alpha 64, dropout 0.05, rate 1e-3, 50 steps of warm-up, 8 clips a step, 3 epochs), written anew
on the public interfaces. MANIFEST is JSON Lines with `audio`, files that libsndfile reads, and
`text`. The last line that is printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

RANK, ALPHA, DROPOUT = 32, 64, 0.05
TARGETS = ["q_proj", "v_proj"]
LEARNING_RATE, WARMUP_STEPS, EPOCHS = 1e-3, 50, 3
CLIPS_A_STEP = 8
IGNORED = -100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--language", required=True)
    parser.add_argument("--steps", type=int, default=-1, help="-1: three epochs")
    parser.add_argument("--global-batch", type=int, default=CLIPS_A_STEP)
    parser.add_argument("--micro-batch", type=int, help="default: the global batch")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--merged", type=Path, help="where the merged model is written")
    print(json.dumps(trained(parser.parse_args())))


@dataclass
class Collator:
    """Pads features to 30 seconds, and labels to the longest; sot is put in front by the model."""

    processor: Any
    start_token: int

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        features = [{"input_features": row["input_features"]} for row in rows]
        batch = self.processor.feature_extractor.pad(features, return_tensors="pt")
        texts = [{"input_ids": row["labels"]} for row in rows]
        labels = self.processor.tokenizer.pad(texts, return_tensors="pt")
        ids = labels["input_ids"].masked_fill(labels.attention_mask.ne(1), IGNORED)
        if (ids[:, 0] == self.start_token).all():
            ids = ids[:, 1:]
        batch["labels"] = ids
        return batch


def trained(given: argparse.Namespace) -> dict[str, Any]:
    """Train, and say how much speech went through in how many seconds."""
    processor = WhisperProcessor.from_pretrained(
        given.model, language=given.language, task="transcribe"
    )
    started = time.perf_counter()
    rows = [json.loads(line) for line in given.manifest.read_text().splitlines()]
    data = Dataset.from_list(rows).map(
        lambda row: prepared(row, processor), remove_columns=list(rows[0])
    )
    prepared_seconds = time.perf_counter() - started
    base = WhisperForConditionalGeneration.from_pretrained(given.model, dtype=torch.float32)
    settings = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, lora_dropout=DROPOUT, bias="none"
    )
    model = get_peft_model(base, settings)
    micro_batch = given.micro_batch or given.global_batch
    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=given.global_batch // micro_batch,
            learning_rate=LEARNING_RATE,
            warmup_steps=WARMUP_STEPS,
            num_train_epochs=EPOCHS,
            max_steps=given.steps,
            bf16=given.precision == "bf16",
            fp16=given.precision == "fp16",
            remove_unused_columns=False,
            label_names=["labels"],
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=given.seed,
        )
        trainer = Seq2SeqTrainer(
            args=arguments,
            model=model,
            train_dataset=data,
            data_collator=Collator(processor, base.config.decoder_start_token_id),
        )
        started = time.perf_counter()
        state = trainer.train()
        seconds = time.perf_counter() - started
    if given.merged is not None:
        model.merge_and_unload().save_pretrained(given.merged)
        processor.save_pretrained(given.merged)
    steps = trainer.state.global_step
    clip_seconds = sum(data["seconds"]) / len(data)
    on_gpu = torch.cuda.is_available()
    return {
        "steps": steps,
        "windows": steps * given.global_batch,
        # Of clips as long as the mean: an epoch has each once, in an order of its own.
        "speech_seconds": round(steps * given.global_batch * clip_seconds, 1),
        "train_seconds": round(seconds, 2),
        "prepared_seconds": round(prepared_seconds, 2),
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else peak_resident_bytes(),
        "loss": round(state.training_loss, 4),
    }


def prepared(row: dict[str, Any], processor: Any) -> dict[str, Any]:
    samples, rate = soundfile.read(row["audio"], dtype="float32")
    features = processor.feature_extractor(samples, sampling_rate=rate).input_features[0]
    labels = processor.tokenizer(row["text"]).input_ids
    return {"input_features": features, "labels": labels, "seconds": len(samples) / rate}


def peak_resident_bytes() -> int:
    """The most that this process has had in memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
