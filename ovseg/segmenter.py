"""The main path: an image and class names -> every pixel labelled.

    image -- mask source --> segments --+
      |                                 +-- pool, cosine, probability, best class per mask --> Segmentation
      +---- dense CLIP --> features ----+
    class names -- CLIP text -----------+

The work on the image (`analyze`) is apart from the work on the names (`encode`): asking the same analysis about other
classes makes no masks again. Joins EmerDiff (arXiv 2401.11739) with MaskCLIP (arXiv 2112.01071).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from ovseg import prompts, weights
from ovseg.analysis import Analysis, Origin, image_sha256
from ovseg.classes import Background, ClassList, biased, build_vocabulary
from ovseg.images import ImageLike, as_image
from ovseg.labelled import NO_REFINER, Deciding, Text, name_by_vote, name_masks, name_pixels
from ovseg.labels import check_threshold
from ovseg.mask_features import mask_features, plain_features, refined_masks
from ovseg.masks import Masks, MaskSource, Progress
from ovseg.naming import NamingModel, load_naming_model, without_unknown
from ovseg.presets import DEFAULT, Preset
from ovseg.refinement import Refined, refine
from ovseg.result import Segmentation
from ovseg.setup import Setup
from ovseg.sources import SOURCES
from ovseg.towers.regions import pool
from ovseg.towers.scope import NO_SCOPE
from ovseg.towers.scoring import READINGS, Scoring
from ovseg.towers.view import View

Classes = ClassList | str | Sequence[str]
Rule = Background | str


@dataclass(frozen=True, eq=False, repr=False)
class Segmenter:
    """A mask source and a CLIP, loaded. Holds no state between calls: same input, same output.

    An image is a path, a PIL image or an array, see `images.as_image`; `label` takes a list of them as well.
    """

    source: MaskSource
    clip: NamingModel  # a CLIP, or what stands in its place
    view: View  # how it sees images
    scoring: Scoring  # how its features become probabilities
    templates: tuple[str, ...]  # sentences with "{}" for the class name
    background: str  # the rule where none is asked for
    models: dict[str, str]  # "diffusion" and "clip": which weights, see `weights.identity`
    dtype: str  # of the numbers in the networks, such as "float32"
    vote: bool = False  # how labels are decided, see `labelled.Deciding`
    refiner: str = NO_REFINER

    @classmethod
    def load(cls, setup: Setup, source: MaskSource | None = None) -> Segmenter:
        """Load what a set-up names; its weights are on this machine. The diffusion model waits for its first image.

        source: takes the place of the set-up's own. Raises ValueError for settings that do not fit the models, OSError.
        """
        has_masks = source is not None or SOURCES[setup.by].masks
        if source is None:
            setup.check_masks()
        source = source or SOURCES[setup.by].make(setup)
        folder = weights.folder("clip", setup.preset.clip)
        clip = load_naming_model(folder, setup.find_device(), setup.torch_dtype())
        clip.check_view(view := setup.view(clip, has_masks))
        models = {kind: name for kind, name in source.identity.items() if kind == "diffusion"}
        return cls(
            source=source,
            clip=clip,
            view=view,
            scoring=clip.scoring,
            templates=prompts.templates(setup.preset.templates),
            background=setup.preset.background,
            models=models | {"clip": weights.identity("clip", setup.preset.clip)},
            dtype=setup.dtype,
            vote=setup.vote,
            refiner=setup.refiner,
        )

    @classmethod
    def from_preset(cls, preset: str | Preset = DEFAULT, *, by: str = "emerdiff", **options: Any) -> Segmenter:
        """Load a preset's models, fetching them first if need be (see `ovseg models`).

        by: a mask source, see `ovseg.masks`. options: fields of `Setup` (device, dtype, dense, masks_from) and of
        `emerdiff.Options` (masks, speed, seed, ...). Raises ValueError for an unknown preset, option or device,
        `WeightsMissing` (an OSError) within some seconds for weights that are not available.
        """
        return cls.fetch_and_load(Setup.of(preset, {"by": by, **options}))

    @classmethod
    def fetch_and_load(cls, setup: Setup) -> Segmenter:
        """Fetch the weights that a set-up names, if need be, and load them. Raises as `from_preset`."""
        weights.fetch(setup.sources(*setup.needs, "clip"), setup.preset.name)
        return cls.load(setup)

    @classmethod
    def from_pretrained(cls, diffusion: str | Path, clip: str | Path, **options: Any) -> Segmenter:
        """Load a diffusers latent diffusion model and an open_clip model, each from a hub id or a folder.

        Image sizes are what fits the models' own. by, options, errors: as in `from_preset`.
        """
        return cls.from_preset(Preset(name="", diffusion=str(diffusion), clip=str(clip)), **options)

    def __repr__(self) -> str:
        return f"Segmenter(by {self.source.identity['by']}, {', '.join(self.models.values())}, {self.clip.device})"

    def analyze(
        self, image: ImageLike, *, id: str = "", kept: Analysis | None = None, progress: Progress | None = None
    ) -> Analysis:
        """The work that needs no class names: masks by the source, dense features by CLIP.

        id: of the image, for sources that look it up; "": a path's name without its ending. kept: an earlier analysis
        of this image that `check` let pass, of which is used what can be. progress: called with (steps done, in all).
        Raises ValueError for an image of another kind or one that the source or CLIP cannot take.
        """
        id, image = id or _id(image), as_image(image)
        masks = self.source.reuse(kept) if kept else None
        if masks is None:
            self.source.check(image.shape[:2])  # refuses sides beyond 4:1 and too many masks
        # CLIP first: it takes seconds, and refuses a bad view. Under a scope kept features are those of kept masks.
        regions: np.ndarray | None
        if masks is not None and kept is not None and masks.labels is kept.segments and kept.regions is not None:
            features, regions = kept.features, kept.regions
        else:
            plain = (
                kept.features if kept and self.view.scope == NO_SCOPE else plain_features(self.clip, image, self.view)
            )
            masks = masks or self.source.segment(image, id, progress)
            features, regions = mask_features(self.clip, image, self.view, masks, plain)
        refined = refined_masks(image, masks, kept, self.refiner)
        return Analysis(
            masks.labels, features, self.origin(image), masks.evidence, masks.facts, regions, refined, image
        )

    def check(self, kept: Analysis, image: ImageLike) -> None:
        """Raise `AnalysisMismatch`, naming every difference, unless a kept analysis of this image can be used here."""
        expected = self.origin(image)
        if not self.source.differences(kept.origin.masks):
            expected = replace(expected, masks=kept.origin.masks)
        kept.check(expected)

    def origin(self, image: ImageLike) -> Origin:
        """What an analysis of this image is made from."""
        (height, width, _), masks = (image := as_image(image)).shape, self.source.identity
        return Origin(image_sha256(image), height, width, masks=masks, **self.features_origin)

    @property
    def features_origin(self) -> dict[str, Any]:
        """What decides an image's features: CLIP, the numbers it ran in, and its view."""
        return {"clip": self.models["clip"], "dtype": self.dtype, "view": asdict(self.view)}

    def encode(self, classes: Classes, background: Rule | None = None, background_bias: float = 0.0) -> Text:
        """Class names as the model sees them, see `classes.build_vocabulary`; background None is the preset's rule.

        Raises ValueError as `build_vocabulary` and `labels.check_threshold`.
        """
        rule = biased(background or self.background, background_bias)
        vocabulary = without_unknown(build_vocabulary(classes, rule), rule, self.clip)
        notes = *vocabulary.notes, *check_threshold(vocabulary, self.scoring)
        notes = *notes, *self.clip.check_lengths(vocabulary.prompts, self.templates)
        return Text(replace(vocabulary, notes=notes), self.clip.encode_text(vocabulary.prompts, self.templates))

    @overload
    def label(
        self, what: Analysis | ImageLike, classes: Classes, background: Rule | None = None, background_bias: float = 0.0
    ) -> Segmentation: ...
    @overload
    def label(
        self, what: list[Any], classes: Classes, background: Rule | None = None, background_bias: float = 0.0
    ) -> list[Segmentation]: ...
    def label(self, what: Any, classes: Classes, background: Rule | None = None, background_bias: float = 0.0) -> Any:
        """Label every pixel of an image, or of a kept analysis (for which no mask is made again); or of several.

        classes: "cat;kitten,dog", a sequence of such entries, or a parsed list. background: "words" (default stuff
        words compete), "none", "threshold=T", or your own words; None: the preset's own rule. background_bias: added to
        the logits of background words, above 0 for more background.
        Raises ValueError for classes that clash, a threshold that cannot act, and as `analyze` and `label_analysis`.
        """
        text = self.encode(classes, background, background_bias)
        return [self._label(one, text) for one in what] if isinstance(what, list) else self._label(what, text)

    def _label(self, what: Analysis | ImageLike, text: Text) -> Segmentation:
        if isinstance(what, Analysis):
            return self.label_analysis(what, text)
        return self.label_analysis(self.analyze(as_image(what), id=_id(what)), text)

    def label_analysis(self, analysis: Analysis, text: Text, image: np.ndarray | None = None) -> Segmentation:
        """Give every mask its best class, or every pixel where there are no masks. image: the analysis' own where it
        has one; shown with the result, and needed where a refiner follows its edges.

        Raises `AnalysisMismatch` for an analysis made with another CLIP, in another dtype or by another view; its
        image and masks may be any.
        """
        analysis.check(replace(analysis.origin, **self.features_origin))
        image = analysis.image if image is None else image
        if analysis.segments is None:
            size = analysis.origin.height, analysis.origin.width
            return self.label_each_pixel(analysis.features, size, text, image)
        if self.vote:
            return name_by_vote(analysis.segments, analysis.features, text, self._deciding, image, analysis.refined)
        regions = self._means(analysis.segments, analysis.features) if analysis.regions is None else analysis.regions
        return name_masks(analysis.segments, regions, text, self._deciding, image, analysis.refined)

    def label_segments(
        self, masks: np.ndarray, features: np.ndarray, text: Text, image: np.ndarray | None = None
    ) -> Segmentation:
        """Give any masks (H, W) int32, ids from 0, their best classes, by the mean of dense features (C, h, w)."""
        return name_masks(masks, self._means(masks, features), text, self._deciding, image)

    def _means(self, masks: np.ndarray, features: np.ndarray) -> np.ndarray:
        return pool(features, masks, READINGS[self.scoring.reading].unit)

    def label_each_pixel(
        self, features: np.ndarray, size: tuple[int, int], text: Text, image: np.ndarray | None = None
    ) -> Segmentation:
        """Give every pixel of an image of (H, W) its best class, by dense features (C, h, w) of this CLIP."""
        return name_pixels(features, size, text, self._deciding, image)

    @property
    def _deciding(self) -> Deciding:
        return Deciding(self.scoring, self.vote, self.refiner)

    def masks(self, image: ImageLike, *, id: str = "", progress: Progress | None = None) -> Masks:
        """The class-agnostic masks alone. Raises ValueError as `analyze`."""
        return self.source.segment(as_image(image), id or _id(image), progress)

    def refine(self, image: ImageLike, dense: np.ndarray, *, progress: Progress | None = None) -> Refined:
        """Let an image's masks take the mean of anyone's dense prediction of it, (L, h, w); see `refinement.refine`.

        Raises ValueError as `analyze` and `refine`, and for a source without masks.
        """
        masks = self.masks(image, progress=progress).labels
        if masks is None:
            raise ValueError("refine needs masks, but this segmenter labels every pixel by itself")
        return refine(masks, dense)


def _id(image: object) -> str:
    """By which a mask source looks an image up: the name of its file, "" where it is no file."""
    return Path(image).stem if isinstance(image, str | os.PathLike) else ""
