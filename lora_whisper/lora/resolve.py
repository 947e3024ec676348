"""What `adapter=…` and `run=…` stand for; and of something else, what it is and how it is typed."""

from __future__ import annotations

import itertools
import shlex
import shutil
from pathlib import Path
from typing import Literal

from lora_whisper.errors import UserError
from lora_whisper.files import written_whole
from lora_whisper.lora.provenance import require_trained_adapter
from lora_whisper.lora.saved import CONFIG_FILE, WEIGHTS_FILE
from lora_whisper.model.base_files import CONFIG
from lora_whisper.model.checkpoint import is_hub_id, sha256
from lora_whisper.model.weights import allowing, read_pickled, require_allowed
from lora_whisper.paths import cache_folder, local_path, plain_name, program
from lora_whisper.run_folder import METADATA_FILE, RECIPE_FILE, RunFolder, existing_run, run_around

Asking = Literal["merge", "evaluate", "export", "push", "transcribe"]

PICKLED = "adapter_model.bin"  # what PEFT wrote before it took safetensors
ADAPTER, MERGED, MODEL = "an adapter", "a merged model without its run", "a whole model"


def resolve_run(given: str, command: Asking) -> RunFolder:
    """The complete run that was typed as run=….

    Raises:
        UserError: see `existing_run`; says what to type for something else that lies there.
    """
    path = local_path(given)
    if RunFolder(path).is_run() or not path.is_dir():
        return existing_run(given)
    if (run := run_around(given)) is not None:
        raise UserError(f"run={given}: this folder lies in a run. Type {shlex.quote(f'run={run}')}")
    if (path / CONFIG_FILE).is_file():
        what = ADAPTER
    elif any((folder / RECIPE_FILE).is_file() for folder in (path, RunFolder(path).merged)):
        what = MERGED
    elif (path / CONFIG).is_file():
        what = MODEL
    else:
        return existing_run(given)
    raise UserError(
        f"run={given}: {what}, and no run.\n{_other_command(what, Path(given), command)}"
    )


def _other_command(what: str, folder: Path, command: Asking) -> str:
    inner = RunFolder(folder).merged
    model = inner if what == MERGED and inner.is_dir() else folder
    if command == "evaluate":
        return f"Type {shlex.quote(f'models=[{model}]')} data.test=…"
    if command == "transcribe":
        key = "adapter" if what == ADAPTER else "model"
        return f"Type {shlex.quote(f'{key}={model}')}"
    if command == "push":
        return f"push takes runs alone. Type hf upload OWNER/NAME {shlex.quote(str(model))}"
    if command == "merge":
        if what == MERGED:
            return "It is merged already."
        return (
            f"Type {shlex.quote(f'adapter={folder}')}"
            if what == ADAPTER
            else (f"Type adapter=… {shlex.quote(f'base={folder}')}")
        )
    if what == MERGED and model == RunFolder(model.parent).merged:
        return f"Type {shlex.quote(f'run={model.parent}')}"
    if what == ADAPTER:
        place = Path("outputs") / plain_name(local_path(str(folder)).name)
        merge = f"{program()} merge {shlex.quote(f'adapter={folder}')}"
        return f"Type {merge}, and then {shlex.quote(f'run={place}')}"
    return "export takes a run, or the folder that merge adapter=… has written."


