"""What the page may ask for. Images are named by their ids, which are looked up: no path is ever made of a request."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from ovseg.app import commands, edits, page
from ovseg.app.exports import Exports
from ovseg.app.guard import MOST_JSON, Guard
from ovseg.app.labelling import Ask, embed, label_images
from ovseg.app.models import Models
from ovseg.app.pointing import Answers, point
from ovseg.app.rows import PICTURES, Rows
from ovseg.app.scores import scores
from ovseg.app.session import Progress, ReadOnly, Session, known
from ovseg.app.uploads import MOST_UPLOAD, TooLarge, Uploads
from ovseg.app.worker import Busy, Cancelled

MOST_ROWS = 400  # of an answer
POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
KEPT = {"cache-control": "private, max-age=86400, immutable"}  # of pictures, whose address holds their version


class Application:
    """A session as a Starlette application. Errors that a user can make are JSON with a line."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.rows, self.answers = Rows(session), Answers()
        self.models, self.exports, self.uploads = Models(session), Exports(session), Uploads(session)
        self.started: set[asyncio.Future[Any]] = set()

    def page(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        headers = {"content-security-policy": POLICY.format(nonce)}
        self.session.refresh()
        return Response(page.page(self.session, self.rows, nonce), media_type="text/html", headers=headers)

    def state(self, request: Request) -> Response:
        """What changed since the page asked last."""
        seen = _whole(request, "seen", 0)
        session = self.session
        session.refresh()
        changed, revision = session.changed_since(seen)
        part = changed[:MOST_ROWS]
        answer = page.state(session, revision)
        answer["rows"] = [self.rows.row(id) for id in part]
        if part:
            answer["legend"] = page.legend_data(session, self.rows)
        if len(part) < len(changed):  # too many: the page asks for all of them again
            answer["all"] = True
        return JSONResponse(answer)

    def rows_of(self, request: Request) -> Response:
        start = _whole(request, "from", 0)
        with self.session.lock:
            ids = self.session.order[start : start + MOST_ROWS]
            total = len(self.session.order)
        answer: dict[str, Any] = {"rows": [self.rows.row(id) for id in ids], "total": total}
        if start + len(ids) >= total:
            answer["legend"] = page.legend_data(self.session, self.rows)
        return JSONResponse(answer)

    def maps(self, request: Request) -> Response:
        row, maps = self.rows.detail(self._id(request))
        return JSONResponse({"row": row, "maps": maps})

    def picture(self, request: Request) -> Response:
        id, kind = self._id(request), request.query_params.get("kind")
        if kind not in PICTURES:
            raise ValueError(f"kind: expected one of {', '.join(PICTURES)}")
        media = "image/png" if kind == "tint" else "image/jpeg"
        return Response(self.rows.picture(id, kind), media_type=media, headers=KEPT)

    async def scores(self, request: Request) -> Response:
        id = self._id(request)
        return JSONResponse(await self._work(lambda: scores(self.session, self.models, id), quick=True))

    async def point(self, request: Request) -> Response:
        body = await _body(request)
        id, x, y = known(self.session, body.get("id")), body.get("x"), body.get("y")
        if not (type(x) is int and type(y) is int):
            raise ValueError("point: expected whole numbers x and y")
        if id not in self.session.items:
            raise ValueError(f"{id}: the image is no file here")
        task = lambda: point(self.session, self.models, self.answers, id, x, y)  # noqa: E731 - it captures the point
        return JSONResponse(await self._work(task))

    async def ask(self, request: Request) -> Response:
        body = await _body(request)
        self.session.check_writable()
        if self.session.progress.state in ("loading", "working"):
            raise ValueError("the models are at work: cancel that first, or wait")
        ask = Ask.read(body, self.session.setup)
        before, self.session.progress = self.session.progress, Progress(state="loading", text="waiting for its turn")
        try:
            future = self._submit(lambda: label_images(self.session, self.models, ask))
        except Busy:
            self.session.progress = before
            raise
        self.started.add(future)
        future.add_done_callback(self._ended)
        return JSONResponse({"started": True})

    async def words(self, request: Request) -> Response:
        """Names that are being typed: their embeddings are made while the rest is."""
        body = await _body(request)
        try:
            ask = Ask.read({**body, "classes": body.get("classes") or "thing"}, self.session.setup)
            await self._work(lambda: embed(self.models, ask), quick=True)
        except ValueError:  # half a name; what is wrong with it is told when it is asked
            return JSONResponse({"known": False})
        return JSONResponse({"known": True})

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self.started.discard(future)
        if not future.cancelled():
            future.exception()  # has been told in the session's progress

    async def cancel(self, request: Request) -> Response:
        self.session.worker.cancel()
        return JSONResponse({"cancelled": True})

    async def edit(self, request: Request) -> Response:
        body = await _body(request)
        id = known(self.session, body.get("id"))
        return await asyncio.to_thread(self._edited, id, body)

    def _edited(self, id: str, body: dict[str, Any]) -> Response:
        edits.edit(self.session, self.answers, id, body)
        row, maps = self.rows.detail(id)
        legend = page.legend_data(self.session, self.rows)
        return JSONResponse({"row": row, "maps": maps, "legend": legend})

    async def upload(self, request: Request) -> Response:
        self.session.check_writable()
        id = await self.uploads.take(request.query_params.get("name", ""), request.stream())
        return JSONResponse({"id": id, "row": await asyncio.to_thread(self.rows.row, id)})

    async def export(self, request: Request) -> Response:
        body = await _body(request)
        return JSONResponse(await asyncio.to_thread(self.exports.make, body))

    def download(self, request: Request) -> Response:
        name = request.query_params.get("format", "")
        if (path := self.exports.made.get(name)) is None:
            raise KeyError("no such export")
        return FileResponse(path, filename=f"{self.session.out.name}-{name}.zip", media_type="application/zip")

    def command(self, request: Request) -> Response:
        return JSONResponse(commands.shown(self.session))

    def _id(self, request: Request) -> str:
        return known(self.session, request.query_params.get("id"))

    def _submit(self, task: Callable[[], Any], *, quick: bool = False) -> asyncio.Future[Any]:
        return asyncio.wrap_future(self.session.worker.submit(task, quick=quick))

    async def _work(self, task: Callable[[], Any], *, quick: bool = False) -> Any:
        return await self._submit(task, quick=quick)


async def _body(request: Request) -> dict[str, Any]:
    """The request's JSON object. Raises `TooLarge`, and ValueError for anything else."""
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MOST_JSON:
            raise TooLarge(f"expected at most {MOST_JSON} bytes")
        parts.append(chunk)
    try:
        body = json.loads(b"".join(parts))
    except (ValueError, RecursionError) as error:
        raise ValueError("expected JSON") from error
    if not isinstance(body, dict):
        raise ValueError("expected a JSON object")
    return body


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or len(text) > 12:
        raise ValueError(f"{name}: expected a whole number")
    return int(text)


ERRORS: dict[type[Exception], int] = {
    KeyError: 404,
    ReadOnly: 409,
    TooLarge: 413,
    ValueError: 400,
    OSError: 500,
    MemoryError: 507,
    Busy: 503,
    Cancelled: 409,
    ClientDisconnect: 400,
    RuntimeError: 500,
}


def _told(status: int) -> Callable[[Request, Exception], Response]:
    def tell(request: Request, error: Exception) -> Response:
        line = str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__
        return JSONResponse({"error": line[:900]}, status, {"connection": "close"} if status == 413 else None)

    return tell


def make_guarded(session: Session, token: str, names: tuple[str, ...] = ()) -> tuple[Guard, Application]:
    """The ASGI application of a session behind its guard, and what is behind it."""
    app = Application(session)
    reading = {
        "/": app.page,
        "/api/state": app.state,
        "/api/rows": app.rows_of,
        "/api/maps": app.maps,
        "/api/picture": app.picture,
        "/api/scores": app.scores,
        "/api/download": app.download,
        "/api/command": app.command,
    }
    changing = {
        "/api/ask": app.ask,
        "/api/words": app.words,
        "/api/cancel": app.cancel,
        "/api/edit": app.edit,
        "/api/point": app.point,
        "/api/upload": app.upload,
        "/api/export": app.export,
    }
    routes = [Route(path, function, methods=["GET"]) for path, function in reading.items()]
    routes += [Route(path, function, methods=["POST"]) for path, function in changing.items()]
    handlers: Any = {kind: _told(status) for kind, status in ERRORS.items()}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), token, names, MOST_UPLOAD), app
