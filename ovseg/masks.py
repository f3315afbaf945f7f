"""Where masks come from: what a mask source is, and the sources of `ovseg.sources`.

EmerDiff's masks are clusters of a diffusion model's queries, carried to the pixels by modulated denoising (arXiv
2401.11739), or upsampled bilinearly, its baseline; of one evaluation as well are those carried by self-attention and
those by normalised cuts (`emerdiff.one_pass`); superpixels are SLIC's (Achanta et al., 2012).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ovseg import weights
from ovseg.analysis import small_maps
from ovseg.compare import differences
from ovseg.mask_files import read_mask_file

if TYPE_CHECKING:
    from emerdiff import EmerDiff, Options
    from ovseg.analysis import Analysis
    from ovseg.setup import Setup

SLIC_COMPACTNESS = 10.0  # scikit-image's default balance of colour and place
SLIC_TRIES = 6  # SLIC gives fewer superpixels than asked for; it is asked again until the number fits

# t_f where neither the preset nor the user says it: what CLIPer reads its self-attention at, and DiffCut its features.
PUBLISHED_TIMESTEPS = {"attention": 101, "diffcut": 50}

Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True, eq=False, repr=False)
class Masks:
    """The masks of one image, and what led to them.

    labels: (H, W) int32 at the image's own size, ids 0..K-1; None: every pixel by itself.
    evidence, facts: small arrays and JSON values that are kept with them by name; see `analysis.Analysis`.
    """

    labels: np.ndarray | None
    evidence: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "Masks(every pixel)" if self.labels is None else f"Masks({int(self.labels.max()) + 1})"


class MaskSource(Protocol):
    """What a mask source is asked. `PlainSource` makes one of a function."""

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides its masks beside the image, JSON values: "by", "options" and, with one, "diffusion"."""

    def check(self, size: tuple[int, int]) -> None:
        """ValueError for an image of (H, W) that it cannot take with its settings."""

    def seconds(self, size: tuple[int, int]) -> float | None:
        """About how long it takes for an image that `check` lets pass, where that is long on a CPU; else None."""

    def segment(self, image: np.ndarray, id: str = "", progress: Progress | None = None) -> Masks:
        """The masks of an image (H, W, 3) uint8 with this id."""

    def load(self) -> None:
        """Load what it needs now, instead of when the first image asks for it."""

    def differences(self, identity: Mapping[str, Any]) -> list[str]:
        """Why masks of a source of this identity are not its own, a line each; empty where they can be used."""

    def reuse(self, kept: Analysis) -> Masks | None:
        """The masks out of a kept analysis without `differences`; None: they are made anew."""


@dataclass(frozen=True, repr=False)
class PlainSource:
    """A source that is a function of (image, id): quick, so that nothing of it is taken from kept analyses."""

    by: str
    work: Callable[[np.ndarray, str], np.ndarray | None]
    options: Mapping[str, Any] | None = None  # what decides its masks

    def __repr__(self) -> str:
        return f"PlainSource({self.by})"

    @property
    def identity(self) -> dict[str, Any]:
        return {"by": self.by, "options": self.options}

    def check(self, size: tuple[int, int]) -> None:
        pass

    def seconds(self, size: tuple[int, int]) -> None:
        return None

    def segment(self, image: np.ndarray, id: str = "", progress: Progress | None = None) -> Masks:
        return Masks(self.work(image, id))

    def load(self) -> None:
        pass

    def differences(self, identity: Mapping[str, Any]) -> list[str]:
        return []

    def reuse(self, kept: Analysis) -> None:
        return None


