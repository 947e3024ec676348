"""The file that whisper.cpp loads, its own format of before GGUF; and whisper.cpp, which hears it.

Nobody publishes a package that writes the file, so it is written here, from the loader that reads
it: `whisper_model_load` in src/whisper.cpp, https://github.com/ggml-org/whisper.cpp at v1.9.3
(commit 233fe1fc9b48a09e361d3594520838ca266537fe). All numbers are little-endian:

    magic · 11 sizes and the type · mel filters · vocabulary · tensors up to the end of the file

Smaller types than float16 are made by whisper.cpp's own program, `quantize_command`.

The program and the library below it come from the wheel of pywhispercpp. Its own functions below
`transcribe` are of no use here (`whisper_decode` takes one token, `whisper_get_logits` gives one
number), so that the library is called as a C program calls it, by include/whisper.h.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import os
import re
import shlex
import struct
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from lora_whisper.errors import UserError
from lora_whisper.export.openai_whisper import (
    converted,
    read_dimensions,
    read_tensors,
)
from lora_whisper.model.features import LogMel
from lora_whisper.stand_ins import require_itself

FILE = "ggml-model.bin"
DTYPES = ("f16", "f32")  # float32 is for whisper.cpp from 1.9.2 on, and for its quantizer
TYPES = {"f32": 0, "f16": 1}  # of a file and of a tensor, `GGML_TYPE_F32` and `GGML_TYPE_F16`
HEAD = struct.Struct("<12i")
MAGIC = 0x67676D6C  # "ggml"
# The loader takes these and all vectors in float32, whatever the file's type.
ALWAYS_FLOAT32 = ("encoder.positional_embedding", "decoder.positional_embedding")
COLUMNS = ("encoder.conv1.bias", "encoder.conv2.bias")  # stored as (width, 1)


def write(checkpoint: Path, folder: Path, dtype: str) -> None:
    """Write ggml-model.bin into `folder` from a merged checkpoint, a tensor at a time.

    Raises:
        UserError: no model that the layout has a place for, or weights too large for float16.
    """
    assert dtype in DTYPES, dtype
    dimensions = read_dimensions(checkpoint)
    with (folder / FILE).open("wb") as file:
        sizes = (
            dimensions.n_vocab,
            dimensions.n_audio_ctx,
            dimensions.n_audio_state,
            dimensions.n_audio_head,
            dimensions.n_audio_layer,
            dimensions.n_text_ctx,
            dimensions.n_text_state,
            dimensions.n_text_head,
            dimensions.n_text_layer,
            dimensions.n_mels,
        )
        file.write(HEAD.pack(MAGIC, *sizes, TYPES[dtype]))
        # (mel bins, frequencies), those that training computes its features with, where each
        # stands twice, for real and imaginary parts.
        filters = LogMel(dimensions.n_mels, window_seconds=1.0).filters[:, ::2].numpy()
        file.write(struct.pack("<2i", *filters.shape))
        file.write(filters.astype("<f4").tobytes())
        # Bytes of the tokens below <|endoftext|>; the loader names the special ones by itself.
        words = read_words(checkpoint)
        file.write(struct.pack("<i", len(words)))
        for word in words:
            file.write(struct.pack("<i", len(word)) + word)
        for name, weight in read_tensors(checkpoint):
            _write_tensor(file, name, weight, dtype)


def read_type(path: Path) -> str:
    """`f16`, `f32`, or whatever the quantizer made of them, from a file's head.

    Raises:
        UserError: no such file.
    """
    with path.open("rb") as file:
        head = file.read(HEAD.size)
    if len(head) < HEAD.size or HEAD.unpack(head)[0] != MAGIC:
        raise UserError(f"{path} is no file of whisper.cpp")
    kind = HEAD.unpack(head)[-1]
    return next((name for name, number in TYPES.items() if number == kind), "a smaller type")


def quantize_command(folder: Path, kind: str = "q5_0") -> str:
    """What makes a smaller file of the one in `folder`, where whisper.cpp was built.

    The program is called `whisper-quantize` there (examples/quantize/CMakeLists.txt).
    """
    smaller = folder / f"ggml-model-{kind}.bin"
    return shlex.join(["./build/bin/whisper-quantize", str(folder / FILE), str(smaller), kind])


def read_words(checkpoint: Path) -> list[bytes]:
    """What each text token stands for, by its id; empty where the vocabulary has a gap.

    Raises:
        UserError: tokenizer.json is none of a Whisper.
    """
    values = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in values["added_tokens"]}
    known = values["model"]["vocab"]
    end = added.get("<|endoftext|>", known.get("<|endoftext|>"))
    if end is None:
        raise UserError(f"{checkpoint / 'tokenizer.json'}: no <|endoftext|>, so no Whisper's")
    # Byte-level BPE writes each byte as a character that can be seen. In the order of their codes,
    # the characters of the alphabet below 256 are their own bytes; the rest, from 256 on, stands
    # for the bytes left over, in order.
    alphabet = sorted(ByteLevel.alphabet())
    by_character = {character: ord(character) for character in alphabet if ord(character) < 256}
    left_over = [byte for byte in range(256) if byte not in by_character.values()]
    by_character |= zip(alphabet[len(by_character) :], left_over, strict=True)
    words = [b""] * end
    for token, index in known.items():
        if index < end:
            words[index] = bytes(by_character[character] for character in token)
    return words


def _write_tensor(file: BinaryIO, name: str, weight: torch.Tensor, dtype: str) -> None:
    """Head and values. The loader counts dimensions from the innermost."""
    if name in COLUMNS:
        weight = weight[:, None]
    vector = weight.dim() < 2 or name in COLUMNS or name in ALWAYS_FLOAT32
    kind = "f32" if vector else dtype
    values = converted(name, weight, torch.float16 if kind == "f16" else torch.float32).numpy()
    label = name.encode()
    file.write(struct.pack("<3i", values.ndim, len(label), TYPES[kind]))
    file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)) + label)
    file.write(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)


# ── whisper.cpp: the program, and the library below it ────────────────────────────────────────────

BINDING = "_pywhispercpp"  # its compiled module, which whisper.cpp is linked to
FLOAT32_SINCE = (1, 9, 2)  # of whisper.cpp
ERROR = 4  # GGML_LOG_LEVEL_ERROR
ENGLISH = "en"

LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
FLOATS = ctypes.POINTER(ctypes.c_float)
TOKENS = ctypes.POINTER(ctypes.c_int32)
CONTEXT = ctypes.c_void_p
FUNCTIONS = {  # result, arguments
    "whisper_version": (ctypes.c_char_p, []),
    "whisper_log_set": (None, [LOG, ctypes.c_void_p]),
    "whisper_init_from_file": (CONTEXT, [ctypes.c_char_p]),
    "whisper_free": (None, [CONTEXT]),
    "whisper_model_n_audio_state": (ctypes.c_int, [CONTEXT]),
    "whisper_n_vocab": (ctypes.c_int, [CONTEXT]),
    "whisper_set_mel": (ctypes.c_int, [CONTEXT, FLOATS, ctypes.c_int, ctypes.c_int]),
    "whisper_encode": (ctypes.c_int, [CONTEXT, ctypes.c_int, ctypes.c_int]),
    "whisper_decode": (ctypes.c_int, [CONTEXT, TOKENS, *[ctypes.c_int] * 3]),
    "whisper_get_logits": (FLOATS, [CONTEXT]),
}


class WhisperCppBackend:
    """Encoder and decoder with all logits, for windows and vocabularies of any size.

    See `Backend` of evaluation/decoding/stepwise.py. Logits are near the checkpoint's, not equal
    to them. The flash attention that whisper.cpp uses unless told otherwise also looks at positions
    of zeros behind the window, of which it fills up 1500 to 1536. Of the embedded nano's logits,
    whose standard deviation is 1.4, the largest difference was 0.28; without it 0.015, which is
    float16's and the GELU's, a table of the approximation with tanh.
    """

    def __init__(self, library: Library, context: int):
        """`context`: as `Library.load` gives it; it is freed with the backend."""
        self.library, self.context = library, context
        call = library.functions
        self.width = call.whisper_model_n_audio_state(self.context)
        self.vocabulary_size = call.whisper_n_vocab(self.context)
        self.threads = torch.get_num_threads()
        self.given_tokens = 0

    @classmethod
    def load(cls, folder: Path) -> WhisperCppBackend:
        """Load the ggml-model.bin of a folder.

        Raises:
            UserError: the package is missing, or the file does not load.
        """
        library = load_library()
        return cls(library, library.load(model_file(folder, library)))

    def encode(self, features: Tensor) -> None:
        """See `Backend`."""
        mel_bins, frames = features.shape
        values = np.ascontiguousarray(features.numpy(), np.float32)
        call = self.library.functions
        pointer = values.ctypes.data_as(FLOATS)
        self._check(call.whisper_set_mel(self.context, pointer, frames, mel_bins))
        self._check(call.whisper_encode(self.context, 0, self.threads))
        self.given_tokens = 0

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """See `Backend`."""
        call, count = self.library.functions, len(tokens)
        array = (ctypes.c_int32 * count)(*tokens)
        self._check(
            call.whisper_decode(self.context, array, count, self.given_tokens, self.threads)
        )
        self.given_tokens += count
        # A row for each token; that of the last is filled.
        rows = np.ctypeslib.as_array(
            call.whisper_get_logits(self.context), (count, self.vocabulary_size)
        )
        return torch.from_numpy(rows[-1].copy())

    def _check(self, code: int) -> None:
        if code != 0:
            raise UserError(f"whisper.cpp does not compute: {self.library.complaints[-1]}")

    def __del__(self) -> None:
        if getattr(self, "context", None):
            self.library.functions.whisper_free(self.context)


class WhisperCppProgram:
    """whisper.cpp as people run it, for models of a published size.

    Greedy, one window after the other, without timestamps, previous text, fallback and thresholds.
    It ends a window's text after 220 tokens (half of what the decoder has room for, less 4).
    Flash attention, which it uses unless told otherwise, is less exact: see `WhisperCppBackend`.
    """

    def __init__(self, model: Any, library: Library):
        self.model = model
        wheel = version("pywhispercpp")
        self.name = f"whisper.cpp {library.version()} (pywhispercpp {wheel})"

    @classmethod
    def load(
        cls, folder: Path, device: str = "cpu", flash_attention: bool = True
    ) -> WhisperCppProgram:
        """Load the ggml-model.bin of a folder.

        Raises:
            UserError: the package is missing, or the file does not load.
        """
        library = load_library()
        path = model_file(folder, library)
        from pywhispercpp.model import Model

        context: Any = {"use_gpu": device != "cpu", "flash_attn": flash_attention}
        library.complaints.clear()
        model = Model(str(path), context_params=context, **_settings())
        if library.complaints:  # it would end the process when it is told to hear
            raise UserError(f"{path} does not load in whisper.cpp: {library.complaints[0]}")
        return cls(model, library)

    def transcribe(
        self, samples: np.ndarray, language: str | None, task: str, **prompt: str
    ) -> str:
        """See `parity.Program`; as a prompt it takes `initial_prompt`."""
        segments = self.model.transcribe(
            samples, language=language or ENGLISH, translate=task == "translate", **prompt
        )
        return " ".join(segment.text for segment in segments if segment.text)


def require_package() -> None:
    """See that pywhispercpp is installed.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec(BINDING) is None:
        raise UserError(
            "To run an exported ggml model, whisper.cpp's Python package is needed: "
            "pip install 'lora-whisper[ggml]'"
        )


