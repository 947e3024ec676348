"""Errors that are the user's to mend: one clear message, no traceback."""


class UserError(Exception):
    """What was given, what was found, and what to type; the command line exits with code 2.

    Raised for input that a person can correct (a misspelt key, a missing file, an empty split).
    A mistake of our own is an `assert` or any other exception, and keeps its traceback.
    """


def listing(problems: list[str], shown: int = 10) -> str:
    """Format problems one to a line; beyond `shown` of them, the rest are counted."""
    lines = [f"  - {problem}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  … and {len(problems) - shown} more")
    return "\n".join(lines)
