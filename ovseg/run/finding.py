"""Where images are found on a disk: below folders, by patterns, in lists of paths; and what is left out, and why.

Links to folders are followed, each folder once: one that leads back to a folder that was seen is left out, and said.
Files that look like images and cannot be read here are said with the reason. Hidden files and folders are passed over.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path, PurePath

from ovseg.images import IMAGE_SUFFIXES, UNREAD
from ovseg.run.folder import RUN_FILE, record_files
from ovseg.run.pictures import FAR, far_picture
from ovseg.run.terminal import one_line

LISTS = (".txt", ".lst")  # endings of files that hold paths
STDIN = "-"  # the input that is a list of paths on standard input
RESULTS = f"as results of other runs (they hold a {RUN_FILE})"
TAKEN = "as links to folders whose files are taken already"
MOST_SHOWN = 12  # names in a line about what is left out


@dataclass
class LeftOut:
    """What was not taken, to be told at the end. reasons: why -> the files and folders."""

    reasons: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, reason: str, path: Path) -> None:
        self.reasons.setdefault(reason, []).append(path)

    def tell(self, tell: Callable[[str], None]) -> None:
        """A line a reason, with names."""
        for reason, paths in self.reasons.items():
            more = f" and {len(paths) - MOST_SHOWN} more" if len(paths) > MOST_SHOWN else ""
            shown = ", ".join(one_line(str(path)) for path in sorted(paths)[:MOST_SHOWN])
            tell(f"left out, {reason}: {shown}{more}")


def is_image(path: PurePath, left_out: LeftOut) -> bool:
    """Whether a file's ending is that of an image that is read; one that only looks like it is noted."""
    suffix = path.suffix.lower()
    if suffix in UNREAD:
        left_out.add(UNREAD[suffix], Path(path))
    return suffix in IMAGE_SUFFIXES


def images_below(folder: Path, out: str, left_out: LeftOut) -> list[Path]:
    """The images below a folder, sorted, without those in `out` (a real path) and in run folders.

    Raises OSError for a folder that cannot be read.
    """
    return sorted(path for path in files_below(folder, {out}, left_out) if is_image(path, left_out))


def files_below(folder: Path, skipped: set[str], left_out: LeftOut) -> Iterator[Path]:
    """All files below a folder that are not hidden; folders by themselves first, then those that links lead to.

    skipped: real paths of folders that are not entered. Raises OSError for a folder that cannot be read.
    """
    seen = {os.path.realpath(folder)} | skipped
    links: list[Path] = []
    waiting = [folder]
    while waiting or links:
        if waiting:
            here = waiting.pop()
        elif (real := os.path.realpath(here := links.pop(0))) in skipped:
            continue
        elif real in seen:
            left_out.add(TAKEN, here)
            continue
        else:
            seen.add(real)
        if here != folder and record_files(here):
            left_out.add(RESULTS, here)
            continue
        for entry in sorted(os.scandir(here), key=lambda entry: entry.name):
            path = here / entry.name
            if entry.name.startswith("."):
                continue
            if not os.path.isdir(path):  # unlike the entry's own, it takes a link to itself
                yield path
            elif entry.is_symlink():
                links.append(path)
            elif (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                waiting.append(path)


def is_pattern(given: str) -> bool:
    """Whether an input is a pattern of names, "photos/**/*.jpg", and no file is called so."""
    return bool(re.search(r"[*?[]", given)) and not os.path.lexists(given)


def matching(pattern: str, out: str, left_out: LeftOut) -> tuple[Path, list[Path]]:
    """The folder above the pattern's first wildcard, and the images that match, sorted; both absolute.

    Without those in `out` (a real path) and in run folders below, and each folder once, as `files_below` has it. Raises
    ValueError where no image is left.
    """
    fixed = []
    for part in Path(pattern).parts[:-1]:
        if re.search(r"[*?[]", part):
            break
        fixed.append(part)
    root = Path(os.path.abspath(os.path.join(*fixed) if fixed else ""))
    below = Path(pattern).parts[len(fixed) :]
    if "**" in below:  # through links that lead in a circle glob's own way would be endless
        files = files_below(root, {out}, left_out) if root.is_dir() else ()
        matched = sorted(path for path in files if _matches(path.relative_to(root).parts, below))
    else:
        matched = sorted({Path(os.path.abspath(name)) for name in glob.glob(pattern) if not os.path.isdir(name)})
    entered = _entered({path.parent for path in matched}, root, out, left_out)
    if not (found := [path for path in matched if path.parent in entered and is_image(path, left_out)]):
        raise ValueError(f"{pattern}: matches no image")
    return root, found


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern, in which "**" is any number of folders."""
    if not pattern or not names:
        return not names and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _matches(names, pattern[1:]) or _matches(names[1:], pattern)
    return fnmatch(names[0], pattern[0]) and _matches(names[1:], pattern[1:])


def _entered(folders: Iterable[Path], root: Path, out: str, left_out: LeftOut) -> set[Path]:
    """The folders at or below `root` whose files are taken: of two that are one, that which no link leads to."""
    real_root, entered, runs, records = os.path.realpath(root), dict[str, Path](), set[Path](), cache(record_files)
    places = [(os.path.realpath(folder), folder.relative_to(root)) for folder in folders]
    for real, place in sorted(places, key=lambda one: (one[0] != os.path.normpath(real_root / one[1]), one[1])):
        below = [root / part for part in (place, *place.parents) if part.parts]
        if any(os.path.realpath(one) == out for one in below):
            continue
        if run := next(filter(records, below), None):
            runs.add(run)
        elif real in entered:
            left_out.add(TAKEN, root / place)
        else:
            entered[real] = root / place
    for run in runs:
        left_out.add(RESULTS, run)
    return set(entered.values())


def is_list(given: str) -> bool:
    """Whether an input is a list of paths: a text file, or standard input."""
    return given == STDIN or (given.lower().endswith(LISTS) and os.path.isfile(given))


def listed(given: str) -> Iterator[tuple[PurePath, Path]]:
    """The paths in a list, a line each (or between NULs): as they are written, and absolute, below the list's folder.

    Whether the files are there is seen when they are read. Raises ValueError for a list without a path, and for a line
    that names a folder; OSError where the list cannot be read.
    """
    where = "standard input" if given == STDIN else given
    content = sys.stdin.buffer.read() if given == STDIN else Path(given).read_bytes()
    text = os.fsdecode(content.removeprefix(b"\xef\xbb\xbf"))
    lines = [line for line in (text.split("\0") if "\0" in text else text.splitlines()) if line.strip()]
    if not lines:
        raise ValueError(f"{where}: holds no path; expected one a line")
    base = Path() if given == STDIN else Path(given).parent
    for line in lines:
        scheme, colon, rest = line.partition("://")
        if colon and scheme in FAR:
            yield PurePath(rest.partition("?")[0]), far_picture(scheme, rest)
            continue
        path = Path(os.path.abspath(base / line))
        if path.is_dir():
            raise ValueError(f"{where}: {line}: is a folder; expected images, or give the folder itself")
        written = PurePath(os.path.normpath(line))
        if written.is_absolute() or ".." in written.parts:
            written = path.relative_to(path.anchor)
        yield written, path
