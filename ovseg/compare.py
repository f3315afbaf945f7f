"""Where two records of what was done differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

NEW_IN_VIEWS: dict[str, Any] = {"regions": "mean", "scope": "none", "merge": 1.0}
NEW = {"view": NEW_IN_VIEWS, "background": {"bias": 0.0}}  # what records of before do not say, by the key of the object
LONGEST = 60  # letters of a value that are shown


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], words: str = "instead of") -> list[str]:
    """Where two nested mappings of JSON values differ, a line for each key: "options.masks 20 instead of 30".

    Tuples and lists are the same, and so are a key that is absent and one that is None. What records of before do not
    say is as it was before there was a choice, see `NEW`.
    """
    return _lines(
        _whole(json.loads(json.dumps(dict(found)))), _whole(json.loads(json.dumps(dict(expected)))), words, ""
    )


def _whole(values: dict[str, Any]) -> dict[str, Any]:
    """The values with what records of before do not say."""
    return {
        key: _whole(NEW.get(key, {}) | value) if isinstance(value, dict) else value for key, value in values.items()
    }


def _lines(found: dict[str, Any], expected: dict[str, Any], words: str, prefix: str) -> list[str]:
    lines = []
    for key in sorted({*found, *expected}):
        one, other = found.get(key), expected.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            lines += _lines(one, other, words, f"{prefix}{key}.")
        elif one != other:
            lines.append(f"{prefix}{key} {_short(one)} {words} {_short(other)}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
