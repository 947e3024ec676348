"""What `run=…` stands for; and where no run is, what lies there and how that is typed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from lora_whisper.errors import UserError
from lora_whisper.lora.saved import CONFIG_FILE
from lora_whisper.model.base_files import CONFIG
from lora_whisper.paths import local_path, plain_name
from lora_whisper.program import program
from lora_whisper.run_folder import RECIPE_FILE, RunFolder, existing_run, run_around

Asking = Literal["merge", "evaluate", "export", "push"]

ADAPTER, MERGED, MODEL = "an adapter", "a merged model without its run", "a whole model"


def given_run(given: str, command: Asking) -> RunFolder:
    """The complete run that was typed as run=….

    Raises:
        UserError: see `existing_run`; says what to type for something else that lies there.
    """
    path = local_path(given)
    if RunFolder(path).is_run() or not path.is_dir():
        return existing_run(given)
    if (run := run_around(given)) is not None:
        raise UserError(f"run={given}: this folder lies in a run. Type {shlex.quote(f'run={run}')}")
    if (what := _what_lies(path)) is None:
        return existing_run(given)
    raise UserError(
        f"run={given}: {what}, and no run.\n{_what_to_type(what, Path(given), command)}"
    )


def _what_lies(path: Path) -> str | None:
    if (path / CONFIG_FILE).is_file():
        return ADAPTER
    if any((folder / RECIPE_FILE).is_file() for folder in (path, RunFolder(path).merged)):
        return MERGED
    return MODEL if (path / CONFIG).is_file() else None


def _what_to_type(what: str, folder: Path, command: Asking) -> str:
    inner = RunFolder(folder).merged
    model = inner if what == MERGED and inner.is_dir() else folder
    if command == "evaluate":
        return f"Type {shlex.quote(f'models=[{model}]')} data.test=…"
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
