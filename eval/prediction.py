"""Label a data set's images into a run folder: `ovseg eval predict`. Only the oracle `--by truth` reads labels.

The protocol says how CLIP sees an image, how sharp the softmax is, and what becomes of the background; the mask source
over which masks features are pooled. By a pixel-exact protocol pixels are labelled as the published code does it, and
masks by the mean of its cosines in them. With kept analyses neither another source nor another vocabulary repeats the
diffusion model's work.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ovseg import prompts
from ovseg.classes import Vocabulary, biased, build_vocabulary
from ovseg.draw import class_colours
from ovseg.eval.datasets import Dataset, open_dataset
from ovseg.eval.oracle import TRUTH, true_masks
from ovseg.eval.protocols import NATIVE, OF_THE_METHOD, Protocol, check_readable, protocol
from ovseg.files import index_png, write_atomically
from ovseg.labels import check_threshold
from ovseg.masks import MaskSource, Progress
from ovseg.pixel_exact import label_masks_exactly, label_pixels_exactly, pixel_cosines
from ovseg.result import masks_png, no_label
from ovseg.run.folder import recorded_facts
from ovseg.run.images import ANALYSIS, LABELS, MASKS
from ovseg.run.inputs import Item
from ovseg.run.kept import Kept
from ovseg.run.terminal import say
from ovseg.run.work import analyzed, decision, provenance, shares
from ovseg.segmenter import Segmenter, Text
from ovseg.setup import NO_REFINER, Setup
from ovseg.sources import SOURCES
from ovseg.towers.clip import Clip
from ovseg.towers.region_kinds import REGIONS
from ovseg.towers.scoring import Scoring


@dataclass(frozen=True)
class PredictJob:
    """Label a data set's images, as `ovseg eval predict` does.

    name, root, ignore, partial: of the data set, as in `open_dataset`; limit: only the first images.
    protocol: a name, or rules of one's own; pixel_exact: follow it to the pixel (rules of one's own say it themselves).
    vocabulary: a class list's name; None: the protocol's, or the data set's own.
    truth: pool over the true masks, not the set-up's.
    analyses: a run folder whose kept analyses are used; None: the job's own.
    background_bias: added to the logits of the protocol's background words, which makes its rules others.
    """

    setup: Setup
    name: str
    root: str | None
    out: Path
    ignore: int | None = None
    limit: int | None = None
    partial: bool = False
    protocol: str | Protocol | None = None
    pixel_exact: bool = False
    vocabulary: str | None = None
    truth: bool = False
    analyses: Path | None = None
    keep_analysis: bool = False
    background_bias: float = 0.0
    needs: ClassVar[tuple[str, ...]] = ("clip",)

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
        part = self.limit is not None
        return open_dataset(self.name, self.root, ignore=self.ignore, part=part, partial=self.partial)

    @cached_property
    def rules(self) -> Protocol:
        """The protocol for this data set. Raises ValueError for one that it does not have."""
        if isinstance(self.protocol, Protocol):
            if self.pixel_exact and not self.protocol.pixel_exact:
                raise ValueError("pixel_exact: is said by the protocol itself where it is no name")
            rules = self.protocol
        else:
            rules = protocol(self.protocol, self.dataset.name, self.dataset.background, self.pixel_exact)
        if self.background_bias and not rules.background.words:
            raise ValueError(f"background_bias: {self.dataset.name} has no background words by {rules.name}'s rules")
        return replace(rules, background=biased(rules.background, self.background_bias))

    @cached_property
    def reading(self) -> Setup:
        """The set-up without a preset's refiner where published rules have none, or masks are the true ones."""
        strict = self.truth or self.rules.name != NATIVE
        return replace(self.setup, refine=self.setup.refine or NO_REFINER) if strict else self.setup

    @cached_property
    def words(self) -> Vocabulary:
        """The classes of the vocabulary, the protocol's or the data set's own, with the protocol's background.

        Raises ValueError for a list that there is not, or of another length than the data set's.
        """
        own, name = self.dataset.classes, self.vocabulary or self.rules.classes
        classes = prompts.classes(name) if name else own
        if len(classes) != len(own):
            raise ValueError(f"vocabulary: {name} has {len(classes)} classes, {self.dataset.name} has {len(own)}")
        return build_vocabulary(classes, self.rules.background)

    @property
    def templates(self) -> str:
        """The name of the prompt templates: the protocol's, or the preset's."""
        return self.rules.templates or self.setup.preset.templates

    @property
    def items(self) -> list[Item]:
        """The first `limit` images, or all. Raises ValueError for a limit that is not positive."""
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: expected at least 1 image, got {self.limit}")
        return [Item(id, Path(self.dataset.file(id))) for id in self.dataset.ids[: self.limit]]

    def check(self) -> None:
        """Open the data set and say what its vocabulary has to say: mistakes in the job show before models are loaded.

        Raises ValueError and OSError.
        """
        if self.analyses:
            recorded_facts(self.analyses)  # refuses a folder that holds no run
        if not self.truth:
            self.setup.check_masks()
        elif REGIONS[self.setup.regions or "mean"].soft:
            raise ValueError(f"regions: {self.setup.regions} needs difference maps, which true masks have not")
        if self.rules.pixel_exact:
            check_readable(self.setup)
        if self.partial and (lacking := self.dataset.lacking):
            say(f"note: {lacking}")
        for note in self.words.notes:
            say(f"note: {note}")

    def start(self) -> PredictWorker:
        segmenter = Segmenter.load(self.reading, true_masks(self.dataset) if self.truth else None)
        rules = self.rules
        if rules.pixel_exact and not isinstance(segmenter.clip, Clip):
            raise ValueError("pixel_exact: is for CLIPs, whose published code it follows")
        # An earlier run's view, if its analyses are used, may be of another protocol.
        view = rules.view or replace(self.setup, recorded=None).view(segmenter.clip)
        segmenter = replace(
            segmenter,
            view=replace(view, **{name: getattr(segmenter.view, name) for name in OF_THE_METHOD}),
            scoring=Scoring(rules.logit_scale) if rules.logit_scale else segmenter.scoring,  # a protocol's: softmax
            templates=prompts.templates(self.templates),
        )
        # A prompt that two names share is embedded once, so that neither is ahead by rounding.
        prompts_once = list(dict.fromkeys(self.words.prompts))
        embeddings = segmenter.clip.encode_text(prompts_once, segmenter.templates)
        text = Text(self.words, embeddings[[prompts_once.index(prompt) for prompt in self.words.prompts]])
        for note in check_threshold(self.words, segmenter.scoring):
            say(f"note: {note}")
        return PredictWorker(self, segmenter, text, self._facts(segmenter))

    def _facts(self, segmenter: Segmenter) -> dict[str, Any]:
        """What the record says of the run; its protocol is the rules that were in fact followed."""
        rules = replace(
            self.rules,
            view=segmenter.view,
            logit_scale=segmenter.scoring.scale,
            templates=self.templates,
            background=replace(self.rules.background, words=self._competing()),
        )
        return {
            "command": "eval predict",
            "dataset": self.dataset.name,
            "root": self.dataset.root,
            "protocol": asdict(rules),
            "partial": self.partial,
            "vocabulary": self.vocabulary or self.rules.classes or self.dataset.vocabulary,
            "vocabulary_sha256": self.words.sha256,
            "names": self.dataset.names,
            "colours": class_colours(self.dataset.names),
            "no_label": no_label(len(self.dataset.names)),
            "view": asdict(segmenter.view),
            **decision(self.reading),
            **provenance(self.setup, segmenter.source, segmenter.models),
        }

    def _competing(self) -> tuple[str, ...]:
        """The background words that are no classes."""
        first = {prompt for prompt, owner in zip(self.words.prompts, self.words.owners, strict=True) if owner == 0}
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

    def size(self, item: Item) -> tuple[int, int]:
        return self.job.dataset.size(item.id)

    def __call__(self, item: Item, progress: Progress | None = None) -> str:
        job, names = self.job, self.job.dataset.names
        image = job.dataset.image(item.id)
        keep = job.out if job.keep_analysis else None
        analysis = None
        if MASKS in job.files or keep or not job.rules.pixel_exact:
            analysis = analyzed(self.segmenter, item, image, job.kept, keep, progress)
        if job.rules.pixel_exact:
            labels, masks = self._exact_labels(image, analysis.segments if analysis else None)
        else:
            assert analysis is not None
            result = self.segmenter.label_analysis(analysis, self.text, image)
            labels, masks = result.labels, result.masks
        if masks is not None:
            write_atomically(job.out / f"{item.id}{MASKS}", masks_png(masks))
        write_atomically(job.out / f"{item.id}{LABELS}", index_png(labels, class_colours(names)))
        return shares(labels, names)

    def _exact_labels(self, image: np.ndarray, masks: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels (H, W) uint8 as the protocol's own code gives them, pixel by pixel or mask by mask, and the masks."""
        segmenter, text = self.segmenter, self.text
        assert isinstance(segmenter.clip, Clip)  # another naming model was refused when the job was started
        cosines = pixel_cosines(segmenter.clip, image, text.embeddings, segmenter.view, self.job.rules.pad)
        if masks is None:
            size = image.shape[0], image.shape[1]
            labels, _ = label_pixels_exactly(cosines, size, text.vocabulary, segmenter.scoring)
        else:
            _, best = label_masks_exactly(cosines, masks, text.vocabulary, segmenter.scoring)
            labels = best[masks]
        return labels.astype(np.uint8 if no_label(len(self.job.dataset.names)) == 255 else np.uint16), masks
