"""What may import what: each part of the package imports the parts below it, and no others."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lora_whisper"
# By part, the parts that it may import beside itself. `ground` is config/ and what is in no folder.
BELOW = {
    "ground": set(),
    "model": {"ground"},
    "lora": {"model", "ground"},
    "data": {"model", "ground"},
    "evaluation": {"lora", "data", "model", "ground"},
    "reports": {"evaluation", "lora", "data", "model", "ground"},
    "export": {"evaluation", "lora", "data", "model", "ground"},
    "transcription": {"evaluation", "lora", "data", "model", "ground"},
    "training": {"reports", "evaluation", "lora", "data", "model", "ground"},
    "search": {"training", "reports", "evaluation", "lora", "data", "model", "ground"},
    "labels": {
        *("training", "transcription", "reports", "evaluation", "lora", "data", "model", "ground"),
    },
    "recording": {"data", "model", "ground"},
    "browser": {"recording", "transcription", "reports", "evaluation", "data", "model", "ground"},
    "hub": {"reports", "evaluation", "lora", "data", "model", "ground"},
}
BELOW["cli"] = set(BELOW)
TOP = {
    "hub": "hub",
    "__main__": "cli",
    "api": "cli",
}  # files beside the folders that are not of the ground
FOREIGN = {  # what only some parts may import
    "hydra": {"cli"},
    "omegaconf": {"cli"},
    "gradio": {"browser"},
    "torch": BELOW.keys() - {"ground"},
    "transformers": BELOW.keys() - {"ground"},
}
NOT_YET = {("environment", "torch")}  # whose version and devices it tells


def module_name(path: Path, package: Path) -> str:
    """`lora_whisper/lora/adapter.py` is `lora_whisper.lora.adapter`."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """`lora_whisper.model.base` is of `model`, `lora_whisper.config` of the ground."""
    name = module.split(".")[1] if "." in module else "ground"
    return TOP.get(name, name if name in BELOW else "ground")


def imported_by(path: Path, modules: set[str]) -> set[str]:
    """Every name that the file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            found |= submodules or {node.module}
    return found


def imports_of(package: Path) -> dict[str, set[str]]:
    """Module to what it imports, for all modules of the package."""
    files = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    return {module: imported_by(path, set(files)) for module, path in files.items()}


def wrong_import(module: str, imported: str) -> str | None:
    """Say why the module may not import this, or None."""
    part, top = part_of(module), imported.split(".")[0]
    if top != "lora_whisper":
        allowed = FOREIGN.get(top, BELOW.keys())
        return None if part in allowed else f"{module} may not import {top}"
    if part_of(imported) in BELOW[part] | {part}:
        return None
    return f"{module} (of {part}) may not import {imported}"


def pair(module: str, imported: str) -> tuple[str, str]:
    return module.removeprefix("lora_whisper."), imported.removeprefix("lora_whisper.")


def violations(package: Path) -> list[str]:
    graph = imports_of(package)
    folders = {path.parent for path in package.rglob("*.py")} - {package, package / "config"}
    homeless = [
        folder.name for folder in folders if folder.relative_to(package).parts[0] not in BELOW
    ]
    if homeless:
        return [f"{name} is no part" for name in homeless]
    found = [
        wrong_import(module, name)
        for module, names in graph.items()
        for name in names
        if pair(module, name) not in NOT_YET
    ]
    return sorted(filter(None, found)) + circles(graph)


def circles(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter({module: graph[module] & graph.keys() for module in graph}).prepare()
    except CycleError as error:
        return ["circle: " + " → ".join(error.args[1])]
    return []


def test_every_part_imports_what_is_below_it() -> None:
    graph = imports_of(PACKAGE)
    assert len(graph) > 3, "the walk found next to nothing"
    assert violations(PACKAGE) == []
    found = {pair(module, name) for module, names in graph.items() for name in names}
    assert found >= NOT_YET, "no longer: take it out of the list"


def test_no_name_begins_with_an_underscore() -> None:
    names = {path.name for path in PACKAGE.rglob("_*.py")}
    assert names <= {"__init__.py", "__main__.py"}


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (
            {"data/audio.py": "from lora_whisper.lora.adapter import attach"},
            "lora_whisper.data.audio (of data) may not import lora_whisper.lora.adapter",
        ),
        (
            {"model/base.py": "def f():\n    from lora_whisper import training"},
            "lora_whisper.model.base (of model) may not import lora_whisper.training",
        ),
        (
            {"evaluation/score.py": "from lora_whisper.training import loop"},
            "lora_whisper.evaluation.score (of evaluation) may not import lora_whisper.training",
        ),
        (
            {"training/run.py": "from lora_whisper.cli.train import main"},
            "lora_whisper.training.run (of training) may not import lora_whisper.cli.train",
        ),
        (
            {"paths.py": "from lora_whisper.model import base"},
            "lora_whisper.paths (of ground) may not import lora_whisper.model",
        ),
        ({"training/loop.py": "import omegaconf"}, "training.loop may not import omegaconf"),
        ({"config/data.py": "from torch.nn import Module"}, "config.data may not import torch"),
        ({"helpers/__init__.py": ""}, "helpers is no part"),
        (
            {
                "data/audio.py": "from lora_whisper.data import text",
                "data/text.py": "import lora_whisper.data.audio",
            },
            "circle: ",
        ),
    ],
)
def test_a_planted_violation_is_found(
    tmp_path: Path, files: dict[str, str], complaint: str
) -> None:
    package = tmp_path / "lora_whisper"
    for part in ("", "training", "model", "data", "evaluation"):
        (package / part).mkdir(exist_ok=True)
        (package / part / "__init__.py").touch()
    assert violations(package) == []
    for name, source in files.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(source)
    (found,) = violations(package)
    assert complaint in found
