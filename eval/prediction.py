"""Label a data set's images into a run folder: `ovseg eval predict`. Only the oracle `--by truth` reads labels.

The protocol says how CLIP sees an image, how sharp the softmax is, and what becomes of the background; the mask source
over which masks features are pooled. With kept analyses neither another source nor another vocabulary repeats the
diffusion model's work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ovseg import prompts
from ovseg.classes import Vocabulary, build_vocabulary
from ovseg.draw import class_colours
from ovseg.eval.datasets import Dataset, open_dataset
from ovseg.eval.protocols import Protocol, protocol
from ovseg.files import index_png, write_atomically
from ovseg.masks import SOURCES, MaskSource, PlainSource, Progress
from ovseg.result import masks_png, no_label
from ovseg.run.batch import run_job
from ovseg.run.images import ANALYSIS, LABELS, MASKS
from ovseg.run.inputs import Item, batch_of
from ovseg.run.kept import Kept
from ovseg.run.work import provenance, shares
from ovseg.segmenter import Segmenter, Text
from ovseg.setup import Setup

TRUTH = "truth"  # the name of the mask source that reads the labels


@dataclass(frozen=True)
class PredictJob:
    """Label a data set's images, as `ovseg eval predict` does.

    name, root, ignore: of the data set, as in `open_dataset`; limit: only the first images.
    protocol, vocabulary: names, None for the data set's own. truth: pool over the true masks, not the set-up's.
    analyses: a run folder whose kept analyses are used; None: the job's own.
    """

    setup: Setup
    name: str
    root: str | None
    out: Path
    ignore: int | None = None
    limit: int | None = None
    protocol: str | None = None
    vocabulary: str | None = None
    truth: bool = False
    analyses: Path | None = None
    keep_analysis: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        return ("clip",)

    @property
    def by(self) -> str:
        """The mask source's name."""
        return TRUTH if self.truth else self.setup.by

    @property
    def files(self) -> tuple[str, ...]:
        masks = (MASKS,) if self.truth or SOURCES[self.setup.by].masks else ()
        return (LABELS, *masks, *((ANALYSIS,) if self.keep_analysis else ()))

    @property
    def kept(self) -> Kept:
        return Kept(self.analyses or self.out, own=self.analyses is None)

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, opened. Raises ValueError and OSError as `open_dataset`."""
        return open_dataset(self.name, self.root, ignore=self.ignore, part=self.limit is not None)

    @cached_property
    def rules(self) -> Protocol:
        """The protocol for this data set."""
        return protocol(self.protocol, self.dataset.name, self.dataset.background)

    @cached_property
    def words(self) -> Vocabulary:
        """The data set's own classes, or the list of that name in `prompts`, with the protocol's background.

        Raises ValueError for a list of another length than the data set's.
        """
        own, name = self.dataset.classes, self.vocabulary
        classes = prompts.classes(name) if name else own
        if len(classes) != len(own):
            raise ValueError(f"vocabulary: {name} has {len(classes)} classes, {self.dataset.name} has {len(own)}")
        return build_vocabulary(classes, self.rules.background)

    @property
    def items(self) -> list[Item]:
        """The first `limit` images, or all. Raises ValueError for a limit that is not positive."""
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: expected at least 1 image, got {self.limit}")
        return [Item(id, Path(self.dataset.file(id))) for id in self.dataset.ids[: self.limit]]

    def start(self) -> PredictWorker:
        source = true_masks(self.dataset) if self.truth else None
        segmenter = Segmenter.load(self.setup, source)
        view, templates = self.rules.view or segmenter.view, self.rules.templates or self.setup.preset.templates
        segmenter = replace(
            segmenter,
            view=replace(view, variant=self.setup.dense or view.variant),
            scoring=replace(segmenter.scoring, scale=self.rules.logit_scale or segmenter.scoring.scale),
            templates=prompts.templates(templates),
        )
        text = Text(self.words, segmenter.clip.encode_text(self.words.prompts, segmenter.templates))
        rules = replace(
            self.rules,
            view=segmenter.view,
            logit_scale=segmenter.scoring.scale,
            templates=templates,
            background=replace(self.rules.background, words=self._competing()),
        )
        facts = {
            "command": "eval predict",
            "dataset": self.dataset.name,
            "root": self.dataset.root,
            "protocol": asdict(rules),
            "vocabulary": self.vocabulary or self.dataset.vocabulary,
            "vocabulary_sha256": self.words.sha256,
            "names": self.dataset.names,
            "colours": class_colours(self.dataset.names),
            "no_label": no_label(len(self.dataset.names)),
            "view": asdict(segmenter.view),
            **provenance(self.setup, segmenter.source, segmenter.models),
        }
        return PredictWorker(self, segmenter, text, facts)

    def _competing(self) -> tuple[str, ...]:
        """The background words that are no classes."""
        prompts_of_names = zip(self.words.prompts, self.words.owners, strict=True)
        first = {prompt for prompt, owner in prompts_of_names if owner == 0}
        return tuple(word for word in self.rules.background.words if word in first)


@dataclass(frozen=True)
class PredictWorker:
    """A started `PredictJob`."""

    job: PredictJob
    segmenter: Segmenter
    text: Text
    facts: dict[str, Any]

    @property
    def source(self) -> MaskSource:
        """Where the masks come from."""
        return self.segmenter.source

    def __call__(self, item: Item, progress: Progress | None = None) -> str:
        job, names = self.job, self.job.dataset.names
        image = job.dataset.image(item.id)
        kept = job.kept.load(item, lambda analysis: self.segmenter.check(analysis, image))
        analysis = self.segmenter.analyze(image, id=item.id, kept=kept, progress=progress)
        if job.keep_analysis and not (kept and job.kept.own and kept.origin == analysis.origin):
            analysis.save(job.out / f"{item.id}{ANALYSIS}")
        result = self.segmenter.label_analysis(analysis, self.text)
        if result.masks is not None:
            write_atomically(job.out / f"{item.id}{MASKS}", masks_png(result.masks))
        write_atomically(job.out / f"{item.id}{LABELS}", index_png(result.labels, class_colours(names)))
        return shares(result.labels, names)


def true_masks(dataset: Dataset) -> PlainSource:
    """A mask for every class that an image's labels have, and one for what is not scored: an oracle."""

    def masks(_image: np.ndarray, id: str) -> np.ndarray:
        truth = dataset.truth(id)
        return np.unique(truth, return_inverse=True)[1].reshape(truth.shape).astype(np.int32)

    return PlainSource(TRUTH, masks)


def predict(
    name: str,
    root: str | Path | None = None,
    *,
    out: str | Path,
    by: str = "emerdiff",
    setup: Setup | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None] | None = None,
    **more: Any,
) -> int:
    """Label a data set's images into the run folder `out`; what is finished there is left alone.

        ovseg.eval.predict("pocket", out="runs/e", setup=Setup(get_preset("pocket")), limit=20)

    name, root: as in `open_dataset`. by: a mask source, or "truth". setup: models and settings, the default preset's if
    nothing is said. more: further fields of `PredictJob`. Returns 0, or 1 where images failed.
    Raises ValueError and OSError for what is wrong with all of it.
    """
    truth = by == TRUTH
    setup = replace(setup or Setup(), by="none" if truth else by)
    analyses = more.pop("analyses", None)
    job = PredictJob(
        setup, name, None if root is None else str(root), Path(out), truth=truth,
        analyses=Path(analyses) if analyses else None, **more,
    )  # fmt: skip
    for note in job.words.notes:
        (tell or (lambda _line: None))(f"note: {note}")
    return run_job(job, batch_of(job.items, job.out, job.files, overwrite=overwrite))
