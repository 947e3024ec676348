"""Overrides become one configuration, and each that fits nothing is named, with what to type.

What Hydra would take for something else, or answer with a traceback, is found before it sees it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from lora_whisper import older_keys
from lora_whisper.cli.compose import COMMANDS, groups_of, options_of
from lora_whisper.cli.foreign_names import FOREIGN_OPTIONS, ours_for
from lora_whisper.config import CheckConfig, PlanConfig, TrainConfig
from lora_whisper.errors import Problems, listing
from lora_whisper.options import EXPERIMENT, unsuited
from lora_whisper.schema import group_in, hints_of, item_of

LISTS = ("augmentation", "experiment")  # groups of which several options can be typed
# Of Hydra's own keys, those that mean something here; with what stands below them.
OF_HYDRA = ("launcher", "sweeper", "run.dir", "sweep.dir", "sweep.subdir", "callbacks")
# What has to be typed before the keys of a group that is null can be.
SWITCHES = {
    "model": "model=small, or model=FOLDER for one of your own,",
    "quantization": "quantization=nf4",
}
WITH_EXPERIMENTS = (TrainConfig, PlanConfig, CheckConfig)
# What a word alone was meant for, by command.
MEANT = {
    "train": "data.train=FILE or data.path=FOLDER",
    "check": "data.train=FILE or data.path=FOLDER",
    "search": "data.train=FILE or data.path=FOLDER",
    "plan": "model=NAME",
}


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
    wrong, usable = [], []
    typed = {key: value for key, _, value in (one.partition("=") for one in overrides)}
    for override in overrides:
        problem = misfit(hydra, primary, override)
        wrong += [problem] if problem else []
        usable += [] if problem else [override]
    composed = None
    while composed is None:
        composed, error = tried(hydra, primary, usable)
        if error is not None:
            blamed = _blamed(hydra, primary, str(error), usable)
            wrong.append(_explained(error, hydra, primary, blamed, typed))
            if blamed is None:
                break
            usable.remove(blamed)
    if composed is not None:
        choices = {str(group): str(name) for group, name in composed.hydra.runtime.choices.items()}
        values = OmegaConf.to_container(composed, resolve=False)
        wrong += unsuited(choices, typing.cast(dict[str, Any], values), typed)
    if composed is not None and EXPERIMENT in composed:
        wrong.append(
            f"experiment: the keys of its file stand below “{EXPERIMENT}”, where nobody reads "
            "them. Let the file begin with the line: # @package _global_"
        )
    if wrong:
        wrong = list(dict.fromkeys(wrong))
        problems.found.append("The command line cannot be used:\n" + listing(wrong))
    return composed


def tried(
    hydra: Hydra, primary: str, overrides: Sequence[str], mode: RunMode = RunMode.RUN
) -> tuple[DictConfig | None, Exception | None]:
    """What Hydra composes, or why it does not.

    Of what is typed wrongly it answers some in ValueError, TypeError and the like: nothing of ours
    runs in here, so that whatever is raised is about what was typed.
    """
    try:
        composed = hydra.compose_config(
            primary, list(overrides), mode, with_log_configuration=False
        )
        _ = [OmegaConf.is_missing(composed.hydra, key) for key in ("run", "sweep", "sweeper")]
        return composed, None
    except Exception as error:
        return None, error


def _blamed(hydra: Hydra, primary: str, message: str, overrides: list[str]) -> str | None:
    """The override that Hydra's message is about, so that the search for others can go on."""
    quoted = re.findall(r"'([^']+)'", message.split("\n")[0])
    for override in overrides:
        key, _, value = override.partition("=")
        options = [f"{key}/{name}" for name in value.strip("[]").split(",")]
        if override in quoted or key in quoted or not set(options).isdisjoint(quoted):
            return override
    for override in overrides:  # where it names none: the one without which it is not said
        error = tried(hydra, primary, [one for one in overrides if one != override])[1]
        if error is None or str(error) != message:
            return override
    return None


