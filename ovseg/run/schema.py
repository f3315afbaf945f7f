"""What the records of a run folder must hold: types and ranges of every key, and ids that stay inside the folder.

A folder may come from anyone. What is read from it is checked here, once, and is what it says it is from there on:
`run.json` and its shards by `check_record` and `check_entry`, `<id>.json` by `check_summary`. Keys that nobody asks for
are let through as JSON, so that records of other versions are read.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from emerdiff.settings import (
    NOTHING,
    OBJECT,
    Allowed,
    Table,
    choice,
    either,
    listed,
    number,
    show,
    show_key,
    text,
    whole,
)
from ovseg.classes import MOST_NAMES
from ovseg.json_files import depth_over

FORMAT = "ovseg run 1"
STATES = ("done", "failed", "pending")
MOST_ID = 4096  # characters of an id
DEEPEST = 12  # brackets that may be open at a time in what a record says beside its ids
LONG = 1 << 20  # characters of a message, or of a name that is no class


def is_name(value: Any) -> bool:
    """Whether this can name a class: it is shown, and written into other programs' files."""
    return (
        isinstance(value, str)
        and bool(value.strip())
        and not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in value)
    )


def are_names(value: Any) -> bool:
    """Whether these can be a run's names: a list of different ones."""
    return (
        isinstance(value, list)
        and len(value) <= MOST_NAMES
        and all(map(is_name, value))
        and len(set(value)) == len(value)
    )


def texts_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


TEXT = either(text(most=LONG), NOTHING)
TEXTS = either(Allowed("an object of texts", texts_by_name), NOTHING)
OBJECTS = either(OBJECT, NOTHING)
NAMES = Allowed(f"a list of at most {MOST_NAMES} different names, without control characters", are_names)
COLOURS = Allowed(
    "a list of colours, each three whole numbers from 0 to 255", listed(listed(whole(0, 255), 3, 3), 0, MOST_NAMES).fits
)
ROWS = listed(OBJECT, 0, MOST_NAMES + 2)
PROTOCOL = Allowed(
    "an object with a name", lambda value: isinstance(value, dict) and isinstance(value.get("name"), str)
)
SHARE = either(number(0, 1.000001), NOTHING)  # a probability, as it was rounded

RECORD: Table = {
    "format": choice(FORMAT),
    "command": text(most=100),
    "names": either(NAMES, NOTHING),
    "colours": either(COLOURS, NOTHING),
    "no_label": either(whole(0, 65535), NOTHING),
    **dict.fromkeys(("by", "method", "preset", "dataset", "root", "vocabulary", "vocabulary_sha256"), TEXT),
    **dict.fromkeys(("background", "templates", "device", "dtype"), TEXT),
    "background_bias": either(number(-1000, 1000), NOTHING),
    **dict.fromkeys(("options", "view", "timings"), OBJECTS),
    **dict.fromkeys(("models", "sources", "versions"), TEXTS),
    "protocol": either(PROTOCOL, NOTHING),
    "shard": either(listed(whole(1, 999_999), 2, 2), NOTHING),
    "ids": OBJECT,
}
ENTRY: Table = {
    "file": text(r"[^\0]+", 65536),
    "state": choice(*STATES),
    "seconds": either(number(0, 1e12), NOTHING),
    "error": TEXT,
    "files": TEXTS,
}
SUMMARY: Table = {"classes": ROWS, "masks": ROWS}
CLASS: Table = {"index": whole(0, MOST_NAMES - 1), "score": SHARE}
MASK: Table = {"mask": whole(0, 65535), "class": either(whole(0, MOST_NAMES - 1), NOTHING), "score": SHARE}


def check_record(record: Any) -> None:
    """Raise ValueError, naming the key, unless this is the record of a run; its `ids` are objects not yet checked.

    An id that leads out of the folder is the record's fault, not its own: nothing of such a folder is used.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, got {show(record)}")
    check_fields(record, RECORD, ("format", "ids"), "")
    for key, value in record.items():
        if key != "ids" and depth_over(value, DEEPEST):
            raise ValueError(f"{show_key(key)}: expected at most {DEEPEST} brackets open at a time")
    for id in record["ids"]:
        if wrong := outside(id):
            raise ValueError(f"ids: {show_key(id)}: {wrong}")
    given, painted, unlabelled = record.get("names"), record.get("colours"), record.get("no_label")
    if given and painted and len(given) != len(painted):
        raise ValueError(f"colours: expected {len(given)}, one a name, got {len(painted)}")
    if given and unlabelled is not None and unlabelled < len(given):
        raise ValueError(f"no_label: expected an index behind the {len(given)} names', got {unlabelled}")


def check_entry(id: str, entry: Any) -> None:
    """Raise ValueError, naming the key, unless this is what a record says of an image."""
    where = f"ids.{show_key(id)}"
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected an object, got {show(entry)}")
    check_fields(entry, ENTRY, ("file", "state"), f"{where}.")


def check_summary(summary: Any) -> None:
    """Raise ValueError, naming the key, unless this is what `<id>.json` must hold for those who read it."""
    if not isinstance(summary, dict):
        raise ValueError(f"expected an object, got {show(summary)}")
    check_fields(summary, SUMMARY, tuple(SUMMARY), "")
    for key, fields in (("classes", CLASS), ("masks", MASK)):
        for place, row in enumerate(summary[key]):
            check_fields(row, fields, tuple(fields), f"{key}.{place}.")


def check_fields(value: Mapping[str, Any], fields: Table, needed: tuple[str, ...], where: str) -> None:
    """Raise ValueError, with `where` in front of the key, for a key that is missing or a value that does not fit."""
    for key, kind in fields.items():
        if key not in value:
            if key in needed:
                raise ValueError(f"{where}{key}: missing")
        elif not kind.fits(value[key]):
            raise ValueError(f"{where}{key}: expected {kind.expected}, got {show(value[key])}")


def outside(id: str) -> str:
    """Why files named after an id would not lie inside their folder, on any system; "" where they do.

    An id is a path below the folder: relative, with "/" between its parts, none of which is empty, "." or "..". A
    backslash, which separates parts on Windows alone, may be in a name, but lead no other way.
    """
    if not id or len(id) > MOST_ID:
        return f"expected an id of 1 to {MOST_ID} characters"
    if "\0" in id:
        return "an id cannot hold NUL"
    if any(part in ("", ".", "..") for part in id.split("/")) or ".." in re.split(r"[/\\]", id):
        return "an id is a path inside the run folder, without empty parts, . or .."
    if re.match(r"[A-Za-z]:[/\\]|\\\\", id) or (os.name == "nt" and ":" in id):
        return "an id is a path inside the run folder, not an absolute one"
    return ""
