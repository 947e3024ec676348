"""`lora-whisper doctor`: what this machine has, what that allows, and what to type for the rest.

    lora-whisper doctor
    lora-whisper doctor --json

Everything is tried and not only looked up: a package that is installed may still not load.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lora_whisper.environment import CHECKOUT
from lora_whisper.paths import cache_folder
from lora_whisper.reports.tables import PLAIN, Cell, Column, Table
from lora_whisper.terminal import (
    console,
    gigabytes,
    log_to_console,
    print_result,
    quiet_libraries,
    require_delivered,
)

Verdict = Literal["good", "missing", "broken"]  # missing: something can be done without it

PIP = "pip install"
GPU_BUILD = f"{PIP} torch --index-url https://download.pytorch.org/whl/cu128"
HUB_SECONDS = 3  # to wait for an answer
ROOM_BYTES = 5_000_000_000  # for a run of large-v3 and its checkpoint from the hub
EXTRAS = {  # of the package, and a module that each brings
    "augmentation": "audiomentations",
    "text": "num2words",
    "ctranslate2": "faster_whisper",
    "ggml": "pywhispercpp",
    "onnx": "onnxruntime",
    "openai": "whisper",
    "vad": "silero_vad",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "demo": "gradio",
    "search": "optuna",
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit": "hydra_plugins.hydra_submitit_launcher",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    found: str
    type: str | None = None  # what mends it


def findings() -> Iterator[Finding]:
    """Everything, in the order in which it is printed."""
    looks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("torch", _torch),
        ("memory", _memory),
        ("disk", _disk),
        ("bitsandbytes", _bitsandbytes),
        ("attention", _attention),
        ("audio", _audio),
        ("extras", _extras),
        ("hub", _hub),
        ("versions", _versions),
    )
    for name, look in looks:
        try:
            yield from look()
        except Exception as error:  # whatever a broken library raises; the others are still tried
            first = (str(error).splitlines() or [""])[0]
            yield Finding(name, "broken", f"{type(error).__name__}: {first}", _mend(name))


def _mend(name: str) -> str:
    packages = {"audio": "soundfile av soxr", "memory": "psutil", "attention": "torch"}
    return f"{PIP} --force-reinstall {packages.get(name, 'lora-whisper')}"


# ── what is looked at ────────────────────────────────────────────────────────────────────────


def _torch() -> Iterator[Finding]:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    has_driver = Path("/proc/driver/nvidia/version").exists()
    is_useless = has_driver and not torch.cuda.is_available()
    found = f"{torch.__version__}, {build}"
    if is_useless:
        yield Finding("torch", "missing", f"{found}; it does not see this GPU", GPU_BUILD)
    else:
        yield Finding("torch", "good", found)
    for number in range(torch.cuda.device_count()):
        yield Finding("gpu", "good", _gpu(number))
    if not torch.cuda.is_available() and not has_driver:
        yield Finding("gpu", "missing", "none: the small checkpoints train on the CPU")


def _gpu(number: int) -> str:
    import torch

    free, total = torch.cuda.mem_get_info(number)
    with torch.cuda.device(number):
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return (
        f"{torch.cuda.get_device_name(number)}, {gigabytes(total)} of which {gigabytes(free)} are "
        f"free, {'bf16' if has_bf16 else 'fp16, no bf16'}"
    )


def _memory() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{gigabytes(memory.total)} of which {gigabytes(memory.available)} are free"
    yield Finding("memory", "good", f"{found}, {os.cpu_count()} cores")


def _disk() -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    places = {"outputs": Path("outputs"), "hub's cache": Path(HF_HUB_CACHE)}
    for name, path in (places | {"cache": cache_folder("")}).items():
        above = path.absolute()
        there = next(one for one in (above, *above.parents) if one.exists())
        free = shutil.disk_usage(there).free
        is_enough = free >= ROOM_BYTES
        found = f"{gigabytes(free)} free for the {name}"
        yield Finding(
            "disk",
            "good" if is_enough else "missing",
            found,
            None if is_enough else f"a run of large-v3 takes {gigabytes(ROOM_BYTES)}: free some",
        )


def _bitsandbytes() -> Iterator[Finding]:
    """Quantize a small matrix, and read it back, on every kind of device."""
    import bitsandbytes
    import torch

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        weight = torch.linspace(-1, 1, 64 * 64, device=device).reshape(64, 64)
        codes, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4")
        error = (bitsandbytes.functional.dequantize_4bit(codes, state) - weight).abs().max().item()
        if error > 0.2:
            yield Finding("bitsandbytes", "broken", f"reads nf4 wrongly on {device}", _mend(""))
            return
    version = importlib.metadata.version("bitsandbytes")
    yield Finding("bitsandbytes", "good", f"{version}, nf4 works on {' and '.join(devices)}")


def _attention() -> Iterator[Finding]:
    import torch

    from lora_whisper.errors import UserError
    from lora_whisper.model.device import choose_attention

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        choose_attention("flash", torch.bfloat16, device)
    except UserError as error:
        reason = str(error).splitlines()[1].strip(" -")
        command = next((part for part in reason.split(": ") if part.startswith(PIP)), None)
        found = "PyTorch's own; FlashAttention: " + reason.split(": pip")[0]
        yield Finding("attention", "missing" if device.type == "cuda" else "good", found, command)
    else:
        yield Finding("attention", "good", "FlashAttention 2")


def _audio() -> Iterator[Finding]:
    """Write and read a second of sound, open FFmpeg's decoders, and resample."""
    import av
    import numpy as np
    import soundfile
    import soxr

    written, silence = io.BytesIO(), np.zeros(44_100, dtype=np.float32)
    soundfile.write(written, silence, 44_100, format="FLAC")
    sound, rate = soundfile.read(io.BytesIO(written.getvalue()), dtype="float32")
    assert len(soxr.resample(sound, rate, 16_000)) == 16_000
    formats = soundfile.available_formats()
    common = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name in formats]
    found = f"libsndfile {soundfile.__libsndfile_version__}: {listed(common)}"
    yield Finding("audio", "good", found)
    decoders = [name for name in ("mp3", "aac", "opus", "vorbis") if name in av.codecs_available]
    version = importlib.metadata.version("av")
    yield Finding("audio", "good", f"FFmpeg, by PyAV {version}: {listed(decoders)} and video")


def listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _extras() -> Iterator[Finding]:
    there = [name for name, module in EXTRAS.items() if _is_installed(module)]
    if there:
        yield Finding("extras", "good", listed(there))
    if absent := [name for name in EXTRAS if name not in there]:
        command = f"{PIP} 'lora-whisper[{','.join(absent)}]', or those that you need"
        yield Finding("extras", "missing", listed(absent), command)


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it lies in
        return False


def _hub() -> Iterator[Finding]:
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.constants import HF_HUB_OFFLINE

    token = "a token is there" if get_token() else "no token"
    if HF_HUB_OFFLINE:
        yield Finding("hub", "missing", f"HF_HUB_OFFLINE is set; {token}", "unset HF_HUB_OFFLINE")
        return
    try:
        get_hf_file_metadata(hf_hub_url("openai/whisper-tiny", "config.json"), timeout=HUB_SECONDS)
    except Exception as error:  # every way in which a request can fail
        found = f"not reached ({type(error).__name__}); {token}"
        yield Finding("hub", "missing", found, "model=nano, which is in the package, or a folder")
    else:
        login = None if get_token() else "hf auth login, for private and gated repositories"
        yield Finding("hub", "good", f"reached; {token}", login)


def _versions() -> Iterator[Finding]:
    """Packages outside of the ranges that the code is written for, and of the tested versions."""
    from packaging.requirements import Requirement

    wrong, required = [], importlib.metadata.requires("lora-whisper") or []
    for one in map(Requirement, required):
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            version = _version(one.name)
            if version is None or not one.specifier.contains(version, prereleases=True):
                wrong.append(f"'{one.name}{one.specifier}'")
    if wrong:
        yield Finding("versions", "broken", "outside of their ranges", f"{PIP} {' '.join(wrong)}")
        return
    untested = [
        f"{name} {found} ({pin})"
        for name, pin in _pins()
        if (found := _version(name)) and found.split("+")[0] != pin  # +cpu is the same
    ]
    found = f"in range; tested with others: {listed(untested)}" if untested else "in range"
    yield Finding("versions", "good", found)


def _pins() -> list[tuple[str, str]]:
    """What a release is tested with; a checkout knows."""
    path = CHECKOUT / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return [(name, version) for name, version in pairs]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


# ── what it allows ───────────────────────────────────────────────────────────────────────────

TRIED = (("large-v3", "none"), ("large-v3", "nf4"), ("large-v3-turbo", "none"), ("small", "none"))


def allowances() -> list[str]:
    """What can be trained here: by the plan for the first GPU, else what suits a CPU."""
    import torch

    if not torch.cuda.is_available():
        return [
            "on this CPU: model=nano, and slowly model=tiny and model=base; to begin with, type "
            "lora-whisper train experiment=quickstart",
            "for a GPU elsewhere: lora-whisper plan gpu_memory=8GB",
        ]
    total = torch.cuda.get_device_properties(0).total_memory
    lines = [_allowance(model, quantization, total) for model, quantization in TRIED]
    return [*lines, "for all checkpoints: lora-whisper plan"]


def _allowance(model: str, quantization: str, memory: int) -> str:
    from lora_whisper.training.gpu_plan import largest_for

    windows, checkpointing = largest_for(model, quantization, memory)
    typed = f"model={model} quantization={quantization}"
    if not windows:
        return f"does not fit: {typed}"
    how = " with training.gradient_checkpointing=true" if checkpointing else ""
    return f"fits: {typed}, micro-batches up to {windows} windows{how}"


# ── showing ──────────────────────────────────────────────────────────────────────────────────

STYLES = {"good": "green", "missing": "yellow", "broken": "red"}


def show(found: Sequence[Finding], allowed: Sequence[str]) -> None:
    """Print what was found in 80 columns, and what it allows."""
    whole = {"no_wrap": True}
    table = Table(
        [
            Column("part", is_text=True, layout=whole),
            Column(is_text=True, layout=whole),
            Column("found; what to type", is_text=True, layout={"ratio": 1}),
        ],
        layout=PLAIN,
    )
    for one in found:
        text = one.found if one.type is None else f"{one.found}\n→ {one.type}"
        table.add(one.name, Cell(one.verdict, style=STYLES[one.verdict]), text)
    console.print(table.terminal())
    for line in allowed:
        console.print(line, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at the machine; 0, or 1 where something is broken that every command needs."""
    parser = argparse.ArgumentParser(
        prog="lora-whisper doctor",
        description="Tell what this machine can do, and what to type for what is missing.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    log_to_console()
    quiet_libraries()
    found = list(findings())
    is_broken = any(one.verdict == "broken" for one in found)
    allowed = [] if is_broken else allowances()
    if given.json:
        answer = {"findings": [asdict(one) for one in found], "allows": allowed}
        print_result(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        show(found, allowed)
        require_delivered(is_the_result=True)
    return 1 if is_broken else 0


if __name__ == "__main__":
    sys.exit(main())
