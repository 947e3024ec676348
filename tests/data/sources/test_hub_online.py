"""The way to the hub, over HTTP: a server of our own stands for it, offline."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import hub_server
from tests.toy_hub import write_card, write_fleurs, write_plain

ROOT = Path(__file__).parents[3]
SPLITS = ("train", "validation", "test")
READ = """
import json, sys
from lora_whisper.data.sources import hub
from lora_whisper.errors import UserError
from tests.configs import data_config

def answer(path, config, split, revision=None):
    try:
        found = hub.read(data_config("hub", path=path, config=config, revision=revision), split)
    except UserError as error:
        return str(error)
    return [[one.text, len(one.audio.load())] for one in found]

print(json.dumps([answer(*each) for each in json.loads(sys.argv[1])]))
"""
STREAM = """
import json
from tests.configs import data_config
from tests.data.test_streaming import dataset
from lora_whisper.data.streaming import stream_loader

config = data_config("hub", path="some/plain", config=None, streaming=True, language="en")
steps = stream_loader(dataset(config, global_batch=4), 2, 5, workers=2)
print(json.dumps([batch.rows for step in steps for batch in step]))
"""
Requests = list[str]


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with a card, one that is a script, converted or not, and one for the few."""
    root = tmp_path_factory.mktemp("hub")
    for config in ("af_za", "sw_ke"):
        write_fleurs(root / "some" / "fleurs", config, {"train": 6, "validation": 3, "test": 2})
    pattern = "parquet-data/{config}/{split}-*.parquet"
    write_card(root / "some" / "fleurs", {"af_za": SPLITS, "sw_ke": SPLITS}, pattern)
    for name in ("script", "gone"):
        (root / "old" / name).mkdir(parents=True)
        (root / "old" / name / f"{name}.py").touch()
    write_plain(root / "old" / "script@parquet" / "de", "train", [0.5] * 3)
    write_plain(root / "some" / "plain", "train", [0.5 + 0.1 * number for number in range(12)], 3)
    write_plain(root / "some" / "plain", "test", [1.0])
    write_plain(root / "closed" / "set", "train", [0.5])
    return root


def output(code: str, argument: str, address: str, home: Path, offline: bool = False) -> Any:
    """What the code prints, in a process that knows of no other hub."""
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "LORA_WHISPER_CACHE": str(home),
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", code, argument]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


TEST, TRAIN = (["some/fleurs", "sw_ke", split] for split in ("test", "train"))
CONVERTED = ["old/script", "de", "train"]
REFUSED = {
    "no split dev; it has train, validation, test": ["some/fleurs", "sw_ke", "dev"],
    "data.config=sw. Type data.config=NAME": ["some/fleurs", "sw", "train"],
    "has no revision v9": ["some/fleurs", "sw_ke", "test", "v9"],
    "The hub has no data set nobody/nothing": ["nobody/nothing", None, "train"],
    "closed/set is given to those who ask": ["closed/set", None, "train"],
    "is a Python script": ["old/gone", None, "train"],
    "conversion of fr": ["old/script", "fr", "train"],
}


@dataclass(frozen=True)
class Online:
    """What one process was answered, what it downloaded, and where that lies."""

    test: list[Any]
    converted: list[Any]
    refused: list[str]
    downloads: Requests
    home: Path


@pytest.fixture(scope="module")
def online(hub_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Online:
    home, asked = tmp_path_factory.mktemp("home"), [TEST, CONVERTED, *REFUSED.values()]
    with hub_server(hub_root, gated=frozenset({"closed/set"})) as (address, downloads):
        test, converted, *refused = output(READ, json.dumps(asked), address, home)
    return Online(test, converted, refused, downloads, home)


def test_one_split_is_downloaded_and_read_again_without_a_network(online: Online) -> None:
    assert [text for text, _ in online.test] == ["habari ya test 0", "habari ya test 1"]
    assert [name for name in online.downloads if name.startswith("some/fleurs/parquet")] == [
        "some/fleurs/parquet-data/sw_ke/test-00000-of-00001.parquet"
    ]
    nowhere = "http://127.0.0.1:1"
    again, missing = output(READ, json.dumps([TEST, TRAIN]), nowhere, online.home, offline=True)
    assert again == online.test
    assert "The split train of some/fleurs/sw_ke is not on this machine" in missing
    assert "hf download some/fleurs" in missing


def test_what_the_hub_has_not_and_what_it_has_converted(online: Online) -> None:
    assert [text for text, _ in online.converted] == ["number 0", "number 1", "number 2"]
    for expected, message in zip(REFUSED, online.refused, strict=True):
        assert expected in message


def test_streaming_keeps_nothing(hub_root: Path, tmp_path: Path) -> None:
    with hub_server(hub_root) as (address, downloads):
        batches = output(STREAM, "", address, tmp_path)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert len({row for batch in batches[1:] for row in batch}) == 8
    assert sum(name.endswith(".parquet") for name in downloads) > 3
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert max(file.stat().st_size for file in files) < 1_000
