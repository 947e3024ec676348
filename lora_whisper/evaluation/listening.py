"""A model that hears test sets; it is loaded when something has to be decoded that never was."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

from lora_whisper.config import CLEAN, Dtype, EvaluationConfig
from lora_whisper.data.dataset import Utterance
from lora_whisper.errors import UserError
from lora_whisper.evaluation.models import Contender, base_of, dtype_of, identity, vocabulary_of
from lora_whisper.evaluation.scoring import hear, load_whisper, recognizer_of, whisper_inside
from lora_whisper.model.checkpoint import fingerprint, sha256

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    from lora_whisper.evaluation.decoding import Hypotheses
    from lora_whisper.evaluation.recognizer import Recognizer
    from lora_whisper.model.tokenizer import Vocabulary


class Listening:
    """A contender, in memory from the first time that it has to decode until `close`."""

    def __init__(self, contender: Contender, asked: Dtype, device: torch.device, reuse: bool):
        self.contender, self.asked, self.device, self.reuse = contender, asked, device, reuse
        self._model: PeftModel | None = None  # of an adapter
        self._recognizer: Recognizer | None = None
        self._scale: float | None = None
        self._scaled = ExitStack()

    @property
    def vocabulary(self) -> Vocabulary:
        return vocabulary_of(self.contender)

    @property
    def window_seconds(self) -> float:
        """Of the audio that the model hears at once."""
        if self.contender.folder is None:
            return base_of(self.contender).window_seconds
        from lora_whisper.evaluation.ctranslate2_recognizer import read_exported

        return read_exported(self.contender.folder).window_seconds

    @property
    def storage(self) -> dict[str, str]:
        """The weights' dtype, and what names them exactly."""
        one = self.contender
        if one.folder is not None:
            return {
                "dtype": self.asked,
                "fingerprint": f"sha256:{sha256(one.folder / 'model.bin')}",
            }
        dtype = str(dtype_of(one, self.asked, self.device)).removeprefix("torch.")
        return {"dtype": dtype, "fingerprint": fingerprint(base_of(one).checkpoint)}

    def hear(
        self,
        title: str,
        utterances: Sequence[Utterance],
        settings: EvaluationConfig,
        seed: int,
        condition: str = CLEAN,
        scale: float = 1.0,
    ) -> tuple[Hypotheses, bool]:
        """As `hear`, of this model with so much of its adapter."""
        model = identity(self._at(scale), self.asked, self.device)
        name = model if scale in (0.0, 1.0) else f"{model} scale {scale:g}"
        return hear(
            title,
            name,
            lambda: self._loaded(scale),
            utterances,
            settings,
            seed,
            condition=condition,
            reuse=self.reuse,
        )

    def close(self) -> None:
        """Free the memory: two models of large-v3's size do not fit a small card."""
        import torch

        self._scaled.close()
        self._model = self._recognizer = None
        gc.collect()  # PEFT's layers refer to each other
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # for CTranslate2, which has an allocator of its own

    def _at(self, scale: float) -> Contender:
        """Nothing of an adapter is its base."""
        return self.contender if scale else dataclasses.replace(self.contender, adapter=None)

    def _loaded(self, scale: float) -> Recognizer:
        if self._recognizer is None:
            self._recognizer = self._load()
        if self._model is not None and scale != self._scale:
            from lora_whisper.lora.adapter import merged_in_place, scaled

            self._scaled.close()
            if scale != 1.0:
                self._scaled.enter_context(scaled(self._model, scale))
            self._scaled.enter_context(merged_in_place(self._model))
            self._scale = scale
        return self._recognizer

    def _load(self) -> Recognizer:
        from lora_whisper.evaluation.recognizer import BrokenModel

        try:
            return self._new_recognizer()
        except UserError as error:  # such as weights that are missing: the others are scored
            raise BrokenModel(str(error)) from error

    def _new_recognizer(self) -> Recognizer:
        one = self.contender
        if one.folder is not None:
            from lora_whisper.evaluation.ctranslate2_recognizer import CTranslate2Recognizer

            kind = "default" if self.asked == "auto" else self.asked
            return CTranslate2Recognizer.load(one.folder, str(self.device), kind)
        whisper = load_model(one, self.asked, self.device)
        if one.adapter is not None:
            from lora_whisper.lora.adapter import load_adapter

            self._model = load_adapter(whisper, one.adapter)
            whisper = whisper_inside(self._model)
        return recognizer_of(whisper, base_of(one))


def load_model(
    contender: Contender, asked: Dtype, device: torch.device
) -> WhisperForConditionalGeneration:
    """The checkpoint of a contender, or the base of its adapter; see `_models.dtype_of`."""
    assert contender.model is not None
    from lora_whisper.model.quantization import is_quantized, prepare_for_training

    dtype = cast(Dtype, str(dtype_of(contender, asked, device)).removeprefix("torch."))
    whisper = load_whisper(
        base_of(contender),
        dataclasses.replace(contender.model, dtype=dtype),
        contender.quantization,
        contender.precision,
        device,
    )
    if is_quantized(whisper):  # as its adapter is heard on it
        prepare_for_training(whisper)
    return whisper
