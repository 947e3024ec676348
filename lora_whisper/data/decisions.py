"""What a person decided about findings of `check labels=true`: a JSON object a line.

    {"row": "91c3…", "decision": "accept", "finding": "other_clip", "fits": "0be2…", …}

`row` names a row by its sound, its slice and its text, so that it is still the same one when the
manifest is sorted, moved or divided otherwise. What else stands there is for people.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lora_whisper.data.contents import row_hashes
from lora_whisper.data.dataset import Utterances
from lora_whisper.errors import UserError, listing
from lora_whisper.paths import local_path

log = logging.getLogger("lora_whisper")

ACCEPT, REJECT = "accept", "reject"
SWAPPED = "other_clip"  # the finding whose transcript may be another row's
NAME_DIGITS = 16
ADVICE = "Type the file that check.html saved, such as decisions.jsonl."
PLACES = ("start", "end", "text")  # of a row, that its name hangs on beside its sound


@dataclass(frozen=True)
class Decisions:
    """By the names of rows."""

    accepted: Mapping[str, str]  # the finding
    rejected: frozenset[str] = frozenset()
    fits: Mapping[str, str] = field(default_factory=dict)  # the row whose transcript it should have

    @property
    def names(self) -> frozenset[str]:
        """Of all rows that were decided about."""
        return self.rejected | self.accepted.keys()


def row_names(utterances: Utterances) -> list[str]:
    """16 hexadecimal digits for each row."""
    return [f"{each:0{NAME_DIGITS}x}" for each in row_hashes(utterances, "size", PLACES).tolist()]


def read_decisions(name: str, key: str) -> Decisions:
    """What a file says.

    Args:
        key: that it was typed for, such as `decisions`.

    Raises:
        UserError: there is no such file, or it is another one; names the first lines that do not
            fit.
    """
    text = _text_of(name, key)
    accepted, fits = dict[str, str](), dict[str, str]()
    rejected, problems = set[str](), list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        values = _decision(line)
        if isinstance(values, str):
            problems.append(f"line {number}: {values}")
            continue
        row = str(values["row"])
        if values["decision"] == REJECT:
            rejected.add(row)
        elif row not in accepted or values.get("finding") == SWAPPED:  # which can be mended
            accepted[row] = str(values.get("finding") or "labels")
            if isinstance(fit := values.get("fits"), str):
                fits[row] = fit
    if problems:
        raise UserError(
            f"{key}={name}: these lines are no decisions:\n{listing(problems, 3)}\n{ADVICE}"
        )
    if not (accepted or rejected):
        raise UserError(f"{key}={name}: found no decision in it. {ADVICE}")
    return Decisions(accepted, frozenset(rejected - accepted.keys()), fits)


def _text_of(name: str, key: str) -> str:
    path = local_path(name)
    if path.is_dir():
        raise UserError(f"{key}={name}: it is a folder. {ADVICE}")
    if not path.is_file():
        raise UserError(f"{key}={name}: there is no such file. {ADVICE}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        why = f"it is not UTF-8 (byte {error.start})"
    except OSError as error:
        why = (error.strerror or str(error)).lower()
    raise UserError(f"{key}={name}: {why}. {ADVICE}")


def _decision(line: str) -> dict[str, object] | str:
    """The object of a line, or what is wrong with it."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return f"expected a JSON object, found {line[:60]!r}"
    if not isinstance(values, dict) or not _is_name(values.get("row")):
        return f'expected "row" with {NAME_DIGITS} hexadecimal digits, found {line[:60]!r}'
    if values.get("decision") not in (ACCEPT, REJECT):
        return f'expected "decision": "accept" or "reject", found {values.get("decision")!r}'
    return values


def _is_name(value: object) -> bool:
    is_long = isinstance(value, str) and len(value) == NAME_DIGITS
    return is_long and set(str(value)) <= set("0123456789abcdef")


def without_excluded(
    parts: Sequence[Utterances], name: str, is_all: bool = False
) -> list[Utterances]:
    """The rows of which no finding was accepted.

    Args:
        is_all: these parts are all that may have been decided about.

    Raises:
        UserError: see `read_decisions`; no decision is about one of `is_all` rows; or nothing is
            left of a part.
    """
    decisions = read_decisions(name, "data.exclude")
    names = [np.array(row_names(rows)) for rows in parts]
    known = {one for part in names for one in part.tolist()}
    if is_all and not decisions.names & known:
        raise _of_other_rows(name, "data.exclude", decisions, "the training rows")
    excluded = [np.isin(part, list(decisions.accepted)) for part in names]
    for part in excluded:
        if part.all():
            raise UserError(f"data.exclude={name} leaves nothing of {len(part)} training rows.")
    if is_all:
        missing = len(decisions.accepted.keys() - known)
        gone = f"; {missing} more that it names are not among them" if missing else ""
        count, total = sum(int(part.sum()) for part in excluded), sum(map(len, names))
        _say(f"exclude     {count} of {total} training rows are left out{gone}")
    return [rows.select(~part) for rows, part in zip(parts, excluded, strict=True)]


@functools.cache  # the rows are read by several
def _say(message: str) -> None:
    log.info("%s", message)


# ── repair ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Mended:
    """What becomes of a row whose finding was accepted."""

    finding: str
    text: str | None = None  # None: it is left out
    text_of: str = ""  # the place of the row that the text came from


def mended(splits: Mapping[str, Utterances], decisions: Decisions) -> dict[str, dict[int, Mended]]:
    """By split and number, the rows that change.

    A transcript goes to the clip that it fits where its own row lets it go: both were accepted.
    Each is given away once.
    """
    named = {split: row_names(rows) for split, rows in splits.items()}
    places = {name: (split, row) for split, each in named.items() for row, name in enumerate(each)}
    given: set[str] = set()
    found: dict[str, dict[int, Mended]] = {split: {} for split in splits}
    for split, each in named.items():
        for row, name in enumerate(each):
            if (finding := decisions.accepted.get(name)) is None:
                continue
            fit = decisions.fits.get(name, "")
            is_free = decisions.accepted.get(fit) == SWAPPED and fit in places and fit not in given
            if finding == SWAPPED and is_free:
                given.add(fit)
                of_split, number = places[fit]
                source = splits[of_split][number]
                found[split][row] = Mended(finding, source.text, source.row)
            else:
                found[split][row] = Mended(finding)
    return found


def require_known(splits: Sequence[Utterances], name: str, decisions: Decisions) -> None:
    """See that decisions of the file `name` are about these rows; some that are not are warned of.

    Raises:
        UserError: none is.
    """
    unknown = decisions.names - {row for rows in splits for row in row_names(rows)}
    if unknown == decisions.names:
        raise _of_other_rows(name, "decisions", decisions, "the rows")
    if unknown:
        total = len(decisions.names)
        log.warning("decisions   %d of %d are of rows that are not there", len(unknown), total)


def _of_other_rows(name: str, key: str, decisions: Decisions, rows: str) -> UserError:
    return UserError(
        f"{key}={name}: none of its {len(decisions.names)} decisions is about one of {rows}. "
        "A row goes by its sound and its text: the file is of other speech, or the texts were "
        f"mended since. Type the file that check.html saved for this data, or {key}=null."
    )
