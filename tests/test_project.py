"""The files around the code agree: pins and ranges, conf/, README and make targets."""

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
CONFIGURATION_FILES = {  # folder in conf/ to its number of files; update it with them
    ".": 10,
    "adapter": 6,
    "augmentation": 8,
    "data": 8,
    "evaluation": 1,
    "experiment": 16,
    "hydra/launcher": 3,
    "model": 14,
    "optimizer": 1,
    "quantization": 3,
    "search": 1,
    "tracking": 5,
    "training": 1,
}


def pins() -> dict[str, Version]:
    """Package to its version in constraints.txt, where each line pins exactly one."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def direct_requirements() -> list[Requirement]:
    """What `make install` installs; other extras (MLflow) ask for older versions of some of it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["dev"]]
    (of_the_project,) = (one for one in map(Requirement, lines) if one.name == project["name"])
    lines += [line for extra in sorted(of_the_project.extras) for line in extras[extra]]
    return [one for one in map(Requirement, lines) if one.name != project["name"]]


@pytest.mark.parametrize("requirement", direct_requirements(), ids=str)
def test_every_direct_dependency_is_pinned_inside_its_range(requirement):
    version = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)


def test_pins_resolve_on_any_package_index():
    local = [name for name, version in pins().items() if version.local]
    assert local == [], "a local version (+cpu) exists on one index only"


def test_every_configuration_file_stands_in_a_known_group():
    conf = REPOSITORY / "conf"
    found = Counter(str(path.parent.relative_to(conf)) for path in conf.rglob("*.yaml"))
    assert found == CONFIGURATION_FILES


def test_the_commands_of_the_readme_exist():
    readme = (REPOSITORY / "README.md").read_text()
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    commands = {path.stem for path in (REPOSITORY / "lora_whisper/cli").glob("[a-z]*.py")}
    typed = re.findall(r"^\s*(?:\$ )?(make|(?:\S*/)?lora-whisper) ([a-z]+)", readme, re.MULTILINE)
    assert typed, "README.md names no command"
    for program, argument in typed:
        assert argument in (targets if program == "make" else commands), f"{program} {argument}"
