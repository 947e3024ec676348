"""What a run writes of itself into `summary.json`, when it begins and when it is done."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import chain

from lora_whisper.config import DataConfig, TrainConfig
from lora_whisper.data.contents import Texts
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.loader import window_kind
from lora_whisper.data.speech import DatasetSplits
from lora_whisper.environment import environment, versions
from lora_whisper.evaluation.run_summary import RunSummary
from lora_whisper.lora.adapter import adapter_bytes
from lora_whisper.lora.saved import adapter_hashes, exported_ranks
from lora_whisper.model.base import Base
from lora_whisper.model.checkpoint import fingerprint, weights_bytes, weights_sha256
from lora_whisper.model.device import choose_dtype
from lora_whisper.model.tokenizer import code_of
from lora_whisper.run_folder import SUMMARY_FORMAT, RunFolder
from lora_whisper.training.checkpoint_files import TrainingState
from lora_whisper.training.loop import is_out_of_patience
from lora_whisper.training.recorder import memory_peaks


def new_summary(
    config: TrainConfig,
    folder: RunFolder,
    base: Base,
    speech: DatasetSplits,
    counts: tuple[int, int],
    state: TrainingState,
) -> RunSummary:
    """What summary.json says of a run that was just trained, its scores still to come.

    Args:
        counts: of the parameters that were trained, and of all.
    """
    trainable, total = counts
    dtype = choose_dtype(config.model.dtype, config.training.precision)
    hashes, memory = adapter_hashes(folder.adapter), memory_peaks(folder.metrics)
    training = [corpus.utterances for corpus in speech.training]
    languages = sorted(_named(training, "language") or {config.data.language or "en"})
    speakers = _named([speech.test.utterances] if speech.test else [], "speaker")
    return RunSummary(
        format=SUMMARY_FORMAT,
        name=config.name,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),  # of training, not of a merge
        checkpoint=base.checkpoint.name,
        checkpoint_fingerprint=fingerprint(base.checkpoint),
        checkpoint_sha256=weights_sha256(base.checkpoint),
        base_dtype=str(dtype).removeprefix("torch."),
        quantization=config.quantization.kind,
        base=None,
        adapter=None,
        adapter_bytes=adapter_bytes(folder.adapter),
        adapter_sha256=hashes["adapter"],
        adapter_settings_sha256=hashes.get("adapter_settings"),
        adapter_ranks=exported_ranks(folder.adapter),
        model_bytes=weights_bytes(base.checkpoint),
        trainable_parameters=trainable,
        total_parameters=total,
        languages=tuple(languages),
        prompt=_prompt(config.data, base, languages),
        utterances={name: len(corpus.utterances) for name, corpus in speech.splits.items()},
        test_speakers=len(speakers),
        test_speakers_in_training=len(speakers & _named(training, "speaker")),
        test_texts_in_training=_known_texts(speech),
        windows=window_kind(config, base, speech).name,
        train_audio_seconds=round(sum(corpus.seconds for corpus in speech.training), 3),
        train_audio_seconds_seen=round(state.audio_seconds, 3),
        train_seconds=round(state.train_seconds, 3),
        validation_seconds=round(state.validation_seconds, 3),
        gpu_memory_bytes=memory.get("gpu_memory_bytes"),
        resident_memory_bytes=memory.get("resident_memory_bytes"),
        steps=state.step,
        ended_early=is_out_of_patience(config.training, state),
        skipped_steps=state.skipped_steps,
        adapter_step=state.best.step if state.best else state.step,
        left_out=speech.left_out,
        bad_audio=state.bad_audio,
        seed=config.seed,
        environment=environment(),
        versions=versions(),
    )


def _prompt(data: DataConfig, base: Base, languages: list[str]) -> dict[str, str]:
    """What `generate` is to be told; an English-only checkpoint is told nothing."""
    named = [name for name in (data.language_token, data.language, *languages) if name]
    known = [code for code in map(code_of, named) if code in base.special_tokens.languages]
    return {"language": known[0], "task": data.task} if known else {}


def _known_texts(speech: DatasetSplits) -> int | None:
    """Utterances of the test set whose text is trained on; None of a stream, or without one."""
    if speech.test is None or not speech.training:
        return None
    texts = Texts([corpus.utterances for corpus in speech.training])
    return len(texts.shared_with(speech.test.utterances))


def _named(utterances: list[Utterances], column: str) -> set[str]:
    names = chain.from_iterable(each.column(column).unique().to_pylist() for each in utterances)
    return {name for name in names if name}
