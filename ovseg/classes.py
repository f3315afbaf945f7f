"""What the user asks for: class lists with aliases, the background rule, and both made into one vocabulary.

Follows the vocabularies of SCLIP (arXiv 2312.01597) and its successors: every alias is a prompt of its own, and stuff
words may compete for "background". It does not embed text (`ovseg.clip`) and does not decide labels (`ovseg.labels`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovseg.prompts import words

BACKGROUND = "background"
BACKGROUND_CHOICES = 'expected "words", "none", "threshold=T" with 0 < T < 1, or your own words "sky,wall,..."'


@dataclass(frozen=True)
class ClassList:
    """Class names in the order of their indices, each with its prompts. At least one; no text occurs twice."""

    names: tuple[str, ...]  # shown to the user, as typed (white space collapsed)
    aliases: tuple[tuple[str, ...], ...]  # the prompts of each class; the name itself comes first


@dataclass(frozen=True)
class Background:
    """What becomes of pixels that are none of the classes. Neither words nor threshold: every pixel gets a class."""

    words: tuple[str, ...] = ()  # prompts that compete with the classes and win as "background"
    threshold: float | None = None  # a mask whose best class is less probable than this is background
    own: bool = False  # the words were given by the user, so they may not repeat a class


@dataclass(frozen=True)
class Vocabulary:
    """All L names and all P prompts of a run: what is embedded, and which name each prompt speaks for."""

    names: tuple[str, ...]  # L names by index; "background" is 0 where there is one
    prompts: tuple[str, ...]  # P texts to embed
    owners: tuple[int, ...]  # P indices into names
    threshold: float | None = None  # as in Background
    notes: tuple[str, ...] = ()  # lines to tell the user

    @property
    def sha256(self) -> str:
        """Hex digest of everything that decides labels (names, prompts, owners, threshold; not the notes)."""
        content = json.dumps([self.names, self.prompts, self.owners, self.threshold], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8")).hexdigest()


def parse_classes(text: str) -> ClassList:
    """Class list of the command line: "cat;kitten,dog" is two classes, the first with an alias.

    Raises ValueError for an empty class or alias and for a text that occurs twice (upper and lower case are the same).
    """
    return _class_list((f"class {n} of {text!r}", entry) for n, entry in enumerate(text.split(","), 1))


def read_classes(path: str | Path) -> ClassList:
    """Class list of a file: UTF-8, one class a line, `name; alias; alias`; blank lines are skipped.

    `#` at a line's start or after white space begins a comment; a name may contain a comma. Raises OSError when the
    file cannot be read, ValueError (naming the line) as `parse_classes` and for text that is not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a class list must be UTF-8 text ({error})") from error
    bare = ((n, re.sub(r"(^|\s)#.*", "", line)) for n, line in enumerate(lines, 1))
    entries = [(f"{path}, line {n}", line) for n, line in bare if line.strip()]
    if not entries:
        raise ValueError(f"{path}: holds no class; expected one a line, `name; alias; alias`")
    return _class_list(entries)


def parse_background(text: str) -> Background:
    """The --background value: "words" (the default stuff words), "none", "threshold=T", or a comma list of own words.

    Raises ValueError for a threshold outside 0..1, an empty word or one given twice.
    """
    value = text.strip()
    if value == "none":
        return Background()
    if value == "words":
        return Background(words=words(BACKGROUND))
    if value.startswith("threshold"):
        number = re.fullmatch(r"threshold\s*=\s*(\d*\.?\d+)", value)
        if number is None or not 0 < float(number[1]) < 1:
            raise ValueError(f"background {text!r}: {BACKGROUND_CHOICES}")
        return Background(threshold=float(number[1]))
    try:
        own = parse_classes(value)
    except ValueError as error:
        raise ValueError(f"background: {error}; {BACKGROUND_CHOICES}") from error
    return Background(words=tuple(alias for group in own.aliases for alias in group), own=True)


def build_vocabulary(classes: ClassList | str | Sequence[str], background: Background | str = "words") -> Vocabulary:
    """Classes and background as one vocabulary.

    Args:
        classes: a parsed list, the text `parse_classes` reads, or a sequence of "name" or "name; alias" entries.
        background: a parsed rule or the text `parse_background` reads.
    Raises:
        ValueError: as the parsers; a word that the user gave both as class and as background; a class named
            "background" beside a background rule; no default word left.
    """
    classes = _as_class_list(classes)
    background = parse_background(background) if isinstance(background, str) else background
    taken = {_key(alias): alias for group in classes.aliases for alias in group}
    clash = [word for word in background.words if _key(word) in taken]
    if clash and background.own:
        raise ValueError(f"given both as a class and as background: {', '.join(clash)}; take it out of one of them")
    competing = tuple(word for word in background.words if word not in clash)
    if clash and not competing:
        raise ValueError("every default background word is also a class: choose --background none or your own words")
    note = f"taken out of the default background words, because they are classes: {', '.join(clash)}"
    groups = list(zip(classes.names, classes.aliases, strict=True))
    if competing or background.threshold is not None:
        if BACKGROUND in taken:
            raise ValueError(f'"{taken[BACKGROUND]}" is a class and the name of the background: use --background none')
        groups.insert(0, (BACKGROUND, competing))
    return Vocabulary(
        names=tuple(name for name, _ in groups),
        prompts=tuple(alias for _, aliases in groups for alias in aliases),
        owners=tuple(index for index, (_, aliases) in enumerate(groups) for _ in aliases),
        threshold=background.threshold,
        notes=(note,) if clash else (),
    )


def _as_class_list(classes: ClassList | str | Sequence[str]) -> ClassList:
    if isinstance(classes, ClassList):
        return classes
    if isinstance(classes, str):
        return parse_classes(classes)
    if not classes:
        raise ValueError("no classes given, expected at least one name")
    return _class_list((f"class {n}", entry) for n, entry in enumerate(classes, 1))


def _class_list(entries: Iterable[tuple[str, str]]) -> ClassList:
    """Entries (where it stands, "name; alias; alias") to a checked list."""
    groups: list[tuple[str, ...]] = []
    seen: dict[str, str] = {}
    for where, entry in entries:
        group = tuple(" ".join(alias.split()) for alias in entry.split(";"))
        for alias in group:
            if not alias:
                raise ValueError(f"{where} has an empty name, expected `name` or `name; alias; alias`, got {entry!r}")
            if _key(alias) in seen:
                raise ValueError(f"{where}: {alias!r} was given before ({seen[_key(alias)]})")
            seen[_key(alias)] = where
        groups.append(group)
    return ClassList(names=tuple(group[0] for group in groups), aliases=tuple(groups))


def _key(text: str) -> str:
    """What makes two prompts the same: CLIP's tokenizer lowers case, so "Cat" and "cat" are one prompt."""
    return text.casefold()