@dataclass(frozen=True, eq=False, repr=False)
class DiffusionSource:
    """EmerDiff's masks, modulated or of one evaluation of the UNet. The model is loaded for the first image."""

    diffusion: str  # which weights, see `weights.identity`
    options: Options  # as the model uses them, see `EmerDiff.snap`
    make_model: Callable[[], EmerDiff]
    start: np.ndarray | None = None  # centres of the frame before, see `EmerDiff.segment`; no part of the identity

    def __repr__(self) -> str:
        return f"DiffusionSource({self.by}, {self.diffusion})"

    @cached_property
    def model(self) -> EmerDiff:
        """The loaded model."""
        return self.make_model()

    @property
    def by(self) -> str:
        """Its name among `SOURCES`."""
        return "emerdiff" if self.options.upsampling == "modulated" else self.options.upsampling

    @property
    def identity(self) -> dict[str, Any]:
        return {"by": self.by, "options": asdict(self.options), "diffusion": self.diffusion}

    def check(self, size: tuple[int, int]) -> None:
        self.model.cost(size, self.options)  # refuses sides beyond 4:1 and too many masks

    def seconds(self, size: tuple[int, int]) -> float | None:
        from ovseg.estimate import expected_seconds

        if self.model.diffusion.device.type != "cpu":
            return None
        return expected_seconds(self.model, size, self.options)

    def segment(self, image: np.ndarray, id: str = "", progress: Progress | None = None) -> Masks:
        options = replace(self.options, keep_difference_maps=self.options.upsampling == "modulated")
        segments = self.model.segment(image, options, progress=progress, start=self.start)
        queries = segments.queries.astype(np.float16)
        evidence = {"low_resolution_masks": segments.low_resolution_masks, "queries": queries}
        if segments.difference_maps is not None:
            evidence["difference_maps"] = small_maps(segments.difference_maps)
        facts = {"network_size": list(segments.network_size), "layer_rms": segments.layer_rms}
        if self.start is not None:
            facts["carried"] = segments.carried
        return Masks(segments.labels, evidence, facts)

    def load(self) -> None:
        _ = self.model

    def differences(self, identity: Mapping[str, Any]) -> list[str]:
        from emerdiff.options import Options

        theirs = dict(identity)
        if isinstance(theirs.get("options"), Mapping):  # before a setting was there, its default was meant
            theirs["options"] = {**asdict(Options()), **theirs["options"]}
        if self.by == "naive" and theirs.get("by") == "emerdiff":  # the same clusters
            theirs |= {"by": "naive", "options": {**(theirs.get("options") or {}), "upsampling": "naive"}}
        return differences(theirs, self.identity)

    def reuse(self, kept: Analysis) -> Masks | None:
        if self.by == "naive" and kept.origin.masks["by"] == "emerdiff":
            from emerdiff import naive_segments

            size = kept.origin.height, kept.origin.width
            labels = naive_segments(kept.evidence["low_resolution_masks"], size)
            evidence = {name: array for name, array in kept.evidence.items() if name != "difference_maps"}
            return Masks(labels, evidence, {**kept.facts, "layer_rms": None})
        return Masks(kept.segments, kept.evidence, kept.facts)


def superpixels(image: np.ndarray, count: int, compactness: float = SLIC_COMPACTNESS) -> np.ndarray:
    """SLIC superpixels by scikit-image: (H, W) int32 from 0, some `count` of them in fact."""
    from skimage.segmentation import slic

    tries, asked = [], float(count)
    for _ in range(SLIC_TRIES):
        tries.append(slic(image, round(asked), compactness, start_label=0, channel_axis=-1))
        found = int(tries[-1].max()) + 1
        if found == count:
            break
        asked = max(1.0, asked * count / found)
    return min(tries, key=lambda segments: abs(int(segments.max()) + 1 - count)).astype(np.int32)


def by_diffusion(setup: Setup, upsampling: str) -> DiffusionSource:
    """EmerDiff with the set-up's diffusion model. An earlier run's record is taken without reading the model."""
    from emerdiff import EmerDiff, Options

    model = setup.preset.diffusion

    @cache  # one model for a source and what is made of it with other options
    def load() -> EmerDiff:
        if (here := weights.identity("diffusion", model)) != diffusion:
            raise ValueError(f"{model}: holds the weights {here}, expected {diffusion}")
        folder = weights.folder("diffusion", model)
        return EmerDiff.from_pretrained(folder, device=setup.find_device(), dtype=setup.torch_dtype())

    if setup.recorded is not None:
        diffusion = setup.recorded["models"]["diffusion"]
        return DiffusionSource(diffusion, Options(**setup.recorded_options(), upsampling=upsampling), load)
    diffusion = weights.identity("diffusion", model)
    sketch = EmerDiff.sketch(weights.folder("diffusion", model))
    options = replace(setup.options(sketch), upsampling=upsampling)
    if upsampling in PUBLISHED_TIMESTEPS and "feature_timestep" not in {*setup.preset.method, *setup.settings}:
        options = replace(options, feature_timestep=PUBLISHED_TIMESTEPS[upsampling])
    return DiffusionSource(diffusion, sketch.snap(options), load)


by_emerdiff = partial(by_diffusion, upsampling="modulated")
by_naive = partial(by_diffusion, upsampling="naive")
by_attention = partial(by_diffusion, upsampling="attention")
by_diffcut = partial(by_diffusion, upsampling="diffcut")


def by_superpixels(setup: Setup) -> PlainSource:
    """SLIC, as many superpixels as there would be masks."""
    count = setup.options(None).masks
    options = {"masks": count, "slic_compactness": SLIC_COMPACTNESS}
    return PlainSource("slic", lambda image, _id: superpixels(image, count), options)


def by_files(setup: Setup) -> PlainSource:
    """Masks out of the set-up's folder. Raises ValueError where it is not there."""
    folder = Path(str(setup.masks_from)).resolve()
    if not folder.is_dir():
        raise ValueError(f"masks_from: {folder}: no such folder")

    def read(image: np.ndarray, id: str) -> np.ndarray:
        return read_mask_file(folder, id, (image.shape[0], image.shape[1]))

    return PlainSource("files", read, {"masks_from": str(folder)})


def by_pixels(setup: Setup) -> PlainSource:
    """No masks: every pixel by itself."""
    return PlainSource("none", lambda _image, _id: None)