def _explained(
    error: Exception, hydra: Hydra, primary: str, blamed: str | None, typed: Mapping[str, str]
) -> str:
    """Hydra's message in one line or two, with the nearest known key or option."""
    message = str(error)
    unknown = re.search(r"Could not override '([^']+)'", message)
    if isinstance(error, OverrideParseException):
        return unreadable(primary, blamed or message.splitlines()[0])
    option = re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", message)
    if option:
        return no_such_option(option[1], option[2], hydra)
    if unknown:
        inner = re.search(r"full_key: (\S+)", f"{message}\n{error.__cause__}")
        value = (blamed or "").partition("=")[2]
        key = max(unknown[1], inner[1] if inner else "", key=len)  # of one of them, a part is said
        return unknown_key(key, value, primary, typed)
    if message.startswith("Error merging override") and error.__cause__ is not None:
        why = str(error.__cause__).splitlines()[0]
        if blamed is not None and why == "Cannot merge DictConfig with ListConfig":
            key = blamed.partition("=")[0]
            return f"{blamed}: this value cannot stand there: expected a list, as in {key}=[A,B]"
        return f"{blamed or message.splitlines()[0]}: this value cannot stand there ({why})"
    if isinstance(error, MarkedYAMLError):
        return _no_yaml(error)
    message = message.split("Config search path:")[0].strip()
    if not isinstance(error, HydraException | OmegaConfBaseException):
        message = f"Hydra cannot use it ({message.splitlines()[0] if message else 'no reason'})"
    message = re.sub(r"\n\t", " ", re.sub(r"\n+(?!\t)", ". ", message))
    return message if blamed is None or blamed in message else f"{blamed}: {message}"


def _no_yaml(error: MarkedYAMLError) -> str:
    """Where a file cannot be read, and why."""
    mark, problem = error.problem_mark, error.problem or "it is no YAML"
    where = f"{mark.name}, line {mark.line + 1}" if mark else "a configuration file"
    if twice := re.fullmatch(r"found duplicate key (.+)", problem):
        return f"{where}: the key {twice[1]} stands there a second time. Leave one of them out."
    return f"{where}: this cannot be read ({problem})."


# ── before Hydra sees it ─────────────────────────────────────────────────────────────────────


def misfit(hydra: Hydra, primary: str, override: str) -> str | None:
    """What is wrong with an override that Hydra would misunderstand; None: nothing, or its to say.

    Hydra takes `~key` and `group@package`, which no configuration of ours has a use for; answers a
    group's value that is no text in a traceback; and lets its own keys be broken.
    """
    try:
        parsed = OverridesParser.create(hydra.config_loader).parse_override(override)
    except HydraException:
        return unreadable(primary, override)
    key = parsed.key_or_group
    if not key:
        typed = override.replace("='", "=").rstrip("'")  # without the quotes that are ours
        return f"{typed}: there is no key before the =. Type key=value, without spaces."
    is_added = parsed.is_add() or parsed.is_force_add()
    if is_added and not key.startswith("hydra.") and not is_below_a_switch(key):
        return unknown_key(key, _as_typed(parsed.value()), primary)
    if parsed.is_delete():
        return f"{override}: no key can be taken out. Type {key}=… for another value."
    if parsed.is_sweep_override():
        return _several(primary, key, override)
    if parsed.package is not None:
        return f"{override}: groups have one place. Type {key}={parsed.value()}"
    if key.startswith(("hydra.", "hydra/")) or key == "hydra":
        return _hydras_own(hydra, key, parsed)
    if key in groups_of(hydra):
        is_ours = key in known_keys(primary)
        given = _as_typed(parsed.value())
        return (
            _group_misfit(hydra, primary, parsed) if is_ours else unknown_key(key, given, primary)
        )
    # Hydra puts a value into a list that stands there; which it is hangs on what that holds.
    whole, _, place = key.rpartition(".")
    is_part_of_list = place.isdecimal() and whole in known_keys(primary)
    return f"{key}: a list is typed whole, as in {whole}=[A,B]" if is_part_of_list else None


