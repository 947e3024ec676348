"""What a command is: from its configuration to a plan, and from the plan to its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

Config = TypeVar("Config")
Plan = TypeVar("Plan")


@dataclass(frozen=True)
class Command(Generic[Config, Plan]):
    """What one file of `cli/` offers to the command line."""

    name: str  # also the name of its primary configuration, conf/NAME.yaml
    kind: type[Config]
    # Finds everything that can refuse, and raises UserError; reads, and writes nothing. The folder
    # is outputs/NAME, for the commands that have a name.
    prepare: Callable[..., Plan]
    run: Callable[[Plan], int | None]  # returns the exit code, None: 0
    report_sweep: Callable[[list[Path]], None] | None = None
    # whether a sweep that is typed again has nothing to do at this point
    is_finished: Callable[[Plan], bool] | None = None
    # what a point writes to, of which two are not to write to the same; None: its folder
    place: Callable[[Plan], Path] | None = None
    is_shared: bool = False  # whether several processes can carry it out together
    # Whether `prepare` takes a third argument: a plan of another point, from which it has what both
    # read, such as speech.
    shares_inputs: bool = False
    # Keys by another name that is typed for them, such as one that Hydra takes for a group.
    aliases: Mapping[str, str] = field(default_factory=dict)
    # What is typed, as keys: `report FOLDER` means sweep=FOLDER.
    as_keys: Callable[[Sequence[str]], list[str]] = list

    def prepared(self, config: Config, folder: Path, earlier: Plan | None) -> Plan:
        """The plan of one point of a sweep, after that of an `earlier` one."""
        if self.shares_inputs:
            return self.prepare(config, folder, earlier)
        return self.prepare(config, folder)


AnyCommand = Command[Any, Any]
