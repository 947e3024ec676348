"""The wheel, installed outside the repository, does the main job with its own conf/ and assets.

The throw-away environment sees this one's packages through a .pth file, so nothing is downloaded;
an editable install's own .pth file is not read from there, so the repository stays out of sight.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SHORT_RUN = (
    "training.max_steps=2 training.global_batch=2 training.micro_batch=2 training.loader_workers=0 "
    "evaluation.max_utterances=2 evaluation.max_validation_utterances=1"
).split()

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Run outside the repository and return what was printed; a failure shows all of it."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "1000"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    if done.returncode != 0:
        shown = " ".join(map(str, command))
        pytest.fail(f"exit code {done.returncode}: {shown}\n{done.stdout}{done.stderr}")
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation")
    run(*build, "--outdir", folder, REPOSITORY, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel, and below it the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python", "-qq")
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "packages_of_the_test_run.pth").write_text("\n".join(sorted(here)))
    return folder


def config_of(environment: Path, cwd: Path, *arguments: str | Path) -> str:
    command = environment / "bin/lora-whisper"
    return run(command, "train", *arguments, "--cfg", "job", cwd=cwd)


def test_the_wheel_holds_the_package_conf_and_assets_and_nothing_else(wheel):
    package, conf = REPOSITORY / "lora_whisper", REPOSITORY / "conf"
    files = [path for path in package.rglob("*") if path.is_file()]
    expected = {
        str(path.relative_to(REPOSITORY)) for path in files if "__pycache__" not in path.parts
    }
    expected |= {f"lora_whisper/{path.relative_to(REPOSITORY)}" for path in conf.rglob("*.yaml")}
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert shipped == expected
    for suffix in (".safetensors", ".opus", ".jsonl", ".json", ".yaml"):
        assert any(name.endswith(suffix) for name in shipped), f"no {suffix} file in the wheel"


def test_a_users_own_experiment_file_is_found_outside_the_repository(environment, tmp_path):
    """It stands on the quickstart's; to show it writes nothing."""
    own = tmp_path / "own/experiment/mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\ndefaults: [quickstart]\nname: mine\nadapter: {rank: 3}\n")
    printed = config_of(environment, tmp_path, "--config-dir", own.parents[1], "experiment=mine")
    assert "name: mine" in printed
    assert "rank: 3" in printed
    assert "checkpoint: embedded:nano" in printed
    assert list(tmp_path.iterdir()) == [tmp_path / "own"]


def test_the_first_steps_of_the_quickstart_run_from_the_wheel(environment, tmp_path):
    command = environment / "bin/lora-whisper"
    run(command, "train", "experiment=quickstart", "name=short", *SHORT_RUN, cwd=tmp_path)
    folder = tmp_path / "outputs/short"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 2
    adapter = json.loads((folder / "adapter/adapter_config.json").read_text())
    base = Path(adapter["base_model_name_or_path"])
    assert base.is_relative_to(environment), f"the base model is not the wheel's: {base}"
    logged = (folder / "train.log").read_text() + (folder / "config.yaml").read_text()
    for ours in (REPOSITORY / "lora_whisper", REPOSITORY / "conf"):
        assert str(ours) not in logged