def _several(primary: str, key: str, override: str) -> str:
    """Several values where one configuration is composed."""
    value = override.partition("=")[2]
    takes_list = key in LISTS or is_list(COMMANDS.get(primary, TrainConfig), key)
    together = f"{key}=[{value}] for all of them together, or " if takes_list else ""
    return (
        f"{override}: several values. Type {together}lora-whisper {primary} -m {override} "
        "to try each."
    )


def is_list(kind: type, key: str) -> bool:
    """Whether a key, by its path, takes a list; also where what it belongs to is off."""
    hint: Any = kind
    for name in key.split("."):
        group = group_in(hint)
        hint = hints_of(group).get(name) if group else None
    return item_of(hint) is not None


def unreadable(primary: str, override: str) -> str:
    """What cannot be parsed, even in quotes; most often a word without a key."""
    if not override.strip():
        return "an empty argument. Type key=value, without spaces around the =."
    if "=" in override:
        return f"{override}: this cannot be read. Type key=value, or key='[a,b]' for a list."
    meant = MEANT.get(primary, f"run={override}" if "run" in known_keys(primary) else "key=value")
    return f"{override}: settings are typed as key=value, such as {meant}"


def _hydras_own(hydra: Hydra, key: str, parsed: Override) -> str | None:
    if key == "hydra/launcher" or key == "hydra/sweeper":
        return _group_misfit(hydra, "", parsed)
    own = key.removeprefix("hydra.")
    is_used = any(own == one or own.startswith(f"{one}.") for one in OF_HYDRA)
    if not is_used:
        return f"{key}: this setting of Hydra's is not used here. Leave it out."
    if own in ("launcher", "sweeper") and not isinstance(parsed.value(), dict):
        return f"{key}={parsed.value()}: expected a key below it. Type hydra/launcher=NAME"
    return None


def _group_misfit(hydra: Hydra, primary: str, parsed: Override) -> str | None:
    """The value of a group is the name of an option, a list of them, or a dict of its keys."""
    group, value = parsed.key_or_group, parsed.value()
    if parsed.is_sweep_override() or isinstance(value, dict):
        return None
    if isinstance(value, list) and group not in LISTS:
        return (
            f"{group}={parsed.get_value_element_as_str()}: expected one option. Type "
            f"{group}={value[0] if value else '…'}, or -m {group}=A,B to try each."
        )
    names = value if isinstance(value, list) else [value]
    known = options_of(hydra, group)
    for name in names:
        if not isinstance(name, str) or (name not in known and "${" not in name):
            return no_such_option(group, _as_typed(name), hydra)
    return None


