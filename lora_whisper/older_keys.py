"""Keys that earlier versions had: what they are called now, or which value is built in.

What is typed, or stands in a file of one's own, is answered. Runs that were written with them are
read as they are called now, and their checkpoints know them by what they were called then.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from itertools import product
from typing import Any

from lora_whisper.layers import MODULES, WHOLE, as_text, ranges_in

CODECS = ["pcm_mulaw", "pcm_alaw", "amr_nb", "opus"]
BUILT_IN: dict[str, Any] = {
    "quantization.double_quantization": True,  # of nf4; the others have nothing to be quantized
    "quantization.compute_dtype": "auto",
    "adapter.adalora": None,
    "adapter.adalora.initial_rank": None,
    "adapter.adalora.start_share": 0.1,
    "adapter.adalora.final_share": 0.3,
    "adapter.adalora.interval_steps": 10,
    "adapter.adalora.orthogonality_weight": 0.5,
    "adapter.eva": None,
    "adapter.eva.windows": 64,
    "augmentation.telephone.codecs": CODECS,
    "augmentation.spec_augment.frequency_masks": 2,
    "augmentation.spec_augment.widest_frequency_mask": 0.2,
    "augmentation.spec_augment.longest_time_mask_seconds": 0.5,
    "training.keep_checkpoints": 2,
    "evaluation.bootstrap_samples": 1000,
    "search.pruning_after_trials": 5,
    "search.pruning_after_share": 0.3,
    "message": None,
}
WORDS = {"adapter.adalora.initial_rank": "one and a half times adapter.rank"}  # for null
WITHOUT_EFFECT = {  # on what is learnt
    "training.keep_checkpoints",
    "evaluation.bootstrap_samples",
    "message",
}
RANGES = {  # two keys each that are one now, [lowest, highest]
    "augmentation.speed.factors": ("slowest", "fastest"),
    "augmentation.gain.db": ("lowest_db", "highest_db"),
    "augmentation.noise.snr_db": ("lowest_snr_db", "highest_snr_db"),
    "augmentation.reverberation.rt60_seconds": ("shortest_rt60_seconds", "longest_rt60_seconds"),
}
BOUNDS = {
    f"{key.rpartition('.')[0]}.{bound}": (key, place)
    for key, bounds in RANGES.items()
    for place, bound in enumerate(bounds)
}
RENAMED = {
    "optimizer.warmup_share": "optimizer.warmup",
    "optimizer.warmup_steps": "optimizer.warmup",
    "adapter.stack": "adapter.layers",
    "adapter.encoder_layers": "adapter.layers",
    "adapter.decoder_layers": "adapter.layers",
    "training.averaging.of": "training.averaging",
    "training.averaging.count": "training.averaging",
    "training.averaging.rank": "training.averaging_rank",
    "evaluation.training_utterances": "evaluation.diagnostics",
    "evaluation.probe_clips": "evaluation.diagnostics",
    "evaluation.keywords": "evaluation.words",
    **{key: now for key, (now, _) in BOUNDS.items()},
}


def answer(key: str, value: Any = "…", beside: Mapping[str, Any] | None = None) -> str | None:
    """What became of a key, for whoever typed it; None of a key that there never was.

    Args:
        beside: what else is typed, of which keys that are one now are answered alike.
    """
    if key in RENAMED:
        now = RENAMED[key]
        asked = {one: given for one, given in (beside or {}).items() if RENAMED.get(one) == now}
        typed = {one: _each(given) for one, given in (asked | {key: value}).items()}
        if all(one == [None] for one in typed.values()):
            return f"It is called {now} now. Leave it out."
        points = (dict(zip(typed, point, strict=True)) for point in product(*typed.values()))
        return f"It is called {now} now. Type {now}={','.join(_typed(now, one) for one in points)}"
    if key in BUILT_IN:
        built_in = BUILT_IN[key]
        words = ", ".join(built_in) if isinstance(built_in, list) else str(built_in)
        words = WORDS.get(key, words.lower())
        are = "are" if isinstance(built_in, list) else "is"
        reason = "" if built_in is None and key not in WORDS else f": {words} {are} built in"
        return f"This is no setting any more{reason}. Leave it out."
    return None


def _each(value: Any) -> list[str | None]:
    """The value, or each of a sweep's."""
    text = "null" if value is None else str(value)
    each = [text] if text.startswith("[") else text.split(",")
    return [None if one == "null" else one for one in each]


