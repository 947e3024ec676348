"""A hub of one's own: as much of huggingface.co's interface as data sets are read through."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "a" * 40
CONVERTED = "c" * 40  # of refs/convert/parquet


class _Hub(BaseHTTPRequestHandler):
    """Folders below `root`: OWNER/NAME as main, OWNER/NAME@parquet as refs/convert/parquet."""

    protocol_version = "HTTP/1.1"
    root: Path
    gated: frozenset[str] = frozenset()
    downloads: list[str]  # paths of files, one for each GET

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self._answer(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self, body: str = "") -> None:
        path = unquote(urlparse(self.path).path)
        if found := re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/(.+))?", path
        ):
            self._api(found[1], found[2], found[3], body)
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/(.+)", path):
            self._file(found[1], found[2])
        else:
            self._error(404, "EntryNotFound")

    def _api(self, name: str, verb: str | None, rest: str | None, body: str) -> None:
        if not self._is_open(name):
            return
        revision, inside = self._revision(rest or "main")
        folder = self._folder(name, revision)
        if folder is None:
            self._error(404, "RevisionNotFound")
        elif verb == "tree":
            below = folder / inside
            self._json(self._entries(folder, below) if below.is_dir() else None)
        elif verb == "paths-info":
            wanted = (
                json.loads(body)["paths"]
                if body.startswith("{")
                else re.findall("paths=([^&]+)", body)
            )
            self._json(
                [
                    self._entry(folder, folder / unquote(path))
                    for path in wanted
                    if (folder / unquote(path)).exists()
                ]
            )
        else:
            files = [
                {"rfilename": entry["path"]}
                for entry in self._entries(folder, folder)
                if entry["type"] == "file"
            ]
            self._json(
                {
                    "id": name,
                    "sha": revision,
                    "siblings": files,
                    "private": False,
                    "gated": False,
                    "tags": [],
                }
            )

    def _is_open(self, name: str) -> bool:
        if not (self.root / name).is_dir():
            self._error(404, "RepoNotFound")
        elif name in self.gated:
            self._error(403, "GatedRepo")
        else:
            return True
        return False

    def _revision(self, rest: str) -> tuple[str, str]:
        """The commit that a path begins with, and what follows it."""
        for name, commit in (
            ("refs/convert/parquet", CONVERTED),
            ("main", COMMIT),
            (CONVERTED, CONVERTED),
            (COMMIT, COMMIT),
        ):
            if rest == name or rest.startswith(f"{name}/"):
                return commit, rest[len(name) + 1 :]
        return rest.partition("/")[0], rest.partition("/")[2]

    def _folder(self, name: str, revision: str) -> Path | None:
        folder = {COMMIT: self.root / name, CONVERTED: self.root / f"{name}@parquet"}.get(revision)
        return folder if folder is not None and folder.is_dir() else None

    def _entries(self, folder: Path, below: Path) -> list[dict[str, object]]:
        return [self._entry(folder, path) for path in sorted(below.rglob("*"))]

    def _entry(self, folder: Path, path: Path) -> dict[str, object]:
        name = path.relative_to(folder).as_posix()
        oid = hashlib.sha1(name.encode()).hexdigest()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": oid, "size": 0}
        return {"type": "file", "path": name, "oid": oid, "size": path.stat().st_size}

    def _file(self, name: str, rest: str) -> None:
        if not self._is_open(name):
            return
        revision, inside = self._revision(rest)
        folder = self._folder(name, revision)
        if folder is None:
            return self._error(404, "RevisionNotFound")
        if not (folder / inside).is_file():
            return self._error(404, "EntryNotFound", {"X-Repo-Commit": revision})
        data = (folder / inside).read_bytes()
        headers = {
            "X-Repo-Commit": revision,
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if self.command == "GET":
            self.downloads.append(f"{name}/{inside}")
        if part is None:
            return self._send(200, data, headers)
        first, last = int(part[1]), min(int(part[2] or len(data) - 1), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(206, data[first : last + 1], headers)

    def _json(self, value: object) -> None:
        if value is None:
            return self._error(404, "EntryNotFound")
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, **(headers or {})})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def hub_server(root: Path, gated: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str]]]:
    """Serve the folders below `root`; gives the address, and what has been downloaded so far."""
    downloads: list[str] = []
    handler = type("Hub", (_Hub,), {"root": root, "gated": gated, "downloads": downloads})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", downloads
    finally:
        server.shutdown()
        server.server_close()