def _as_typed(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    is_word = value is None or isinstance(value, bool)
    return words[value] if is_word else str(getattr(value, "text", value))


# ── what is said of it ───────────────────────────────────────────────────────────────────────


def no_such_option(group: str, name: str, hydra: Hydra) -> str:
    """An option that a group lacks, and what was meant, as far as that can be known."""
    options = options_of(hydra, group)
    if not options:
        return f"{group}={name}: there is no such group."
    given = f"{group}={name}: there is no such option. "
    there_are = f"There are {', '.join(options)}."
    if meant := FOREIGN_OPTIONS.get(group, {}).get(name.lower()):
        return f"{given}Type {group}={meant}. {there_are}"
    if path := _path_instead(group, name):
        return f"{given}Type {path}. {there_are}"
    if len(options) == 1:
        return (
            f"{given}There is {options[0]} alone; --help {group} has its keys, to be typed singly."
        )
    bare = name.rpartition(":")[2]  # nano is also seen as embedded:nano
    near = next(iter(difflib.get_close_matches(bare, options, 1)), "")
    return given + (f"Did you mean {near}? {there_are}" if near else there_are)


def _path_instead(group: str, name: str) -> str | None:
    """Where a group was given a file, a folder or what the hub calls a model or a data set."""
    if not ("/" in name or "\\" in name or re.search(r"\.\w{2,5}$", name)):
        return None
    if group == "data":
        is_file = re.search(r"\.(jsonl?|csv|tsv|txt)$", name)
        return f"data.train={name}" if is_file else f"data.path={name} (data=hub for the hub's)"
    ways = {
        "model": f"model.checkpoint={name}",
        "adapter": f"adapter.init_from={name}",
        "experiment": "--config-dir FOLDER experiment=NAME, for FOLDER/experiment/NAME.yaml",
    }
    return ways.get(group)


def unknown_key(key: str, value: str, primary: str, beside: Mapping[str, str] | None = None) -> str:
    """A key that the command lacks: whose it is, what it is called here, or what switches it on.

    Args:
        beside: what else is typed.
    """
    known = known_keys(primary)
    if key in known:
        return _switched_off(key, known)
    if answer := older_keys.answer(key, value or "…", beside):
        return f"{key}: {answer}"
    given = f"{key}: there is no such key or group."
    near = _nearest(key, known)
    if owners := _owners(key, primary):
        if near and near.endswith(f".{key}"):  # such as language, which others have outside of data
            return f"{given} Did you mean {near}?"
        return f"{key}: lora-whisper {primary} has no such key. {_has(owners)} it."
    if near and _is_a_typo(key, near):
        return f"{given} Did you mean {near}?"
    if ours := ours_for(key):
        wanted = ours.typed.partition("=")[0]
        if wanted in known or not wanted:
            return f"{given} {ours.advice(value or '…')}"
        if owners := _owners(wanted, primary):
            return f"{given} It is called {wanted} here; {_has(owners)} it."
    return given + (f" Did you mean {near}?" if near else "")


def _switched_off(key: str, known: Sequence[str]) -> str:
    """A key below one that is null as things are, or a group of keys that has no options."""
    if is_below_a_switch(key):
        parent = key.rpartition(".")[0]
        switch = SWITCHES.get(parent, f"augmentation={parent.split('.')[-1]}")
        return f"{key}: {parent} is off. Type {switch} as well."
    below = next((one for one in known if one.startswith(f"{key}.")), None)
    return f"{key}: this is no choice of options." + (f" Type {below}=…" if below else "")


def is_below_a_switch(key: str) -> bool:
    """Whether what the key belongs to may be null, so that the key is not always there."""
    parent = key.rpartition(".")[0]
    return parent in SWITCHES or parent.startswith("augmentation.")


def _has(owners: Sequence[str]) -> str:
    *others, last = owners
    return f"{', '.join(others)} and {last} have" if others else f"{last} has"


def _owners(key: str, primary: str) -> list[str]:
    """The other commands that have the key."""
    return [name for name in COMMANDS if name != primary and key in known_keys(name)]


@functools.cache
def known_keys(primary: str) -> tuple[str, ...]:
    """Every key and group of a command, the shallow ones first."""
    kind = COMMANDS.get(primary, TrainConfig)
    keys = list(_keys(kind, ""))
    keys += ["experiment"] if issubclass(kind, WITH_EXPERIMENTS) else []
    return tuple(sorted(keys, key=lambda key: key.count(".")))


def _keys(kind: type, prefix: str) -> Iterator[str]:
    for name, hint in typing.get_type_hints(kind).items():
        yield f"{prefix}{name}"
        candidates = (hint, *typing.get_args(hint)) if typing.get_origin(hint) is not tuple else ()
        yield from (
            key
            for one in candidates
            if dataclasses.is_dataclass(one)
            for key in _keys(typing.cast(type, one), f"{prefix}{name}.")
        )


def _nearest(key: str, known: Sequence[str]) -> str:
    """The known name most like `key`, first by its whole path, then by its last name."""
    whole = difflib.get_close_matches(key, known, 3, 0.75)
    typos = [near for near in whole if _is_a_typo(key, near)]
    last = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    loose = difflib.get_close_matches(key, known, 1, 0.5)
    return next(iter([*typos, *last, *loose]), "")


def _is_a_typo(key: str, near: str) -> bool:
    """Whether each part of a path is nearly what stands there: training is not evaluation."""
    parts, theirs = key.split("."), near.split(".")
    return len(parts) == len(theirs) and all(
        known.startswith(typed) or difflib.SequenceMatcher(None, typed, known).ratio() >= 0.7
        for typed, known in zip(parts, theirs, strict=True)
    )
