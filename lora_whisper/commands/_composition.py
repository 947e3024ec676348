"""From what is typed to one configuration: Hydra composes it, and its messages are made readable.

What is typed is quoted where Hydra's grammar asks for it, and every override that fits nothing is
named at once.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lora_whisper.composing import to_config
from lora_whisper.errors import Problems, UserError, listing

# Keys whose values are text, whatever they look like.
TEXT_KEYS = {
    "name",
    "run",
    "fix",
    "model.checkpoint",
    "repo",
    "base",
    "message",
    "sweep",
    "gpu_memory",
} | {f"data.{key}" for key in ("path", "train", "validation", "test")}
PACKAGE = Path(__file__).resolve().parent.parent
Config = TypeVar("Config")


@dataclass(frozen=True)
class Command(Generic[Config]):
    """What one file of `commands/` offers to the command line."""

    name: str  # also the name of its primary configuration, conf/NAME.yaml
    kind: type[Config]
    check: Callable[[Config, Path], Any]  # raises UserError; reads, and writes nothing
    run: Callable[[Config, Path], int | None]
    # the folder is outputs/NAME, for the commands that have a name; returns the exit code, None: 0
    report_sweep: Callable[[list[Path]], None] | None = None
    # whether a sweep that is typed again has nothing to do at this point
    is_finished: Callable[[Config, Path], bool] | None = None
    is_shared: bool = False  # whether several processes can carry it out together
    # Keys by another name that is typed for them, such as one that Hydra takes for a group.
    aliases: Mapping[str, str] = field(default_factory=dict)


def configuration_folder() -> Path:
    """`conf/`: inside the installed package, or beside it in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


@functools.cache
def defaults(primary: str) -> dict[str, Any]:
    """What a command has where nothing is typed; "???" where something must be."""
    search_path = create_config_search_path(str(configuration_folder()))
    composed = ConfigLoaderImpl(search_path).load_configuration(primary, [], RunMode.RUN)
    values = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
    return {key: value for key, value in values.items() if key != "hydra"}


@contextmanager
def hydra_over(job_name: str, config_dir: str | None) -> Iterator[Hydra]:
    """Hydra over our `conf/` and, before it, the user's `--config-dir`."""
    search_path = create_config_search_path(str(configuration_folder()))
    if config_dir is not None:
        folder = Path(config_dir).expanduser().absolute()
        if not folder.is_dir():
            raise UserError(f"--config-dir {config_dir}: there is no such folder.")
        search_path.prepend("command-line", f"file://{folder}", "main")
    try:
        yield Hydra.create_main_hydra2(job_name, search_path)
    finally:
        GlobalHydra.instance().clear()


def options_of(hydra: Hydra, group: str) -> list[str]:
    """The names that can be typed for a group; `_common_` is a part of others."""
    known = hydra.config_loader.get_group_options(group)
    return [name for name in known if not name.startswith("_")]


# ── overrides ────────────────────────────────────────────────────────────────────────────────


def readable_overrides(overrides: Sequence[str], sweeps: bool = False) -> list[str]:
    """Quote the values that Hydra's grammar would not read as they stand.

    `data.train=/my data (1)/é.jsonl` holds characters that it refuses outside quotes, and
    `name=2026_11_22` it takes for a number. In a sweep a comma parts values.
    """
    parser = OverridesParser.create()
    return [_readable(parser, override, sweeps) for override in overrides]


def without_alias(command: Command[Any], override: str) -> str:
    """An override with the key that the configuration has."""
    key, equals, value = override.partition("=")
    return f"{command.aliases.get(key, key)}{equals}{value}"


def _readable(parser: OverridesParser, override: str, sweeps: bool) -> str:
    key, equals, value = override.partition("=")
    # Hydra takes a backslash for itself, but before a quote, where it has to be doubled.
    escaped = re.sub(r"(\\*)('|$)", lambda end: 2 * end[1] + end[2].replace("'", "\\'"), value)
    quoted = f"{key}='{escaped}'"
    if not equals or not _parses(parser, quoted):
        return override
    is_plain_text = key in TEXT_KEYS and not value.startswith(("'", '"', "[", "$", "null", "???"))
    if is_plain_text and not (sweeps and "," in value):
        return quoted
    return override if _parses(parser, override) else quoted


