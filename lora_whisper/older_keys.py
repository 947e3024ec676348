"""Keys that earlier versions had: what they are called now, or which value is built in.

What is typed, or stands in a file of one's own, is answered. Runs that were written with them are
read as they are called now, and their checkpoints know them by what they were called then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

CODECS = ["pcm_mulaw", "pcm_alaw", "amr_nb", "opus"]
BUILT_IN: dict[str, Any] = {
    "quantization.double_quantization": True,  # of nf4; the others have nothing to be quantized
    "quantization.compute_dtype": "auto",
    "adapter.adalora.start_share": 0.1,
    "adapter.adalora.final_share": 0.3,
    "adapter.adalora.interval_steps": 10,
    "adapter.adalora.orthogonality_weight": 0.5,
    "augmentation.telephone.codecs": CODECS,
    "augmentation.spec_augment.frequency_masks": 2,
    "augmentation.spec_augment.widest_frequency_mask": 0.2,
    "training.keep_checkpoints": 2,
    "search.pruning_after_trials": 5,
    "search.pruning_after_share": 0.3,
    "message": None,
}
RENAMED = {
    "optimizer.warmup_share": "optimizer.warmup",
    "optimizer.warmup_steps": "optimizer.warmup",
}
WITHOUT_EFFECT = {"training.keep_checkpoints", "message"}  # on what is learnt


def answer(key: str, value: Any = "…") -> str | None:
    """What became of a key, for whoever typed it; None of a key that there never was."""
    if key in RENAMED:
        if value in (None, "null"):
            return f"It is called {RENAMED[key]} now. Leave it out."
        with contextlib.suppress(TypeError, ValueError):
            value = current({key: float(value)}).get(RENAMED[key], value)
            value = f"{value:g}" if value != 1 - 1e-9 else "0.999"
        return f"It is called {RENAMED[key]} now. Type {RENAMED[key]}={value}"
    if key in BUILT_IN:
        built_in = BUILT_IN[key]
        words = ", ".join(built_in) if isinstance(built_in, list) else str(built_in)
        are = "are" if isinstance(built_in, list) else "is"
        reason = "" if built_in is None else f": {words.lower()} {are} built in"
        return f"This is no setting any more{reason}. Leave it out."
    return None


def current(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their path, as they are called now."""
    found = {key: value for key, value in values.items() if key not in BUILT_IN | RENAMED}
    steps, share = values.get("optimizer.warmup_steps"), values.get("optimizer.warmup_share")
    if steps is not None:
        found["optimizer.warmup"] = steps
    elif share is not None:
        # A share of 1, which would be one step, is what rounds to all of them.
        found["optimizer.warmup"] = min(share, 1 - 1e-9)
    return found


def earlier(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their path, as they were called when the first checkpoints were written."""
    found = dict(values)
    warmup = found.pop("optimizer.warmup")
    in_steps = warmup >= 1
    found["optimizer.warmup_share"] = 0.1 if in_steps else warmup
    found["optimizer.warmup_steps"] = int(warmup) if in_steps else None
    groups = {key.rpartition(".")[0] for key in values}
    learnt_with = BUILT_IN.keys() - WITHOUT_EFFECT
    found |= {key: BUILT_IN[key] for key in learnt_with if key.rpartition(".")[0] in groups}
    found["quantization.double_quantization"] = values["quantization.kind"] == "nf4"
    return found


def not_followed(values: Mapping[str, Any]) -> list[str]:
    """`key=value` of what an earlier version was told and this one does otherwise."""
    usual = BUILT_IN | {
        "quantization.double_quantization": values.get("quantization.kind") == "nf4"
    }
    return [
        f"{key}={values[key]}"
        for key in sorted(usual.keys() & values.keys() - WITHOUT_EFFECT)
        if values[key] != usual[key]
    ]
