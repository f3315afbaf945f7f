"""COCO's category ids: what numbers the classes have in `coco` and `coco-panoptic`.

Without a word from the user: the run's indices + 1, as some readers take 0 for "none". Of a run with a background that
is not to be a category: the run's indices, which are those of the label maps, of `voc` and of `cvat` as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ovseg.export.image import ImageSet, has_background
from ovseg.json_files import read_json

MOST_BYTES = 1 << 24  # of a JSON of ids


def category_ids(images: ImageSet) -> dict[int, int]:
    """Index into the run's names -> category id, of all names that are categories.

    Raises ValueError where ids were given and a name has none.
    """
    first = 1 if has_background(images.names) and not images.background else 0
    if images.category_ids is None:
        return {index: index + 1 - first for index in range(first, len(images.names))}
    for name in images.names[first:]:
        if name not in images.category_ids:
            remedy = ", or leave it out with --no-background" if (name, first) == ("background", 0) else ""
            raise ValueError(f"category_ids: no id for the class {name!r}; give each class one{remedy}")
    return {index: images.category_ids[images.names[index]] for index in range(first, len(images.names))}


def category_names(images: ImageSet) -> dict[int, str]:
    """Category id -> name, sorted by id: the run's, and those that were given for names that the run has not."""
    own = {id: images.names[index] for index, id in category_ids(images).items()}
    return dict(sorted({**{id: name for name, id in (images.category_ids or {}).items()}, **own}.items()))


def read_category_ids(text: str) -> dict[str, int]:
    """Ids as they are given: "cat=17,dog=18", or a JSON file of {"cat": 17, ...}.

    Raises ValueError for anything else, and for an id that two names have; OSError for a file that cannot be read.
    """
    if text.endswith(".json"):
        given = read_json(Path(text), MOST_BYTES)
        if not isinstance(given, dict):
            raise ValueError(f"category_ids: {text}: expected an object of name: id")
    else:
        pairs = [part.rpartition("=") for part in text.split(",")]
        given = {name.strip(): int(id) if id.strip().isdecimal() and len(id) < 20 else id for name, _, id in pairs}
        if len(given) < len(pairs):
            raise ValueError(f"category_ids: two ids for one name in {text!r}")
    return _checked(given)


def _checked(given: Mapping[str, object]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, id in given.items():
        if not name or isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < 2**31:
            raise ValueError(
                f'category_ids: expected NAME=ID, a whole number from 0, or a .json file, got "{name}={id}"'
            )
        if id in found.values():
            twice = next(other for other in found if found[other] == id)
            raise ValueError(f"category_ids: {twice!r} and {name!r} both have {id}")
        found[name] = id
    return found
