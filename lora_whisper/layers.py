"""`adapter.layers`: which layers of the encoder and of the decoder get an adapter.

all · decoder · encoder.24-31 · encoder.24- (to the last) · encoder.24-31+decoder.-7
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MODULES = ("encoder", "decoder")
ALL = "all"
WHOLE = "-"  # of a module's layers, those from its first to its last


def ranges_in(layers: str) -> dict[str, str]:
    """{"encoder": "24-31", "decoder": "-"}, without a module that gets no adapter.

    Raises:
        ValueError: it is not written so, names a module twice, or a range runs backwards.
    """
    if layers == ALL:
        return dict.fromkeys(MODULES, WHOLE)
    given: dict[str, str] = {}
    for part in layers.split("+"):
        match = re.fullmatch(r"(encoder|decoder)(?:\.(\d+|\d+-\d*|-\d+))?", part)
        if match is None or match[1] in given:
            raise ValueError(layers)
        first, _, last = (match[2] or WHOLE).partition("-")
        if first and last and int(first) > int(last):
            raise ValueError(layers)
        given[match[1]] = match[2] or WHOLE
    return {module: given[module] for module in MODULES if module in given}


def as_text(ranges: Mapping[str, str]) -> str:
    """The same in one form: the encoder first, and both of them whole as "all"."""
    if ranges == dict.fromkeys(MODULES, WHOLE):
        return ALL
    given = (module for module in MODULES if module in ranges)
    return "+".join(
        module if ranges[module] == WHOLE else f"{module}.{ranges[module]}" for module in given
    )


def numbers(given: str, count: int) -> range | None:
    """The layers of a range such as "24-31", of `count` that are numbered from 0; None: no such."""
    first, dash, last = given.partition("-")
    start = int(first) if first else 0
    end = int(last) if last else (count - 1 if dash else start)
    return range(start, end + 1) if start <= end < count else None
