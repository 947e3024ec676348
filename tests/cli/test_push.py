"""What arrives at a hub of one's own: files on the list, byte by byte, and nobody's name."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import _http
from safetensors.torch import load_file, save_file

from lora_whisper import __version__, environment
from lora_whisper.cli import push
from lora_whisper.files import write_json
from lora_whisper.lora.saved import WEIGHTS_FILE
from lora_whisper.model.checkpoint import sha256
from lora_whisper.paths import local_path
from lora_whisper.reports.run import write_results
from lora_whisper.run_folder import RECIPE_FILE, RunFolder
from tests.cli.conftest import Line, Refusal, World
from tests.cli.toy_run import Heard, toy_run
from tests.hub_uploads import TOKEN, Repository, UploadHub, upload_hub

MADE: list[Path] = []
HEARD = [Heard("moja mbili tatu", "moja", "moja mbili", merged="moja mbili")]
ADAPTER = {"README.md", "adapter_config.json", "adapter_model.safetensors", "lora_whisper.json"}
FOLDER = {"checkpoint": "/home/anna/models/mine", "checkpoint_fingerprint": f"sha256:{'b' * 64}"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    with upload_hub() as running:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)  # between two tries
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user called anna, at a machine called birch."""
    monkeypatch.setenv("HOME", str(tmp_path / "anna"))
    monkeypatch.setattr(environment.getpass, "getuser", lambda: "anna")
    monkeypatch.setattr(environment.socket, "gethostname", lambda: "birch.example.org")
    return "anna"


