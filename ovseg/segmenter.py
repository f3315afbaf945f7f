"""The main path: an image and class names -> every pixel labelled.

    image -- emerdiff --> segments -----+
      |                                 +-- pool, cosine, softmax, best class per mask --> Segmentation
      +---- dense CLIP --> features ----+
    class names -- CLIP text -----------+

The work on the image (`analyze`) is apart from the work on the names (`encode`): asking the same analysis about other
classes runs no diffusion model. Joins EmerDiff (arXiv 2401.11739) with MaskCLIP (arXiv 2112.01071) as the former does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emerdiff import EmerDiff, Options
from ovseg import presets, prompts
from ovseg.analysis import Analysis, Origin, image_sha256, small_maps
from ovseg.classes import Background, ClassList, Vocabulary, build_vocabulary
from ovseg.clip import Clip
from ovseg.dense import View, cell_size
from ovseg.draw import class_colours
from ovseg.images import check_array
from ovseg.labels import label_masks, pool
from ovseg.refinement import Refined, refine_image
from ovseg.result import Segmentation, no_label

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Text:
    """A vocabulary and its embeddings: P prompts, (P, C) float32, rows of length 1."""

    vocabulary: Vocabulary
    embeddings: np.ndarray


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A diffusion model and a CLIP, loaded. Holds no state between calls: same input, same output."""

    emerdiff: EmerDiff
    clip: Clip
    options: Options  # of the masks, unless a call brings its own
    view: View  # how CLIP sees images
    templates: tuple[str, ...]  # sentences with "{}" for the class name
    models: dict[str, str]  # "diffusion" and "clip": which weights, see presets.identity

    @classmethod
    def from_preset(
        cls, name: str = presets.DEFAULT, *, device: str = "auto", dtype: torch.dtype = torch.float32
    ) -> Segmenter:
        """Load a preset's models, fetching them first if need be (see `ovseg models`).

        Raises ValueError for an unknown preset or device, `presets.WeightsMissing` (an OSError) within some seconds if
        the weights are neither here nor to be had.
        """
        preset = presets.get_preset(name)
        presets.fetch(preset)
        return cls.from_pretrained(
            preset.diffusion,
            preset.clip,
            options=preset.options,
            view=preset.view,
            templates=preset.templates,
            device=device,
            dtype=dtype,
        )

    @classmethod
    def from_pretrained(
        cls,
        diffusion: str | Path,
        clip: str | Path,
        *,
        options: Options | None = None,
        view: View | None = None,
        templates: str = "imagenet80",
        device: str = "auto",
        dtype: torch.dtype = torch.float32,
    ) -> Segmenter:
        """Load a diffusers latent diffusion model and an open_clip model, each from a hub id or a folder.

        options, view: by default what fits the models' own sizes, see `native_options` and `native_view`.
        templates: a name that `prompts.templates` knows. device: "auto" takes a CUDA GPU if there is one, else the CPU.
        Raises OSError for files that are missing, ValueError for ones that do not fit.
        """
        sentences = prompts.templates(templates)
        place = find_device(device)
        model = EmerDiff.from_pretrained(diffusion, device=place, dtype=dtype)
        seer = Clip.from_pretrained(clip, device=place, dtype=dtype)
        return cls(
            emerdiff=model,
            clip=seer,
            options=options or native_options(model),
            view=view or native_view(seer),
            templates=sentences,
            models={
                "diffusion": presets.identity("diffusion", str(diffusion)),
                "clip": presets.identity("clip", str(clip)),
            },
        )

    def analyze(
        self, image: np.ndarray, options: Options | None = None, *, progress: Progress | None = None
    ) -> Analysis:
        """The work that needs no class names: masks by the diffusion model, dense features by CLIP.

        image: (H, W, 3) uint8 RGB. options: instead of the segmenter's own. progress: called with (UNet evaluations
        done, in all). Raises ValueError for an image of another kind or one the models cannot take.
        """
        origin = self.origin(image, options)
        options = options or self.options
        self.emerdiff.cost(image.shape[:2], options)  # refuses sides beyond 4:1 and too many masks
        features = self.clip.dense_features(image, self.view)  # first: it takes seconds, and refuses a bad view
        keeping = replace(options, keep_difference_maps=options.upsampling != "naive")
        segments = self.emerdiff.segment(image, keeping, progress=progress)
        return Analysis(
            segments=segments.labels,
            low_resolution_masks=segments.low_resolution_masks,
            queries=segments.queries.astype(np.float16),
            features=features.astype(np.float16),
            difference_maps=small_maps(segments.difference_maps),
            network_size=segments.network_size,
            layer_rms=segments.layer_rms,
            origin=origin,
        )

    def origin(self, image: np.ndarray, options: Options | None = None) -> Origin:
        """What an analysis of this image would be made from, for `Analysis.check` of a kept one."""
        check_array(image)
        return Origin(
            image_sha256=image_sha256(image),
            height=image.shape[0],
            width=image.shape[1],
            options=asdict(self.emerdiff.snap(options or self.options)),
            **self._made_with(),
        )

    def _made_with(self) -> dict[str, Any]:
        """The part of an analysis' origin that is neither the image nor the masks' options."""
        return {
            "diffusion": self.models["diffusion"],
            "clip": self.models["clip"],
            "dtype": str(self.emerdiff.diffusion.empty_prompt.dtype).removeprefix("torch."),
            "view": asdict(self.view),
        }

    def encode(self, classes: ClassList | str | Sequence[str], background: Background | str = "words") -> Text:
        """Class names as CLIP sees them; `classes` and `background` as in `classes.build_vocabulary`."""
        vocabulary = build_vocabulary(classes, background)
        return Text(vocabulary, self.clip.encode_text(vocabulary.prompts, self.templates))

    def label(
        self,
        what: Analysis | np.ndarray,
        classes: ClassList | str | Sequence[str],
        background: Background | str = "words",
    ) -> Segmentation:
        """Label every pixel of an image, or of a kept analysis (which runs no diffusion model).

        classes: "cat;kitten,dog", a sequence of such entries, or a parsed list. background: "words" (default stuff
        words compete), "none", "threshold=T", or your own words.
        Raises ValueError for classes that clash, and as `analyze` and `label_analysis`.
        """
        text = self.encode(classes, background)
        return self.label_analysis(what if isinstance(what, Analysis) else self.analyze(what), text)

    def label_analysis(self, analysis: Analysis, text: Text) -> Segmentation:
        """Give every mask its best class.

        Raises `AnalysisMismatch` for an analysis made with other models, in another dtype or by another view; its
        image and options may be any.
        """
        analysis.check(replace(analysis.origin, **self._made_with()))
        return self.label_segments(analysis.segments, analysis.features, text)

    def refine(self, image: np.ndarray, dense: np.ndarray, *, progress: Progress | None = None) -> Refined:
        """Let an image's masks take the mean of anyone's dense prediction of it, (L, h, w); see `refine_image`."""
        return refine_image(image, dense, self.emerdiff, self.options, progress=progress)

    def label_segments(self, segments: np.ndarray, features: np.ndarray, text: Text) -> Segmentation:
        """Give any masks (H, W) int32, ids from 0, their best classes, by dense features (C, h, w) of this CLIP."""
        vocabulary = text.vocabulary
        pooled = pool(features, segments)
        scores, best = label_masks(pooled, text.embeddings, vocabulary, self.clip.logit_scale)
        index_type = np.uint8 if no_label(len(vocabulary.names)) == 255 else np.uint16
        return Segmentation(
            labels=best.astype(index_type)[segments],
            names=vocabulary.names,
            colours=class_colours(vocabulary.names),
            segments=segments,
            mask_scores=scores,
            notes=vocabulary.notes,
        )


