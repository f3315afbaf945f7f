"""The page: the report's, with what asks, corrects and exports beside it, and the state that it begins with."""

from __future__ import annotations

import time
from importlib.resources import files
from typing import Any

from ovseg.app.models import read_asked
from ovseg.app.rows import EMPTY, REMARKS, Rows
from ovseg.app.session import Session
from ovseg.classes import BACKGROUND
from ovseg.export import WRITERS
from ovseg.report.page import Additions, assemble, page_data
from ovseg.run.folder import RunFolder
from ovseg.run.terminal import duration
from ovseg.sources import SOURCES

FIRST = 60  # rows that are in the page itself; the others follow
SCRIPTS = ("server.js", "ask.js", "tools.js", "edit.js", "start.js")


def page(session: Session, rows: Rows, nonce: str) -> bytes:
    """The page as UTF-8. nonce: of its content security policy."""
    with session.lock:
        ids = list(session.order)
        data = legend_data(session, rows) | {
            "images": [rows.row(id) for id in ids[:FIRST]],
            "later": [[id, session.state_of(id)] for id in ids[FIRST:]],
            "app": state(session, session.revision) | constants(session),
        }
    additions = Additions(
        lead=_part("lead.html"),
        tools=_part("tools.html"),
        style=_part("app.css"),
        script="\n".join(map(_part, SCRIPTS)),
        nonce=nonce,
    )
    return assemble(data["title"], data, (), additions)


def legend_data(session: Session, rows: Rows) -> dict[str, Any]:
    """What the page knows of the run beside its images: names, colours, statistics, facts."""
    run = session.run or RunFolder(session.out, {}, {}, {})
    title = session.out.resolve().name
    known = rows.known()
    names = len(session.legend.names) if session.legend else 0
    known = [row for row in known if all(index <= names for index, _, _ in row["classes"])]
    data = page_data(run, title, known, {}, None)
    return data | ({} if session.run else {"summary": []})


def constants(session: Session) -> dict[str, Any]:
    """What does not change while the server runs."""
    preset = session.setup.preset
    return {
        "formats": list(WRITERS),
        "sources": {name: source.about for name, source in SOURCES.items() if name != "files"},
        "preset": preset.name or preset.clip,
        "warning": preset.warning,
        "background": BACKGROUND,
        "note": session.note,
        "empty": EMPTY | {"version": "0", "file": ""},
        "remarks": REMARKS,
    }


def state(session: Session, revision: int) -> dict[str, Any]:
    """What changes: the run, what is asked, how far the work is. revision: the changes that the page knows of."""
    setup, progress = session.setup, session.progress
    try:
        asked = read_asked(session)
    except ValueError:
        asked = {"classes": [], "background": setup.preset.background}
    return {
        "epoch": session.epoch,
        "out": str(session.out),
        "readOnly": session.read_only(),
        "asked": asked,
        "by": setup.by,
        "masks": setup.options(None).masks,
        "speed": setup.options(None).speed,
        "revision": revision,
        "progress": {
            "state": progress.state,
            "text": progress.text,
            "done": progress.done,
            "total": progress.total,
            "image": progress.image,
            "share": _share(session),
            "left": _left(session),
            "notes": list(progress.notes),
        },
    }


def _share(session: Session) -> float:
    """How much of the work is done, 0..1."""
    progress = session.progress
    steps, of = progress.steps
    within = steps / of if of and progress.done < progress.total else 0.0
    return round(min(1.0, (progress.done + within) / max(1, progress.total)), 4)


def _left(session: Session) -> str:
    """How long the rest will take, as text; "" before that can be said."""
    progress = session.progress
    steps, of = progress.steps
    done = progress.done - progress.finished_before + (steps / of if of else 0.0)
    if progress.state != "working" or done < 0.1:
        return ""
    seconds = (time.monotonic() - progress.started) / done * max(0.0, progress.total - progress.finished_before - done)
    return duration(seconds)


def _part(name: str) -> str:
    return files("ovseg.app").joinpath(name).read_text(encoding="utf-8")
