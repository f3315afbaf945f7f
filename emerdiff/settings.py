"""What the settings in a JSON file may be: tables of known keys, with types and ranges, and a reader that checks them.

A table maps each key to what is allowed there. What is not in it is not read, and nothing else is handed on.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import Repr
from typing import Any


@dataclass(frozen=True)
class Allowed:
    """What a value may be: `expected` in words, as in "expected a whole number, got 'x'"."""

    expected: str
    fits: Callable[[Any], bool]


Table = Mapping[str, Allowed]


def whole(least: int, most: int) -> Allowed:
    """An integer from `least` to `most`; true and false are none."""
    return Allowed(f"a whole number from {least} to {most}", lambda value: _is_whole(value) and least <= value <= most)


def number(least: float, most: float, *, above: bool = False) -> Allowed:
    """A finite number from `least`, or `above` it, to `most`."""
    start = f"above {least:g} and up" if above else f"from {least:g}"
    return Allowed(
        f"a number {start} to {most:g}",
        lambda value: _is_number(value) and least <= value <= most and not (above and value == least),
    )


def choice(*values: Any) -> Allowed:
    """One of these values, of the same type."""
    *others, last = (value if isinstance(value, str) else show(value) for value in values)
    words = f"{', '.join(others)} or {last}" if others else last
    return Allowed(words, lambda value: any(type(value) is type(one) and value == one for one in values))


def text(pattern: str = r"[^\0]*", most: int = 1000) -> Allowed:
    """A string that matches the whole pattern, of at most so many characters."""
    found = re.compile(pattern, re.DOTALL)
    return Allowed(
        f"a text of at most {most} characters",
        lambda value: isinstance(value, str) and len(value) <= most and bool(found.fullmatch(value)),
    )


def listed(one: Allowed, least: int = 1, most: int = 64) -> Allowed:
    """A list of `least` to `most` values, each as allowed."""
    length = str(least) if least == most else f"{least} to {most}"
    return Allowed(
        f"a list of length {length}, of {one.expected} each",
        lambda value: isinstance(value, list) and least <= len(value) <= most and all(map(one.fits, value)),
    )


def either(*kinds: Allowed) -> Allowed:
    """What any of these allows."""
    return Allowed(" or ".join(kind.expected for kind in kinds), lambda value: any(kind.fits(value) for kind in kinds))


FLAG = Allowed("true or false", lambda value: isinstance(value, bool))
NOTHING = Allowed("null", lambda value: value is None)
OBJECT = Allowed("an object", lambda value: isinstance(value, dict))


def known_settings(path: Path, settings: Any, known: Table, prefix: str = "") -> dict[str, Any]:
    """The settings of which something is known, each as allowed; all others are left out.

    prefix: what stands before their keys in a message, such as "model_cfg.". Raises ValueError, naming file and key.
    """
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: {prefix.rstrip('.') or 'the file'}: expected an object, got {show(settings)}")
    for key, kind in known.items():
        if key in settings and not kind.fits(settings[key]):
            raise refusal(path, f"{prefix}{key}", kind.expected, settings[key])
    return {key: settings[key] for key in known if key in settings}


def refusal(path: Path, key: str, expected: str, value: Any) -> ValueError:
    """The error for a value that is not as expected: one line, however long and strange the value is."""
    return ValueError(f"{path}: {show_key(key)}: expected {expected}, got {show(value)}")


def check_regular(path: Path) -> None:
    """Raise ValueError, naming it, for a device or a pipe, as these may never end; OSError for what is not there."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{path}: expected a file, got a device or a pipe")


def show(value: Any) -> str:
    """A JSON value in one short line."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    short = Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    short.maxlist = short.maxtuple = 4
    return short.repr(value)


def show_key(key: str) -> str:
    """A key in one short line: as it is where it can be printed."""
    return key if key.isprintable() and len(key) <= 200 else show(key)


def one_line(error: BaseException) -> str:
    """A message of some other library in one line of some 200 characters that can be shown."""
    words = " ".join(str(error).split()) or type(error).__name__
    words = "".join(letter if letter.isprintable() else "?" for letter in words)
    return words if len(words) <= 200 else f"{words[:199]}…"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
