"""`ovseg models`, `models diffusion`, `models towers`, `models fetch`: presets, kinds of models, getting weights."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from ovseg import weights
from ovseg.diffusion_families import FAMILIES as GENERATORS
from ovseg.presets import DEFAULT, PRESETS, get_preset
from ovseg.run.terminal import is_terminal, show
from ovseg.towers.families import FAMILIES


def run(given: Namespace) -> int:
    """`ovseg models`; returns the exit code."""
    rows = []
    for preset in PRESETS.values():
        here = all(weights.find(kind, source) for kind, source in preset.sources.items())
        name = f"{preset.name} (default)" if preset.name == DEFAULT else preset.name
        rows.append((name, "yes" if here else "no", f"{preset.megabytes} MB", preset.refine, preset.note))
    return _listed(("preset", "at hand", "size", "--refine", "what it is"), rows)


def run_towers(given: Namespace) -> int:
    """`ovseg models towers`; returns the exit code."""
    rows = [(one.name, one.cell, one.native, one.end, one.dense, one.regions, one.scoring) for one in FAMILIES]
    heads = ("image tower", "cell, pixels", "trained at", "ends in", "--dense", "--regions", "scores")
    return _listed(heads, rows)


def run_diffusion(given: Namespace) -> int:
    """`ovseg models diffusion`; returns the exit code."""
    rows = [
        (
            *(one.name, str(one.pixels), f"{one.millions} million", f"{one.gigabytes:g} GB", f"{one.tflop:.2f} TFLOP"),
            *(one.layers, one.licence),
        )
        for one in GENERATORS
    ]
    heads = ("diffusion model", "pixels", "UNet", "float32", "a call at 512 pixels", "default layers", "licence")
    return _listed(heads, rows)


def _listed(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Show a table on a terminal, rows of cells with tabs between them elsewhere; returns the exit code."""
    if is_terminal(sys.stdout):
        Console().print(_table(heads, rows))
    else:
        show("\n".join("\t".join(row) for row in rows))
    return 0


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    return table


def run_fetch(given: Namespace) -> int:
    """`ovseg models fetch`; returns the exit code."""
    preset = get_preset(given.name)
    show(f"{preset.name}: {preset.megabytes} MB in all; what is here already is not fetched again")
    for folder in weights.fetch(preset.sources, preset.name):
        show(f"at hand: {folder}")
    return 0
