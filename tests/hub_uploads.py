"""A hub of one's own for uploads: as much of huggingface.co's interface as a commit needs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

TOKEN = "hf_" + "x" * 20  # the only one that is known here


@dataclass
class Repository:
    """What readers see; a commit replaces all of it at once."""

    is_private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)  # their headers

    @property
    def sha(self) -> str:
        return f"{len(self.commits):040x}"


@dataclass
class UploadHub:
    """A running hub, and how it is to misbehave."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # large files by sha256, seen by nobody
    requests: list[str] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)  # what repositories were asked for
    owners: frozenset[str] = frozenset({"owner"})  # whose repositories the token may write
    refuse: dict[str, int] = field(default_factory=dict)  # part of a request to an HTTP status
    breaks_at: int | None = None  # which large file breaks the connection, from 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: UploadHub

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlparse(self.path).path)
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        if self.command == "PUT" and self._breaks():
            self.close_connection = True
            self.connection.close()
            return
        body = self._body()
        for part, status in self.hub.refuse.items():
            if part in request:
                return self._json({"error": f"refused with {status}"}, status)
        if not self._may_write(path):
            return
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            self._store(found[1], body)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(body))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit)/main)?", path):
            self._model(found[1], found[2], body)
        else:
            self._json({"error": "no such address"}, 404)

    def _breaks(self) -> bool:
        puts = [one for one in self.hub.requests if one.startswith("PUT")]
        return self.hub.breaks_at is not None and len(puts) >= self.hub.breaks_at

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _may_write(self, path: str) -> bool:
        if path.startswith("/lfs/"):  # a signed address, as large files have it
            return True
        is_known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not is_known:
            self._json({"error": "Invalid username or password."}, 401)
        return is_known

    def _create(self, asked: dict[str, Any]) -> None:
        self.hub.created.append(asked)
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.hub.address}/{name}"
        if asked["organization"] not in self.hub.owners:
            self._json({"error": "You don't have the rights"}, 403)
        elif name in self.hub.repositories:
            self._json({"error": "You already created this model repo", "url": url}, 409)
        else:
            is_private = asked.get("visibility") == "private" or asked.get("private") is True
            self.hub.repositories[name] = Repository(is_private)
            self._json({"url": url, "name": name})

    def _validate(self, content: str) -> None:
        is_whole = content.startswith("---\n") and "\n---\n" in content[4:]
        errors = [] if is_whole else [{"message": "no metadata"}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _model(self, name: str, verb: str | None, body: bytes) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._json({"error": "Repository not found"}, 404, "RepoNotFound")
        if verb == "preupload":
            self._preupload(json.loads(body))
        elif verb == "commit":
            self._commit(name, repository, [json.loads(line) for line in body.splitlines()])
        else:
            siblings = [
                {"rfilename": path, "size": len(data)} | _large(path, data)
                for path, data in repository.files.items()
            ]
            about = {"id": name, "sha": repository.sha, "private": repository.is_private}
            self._json(about | {"siblings": siblings, "tags": [], "gated": False})

    def _preupload(self, asked: dict[str, Any]) -> None:
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if _is_large(one["path"]) else "regular",
                "shouldIgnore": False,
            }
            for one in asked["files"]
        ]
        self._json({"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}},
            }
            for one in asked["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._json({"error": "another content was announced"}, 400)
        self.hub.stored[oid] = body
        self._json({})

    def _commit(self, name: str, repository: Repository, lines: list[dict[str, Any]]) -> None:
        files = dict(repository.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                header = value
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.stored:
                    return self._json({"error": "a large file is missing"}, 400)
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        repository.files = files
        repository.commits.append(header)
        url = f"{self.hub.address}/{name}/commit/{repository.sha}"
        self._json({"success": True, "commitOid": repository.sha, "commitUrl": url})

    def _json(self, value: object, status: int = 200, code: str = "") -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def _large(path: str, data: bytes) -> dict[str, Any]:
    if not _is_large(path):
        return {}
    digest = hashlib.sha256(data).hexdigest()
    return {"lfs": {"sha256": digest, "size": len(data), "pointerSize": 134}}


@contextmanager
def upload_hub() -> Iterator[UploadHub]:
    """Run one for the duration of a `with`."""
    hub = UploadHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
