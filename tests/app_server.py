"""The server of `ovseg app` in a thread of the tests' own process, and a plain client for it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import uvicorn

from ovseg.app.routes import make_guarded
from ovseg.app.server import MOST_AT_ONCE, listen
from ovseg.app.session import Session
from ovseg.setup import Setup

TOKEN = "only-the-tests-know-this"
POCKET = {"by": "naive", "masks": 6, "device": "cpu"}


class Server:
    """A session that is served until `close`."""

    def __init__(self, path: Path | None, out: Path, **options: Any) -> None:
        self.session = Session.open(Setup.of("pocket", POCKET | options), path, out, "Ada")
        guarded, self.app = make_guarded(self.session, TOKEN)
        self.socket = listen("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(guarded, log_level="error", lifespan="off", limit_concurrency=MOST_AT_ONCE)
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, args=([self.socket],), daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={TOKEN}"

    def close(self) -> None:
        self.uvicorn.should_exit = self.uvicorn.force_exit = True
        self.thread.join(10)
        self.app.exports.close()
        assert self.session.close()
        self.socket.close()

    def raw(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = TOKEN,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request; status, headers and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        given = {"Authorization": f"Bearer {token}"} if token is not None else {}
        connection.request(method, path, body, given | dict(headers or {}))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    def get(self, path: str, **query: object) -> Any:
        """A GET's JSON; AssertionError, with what it says, for an error."""
        status, _, content = self.raw("GET", f"{path}?{urlencode(query)}")
        assert status == 200, content
        return json.loads(content)

    def post(self, path: str, **body: Any) -> Any:
        """A POST's JSON; AssertionError, with what it says, for an error."""
        status, content = self.refused(path, **body)
        assert status == 200, content
        return content

    def refused(self, path: str, **body: Any) -> tuple[int, Any]:
        """Status and JSON of a POST, whatever it is."""
        status, _, content = self.raw("POST", path, json.dumps(body))
        return status, json.loads(content)

    def ask(self, classes: str, background: str = "none", **more: Any) -> dict[str, Any]:
        """Ask, and wait until all images are labelled; the state after that."""
        self.post("/api/ask", classes=classes, background=background, **more)
        for _ in range(1200):
            state = self.get("/api/state", seen=0)
            if state["progress"]["state"] in ("done", "failed"):
                return state
            time.sleep(0.02)
        raise AssertionError("still at work")

    def connect(self) -> socket.socket:
        """A connection on which nothing is sent yet."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=15)
