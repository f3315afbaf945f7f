"""A table of scores for a paper: `table.tex`, to be used with `\\usepackage{booktabs}` and `\\input{table}`."""

from __future__ import annotations

from collections.abc import Sequence

from ovseg.eval.tables import Sheet
from ovseg.run.terminal import one_line

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def latex(sheet: Sheet) -> str:
    """A sheet and those below it as `table` environments: rows between rules, the notes as comments."""
    columns = "l" * _texts(sheet) + "r" * (len(sheet.header) - _texts(sheet))
    lines = [
        *(f"% {one_line(note)}" for note in sheet.notes),
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(sheet.title)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _row(sheet.header),
        r"\midrule",
        *map(_row, sheet.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    text = "\n".join(lines) + "\n"
    return f"{text}\n{latex(sheet.below)}" if sheet.below else text


def escaped(text: str) -> str:
    """Text that LaTeX shows as it is: "a_b 5%" -> r"a\\_b 5\\%"."""
    return "".join(SPECIAL.get(letter, letter) for letter in one_line(text))


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"


def _texts(sheet: Sheet) -> int:
    """How many of the first columns are words; numbers are set to the right."""
    return next((place for place, name in enumerate(sheet.header) if name in ("images", "mIoU")), len(sheet.header))
