"""Asking: all images of the session labelled with the names that were typed, into a run folder, as `ovseg label` does.

Analyses are kept, so that other names need no diffusion model. A folder in which a person corrected or reviewed
something is never overwritten: other names go to a folder beside it, which uses its analyses.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emerdiff.settings import show
from ovseg.app.models import ASKED, Models
from ovseg.app.session import Progress, Session
from ovseg.app.worker import Cancelled
from ovseg.classes import ClassList, build_vocabulary, parse_classes
from ovseg.files import json_bytes, write_atomically
from ovseg.run.attempt import attempt
from ovseg.run.corrections import is_corrected
from ovseg.run.folder import RunFolder, differing, read_run
from ovseg.run.inputs import Item, prepare
from ovseg.run.kept import Kept
from ovseg.run.record import Run
from ovseg.run.terminal import one_line
from ovseg.run.work import LabelJob, LabelWorker
from ovseg.run.writers import writing
from ovseg.setup import Setup

MOST_TYPED = 100  # names that are embedded while they are typed


@dataclass(frozen=True)
class Ask:
    """What is asked: names as they were typed, the rule for the rest, and how masks are made."""

    classes: ClassList
    background: str
    setup: Setup
    first: str | None = None  # the id to be labelled first

    @classmethod
    def read(cls, body: Mapping[str, Any], setup: Setup) -> Ask:
        """From the page's JSON: "classes", "background", and if given "by", "masks", "speed", "first".

        Raises ValueError, naming the field, for what cannot be meant.
        """
        text = body.get("classes")
        if not isinstance(text, str):
            raise ValueError("classes: expected names")
        entries = [line.strip().rstrip(",") for line in text.splitlines()]
        classes = parse_classes(",".join(entry for entry in entries if entry))
        background = body.get("background") or setup.preset.background
        if not isinstance(background, str):
            raise ValueError("background: expected a rule")
        build_vocabulary(classes, background)
        settings, by = dict(setup.settings), body.get("by") or setup.by
        for name, kind in (("masks", int), ("speed", str)):
            if (value := body.get(name)) is not None:
                if not isinstance(value, kind) or isinstance(value, bool):
                    raise ValueError(f"{name}: expected {kind.__name__}, got {show(value)}")
                settings[name] = value
        if not isinstance(by, str):
            raise ValueError("by: expected a mask source")
        if settings == dict(setup.settings) and by == setup.by:
            return cls(classes, background, setup, body.get("first"))
        masks_from = setup.masks_from if by == "files" else None
        changed = replace(setup, settings=settings, by=by, masks_from=masks_from, recorded=None)
        return cls(classes, background, changed, body.get("first"))

    @property
    def entries(self) -> list[str]:
        """The names as "name; alias" entries."""
        return ["; ".join(group) for group in self.classes.aliases]


def embed(models: Models, ask: Ask) -> None:
    """Embed the names of what will be asked, so that asking needs only masks. A quick task of the worker."""
    if len(ask.classes.names) <= MOST_TYPED:
        models.load().encode(ask.classes, ask.background)


def label_images(session: Session, models: Models, ask: Ask) -> None:
    """Label every image that is not finished, as a task of the worker. How it goes is in `session.progress`.

    Raises ValueError where nothing can be done.
    """
    progress = session.progress = Progress(state="loading", text="loading the models", started=time.monotonic())
    try:
        _label(session, models, ask, progress)
    except Cancelled:
        progress.state, progress.text = "done", "cancelled; what is done is kept"
    except BaseException as error:
        progress.state, progress.text = "failed", one_line(str(error)) or type(error).__name__
        raise
    finally:
        session.writing = False


def _label(session: Session, models: Models, ask: Ask, progress: Progress) -> None:
    segmenter = models.load(ask.setup)
    session.setup = ask.setup
    session.worker.between()
    bias = _bias(session, ask)
    job = LabelJob(ask.setup, ask.classes, ask.background, session.out, keep_analysis=True, background_bias=bias)
    worker = job.start_with(segmenter)
    progress.notes = worker.text.vocabulary.notes
    out, overwrite, facts = _place(session, worker)
    if out != session.out:
        kept = _usable(session, worker)
        job = replace(job, out=out, analyses=kept)
        worker = replace(worker, job=job)
        progress.notes += (f"{session.out} holds corrections and stays as it is; these names go to {out}",)
    items = _in_order(session, ask.first)
    if not items:
        raise ValueError("no images yet: drop some here first")
    prepare(out, items, job.files, overwrite=overwrite)
    session.writing = True  # from here on the lock is ours
    with writing(out, None):
        run = Run(out, facts, job.files, time.monotonic() - progress.started, None, overwrite)
        todo = run.open(items)
        job.kept.expect(todo, worker.facts, worker.source, tell=lambda line: None)
        with run.recording(todo):
            _show(session, models, worker, ask, RunFolder(out, facts, run.ids, {}))
            _each(session, run, worker, todo, progress)
    session.writing = False
    session.take_run(read_run(out))
    failed = sum(entry["state"] == "failed" for entry in run.ids.values())
    progress.state = "done"
    progress.text = f"{len(items)} images" + (f", {failed} failed" if failed else "")


def _bias(session: Session, ask: Ask) -> float:
    """What is added to the background words' logits: as in the open run, where its rule is asked for again."""
    facts = session.run.facts if session.run else {}
    return float(facts.get("background_bias") or 0.0) if facts.get("background") == ask.background else 0.0


