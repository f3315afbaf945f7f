"""Tables of scored runs: one row per run, and below it published rows of the same data set and protocol.

Markdown for files and pipes, a rich table for terminals; for LaTeX see `latex`. Numbers of different protocols cannot
be compared, so the protocol is a column, and published rows stand beside a run by exactly their rules, or apart.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rich.table
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape

from ovseg.classes import BACKGROUND
from ovseg.eval.families import FAMILIES
from ovseg.eval.oracle import TRUTH
from ovseg.eval.protocols import departs, same_rules
from ovseg.eval.published import protocol_followed, published
from ovseg.run.terminal import is_terminal, one_line

if TYPE_CHECKING:
    from ovseg.eval.scored import Scored

MOST_SHOWN = 5  # names in a note
LEAST_WIDTH = 12  # least width of a folded first column on a terminal
METRICS = {
    "pixel_accuracy": "pixel acc.",
    "mean_accuracy": "mean acc.",
    "fwIoU": "fwIoU",
    "boundary_IoU": "boundary IoU",
    "boundary_F": "boundary F",
}
NO_PROTOCOL = "none"  # for runs of `ovseg label` and `ovseg masks`, which follow no protocol
PUBLISHED_NOTE = (
    "numbers of the papers, not ours; CLIP ViT-B/16 of OpenAI and no training, unless the row says otherwise"
)
PARTIAL_NOTE = "--partial: the data set's tree was not whole, and what was there of it was taken"
APART_NOTE = "by other rules than the runs above, or on other images: not to be compared with them"


@dataclass(frozen=True)
class Sheet:
    """Rows of text under a header, and notes on them; a row whose first cell is "published" is dimmed."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]  # as many cells as the header
    notes: Sequence[str]
    below: Sheet | None = None  # another one to show after it

    def markdown(self) -> str:
        """The whole sheet as Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        table = "".join("| " + " | ".join(map(_markdown, cells)) + " |\n" for cells in lines)
        title, notes = _markdown(self.title), map(_markdown, self.notes)
        text = f"## {title}\n\n{table}\n" + "".join(f"- {note}\n" for note in notes)
        return f"{text}\n{self.below.markdown()}" if self.below else text

    def show(self) -> None:
        """To standard output: a rich table on a terminal, else Markdown."""
        if not is_terminal(sys.stdout):
            print(self.markdown(), end="")
            return
        console = Console(highlight=False)
        table = rich.table.Table(title=escape(one_line(self.title)), box=SIMPLE_HEAD, padding=0, show_edge=False)
        widths = self.widths(console.width)
        for name, width in zip(self.header, widths, strict=False):
            table.add_column(escape(name), overflow="fold", width=width)
        for row in self.rows:
            cells = (escape(one_line(cell)) for cell in row[: len(widths)])
            table.add_row(*cells, style="dim" if row[0] == "published" else None)
        console.print(table)
        if left_out := self.header[len(widths) :]:
            console.print(f"- too wide for this terminal, see the file: {escape(', '.join(left_out))}")
        for note in self.notes:
            console.print(f"- {escape(one_line(note))}")
        if self.below:
            console.print()
            self.below.show()

    def widths(self, width: int) -> list[int]:
        """Widths of the columns in characters, with one character between them, on a terminal of that width.

        Words are broken in the first column alone, which has the names of runs and gets spare space first. Columns
        that do not fit at all are left out, from the right.
        """
        columns = [[name, *(row[index] for row in self.rows)] for index, name in enumerate(self.header)]
        whole = [max(map(len, cells)) for cells in columns]
        widths = [max(len(word) for cell in cells for word in cell.split()) for cells in columns]
        widths[0] = min(widths[0], LEAST_WIDTH)
        while len(widths) > 1 and sum(widths) + len(widths) - 1 > width:
            widths.pop()
        for index in range(len(widths)):
            spare = max(0, width - sum(widths) - len(widths) + 1)
            widths[index] += min(spare, whole[index] - widths[index])
        return widths


def run_sheet(runs: Sequence[Scored]) -> Sheet:
    """Runs scored on one data set, all with or all without best labels; the first is the baseline of the leads."""
    first, several = runs[0], len(runs) > 1
    boundary_leads = several and first.best_label
    metrics = [name for name in METRICS if name in first.metrics]
    header = ["run", "masks", "dense CLIP", "protocol", "images", "mIoU", *(["lead"] if several else [])]
    rows = []
    for scored in runs:
        facts, values = scored.run.facts, scored.metrics
        row = [str(scored.run.path), str(facts.get("by") or ""), dense_variant(facts)]
        row += [protocol_name(scored), f"{len(scored.ids)} of {scored.images}"]
        row += [with_interval(values["mIoU"], *scored.interval)]
        comparable = scored is not first and scored.ids == first.ids and _one_protocol([first, scored])
        if several:
            row += [with_interval(*scored.lead(first), sign="+") if comparable else ""]
        row += [number(values[name]) for name in metrics]
        if boundary_leads:
            row += [with_interval(*scored.boundary_lead(first), sign="+") if comparable else ""]
        rows.append(row)
    return Sheet(
        title=f"{_title(first)}, {len(first.names)} classes" + (", best label per mask" if first.best_label else ""),
        header=header + [METRICS[name] for name in metrics] + (["boundary F lead"] if boundary_leads else []),
        rows=rows,
        notes=_notes(runs),
        below=None if first.best_label else published_sheet(runs),
    )


def _title(scored: Scored) -> str:
    """The data set's name; that of the pocket worlds with the block, which is another set of scenes each."""
    block = scored.run.facts.get("root") if scored.dataset == "pocket" else None
    return f"{scored.dataset} {block}" if block else scored.dataset


