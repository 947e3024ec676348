"""A model that is scored, from its files to its texts; loaded only where it has to decode."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lora_whisper import processes
from lora_whisper.config import CLEAN, Dtype, EvaluationConfig, ModelConfig, QuantizationConfig
from lora_whisper.data.dataset import Utterance
from lora_whisper.errors import UserError
from lora_whisper.evaluation.models import ModelEntry
from lora_whisper.evaluation.provenance import decoding_of
from lora_whisper.lora.saved import CONFIG_FILE, WEIGHTS_FILE, adapter_hashes
from lora_whisper.model.base import Base, load_base, load_config, read_base
from lora_whisper.model.checkpoint import (
    SMALL_FILES,
    fingerprint,
    locate,
    merged_hashes,
    sha256,
    snapshot,
    weights_sha256,
)
from lora_whisper.model.published import MEDIUM_WIDTH
from lora_whisper.paths import local_path
from lora_whisper.terminal import work

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    from lora_whisper.evaluation.decoding.decoder import Decoder
    from lora_whisper.evaluation.decoding.encoded import EncodedOnce
    from lora_whisper.evaluation.decoding.transcribe import Transcriptions
    from lora_whisper.evaluation.decoding.whisper import WhisperDecoder
    from lora_whisper.model.tokenizer import SpecialTokens


ADAPTER_FILES = (WEIGHTS_FILE, CONFIG_FILE)


def identity(entry: ModelEntry, asked: Dtype, device: torch.device) -> str:
    """Name all that decides what a model writes: weights, their storage, and the device."""
    import torch

    from lora_whisper.model.device import choose_attention

    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if entry.folder is not None:
        return " ".join((sha256(*_files(entry.folder)), asked, where))
    base, dtype = base_of(entry), dtype_of(entry, asked, device)
    assert entry.model is not None
    files = _files(snapshot(base.checkpoint), SMALL_FILES)  # suppressed tokens, the tokenizer
    adapter = [entry.adapter / name for name in ADAPTER_FILES] if entry.adapter else []
    parts = (
        fingerprint(base.checkpoint),
        sha256(*files, *adapter),
        *vars(entry.quantization).values(),
        dtype,
        choose_attention(entry.model.attention, dtype, device),
        where,
    )
    return " ".join(map(str, parts))


def weights_of(entry: ModelEntry, scale: float = 1.0) -> dict[str, str | float]:
    """What names the weights exactly wherever they lie, as scores keep it."""
    if entry.folder is not None:
        return {"checkpoint": sha256(entry.folder / "model.bin")}
    hashes: dict[str, str | float] = {
        "checkpoint": weights_sha256(base_of(entry).checkpoint),
        "quantization": entry.quantization.kind,
    }
    if entry.adapter is not None and scale:
        hashes |= adapter_hashes(entry.adapter)
    if entry.kind == "merged" and entry.model is not None:
        hashes |= merged_hashes(local_path(entry.model.checkpoint))
    return hashes | ({"scale": scale} if scale not in (0.0, 1.0) else {})


def _files(folder: Path, patterns: Sequence[str] = ("*",)) -> list[Path]:
    files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(files)


def require_files(entry: ModelEntry) -> None:
    """See that a model entry's checkpoint is there.

    Raises:
        UserError: it is not; or CTranslate2 is not installed.
    """
    if entry.model is not None:
        key = "base" if entry.kind in ("base", "adapter") else "models"
        locate(entry.model, key=key, named_in=entry.named_in)
        return
    from lora_whisper.evaluation.decoding.ctranslate2 import require_package

    require_package()
    special_tokens_of(entry)


def special_tokens_of(entry: ModelEntry) -> SpecialTokens:
    """The tokens of a model entry, read without its weights."""
    if entry.folder is None:
        return base_of(entry).special_tokens
    from lora_whisper.evaluation.decoding.ctranslate2 import read_exported

    return read_exported(entry.folder).special_tokens


def tokenizer_of(entry: ModelEntry) -> Any:
    """The tokenizer of a model entry, read without its weights."""
    if entry.folder is None:
        return base_of(entry).processor.tokenizer
    from lora_whisper.evaluation.decoding.ctranslate2 import read_exported

    return read_exported(entry.folder).tokenizer


def base_of(entry: ModelEntry) -> Base:
    """Everything about a model entry's checkpoint but its weights."""
    assert entry.model is not None, "CTranslate2 has files of its own"
    return read_base(entry.model)


