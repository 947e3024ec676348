"""PyTorch's compiler, which nothing here asks for: half of it is imported when it is called.

bitsandbytes hands it some functions while it is imported, and PEFT imports bitsandbytes whatever a
base is stored in: a second of each command's start, of the 4.9 that PyTorch and PEFT take. (The
other half, Transformers imports.) What bitsandbytes has compiled is so from its first call on.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

COMPILES_AT_ONCE = "bitsandbytes.backends.default.ops"


class _Watch(MetaPathFinder):
    """Finds one module as it is found anyway, and lets it compile later."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != COMPILES_AT_ONCE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with compiling_later():
                    execute(module)

            loader.exec_module = exec_module
        return spec


def put_off() -> None:
    """Once for a process, before bitsandbytes is imported."""
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


@contextmanager
def compiling_later() -> Iterator[None]:
    """What `torch.compile` is given meanwhile is compiled when it is called."""
    torch: Any = sys.modules["torch"]  # which is imported by who is watched
    compile_now = torch.compile

    def compile_later(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        if function is None:
            return functools.partial(compile_later, **options)
        compiled = functools.cache(lambda: compile_now(function, **options))
        return functools.wraps(function)(lambda *given, **named: compiled()(*given, **named))

    torch.compile = compile_later
    try:
        yield
    finally:
        torch.compile = compile_now
