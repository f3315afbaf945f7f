"""Words that do not belong in code: prompt templates, word lists and class lists, one text file each.

A line is an entry; blank lines and lines that begin with `#` are not. Templates: `templates-NAME.txt`, with "{}" where
the class name goes. Word lists: `words-NAME.txt`. Class lists: `classes-NAME.txt`, `name; alias; alias`, in the order
of a data set's indices and without its background; the names of published code, quirks and all, are lists of their own.
"""

from __future__ import annotations

from importlib.resources import files


def templates(name: str) -> tuple[str, ...]:
    """Prompt templates by name: "imagenet80" (CLIP's 80), "photo" ("a photo of a {}."), "plain" ("{}").

    Raises ValueError for an unknown name.
    """
    return _read("templates", name)


def words(name: str) -> tuple[str, ...]:
    """A word list by name: "background" (stuff that competes with a user's classes), "background-sclip", ...

    Raises ValueError for an unknown name.
    """
    return _read("words", name)


def classes(name: str) -> tuple[str, ...]:
    """A data set's classes by the list's name, each "name" or "name; alias; alias": "voc20", "voc20-sclip", ...

    Raises ValueError for an unknown name.
    """
    return _read("classes", name)


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
