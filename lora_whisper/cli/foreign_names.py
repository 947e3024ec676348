"""The names that people bring from other programs, and ours: the one table of them.

From Transformers' TrainingArguments, PEFT's LoraConfig, Unsloth, Axolotl, and scripts that
fine-tune Whisper. What stands here is only told to people, and never taken for what they typed: a
name that is nearly ours may count something else.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ours:
    """What is typed here for a name of another program."""

    typed: str = ""  # "key": with the value that was given; "key=value": as it stands; "": nothing
    note: str = ""

    def advice(self, value: str) -> str:
        """A sentence or two: what to type, with `value` where it stays what it is."""
        typed = self.typed if "=" in self.typed or not self.typed else f"{self.typed}={value}"
        words = f"Type {typed}" + (f" ({self.note})." if self.note else ".")
        return words if typed else f"{self.note[:1].upper()}{self.note[1:]}."


_RANK = Ours("adapter.rank")
_RATE = Ours("optimizer.learning_rate")
_WARMUP = Ours("optimizer.warmup", "below 1 a share of all steps, from 1 on so many steps")
_MICRO = Ours(
    "training.micro_batch", "windows in one forward pass; training.global_batch: in one step"
)
_SCORED = Ours("evaluation.batch_size", "windows decoded together")
_ACCUMULATED = Ours(
    "training.global_batch=…",
    "windows in one optimizer step; how often gradients add up follows from training.micro_batch",
)
_VALIDATED = Ours("training.validate_every_steps")
_SAVED = Ours("training.checkpoint_every_steps")
_NAME = Ours("name=…", "the run's folder is outputs/NAME")
_TARGETS = Ours("adapter.targets=…", "attention-qv, attention or all-linear")
_CHECKPOINT = Ours("model.checkpoint", "or model=small, large-v3, …")
_TRAIN = Ours("data.train", "a file; data.path=… for a folder or a table that holds all splits")
_VALIDATION = Ours("data.validation")
_PATH = Ours(
    "data.path", "what holds all splits; with data=hub, if it is a data set of the hub's name"
)
_NF4 = Ours("quantization=nf4")
_INT8 = Ours("quantization=int8")
_PUSHED = Ours(note="when it is trained: lora-whisper push run=outputs/NAME repo=owner/name")
_BEST = Ours(note="it is so already: the adapter with the lowest validation WER is kept")
_OF_ITSELF = Ours(note="leave it out: this follows from the data and the model")

FOREIGN = {
    # PEFT, Unsloth, Axolotl
    "r": _RANK,
    "lora_r": _RANK,
    "lora_rank": _RANK,
    "lora_dim": _RANK,
    "lora_alpha": Ours("adapter.alpha"),
    "lora_dropout": Ours("adapter.dropout"),
    "target_modules": _TARGETS,
    "lora_target_modules": _TARGETS,
    "lora_target_linear": Ours("adapter.targets=all-linear"),
    "modules_to_save": Ours(
        "adapter.train_language_token=true", "the one part beside LoRA that is trained"
    ),
    "use_rslora": Ours("adapter=rslora"),
    "use_dora": Ours("adapter=dora"),
    "peft_use_dora": Ours("adapter=dora"),
    "peft_use_rslora": Ours("adapter=rslora"),
    "peft_type": Ours("adapter=…", "lora, rslora, dora, pissa, eva or adalora"),
    "use_lora": Ours("adapter=lora"),
    "use_peft": Ours("adapter=lora"),
    "init_lora_weights": Ours("adapter=…", "lora, pissa or eva"),
    "layers_to_transform": Ours("adapter.layers=…", "such as decoder.6-"),
    "loraplus_lr_ratio": Ours("optimizer.lora_plus_ratio"),
    "init_from_adapter": Ours("adapter.init_from"),
    "lora_model_dir": Ours("adapter.init_from"),
    "load_in_4bit": _NF4,
    "use_4bit": _NF4,
    "qlora": _NF4,
    "use_qlora": _NF4,
    "bnb_4bit_quant_type": _NF4,
    "bnb_4bit_use_double_quant": Ours(note="it is so already, with nf4"),
    "bnb_4bit_compute_dtype": Ours(note="leave it out: it is model.dtype"),
    "load_in_8bit": _INT8,
    "use_8bit": _INT8,
    "torch_dtype": Ours("model.dtype"),
    "use_gradient_checkpointing": Ours("training.gradient_checkpointing"),
    "attn_implementation": Ours("model.attention=…", "auto, sdpa or flash"),
    "use_flash_attention_2": Ours("model.attention=flash"),
    "flash_attention": Ours("model.attention=flash"),
    # length and portions
    "lr": _RATE,
    "epochs": Ours("training.max_epochs"),
    "epoch": Ours("training.max_epochs"),
    "num_epochs": Ours("training.max_epochs"),
    "n_epochs": Ours("training.max_epochs"),
    "num_train_epochs": Ours("training.max_epochs"),
    "steps": Ours("training.max_steps"),
    "num_steps": Ours("training.max_steps"),
    "train_steps": Ours("training.max_steps"),
    "max_train_steps": Ours("training.max_steps"),
    "iterations": Ours("training.max_steps"),
    "batch_size": _MICRO,
    "bs": _MICRO,
    "train_batch_size": _MICRO,
    "micro_batch_size": _MICRO,
    "per_device_train_batch_size": _MICRO,
    "per_gpu_train_batch_size": _MICRO,
    "auto_find_batch_size": Ours("training.micro_batch=auto"),
    "global_batch_size": Ours("training.global_batch"),
    "effective_batch_size": Ours("training.global_batch"),
    "gradient_accumulation_steps": _ACCUMULATED,
    "gradient_accumulation": _ACCUMULATED,
    "accumulate_grad_batches": _ACCUMULATED,
    "accum_grad_steps": _ACCUMULATED,
    "grad_accum": _ACCUMULATED,
    "grad_accumulation_steps": _ACCUMULATED,
    "warmup": _WARMUP,
    "warmup_ratio": _WARMUP,
    "num_warmup_steps": _WARMUP,
    "lr_scheduler_type": Ours("optimizer.schedule=…", "constant, linear or cosine"),
    "lr_scheduler": Ours("optimizer.schedule=…", "constant, linear or cosine"),
    "scheduler": Ours("optimizer.schedule=…", "constant, linear or cosine"),
    "max_grad_norm": Ours("optimizer.max_gradient_norm"),
    "gradient_clip_val": Ours("optimizer.max_gradient_norm"),
    "optim": Ours("optimizer=adamw", "there is no other"),
    "wd": Ours("optimizer.weight_decay"),
    "fp16": Ours("training.precision=fp16"),
    "bf16": Ours("training.precision=bf16"),
    "fp32": Ours("training.precision=fp32"),
    "mixed_precision": Ours("training.precision=…", "auto, fp32, bf16 or fp16"),
    "random_seed": Ours("seed"),
    "data_seed": Ours("seed"),
    "dataloader_num_workers": Ours("training.loader_workers"),
    "num_workers": Ours("training.loader_workers"),
    "preprocessing_num_workers": Ours("training.loader_workers"),
    "early_stopping_patience": Ours("training.patience"),
    "patience": Ours("training.patience"),
    # validating, saving, following
    "per_device_eval_batch_size": _SCORED,
    "eval_batch_size": _SCORED,
    "eval_steps": _VALIDATED,
    "evaluation_steps": _VALIDATED,
    "eval_strategy": _VALIDATED,
    "evaluation_strategy": _VALIDATED,
    "val_check_interval": _VALIDATED,
    "do_eval": Ours("data.validation=…", "then the run is validated"),
    "do_train": _OF_ITSELF,
    "save_steps": _SAVED,
    "save_strategy": _SAVED,
    "checkpoint_every": _SAVED,
    "save_total_limit": Ours(note="leave it out: the last checkpoints and the best adapter stay"),
    "logging_steps": Ours(note="leave it out: metrics.jsonl has a line every few steps"),
    "logging_dir": Ours("tracking=tensorboard"),
    "report_to": Ours("tracking=…", "tensorboard, wandb, mlflow or trackio"),
    "logger": Ours("tracking=…", "tensorboard, wandb, mlflow or trackio"),
    "use_wandb": Ours("tracking=wandb"),
    "wandb": Ours("tracking=wandb"),
    "project_name": Ours("tracking.project"),
    "wandb_project": Ours("tracking.project"),
    "resume_from_checkpoint": Ours("resume=auto", "with the command that began the run"),
    "load_best_model_at_end": _BEST,
    "metric_for_best_model": _BEST,
    "greater_is_better": _BEST,
    "predict_with_generate": _OF_ITSELF,
    "generation_max_length": _OF_ITSELF,
    "max_label_length": _OF_ITSELF,
    "max_seq_length": _OF_ITSELF,
    "group_by_length": _OF_ITSELF,
    "remove_unused_columns": _OF_ITSELF,
    "label_names": _OF_ITSELF,
    "sampling_rate": Ours(note="leave it out: every rate is read, and made the model's"),
    "push_to_hub": _PUSHED,
    "hub_model_id": _PUSHED,
    "num_beams": Ours("evaluation.beams"),
    "beam_size": Ours("evaluation.beams"),
    # folders, models, speech
    "output_dir": _NAME,
    "output": _NAME,
    "out_dir": _NAME,
    "save_dir": _NAME,
    "run_name": _NAME,
    "exp_name": _NAME,
    "overwrite_output_dir": Ours("overwrite=true"),
    "model_name_or_path": _CHECKPOINT,
    "model_name": _CHECKPOINT,
    "model_id": _CHECKPOINT,
    "model_path": _CHECKPOINT,
    "model_size": Ours("model", "tiny, base, small, medium, large-v3, turbo, …"),
    "base_model": _CHECKPOINT,
    "base_model_name_or_path": _CHECKPOINT,
    "pretrained_model": _CHECKPOINT,
    "whisper_model": _CHECKPOINT,
    "checkpoint_path": _CHECKPOINT,
    "model_revision": Ours("model.revision"),
    "lang": Ours("data.language"),
    "dataset": _PATH,
    "datasets": _PATH,
    "dataset_name": Ours("data.path", "and data=hub"),
    "dataset_config_name": Ours("data.config", "with data=hub"),
    "dataset_path": _PATH,
    "dataset_dir": _PATH,
    "data_dir": _PATH,
    "data_path": _PATH,
    "audio_dir": _PATH,
    "train_data": _TRAIN,
    "train_file": _TRAIN,
    "train_json": _TRAIN,
    "train_dataset": _TRAIN,
    "train_datasets": _TRAIN,
    "train_manifest": _TRAIN,
    "train_split_name": _TRAIN,
    "train_split": _TRAIN,
    "dev_json": _VALIDATION,
    "val_data": _VALIDATION,
    "val_file": _VALIDATION,
    "dev": _VALIDATION,
    "valid": _VALIDATION,
    "val": _VALIDATION,
    "eval_data": _VALIDATION,
    "eval_dataset": _VALIDATION,
    "eval_split_name": _VALIDATION,
    "validation_file": _VALIDATION,
    "validation_split": _VALIDATION,
    "test_data": Ours("data.test"),
    "test_file": Ours("data.test"),
    "test_dataset": Ours("data.test"),
    "audio_column": Ours("data.columns.audio"),
    "audio_column_name": Ours("data.columns.audio"),
    "text_column": Ours("data.columns.text"),
    "text_column_name": Ours("data.columns.text"),
    "transcription_column": Ours("data.columns.text"),
    "max_duration_in_seconds": _OF_ITSELF,
    "max_audio_len": _OF_ITSELF,
    "timestamps": Ours("data.timestamps_share", "0 … 1 of the training windows"),
    "apply_spec_augment": Ours("augmentation=spec_augment"),
    "spec_augment": Ours("augmentation=spec_augment"),
    "use_augmentation": Ours("augmentation=noisy"),
    # lora-whisper's own commands
    "adapter_path": Ours("adapter.init_from", "in evaluate models=[…], in merge adapter=…"),
    "quantize": Ours("quantization=…", "int8 or nf4"),
    "max_train_samples": Ours(note="leave it out: training.max_steps=… makes a short trial"),
    "max_eval_samples": Ours("evaluation.max_utterances"),
    "max_samples": Ours("evaluation.max_utterances", "of the test set"),
}

# Options of groups by other names.
FOREIGN_OPTIONS = {
    "quantization": {
        **dict.fromkeys(("4bit", "4-bit", "4", "int4", "fp4", "qlora", "bnb4"), "nf4"),
        **dict.fromkeys(("8bit", "8-bit", "8", "llm_int8", "bnb8"), "int8"),
        **dict.fromkeys(("fp16", "bf16", "fp32", "false", "no", "off", "null"), "none"),
    },
    "adapter": {"qlora": "lora quantization=nf4", "lora+": "lora optimizer.lora_plus_ratio=16"},
    "augmentation": {
        **dict.fromkeys(("specaugment", "specaug", "spec"), "spec_augment"),
        **dict.fromkeys(("reverb", "rir"), "reverberation"),
        **dict.fromkeys(("false", "no", "off", "null"), "none"),
        **dict.fromkeys(("true", "yes", "on", "all"), "noisy"),
    },
    "tracking": dict.fromkeys(("false", "no", "off", "null"), "none"),
    "optimizer": dict.fromkeys(("adam", "adamw_torch", "adamw_8bit", "adamw_bnb_8bit"), "adamw"),
    "data": {"json": "manifest", "jsonl": "manifest", "csv": "manifest", "tsv": "manifest"},
}


def ours_for(key: str) -> Ours | None:
    """What is typed here for `key` of another program: as a whole, or by its last name."""
    plain = key.lower().replace("-", "_").lstrip("_")
    return FOREIGN.get(plain) or FOREIGN.get(plain.split(".")[-1])
