"""The processes of one run: `accelerate launch` and `torchrun` start a command several times.

They say in the environment which of how many a process is. Process 0, the main one, decides, writes
and prints; the others compute their part. Where there is one process, nothing here does anything
but pass values on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

from lora_whisper.errors import UserError

Value = TypeVar("Value")
LAUNCHER_SAYS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SHARDERS = {  # what `accelerate config` may have set up for other projects
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def count() -> int:
    """How many processes carry out this command together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this one is, counted from 0."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def count_here() -> int:
    """How many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if count() > 1 else 1


def is_main() -> bool:
    return rank() == 0


def is_one_of_several_asked_for() -> bool:
    """Whether this is the one process of `accelerate launch --num_processes 2` or more.

    Without GPUs, or --multi_gpu, accelerate names an address to meet at, and leaves starting the
    others to MPI.
    """
    environment = os.environ
    by_accelerate = "ACCELERATE_USE_CPU" in environment
    return by_accelerate and "MASTER_ADDR" in environment and "WORLD_SIZE" not in environment


def check_environment() -> None:
    """See that processes can find each other, and that each has the whole model.

    Raises:
        UserError: a part of what a launcher says is missing, and waiting would be in vain; or
            accelerate is configured for what shards models.
    """
    for key, name in SHARDERS.items():
        if os.environ.get(key, "").lower() in ("true", "1"):
            raise UserError(
                f"accelerate's configuration asks for {name}, but here every GPU holds the whole "
                "model: only the adapter is trained, and it is small.\n"
                "Type accelerate launch --multi_gpu …, or torchrun --nproc-per-node N …"
            )
    missing = [name for name in LAUNCHER_SAYS if name not in os.environ]
    if count() > 1 and missing:
        raise UserError(
            f"WORLD_SIZE={count()} stands in the environment, but not {', '.join(missing)}, which "
            "a launcher sets too.\nType torchrun --nproc-per-node N -m lora_whisper …, or "
            "unset WORLD_SIZE for a single process."
        )


def share(value: Value) -> Value:
    """The main process's `value`, which can be pickled; all processes wait for it here."""
    if count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    (shared,) = broadcast_object_list([value if is_main() else None])
    return shared  # type: ignore[no-any-return]


def gather(values: Sequence[Value]) -> list[Value]:
    """The values of all processes, process 0's first; they can be pickled."""
    if count() == 1:
        return list(values)
    from accelerate.utils import gather_object

    return gather_object(list(values))  # type: ignore[no-any-return]


def from_main(function: Callable[[], Value]) -> Value:
    """Call `function` in the main process; all processes return what it returned there.

    Raises:
        UserError: in all processes, if it raised one.
    """
    value: Value | None = None
    failure: UserError | None = None
    if is_main():
        try:
            value = function()
        except UserError as error:
            failure = error
    value, failure = share((value, failure))
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value]


@contextmanager
def entered_by_main(context: AbstractContextManager[Any]) -> Iterator[None]:
    """Be in `context` in the main process alone; if that cannot enter it, all processes fail."""
    with ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(context)

        from_main(enter)
        yield
