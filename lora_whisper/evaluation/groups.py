"""What a test set is broken down by: columns of its manifest, and what is known without one."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from lora_whisper.data.dataset import Utterance
from lora_whisper.errors import UserError

NO_GROUP = "none"  # label of utterances of which the column says nothing
LIMITS_SECONDS = (2, 5, 10, 20, 30)  # the last is Whisper's window
DURATIONS = (
    f"up to {LIMITS_SECONDS[0]} s",
    *(f"{low} to {high} s" for low, high in pairwise(LIMITS_SECONDS)),
    f"over {LIMITS_SECONDS[-1]} s",
)


def group_labels(utterances: Sequence[Utterance], names: Sequence[str]) -> dict[str, list[str]]:
    """For each name of `evaluation.group_by`, a label an utterance. No audio is read.

    A name is a column of the manifest. Without such a column it may be `duration` (by length),
    `speaker` or `language`, which are known whatever the manifest calls them. A column `duration`
    of numbers counts as none, because every number would be a group of its own.

    Raises:
        UserError: no row has the column, and it is not known otherwise either.
    """
    if not names:
        return {}
    rows = list(utterances)  # each is made when it is asked for
    return {name: [_label(value) for value in _values(rows, name)] for name in names}


def _label(value: object) -> str:
    return NO_GROUP if value is None or value == "" else str(value)


def _values(rows: Sequence[Utterance], name: str) -> list[object]:
    if any(name in row.columns for row in rows) and not _is_measured(rows, name):
        return [row.columns.get(name) for row in rows]
    if name in COMPUTED:
        values: list[object] = [COMPUTED[name](row) for row in rows]
        if any(values):
            return values
    columns = {column for row in rows for column in row.columns}
    computed = [each for each, value_of in COMPUTED.items() if any(map(value_of, rows))]
    known = [*sorted(columns), *(each for each in computed if each not in columns)]
    # Read from the sound, of which not all is known yet.
    lengths = "" if "duration" in known else "; duration groups by the clips' length"
    raise UserError(
        f"evaluation.group_by={name}: no row of the test set has this column; "
        f"they have {', '.join(known)}{lengths}"
    )


def _is_measured(rows: Sequence[Utterance], name: str) -> bool:
    """Whether a column gives seconds, as NeMo's manifests do; tables hold numbers as text."""
    if name != "duration":
        return False
    return all(_is_number(row.columns[name]) for row in rows if row.columns.get(name))


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def _duration(row: Utterance) -> str | None:
    seconds = row.duration_seconds  # 0 where nobody measured it
    return DURATIONS[bisect.bisect_left(LIMITS_SECONDS, seconds)] if seconds else None


COMPUTED: Mapping[str, Callable[[Utterance], str | None]] = {
    "duration": _duration,
    "speaker": lambda row: row.speaker,
    "language": lambda row: row.language,
}