def _typed(now: str, given: Mapping[str, str | None]) -> str:
    """The value of the key that took the place of others, as it is typed."""
    if now in RANGES:
        group = now.rpartition(".")[0]
        return "[{},{}]".format(*(given.get(f"{group}.{bound}") or "…" for bound in RANGES[now]))
    if now == "adapter.layers":
        return _layers(given)
    if now == "evaluation.diagnostics":
        return "false" if set(given.values()) == {"0"} else "true"
    if now == "training.averaging":
        of, count = (given.get(f"{now}.{part}") or "…" for part in ("of", "count"))
        return f"{of}-{count}"
    if now == "optimizer.warmup":
        with contextlib.suppress(ValueError):
            older = {one: float(value) for one, value in given.items() if value is not None}
            warmup = current(older)[now]
            return f"{warmup:g}" if warmup != 1 - 1e-9 else "0.999"
    return next(value for value in given.values() if value is not None)


def _layers(given: Mapping[str, str | None]) -> str:
    """Of both modules, or of one, the layers that were asked for."""
    module = given.get("adapter.stack") or "both"
    if module not in ("both", *MODULES):
        return "…"
    adapted = MODULES if module == "both" else (module,)
    return as_text({one: _range(given.get(f"adapter.{one}_layers")) for one in adapted})


def _range(given: str | None) -> str:
    """Layers as they are typed, where they were given as a list, too."""
    if given is None:
        return WHOLE
    numbers = [int(number) for number in re.findall(r"\d+", given)]
    if given.startswith("[") and numbers:
        is_range = numbers == list(range(numbers[0], numbers[-1] + 1))
        return f"{numbers[0]}-{numbers[-1]}" if is_range else "FIRST-LAST"
    return given


# ── of an older run ──────────────────────────────────────────────────────────────────────────


def current(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their path, as they are called now."""
    found = {key: value for key, value in values.items() if key not in BUILT_IN | RENAMED}
    steps, share = values.get("optimizer.warmup_steps"), values.get("optimizer.warmup_share")
    if steps is not None:
        found["optimizer.warmup"] = steps
    elif share is not None:
        # A share of 1, which would be one step, is what rounds to all of them.
        found["optimizer.warmup"] = min(share, 1 - 1e-9)
    if values.keys() & {"adapter.stack", *(f"adapter.{module}_layers" for module in MODULES)}:
        stack = values.get("adapter.stack", "both")
        adapted = MODULES if stack == "both" else (stack,)
        given = {module: values.get(f"adapter.{module}_layers") for module in adapted}
        found["adapter.layers"] = as_text({one: given[one] or WHOLE for one in adapted})
    for key, (lowest, highest) in RANGES.items():
        group = key.rpartition(".")[0]
        if f"{group}.{lowest}" in values:
            found[key] = [values[f"{group}.{lowest}"], values.get(f"{group}.{highest}")]
    if "training.averaging.of" in values:
        of, count = values["training.averaging.of"], values.get("training.averaging.count")
        found["training.averaging"] = f"{of}-{count}"
        found["training.averaging_rank"] = values.get("training.averaging.rank")
    if "evaluation.keywords" in values:
        found["evaluation.words"] = values["evaluation.keywords"]
    return found


def earlier(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their path, as they were called when the first checkpoints were written."""
    found = dict(values)
    warmup = found.pop("optimizer.warmup")
    in_steps = warmup >= 1
    found["optimizer.warmup_share"] = 0.1 if in_steps else warmup
    found["optimizer.warmup_steps"] = int(warmup) if in_steps else None
    ranges = ranges_in(found.pop("adapter.layers"))
    found["adapter.stack"] = "both" if len(ranges) > 1 else next(iter(ranges))
    for module in MODULES:
        given = ranges.get(module, WHOLE)
        found[f"adapter.{module}_layers"] = None if given == WHOLE else given
    for key in RANGES.keys() & values.keys():
        group, bounds = key.rpartition(".")[0], zip(RANGES[key], found.pop(key), strict=True)
        found |= {f"{group}.{bound}": value for bound, value in bounds}
    of, _, count = (found.pop("training.averaging") or "").partition("-")
    rank = found.pop("training.averaging_rank")
    averaging = {"of": of, "count": int(count), "rank": rank} if count else {"": None}
    found |= {f"training.averaging.{key}".rstrip("."): value for key, value in averaging.items()}
    kind = values["adapter.kind"]
    groups = {key.rpartition(".")[0] for key in values} | {f"adapter.{kind}"}
    learnt_with = BUILT_IN.keys() - WITHOUT_EFFECT - {f"adapter.{kind}"}
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
