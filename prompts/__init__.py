"""Words that do not belong in code: prompt templates and word lists, one text file each, read by two accessors.

A line is an entry; blank lines and lines that begin with `#` are not. Templates: `templates-NAME.txt`, with "{}" where
the class name goes. Word lists: `words-NAME.txt`.
"""

from __future__ import annotations

from importlib.resources import files


def templates(name: str) -> tuple[str, ...]:
    """Prompt templates by name: "imagenet80" (CLIP's 80), "photo" ("a photo of a {}."), "plain" ("{}").

    Raises ValueError for an unknown name.
    """
    return _read("templates", name)


def words(name: str) -> tuple[str, ...]:
    """A word list by name: "background" (stuff that competes with a user's classes). ValueError for an unknown name."""
    return _read("words", name)


def _read(kind: str, name: str) -> tuple[str, ...]:
    known = {
        entry.name.removeprefix(f"{kind}-").removesuffix(".txt"): entry
        for entry in files(__name__).iterdir()
        if entry.name.startswith(f"{kind}-") and entry.name.endswith(".txt")
    }
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}, expected one of {', '.join(sorted(known))}")
    lines = (line.strip() for line in known[name].read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))
