"""The server: its socket, its address with the token, the browser, and a clean end on Ctrl-C."""

from __future__ import annotations

import contextlib
import html
import os
import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path

from ovseg.app.session import Session

PORT = 8770
TRIES = 50  # ports that are tried from the first one on, where none was asked for
MOST_AT_ONCE = 400  # connections; more are told to come again
BROWSER_SECONDS = 60  # the file that leads the browser here is removed after that


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens. port: None for the first free one from `PORT` on, 0 for any.

    Raises ValueError, naming host or port, where it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports = range(PORT, PORT + TRIES) if port is None else [port]
    for one in ports:
        try:
            return socket.create_server((host, one), family=family, backlog=1024)
        except socket.gaierror as error:
            raise ValueError(f"host: {host!r}: no such address here ({error.strerror})") from error
        except OverflowError as error:
            raise ValueError(f"port: expected 0 to 65535, got {one}") from error
        except OSError as error:
            if port is not None or "assign" in str(error):
                raise ValueError(f"port: cannot listen at {host}, port {one} ({error.strerror})") from error
    raise ValueError(f"port: all from {PORT} to {PORT + TRIES - 1} are taken; choose one with --port")


def address(host: str, port: int, token: str) -> str:
    """The page's address, which lets its reader in."""
    shown = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/?token={token}"


def serve(
    session: Session,
    token: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    names: tuple[str, ...] = (),
    *,
    browser: bool = True,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve a session until Ctrl-C or SIGTERM. tell: gets the address. Raises ValueError as `listen`."""
    import uvicorn

    from ovseg.app.routes import make_guarded

    with contextlib.closing(listen(host, port)) as listening:
        guarded, app = make_guarded(session, token, names)
        here = address(host, listening.getsockname()[1], token)
        tell(f"open {here}")
        config = uvicorn.Config(
            guarded,
            log_level="error",
            access_log=False,
            server_header=False,
            lifespan="off",
            limit_concurrency=MOST_AT_ONCE,
            timeout_graceful_shutdown=3,
            timeout_keep_alive=15,
        )
        if browser:
            open_browser(here)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # which uvicorn raises again when all is closed
            pass
        finally:
            app.exports.close()
            if not session.close():
                tell("stopped within an image, which will be done again")


def open_browser(here: str) -> None:
    """Open the page by a file that only this user can read: a command line is seen by all, and would show the token."""
    descriptor, name = tempfile.mkstemp(prefix="ovseg-", suffix=".html")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(here)}">')

    def work() -> None:
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(Path(name).as_uri())
        time.sleep(BROWSER_SECONDS)
        Path(name).unlink(missing_ok=True)

    threading.Thread(target=work, daemon=True).start()
