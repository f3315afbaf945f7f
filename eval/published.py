"""Published rows, and which of them may stand beside a run: those by exactly its rules, on the whole data set.

All others stand apart, each with the reason. `published.json` has the rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ovseg.eval.families import FAMILIES
from ovseg.eval.protocols import departs
from ovseg.eval.scored import Scored

PUBLISHED_FILE = "published.json"


@dataclass(frozen=True)
class Row:
    """A published row of one data set."""

    method: str
    protocol: str | None  # the family by exactly whose rules it was made; None: they are not run here
    mIoU: float  # percent
    why: str = ""  # why it is apart from the runs


def published(dataset: str, followed: AbstractSet[str]) -> tuple[list[Row], list[Row]]:
    """The published rows of a data set: those by the rules of these protocols, and those that are apart."""
    beside, apart = [], []
    for row in _table():
        if (value := row["mIoU"].get(dataset)) is None:
            continue
        protocol = row["protocol"]
        if protocol in followed:
            beside.append(Row(row["method"], protocol, value))
        else:
            why = row["why"] if protocol is None else f"by --protocol {protocol} --pixel-exact, on the whole set"
            apart.append(Row(row["method"], protocol, value, why))
    return sorted(beside, key=lambda row: list(FAMILIES).index(str(row.protocol))), apart


def protocol_followed(scored: Scored) -> str | None:
    """The family whose rules a run followed exactly, to the pixel and on the whole data set; None: no one's."""
    whole = len(scored.ids) == scored.images and not scored.run.facts.get("partial")
    return followed(scored.run.facts, scored.dataset, scored.vocabulary) if whole else None


def followed(facts: Mapping[str, Any], dataset: str, vocabulary: str | None) -> str | None:
    """The family whose rules were followed exactly, by a record's facts; None: no one's. vocabulary: the name of the
    data set's own class list."""
    protocol = facts.get("protocol")
    if not protocol or not protocol.get("pixel_exact") or departs(protocol, dataset):
        return None
    return str(protocol["name"]) if facts.get("vocabulary") == (protocol.get("classes") or vocabulary) else None


@cache
def _table() -> list[dict]:
    return json.loads((files("ovseg.eval") / PUBLISHED_FILE).read_text(encoding="utf-8"))["rows"]