def dtype_of(entry: ModelEntry, asked: Dtype, device: torch.device) -> torch.dtype:
    """Of the weights: as a run trained on them, else as asked, else a checkpoint's own.

    A CPU computes in float16 many times slower than in float32, which holds the same weights.
    """
    import torch

    from lora_whisper.model.device import choose_dtype

    assert entry.model is not None
    if entry.kind in ("base", "adapter"):
        trained = entry.model.dtype
        is_open = trained == entry.precision == "auto"
        return choose_dtype(asked if is_open else trained, entry.precision)
    own = load_config(base_of(entry).checkpoint).dtype
    dtype = own if isinstance(own, torch.dtype) else torch.float32
    if asked != "auto":
        return choose_dtype(asked, "auto")
    return torch.float32 if dtype == torch.float16 and device.type == "cpu" else dtype


def load_whisper(
    base: Base,
    model: ModelConfig,
    quantization: QuantizationConfig,
    precision: str,
    device: torch.device,
) -> WhisperForConditionalGeneration:
    """Load the base as a run trains on it: its quantization, its dtype."""
    from lora_whisper.model.cpu_kernels import use_fast_products
    from lora_whisper.model.device import choose_dtype

    whisper = load_base(
        base.checkpoint,
        quantization.kind,
        choose_dtype(model.dtype, precision),
        device,
        attention=model.attention,
    )
    use_fast_products(whisper)
    return whisper


def whisper_inside(model: PeftModel) -> WhisperForConditionalGeneration:
    """The base model with the adapter's layers in it: what is run, without PEFT's wrapper."""
    return cast("WhisperForConditionalGeneration", model.get_base_model())


def decoder_of(whisper: WhisperForConditionalGeneration, base: Base) -> WhisperDecoder:
    from lora_whisper.evaluation.decoding.whisper import WhisperDecoder

    return WhisperDecoder(whisper, base.processor, base.special_tokens, base.features)


def transcribe_or_reuse(
    title: str,
    model: str,
    decoder: Callable[[], Decoder],
    utterances: Sequence[Utterance],
    settings: EvaluationConfig,
    seed: int,
    *,
    condition: str = CLEAN,
    prompt: str = "",
    reuse: bool = True,
) -> tuple[Transcriptions, bool]:
    """Decode utterances with a progress bar, or take what was decoded before.

    Args:
        model: names the model exactly, see `identity`.
        decoder: called where something has to be decoded.
        reuse: whether what was decoded before may be taken.

    Returns:
        the hypotheses, and whether they were decoded before
    """
    from lora_whisper.evaluation.decoding.cache import (
        decoded_by_one,
        read_transcriptions,
        transcriptions_key,
        write_transcriptions,
    )

    decoding = decoding_of(settings, seed, condition, prompt)
    key = processes.from_main(lambda: transcriptions_key(model, utterances, decoding))
    # The points of a sweep that run side by side come to their base at the same time.
    alone = decoded_by_one(key) if reuse else nullcontext()
    with processes.entered_by_main(alone):
        known = processes.from_main(lambda: read_transcriptions(key)) if reuse else None
        if known is not None:
            return known, True
        found = transcribe_with_bar(
            title, decoder(), utterances, settings, seed, condition=condition, prompt=prompt
        )
        if processes.is_main():
            write_transcriptions(key, found)
        return found, False


def transcribe_with_bar(
    title: str,
    decoder: Decoder,
    utterances: Sequence[Utterance],
    settings: EvaluationConfig,
    seed: int,
    *,
    condition: str = CLEAN,
    prompt: str = "",
) -> Transcriptions:
    """Decode utterances; a progress bar says how far it is."""
    from lora_whisper.evaluation.decoding.transcribe import transcribe
    from lora_whisper.evaluation.robustness import change_for

    with work(title, len(utterances)) as bar:
        return transcribe(
            decoder,
            utterances,
            with_batch_size(settings, decoder),
            seed,
            change=change_for(condition, seed),
            prompt=prompt,
            on_progress=lambda done, total: bar.update(done),
        )


def with_batch_size(settings: EvaluationConfig, decoder: Decoder) -> EvaluationConfig:
    """With what null stands for: by the model's width."""
    if settings.batch_size is not None:
        return settings
    return dataclasses.replace(settings, batch_size=scoring_batch_for_width(decoder.width))


def scoring_batch_for_width(width: int) -> int:
    """Windows decoded together; large-v3 caches 246 MB of cross-attention in bf16 for each."""
    return 16 if width < MEDIUM_WIDTH else 4


