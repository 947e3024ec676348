"""A command that a launcher started several times: its processes meet, and they end together.

Where the main process decides, all learn what it found (`processes.from_main`). But something may
also go wrong in one process alone, such as a file that cannot be read: the others then wait for
it in vain, until the connection breaks or the launcher ends them. The first one to fail says so
and leaves its exit code in the store through which the processes have met; what fails after it
fails because of it, and adds nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lora_whisper import processes
from lora_whisper.errors import UserError
from lora_whisper.program import program

if TYPE_CHECKING:
    from torch.distributed import Store

log = logging.getLogger("lora_whisper")

FAILURES, EXIT_CODE = "lora_whisper/failures", "lora_whisper/exit_code"
LAUNCHER_SECONDS = 10  # that a launcher is given to end the other processes


def meet(command: str, is_shared: bool) -> None:
    """Meet the other processes of this command, if it was launched as several.

    Args:
        is_shared: whether several processes can carry it out together; a sweep they cannot.

    Raises:
        UserError: the command is not made for it, or the environment lacks what it takes.
    """
    processes.check_environment()
    if processes.count() == 1:
        if processes.asked_accelerate_for_cpus():
            log.warning(
                "one process: accelerate launch --cpu starts no more without MPI; torchrun "
                "--nproc-per-node=N -m lora_whisper … does"
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
