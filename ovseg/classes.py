"""What the user asks for: class lists with aliases, the background rule, and both made into one vocabulary.

Follows the vocabularies of SCLIP (arXiv 2312.01597) and its successors: every alias is a prompt of its own, and stuff
words may compete for "background". It embeds no text (`ovseg.towers.clip`) and decides no labels (`ovseg.labels`).

A name is kept, and shown, in Unicode's composed form (NFC) with each run of white space as one space. Two names are the
same prompt when they are equal in compatibility form (NFKC) and lower case, as CLIP's tokenizer reads them: "Cat" and
"cat", the composed and the decomposed "café", full-width and plain "cat"; "ß" and "ss" are two. No text may be given
twice. Control characters and invisible ones are refused, but for the joiners U+200C and U+200D, which scripts need.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

from ovseg.prompts import words

BACKGROUND = "background"
MOST_NAMES = 65534  # that a label map of 16 bits can tell apart, beside "no label"
MOST_LETTERS = 1000  # of a name
MOST_SHOWN = 200  # letters of a list in a message
MOST_BYTES = 1 << 26  # of a file of names
COMMAS = r"[,\uff0c\u3001]"  # what separates classes: also the full-width and the ideographic comma
SEMICOLONS = r"[;\uff1b]"  # what separates the aliases of one class: also the full-width semicolon
JOINERS = "\u200c\u200d"  # invisible, but part of Persian and Indic spelling and of emoji
LARGEST_BIAS = 1000.0  # of the background's logit; beyond this every probability is 0 or 1
BACKGROUND_CHOICES = 'expected "words", "none", "threshold=T" with 0 < T < 1, or your own words "sky,wall,..."'


@dataclass(frozen=True)
class ClassList:
    """Class names in the order of their indices, each with its prompts. At least one; no text occurs twice."""

    names: tuple[str, ...]  # shown to the user, as typed (composed, white space collapsed)
    aliases: tuple[tuple[str, ...], ...]  # the prompts of each class; the name itself comes first


@dataclass(frozen=True)
class Background:
    """What becomes of pixels that are none of the classes. Neither words nor threshold: every pixel gets a class.

    Raises ValueError for a threshold or a bias out of range, and for a bias without words.
    """

    words: tuple[str, ...] = ()  # prompts that compete with the classes and win as "background"
    threshold: float | None = None  # a mask whose best class is less probable than this is background
    own: bool = False  # the words were given by the user, so they may not repeat a class
    repeats: bool = False  # words that are classes stay words too, as in published code; the background wins a draw
    area: float | None = None  # a class with this share of the pixels of all classes, or less, gives way to the others
    bias: float = 0.0  # added to the logits of the words: above 0 for more background, below for less

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(f"background: expected a threshold between 0 and 1, got {self.threshold}")
        if not -LARGEST_BIAS <= self.bias <= LARGEST_BIAS:
            raise ValueError(
                f"background_bias: expected a number from {-LARGEST_BIAS:g} to {LARGEST_BIAS:g}, got {self.bias}"
            )
        if self.bias and not self.words:
            way = "choose --background words" if self.threshold is None else "choose another threshold instead"
            raise ValueError(f"background_bias: is added to the logits of background words, and there are none: {way}")


@dataclass(frozen=True)
class Vocabulary:
    """All L names and all P prompts of a run: what is embedded, and which name each prompt speaks for."""

    names: tuple[str, ...]  # L names by index; "background" is 0 where there is one
    prompts: tuple[str, ...]  # P texts to embed
    owners: tuple[int, ...]  # P indices into names
    threshold: float | None = None  # as in Background
    area: float | None = None  # as in Background
    bias: float = 0.0  # as in Background; of name 0's prompts
    notes: tuple[str, ...] = ()  # lines to tell the user

    @property
    def sha256(self) -> str:
        """Hex digest of everything that decides labels (names, prompts, owners, the background; not the notes)."""
        more: list[object] = [] if self.area is None else [self.area]
        more += [{"bias": self.bias}] if self.bias else []
        content = json.dumps([self.names, self.prompts, self.owners, self.threshold, *more], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8")).hexdigest()


def parse_classes(text: str) -> ClassList:
    """Class list of the command line: "cat;kitten,dog" is two classes, the first with an alias.

    The full-width comma and semicolon and the ideographic comma separate as "," and ";" do: "cat、dog" is two classes.
    Raises ValueError for an empty class or alias, one that occurs twice, and one with a control character.
    """
    shown = repr(text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}...")
    return _class_list((f"class {n} of {shown}", entry) for n, entry in enumerate(re.split(COMMAS, text), 1))


def read_classes(path: str | Path) -> ClassList:
    """Class list of a file: UTF-8, one class a line, `name; alias; alias`; blank lines are skipped.

    `#` at a line's start or after white space begins a comment; a name may contain a comma. Raises OSError when the
    file cannot be read, ValueError (naming the line) as `parse_classes` and for text that is not UTF-8.
    """
    with Path(path).open("rb") as file:  # a pipe, perhaps, whose size is not known before
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path}: over {MOST_BYTES} bytes, expected a class list of at most so many")
    try:
        lines = content.decode("utf-8-sig").splitlines()
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
            raise ValueError(f"background: {text!r}: {BACKGROUND_CHOICES}")
        return Background(threshold=float(number[1]))
    try:
        own = parse_classes(value)
    except ValueError as error:
        raise ValueError(f"background: {error}; {BACKGROUND_CHOICES}") from error
    return Background(words=tuple(alias for group in own.aliases for alias in group), own=True)


def biased(background: Background | str, bias: float) -> Background:
    """A background rule with `bias` on its words' logits; as it is with 0.

    Raises ValueError as `parse_background`, and as `Background`.
    """
    rule = parse_background(background) if isinstance(background, str) else background
    return replace(rule, bias=bias) if bias else rule


def build_vocabulary(classes: ClassList | str | Sequence[str], background: Background | str = "words") -> Vocabulary:
    """Classes and background as one vocabulary.

    Args:
        classes: a parsed list, the text `parse_classes` reads, or a sequence of "name" or "name; alias" entries, in
            which a comma is part of the name.
        background: a parsed rule or the text `parse_background` reads.
    Raises:
        ValueError: as the parsers; an entry that is not a string (says which); a word that the user gave both as class
            and as background; a class named "background" beside a background rule; no default word left.
    """
    classes = _as_class_list(classes)
    background = parse_background(background) if isinstance(background, str) else background
    if not isinstance(background, Background):
        raise ValueError(f"background: {BACKGROUND_CHOICES}, got {_kind(background)}")
    taken = {_key(alias): alias for group in classes.aliases for alias in group}
    clash = [word for word in background.words if _key(word) in taken and not background.repeats]
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
        area=background.area,
        bias=background.bias,
        notes=(note,) if clash else (),
    )


def _as_class_list(classes: ClassList | str | Sequence[str]) -> ClassList:
    if isinstance(classes, ClassList):
        return classes
    if isinstance(classes, str):
        return parse_classes(classes)
    if not isinstance(classes, Iterable) or isinstance(classes, bytes | bytearray | Mapping | AbstractSet):
        raise ValueError(f'classes: expected text such as "cat;kitten,dog" or a list of names, got {_kind(classes)}')
    entries = list(classes)
    if not entries:
        raise ValueError("no classes given, expected at least one name")
    for n, entry in enumerate(entries, 1):
        if not isinstance(entry, str):
            raise ValueError(f"class {n}: expected a name (str), got {_kind(entry)}")
    return _class_list((f"class {n}", entry) for n, entry in enumerate(entries, 1))


def _class_list(entries: Iterable[tuple[str, str]]) -> ClassList:
    """Entries (where it stands, "name; alias; alias") to a checked list."""
    groups: list[tuple[str, ...]] = []
    seen: dict[str, str] = {}
    for where, entry in entries:
        parts = re.split(SEMICOLONS, unicodedata.normalize("NFC", entry))
        group = tuple(" ".join(alias.split()) for alias in parts)
        for alias in group:
            if not alias:
                raise ValueError(f"{where} has an empty name, expected `name` or `name; alias; alias`, got {entry!r}")
            if len(alias) > MOST_LETTERS:
                raise ValueError(f"{where}: a name of {len(alias)} characters, expected at most {MOST_LETTERS}")
            if hidden := [letter for letter in alias if _is_hidden(letter)]:
                raise ValueError(f"{where}: {alias!r} has a control or invisible character, U+{ord(hidden[0]):04X}")
            if _key(alias) in seen:
                raise ValueError(f"{where}: {alias!r} was given before ({seen[_key(alias)]})")
            seen[_key(alias)] = where
        groups.append(group)
    if len(groups) > MOST_NAMES:
        raise ValueError(f"classes: at most {MOST_NAMES} names fit into a label map, got {len(groups)}")
    return ClassList(names=tuple(group[0] for group in groups), aliases=tuple(groups))


def _key(text: str) -> str:
    """What makes two prompts the same: "Cat", "ｃａｔ" -> "cat". Lower case, not casefold, for which "ß" is "ss"."""
    lower = unicodedata.normalize("NFKC", text).lower()
    return " ".join(unicodedata.normalize("NFKC", lower).split())


def _is_hidden(letter: str) -> bool:
    """Whether a character is a control (Cc), half of a pair (Cs) or invisible (Cf), and no joiner."""
    return unicodedata.category(letter) in ("Cc", "Cs", "Cf") and letter not in JOINERS


def _kind(value: object) -> str:
    """A wrong value for a message: 3 -> "3 (int)"."""
    return f"{reprlib.repr(value)} ({type(value).__name__})"
