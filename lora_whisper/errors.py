"""Errors that are the user's to mend: one clear message, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """What was given, what was found, and what to type; the command line exits with code 2.

    Raised for input that a person can correct (a misspelt key, a missing file, an empty split).
    A mistake of our own is an `assert` or any other exception, and keeps its traceback.
    """


class Problems:
    """What is wrong with several things that are looked at one after the other, to be said at once.

    problems = Problems()
    with problems.noted():
        ...  # a UserError in here is noted
    problems.raise_any()
    """

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            if str(error) not in self.found:
                self.found.append(str(error))

    def raise_any(self) -> None:
        """Raises UserError: something was noted, of which nothing is left out."""
        if len(self.found) == 1:
            raise UserError(self.found[0])
        if self.found:
            raise UserError(f"Several things are wrong:\n{listing(self.found, len(self.found))}")


def listing(problems: list[str], shown: int = 10) -> str:
    """Format problems one to a line; beyond `shown` of them, the rest are counted.

    What a problem says in further lines stands below it.
    """
    lines = ["  - " + problem.replace("\n", "\n    ") for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  … and {len(problems) - shown} more")
    return "\n".join(lines)


def not_the_users(error: Exception) -> Exception | None:
    """The error itself when a traceback helps, else None."""
    return None if isinstance(error, UserError) else error
