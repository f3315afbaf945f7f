"""What was corrected of one image, as its file states it: the steps, which of them stands, and who reviewed it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emerdiff.settings import NOTHING, OBJECT, Table, choice, either, listed, text, whole
from ovseg.run.schema import check_fields

FORMAT = "ovseg corrections 1"
MOST_STEPS = 100  # that are kept of an image; older ones can no longer be undone
MOST_BYTES = 1 << 20  # of the JSON
FILE: Table = {
    "format": choice(FORMAT),
    "names_sha256": text("[0-9a-f]{64}"),
    "steps": listed(OBJECT, 0, MOST_STEPS),
    "stands": whole(0, 1 << 40),
    "reviewed": either(OBJECT, NOTHING),
}
STEP: Table = {"step": whole(1, 1 << 40), "who": text(), "when": text(most=40)}
REVIEW: Table = {**STEP, "step": whole(0, 1 << 40)}


@dataclass(frozen=True)
class Step:
    """One label map that was saved, or a review of it. step: its number, from 1; 0: the run's own answer."""

    step: int
    who: str
    when: str  # in UTC, "2026-01-31T23:59:59Z"


@dataclass(frozen=True)
class Corrections:
    """What was corrected of one image. stands: the step whose labels count, 0: the run's own do."""

    steps: tuple[Step, ...] = ()
    stands: int = 0
    review: Step | None = None

    @property
    def who(self) -> str | None:
        """Who made the labels that stand; None where they are the run's own."""
        return next((step.who for step in self.steps if step.step == self.stands), None)

    @property
    def reviewed(self) -> bool:
        """Whether somebody looked at the labels that stand now, and found them right."""
        return self.review is not None and self.review.step == self.stands

    @property
    def before(self) -> int | None:
        """The step that `undo` goes back to; None where there is nothing to undo."""
        earlier = [step.step for step in self.steps if step.step < self.stands]
        return None if self.stands == 0 else max(earlier, default=0)

    @property
    def after(self) -> int | None:
        """The step that `redo` goes on to; None where there is none."""
        return min((step.step for step in self.steps if step.step > self.stands), default=None)


def to_content(found: Corrections, names: Sequence[str]) -> dict[str, Any]:
    """The file's JSON object, for a run of these names."""
    return {
        "format": FORMAT,
        "names_sha256": _digests(names)[-1],
        "steps": [vars(step) for step in found.steps],
        "stands": found.stands,
        "reviewed": None if found.review is None else vars(found.review),
    }


def from_content(content: Any) -> Corrections:
    """The reverse. Raises ValueError, with the key, for what is not such an object."""
    if not isinstance(content, dict):
        raise ValueError("expected an object")
    check_fields(content, FILE, tuple(FILE), "")
    for place, row in enumerate(content["steps"]):
        check_fields(row, STEP, tuple(STEP), f"steps.{place}.")
    if content["reviewed"] is not None:
        check_fields(content["reviewed"], REVIEW, tuple(REVIEW), "reviewed.")
    steps = tuple(Step(**{key: row[key] for key in STEP}) for row in content["steps"])
    numbers = [step.step for step in steps]
    if sorted(set(numbers)) != numbers or content["stands"] not in (0, *numbers):
        raise ValueError("stands: expected 0 or one of the steps, whose numbers grow")
    review = content["reviewed"] and Step(**{key: content["reviewed"][key] for key in REVIEW})
    return Corrections(steps, content["stands"], review)


def is_of_names(content: dict[str, Any], names: Sequence[str]) -> bool:
    """Whether the file was written under these names, or as many of the first of them: added ones stand behind."""
    return content["names_sha256"] in _digests(names)


def _digests(names: Sequence[str]) -> list[str]:
    """Of the first name, of the first two, and so on to all of them."""
    digest = hashlib.sha256(names[0].encode("utf-8", "backslashreplace"))
    found = [digest.hexdigest()]
    for name in names[1:]:
        digest.update(f"\n{name}".encode("utf-8", "backslashreplace"))
        found.append(digest.hexdigest())
    return found
