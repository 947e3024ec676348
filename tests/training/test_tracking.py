"""Trackers: each is asked by its own means what it was told; none of them needs a network."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState

from lora_whisper.errors import UserError
from lora_whisper.files import read_json
from lora_whisper.training import tracking
from lora_whisper.training.tracking import (
    TrackedRun,
    Trackers,
    hyperparameters,
    require_packages,
    tracked,
)

CONFIG = {"adapter.rank": 4, "data.train": "a.jsonl", "overwrite": False, "resume": None}


def lines(first: int, last: int) -> list[dict[str, float | None]]:
    """Of training, and one of validation at the end; the gradient's norm was not finite."""
    training = [
        {"step": step, "loss_per_token": 1 / step, "gradient_norm": None}
        for step in range(first, last + 1)
    ]
    return [*training, {"step": last, "validation_wer": 0.25}]


def run(folder: Path, done_steps: int = 0) -> TrackedRun:
    return TrackedRun("a project", "mine/a", folder, hyperparameters(CONFIG), done_steps)


def track_twice(name: str, folder: Path) -> None:
    """Five steps, of which the last two were after the last checkpoint; then all to the seventh."""
    PartialState()
    for done_steps, last in ((0, 5), (3, 7)):
        with tracked([name], run(folder, done_steps)) as trackers:
            for line in lines(done_steps + 1, last):
                trackers.log(line)


def test_tensorboard_has_one_curve_of_a_resumed_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track_twice("tensorboard", tmp_path)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in found.Scalars("loss_per_token")]
    assert losses == [(step, pytest.approx(1 / step)) for step in range(1, 8)]
    assert [event.step for event in found.Scalars("validation_wer")] == [7]
    assert "gradient_norm" not in found.Tags()["scalars"]
    assert b"adapter.rank" in found.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert not [path for path in (tmp_path / "tensorboard").iterdir() if path.is_dir()]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """W&B, which keeps what it read of the environment until it is torn down."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield wandb
    wandb.teardown()


def test_wandb_offline(tmp_path: Path, wandb: Any) -> None:
    track_twice("wandb", tmp_path)
    wandb.teardown()  # its service writes the file's last part when it ends
    records = [list(wandb_records(file)) for file in sorted(tmp_path.rglob("*.wandb"))]
    assert len(records) == 2, "an offline run that goes on has a second file"
    runs = [record.run for part in records for record in part if record.HasField("run")]
    assert {one.run_id for one in runs} == {read_json(tmp_path / "runs.json")["wandb"]}
    assert {(one.project, one.display_name) for one in runs} == {("a project", "mine/a")}
    config = {item.key: item.value_json for item in runs[0].config.update}
    assert config["adapter.rank"] == "4"
    steps = [
        {key(item): item.value_json for item in record.history.item}.get("step")
        for part in records
        for record in part
        if record.HasField("history")
    ]
    assert steps == [*"12345", "5", *"4567", "7"]


def key(item: Any) -> str:
    return item.key or item.nested_key[0]


def wandb_records(file: Path) -> Iterator[Any]:
    """A .wandb file is LevelDB's log of protocol buffers; these are smaller than its blocks."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place = file.read_bytes(), 7  # after the file's own header
    while place + 7 <= len(data):
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        assert kind == 1, "a whole record"
        yield Record.FromString(data[place + 7 : place + 7 + size])
        place += 7 + size


def test_wandb_without_a_login_is_said(
    tmp_path: Path, wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    PartialState()
    with (
        pytest.raises(UserError, match=r"tracking=wandb does not start: .*API key(.|\n)*=none"),
        tracked(["wandb"], run(tmp_path)),
    ):
        raise AssertionError("started without a key")


def test_mlflow_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    track_twice("mlflow", tmp_path)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("a project")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "mine/a"
    assert found.data.params == {name: str(value) for name, value in run(tmp_path).values.items()}
    history = client.get_metric_history(found.info.run_id, "loss_per_token")
    assert {(one.step, one.value) for one in history} == {(step, 1 / step) for step in range(1, 8)}


def test_trackio_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    from trackio import Api
    from trackio.sqlite_storage import SQLiteStorage

    track_twice("trackio", tmp_path)
    (found,) = Api().runs("a project")
    assert found.name == "mine/a"
    assert found.config["adapter.rank"] == 4
    logged = SQLiteStorage.get_logs("a project", "mine/a")
    losses = {(one["step"], one["loss_per_token"]) for one in logged if "loss_per_token" in one}
    assert losses == {(step, 1 / step) for step in range(1, 8)}


def test_a_package_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of its name in the search path is no package: W&B makes one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "no_such_tracker").mkdir()
    with pytest.raises(UserError, match=r"pip install 'lora-whisper\[no_such_tracker\]'"):
        require_packages(["no_such_tracker"])
    require_packages([])


class Failing:
    name = "mlflow"
    logged = 0

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged += 1
        if step == 2:
            raise ConnectionError("the server is gone")

    def finish(self) -> None:
        raise AssertionError("nothing is asked of it any more")


def test_a_tracker_that_fails_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    failing: Any = Failing()
    trackers = Trackers([tracking._Opened(failing, "some run")])
    with caplog.at_level(logging.WARNING, "lora_whisper"):
        for line in lines(1, 4):
            trackers.log(line)
        trackers.finish()
    assert failing.logged == 2
    assert "mlflow failed at step 2" in caplog.text
    assert "the server is gone" in caplog.text


def test_trackers_end_when_the_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    class Quiet:
        name = "quiet"

        def finish(self) -> None:
            ended.append("quiet")

    quiet: Any = Quiet()
    start: Callable[..., Any] = lambda run, earlier: tracking._Opened(quiet, "some run")  # noqa: E731
    monkeypatch.setitem(tracking._STARTS, "quiet", start)
    with pytest.raises(KeyboardInterrupt), tracked(["quiet"], run(tmp_path)):
        raise KeyboardInterrupt
    assert ended == ["quiet"]
