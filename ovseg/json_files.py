"""JSON files that may come from anyone: bounded in size and depth, without NaN, or a ValueError that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from emerdiff.settings import check_regular

MAX_BYTES = 1 << 29  # a record of some million images
MAX_DEPTH = 24  # how many brackets may be open at a time


def read_json(path: Path, most: int = MAX_BYTES) -> Any:
    """What a JSON file of at most so many bytes holds: no NaN or infinity, and no more than `MAX_DEPTH` brackets deep.

    Raises ValueError, naming the file, for anything else; OSError where it cannot be read.
    """
    check_regular(path)
    if (size := path.stat().st_size) > most:
        raise ValueError(f"{path}: {size} bytes, expected JSON of at most {most}")
    try:
        text = path.read_bytes().decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_number, parse_float=_finite)
        if depth_over(value, MAX_DEPTH):
            raise RecursionError
    except RecursionError as error:
        raise ValueError(f"{path}: not JSON to be read here (over {MAX_DEPTH} brackets deep)") from error
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    return value


def depth_over(value: object, most: int) -> bool:
    """Whether lists and objects lie more than `most` deep in one another."""
    layer = [value]
    for _ in range(most + 1):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not layer:
            return False
    return True


def _finite(text: str) -> float:
    if abs(number := float(text)) == float("inf"):
        _refuse_number(text)
    return number


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text if len(text) < 20 else text[:20] + '...'} is no finite number")
