"""`ovseg import`: the parsed command line to `ovseg.export.back.import_labels`."""

from __future__ import annotations

import getpass
from argparse import Namespace

from ovseg.export.back import import_labels
from ovseg.run.terminal import one_line, say


def run(given: Namespace) -> int:
    """`ovseg import`; returns the exit code."""
    found = import_labels(given.folder, given.source, given.format, who=given.who or _login(), tell=say)
    for id, reason in found.problems.items():
        say(f"not imported: {one_line(id)}: {one_line(reason)}")
    counts = [f"{len(found.corrected)} corrected", f"{len(found.same)} as they stood"]
    say(f"labels of {', '.join(counts)}" + (f", {len(found.problems)} not imported" if found.problems else ""))
    return 1 if found.problems else 0


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:  # a user without a name, as in some containers
        raise ValueError("who: this system knows no login; say who corrected the labels") from error