class EntryDecoder:
    """A model entry, in memory from the first time that it has to decode until `close`."""

    def __init__(
        self,
        entry: ModelEntry,
        asked: Dtype,
        device: torch.device,
        reuse: bool,
        encoded: EncodedOnce | None = None,
    ):
        """`encoded`: for models that may have their encoder in common."""
        self.entry, self.asked, self.device, self.reuse = entry, asked, device, reuse
        self.encoded = encoded
        self._model: PeftModel | None = None  # of an adapter
        self._decoder: Decoder | None = None
        self._scale: float | None = None
        self._scaled = ExitStack()
        self.on_load: Callable[[Decoder], None] = lambda decoder: None  # before it decodes

    @property
    def special_tokens(self) -> SpecialTokens:
        return special_tokens_of(self.entry)

    def decoder(self) -> Decoder:
        """With all of its adapter, as it is scored."""
        return self._loaded(1.0)

    @property
    def window_seconds(self) -> float:
        """Of the audio that the model decodes at once."""
        if self.entry.folder is None:
            return base_of(self.entry).window_seconds
        from lora_whisper.evaluation.decoding.ctranslate2 import read_exported

        return read_exported(self.entry.folder).window_seconds

    @property
    def storage(self) -> dict[str, str]:
        """The weights' dtype, and what names them exactly."""
        entry = self.entry
        if entry.folder is not None:
            sha = sha256(entry.folder / "model.bin")
            return {"dtype": self.asked, "fingerprint": f"sha256:{sha}"}
        dtype = str(dtype_of(entry, self.asked, self.device)).removeprefix("torch.")
        return {"dtype": dtype, "fingerprint": fingerprint(base_of(entry).checkpoint)}

    def transcribe(
        self,
        title: str,
        utterances: Sequence[Utterance],
        settings: EvaluationConfig,
        seed: int,
        condition: str = CLEAN,
        scale: float = 1.0,
        prompt: str = "",
    ) -> tuple[Transcriptions, bool]:
        """As `transcribe_or_reuse`, of this model with so much of its adapter."""
        # Nothing of an adapter is its base.
        entry = self.entry if scale else dataclasses.replace(self.entry, adapter=None)
        model = identity(entry, self.asked, self.device)
        name = model if scale in (0.0, 1.0) else f"{model} scale {scale:g}"
        return transcribe_or_reuse(
            title,
            name,
            lambda: self._loaded(scale),
            utterances,
            settings,
            seed,
            condition=condition,
            prompt=prompt,
            reuse=self.reuse,
        )

    def close(self) -> None:
        """Free the memory: two models of large-v3's size do not fit a small card."""
        import torch

        self._scaled.close()
        self._model = self._decoder = None
        gc.collect()  # PEFT's layers refer to each other
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # for CTranslate2, which has an allocator of its own

    def _loaded(self, scale: float) -> Decoder:
        from lora_whisper.evaluation.decoding.decoder import BrokenModel

        if self._decoder is None:
            try:
                self._decoder = self._load()
            except UserError as error:  # such as weights that are missing: the others are scored
                raise BrokenModel(str(error)) from error
            self.on_load(self._decoder)
        if self._model is not None and scale != self._scale:
            from lora_whisper.lora.adapter import merged_in_place, scaled

            self._scaled.close()
            if scale != 1.0:
                self._scaled.enter_context(scaled(self._model, scale))
            self._scaled.enter_context(merged_in_place(self._model))
        if scale != self._scale:
            self._scale = scale
            self._share()
        return self._decoder

    def _share(self) -> None:
        """Have windows encoded once by all that have these weights now."""
        from lora_whisper.evaluation.decoding.whisper import WhisperDecoder

        if self.encoded is not None and isinstance(self._decoder, WhisperDecoder):
            self._decoder.share(self.encoded)

    def _load(self) -> Decoder:
        entry = self.entry
        if entry.folder is not None:
            from lora_whisper.evaluation.decoding.ctranslate2 import CTranslate2Decoder

            kind = "default" if self.asked == "auto" else self.asked
            return CTranslate2Decoder.load(entry.folder, str(self.device), kind)
        whisper = load_model(entry, self.asked, self.device)
        if entry.adapter is not None:
            from lora_whisper.lora.adapter import load_adapter

            self._model = load_adapter(whisper, entry.adapter)
            whisper = whisper_inside(self._model)
        return decoder_of(whisper, base_of(entry))


def load_model(
    entry: ModelEntry, asked: Dtype, device: torch.device
) -> WhisperForConditionalGeneration:
    """The checkpoint of a model entry, or the base of its adapter; see `dtype_of`."""
    assert entry.model is not None
    from lora_whisper.model.quantization import is_quantized, prepare_for_training

    dtype = cast(Dtype, str(dtype_of(entry, asked, device)).removeprefix("torch."))
    whisper = load_whisper(
        base_of(entry),
        dataclasses.replace(entry.model, dtype=dtype),
        entry.quantization,
        entry.precision,
        device,
    )
    if is_quantized(whisper):  # as its adapter is decoded on it
        prepare_for_training(whisper)
    return whisper
