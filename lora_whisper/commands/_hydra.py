"""Hydra at the door: compose, validate, and only then run, once or once for each point of a sweep.

`hydra.main` exits with 1 on a typo and makes the run's folder before the task has seen its
configuration, so single runs are composed and called here; sweeps, `--help`, `--cfg` and `--info`
go through Hydra's own machinery.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import logging
import os
import re
import string
import sys
import traceback
import typing
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lora_whisper import processes
from lora_whisper.commands._launch import end, leave, meet
from lora_whisper.composing import to_config
from lora_whisper.errors import UserError, listing
from lora_whisper.terminal import log_to_console, quiet_libraries

# Keys whose values are text, whatever they look like.
TEXT_KEYS = {"name", "run", "fix", "model.checkpoint", "repo", "base", "message", "gpu_memory"} | {
    f"data.{key}" for key in ("path", "train", "validation", "test")
}
PACKAGE = Path(__file__).resolve().parent.parent
Config = TypeVar("Config")

log = logging.getLogger("lora_whisper")


@dataclass(frozen=True)
class Command(Generic[Config]):
    """What one file of `commands/` offers to the command line."""

    name: str  # also the name of its primary configuration, conf/NAME.yaml
    kind: type[Config]
    check: Callable[[Config, Path], Any]  # raises UserError; reads, and writes nothing
    run: Callable[[Config, Path], int | None]
    # the folder is outputs/NAME, for the commands that have a name; returns the exit code, None: 0
    report_sweep: Callable[[list[Path]], None] | None = None
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


def run_command(command: Command[Any], arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line; return its exit code.

    0: done; 1: a failure of ours; 2: the user's to mend; 130 and 143: stopped by SIGINT, SIGTERM.
    """
    log_to_console()
    quiet_libraries()
    # Before torch is imported: OpenMP's threads are to sleep while they wait for each other. On two
    # cores that other programs use too, spinning took 30 s for a step of nano, sleeping 2.2 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        flags = get_args_parser().parse_args(sys.argv[1:] if arguments is None else arguments)
        if flags.config_path or flags.experimental_rerun:
            raise UserError("--config-path and --experimental-rerun are not used: --config-dir is.")
        exit_code = _carry_out(command, flags)
        leave()
        return exit_code
    except UserError as error:
        message = f"error: {error}"
        return end(2, lambda: print(message, file=sys.stderr))
    except KeyboardInterrupt as stop:
        message = f"stopped: {stop or 'by Ctrl-C'}"
        return end(getattr(stop, "exit_code", 130), lambda: print(message, file=sys.stderr))
    except Exception:
        if processes.count() == 1:
            raise
        return end(1, traceback.print_exc)


def _carry_out(command: Command[Any], flags: Namespace) -> int:
    with _hydra(command.name, flags.config_dir) as hydra:
        primary = flags.config_name or command.name
        if flags.help or flags.hydra_help or flags.info:
            _show_help(hydra, primary, flags)
            return 0
        typed = [without_alias(command, override) for override in flags.overrides]
        overrides = readable_overrides(typed, sweeps=flags.multirun)
        if flags.cfg:
            _compose(hydra, primary, overrides)
            hydra.show_cfg(primary, overrides, flags.cfg, flags.package, flags.resolve)
        elif flags.multirun:
            meet(command.name, is_shared=False)
            return _run_sweep(command, hydra, primary, overrides)
        else:
            config, folder = _configure(command, hydra, primary, overrides)
            meet(command.name, command.is_shared)
            command.check(config, folder)
            return command.run(config, folder) or 0
        return 0


@contextmanager
def _hydra(job_name: str, config_dir: str | None) -> Iterator[Hydra]:
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


def _show_help(hydra: Hydra, primary: str, flags: Namespace) -> None:
    parser = get_args_parser()
    if flags.help:
        print(_help(hydra, primary, readable_overrides(flags.overrides)))
    elif flags.hydra_help:
        hydra.hydra_help(config_name=primary, args_parser=parser, args=flags)
    else:
        hydra.show_info(flags.info, config_name=primary, overrides=flags.overrides)


def _help(hydra: Hydra, primary: str, overrides: list[str]) -> str:
    """Hydra's own help lists the groups of all commands, and files that are parts of others."""
    composed = hydra.compose_config(primary, overrides, RunMode.RUN, with_log_configuration=True)
    HydraConfig.instance().set_config(composed)
    groups = [str(group) for group in composed.hydra.runtime.choices if "/" not in str(group)]
    lines = [f"{group}: {', '.join(_options(hydra, group))}" for group in groups]
    return string.Template(composed.hydra.help.template).substitute(
        APP_CONFIG_GROUPS="\n".join(lines),
        CONFIG=OmegaConf.to_yaml(OmegaConf.masked_copy(composed, _our_keys(composed))),
    )


def _options(hydra: Hydra, group: str) -> list[str]:
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


def _compose(hydra: Hydra, primary: str, overrides: list[str]) -> DictConfig:
    """Compose one configuration; every override that fits nothing is named at once."""
    problems, usable = [], list(overrides)
    while True:
        try:
            composed = hydra.compose_config(
                primary, usable, RunMode.RUN, with_log_configuration=False
            )
            break
        except (HydraException, OmegaConfBaseException) as error:
            problems.append(_explained(error, hydra, primary))
            blamed = _blamed(str(error), usable)
            if blamed is None:
                break
            usable.remove(blamed)
    if problems:
        raise UserError("The command line cannot be used:\n" + listing(problems))
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
    options = _options(hydra, group)
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


# ── one configuration, and a sweep of them ───────────────────────────────────────────────────


