"""What jobs and workers are to those who run them, and one image's work as a value, whatever comes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ovseg.masks import MaskSource, Progress
from ovseg.run.inputs import Item
from ovseg.run.kept import Kept
from ovseg.setup import Setup

OUT_OF_MEMORY = "out of memory; --dtype float16 takes half of it, and a smaller or less elongated image takes less"


@dataclass(frozen=True)
class Outcome:
    """What came of one image. error: why it failed, in one line; None where it is done."""

    item: Item
    seconds: float
    summary: str = ""  # a line about the result
    error: str | None = None


class Worker(Protocol):
    """What a job starts."""

    @property
    def job(self) -> Job: ...
    @property
    def source(self) -> MaskSource: ...
    @property
    def facts(self) -> dict[str, Any]: ...  # for the run's record: what decides the results

    def size(self, item: Item) -> tuple[int, int]:
        """(H, W) of an image, pixels, without reading all of it. Raises ValueError or OSError for one that is none."""

    def __call__(self, item: Item, progress: Progress | None = None) -> str:
        """Do the work for one image and write its files; returns a line about the result."""


class Job(Protocol):
    """What is to be done for each image of a run; frozen, and can be pickled."""

    @property
    def setup(self) -> Setup: ...
    @property
    def out(self) -> Path: ...
    @property
    def needs(self) -> tuple[str, ...]: ...  # kinds of models beside the mask source's

    @property
    def files(self) -> tuple[str, ...]:
        """The endings of the files that it writes for an id; all of them there: the image is finished."""

    @property
    def kept(self) -> Kept:
        """Where kept analyses are looked for."""

    def start(self) -> Worker:
        """Load the models."""


def attempt(worker: Worker, item: Item, progress: Progress | None = None) -> Outcome:
    """Do the work for one image. What is wrong with the image, or too large for the memory, is part of the outcome.

    Anything else is raised: it would be wrong for the next image as well.
    """
    start = time.perf_counter()
    try:
        summary = worker(item, progress)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        from emerdiff.memory import is_out_of_memory  # torch is loaded by now, if the work needs it

        too_large = is_out_of_memory(error)
        if isinstance(error, RuntimeError) and not too_large:
            raise
        reason = f"{item.path}: {OUT_OF_MEMORY}" if too_large else str(error)
        return Outcome(item, time.perf_counter() - start, error=reason)
    return Outcome(item, time.perf_counter() - start, summary)
