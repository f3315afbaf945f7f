"""What the indices of a run's label maps mean: names, colours, and the index of pixels without a label."""

from __future__ import annotations

from dataclasses import dataclass

from ovseg.draw import Colour, class_colours
from ovseg.result import no_label
from ovseg.run.folder import RunFolder


@dataclass(frozen=True)
class Legend:
    """What the indices of a run's label maps mean.

    names: L names by index, "background" in front where there is one. colours: of the names, (R, G, B) in 0..255.
    no_label: the index of pixels without a label, 255, or 65535 for over 254 names.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    no_label: int


def read_legend(run: RunFolder) -> Legend | None:
    """What the indices of a run's label maps mean; None for a run without names, as `ovseg masks` makes them.

    Colours and "no label" follow from the names where the record does not have them.
    """
    given = run.facts.get("names")
    if not given:
        return None
    names = tuple(given)
    colours = tuple((red, green, blue) for red, green, blue in run.facts.get("colours") or class_colours(names))
    unlabelled = run.facts.get("no_label")
    return Legend(names, colours, no_label(len(names)) if unlabelled is None else unlabelled)
