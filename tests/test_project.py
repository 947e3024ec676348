"""Pins and ranges of what is installed agree."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]


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
