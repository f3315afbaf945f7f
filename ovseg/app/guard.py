"""Who may ask the server for anything: the right host, no foreign origin, and the token. Nothing else gets through.

As Jupyter has it: the address that is printed holds a random token; it is exchanged for a cookie, which scripts on the
page cannot read, and every later request must bring it (or the token itself, `Authorization: Bearer TOKEN`). The host
that a browser asks for must be one of ours, so that a foreign name that was made to lead here is refused; a page of
another origin may send nothing, and bodies are counted while they come in.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_JSON = 1 << 20  # bytes of a request's body that is no upload
MOST_ADDRESS = 8192  # characters of a request's address
READING = ("GET", "HEAD")
HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
NO_TOKEN = b"403: this page needs the address with its token, as `ovseg app` printed it when it started\n"


class Guard:
    """ASGI middleware. app: what is guarded; token: what must be known; names: of hosts, besides IP addresses, under
    which the server may be asked; most_upload: bytes of an upload's body."""

    def __init__(self, app: App, token: str, names: tuple[str, ...], most_upload: int) -> None:
        self.app, self.token = app, token
        self.names = {name.lower() for name in (*LOOPBACK, *names)}
        self.most_upload = most_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return  # web sockets are refused by not being accepted
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if refused := self._refusal(scope, headers):
            return await answer(send, *refused)
        cookie = f"ovseg-{(scope.get('server') or ('', 0))[1]}"
        if (given := self._token_in_address(scope)) is not None:
            if not self._is_token(given):
                return await answer(send, 403, NO_TOKEN)
            # Lax, not Strict: the browser comes from a file or another program the first time.
            value = f"{cookie}={self.token}; Path=/; HttpOnly; SameSite=Lax"
            return await answer(send, 303, b"", {"location": "/", "set-cookie": value})
        if not self._knows_token(headers, cookie):
            return await answer(send, 403, NO_TOKEN)
        most = self.most_upload if scope["path"] == "/api/upload" else MOST_JSON
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > most:
            return await answer(send, 413, f"413: too large, expected at most {most} bytes\n".encode())
        await self.app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, bytes] | None:
        """Why a request is refused whatever token it brings."""
        if len(scope["path"]) + len(scope["query_string"]) > MOST_ADDRESS:
            return 414, b"414: address too long\n"
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 403, b"403: not the name of this server\n"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return 403, b"403: not from this server's own page\n"
        if origin is None and scope["method"] not in READING and "authorization" not in headers:
            return 403, b"403: expected an Origin, or the token as Authorization\n"
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host names this server: one of its names, or any IP address, which no foreign name leads to."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _token_in_address(self, scope: Scope) -> str | None:
        if scope["path"] != "/" or scope["method"] not in READING:
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        return query["token"][0] if "token" in query else None

    def _knows_token(self, headers: dict[str, str], cookie: str) -> bool:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(value.strip()):
            return True
        pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        return any(name == cookie and self._is_token(value) for name, _, value in pairs)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


async def answer(send: Send, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    """Send a short answer as text. What the request still has to say is not read."""
    fields = {"content-type": "text/plain; charset=utf-8", "connection": "close", **HEADERS, **(headers or {})}
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    encoded.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def guarded(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in there]
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return guarded