@pytest.fixture(autouse=True, scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where runs are made once, to be copied."""
    MADE.append(tmp_path_factory.mktemp("made"))
    yield
    MADE.clear()


def finished_run(folder: Path, merged: bool = False, **settings: Any) -> RunFolder:
    """A run with all that must not go up."""
    name = hashlib.sha256(repr((merged, settings)).encode()).hexdigest()
    original = MADE[0] / name
    if not original.exists():
        make_run(original, merged, **settings)
    return RunFolder(shutil.copytree(original, folder))


def merged_from_nano(run: RunFolder) -> None:
    """What `merge` would leave, as far as `push` looks at it."""
    shutil.copytree(local_path("embedded:nano"), run.merged)
    part = {"name": "mine", "weight": 1.0, "sha256": sha256(run.adapter / WEIGHTS_FILE)}
    write_json(run.merged / RECIPE_FILE, {"adapters": [part], "into": "full"})


def make_run(folder: Path, merged: bool, **settings: Any) -> None:
    run, summary = toy_run(folder, heard=HEARD, **settings)
    if merged:
        merged_from_nano(run)
        (run.merged / "optimizer.pt").write_bytes(b"state")
        (run.merged / "000.opus").write_bytes(b"audio")
    write_results(run, summary)
    for path in ("checkpoints/step-4/optimizer.pt", "adapter/training_args.bin", "train.log"):
        (run.path / path).parent.mkdir(parents=True, exist_ok=True)
        (run.path / path).write_bytes(b"not for the hub")


def files(hub: UploadHub, repo: str = "owner/name") -> dict[str, bytes]:
    return hub.repositories[repo].files


# ── what arrives ─────────────────────────────────────────────────────────────────────────────


def test_an_adapter_arrives_and_nothing_else(
    tmp_path: Path, line: Line, hub: UploadHub, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path / "outputs" / "mine")
    assert line("push", "run=outputs/mine", "repo=owner/name") == 0
    sent = files(hub)
    assert sent.keys() == ADAPTER
    weights = "adapter_model.safetensors"
    assert sent[weights] == (run.adapter / weights).read_bytes()
    ours = json.loads((run.adapter / "adapter_config.json").read_text())
    theirs = json.loads(sent["adapter_config.json"])
    assert theirs == ours | {"revision": "a" * 40}
    record = json.loads((run.adapter / "lora_whisper.json").read_text())
    assert json.loads(sent["lora_whisper.json"]) == record
    card = sent["README.md"].decode()
    assert 'PeftModel.from_pretrained(whisper, "owner/name")' in card
    assert "--lora-modules toy=owner/name" in card
    assert "path/to" not in card
    repository = hub.repositories["owner/name"]
    assert repository.is_private
    assert [one["summary"] for one in repository.commits] == [
        f"Adapter toy, by lora_whisper {__version__}"
    ]
    assert hub.created[0]["visibility"] == "private"
    shown = capsys.readouterr().out
    assert f"{hub.address}/owner/name/commit/" in shown
    assert "only you" in shown


def test_a_merged_model_arrives(tmp_path: Path, line: Line, hub: UploadHub, user: str) -> None:
    run = finished_run(tmp_path / "outputs" / "mine", merged=True)
    assert line("push", "run=outputs/mine", "repo=owner/name", "what=merged") == 0
    sent = files(hub)
    nano = {path.name for path in local_path("embedded:nano").iterdir()}
    assert sent.keys() == nano - {"pretraining.json"} | {"README.md"}
    for name in sent.keys() - {"README.md"}:
        assert sent[name] == (run.merged / name).read_bytes(), name
    card = ModelCard(sent["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert 'WhisperForConditionalGeneration.from_pretrained("owner/name"' in card.text


def test_both_lie_apart(tmp_path: Path, line: Line, hub: UploadHub, user: str) -> None:
    finished_run(tmp_path / "outputs" / "mine", merged=True)
    assert line("push", "run=outputs/mine", "repo=owner/name", "what=both") == 0
    sent = files(hub)
    assert {path for path in sent if path.startswith("adapter/")} == {
        f"adapter/{name}" for name in ADAPTER
    }
    assert "adapter_config.json" not in sent
    assert "(./adapter)" in sent["README.md"].decode()
    assert '"owner/name", subfolder="adapter")' in sent["adapter/README.md"].decode()


def test_the_pushed_folder_loads_in_transformers_and_peft(
    tmp_path: Path, line: Line, hub: UploadHub, user: str
) -> None:
    from peft import PeftConfig
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    finished_run(tmp_path / "outputs" / "mine", merged=True)
    assert line("push", "run=outputs/mine", "repo=owner/name", "what=both") == 0
    cloned = tmp_path / "cloned"
    for name, data in files(hub).items():
        (cloned / name).parent.mkdir(parents=True, exist_ok=True)
        (cloned / name).write_bytes(data)
    model = WhisperForConditionalGeneration.from_pretrained(cloned)
    assert not getattr(model, "_hf_peft_config_loaded", False)
    WhisperProcessor.from_pretrained(cloned)
    config = PeftConfig.from_pretrained(str(cloned / "adapter"))
    assert (config.base_model_name_or_path, config.revision) == ("openai/whisper-small", "a" * 40)


def test_public_is_said_loudly(
    tmp_path: Path, line: Line, hub: UploadHub, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run(tmp_path / "outputs" / "mine")
    assert line("push", "run=outputs/mine", "repo=owner/name", "private=false") == 0
    assert not hub.repositories["owner/name"].is_private
    assert "PUBLIC" in capsys.readouterr().out


def test_a_dry_run_needs_no_hub_and_no_token(
    tmp_path: Path, line: Line, user: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    finished_run(tmp_path / "outputs" / "mine", merged=True)
    before = sorted(path for path in tmp_path.rglob("*"))
    arguments = ("run=outputs/mine", "repo=owner/name", "what=both", "dry_run=true")
    assert line("push", *arguments) == 0
    shown = capsys.readouterr().out
    for name in (*ADAPTER, "model.safetensors", "preprocessor_config.json"):
        assert name in shown
    assert "optimizer.pt" not in shown
    assert "16 files" in shown
    assert "nothing was sent" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert sorted(path for path in tmp_path.rglob("*")) == before


# ── the base ─────────────────────────────────────────────────────────────────────────────────


def test_a_base_from_a_folder_is_asked_for(
    refusal: Refusal, tmp_path: Path, hub: UploadHub, user: str
) -> None:
    finished_run(tmp_path / "outputs" / "mine", **FOLDER)
    assert "base=owner/name" in refusal("push", "run=outputs/mine", "repo=owner/name")
    assert hub.requests == []


def test_a_base_that_was_typed_stands_everywhere(
    tmp_path: Path, line: Line, hub: UploadHub, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = local_path("embedded:nano") / "model.safetensors"
    hub.repositories["lab/base"] = Repository(False, {"model.safetensors": weights.read_bytes()})
    from lora_whisper.model.checkpoint import sha256

    known = FOLDER | {"checkpoint_fingerprint": f"sha256:{sha256(weights)}"}
    finished_run(tmp_path / "outputs" / "mine", **known)
    arguments = ("run=outputs/mine", "repo=owner/name", "base=lab/base")
    assert line("push", *arguments) == 0
    commit = hub.repositories["lab/base"].sha
    sent = files(hub)
    config = json.loads(sent["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("lab/base", commit)
    record = json.loads(sent["lora_whisper.json"])["base"]
    assert (record["name"], record["commit"]) == ("lab/base", commit)
    card = ModelCard(sent["README.md"].decode())
    assert (card.data.base_model, card.data.base_model_relation) == ("lab/base", "adapter")
    assert "[lab/base](https://huggingface.co/lab/base) (sha256" in card.text
    assert 'base = "lab/base"' in card.text
    assert "byte for byte" not in capsys.readouterr().out


def test_a_base_with_other_weights_is_warned_of_and_not_pinned(
    tmp_path: Path, line: Line, hub: UploadHub, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["lab/base"] = Repository(False, {"model.safetensors": b"others"})
    finished_run(tmp_path / "outputs" / "mine", **FOLDER)
    assert line("push", "run=outputs/mine", "repo=owner/name", "base=lab/base") == 0
    assert "byte for byte" in " ".join(capsys.readouterr().out.split())
    assert json.loads(files(hub)["adapter_config.json"])["revision"] is None
    assert line("push", "run=outputs/mine", "repo=owner/name", "base=lab/gone") == 2
    assert "base=lab/gone: the hub knows no such" in capsys.readouterr().err


def test_another_base_than_the_runs_is_refused(
    tmp_path: Path, line: Line, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run(tmp_path / "outputs" / "mine")
    assert line("push", "run=outputs/mine", "repo=owner/name", "base=lab/base") == 2
    assert "was trained on openai/whisper-small" in capsys.readouterr().err


def test_nano_keeps_the_name_that_it_has_in_the_package(
    tmp_path: Path, line: Line, hub: UploadHub, user: str
) -> None:
    run = finished_run(tmp_path / "outputs" / "mine", **FOLDER | {"checkpoint": "embedded:nano"})
    path = run.adapter / "adapter_config.json"
    values = json.loads(path.read_text()) | {"base_model_name_or_path": "/home/anna/lib/nano"}
    path.write_text(json.dumps(values))
    assert line("push", "run=outputs/mine", "repo=owner/name") == 0
    sent = files(hub)
    assert json.loads(sent["adapter_config.json"])["base_model_name_or_path"] == "embedded:nano"
    assert 'local_path("embedded:nano")' in sent["README.md"].decode()


# ── what must not be published ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("Made in {home}/speech.", "line 1: the path {home}"),
        ("Made in {cwd}/outputs.", "line 1: the path {cwd}"),
        ("\nOf /home/somebody/x", "line 2: the path /home/somebody"),
        ("Of C:\\Users\\somebody\\x", "line 1: the path C:\\Users\\somebody"),
        ("Trained by anna.", "line 1: the name anna"),
        ("In /mnt/anna/speech", "line 1: the name anna"),
        ("Trained on birch.", "line 1: the name birch"),
        ("Trained on birch.example.org!", "line 1: the name birch"),
        ("login(hf_" + "A" * 34 + ")", "line 1: an access token (hf_AAA…)"),
    ],
)
def test_what_names_the_machine_is_found_before_anything_is_sent(
    refusal: Refusal, tmp_path: Path, hub: UploadHub, user: str, written: str, found: str
) -> None:
    run = finished_run(tmp_path / "outputs" / "mine")
    places = {"home": tmp_path / "anna", "cwd": tmp_path}
    (run.adapter / "README.md").write_text(written.format(**places))
    said = refusal("push", "run=outputs/mine", "repo=owner/name")
    assert f"outputs/mine/adapter/README.md, {found.format(**places)}" in said
    assert "Nothing was sent" in said
    assert "A" * 34 not in said
    assert hub.requests == []


def test_headers_of_weights_and_escaped_letters_are_searched(
    tmp_path: Path,
    line: Line,
    refusal: Refusal,
    hub: UploadHub,
    user: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = finished_run(tmp_path / "outputs" / "mine")
    (run.adapter / "lora_whisper.json").unlink()  # which an older run lacks: it goes on
    path = run.adapter / "adapter_model.safetensors"
    whole = path.read_bytes()
    save_file(load_file(path), path, {"format": "pt", "made_in": str(tmp_path / "anna")})
    assert line("push", "run=outputs/mine", "repo=owner/name") == 2
    assert f"safetensors, entry of its header 2: the path {tmp_path}" in capsys.readouterr().err
    path.write_bytes(whole)
    config = run.adapter / "adapter_config.json"
    values = json.loads(config.read_text()) | {"note": "/home/andré/x"}
    config.write_text(json.dumps(values, ensure_ascii=True))
    assert "the path /home/andré" in refusal("push", "run=outputs/mine", "repo=owner/name")
    path.write_bytes(b"\x80\x02.pickled")
    config.write_text(json.dumps(values | {"note": ""}))
    assert line("push", "run=outputs/mine", "repo=owner/name") == 2
    assert "adapter_model.safetensors: expected safetensors" in capsys.readouterr().err
    assert hub.requests == []


def test_names_that_are_public_or_nobodys(
    tmp_path: Path, line: Line, hub: UploadHub, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of a data set on the hub; tokens of the vocabulary; the repository's own name."""
    data = ("data=hub", "data.path=anna/speech", "data.config=sw", "data.train=train")
    run, summary = toy_run(tmp_path / "outputs" / "mine", *data, heard=HEARD)
    merged_from_nano(run)
    (run.merged / "vocab.json").write_text('{"anna": 0}')
    write_results(run, summary)
    assert line("push", "run=outputs/mine", "repo=owner/name", "what=both") == 0
    (run.adapter / "README.md").write_text("---\nlicense: mit\n---\nby anna, at birch")
    hub.owners = frozenset({"anna"})
    monkeypatch.setattr(environment.socket, "gethostname", lambda: "whisper")
    assert line("push", "run=outputs/mine", "repo=anna/name") == 0
    assert b"license: mit" in files(hub, "anna/name")["README.md"], "what was written by hand"


# ── repositories that are there ──────────────────────────────────────────────────────────────


def test_a_public_repository_is_not_taken_for_a_private_one(
    tmp_path: Path, line: Line, refusal: Refusal, hub: UploadHub, user: str
) -> None:
    hub.repositories["owner/name"] = Repository(False)
    finished_run(tmp_path / "outputs" / "mine")
    assert "exists and is public" in refusal("push", "run=outputs/mine", "repo=owner/name")
    assert files(hub) == {}
    assert line("push", "run=outputs/mine", "repo=owner/name", "private=false") == 0
    assert files(hub).keys() == ADAPTER


def test_an_adapter_and_a_model_never_share_the_root(
    tmp_path: Path,
    line: Line,
    refusal: Refusal,
    hub: UploadHub,
    user: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    finished_run(tmp_path / "outputs" / "mine", merged=True)
    assert line("push", "run=outputs/mine", "repo=owner/a") == 0
    assert line("push", "run=outputs/mine", "repo=owner/a", "what=both") == 2
    assert "holds an adapter at its root" in capsys.readouterr().err
    assert files(hub, "owner/a").keys() == ADAPTER
    assert line("push", "run=outputs/mine", "repo=owner/b", "what=merged") == 0
    assert "Type what=both" in refusal("push", "run=outputs/mine", "repo=owner/b")
    assert line("push", "run=outputs/mine", "repo=owner/b", "what=both") == 0


def test_shards_replace_a_single_file_and_leave_other_files_alone(
    tmp_path: Path, line: Line, hub: UploadHub, user: str
) -> None:
    run = finished_run(tmp_path / "outputs" / "mine", merged=True)
    old = {"model.safetensors": b"old", "LICENSE": b"mine", "tf_model.h5": b"theirs"}
    hub.repositories["owner/name"] = Repository(True, dict(old))
    tensors = list(load_file(run.merged / "model.safetensors").items())
    (run.merged / "model.safetensors").unlink()
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, part in zip(shards, (tensors[:9], tensors[9:]), strict=True):
        save_file(dict(part), run.merged / name, {"format": "pt"})
    (run.merged / "model.safetensors.index.json").write_text("{}")
    assert line("push", "run=outputs/mine", "repo=owner/name", "what=merged") == 0
    sent = files(hub)
    assert "model.safetensors" not in sent
    assert {*shards, "model.safetensors.index.json", "LICENSE", "tf_model.h5"} <= sent.keys()
    (run.merged / shards[0]).unlink()
    assert line("push", "run=outputs/mine", "repo=owner/name", "what=merged") == 2


# ── refusals ─────────────────────────────────────────────────────────────────────────────────


def test_an_interrupted_upload_changes_nothing(
    tmp_path: Path, line: Line, refusal: Refusal, hub: UploadHub, user: str
) -> None:
    finished_run(tmp_path / "outputs" / "mine", merged=True)
    old = {"README.md": b"---\n---\nold", "model.safetensors": b"old"}
    hub.repositories["owner/name"] = Repository(True, dict(old))
    hub.breaks_at = 2
    said = refusal("push", "run=outputs/mine", "repo=owner/name", "what=both")
    assert "connection broke" in said
    assert "No file there has changed" in said
    assert files(hub) == old
    assert len(hub.stored) == 1, "one large file had arrived"
    hub.breaks_at = None
    assert line("push", "run=outputs/mine", "repo=owner/name", "what=both") == 0
    assert files(hub)["README.md"] != old["README.md"]


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ("/api/repos/create", 500, "failure of its own"),
        ("/api/repos/create", 401, "hf auth login"),
        ("/commit/", 403, "no right to write"),
        ("/preupload/", 429, "Type the same command later"),
        ("/preupload/", 503, "failure of its own"),
        ("PUT /lfs/", 400, "refuses"),
        ("/api/validate-yaml", 400, "README.md"),
    ],
)
def test_each_refusal_is_one_message(
    refusal: Refusal,
    tmp_path: Path,
    hub: UploadHub,
    user: str,
    request_: str,
    status: int,
    message: str,
) -> None:
    finished_run(tmp_path / "outputs" / "mine")
    hub.refuse = {request_: status}
    said = refusal("push", "run=outputs/mine", "repo=owner/name")
    assert said.startswith("error: repo=owner/name: ")
    assert message in said
    assert len(said.splitlines()) <= 3
    assert all(not one.files for one in hub.repositories.values())


