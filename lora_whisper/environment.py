"""What something was made with: the machine and the software, but no name of a person or a host."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from lora_whisper import __version__

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "tokenizers", "jiwer")
CHECKOUT = Path(__file__).parents[2]  # of the repository, where the package is not installed


def versions() -> dict[str, str]:
    """Of lora_whisper, Python and the libraries that could change a result."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"lora_whisper": __version__, "python": platform.python_version(), **found}


def environment() -> dict[str, Any]:
    """The machine, as far as it could explain a result or its speed."""
    import torch

    count = torch.cuda.device_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(count)],
        "cuda": torch.version.cuda,  # that torch is built for; None: for the CPU alone
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


def _commit() -> str | None:
    """Of lora_whisper's own checkout, "-dirty" where it was changed; None of an installed one."""
    if not (CHECKOUT / ".git").exists():  # a repository further up would be somebody else's
        return None
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True)
    except OSError:  # no git
        return None
    return done.stdout.strip() or None
