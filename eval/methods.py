"""The methods that are compared: dense CLIP features alone, or pooled over masks of five kinds.

A method turns an image into features and masks (a `Look`), before any class names. Kept analyses are used where there
are any, and refused where they were made from another image, by other models or with other settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from emerdiff import Options, naive_segments
from ovseg.analysis import Analysis, image_sha256
from ovseg.clip import Clip
from ovseg.dense import View
from ovseg.labels import label_masks, label_pixels, pool
from ovseg.run.batch import Progress
from ovseg.segmenter import Segmenter, Text

SLIC_COMPACTNESS = 10.0  # scikit-image's default balance of colour and place
SLIC_TRIES = 6  # SLIC gives fewer superpixels than asked for; it is asked again until the number fits


Find = Callable[[Callable[[Analysis], None]], Analysis | None]  # a check that raises -> the analysis that passes it


@dataclass(frozen=True, eq=False)
class Predictor:
    """All that labels an image: the method, the models, how they see it, and the words."""

    method: str  # a name in METHODS
    clip: Clip
    segmenter: Segmenter | None  # for the methods whose masks come from the diffusion model
    options: Options  # of the masks
    view: View
    text: Text
    logit_scale: float
    facts: dict[str, Any]  # for the run's record

    def look(self, case: Case) -> Look:
        """What the image gives before any class names."""
        return METHODS[self.method](self, case)

    @property
    def shared(self) -> dict[str, Any]:
        """The facts that must be those of a run whose kept analyses are used."""
        facts = {key: self.facts[key] for key in ("models", "view", "dtype")}
        if self.method == "maskclip+emerdiff":
            facts["options"] = self.facts["options"]
        if self.method == "maskclip+naive":
            facts["options"] = {key: value for key, value in self.facts["options"].items() if key != "upsampling"}
        return facts

    def label(self, look: Look, size: tuple[int, int]) -> np.ndarray:
        """(H, W) int32, indices into the vocabulary's names."""
        vocabulary, words = self.text.vocabulary, self.text.embeddings
        if look.segments is None:
            return label_pixels(look.features.astype(np.float32), words, vocabulary, self.logit_scale, size)
        best = label_masks(pool(look.features, look.segments), words, vocabulary, self.logit_scale)[1]
        return best[look.segments]


@dataclass(frozen=True, eq=False)
class Case:
    """One image and what a method may ask for."""

    image: np.ndarray  # (H, W, 3) uint8
    truth: Callable[[], np.ndarray]  # (H, W) uint8, the labels: for the one method that reads them
    find: Find  # gives the kept analysis, if there is one that passes
    progress: Progress


@dataclass(frozen=True, eq=False)
class Look:
    """One image before any class names."""

    features: np.ndarray  # (C, h, w) float16, dense CLIP features
    segments: np.ndarray | None = None  # (H, W) int, the masks to pool over; None: every pixel by itself
    analysis: Analysis | None = None  # what can be kept


def look_by_pixels(predictor: Predictor, case: Case) -> Look:
    """No masks: MaskCLIP alone."""
    return Look(_features(predictor, case))


def look_by_superpixels(predictor: Predictor, case: Case) -> Look:
    """SLIC superpixels, as many as there would be masks."""
    return Look(_features(predictor, case), superpixels(case.image, predictor.options.masks))


def look_naively(predictor: Predictor, case: Case) -> Look:
    """EmerDiff's low-resolution masks, upsampled bilinearly: the paper's baseline."""
    analysis = _analysis(predictor, case, ("naive", "modulated"))
    segments = naive_segments(analysis.low_resolution_masks, analysis.network_size, case.image.shape[:2])
    return Look(analysis.features, segments, analysis)


def look_by_emerdiff(predictor: Predictor, case: Case) -> Look:
    """EmerDiff's masks."""
    analysis = _analysis(predictor, case, ("modulated",))
    return Look(analysis.features, analysis.segments, analysis)


def look_by_truth(predictor: Predictor, case: Case) -> Look:
    """A mask for every class that the labels have, and one for what is not scored: how well names fit true masks."""
    truth = case.truth()
    return Look(_features(predictor, case), np.unique(truth, return_inverse=True)[1].reshape(truth.shape))


METHODS: dict[str, Callable[[Predictor, Case], Look]] = {
    "maskclip": look_by_pixels,
    "maskclip+naive": look_naively,
    "maskclip+slic": look_by_superpixels,
    "maskclip+emerdiff": look_by_emerdiff,
    "maskclip+truth": look_by_truth,
}
DIFFUSION_METHODS = ("maskclip+naive", "maskclip+emerdiff")


def _features(predictor: Predictor, case: Case) -> np.ndarray:
    """Dense features (C, h, w) float16, of a kept analysis if there is one; whatever its masks are."""
    clip, dtype = predictor.facts["models"]["clip"], predictor.facts["dtype"]
    here = {"image_sha256": image_sha256(case.image), "view": asdict(predictor.view), "clip": clip, "dtype": dtype}
    kept = case.find(lambda analysis: analysis.check(replace(analysis.origin, **here)))
    return kept.features if kept else predictor.clip.dense_features(case.image, predictor.view).astype(np.float16)


def _analysis(predictor: Predictor, case: Case, upsamplings: Sequence[str]) -> Analysis:
    """The kept analysis, made with one of these upsamplings, or a new one with the first of them."""
    segmenter = predictor.segmenter
    if segmenter is None:
        raise ValueError(f"{predictor.method} needs a diffusion model")

    def check(analysis: Analysis) -> None:
        found = analysis.origin.options["upsampling"]
        used = found if found in upsamplings else upsamplings[0]
        analysis.check(segmenter.origin(case.image, replace(segmenter.options, upsampling=used)))

    new = replace(segmenter.options, upsampling=upsamplings[0])
    return case.find(check) or segmenter.analyze(case.image, new, progress=case.progress)


def superpixels(image: np.ndarray, count: int, compactness: float = SLIC_COMPACTNESS) -> np.ndarray:
    """SLIC superpixels (Achanta et al., 2012) by scikit-image: (H, W) int64 from 0, some `count` of them in fact."""
    from skimage.segmentation import slic

    tries, asked = [], float(count)
    for _ in range(SLIC_TRIES):
        tries.append(slic(image, round(asked), compactness, start_label=0, channel_axis=-1))
        found = int(tries[-1].max()) + 1
        if found == count:
            break
        asked = max(1.0, asked * count / found)
    return min(tries, key=lambda segments: abs(int(segments.max()) + 1 - count))
