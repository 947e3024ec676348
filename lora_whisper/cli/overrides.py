"""What is typed behind a command's name: flags, and overrides as Hydra's grammar wants them."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from lora_whisper.cli.command import AnyCommand
from lora_whisper.cli.compose import groups_of, options_of
from lora_whisper.cli.misfits import is_below_a_switch, known_keys, unknown_key
from lora_whisper.errors import UserError, listing
from lora_whisper.schema import defaults_of

# Keys whose values are text, whatever they look like.
TEXT_KEYS = {
    "name",
    "run",
    "adapters",
    "audio",
    "checkpoint",
    "out",
    "prompt",
    "words",
    "sentences",
    "speaker",
    "examples",
    "host",
    "user",
    "password",
    "fix",
    "model.checkpoint",
    "repo",
    "base",
    "sweep",
    "gpu_memory",
    "model.revision",
    "adapter.init_from",
    "evaluation.words",
    "tracking.project",
} | {
    f"data.{key}" for key in ("path", "train", "validation", "test", "config", "revision", "words")
}


# How a value begins that is none: quoted, a list, a mapping, an interpolation, nothing yet.
NO_TEXT = ("'", '"', "[", "{", "$", "null", "???")


def readable_overrides(overrides: Sequence[str], sweeps: bool = False) -> list[str]:
    """Quote the values that Hydra's grammar would not read as they stand.

    `data.train=/my data (1)/é.jsonl` holds characters that it refuses outside quotes, and
    `name=2026_11_22` it takes for a number. In a sweep a comma parts values.
    """
    parser = OverridesParser.create()
    return [_readable(parser, override, sweeps) for override in overrides]


def _readable(parser: OverridesParser, override: str, sweeps: bool) -> str:
    key, equals, value = override.partition("=")
    # Hydra takes a backslash for itself, but before a quote, where it has to be doubled.
    escaped = re.sub(r"(\\*)('|$)", lambda end: 2 * end[1] + end[2].replace("'", "\\'"), value)
    quoted = f"{key}='{escaped}'"
    if not equals or not is_readable(parser, quoted):
        return override
    is_plain_text = key in TEXT_KEYS and not value.startswith(NO_TEXT)
    if is_plain_text and not (sweeps and "," in value):
        return quoted
    return override if is_readable(parser, override) else quoted


def is_readable(parser: OverridesParser, override: str) -> bool:
    try:
        parser.parse_override(override)
    except HydraException:
        return False
    return True


# ── words that are taken for others ──────────────────────────────────────────────────────────


def as_meant(command: AnyCommand, hydra: Hydra, override: str) -> list[str]:
    """What an override stands for, where something else is typed for it by habit.

    A `+` adds a key in Hydra, but all keys are there; null is how files say "none of a group"; and
    a model is often given by its folder or by its name on the hub.
    """
    override = without_alias(command, override)
    key, equals, value = override.partition("=")
    bare = key.lstrip("+")
    if bare in known_keys(command.name) and not is_below_a_switch(bare):
        override = f"{bare}{equals}{value}"
    if value == "null" and _is_none_of(command, hydra, bare):
        return []
    if bare == "model" and equals:
        return _model_as_meant(command, hydra, value) or [override]
    return [override]


def without_alias(command: AnyCommand, override: str) -> str:
    """An override with the key that the configuration has."""
    key, equals, value = override.partition("=")
    return f"{command.aliases.get(key, key)}{equals}{value}"


def _is_none_of(command: AnyCommand, hydra: Hydra, key: str) -> bool:
    """Whether it is a group of which the command has none where nothing is typed."""
    is_ours = key in known_keys(command.name) and key in groups_of(hydra)
    return is_ours and defaults_of(command.kind).get(key) is None


def _model_as_meant(command: AnyCommand, hydra: Hydra, value: str) -> list[str] | None:
    """model=openai/whisper-small is model=small; a folder or another hub id is a checkpoint's."""
    known = options_of(hydra, "model")
    named = value.lower().removeprefix("openai/").removeprefix("whisper-")
    if value in known or "model" not in defaults_of(command.kind) or "," in value:
        return None
    if named in known and not Path(value).is_dir():
        return [f"model={named}"]
    if "/" not in value and "\\" not in value and not Path(value).expanduser().is_dir():
        return None
    # what every one of these options has beside the checkpoint is the same
    return ["model=small", f"model.checkpoint={value}"]


# ── flags ────────────────────────────────────────────────────────────────────────────────────


def parsed_flags(arguments: Sequence[str], command: str) -> Namespace:
    """Hydra's flags, and the overrides among them.

    Raises:
        UserError: a flag that there is not, such as a setting that is typed as one.
    """
    topics = [word[len("--help=") :] for word in arguments if word.startswith("--help=")]
    arguments = ["--help" if word.startswith("--help=") else word for word in arguments]
    parser = get_args_parser()
    parser.allow_abbrev = False
    parser.error = _refuse  # type: ignore[method-assign]
    known = {flag for action in parser._actions for flag in action.option_strings}
    foreign = [word for word in arguments if _is_flag(word) and word.split("=")[0] not in known]
    if foreign:
        raise UserError(
            "Settings are typed without dashes, as key=value:\n"
            + listing([_without_dashes(word, arguments, command) for word in foreign])
        )
    flags = parser.parse_intermixed_args(arguments)
    if flags.help:  # --help adapter
        topics += [word for word in flags.overrides if "=" not in word]
        flags.overrides = [word for word in flags.overrides if "=" in word]
    flags.topics = topics
    if flags.config_path or flags.experimental_rerun or flags.shell_completion:
        raise UserError(
            "--config-path, --experimental-rerun and --shell-completion are not used: "
            "--config-dir is."
        )
    return flags


def _is_flag(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}. lora-whisper COMMAND --help lists what can be typed.")


def _without_dashes(word: str, arguments: Sequence[str], command: str) -> str:
    key, equals, value = word.partition("=")
    following = arguments[list(arguments).index(word) + 1 :][:1]
    if not equals:
        is_value = following and not _is_flag(following[0]) and "=" not in following[0]
        value = following[0] if is_value else ""
    key = key.lstrip("-").replace("-", "_")
    if key in known_keys(command):
        return f"{word}: type {key}={value or '…'}"
    return f"{word}: " + unknown_key(key, value, command).split(": ", 1)[1]
