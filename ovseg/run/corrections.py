"""Labels that a person corrected: kept beside a run's own, with who did it and when; every step can be undone.

    a.png                  the run's own answer, which no step changes
    a.corrected-2.png      a corrected label map, the second one saved; the same indices and size
    a.corrected.json       the steps, which of them stands, and who reviewed it

A map is written first and then the JSON, each whole or not at all, so that a step is there or is not. `RunImage` gives
the corrected labels wherever a run is read; a file that is damaged is a ValueError that names it.

    >>> save("runs/photos", "a", labels, "Ada")         # labels (H, W), indices into the run's names
    >>> labels("runs/photos", "a"), undo("runs/photos", "a"), mark_reviewed("runs/photos", "a", "Ada")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ovseg import locks
from ovseg.files import index_png, json_bytes, read_index_png, write_atomically
from ovseg.json_files import read_json
from ovseg.run.correction_steps import MOST_BYTES, MOST_STEPS, Corrections, Step, from_content, is_of_names, to_content
from ovseg.run.folder import RunFolder, read_run
from ovseg.run.legend import Legend, read_legend

CORRECTIONS = ".corrected.json"  # the ending of the file that says what was corrected


def corrections(run: RunFolder | str | Path, id: str) -> Corrections:
    """What was corrected of an image. Raises ValueError, naming the file, where that is damaged or of other names."""
    run = _opened(run)
    if not is_corrected(run, id):
        return Corrections()
    content = read_json(path := run.file(id, CORRECTIONS), MOST_BYTES)
    try:
        found = from_content(content)
    except ValueError as error:
        raise ValueError(f"{path}: not what was corrected of an image ({error})") from error
    if not is_of_names(content, _legend(run).names):
        raise ValueError(f"{path}: corrected under other names than the run has now; move it away to use the run's own")
    return found


def is_corrected(run: RunFolder, id: str) -> bool:
    """Whether an image has a file of corrections, one that is not the summary of an image called `<id>.corrected`."""
    return run.file(id, CORRECTIONS).is_file() and f"{id}.corrected" not in run.ids


def labels(run: RunFolder | str | Path, id: str) -> np.ndarray | None:
    """(H, W) uint8 or uint16: the corrected labels of an image, indices into the run's names or "no label"; None where
    the run's own stand. Raises ValueError, naming the file, where it is missing, damaged, or holds other indices."""
    run = _opened(run)
    if not (step := corrections(run, id).stands):
        return None
    path = run.file(id, _map(step))
    if not path.is_file():
        raise ValueError(f"{path}: missing, though {run.file(id, CORRECTIONS).name} names it")
    indices = read_index_png(path)
    check_indices(indices, _legend(run), f"{path}")
    return indices


def save(
    run: RunFolder | str | Path, id: str, indices: np.ndarray, who: str, *, when: str | None = None
) -> Corrections:
    """Make these the labels of an image, as a new step, unless they stand already; undone steps are dropped.

    indices: (H, W) integers into the run's names, or its "no label", of the size of its own. when: now by default.
    Raises ValueError for an image that is not done, labels that do not fit, and while another process saves.
    """
    run = _opened(run)
    legend = _legend(run)
    _check_done(run, id)
    own = read_index_png(run.file(id, ".png"))
    if indices.shape != own.shape or indices.dtype.kind not in "iu":
        raise ValueError(f"labels: expected integers of shape {own.shape}, got {indices.dtype} of {indices.shape}")
    check_indices(indices, legend, "labels")
    indices = indices.astype(np.uint8 if legend.no_label == 255 else np.uint16)
    with _changing(run, id):
        found, standing = corrections(run, id), labels(run, id)
        if np.array_equal(indices, own if standing is None else standing):
            return found
        added = _step(max((step.step for step in found.steps), default=0) + 1, who, when)
        kept = tuple(step for step in found.steps if step.step <= found.stands)[-MOST_STEPS + 1 :]
        write_atomically(run.file(id, _map(added.step)), index_png(indices, legend.colours))
        changed = replace(found, steps=(*kept, added), stands=added.step)
        _write(run, id, changed)
        for step in {step.step for step in found.steps} - {step.step for step in kept}:
            run.file(id, _map(step)).unlink(missing_ok=True)
    return changed


def mark_reviewed(run: RunFolder | str | Path, id: str, who: str, *, when: str | None = None) -> Corrections:
    """Note that somebody found the labels that stand now right. Labels that are saved later are not reviewed by it."""
    return _change(run, id, lambda found: replace(found, review=_step(found.stands, who, when)))


def unmark_reviewed(run: RunFolder | str | Path, id: str) -> Corrections:
    """Take back `mark_reviewed`."""
    return _change(run, id, lambda found: replace(found, review=None))


def undo(run: RunFolder | str | Path, id: str) -> Corrections:
    """Let the step before stand, or the run's own labels; the same as it was where there is nothing to undo."""
    return _change(run, id, lambda found: found if found.before is None else replace(found, stands=found.before))


def redo(run: RunFolder | str | Path, id: str) -> Corrections:
    """Let the step stand that was undone last; the same as it was where there is none."""
    return _change(run, id, lambda found: found if found.after is None else replace(found, stands=found.after))


def check_indices(labels: np.ndarray, legend: Legend, where: str) -> None:
    """Raise ValueError, with `where` in front, for an index (H, W) that is none of the names' and not "no label"."""
    most = len(legend.names)
    wrong = labels[((labels < 0) | (labels >= most)) & (labels != legend.no_label)]
    if wrong.size:
        raise ValueError(f"{where}: holds index {wrong[0]}, expected 0..{most - 1} or {legend.no_label} (no label)")


def _change(run: RunFolder | str | Path, id: str, change: Callable[[Corrections], Corrections]) -> Corrections:
    run = _opened(run)
    _check_done(run, id)
    with _changing(run, id):
        before = corrections(run, id)
        after = change(before)
        if after != before:
            _write(run, id, after)
    return after


def _check_done(run: RunFolder, id: str) -> None:
    if run.ids.get(id, {}).get("state") != "done":
        raise ValueError(f"{run.path}: no image {id!r} is done there, expected one of its {len(run.done)}")


@contextmanager
def _changing(run: RunFolder, id: str) -> Iterator[None]:
    """Be the one process that changes an image's corrections, whose files are no other image's."""
    prefix = f"{id}.corrected"
    if taken := [other for other in run.ids if other == prefix or other.startswith(f"{prefix}-")]:
        raise ValueError(f"{run.path}: corrections of {id!r} would be files of the image {taken[0]!r}")
    path = run.home / f"{id}{CORRECTIONS}"
    with locks.held(path.with_name(f".{path.name}.lock"), f"{path}: another process is changing it; try again"):
        yield


def _write(run: RunFolder, id: str, found: Corrections) -> None:
    write_atomically(run.file(id, CORRECTIONS), json_bytes(to_content(found, _legend(run).names)))


def _opened(run: RunFolder | str | Path) -> RunFolder:
    return run if isinstance(run, RunFolder) else read_run(run)


def _legend(run: RunFolder) -> Legend:
    if (legend := read_legend(run)) is None:
        raise ValueError(f"{run.path}: a run without names has no labels to correct; expected `ovseg label`'s")
    return legend


def _map(step: int) -> str:
    return f".corrected-{step}.png"


def _step(number: int, who: str, when: str | None) -> Step:
    if not who.strip() or len(who) > 1000 or not who.isprintable():
        raise ValueError(f"who: expected a name, got {who[:40]!r}")
    return Step(number, who, when or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