def model_file(folder: Path, library: Library) -> Path:
    """The file in an exported folder.

    Raises:
        UserError: there is none, or it would end the whole process: see `computes`.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no {FILE}; export it: format=ggml")
    require_itself(path, "a file of whisper.cpp")
    kind = read_type(path)
    if not library.computes(kind):
        raise UserError(
            f"{path} is in {kind}, which whisper.cpp computes since "
            f"{'.'.join(map(str, FLOAT32_SINCE))}; {library.version()} is installed. "
            "Export it in float16: dtype=f16"
        )
    return path


class Library:
    """whisper.cpp's functions, and what it complained of; its other messages are dropped."""

    def __init__(self, functions: Any):
        self.functions = functions
        self.complaints: list[str] = []  # errors since the last load, as they were written
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(functions, name)
            function.restype, function.argtypes = result, arguments

        def listen(level: int, message: bytes | None, _: Any) -> None:
            if level == ERROR and message:
                self.complaints.append(message.decode(errors="replace").strip())

        self._listener = LOG(listen)  # has to live as long as it may be called
        functions.whisper_log_set(self._listener, None)

    def load(self, path: Path) -> int:
        """Load a file: its context, which `whisper_free` takes back."""
        self.complaints.clear()
        context = self.functions.whisper_init_from_file(os.fsencode(path))
        if not context:
            raise UserError(f"{path} does not load in whisper.cpp: {self.complaints[0]}")
        return int(context)

    def computes(self, dtype: str) -> bool:
        """Whether this version runs files of a type.

        Before 1.9.2, float32 ends the process at the first convolution: GGML_ASSERT(src0->type ==
        GGML_TYPE_F16), https://github.com/ggml-org/whisper.cpp/issues/2557
        """
        found = tuple(int(number) for number in re.findall(r"\d+", self.version())[:3])
        return dtype != "f32" or found >= FLOAT32_SINCE

    def version(self) -> str:
        return str(self.functions.whisper_version().decode())


