"""Folders of a base as accidents and attackers leave them: one thing of a sound one is changed."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
)
VALUES: tuple[Any, ...] = (
    *(0, -1, 1, 3, 10**6, 10**9, 2**70, 1.5, 1e308, float("nan"), float("inf"), True, False, None),
    *("", "x", "12", "a" * 10_000, [], [1], [[]], ["x"], [10**9], {}, {"a": 1}, {"type": "x"}),
    *([-1], {"1": None}, [[0, 10**9]], [None], "../../../etc/passwd"),
)
TEXTS = (
    *("[]", '"x"', "null", "", "{", "12", '{"a": ' + "[" * 100_000, "\ufeff{}", "NaN"),
    '{"a": ' + "9" * 5_000 + "}",
)


def break_one(folder: Path, seed: int) -> str:
    """Change one thing of a folder by the seed; says what, for whoever looks into a failure."""
    draw = random.Random(seed)
    kind = draw.choice(("value", "value", "value", "missing", "inner", "text", "bytes", "weights"))
    if kind == "weights":
        return _break_weights(folder / "model.safetensors", draw)
    path = folder / draw.choice([name for name in FILES if (folder / name).is_file()])
    if kind == "text":
        path.write_text(content := draw.choice(TEXTS), encoding="utf-8")
        return f"{seed}: {path.name} = {content[:20]!r}"
    if kind == "bytes":
        data = bytearray(path.read_bytes())
        for _ in range(draw.choice((1, 10))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.choice((len(data), draw.randrange(len(data))))])
        return f"{seed}: bytes of {path.name}"
    values = json.loads(path.read_text(encoding="utf-8"))
    said = _break_value(values, kind, draw)
    path.write_text(json.dumps(values), encoding="utf-8")
    return f"{seed}: {path.name}: {said}"


def _break_value(values: dict[str, Any], kind: str, draw: random.Random) -> str:
    """Of an object itself, or of one inside of it."""
    place: Any = values
    if kind == "inner":
        inside = [value for value in values.values() if isinstance(value, dict | list) and value]
        place = draw.choice(inside) if inside else values
        deeper = place if isinstance(place, list) else [*place.values()]
        inside = [value for value in deeper if isinstance(value, dict | list) and value]
        place = draw.choice(inside) if inside and draw.random() < 0.5 else place
    key = draw.choice([*range(len(place))] if isinstance(place, list) else sorted(place))
    if kind == "missing":
        del place[key]
        return f"no {key}"
    place[key] = draw.choice(VALUES)
    return f"{key} = {place[key]!r:.40}"


def _break_weights(path: Path, draw: random.Random) -> str:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    name = draw.choice(sorted(header.keys() - {"__metadata__"}))
    how = draw.choice(
        ("cut", "empty", "nan", "lost", "shape", "dtype", "offsets", "more", "length")
    )
    first, end = header[name]["data_offsets"]
    if how == "cut":
        body = body[: draw.randrange(len(body))]
    elif how == "nan":
        body[first : first + 4] = struct.pack("<f", draw.choice((float("nan"), -float("inf"))))
    elif how == "lost":
        header[f"{name}.other"] = header.pop(name)
    elif how == "shape":
        header[name]["shape"] = [*reversed(header[name]["shape"]), draw.choice((1, 0, 10**12))]
    elif how == "dtype":
        header[name]["dtype"] = draw.choice(("I64", "F8_E4M3", "F16", "U8", "BOOL", "x", 7))
    elif how == "offsets":
        header[name]["data_offsets"] = draw.choice(([0, 10**15], [end, first], [-1, 4], "x"))
    elif how == "more":
        header["evil"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
        body += bytes(4)
    text = json.dumps(header).encode()
    size = draw.choice((0, 2**63, len(text) + 7)) if how == "length" else len(text)
    path.write_bytes(b"" if how == "empty" else size.to_bytes(8, "little") + text + body)
    return f"{name}: {how}"