def test_no_right_no_token_no_network(
    tmp_path: Path,
    line: Line,
    hub: UploadHub,
    user: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finished_run(tmp_path / "outputs" / "mine")

    def refused(repo: str = "owner/name") -> str:
        assert line("push", "run=outputs/mine", f"repo={repo}") == 2
        return capsys.readouterr().err

    assert "no right to write there" in refused("others/name")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "y" * 20)
    assert "does not take the access token" in refused()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "no access token" in (said := refused())
    assert "hf auth login" in said
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in refused()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as closed:  # a port where nobody listens
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert "could not be reached" in refused()
    assert hub.repositories == {}


@pytest.mark.parametrize("repo", ["name", "a/b/c", "owner/na me", "owner/..", "o--p/x", "o/x.git"])
def test_a_malformed_repository(refusal: Refusal, repo: str) -> None:
    said = refusal("push", "run=outputs/mine", f"repo={repo}")
    assert f"repo: expected owner/name as on the hub, found '{repo}'" in said


def test_a_run_that_is_not_merged_says_what_to_type(
    tmp_path: Path, line: Line, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run(tmp_path / "outputs" / "mine")
    assert line("push", "run=outputs/mine", "repo=owner/name", "what=both") == 2
    assert "lora-whisper merge run=outputs/mine" in capsys.readouterr().err


def test_the_command_is_known() -> None:
    assert push.COMMAND.name == "push"


def test_a_run_that_was_trained_and_merged_here(
    tmp_path: Path, world: World, line: Line, hub: UploadHub, user: str
) -> None:
    """What the other commands write is found clean: nobody has to edit a file before."""
    short = ("training.max_steps=1", "data.validation=null")
    assert line("train", *world.arguments("a", *short, "seed=3")) == 0
    assert line("merge", "run=outputs/a") == 0
    weights = (world.checkpoint / "model.safetensors").read_bytes()
    hub.repositories["lab/base"] = Repository(False, {"model.safetensors": weights})
    arguments = ("run=outputs/a", "repo=owner/name", "base=lab/base", "what=both")
    assert line("push", *arguments) == 0
    sent = files(hub)
    record = json.loads(sent["adapter/lora_whisper.json"])
    assert record["base"]["commit"] == hub.repositories["lab/base"].sha, "its weights were known"
    assert (
        record["date"]
        == json.loads((Path("outputs/a") / "summary.json").read_text())["finished"][:10]
    )
    for name, data in sent.items():
        assert str(tmp_path).encode() not in data, name
        assert world.checkpoint.name.encode() + b"/" not in data, name