def native_options(model: EmerDiff) -> Options:
    """The paper's settings at the size the model was trained at (unet/config.json: sample_size).

    Raises ValueError where that is not one number.
    """
    diffusion = model.diffusion
    side = diffusion.unet.config.sample_size
    if not isinstance(side, int):
        raise ValueError(f"unet/config.json: sample_size: expected the latents' side as one whole number, got {side}")
    return Options(base_size=side * diffusion.latent_factor)


def native_view(clip: Clip) -> View:
    """Windows of the size CLIP was trained at, half overlapping, over an image 1.5 times that: SCLIP's 224 and 336."""
    tower = clip.model.visual
    size, cell = int(np.max(tower.image_size)), max(cell_size(tower))
    return View(short_side=size * 3 // 2, window=size, stride=max(1, size // 2 // cell) * cell)


def find_device(name: str) -> torch.device:
    """ "auto" is a CUDA GPU if there is one, else the CPU; anything else as torch names it. ValueError if unusable."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); try auto or cpu") from error
    return device


@torch.inference_mode()
def expected_seconds(model: EmerDiff, image_size: tuple[int, int], options: Options) -> float:
    """About how long `EmerDiff.segment` takes for an image of (H, W), from timing one UNet row and one decode."""
    diffusion, cost = model.diffusion, model.cost(image_size, options)
    sides = (side // diffusion.latent_factor for side in (cost.height, cost.width))
    latent = torch.zeros(1, int(diffusion.unet.config.in_channels), *sides, device=diffusion.device)
    step = diffusion.grid(options.steps)[-1]
    row = _seconds(lambda: diffusion.predict_noise(latent, step))
    return cost.unet_rows * row + cost.decodes * (_seconds(lambda: diffusion.decode(latent)) if cost.decodes else 0)


def _seconds(work: Callable[[], object]) -> float:
    """How long `work` takes; done twice where the first time is short, because it includes warming up."""
    for _ in range(2):
        start = time.perf_counter()
        work()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # a GPU's work goes on when the call has returned
        seconds = time.perf_counter() - start
        if seconds > 1:
            break
    return seconds
