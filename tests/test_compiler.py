"""The compiler is imported by whom it is called, and compiles the same."""

from __future__ import annotations

import subprocess
import sys

import torch

from lora_whisper.compiler import compiling_later


def test_peft_and_bitsandbytes_leave_the_compiler_alone() -> None:
    code = (
        "import lora_whisper.model, sys, torch; compile = torch.compile; import peft, bitsandbytes;"
        "assert torch.compile is compile;"
        "print('torch._inductor.compile_fx' in sys.modules, 'bitsandbytes' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_what_was_put_off_is_compiled_when_it_is_called() -> None:
    compiled = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        compiled.append(graph)
        return graph.forward

    with compiling_later():

        @torch.compile(backend=backend)
        def doubled(x: torch.Tensor) -> torch.Tensor:
            """Twice as much."""
            return x * 2

    assert not compiled
    assert doubled.__doc__ == "Twice as much."
    assert doubled(torch.ones(2)).tolist() == [2.0, 2.0]
    assert len(compiled) == 1
