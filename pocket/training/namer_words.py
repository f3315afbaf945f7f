"""Nouns and the ImageNet classes below them, from WordNet 3.0's files `data.noun`, `index.noun` and `noun.exc`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.data import ImageNetInfo

from ovseg.pocket.training.namer_senses import NEAR, SENSES
from ovseg.pocket.training.namer_stuff import STUFF
from ovseg.pocket.training.namer_stuff import WORDS as STUFF_WORDS

LARGEST = 600  # classes of a noun; those above it ("object", "entity") say nothing


def word_table(wordnet: Path) -> dict[str, Any]:
    """The content of words.json: sets of classes, noun -> number of its set, irregular plurals, and near words."""
    synsets = _read_synsets(wordnet / "data.noun")
    nouns = _read_index(wordnet / "index.noun")
    labels = ImageNetInfo("imagenet-1k").label_names()
    members: dict[int, set[int]] = {}
    for number, label in enumerate(labels):
        for above in _ancestors(int(label[1:]), synsets):
            members.setdefault(above, set()).add(number)
    table: dict[str, tuple[int, ...]] = {}
    for noun, offsets in nouns.items():
        found = [members[offset] for offset in offsets if offset in members]
        if found and len(found[0]) <= LARGEST:
            table[noun] = tuple(sorted(found[0]))
    firsts = [synsets[int(label[1:])][0][0] for label in labels]
    table |= {noun: _chosen(entries, firsts, table) for noun, entries in SENSES.items() if entries}
    for noun in (noun for noun, entries in SENSES.items() if not entries):
        table.pop(noun, None)
    for row, kind in enumerate(STUFF, len(labels)):
        table |= {noun: (*table.get(noun, ()), row) for noun in STUFF_WORDS[kind]}
    sets = sorted(set(table.values()))
    numbers = {group: number for number, group in enumerate(sets)}
    return {
        "sets": [list(group) for group in sets],
        "words": {noun: numbers[table[noun]] for noun in sorted(table)},
        "plurals": {plural: noun for plural, noun in _irregular(wordnet / "noun.exc") if noun in table},
        "near": {word: near for word, near in NEAR.items() if word not in table and near in table},
    }


def _chosen(entries: tuple[str, ...], firsts: list[str], table: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    chosen: set[int] = set()
    for entry in entries:
        if entry.startswith("@"):
            chosen.update(table[entry[1:]])
            continue
        noun, _, which = entry.partition("#")
        places = [number for number, first in enumerate(firsts) if first == noun]
        chosen.add(places[int(which or 1) - 1])
    return tuple(sorted(chosen))


def _ancestors(offset: int, synsets: dict[int, tuple[list[str], list[int]]]) -> set[int]:
    found, ahead = set(), [offset]
    while ahead:
        if (one := ahead.pop()) not in found:
            found.add(one)
            ahead += synsets[one][1]
    return found


def _read_synsets(path: Path) -> dict[int, tuple[list[str], list[int]]]:
    """Offset -> its nouns, and the offsets of what it is a kind or an instance of (see wndb(5WN))."""
    synsets = {}
    for line in _lines(path):
        fields = line.split(" | ")[0].split()
        count = int(fields[3], 16)
        nouns = [noun.replace("_", " ").lower() for noun in fields[4 : 4 + 2 * count : 2]]
        pointers = fields[5 + 2 * count :]
        kinds = [int(pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")]
        synsets[int(fields[0])] = nouns, kinds
    return synsets


def _read_index(path: Path) -> dict[str, list[int]]:
    """Noun -> the offsets of its senses, the most frequent first."""
    senses = {}
    for line in _lines(path):
        fields = line.split()
        senses[fields[0].replace("_", " ")] = [int(offset) for offset in fields[-int(fields[2]) :]]
    return senses


def _irregular(path: Path) -> list[tuple[str, str]]:
    return [(plural.replace("_", " "), noun.replace("_", " ")) for plural, noun, *_ in map(str.split, _lines(path))]


def _lines(path: Path) -> list[str]:
    """Lines of one of WordNet's files, without its licence at the top."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("  ")]