def _each(session: Session, run: Run, worker: LabelWorker, todo: list[Item], progress: Progress) -> None:
    """Label the images one after the other; quick tasks of the pages come between the steps."""
    progress.state, progress.text = "working", ""
    progress.done = progress.finished_before = len(run.ids) - len(todo)
    progress.total, progress.started = len(run.ids), time.monotonic()

    def step(done: int, total: int) -> None:
        progress.steps = done, total
        session.worker.between()

    for item in todo:
        session.worker.between()
        progress.image, progress.steps = item.id, (0, 0)
        run.note(attempt(worker, item, step))
        progress.done += 1
        session.changed(item.id)


def _show(session: Session, models: Models, worker: LabelWorker, ask: Ask, run: RunFolder) -> None:
    """Let the pages see the run as it grows, and note what was asked."""
    noted = {
        "classes": ask.entries,
        "background": ask.background,
        "vocabulary_sha256": worker.text.vocabulary.sha256,
    }
    write_atomically(run.path / ASKED, json_bytes(noted))
    with session.lock:
        session.out, session.run = run.path, run
        models.text = worker.text
        session.count()
        session.changed(*run.ids)


def _in_order(session: Session, first: str | None) -> list[Item]:
    """The images to label: the one that is looked at before the others."""
    with session.lock:
        return sorted(session.items.values(), key=lambda item: item.id != first)


def _place(session: Session, worker: LabelWorker) -> tuple[Path, bool, dict[str, Any]]:
    """The folder for these results, whether what it holds is replaced, and the facts of its record.

    The same names and settings go on where the run stopped, with the names that a person added.
    """
    run = session.run
    if run is None:
        return session.out, False, worker.facts
    added = list(run.facts.get("added") or ())
    facts = worker.facts
    if added and len(run.facts["names"]) == len(facts["names"]) + len(added):
        facts = facts | {key: run.facts[key] for key in ("names", "colours", "added")}
    if not differing(run.facts, facts):
        return session.out, False, facts
    sharded = not (run.path / "run.json").is_file()
    if run.facts.get("command") == "label" and not sharded and not any(is_corrected(run, id) for id in run.ids):
        return session.out, True, worker.facts
    return _free(session.out), False, worker.facts


def _free(out: Path) -> Path:
    """A folder beside `out` that is not there: photos -> photos-2 -> photos-3."""
    match = re.fullmatch(r"(.*?)-(\d{1,6})", out.name)
    stem, number = (match[1], int(match[2])) if match else (out.name, 1)
    while (path := out.with_name(f"{stem}-{(number := number + 1)}")).exists():
        pass
    return path


def _usable(session: Session, worker: LabelWorker) -> Path | None:
    """The run's folder, if its kept analyses can be used for these names."""
    items = list(session.items.values())
    kept = Kept(session.out, own=False)
    try:
        kept.expect(items, worker.facts, worker.source, tell=lambda line: None)
    except ValueError:
        return None
    return session.out
