"""A run folder as one HTML page that opens from disk, with no server and no network.

Images are read one at a time and written beside the page first; while they stay small they are then embedded in it,
else their folder is kept. The page's own parts are `template.html`, `report.css` and `report.js`.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg import locks
from ovseg.files import named, sweep, write_atomically
from ovseg.report.errors import Truth, judged
from ovseg.report.image import read_report_image
from ovseg.report.page import assemble, json_in_script, page_data
from ovseg.run.folder import RunFolder, read_run
from ovseg.run.images import RunImage, read_legend
from ovseg.run.inputs import AGAIN
from ovseg.run.syncing import have_on_disk

EMBEDDED_BYTES = 30_000_000  # larger images are kept beside the page, because browsers read a page as a whole
CALL = "ovsegReport("  # what a script beside the page calls, with its number and the maps
OUR_FILES = re.compile(r"\d+(\.js|\.png|\.jpg|\.thumb\.jpg)")


@dataclass(frozen=True)
class Report:
    """A report that was written."""

    file: Path
    folder: Path | None  # of the images; None where they are embedded
    images: int
    problems: int  # images that failed, are not done, or whose files cannot be read
    damaged: int  # those of the latter kind
    size: int  # bytes, all in all
    judged: int = 0  # images whose true labels were given


def write_report(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    title: str | None = None,
    overwrite: bool = False,
    embedded_bytes: int = EMBEDDED_BYTES,
    progress: Callable[[int, int], None] | None = None,
    truth: Truth | None = None,
) -> Report:
    """Write the report of a run folder.

    out: the page, default `report.html` in the run folder; images that take over `embedded_bytes` go to the folder
    `report-files` beside it (named after the page). title: default the run folder's name. progress: gets the number of
    images read and of all. truth: shows where labels are wrong, see `errors`.
    Raises ValueError for a folder that holds no run or none that is done, for a truth that has none of the images, and
    for a page or folder that is already there, unless `overwrite`; OSError where it cannot be written.
    """
    run = read_run(folder)
    if not run.done:
        raise ValueError(f"{folder}: none of its {len(run.ids)} images is done, there is nothing to report")
    if truth and read_legend(run) is None:
        raise ValueError(f"truth: {folder} holds masks without names, which have no errors")
    out = Path(out) if out is not None else run.home / "report.html"
    if out.is_dir():
        raise ValueError(f"{out}: is a folder, expected a file for the page, such as report.html")
    with (
        locks.held(out.with_name(f".{out.name}.lock"), f"{out}: another process is writing this report; wait for it"),
        named(out),
    ):
        return _write(run, out, title or run.path.resolve().name, overwrite, embedded_bytes, progress, truth)


def _write(
    run: RunFolder,
    out: Path,
    title: str,
    overwrite: bool,
    embedded_bytes: int,
    progress: Callable[[int, int], None] | None,
    truth: Truth | None,
) -> Report:
    """`write_report`, as the one process that writes this page."""
    beside = out.with_name(f"{out.stem}-files")
    for path in (out, beside):
        sweep(path)
    _check_free(out, beside, overwrite)
    staging = out.with_name(f".{beside.name}.{os.getpid()}.tmp")
    try:
        staging.mkdir(parents=True)
        rows, problems, damaged = _stage(run, staging, progress, truth)
        size = sum(path.stat().st_size for path in staging.iterdir())
        embed = size <= embedded_bytes
        data = page_data(run, title, rows, problems, None if embed else beside.name)
        page = assemble(title, data, _embedded(staging, rows) if embed else ())
        if beside.exists():
            shutil.rmtree(beside)
        if not embed:
            size = _make_scripts(staging, len(rows))
            have_on_disk(staging.iterdir())
            staging.rename(beside)
        write_atomically(out, page)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    size = len(page) + (0 if embed else size)
    judged = sum("known" in row for row in rows)
    return Report(out, None if embed else beside, len(rows), len(problems), damaged, size, judged)


def _check_free(out: Path, beside: Path, overwrite: bool) -> None:
    """Raise ValueError unless the page and its folder may be written."""
    for path in (out, beside):
        if path.exists() and not overwrite:
            raise ValueError(f"{path}: already there; {AGAIN}")
    if beside.exists() and not _is_ours(beside):
        raise ValueError(f"{beside}: not of a report, but it would be replaced; choose another place")


def _is_ours(folder: Path) -> bool:
    """Whether a report made the folder, and nothing else was added to it."""
    first = folder / "0.js"
    return (
        first.is_file()
        and first.read_bytes().startswith(CALL.encode())
        and all(OUR_FILES.fullmatch(path.name) for path in folder.iterdir())
    )


def _stage(
    run: RunFolder, staging: Path, progress: Callable[[int, int], None] | None, truth: Truth | None
) -> tuple[list[dict[str, Any]], dict[str, str], int]:
    """Write every image's files as 0.json, 0.png, ...; returns the rows, why an id has none, and how many of these are
    damaged."""
    rows: list[dict[str, Any]] = []
    problems = {
        id: "not done yet" if entry["state"] == "pending" else entry.get("error") or "failed"
        for id, entry in run.ids.items()
        if entry["state"] != "done"
    }
    damaged = sum(entry["state"] == "damaged" for entry in run.ids.values())
    for number, id in enumerate(run.done, 1):
        try:
            image = read_report_image(run, id)
            image = judged(image, RunImage(run, id), truth) if truth else image
        except (OSError, ValueError) as error:
            problems[id] = str(error)
            damaged += 1
        else:
            for suffix, content in image.files.items():
                (staging / f"{len(rows)}{suffix}").write_bytes(content)
            (staging / f"{len(rows)}.json").write_text(json_in_script(image.maps), encoding="ascii")
            rows.append(image.row)
        if progress:
            progress(number, len(run.done))
    if not rows:
        raise ValueError(f"{run.path}: no image can be shown; the first: {next(iter(problems.values()))}")
    if truth and not any("known" in row for row in rows):
        first = f"; of {len(problems)} others, the first: {next(iter(problems.values()))}" if problems else ""
        raise ValueError(
            f"truth: none of the run's {len(rows)} images has true labels there, such as {rows[0]['id']}.png{first}"
        )
    return rows, problems, damaged


def _make_scripts(staging: Path, count: int) -> int:
    """Turn 0.json into 0.js: a page from disk may not read files, but it may run scripts that bring data along.

    Returns the bytes of all files."""
    for number in range(count):
        maps = staging / f"{number}.json"
        script = f"{CALL}{number},{maps.read_text(encoding='ascii')})\n"
        maps.with_suffix(".js").write_text(script, encoding="ascii")
        maps.unlink()
    return sum(path.stat().st_size for path in staging.iterdir())


def _embedded(staging: Path, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The script elements that carry the images: maps and pictures by suffix, JSON that is read when it is needed."""
    for number, row in enumerate(rows):
        maps = (staging / f"{number}.json").read_text(encoding="ascii")
        pictures = {suffix: _data_uri(staging / f"{number}{suffix}") for suffix in row["pictures"]}
        content = f'{{"maps":{maps},"pictures":{json_in_script(pictures)}}}'
        yield f'<script type="application/json" id="image-{number}">{content}</script>'


def _data_uri(path: Path) -> str:
    kind = "png" if path.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
