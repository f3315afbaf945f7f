"""The words of a classifier: which of its classes a noun stands for, plurals, and the nearest words to an unknown one.

A classifying network has no text tower. Its folder holds a table instead, made from WordNet: a noun stands for the
classes below it ("dog": 118 breeds). A word that the table lacks is refused, never guessed. Loads no torch.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from emerdiff.settings import OBJECT, known_settings, listed, refusal, text, whole
from ovseg.json_files import read_json

CLASSIFIER_CONFIG = "config.json"
CLASSIFIER_WORDS = "words.json"
CLASSIFIER_WEIGHTS = "model.safetensors"
NEAREST = 5  # known words that are named for an unknown one
# Endings of plurals and what stands for them in the singular, as WordNet's morphology has them.
ENDINGS = (("men", "man"), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""))
ARTICLES = re.compile(r"(a|an|the) ")
MOST_CLASSES, MOST_WORDS = 100_000, 1_000_000


@dataclass(frozen=True, repr=False)
class Words:
    """Nouns and the classes that each stands for: a word -> indices of classes, ascending, at least one."""

    classes: dict[str, tuple[int, ...]]
    plurals: dict[str, str]  # those that no ending tells, such as "mice": "mouse"
    near: dict[str, str]  # a common word that is not known -> a known one that comes near

    def __repr__(self) -> str:
        return f"Words({len(self.classes)} nouns)"

    def find(self, word: str) -> tuple[int, ...]:
        """The classes of a word, singular or plural, in any case and with any article; () for an unknown word."""
        return next((self.classes[form] for form in self._forms(word) if form in self.classes), ())

    def _forms(self, word: str) -> Iterator[str]:
        plain = plain_word(word)
        for base in dict.fromkeys((plain, ARTICLES.sub("", plain, count=1), plain.replace(" ", ""))):
            yield base
            before, _, last = base.rpartition(" ")
            lead = f"{before} " if before else ""
            if last in self.plurals:
                yield lead + self.plurals[last]
            for ending, singular in ENDINGS:
                if last.endswith(ending) and len(last) > len(ending) + 1:
                    yield lead + last.removesuffix(ending) + singular

    def nearest(self, word: str) -> list[str]:
        """Up to `NEAREST` known words for an unknown one: its own noun ("brown dog": dog), then those spelled alike."""
        plain = plain_word(word)
        found = [self.near[form] for form in self._forms(plain) if form in self.near]
        parts = plain.split()
        found += [part for part in reversed(parts) if len(parts) > 1 and self.find(part)]
        found += difflib.get_close_matches(plain, self.classes, NEAREST, 0.6)
        if parts:
            found += [known for known in self.classes if parts[-1] in known.split()]
        return list(dict.fromkeys(found))[:NEAREST]

    def check(self, words: Sequence[str]) -> None:
        """Raise ValueError, in one line with the nearest known words, if any of these is not known."""
        refused = []
        for word in words:
            if not self.find(word):
                near = self.nearest(word)
                refused.append(f"{word!r}; nearest: {', '.join(near)}" if near else f"{word!r}, nor any like it")
        if refused:
            raise ValueError(f"namer: knows no word {'; no word '.join(refused)}")


def plain_word(word: str) -> str:
    """How words are compared: compatibility form, lower case, one space for every run of spaces, "-" and "_"."""
    return " ".join(re.sub(r"[-_\s]+", " ", unicodedata.normalize("NFKC", word).lower()).split())


def read_words(path: Path, classes: int) -> Words:
    """The table of a classifier with so many classes, checked.

    JSON: "sets", a list of lists of classes; "words", noun -> number of its set; "plurals" and "near", word -> word.
    Raises OSError for a file that cannot be read, ValueError, naming it, for another content.
    """
    index = whole(0, classes - 1)
    known = {"sets": listed(listed(index, 1, MOST_CLASSES), 1, MOST_WORDS), "words": OBJECT}
    settings = known_settings(path, read_json(path), known | {"plurals": OBJECT, "near": OBJECT})
    for key in known:
        if key not in settings:
            raise ValueError(f"{path}: {key}: missing")
    sets, words = settings["sets"], settings["words"]
    number, noun = whole(0, len(sets) - 1), text(most=200)
    for word, entry in words.items():
        if not number.fits(entry):
            raise refusal(path, f"words.{word}", number.expected, entry)
    others = {key: settings.get(key, {}) for key in ("plurals", "near")}
    for key, entries in others.items():
        for word, entry in entries.items():
            if not noun.fits(entry):
                raise refusal(path, f"{key}.{word}", noun.expected, entry)
    groups = [tuple(sorted(set(group))) for group in sets]
    return Words({plain_word(word): groups[entry] for word, entry in words.items()}, **others)
