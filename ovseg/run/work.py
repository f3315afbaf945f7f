"""The work on one image as a value: a job says what is to be done, the worker it starts does it for one image.

    job = LabelJob(setup, classes, "words", Path("out"))      # frozen, can be pickled and sent to another process
    worker = job.start()                                      # loads the models
    outcome = attempt(worker, Item("cat", Path("cat.jpg")))   # writes cat.png, cat.json, ...; never raises for an image

The command line does this for one image after the other (`batch`); anything else that has images can do the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ovseg.classes import ClassList, Vocabulary, biased, build_vocabulary
from ovseg.draw import class_colours
from ovseg.masks import MaskSource, Progress
from ovseg.result import no_label, save_masks
from ovseg.run.images import ANALYSIS, LABELS, MASKS, OVERLAY, SUMMARY
from ovseg.run.inputs import Item
from ovseg.run.kept import Kept
from ovseg.run.pictures import read_item, size_of_item
from ovseg.setup import NO_REFINER, Setup
from ovseg.sources import SOURCES

if TYPE_CHECKING:
    from ovseg.analysis import Analysis
    from ovseg.segmenter import Segmenter, Text


@dataclass(frozen=True)
class LabelJob:
    """Label images with classes, as `ovseg label` does.

    analyses: a run folder whose kept analyses are used; None: the job's own. keep_analysis: keep them. formats: what
    the run is to be exported to when it is whole. background_bias: added to the background words' logits.
    Raises ValueError for classes that clash or are too many for a label map, and for formats that there are not or
    that cannot hold the names.
    """

    setup: Setup
    classes: ClassList
    background: str
    out: Path
    analyses: Path | None = None
    keep_analysis: bool = False
    formats: tuple[str, ...] = ()
    background_bias: float = 0.0
    needs: ClassVar[tuple[str, ...]] = ("clip",)

    def __post_init__(self) -> None:
        self.setup.check_masks()
        names = self.vocabulary.names
        no_label(len(names))
        if self.formats:  # otherwise what exports need is not loaded
            from ovseg.export import check_names
            from ovseg.export.write import check_formats

            check_names(check_formats(self.formats), names)

    @property
    def vocabulary(self) -> Vocabulary:
        """Classes and background together."""
        return build_vocabulary(self.classes, biased(self.background, self.background_bias))

    @property
    def files(self) -> tuple[str, ...]:
        masks = (MASKS,) if SOURCES[self.setup.by].masks else ()
        return (SUMMARY, *masks, OVERLAY, LABELS, *((ANALYSIS,) if self.keep_analysis else ()))

    @property
    def kept(self) -> Kept:
        return Kept(self.analyses or self.out, own=self.analyses is None)

    def start(self) -> LabelWorker:
        from ovseg.segmenter import Segmenter

        return self.start_with(Segmenter.load(self.setup))

    def start_with(self, segmenter: Segmenter) -> LabelWorker:
        """As `start`, with models that are loaded already, by this job's set-up."""
        text = segmenter.encode(self.classes, self.background, self.background_bias)
        vocabulary = text.vocabulary
        facts = {
            "command": "label",
            "names": vocabulary.names,
            "colours": class_colours(vocabulary.names),
            "no_label": no_label(len(vocabulary.names)),
            "vocabulary_sha256": vocabulary.sha256,
            "background": self.background,
            "background_bias": self.background_bias or None,
            "protocol": None,
            "templates": self.setup.preset.templates,
            "view": asdict(segmenter.view),
            **decision(self.setup),
            **provenance(self.setup, segmenter.source, segmenter.models),
        }
        return LabelWorker(self, segmenter, text, facts)


@dataclass(frozen=True)
class LabelWorker:
    """A started `LabelJob`."""

    job: LabelJob
    segmenter: Segmenter
    text: Text
    facts: dict[str, Any]

    @property
    def source(self) -> MaskSource:
        """Where the masks come from."""
        return self.segmenter.source

    def size(self, item: Item) -> tuple[int, int]:
        return size_of_item(item.path)

    def __call__(self, item: Item, progress: Progress | None = None) -> str:
        image, job = read_item(item.path), self.job
        analysis = analyzed(self.segmenter, item, image, job.kept, job.out if job.keep_analysis else None, progress)
        result = self.segmenter.label_analysis(analysis, self.text, image)
        result.save(job.out, item.id)
        return shares(result.labels, result.names)


@dataclass(frozen=True)
class MaskJob:
    """Class-agnostic masks alone, as `ovseg masks` writes them."""

    setup: Setup
    out: Path
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not SOURCES[self.setup.by].masks:
            raise ValueError(f"by: {self.setup.by} makes no masks")

    @property
    def files(self) -> tuple[str, ...]:
        return (OVERLAY, LABELS)

    @property
    def kept(self) -> Kept:
        return Kept(Path(os.devnull), own=True)  # it keeps none, and uses none

    def start(self) -> MaskWorker:
        source = SOURCES[self.setup.by].make(self.setup)
        diffusion = source.identity.get("diffusion")
        models = {"diffusion": diffusion} if diffusion else {}
        return MaskWorker(self, source, {"command": "masks", **provenance(self.setup, source, models)})


@dataclass(frozen=True)
class MaskWorker:
    """A started `MaskJob`."""

    job: MaskJob
    source: MaskSource
    facts: dict[str, Any]

    def size(self, item: Item) -> tuple[int, int]:
        return size_of_item(item.path)

    def __call__(self, item: Item, progress: Progress | None = None) -> str:
        image = read_item(item.path)
        labels = self.source.segment(image, item.id, progress).labels
        assert labels is not None  # `MaskJob` takes no source without masks
        return f"{save_masks(self.job.out, item.id, image, labels)} masks"


def analyzed(
    segmenter: Segmenter,
    item: Item,
    image: np.ndarray,
    kept: Kept,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """An image's analysis, out of a kept one as far as that fits. image: (H, W, 3) uint8; out: the folder to keep it
    in, None: it is not kept. Raises ValueError as `Kept.load` and `Segmenter.analyze`."""
    earlier = kept.load(item, lambda analysis: segmenter.check(analysis, image))
    analysis = segmenter.analyze(image, id=item.id, kept=earlier, progress=progress)
    if out is not None and not kept.stands(earlier, analysis):
        analysis.save(out / f"{item.id}{ANALYSIS}")
    return analysis


def provenance(setup: Setup, source: MaskSource, models: Mapping[str, str]) -> dict[str, Any]:
    """What a record says of masks and models: source and settings, which weights and whence, device and numbers."""
    identity = source.identity
    return {
        "by": identity["by"],
        "options": identity["options"],
        "preset": setup.preset.name or None,
        "models": dict(models),
        "sources": {kind: setup.preset.sources[kind] for kind in models},
        "device": str(setup.find_device()),
        "dtype": setup.dtype,
    }


def decision(setup: Setup) -> dict[str, Any]:
    """What a record says of how labels are decided, where it is not the plain way."""
    return {"vote": setup.vote or None, "refine": None if setup.refiner == NO_REFINER else setup.refiner}


def shares(labels: np.ndarray, names: Sequence[str]) -> str:
    """One line about a labelled image: its largest classes and their shares."""
    found, counts = np.unique(labels[labels < len(names)], return_counts=True)
    largest = sorted(zip(-counts, found, strict=True))[:6]
    return ", ".join(f"{names[index]} {-100 * count / labels.size:.0f}%" for count, index in largest)
