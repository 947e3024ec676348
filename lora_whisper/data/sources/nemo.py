"""NeMo manifests: JSON lines with `audio_filepath`, `text`, `duration`; `offset` for slices."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from lora_whisper.data.sources import manifest
from lora_whisper.data.sources.rows import USUAL_NAMES

# Without an offset the duration is that of the whole file, so a slice begins where there is one.
NAMES = replace(
    USUAL_NAMES,
    audio=("audio_filepath",),
    text=("text",),
    language=("lang", "language", "source_lang"),
    start=("offset",),
    end=(),
)

rows = partial(manifest.rows, names=NAMES)
part = partial(manifest.part, names=NAMES)
parts = partial(manifest.parts, names=NAMES)
