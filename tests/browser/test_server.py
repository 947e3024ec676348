"""What a server gives out: its page, and no file of the machine by any road that is known."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from lora_whisper.browser.record_page import MOST_BYTES, record_page
from lora_whisper.browser.server import own_folder, running
from lora_whisper.config import ServedConfig
from lora_whisper.recording.collection import Collection
from tests.browser.asking import SECRET, Server
from tests.browser.conftest import free_port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    secret = folder / "secret.txt"
    secret.write_text(SECRET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ALLOWED_PATHS", str(folder))
        patch.chdir(folder)
        collection = Collection(folder / "mine", ["Habari."])
        port = free_port()
        with (
            own_folder() as uploads,
            running(
                record_page(collection, "amina", lambda: ""),
                ServedConfig(port=port),
                MOST_BYTES,
            ),
        ):
            yield Server(port, secret, uploads)
    assert not uploads.exists(), "whatever was uploaded is gone"


def roads(file: str) -> list[str]:
    """Requests for a file that have led to one in some version of some server."""
    up = "../" * 12
    encoded = file.replace("/", "%2f").replace(".", "%2e")
    below = file.lstrip("/")
    given = [
        *(file, f"/{file}", f"file://{file}", f"file:{file}", f"localhost{file}", f"{up}{below}"),
        *("%2e%2e/" * 12 + below, "..%2f" * 12 + below, "%252e%252e%252f" * 12 + below),
        *("..\\" * 12 + below, "....//" * 12 + below, encoded, f"{file}%00.png", f"{file}?a=.css"),
    ]
    places = (
        *("gradio_api/file=", "gradio_api/file/", "file=", "file/", "static/", "assets/"),
        *("svelte/", "gradio_api/custom_component/1/client/", "gradio_api/proxy="),
        *("gradio_api/stream/x/x/1/", "theme.css/", "favicon.ico/", "gradio_api/", ""),
    )
    return [f"/{place}{one}" for place in places for one in given]


def test_no_road_leads_to_a_file_of_the_machine(server: Server) -> None:
    """Nor of the folder that it was started in, whatever the environment allows."""
    name = os.path.relpath(server.secret)
    asked = [*roads("/etc/passwd"), *roads(str(server.secret)), f"/gradio_api/file={name}"]
    (server.uploads / "link.txt").symlink_to(server.secret)
    asked.append(f"/gradio_api/file={server.uploads}/link.txt")
    for road in asked:
        _, found = server.ask(road)
        assert b"root:" not in found, road
        assert SECRET.encode() not in found, road


@pytest.mark.parametrize(
    "name", ["../../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "%2e%2e/e.txt"]
)
def test_an_upload_goes_nowhere_but_into_its_folder(server: Server, name: str) -> None:
    before = set(server.secret.parent.rglob("*"))
    path = server.upload(name, b"evil")
    assert before == set(server.secret.parent.rglob("*"))
    assert not path or Path(path).resolve().is_relative_to(server.uploads)


def test_a_large_upload_is_refused(server: Server) -> None:
    assert server.upload("a.wav", bytes(MOST_BYTES // 2))
    assert not server.upload("a.wav", bytes(MOST_BYTES + 1))


@pytest.mark.parametrize("road", ["monitoring", "monitoring/summary", "gradio_api/runs"])
def test_what_nobody_asked_for_is_off(server: Server, road: str) -> None:
    assert server.ask(f"/{road}")[0] in (403, 404)


def test_the_page_itself_asks_nobody_else(server: Server) -> None:
    """No font, script or statistics of another machine: it works without a network."""
    _, page = server.ask("/")
    _, theme = server.ask("/theme.css")
    assert b"googleapis" not in page + theme
    assert b'"analytics_enabled":false' in page.replace(b" ", b"")


def recorder(server: Server) -> int:
    """The number that Gradio has given to the part of the page."""
    parts = json.loads(server.ask("/config")[1])["components"]
    return next(int(one["id"]) for one in parts if one["props"].get("elem_id") == "recorder")


def test_functions_of_the_page_answer_with_a_message_and_never_with_a_file(server: Server) -> None:
    number = recorder(server)
    for asked in (
        {},
        {"speaker": "../.."},
        {"speaker": "amina", "text": "../../secret.txt"},
        7,
        [],
    ):
        for name in ("state", "take", "skip", "back", "sound"):
            given = {"session_hash": "x", "component_id": number, "fn_name": name, "data": asked}
            status, answer = server.post("/gradio_api/component_server", given)
            assert status == 200
            assert SECRET.encode() not in answer
    for name in ("__init__", "postprocess", "get_config"):
        given = {"session_hash": "x", "component_id": number, "fn_name": name, "data": []}
        assert server.post("/gradio_api/component_server", given)[0] == 404


def test_another_sites_page_may_not_speak_to_it(server: Server) -> None:
    """A page that somebody else wrote, opened in a browser of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", "/config", headers={"Origin": "https://evil.example"})
    assert connection.getresponse().getheader("Access-Control-Allow-Origin") is None
    connection.close()


def test_who_has_no_password_gets_nothing(tmp_path: Path) -> None:
    port = free_port()
    served = ServedConfig(port=port, user="amina", password="secret")
    collection = Collection(tmp_path / "mine", ["Habari."])
    with (
        own_folder() as uploads,
        running(record_page(collection, "amina", lambda: ""), served, MOST_BYTES),
    ):
        server = Server(port, tmp_path, uploads)
        given = {"session_hash": "x", "component_id": 1, "fn_name": "state", "data": {}}
        assert server.post("/gradio_api/component_server", given)[0] == 401
        assert server.ask("/config")[0] == 401
        assert b"Habari" not in server.ask("/")[1]
        assert server.ask("/gradio_api/upload", b"")[0] == 401
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        assert server.ask("/login", b"username=amina&password=wrong", **form)[0] == 400
        assert server.ask("/login", b"username=amina&password=secret", **form)[0] == 200
