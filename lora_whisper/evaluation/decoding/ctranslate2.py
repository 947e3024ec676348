"""A Whisper that was exported to CTranslate2, as faster-whisper and its relatives run it.

Prompts are given token by token: CTranslate2 takes a vocabulary that is not of a published size for
an English-only one, and would leave language and task out of the prompts that it makes itself.
"""

from __future__ import annotations

import logging
import math
import os
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import torch
from torch import Tensor

from lora_whisper.errors import UserError, listing
from lora_whisper.evaluation.decoding.decoder import (
    BrokenModel,
    DecodingOptions,
    DecodingResult,
    DecodingTask,
    letters_of,
    without_endless_loop,
)
from lora_whisper.json_files import (
    listed,
    optional,
    problems_with,
    read_object,
    require_file,
    whole,
)
from lora_whisper.model.base import load_tokenizer
from lora_whisper.model.features import LogMel
from lora_whisper.model.published import (
    FRAMES_PER_POSITION,
    HOP_SAMPLES,
    LATEST_START_STEPS,
    SAMPLING_RATE,
)
from lora_whisper.model.tokenizer import SpecialTokens, read_special_tokens
from lora_whisper.stand_ins import require_itself

if TYPE_CHECKING:
    from ctranslate2.models import Whisper

WEIGHTS = "model.bin"
ITEM_BYTES = {0: 4, 1: 1, 2: 2, 3: 4, 4: 2, 5: 2}  # float32, int8, int16, int32, float16, bfloat16
BINARY_VERSION = 6  # of its layout
VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
ENCODER_POSITIONS = "encoder/position_encodings/encodings"
DECODER_POSITIONS = "decoder/position_encodings/encodings"
EMBEDDINGS = "decoder/embeddings/weight"


def is_ctranslate2(folder: Path) -> bool:
    """Whether a folder holds an exported model, and not a checkpoint of Transformers."""
    has_vocabulary = any((folder / name).is_file() for name in VOCABULARIES)
    return has_vocabulary and (folder / WEIGHTS).is_file()


class CTranslate2Decoder:
    """Transcribes windows by greedy search or by beams."""

    threads = 1  # it has its own
    refills = False
    # CTranslate2 draws from one generator a thread, which takes its seed once and serves all rows.
    draws_by_seed = False

    def __init__(self, model: Whisper, folder: ExportedFolder, features: LogMel):
        self.model, self.features = model, features
        self.tokenizer, self.special_tokens = folder.tokenizer, folder.special_tokens
        self.width = folder.width
        self.letters = letters_of(self.tokenizer, self.special_tokens.size)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", compute_type: str = "default") -> Self:
        """Load a folder with model.bin, config.json, the vocabulary and tokenizer.json.

        Args:
            device: "cpu", "cuda" or "cuda:1".
            compute_type: how the weights are computed with; "default" is as they are stored.

        Raises:
            UserError: the package is missing, or a file is, or the folder does not load.
        """
        exported, whisper = read_exported(folder), _whisper_class()
        given = {"compute_type": compute_type, "intra_threads": torch.get_num_threads()}
        model = opened(whisper, folder, device, "as a CTranslate2 Whisper", **given)
        features = LogMel(model.n_mels, exported.window_seconds).to(device)
        return cls(model, exported, features)

    def inference(self) -> AbstractContextManager[None]:
        return torch.inference_mode()

    def decode(
        self, tasks: Sequence[DecodingTask], options: DecodingOptions
    ) -> list[DecodingResult]:
        """See `Decoder`. Suppressed tokens are those of the folder's config.json."""
        assert options.temperature == 0, "draws_by_seed says that there is no drawing"
        from ctranslate2 import StorageView

        # CTranslate2 takes the smaller of a half of this number, and of what it leaves beside the
        # prompt: as many tokens as the longest limit, and eot after them.
        most = 1 + max(task.most_tokens for task in tasks)
        max_length = max(2 * most, most + len(tasks[0].prompt) - 1)
        windows = torch.stack([task.features for task in tasks]).cpu().numpy()
        results = self.model.generate(
            StorageView.from_array(windows),
            [list(task.prompt) for task in tasks],
            beam_size=options.beams,
            length_penalty=float(options.beams > 1),  # without beams there is nothing to rank
            max_length=max_length,
            max_initial_timestamp_index=LATEST_START_STEPS,
            return_scores=True,
            return_no_speech_prob=options.probabilities,
        )
        return [
            _result(result, task, options, self.letters)
            for result, task in zip(results, tasks, strict=True)
        ]


@dataclass(frozen=True)
class ExportedFolder:
    """What an exported model's files say, read without its package and its weights."""

    tokenizer: Any
    special_tokens: SpecialTokens
    width: int
    window_seconds: float