def published_sheet(runs: Sequence[Scored]) -> Sheet | None:
    """The published rows of a data set: those by exactly the rules of a run, and below them those apart; None where
    there are none, or where no run is by a published protocol."""
    dataset = runs[0].dataset
    if not any((scored.run.facts.get("protocol") or {}).get("name") in FAMILIES for scored in runs):
        return None
    beside, apart = published(dataset, {name for name in map(protocol_followed, runs) if name})
    below = None
    if apart:
        rows = [[row.method, str(row.mIoU), row.why] for row in apart]
        below = Sheet(f"{dataset}, published, apart", ["method", "mIoU", "rules"], rows, [PUBLISHED_NOTE, APART_NOTE])
    if not beside:
        return below
    rows = [[row.method, str(row.protocol), str(row.mIoU)] for row in beside]
    return Sheet(f"{dataset}, published", ["method", "protocol", "mIoU"], rows, [PUBLISHED_NOTE], below)


def protocol_name(scored: Scored) -> str:
    """The protocol of a run: "sclip", "sclip, pixel-exact", "sclip, other values" (see `protocols.departs`), "none"."""
    return named_protocol(scored.run.facts.get("protocol"), scored.dataset, scored.names[0] == BACKGROUND)


def named_protocol(protocol: dict[str, Any] | None, dataset: str, background: bool) -> str:
    """The same by a record's protocol. background: whether the data set's first class is the background."""
    if not protocol:
        return NO_PROTOCOL
    changed = departs(protocol, dataset, background)
    exact = ", pixel-exact" if protocol.get("pixel_exact") else ""
    return f"{protocol['name']}{exact}{', other values' if changed else ''}"


def dense_variant(facts: dict[str, Any]) -> str:
    """The dense CLIP variant of a run, by its record's facts; empty for runs without CLIP."""
    return str((facts.get("view") or {}).get("variant", ""))


def _notes(runs: Sequence[Scored]) -> list[str]:
    notes = ["percent; mIoU with its 95 % bootstrap interval over images"]
    if runs[0].best_label:
        notes.append("reads labels: every mask takes the class of most of its pixels, so this measures the masks alone")
    elif any(scored.run.facts.get("by") == TRUTH for scored in runs):
        notes.append(f"{TRUTH} reads labels: its masks are the true ones")
    if len(runs) > 1:
        measures = "mIoU (boundary F)" if runs[0].best_label else "mIoU"
        notes.append(
            f"lead: {measures} minus that of {runs[0].run.path}, with its interval over pairs of the same images"
        )
        others = [str(scored.run.path) for scored in runs[1:] if scored.ids != runs[0].ids]
        if others:
            notes.append(f"no lead, because the images are not the first run's: {', '.join(others)}")
        if not _one_protocol(runs):
            notes.append("these runs follow different protocols: their numbers cannot be compared")
    if not runs[0].best_label:
        notes += [*_vocabulary_notes(runs), *(note for scored in runs for note in _label_notes(scored))]
    notes += [f"{scored.run.path}: with {scored.reading}" for scored in runs if scored.reading]
    if any(scored.run.facts.get("partial") for scored in runs):
        notes.append(PARTIAL_NOTE)
    if any(len(scored.ids) < scored.images for scored in runs):
        notes.append("not all images of the data set were undertaken: not comparable to results on all of them")
    return notes


def _label_notes(scored: Scored) -> list[str]:
    """What is to be said of a run's labels: classes that no truth has, and what a person corrected."""
    notes, path = [], scored.run.path
    if absent := scored.absent:
        shown = ", ".join(absent[:MOST_SHOWN]) + (", ..." if len(absent) > MOST_SHOWN else "")
        others = [name not in absent for name in scored.names]
        without = number(float(np.nanmean(scored.scores.class_IoU[others]))) if any(others) else "-"
        notes.append(
            f"{path}: predicted, but in no label here: {shown}; IoU 0 each in the mean, {without} without them"
        )
    if scored.corrected:
        notes.append(f"{path}: labels of {scored.corrected} images as a person corrected them")
    return notes


def _one_protocol(runs: Sequence[Scored]) -> bool:
    """Whether the runs' protocols let their numbers be compared; best labels depend on none."""
    first = runs[0].run.facts.get("protocol")
    return runs[0].best_label or all(same_rules(first, scored.run.facts.get("protocol")) for scored in runs)


def _vocabulary_notes(runs: Sequence[Scored]) -> list[str]:
    """Whose class names are not the data set's own list, and whether runs differ in them."""
    notes, used = [], [scored.run.facts.get("vocabulary") for scored in runs]
    for name in dict.fromkeys(used):
        if name not in (None, runs[0].vocabulary):
            theirs = ", ".join(str(scored.run.path) for scored, one in zip(runs, used, strict=True) if one == name)
            notes.append(f"class names of {name}, not the data set's own ({runs[0].vocabulary}): {theirs}")
    prompts = {(name, scored.run.facts.get("vocabulary_sha256")) for scored, name in zip(runs, used, strict=True)}
    if len(prompts) > 1:
        notes.append(
            "these runs differ in vocabulary (class names, aliases or background): part of a lead may come from that"
        )
    return notes


def with_interval(value: float, low: float, high: float, sign: str = "") -> str:
    """A value with its interval, "75.00 [58.33, 100.00]"; sign "+" shows signs. A dash for NaN."""
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]" if not math.isnan(value) else "-"


def number(value: float) -> str:
    """A value with two decimals; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def _markdown(text: str) -> str:
    """Text that stays on its line and in its cell, and is no HTML."""
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")