def resolve_adapter(given: str, key: str, allow_pickle: bool = False) -> Path:
    """The folder of the adapter that `given` stands for: a run, an adapter's folder, or a hub id.

    What lies on the hub is downloaded at first use, no more than the adapter's own files.

    Args:
        key: that it was typed for, such as "adapter".
        allow_pickle: read weights that can run code.

    Raises:
        UserError: no adapter is there, the run is unfinished, or another adapter lies in it; or
            its weights are pickled.
    """
    path = local_path(given)
    run = RunFolder(path)
    if run.is_run() and not run.is_complete():
        raise UserError(
            f"{key}={given}: this run is unfinished (it holds no summary.json).\n"
            "Finish it with the command that began it and resume=auto."
        )
    if run.is_run():  # its adapter's folder, given as such, holds whatever lies there
        require_trained_adapter(run)
    for folder in (path, run.adapter):
        if (folder / CONFIG_FILE).is_file():
            return _safe(folder, given, key, allow_pickle)
    if path.exists() or not is_hub_id(given):
        found = "holds no adapter" if path.exists() else "there is no such folder"
        if (around := run_around(given)) is not None:
            advice = f"It lies in a run: type {shlex.quote(f'{key}={around}')}"
        elif below := adapters_below(path):
            typed = [f"{key}={Path(given) / folder.relative_to(path)}" for folder in below]
            advice = f"Below it lies an adapter: type {' or '.join(typed)}"
        else:
            advice = (
                f"Type the folder of a complete run, one with {CONFIG_FILE} in it, or a hub id."
            )
        raise UserError(f"{key}={given}: {found}.\n{advice}")
    return _safe(_downloaded(given, key, allow_pickle), given, key, allow_pickle)


def adapters_below(path: Path) -> list[Path]:
    """Folders with an adapter one or two below, as trainers leave them; the last three."""
    found = [
        file.parent
        for pattern in (f"*/{CONFIG_FILE}", f"*/*/{CONFIG_FILE}")
        for file in itertools.islice(path.glob(pattern), 1000)
    ]
    return sorted(found, key=lambda folder: (len(folder.name), folder))[-3:]


def name_of(given: str) -> str:
    """The name of a run, or of an adapter's own folder, without where it lies; or a hub id."""
    path = local_path(given)
    if is_hub_id(given) and not path.exists():
        return given
    return path.parent.name if path.name == RunFolder(path.parent).adapter.name else path.name


def is_adapter_on_hub(given: str) -> bool:
    """Whether the hub, or its cache, has an adapter of this id; False where nobody can say."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if not is_hub_id(given):
        return False
    if isinstance(try_to_load_from_cache(given, CONFIG_FILE), str):
        return True
    try:
        return HfApi().file_exists(given, CONFIG_FILE)
    except Exception:  # every way in which a request can fail; the network library varies
        return False


def _downloaded(given: str, key: str, allow_pickle: bool) -> Path:
    """The cached snapshot of an adapter on the hub; a copy that is there is used as it is."""
    from huggingface_hub import snapshot_download

    files = [CONFIG_FILE, WEIGHTS_FILE, METADATA_FILE, *([PICKLED] if allow_pickle else [])]
    for local in (True, False):
        try:
            folder = Path(snapshot_download(given, allow_patterns=files, local_files_only=local))
        except Exception as error:  # every way in which a request can fail; the library varies
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            continue
        if not (folder / CONFIG_FILE).is_file():
            reason = f"it holds no {CONFIG_FILE}"
        elif any((folder / name).is_file() for name in (WEIGHTS_FILE, PICKLED)):
            return folder
        else:
            reason = f"it holds no {WEIGHTS_FILE}; pickled weights are read with {allowing(key)}"
    raise UserError(
        f"{key}={given}: no such folder, and not an adapter of the hub: {reason}\n"
        "Without network: on a machine that has it, hf download OWNER/NAME --local-dir NAME; copy "
        f"NAME here and type {key}=NAME"
    )


def _safe(folder: Path, given: str, key: str, allow_pickle: bool) -> Path:
    """The folder, or one with the same adapter in safetensors where it is pickled."""
    if (folder / WEIGHTS_FILE).is_file() or not (folder / PICKLED).is_file():
        return folder
    require_allowed(f"{key}={given}", allow_pickle, key)
    from safetensors.torch import save_file  # imports torch, which most adapters need not wait for

    place = cache_folder("adapters") / sha256(folder / PICKLED, folder / CONFIG_FILE)
    if not place.is_dir():
        tensors = read_pickled(folder / PICKLED)
        with written_whole(place) as aside:
            whole = {name: value.clone().contiguous() for name, value in tensors.items()}
            save_file(whole, aside / WEIGHTS_FILE, metadata={"format": "pt"})
            for name in (CONFIG_FILE, METADATA_FILE):
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, aside / name)
    return place
