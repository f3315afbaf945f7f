"""What the records of a run folder must hold: types and ranges of every key, and ids that stay inside the folder.

A folder may come from anyone. What is read from it is checked here, once, and is what it says it is from there on:
`run.json` and its shards by `check_record` and `check_entry`, `<id>.json` by `check_summary`. Keys that nobody asks for
are let through as JSON, so that records of other versions are read.
"""

from __future__ import annotations

import os
import re
import reprlib
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from ovseg.json_files import depth_over

FORMAT = "ovseg run 1"
STATES = ("done", "failed", "pending")
MOST_NAMES = 65534
MOST_ID = 4096  # characters of an id
DEEPEST = 12  # brackets that may be open at a time in what a record says beside its ids
SHOWN = 60  # characters of a wrong value, and of a key, in a message

Check = Callable[[Any], str]  # what was expected of a value that is something else; "" where it fits


def text(value: Any) -> str:
    return "" if isinstance(value, str) else "a text"


def name(value: Any) -> str:
    """Of a class: shown, and written into other programs' files."""
    if not isinstance(value, str) or not value.strip():
        return "a name"
    hidden = [letter for letter in value if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")]
    return f"a name without control characters such as U+{ord(hidden[0]):04X}" if hidden else ""


def file_name(value: Any) -> str:
    return "" if isinstance(value, str) and value and "\0" not in value else "the name of a file"


def whole(least: int, most: int) -> Check:
    def check(value: Any) -> str:
        fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        return "" if fits else f"a whole number from {least} to {most}"

    return check


def number(least: float, most: float) -> Check:
    def check(value: Any) -> str:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
        return "" if fits else f"a number from {least:g} to {most:g}"

    return check


def either(*values: str) -> Check:
    return lambda value: "" if isinstance(value, str) and value in values else " or ".join(map(repr, values))


def maybe(check: Check) -> Check:
    def of(value: Any) -> str:
        expected = check(value) if value is not None else ""
        return expected and f"{expected}, or null"

    return of


def texts(value: Any) -> str:
    """An object of texts."""
    return "" if isinstance(value, dict) and all(isinstance(one, str) for one in value.values()) else "texts by name"


def objects(value: Any) -> str:
    return "" if isinstance(value, dict) else "an object"


def rows(value: Any) -> str:
    return "" if isinstance(value, list) and all(isinstance(row, dict) for row in value) else "a list of objects"


def names(value: Any) -> str:
    if not isinstance(value, list) or len(value) > MOST_NAMES:
        return f"a list of at most {MOST_NAMES} names"
    wrong = next(filter(None, map(name, value)), "")
    return wrong and f"a list of names, each {wrong}" or ("" if len(set(value)) == len(value) else "different names")


def colours(value: Any) -> str:
    channel = whole(0, 255)
    fits = isinstance(value, list) and all(
        isinstance(colour, list) and len(colour) == 3 and not any(map(channel, colour)) for colour in value
    )
    return "" if fits else "a list of colours, each three whole numbers from 0 to 255"


def protocol(value: Any) -> str:
    return "" if isinstance(value, dict) and isinstance(value.get("name"), str) else "an object with a name"


def shard(value: Any) -> str:
    count = whole(1, 999_999)
    return "" if isinstance(value, list) and len(value) == 2 and not any(map(count, value)) else "[number, count]"


SECONDS = number(0, 1e12)
SHARE = number(0, 1.000001)  # a probability, as it was rounded
RECORD: dict[str, Check] = {
    "format": either(FORMAT),
    "command": text,
    "names": maybe(names),
    "colours": maybe(colours),
    "no_label": maybe(whole(0, 65535)),
    **dict.fromkeys(("by", "method", "preset", "dataset", "root", "vocabulary", "vocabulary_sha256"), maybe(text)),
    **dict.fromkeys(("background", "templates", "device", "dtype"), maybe(text)),
    **dict.fromkeys(("options", "view", "timings"), maybe(objects)),
    **dict.fromkeys(("models", "sources", "versions"), maybe(texts)),
    "protocol": maybe(protocol),
    "shard": maybe(shard),
    "ids": objects,
}
ENTRY: dict[str, Check] = {
    "file": file_name,
    "state": either(*STATES),
    "seconds": maybe(SECONDS),
    "error": maybe(text),
    "files": maybe(texts),
}
SUMMARY: dict[str, Check] = {"classes": rows, "masks": rows}
CLASS: dict[str, Check] = {"index": whole(0, MOST_NAMES - 1), "score": maybe(SHARE)}
MASK: dict[str, Check] = {"mask": whole(0, 65535), "class": maybe(whole(0, MOST_NAMES - 1)), "score": maybe(SHARE)}


def check_record(record: Any) -> None:
    """Raise ValueError, naming the key, unless this is the record of a run; its `ids` are objects not yet checked.

    An id that leads out of the folder is the record's fault, not its own: nothing of such a folder is used.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, got {shown(record)}")
    check_fields(record, RECORD, ("format", "ids"), "")
    for key, value in record.items():
        if key != "ids" and depth_over(value, DEEPEST):
            raise ValueError(f"{key_text(key)}: expected at most {DEEPEST} brackets open at a time")
    for id in record["ids"]:
        if wrong := outside(id):
            raise ValueError(f"ids: {shown(id)}: {wrong}")
    given, painted, unlabelled = record.get("names"), record.get("colours"), record.get("no_label")
    if given and painted and len(given) != len(painted):
        raise ValueError(f"colours: expected {len(given)}, one a name, got {len(painted)}")
    if given and unlabelled is not None and unlabelled < len(given):
        raise ValueError(f"no_label: expected an index behind the {len(given)} names', got {unlabelled}")


def check_entry(id: str, entry: Any) -> None:
    """Raise ValueError, naming the key, unless this is what a record says of an image."""
    where = f"ids.{key_text(id)}"
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected an object, got {shown(entry)}")
    check_fields(entry, ENTRY, ("file", "state"), f"{where}.")


def check_summary(summary: Any) -> None:
    """Raise ValueError, naming the key, unless this is what `<id>.json` must hold for those who read it."""
    if not isinstance(summary, dict):
        raise ValueError(f"expected an object, got {shown(summary)}")
    check_fields(summary, SUMMARY, tuple(SUMMARY), "")
    for key, fields in (("classes", CLASS), ("masks", MASK)):
        for place, row in enumerate(summary[key]):
            check_fields(row, fields, tuple(fields), f"{key}.{place}.")


def check_fields(value: Mapping[str, Any], fields: Mapping[str, Check], needed: tuple[str, ...], where: str) -> None:
    """Raise ValueError, with `where` in front of the key, for a key that is missing or a value that does not fit."""
    for key, check in fields.items():
        if key not in value:
            if key in needed:
                raise ValueError(f"{where}{key}: missing")
        elif expected := check(value[key]):
            raise ValueError(f"{where}{key}: expected {expected}, got {shown(value[key])}")


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


def key_text(key: str) -> str:
    return key if key.isprintable() and 0 < len(key) <= SHOWN else shown(key)


def shown(value: Any) -> str:
    """A wrong value for a message, short and on one line."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = SHOWN
    brief.maxdict = brief.maxlist = 2
    brief.maxlevel = 2
    said = brief.repr(value)
    return said if said.isprintable() else ascii(said)
