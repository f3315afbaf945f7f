"""`ovseg app` against those who mean it ill: nothing leaks, nothing runs, and the page still answers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from app_server import TOKEN, Server
from fuzzing import damaged, seeds, to_json
from PIL import Image
from processes import start
from run_folders import write_run

from ovseg.app.guard import MOST_JSON
from ovseg.app.labelling import Ask
from ovseg.app.uploads import MOST_UPLOAD, safe_parts
from ovseg.run.corrections import corrections
from ovseg.run.folder import read_run
from ovseg.run.images import RunImage

READING = ("/", "/api/state", "/api/rows", "/api/maps?id=a", "/api/picture?id=a&kind=photo", "/api/scores?id=a")
READING = (*READING, "/api/download?format=png", "/api/command")
CHANGING = ("/api/ask", "/api/words", "/api/cancel", "/api/edit", "/api/point", "/api/upload?name=x.png", "/api/export")
SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "secret.txt").write_text("TOP SECRET")
    Image.new("RGB", (4, 4), "red").save(folder / "secret.png")
    labels = np.array([[0, 1], [1, 255]])
    run = write_run(
        folder / "run",
        {"a": labels, "b <b>&\"'": labels},
        ["cat", SCRIPT],
        sources={"a": "../secret.txt", "b <b>&\"'": "/etc/passwd"},
    )
    served = Server(run, folder / "unused")
    yield served
    served.close()


def still_answers(server: Server) -> None:
    assert server.raw("GET", "/")[0] == 200 and server.get("/api/maps", id="a")["maps"]


@pytest.mark.parametrize("token", [None, "", "wrong-" * 4, TOKEN[:-1], f"{TOKEN}x"])
def test_without_the_token_nothing_answers(server, token):
    for method, paths in (("GET", READING), ("POST", CHANGING)):
        for path in paths:
            status, headers, content = server.raw(method, path, b"{}" if method == "POST" else None, token=token)
            assert status == 403 and b"token" in content or b"Origin" in content, path
            assert "set-cookie" not in headers and b"cat" not in content
    assert server.raw("GET", f"/?token={'x' * 24}", token=None)[0] == 403
    still_answers(server)


def test_the_address_with_the_token_gives_a_cookie_that_scripts_cannot_read(server):
    status, headers, _ = server.raw("GET", f"/?token={TOKEN}", token=None)
    assert status == 303 and headers["location"] == "/"
    assert headers["set-cookie"] == f"ovseg-{server.port}={TOKEN}; Path=/; HttpOnly; SameSite=Lax"
    cookie = {"Cookie": headers["set-cookie"].split(";")[0]}
    status, headers, content = server.raw("GET", "/", headers=cookie, token=None)
    assert status == 200 and TOKEN.encode() not in content
    assert headers["content-security-policy"].startswith("default-src 'none'") and headers["x-frame-options"] == "DENY"
    # The cookie alone changes nothing: a request of another page would bring it, too.
    body = json.dumps({"id": "a", "kind": "review"})
    own = {"Origin": f"http://127.0.0.1:{server.port}"}
    for origin, expected in (
        ({}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        (own, 200),
    ):
        assert server.raw("POST", "/api/edit", body, {**cookie, **origin}, token=None)[0] == expected


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "localhost@evil.example"]
)
def test_another_name_of_the_host_is_refused_whoever_asks(server, host):
    assert server.raw("GET", "/", headers={"Host": host})[0] in (400, 403)
    assert server.raw("GET", f"/?token={TOKEN}", headers={"Host": host})[0] in (400, 403)
    assert server.raw("GET", "/", headers={"Host": f"localhost:{server.port}"})[0] == 200


def test_a_foreign_origin_is_refused_even_with_the_token(server):
    for origin in ("http://evil.example", "null", "http://[", f"http://localhost:{server.port}", "http://127.0.0.1"):
        for method, path in (("GET", "/api/state"), ("POST", "/api/edit")):
            assert server.raw(method, path, b"{}" if method == "POST" else None, {"Origin": origin})[0] == 403


TRICKS = (
    "../secret",
    "../secret.png",
    "/etc/passwd",
    "..%2fsecret",
    "%2e%2e/secret",
    "a/../../secret",
    "a\x00",
    "run.json",
)
TRICKS = (*TRICKS, "run.json", "..\\secret", "a.json", ".", "", "a/", "//a", "C:\\a", "x" * 5000)


@pytest.mark.parametrize("id", TRICKS)
def test_no_path_leads_out_of_the_run(server, id):
    from urllib.parse import quote

    for path in ("maps", "picture", "scores"):
        for form in (quote(id, safe=""), quote(id, safe="/%")):
            status, _, content = server.raw("GET", f"/api/{path}?id={form}&kind=photo")
            assert status in (400, 404) and b"SECRET" not in content and b"root:" not in content
    assert server.refused("/api/edit", id=id, kind="review")[0] == 404
    assert server.refused("/api/point", id=id, x=0, y=0)[0] == 404
    assert server.raw("GET", f"/api/download?format={quote(id, safe='')}")[0] == 404
    for path in (
        "/../secret.txt",
        "/static/../../secret.txt",
        "/run/run.json",
        "/%2e%2e/secret.txt",
        "/api/../run.json",
    ):
        assert server.raw("GET", path)[0] == 404


def test_what_is_no_image_is_never_shown_whatever_a_record_says(server):
    for id in ("a", "b <b>&\"'"):
        status, _, content = server.raw("GET", f"/api/picture?kind=photo&id={urllib.request.quote(id)}")
        assert status in (400, 404) and b"SECRET" not in content and b"root:" not in content


def test_names_of_classes_and_files_are_only_text(server):
    status, headers, content = server.raw("GET", "/")
    text = content.decode()
    assert status == 200 and SCRIPT not in text and "<script>alert" not in text and "<img src=x" not in text
    assert "b <b>" not in text and headers["content-type"] == "text/html; charset=utf-8"
    for path in ("/api/rows", "/api/maps?id=a", "/api/command", "/api/maps?id=<script>"):
        assert server.raw("GET", path)[1]["content-type"] == "application/json"


@pytest.mark.parametrize(
    "name", ["../x.png", "/x.png", "a/../../x.png", "..\\x.png", ".x.png", "a//x.png", "x.svg", "x.html"]
)
def test_uploads_go_nowhere_else(server, name):
    with pytest.raises(ValueError):
        safe_parts(name)
    before = sorted(server.session.out.parent.rglob("*"))
    status = server.raw("POST", f"/api/upload?name={urllib.request.quote(name, safe='')}", b"x")[0]
    assert status == 400 and [path for path in sorted(server.session.out.parent.rglob("*")) if path not in before] in (
        [],
        [server.session.uploads],
    )


def test_two_gigabytes_are_refused_when_they_are_declared(server):
    with server.connect() as connection:
        connection.sendall(
            f"POST /api/upload?name=big.png HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            f"Authorization: Bearer {TOKEN}\r\nContent-Length: {2 << 30}\r\n\r\n".encode()
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")  # before a byte of it was sent
    for length in ("-1", "9" * 30, "x", "1e9"):
        with server.connect() as connection:
            connection.sendall(
                f"POST /api/edit HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
                f"Content-Length: {length}\r\n\r\n".encode()
            )
            assert connection.recv(1000).split(b" ")[1] in (b"413", b"400")
    still_answers(server)


def streamed(server: Server, path: str, total: int) -> tuple[bytes, int]:
    """Stream a body without a length; what the server answers, and how many bytes it took until then."""
    sent, chunk = 0, b"x" * (1 << 20)
    with server.connect() as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        try:
            while sent < total:
                connection.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                sent += len(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            return connection.recv(1000), sent
        except ConnectionResetError:
            return b"", sent


def test_two_gigabytes_are_refused_while_they_are_streamed(server, monkeypatch):
    monkeypatch.setattr("ovseg.app.uploads.MOST_UPLOAD", 5_000_000)
    answer, sent = streamed(server, "/api/upload?name=big.png", 2 << 30)
    assert sent < 100 << 20 and (answer == b"" or answer.startswith(b"HTTP/1.1 413"))
    assert not list(server.session.out.rglob("*.upload"))
    answer, sent = streamed(server, "/api/edit", 2 << 30)
    assert sent < 100 << 20 and (answer == b"" or answer.startswith(b"HTTP/1.1 413")) and MOST_UPLOAD == 100_000_000
    still_answers(server)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b'{"id": NaN}', b"[" * 100_000, b"\xff\xfe", b'{"id": {}}']
)
def test_bodies_that_are_no_request_are_refused_in_a_line(server, body):
    for path in ("/api/edit", "/api/ask", "/api/point", "/api/export"):
        status, headers, content = server.raw("POST", path, body)
        assert status in (400, 404) and headers["content-type"] == "application/json"
        assert "Traceback" not in json.loads(content)["error"] and "\n" not in json.loads(content)["error"]
    assert len(body) < MOST_JSON


EDITS = (
    {"id": "a", "kind": "masks", "masks": [0, 1], "to": "cat"},
    {"id": "a", "kind": "stroke", "points": [[0, 0], [1, 1]], "radius": 1.5, "to": None},
    {"id": "a", "kind": "answer", "key": "1", "cut": 9, "to": "cat"},
    *({"id": "a", "kind": kind} for kind in ("undo", "redo", "review", "unreview", "own")),
)
ASK = {
    "classes": "cat\ndog; puppy",
    "background": "threshold=0.5",
    "by": "slic",
    "masks": 4,
    "speed": "fast",
    "first": "a",
}
EXPORT = {"format": "png", "unsure": 0.5, "components": True, "images": False}


def test_fuzzed_requests_are_done_or_refused_in_a_line(server) -> None:
    """Values of other kinds in every place; see `fuzzing`."""
    for seed in seeds(150):
        draw = random.Random(seed)
        path, sound = draw.choice([("/api/edit", edit) for edit in EDITS] + [("/api/export", EXPORT), ("", ASK)])
        body = damaged(sound, draw, 2)
        try:
            if path:
                status, headers, content = server.raw("POST", path, to_json(body).encode())
                assert status in (200, 400, 404) and headers["content-type"] == "application/json"
                assert status == 200 or "\n" not in json.loads(content)["error"]
            elif isinstance(body, dict):
                with contextlib.suppress(ValueError):
                    Ask.read(json.loads(json.dumps(body)), server.session.setup)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {path} {str(body)[:200]}: {error!r}") from error
    assert read_run(server.session.out).ids.keys() == {"a", "b <b>&\"'"}
    still_answers(server)


def test_a_thousand_requests_at_once_leave_a_page_that_answers(server):
    answers: list[int] = []

    def ask(number: int) -> None:
        path = ("/api/state", "/api/rows", "/api/picture?id=a&kind=tint", "/api/maps?id=a")[number % 4]
        try:
            answers.append(server.raw("GET", path, token=None if number % 10 == 0 else TOKEN)[0])
        except (OSError, http.client.HTTPException):
            answers.append(0)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1000)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert time.monotonic() - begun < 60 and len(answers) == 1000 and set(answers) <= {0, 200, 403, 503}
    assert answers.count(200) > 100 and answers.count(403) <= 100
    still_answers(server)


def test_a_token_can_be_guessed_neither_by_time_nor_by_trying(server):
    assert all(server.raw("GET", "/api/state", token=f"{number:024d}")[0] == 403 for number in range(50))


def serve_in_process(folder: Path, log: Path) -> tuple[object, int]:
    """`ovseg app` in a process of its own; the process and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(
        ["app", str(folder), "--no-browser", "--token", TOKEN, "--port", str(port), "--preset", "pocket"], log
    )
    for _ in range(1200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process, port
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def post(port: int, path: str, body: dict) -> dict:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("trials", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_kill_9_during_saves_loses_nothing_that_was_said_to_be_saved(tmp_path, trials):
    labels = np.random.default_rng(0).integers(0, 3, (300, 400))
    run = write_run(tmp_path / "run", {"a": labels}, ["background", "cat", "dog"])
    for trial in range(trials):
        process, port = serve_in_process(run, tmp_path / "log")
        post(port, "/api/edit", {"id": "a", "kind": "stroke", "points": [[trial, 0]], "radius": 1, "to": trial % 3})
        saved = corrections(run, "a").stands
        killer = threading.Timer(0.2 + 0.13 * trial, lambda pid=process.pid: os.kill(pid, signal.SIGKILL))
        killer.start()
        try:
            for number in range(10_000):
                stroke = [[number * 7 % 400, number * 13 % 300]]
                post(port, "/api/edit", {"id": "a", "kind": "stroke", "points": stroke, "radius": 9, "to": number % 3})
                saved = corrections(run, "a").stands
        except (OSError, http.client.HTTPException):
            pass
        process.join()
        found = corrections(run, "a")
        assert process.exitcode == -signal.SIGKILL and found.stands >= saved > 0
        assert RunImage(read_run(run), "a").index_map().shape == (300, 400)
        own = RunImage(read_run(run), "a", uncorrected=True).index_map()
        assert (own == labels).all()


def test_ctrl_c_ends_it_cleanly(tmp_path):
    labels = np.zeros((4, 4), int)
    run = write_run(tmp_path / "run", {"a": labels}, ["cat"])
    process, port = serve_in_process(run, tmp_path / "log")
    assert post(port, "/api/edit", {"id": "a", "kind": "review"})["row"]["reviewed"]
    os.kill(process.pid, signal.SIGINT)
    process.join(20)
    assert process.exitcode == 0 and "Traceback" not in (tmp_path / "log").read_text()
    assert f"open http://127.0.0.1:{port}/?token={TOKEN}" in (tmp_path / "log").read_text()


def test_the_token_is_random_and_new_each_time(monkeypatch, tmp_path):
    from argparse import Namespace

    from ovseg.cli.app import _token

    tokens = {_token(Namespace(token=None, host="127.0.0.1")) for _ in range(20)}
    assert len(tokens) == 20 and min(map(len, tokens)) >= 32