def load_library() -> Library:
    """whisper.cpp as pywhispercpp brings it.

    Raises:
        UserError: the package is missing, or hides the library's functions.
    """
    require_package()
    return _load_library()


@functools.cache  # one listener a process: the library has room for no more
def _load_library() -> Library:
    spec = importlib.util.find_spec(BINDING)
    assert spec is not None
    assert spec.origin is not None
    try:
        # A module's names are also those of the libraries that it is linked to, wherever they lie.
        return Library(ctypes.CDLL(spec.origin))
    except (OSError, AttributeError) as error:
        raise UserError(
            f"This build of pywhispercpp does not let whisper.cpp's functions be called: {error}. "
            "Install its published wheel: pip install --force-reinstall pywhispercpp"
        ) from None


def _settings() -> dict[str, Any]:
    """Of every call; non-speech tokens are suppressed as the published checkpoints have it."""
    return {
        "n_threads": torch.get_num_threads(),
        "print_progress": False,
        "print_timestamps": False,
        "no_context": True,
        "no_timestamps": True,
        "single_segment": True,
        "suppress_blank": True,
        "suppress_nst": True,
        "temperature": 0.0,
        "temperature_inc": 0.0,
        "greedy": {"best_of": 1},
        "entropy_thold": -1.0,  # no text has so little
        "no_speech_thold": 1.0,  # nothing is likelier
    }