def _configure(
    command: Command[Config], hydra: Hydra, primary: str, overrides: list[str]
) -> tuple[Config, Path]:
    """Compose and validate one configuration; return it with the folder it asks for."""
    composed = _compose(hydra, primary, overrides)
    config = _plain(command, composed)
    return config, Path(composed.hydra.run.dir)


def _plain(command: Command[Config], composed: DictConfig) -> Config:
    ours = OmegaConf.masked_copy(composed, _our_keys(composed))
    try:
        values = OmegaConf.to_container(ours, resolve=True)
        return to_config(command.kind, cast(dict[str, Any], values))
    except OmegaConfBaseException as error:
        raise UserError(f"The configuration cannot be resolved: {error}") from error


def _our_keys(composed: DictConfig) -> list[str]:
    return [str(key) for key in composed if key != "hydra"]


def _run_sweep(command: Command[Any], hydra: Hydra, primary: str, overrides: list[str]) -> int:
    """Validate every point, then let Hydra run them; a failed point does not stop the others.

    Returns the exit code: 1 if a point failed.
    """
    overrides = [*overrides, *implied_by_multirun(command, _parsed(hydra, overrides))]
    parsed = _parsed(hydra, overrides)
    if "name" in swept_keys(parsed):
        raise UserError("name cannot be swept: it is the name of the sweep's folder. Give it one.")
    points = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    folders = _check_points(command, hydra, primary, points, swept_keys(parsed))
    _refuse_sweeps_in_files(hydra, primary, overrides)
    task = _Point(command)
    subdir = f"hydra.sweep.subdir='${{sweep_point:${{hydra.overrides.task}},{_listed(parsed)}}}'"
    exit_code = 0
    try:
        hydra.multirun(primary, task, [*overrides, subdir])
    except Exception as error:  # a point's, which Hydra raises again at the end, or Hydra's own
        exit_code = 1
        log.error("the sweep had an error: %s", error)
    if command.report_sweep is not None:
        command.report_sweep(folders)
    return exit_code


def implied_by_multirun(command: Command[Any], parsed: list[Override]) -> list[str]:
    """A sweep that is typed again goes on where it stopped, unless it is to be overwritten."""
    given = {override.get_key_element(): override for override in parsed}
    can_resume = "resume" in typing.get_type_hints(command.kind) and "resume" not in given
    overwrites = "overwrite" in given and given["overwrite"].value()
    return ["resume=auto"] if can_resume and not overwrites else []


def _parsed(hydra: Hydra, overrides: list[str]) -> list[Override]:
    """Raise `UserError` for an override that no quotes can make readable."""
    try:
        return OverridesParser.create(hydra.config_loader).parse_overrides(overrides)
    except HydraException as error:
        message = str(error).splitlines()[0]
        raise UserError(f"The command line cannot be used:\n{listing([message])}") from error


def _refuse_sweeps_in_files(hydra: Hydra, primary: str, overrides: list[str]) -> None:
    """Points are checked and named by what is swept on the command line, and by that alone.

    Raises:
        UserError: a configuration file asks for a sweep.
    """
    master = hydra.compose_config(
        primary, overrides, RunMode.MULTIRUN, with_log_configuration=False
    )
    if master.hydra.sweeper.params:
        swept = [f"{key}={value}" for key, value in master.hydra.sweeper.params.items()]
        raise UserError(
            "hydra.sweeper.params in a configuration file is not read. Type it instead:\n"
            f"  -m {' '.join(swept)}"
        )


def swept_keys(parsed: list[Override]) -> list[str]:
    return [override.get_key_element() for override in parsed if override.is_sweep_override()]


def _listed(parsed: list[Override]) -> str:
    return "[" + ",".join(swept_keys(parsed)) + "]"


def _check_points(
    command: Command[Any], hydra: Hydra, primary: str, points: list[list[str]], keys: list[str]
) -> list[Path]:
    """Compose and check every point before the first is run; return their folders.

    Raises:
        UserError: what is wrong with any of the points.
    """
    problems, folders = [], []
    for overrides in points:
        point = point_name(overrides, keys)
        try:
            composed = _compose(hydra, primary, overrides)
            config = _plain(command, composed)
            folders.append(Path(composed.hydra.sweep.dir) / point)
            command.check(config, folders[-1])
        except UserError as error:
            problems.append(f"{point}: {error}")
    twice = {folder for folder in folders if folders.count(folder) > 1}
    problems += [f"{folder}: two points would share this folder" for folder in sorted(twice)]
    if problems:
        raise UserError("The sweep cannot be started:\n" + listing(problems))
    return folders


@dataclass
class _Point:
    """The task that Hydra calls for each point; picklable, so that other launchers can take it."""

    command: Command[Any]

    def __call__(self, composed: DictConfig) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            if exit_code := self.command.run(_plain(self.command, composed), folder):
                raise UserError(f"exit code {exit_code}")
        except Exception as error:
            log.error("%s failed: %s", folder.name, error, exc_info=not_the_users(error))
            raise


def not_the_users(error: Exception) -> Exception | None:
    """The error itself when a traceback helps, else None."""
    return None if isinstance(error, UserError) else error


def point_name(overrides: Sequence[str], keys: Sequence[str]) -> str:
    """A folder's name for one point of a sweep: `adapter.rank-4_seed-1`; no quoting needed.

    Values whose letters had to be replaced carry a short hash, so that two of them never meet.
    """
    parts = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in keys:
            plain = re.sub(r"[^A-Za-z0-9.-]+", "-", value).strip("-")
            mark = "" if plain == value else "-" + hashlib.sha1(value.encode()).hexdigest()[:6]
            parts.append(re.sub(r"[^A-Za-z0-9.-]+", "-", key) + "-" + plain + mark)
    return "_".join(parts) or "point"


OmegaConf.register_new_resolver("sweep_point", point_name, replace=True)