def read_exported(folder: Path) -> ExportedFolder:
    """Read the tokenizer, and the sizes from the heads of the weights.

    Raises:
        UserError: a file is missing, or is not of a Whisper.
    """
    needed = {name: (folder / name).is_file() for name in (WEIGHTS, "config.json")}
    needed["tokenizer.json"] = (folder / "tokenizer.json").is_file()
    needed["vocabulary.json or vocabulary.txt"] = is_ctranslate2(folder) or not needed[WEIGHTS]
    missing = [f"{name}: missing" for name, is_there in needed.items() if not is_there]
    if missing:
        raise UserError(f"{folder} is no complete CTranslate2 Whisper:\n{listing(missing)}")
    for name in (WEIGHTS, *VOCABULARIES):
        if (folder / name).is_file():
            require_itself(folder / name, "a part of a CTranslate2 Whisper")
    try:
        shapes = read_shapes(folder / WEIGHTS)
        size, width = shapes[EMBEDDINGS]
        _require_ids(folder, size)
        tokenizer = load_tokenizer(folder)
        most_tokens, positions = shapes[DECODER_POSITIONS][0], shapes[ENCODER_POSITIONS][0]
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise UserError(f"{folder} does not load as a CTranslate2 Whisper: {error}") from None
    shape = SimpleNamespace(vocab_size=size, max_target_positions=most_tokens)
    return ExportedFolder(
        tokenizer,
        read_special_tokens(tokenizer, None, shape),
        width,
        positions * FRAMES_PER_POSITION * HOP_SAMPLES / SAMPLING_RATE,
    )


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights by their names, from the head of each.

    No other file says how long the window is and how many tokens the decoder has room for. The
    layout is that of `ModelSpec._serialize` in CTranslate2's converter.

    Raises:
        ValueError: not a Whisper of a layout that is known.
        struct.error: the file ends too early.
    """
    require_file(path)
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        version = _number(file, "<I")
        name = _string(file) if version == BINARY_VERSION else "unknown"
        if name != "WhisperSpec":
            raise ValueError(f"{path.name} holds a {name} of version {version}, not a Whisper")
        _number(file, "<I")  # the specification's revision
        shapes = {}
        for _ in range(_number(file, "<I")):
            variable = _string(file)
            rank = _number(file, "<B")
            shapes[variable] = tuple(_number(file, "<I") for _ in range(rank))
            item_bytes = ITEM_BYTES.get(_number(file, "<B"), 0)
            stored = _number(file, "<I")
            if stored != item_bytes * math.prod(shapes[variable]):
                raise ValueError(f"{variable}: {stored:,} bytes for the shape {shapes[variable]}")
            if file.seek(stored, os.SEEK_CUR) > size_bytes:
                raise ValueError(f"{variable}: the file ends before it does")
    return shapes


def _require_ids(folder: Path, vocabulary: int) -> None:
    """CTranslate2 takes ids and heads from config.json as they are.

    Raises:
        ValueError: they are not of this vocabulary.
    """
    token = whole(0, vocabulary - 1)
    schema = {
        "suppress_ids": optional(listed(token)),
        "suppress_ids_begin": optional(listed(token)),
        "lang_ids": optional(listed(token)),
        "alignment_heads": optional(listed(listed(whole(0, 1_000), 2))),
    }
    if problems := problems_with("config.json", read_object(folder / "config.json"), schema):
        raise ValueError(problems[0])


def _number(file: BinaryIO, layout: str) -> int:
    (value,) = struct.unpack(layout, file.read(struct.calcsize(layout)))
    return int(value)


def _string(file: BinaryIO) -> str:
    return file.read(_number(file, "<H")).rstrip(b"\0").decode()


def _result(
    generated: Any, task: DecodingTask, options: DecodingOptions, letters: Tensor
) -> DecodingResult:
    tokens, score = generated.sequences_ids[0], generated.scores[0]
    if math.isnan(score):
        raise BrokenModel
    # A row that its batch let grow beyond its own limit, which neighbours must not decide.
    kept = tuple(without_endless_loop(tokens[: task.most_tokens], letters, task.most_letters))
    if not options.probabilities:
        return DecodingResult(kept, 0.0, None, None)
    # With beams the sum, in which eot is, was divided by the number of tokens without eot; where
    # there are none it is infinite, which counts as improbable.
    log_probability = score * len(tokens) if options.beams > 1 and tokens else score
    mean = log_probability / (len(tokens) + 1)
    return DecodingResult(kept, 0.0, mean, generated.no_speech_prob)


def require_package() -> None:
    """See that CTranslate2 is installed.

    Raises:
        UserError: it is not.
    """
    _whisper_class()


def opened(kind: Any, folder: Path, device: str, what: str, **options: Any) -> Any:
    """A folder in CTranslate2, or in a program around it.

    Args:
        kind: the program's class.
        device: "cpu", "cuda" or "cuda:1".
        what: it should load as, or in.

    Raises:
        UserError: it does not.
    """
    import ctranslate2

    # It warns of each float16 model on a CPU that it computes in float32.
    ctranslate2.set_log_level(logging.ERROR)
    name, _, index = device.partition(":")
    try:
        return kind(str(folder), device=name, device_index=int(index or 0), **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{folder} does not load {what}: {error}") from None


def _whisper_class() -> type[Whisper]:
    try:
        from ctranslate2.models import Whisper
    except ImportError:
        raise UserError(
            "To score an exported CTranslate2 model, its package is needed: "
            "pip install 'lora-whisper[ctranslate2]'"
        ) from None
    return Whisper  # type: ignore[no-any-return]
