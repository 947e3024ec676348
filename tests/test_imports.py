"""The floors: a module imports only from floors below its own, or from its own part."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lora_whisper"
GROUND = (
    "lora_whisper",
    "composing",
    "config",
    "errors",
    "json_files",
    "paths",
    "processes",
    "run_folder",
    "stand_ins",
    "terminal",
)  # floor 0 is one part
FLOORS = {"commands": 3, "quickstart": 3, "training": 2, "evaluation": 2, "export": 2} | {
    "model": 1,
    "data": 1,
    "ground": 0,
}
FOREIGN = {  # what only some parts may import
    "hydra": {"commands"},
    "omegaconf": {"commands"},
    "torch": FLOORS.keys() - {"ground"},
    "transformers": FLOORS.keys() - {"ground"},
}


def module_name(path: Path, package: Path) -> str:
    """`lora_whisper/lora/adapter.py` is `lora_whisper.lora.adapter`."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """`lora_whisper.lora.adapter` is of `model`, `lora_whisper.config` of `ground`."""
    part = module.split(".")[1] if "." in module else module
    return "ground" if part in GROUND else part


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
        allowed = FOREIGN.get(top, FLOORS.keys())
        return None if part in allowed else f"{module} may not import {top}"
    below = FLOORS[part_of(imported)] < FLOORS[part]
    if below or part_of(imported) == part:
        return None
    return f"{module} (floor {FLOORS[part]}) may not import {imported}"


def violations(package: Path) -> list[str]:
    graph = imports_of(package)
    homeless = [f"{module} stands on no floor" for module in graph if part_of(module) not in FLOORS]
    if homeless:
        return homeless
    found = [wrong_import(module, name) for module, names in graph.items() for name in names]
    return sorted(filter(None, found)) + circles(graph)


def circles(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter({module: graph[module] & graph.keys() for module in graph}).prepare()
    except CycleError as error:
        return ["circle: " + " → ".join(error.args[1])]
    return []


def test_the_package_keeps_its_floors():
    assert len(imports_of(PACKAGE)) > 3, "the walk found next to nothing"
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (
            {"data/audio.py": "from lora_whisper.lora.adapter import attach"},
            "lora_whisper.data.audio (floor 1) may not import lora_whisper.lora.adapter",
        ),
        (
            {"model/adapter.py": "def f():\n    from lora_whisper import training"},
            "lora_whisper.lora.adapter (floor 1) may not import lora_whisper.training",
        ),
        ({"training/loop.py": "import omegaconf"}, "training.loop may not import omegaconf"),
        ({"config.py": "from torch.nn import Module"}, "config may not import torch"),
        ({"helpers.py": ""}, "lora_whisper.helpers stands on no floor"),
        (
            {
                "data/audio.py": "from lora_whisper.data import text",
                "data/text.py": "import lora_whisper.data.audio",
            },
            "circle: ",
        ),
    ],
)
def test_a_planted_violation_is_found(tmp_path, files, complaint):
    for part in ("", "training", "model", "data"):
        (tmp_path / "lora_whisper" / part).mkdir(exist_ok=True)
        (tmp_path / "lora_whisper" / part / "__init__.py").touch()
    assert violations(tmp_path / "lora_whisper") == []
    for name, source in files.items():
        (tmp_path / "lora_whisper" / name).write_text(source)
    (found,) = violations(tmp_path / "lora_whisper")
    assert complaint in found
