"""LoRA training for OpenAI's Whisper: adapt, merge, and prove what the adapter is worth.

import lora_whisper as lw  # see `lora_whisper.api`: train, merge, evaluate, load
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as type checkers take it; importing typing takes a third of a start
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"
INTERFACE = (
    *("Run", "Segment", "Transcriber", "Transcript", "UserError", "Word"),
    *("evaluate", "load", "merge", "train"),
)


def __getattr__(name: str) -> Any:
    """Loaded when it is asked for: the command line does without it."""
    if name not in INTERFACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *INTERFACE])
