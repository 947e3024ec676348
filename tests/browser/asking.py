"""A server that is asked by hand, as those do who look for what it should not give out."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECRET = "nobody is to read this"


@dataclass(frozen=True)
class Server:
    """Where it listens; what it must not give out."""

    port: int
    secret: Path
    uploads: Path

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """The path as it stands: no client is to tidy it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest("GET" if body is None else "POST", path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.putheader("Content-Length", str(len(body or b"")))
        connection.endheaders(body)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, path: str, value: Any) -> tuple[int, bytes]:
        return self.ask(path, json.dumps(value).encode(), Content_Type="application/json")

    def upload(self, name: str, data: bytes) -> str:
        """Where the server says that it lies; "" where it was refused."""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        status, answer = self.ask(
            "/gradio_api/upload",
            head.encode() + data + b"\r\n--x--\r\n",
            Content_Type="multipart/form-data; boundary=x",
        )
        return str(json.loads(answer)[0]) if status == 200 else ""
