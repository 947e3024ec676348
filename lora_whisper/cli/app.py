"""Hydra at the door: compose, validate, and only then run, once or once for each point of a sweep.

`hydra.main` exits with 1 on a typo and makes the run's folder before the task has seen its
configuration, so single runs are composed and called here, and sweeps in `cli.sweep`; `--help`,
`--cfg` and `--info` go through Hydra's own machinery.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import textwrap
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lora_whisper import processes
from lora_whisper.cli.command import AnyCommand
from lora_whisper.cli.compose import hydra_over, plain_config, unresolved
from lora_whisper.cli.help import help_of, is_ignored
from lora_whisper.cli.misfits import compose
from lora_whisper.cli.overrides import as_meant, parsed_flags, readable_overrides
from lora_whisper.cli.sweep import run_sweep
from lora_whisper.errors import UserError
from lora_whisper.files import DiskFull, is_disk_full, no_room
from lora_whisper.paths import program, require_current_folder
from lora_whisper.run_folder import require_own_place
from lora_whisper.terminal import guarded, log_to_console, print_error, quiet_libraries
from lora_whisper.training.stopping import ended_by_signals, out_of_memory_explained

if TYPE_CHECKING:
    from torch.distributed import Store


log = logging.getLogger("lora_whisper")

FAILURES, EXIT_CODE = "lora_whisper/failures", "lora_whisper/exit_code"
LAUNCHER_SECONDS = 10  # that a launcher is given to end the other processes
HYDRAS_FOLDER = "outputs/${now:%Y-%m-%d}/${now:%H-%M-%S}"  # where a configuration names none
# Of Gloo and NCCL, where the process at the other end is gone.
CONNECTION_LOST = r"(?i)connection (reset|closed|refused)|remote process exited|NCCL|broken pipe"
# What a disk answers that its owner can mend; the file that it speaks of is named.
OF_THE_DISK = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)


@dataclass
class Ending:
    """How a command ended."""

    exit_code: int = 0


def run_command(command: AnyCommand, arguments: Sequence[str]) -> int:
    """Carry out a command line; return its exit code.

    0: done; 1: a failure of ours; 2: the user's to mend; 129, 130, 143: stopped by SIGHUP, SIGINT,
    SIGTERM.
    """
    with guarded(), ended_by_signals(), explained() as ending:
        log_to_console()
        quiet_libraries()
        # Before torch is imported: OpenMP's threads are to sleep while they wait for each other.
        # On two cores that other programs use too, spinning took 30 s for a step of nano, sleeping
        # 2.2 s.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        flags = parsed_flags(command.as_keys(arguments), command.name)
        require_current_folder()
        with hydra_over(command.name, flags.config_dir) as hydra:
            overrides: list[str] = []
            if not flags.hydra_help:
                meant = [
                    key for typed in flags.overrides for key in as_meant(command, hydra, typed)
                ]
                overrides = readable_overrides(meant, sweeps=flags.multirun)
            primary = flags.config_name or command.name
            if flags.hydra_help or flags.help or flags.info or flags.cfg:
                _answer(command, hydra, primary, flags, overrides)
            elif flags.multirun:
                meet(command.name, is_shared=False)
                ending.exit_code = run_sweep(command, hydra, primary, overrides)
            else:
                config, folder = _configure(command, hydra, primary, overrides)
                meet(command.name, command.is_shared)
                with out_of_memory_explained(config):
                    ending.exit_code = command.run(command.prepare(config, folder)) or 0
        leave()
    return ending.exit_code


@contextmanager
def explained() -> Iterator[Ending]:
    """Say how a command ended where it did not end well."""
    ending = Ending()
    try:
        yield ending
    except UserError as error:
        ending.exit_code = _end(2, f"error: {error}" + _advice(error))
    except KeyboardInterrupt as stop:
        code = getattr(stop, "exit_code", 130)
        ending.exit_code = _end(code, f"stopped: {str(stop) or 'by Ctrl-C'}")
    except Exception as error:
        if is_disk_full(error):
            refusal = no_room(error)
            ending.exit_code = _end(2, f"error: {refusal}" + _advice(refusal))
        elif answer := _of_the_disk(error):
            ending.exit_code = _end(2, answer)
        elif processes.count() == 1:
            raise
        else:
            ending.exit_code = _end(1, _of_another_process(error) or traceback.format_exc())


def _end(exit_code: int, message: str) -> int:
    return end(exit_code, lambda: print_error(message))


def _advice(error: UserError) -> str:
    return f"\n{error.advice}, and type it again." if isinstance(error, DiskFull) else ""


def _of_the_disk(error: Exception) -> str | None:
    """The message for a file or a folder that may not be written or read as things are."""
    if not (isinstance(error, OSError) and error.errno in OF_THE_DISK and error.filename):
        return None
    if error.errno == errno.ENAMETOOLONG:
        return f"error: {error.filename}: {error.strerror}.\nType a shorter name."
    return (
        f"error: {error.filename}: {error.strerror}.\nWhat is written goes below the folder that "
        "the command is typed in: type it in one that you may write to, or mend what is named here."
    )


def _of_another_process(error: Exception) -> str | None:
    """The message where another process of this command has ended, and this one waited for it."""
    reason = " ".join(str(error).split())
    if not isinstance(error, RuntimeError) or not re.search(CONNECTION_LOST, reason):
        return None
    return (
        f"error: another process of this command has ended ({textwrap.shorten(reason, 100)}).\n"
        "It says why itself, unless it was killed, as it is where memory runs out. Type the same "
        "command again; a training goes on with resume=auto."
    )


def _answer(
    command: AnyCommand, hydra: Hydra, primary: str, flags: Namespace, overrides: list[str]
) -> None:
    """What is asked about a command, and not of it."""
    if flags.hydra_help:
        hydra.hydra_help(config_name=primary, args_parser=get_args_parser(), args=flags)
    elif flags.cfg and not (flags.help or flags.info):
        _show_configuration(hydra, primary, flags, overrides)
    else:
        compose(hydra, primary, overrides)
        if flags.help:
            print(help_of(command.kind, hydra, primary, overrides, flags.topics))
        else:
            hydra.show_info(flags.info, config_name=primary, overrides=overrides)


def _show_configuration(hydra: Hydra, primary: str, flags: Namespace, overrides: list[str]) -> None:
    composed = compose(hydra, primary, overrides)
    if flags.package and OmegaConf.select(composed, flags.package) is None:
        raise UserError(f"--package {flags.package}: there is no such group of keys.")
    try:
        hydra.show_cfg(primary, overrides, flags.cfg, flags.package, flags.resolve)
    except OmegaConfBaseException as error:
        raise unresolved(error) from error


def _configure(
    command: AnyCommand, hydra: Hydra, primary: str, overrides: list[str]
) -> tuple[Any, Path]:
    """Compose and validate one configuration; return it with the folder it asks for."""
    composed = compose(hydra, primary, overrides)
    params = composed.hydra.sweeper.get("params") or {}
    if params := [key for key in params if not is_ignored(command.kind, str(key))]:
        raise UserError(
            f"The experiment is a sweep over {', '.join(params)}.\n"
            f"Type {program()} {command.name} -m {' '.join(overrides)}"
        )
    config = plain_config(command, composed)
    try:
        # Where a file of one's own does not say so, Hydra has a folder by date and time.
        asked = OmegaConf.to_container(composed.hydra.run, resolve=False)
        by_date = asked == {"dir": HYDRAS_FOLDER} and hasattr(config, "name")
        folder = Path("outputs", config.name) if by_date else Path(composed.hydra.run.dir)
    except OmegaConfBaseException as error:
        raise unresolved(error) from error
    require_own_place(folder)
    return config, folder


def meet(command: str, is_shared: bool) -> None:
    """Meet the other processes of this command, if it was launched as several.

    Args:
        is_shared: whether several processes can carry it out together; a sweep they cannot.

    Raises:
        UserError: the command is not made for it, or the environment lacks what it takes.
    """
    processes.check_environment()
    if processes.count() == 1:
        if processes.is_one_of_several_asked_for():
            log.warning(
                "one process: accelerate launch starts no more without MPI or --multi_gpu; "
                "torchrun --nproc-per-node=N -m lora_whisper … does, on CPUs too"
            )
        return
    if not is_shared:
        raise UserError(
            f"A launcher started {processes.count()} processes, but one carries this out.\n"
            f"Type {program()} {command} … without the launcher."
        )
    from lora_whisper.model.device import join_processes

    join_processes()


def leave() -> None:
    """Part from the other processes, when all is done."""
    if _store() is not None:
        from torch import distributed

        distributed.destroy_process_group()


def end(exit_code: int, say_why: Callable[[], object]) -> int:
    """Say why this process ends, if it is the first one; return the exit code of all.

    A launcher ends all processes when one has ended. So who speaks does it before the others end.
    """
    store = _store()
    if store is None:
        if processes.is_main():
            say_why()
        else:  # what ends it now, such as a mistyped key, ends the main process too
            time.sleep(LAUNCHER_SECONDS)
        return exit_code
    try:
        if store.add(FAILURES, 1) == 1:
            say_why()
            store.set(EXIT_CODE, str(exit_code))
            return exit_code
        return int(store.get(EXIT_CODE))
    except RuntimeError:  # the store was the main process's, which is gone
        return exit_code


def _store() -> Store | None:
    """Where the processes have met; None before, and where there is one process."""
    if processes.count() == 1:
        return None
    from torch import distributed

    if not distributed.is_initialized():
        return None
    return distributed.distributed_c10d._get_default_store()
