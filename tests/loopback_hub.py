"""A hub of this machine: serves folders as repositories over the hub's own HTTP interface, and keeps count."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import sleep

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Fault:
    """An answer that is an error, as the hub gives it."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)


GATED = Fault(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted."})
UNKNOWN = Fault(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})


@dataclass
class Hub:
    """repositories: "owner/name" -> folder. asked: the paths of all requests, in their order.

    Of safetensors files the SHA-256 is stated, as the hub does for large files; those in `spoiled`, by their path in a
    repository, are served with another last byte, and of those in `cut` half before the connection ends. faults: what
    is answered instead, by the beginning of a request's path. delay: seconds before each answer.
    """

    repositories: dict[str, Path]
    address: str = ""
    spoiled: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    faults: dict[str, Fault] = field(default_factory=dict)
    delay: float = 0
    asked: list[str] = field(default_factory=list)

    def environment(self, home: Path) -> dict[str, str]:
        """What a process needs to take this for the hub, with an empty cache in `home`."""
        return {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}


@contextmanager
def loopback_hub(repositories: dict[str, Path]) -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub(repositories)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:  # noqa: N802 - the library's spelling
            self.answer(body=False)

        def do_GET(self) -> None:  # noqa: N802
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0].strip("/")
            hub.asked.append(path)
            sleep(hub.delay)
            for beginning, fault in hub.faults.items():
                if path.startswith(beginning):
                    return self.send(b"{}", body, fault.headers, fault.status)
            for name, folder in hub.repositories.items():
                if path.startswith(f"api/models/{name}"):
                    return self.send(json.dumps(_facts(name, folder, path)).encode(), body, {})
                if path.startswith(f"{name}/resolve/") and (file := folder / path.split("/", 4)[4]).is_file():
                    return self.send_file(file, path.split("/", 4)[4], body)
            self.send(b"{}", body, {"X-Error-Code": "EntryNotFound"}, 404)

        def send_file(self, file: Path, name: str, body: bool) -> None:
            content, headers = file.read_bytes(), {"X-Repo-Commit": COMMIT}
            if name.endswith(".safetensors"):
                headers |= {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"'}
                headers |= {"X-Linked-Size": str(len(content))}
            if name in hub.spoiled:
                content = content[:-1] + bytes([content[-1] ^ 1])
            self.send(content, body, headers, most=len(content) // 2 if name in hub.cut else None)

        def send(
            self, content: bytes, body: bool, headers: dict[str, str], status: int = 200, most: int | None = None
        ) -> None:
            self.send_response(status)
            etag = hashlib.sha1(content).hexdigest()
            for key, value in {"ETag": f'"{etag}"', "Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content[:most])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _facts(name: str, folder: Path, path: str) -> object:
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    if "/tree/" in path:
        return [{"type": "file", "path": file, "size": (folder / file).stat().st_size, "oid": COMMIT} for file in files]
    return {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