def _parses(parser: OverridesParser, override: str) -> bool:
    try:
        parser.parse_override(override)
    except HydraException:
        return False
    return True


def compose(hydra: Hydra, primary: str, overrides: list[str]) -> DictConfig:
    """Compose one configuration.

    Raises:
        UserError: names every override that fits nothing.
    """
    problems = Problems()
    composed = compose_what_fits(hydra, primary, overrides, problems)
    problems.raise_any()
    assert composed is not None, "else there was a problem"
    return composed


def compose_what_fits(
    hydra: Hydra, primary: str, overrides: list[str], problems: Problems
) -> DictConfig | None:
    """Compose without the overrides that fit nothing, which are noted as one problem.

    Returns None where that is not enough.
    """
    wrong, usable = [], list(overrides)
    composed = None
    while composed is None:
        try:
            composed = hydra.compose_config(
                primary, usable, RunMode.RUN, with_log_configuration=False
            )
        except (HydraException, OmegaConfBaseException) as error:
            wrong.append(_explained(error, hydra, primary))
            blamed = _blamed(str(error), usable)
            if blamed is None:
                break
            usable.remove(blamed)
    if wrong:
        problems.found.append("The command line cannot be used:\n" + listing(wrong))
    return composed


def _blamed(message: str, overrides: list[str]) -> str | None:
    """The override that Hydra's message is about, so that the search for others can go on."""
    quoted = re.findall(r"'([^']+)'", message.split("\n")[0])
    for override in overrides:
        key, _, value = override.partition("=")
        options = [f"{key}/{name}" for name in value.strip("[]").split(",")]
        if override in quoted or key in quoted or not set(options).isdisjoint(quoted):
            return override
    return None


def _explained(error: Exception, hydra: Hydra, primary: str) -> str:
    """Hydra's message in one line or two, with the nearest known key or option."""
    message = str(error)
    unknown = re.search(r"Could not override '([^']+)'", message)
    if isinstance(error, OverrideParseException):
        return message.splitlines()[0]
    option = re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", message)
    if option:
        return _no_such_option(option[1], option[2], hydra)
    if not unknown:
        message = message.split("Config search path:")[0].strip()
        return re.sub(r"\n\t", " ", re.sub(r"\n+(?!\t)", ". ", message))
    key = unknown.group(1)
    defaults = hydra.compose_config(primary, [], RunMode.RUN, with_log_configuration=False)
    keys = _keys(OmegaConf.to_container(defaults, resolve=False))
    known = [*keys, *hydra.list_all_config_groups()]
    near = _nearest(key, [name for name in known if not name.startswith("hydra")])
    return f"{key}: there is no such key or group." + (f" Did you mean {near}?" if near else "")


def _no_such_option(group: str, name: str, hydra: Hydra) -> str:
    options = options_of(hydra, group)
    listed = ", ".join(options) if options else "none: there is no such group"
    near = _nearest(name, options)
    return f"{group}={name}: there is no such option. " + (
        f"Did you mean {near}? There are {listed}." if near else f"There are {listed}."
    )


def _nearest(key: str, known: list[str]) -> str:
    """The known key most like `key`, first by its whole path, then by its last name."""
    whole = difflib.get_close_matches(key, known, 1, 0.75)
    last = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    loose = difflib.get_close_matches(key, known, 1, 0.5)
    return next(iter([*whole, *last, *loose]), "")


def _keys(values: Any, prefix: str = "") -> list[str]:
    if not isinstance(values, dict):
        return [prefix[:-1]]
    return [path for key, value in values.items() for path in _keys(value, f"{prefix}{key}.")]


# ── one configuration ────────────────────────────────────────────────────────────────────────


def plain_config(command: Command[Config], composed: DictConfig) -> Config:
    ours = OmegaConf.masked_copy(composed, our_keys(composed))
    try:
        values = OmegaConf.to_container(ours, resolve=True)
        return to_config(command.kind, cast(dict[str, Any], values))
    except OmegaConfBaseException as error:
        raise UserError(f"The configuration cannot be resolved: {error}") from error


def our_keys(composed: DictConfig) -> list[str]:
    return [str(key) for key in composed if key != "hydra"]
