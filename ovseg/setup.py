"""What is loaded and how it runs, as a value: models, mask source, settings, device. It can be pickled and sent around.

`Segmenter.load` takes it. Mistakes in it show when it is made, before anything heavy is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from emerdiff.options import Options
from emerdiff.settings import show
from ovseg.compare import NEW_IN_VIEWS
from ovseg.presets import DEFAULT, DTYPES, Preset, get_preset
from ovseg.sources import SOURCES
from ovseg.towers.region_kinds import REGIONS, check_regions
from ovseg.towers.scope import NO_SCOPE, check_scope
from ovseg.towers.variants import check_variant
from ovseg.towers.view import View

if TYPE_CHECKING:
    import torch

    from emerdiff import EmerDiff
    from ovseg.naming import NamingModel

READING_FIELDS = ("dense", "regions", "scope", "merge", "vote", "refine")  # how CLIP is read, and names are decided
NO_REFINER = "none"
REFINERS = (NO_REFINER, "pamr")
MASK_FIELDS = {one.name for one in fields(Options)} - {"upsampling"}  # which `by` decides
OWN_FIELDS = (
    "by",
    "masks_from",
    *READING_FIELDS,
    "device",
    "dtype",
)  # beside which settings stand where options are given


@dataclass(frozen=True, repr=False)
class Setup:
    """Models and how they are used. Raises ValueError, naming the field, for what cannot be meant.

    preset: a named one, or a nameless one with a diffusion model and a CLIP of one's own.
    by: the mask source, a name in `sources.SOURCES`; masks_from: its folder, for "files".
    settings: of the method, by the names of `emerdiff.Options`' fields, where they are not the preset's.
    dense: the dense variant of CLIP, a name in `variants.VARIANTS`; None: the preset's.
    regions, scope, merge: the masks' features, and attention within masks, see `View`; None: the preset's, none.
    vote: a mask takes the name that most of its pixels have. refine: "pamr" or "none", see `ovseg.pamr`; None: as
        `refiner` has it.
    device: "auto" (a CUDA GPU if there is one, else the CPU) or as torch names it. dtype: one of `DTYPES`.
    recorded: facts of an earlier run whose kept analyses are used: its models and options are expected, not looked up.
    """

    preset: Preset = field(default_factory=lambda: get_preset(DEFAULT))
    by: str = "emerdiff"
    masks_from: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    dense: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    recorded: Mapping[str, Any] | None = field(default=None, hash=False)
    regions: str | None = None
    scope: str | None = None
    merge: float | None = None
    vote: bool = False
    refine: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.masks_from is not None and self.by != "files":
            raise ValueError(f"masks_from: is for by files, got by {self.by}")
        if self.by not in SOURCES:
            raise ValueError(f"by: no mask source {self.by!r}, expected one of {', '.join(SOURCES)}")
        if self.by == "files" and self.masks_from is None:
            raise ValueError("masks_from: missing; by files needs the folder that holds the masks")
        self._check_reading()
        if unknown := sorted(set(self.settings) - MASK_FIELDS):
            raise ValueError(f"{unknown[0]}: no such setting, expected one of {', '.join(sorted(MASK_FIELDS))}")
        self.options(None)

    def _check_reading(self) -> None:
        """How CLIP is read, as far as that shows without a model."""
        if self.dense is not None:
            check_variant(self.dense)
        if self.regions is not None:
            check_regions(self.regions)
        if self.scope is not None:
            check_scope(self.scope)
        if self.merge is not None and not -1 <= self.merge <= 1:
            raise ValueError(f"merge: expected a cosine from -1 to 1, got {self.merge}")
        if self.merge is not None and self.merge < 1 and self.scope in (None, NO_SCOPE) and self.recorded is None:
            raise ValueError("merge: joins masks for attention within them; choose a scope as well")
        if self.refine not in (None, *REFINERS):
            raise ValueError(f"refine: expected one of {', '.join(REFINERS)}, got {self.refine!r}")
        if self.vote and self.regions not in (None, "mean"):
            raise ValueError(f"vote: counts the labels of a mask's pixels and has no use of regions {self.regions}")

    def check_masks(self) -> None:
        """Raise ValueError where masks are asked something that the source, which makes none or others, cannot give."""
        source, regions = SOURCES[self.by], self.regions or "mean"
        asked = {"regions": regions != "mean", "scope": self.scope not in (None, NO_SCOPE), "vote": self.vote}
        if not source.masks and (found := [name for name, is_asked in asked.items() if is_asked]):
            raise ValueError(f"{found[0]}: is for masks, and by {self.by} makes none")
        if REGIONS[regions].soft and not source.soft:
            able = ", ".join(name for name, one in SOURCES.items() if one.soft)
            raise ValueError(f"regions: {regions} needs difference maps, which by {able} leaves, got by {self.by}")

    @classmethod
    def of(cls, preset: str | Preset, options: Mapping[str, Any]) -> Setup:
        """A set-up by a preset or its name; options: `OWN_FIELDS` and settings together."""
        chosen = get_preset(preset) if isinstance(preset, str) else preset
        own = {name: value for name, value in options.items() if name in OWN_FIELDS}
        return cls(preset=chosen, settings={k: v for k, v in options.items() if k not in own}, **own)

    def __repr__(self) -> str:
        settings = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"Setup({self.preset!r}, by {self.by}, {self.device}, {self.dtype}{settings})"

    @property
    def refiner(self) -> str:
        """By what masks, or pixels' scores, follow the edges: as asked, or as the preset has it for masks made here."""
        return self.refine or (self.preset.refine if SOURCES[self.by].own else NO_REFINER)

    @property
    def needs(self) -> tuple[str, ...]:
        """The kinds of models that its mask source needs."""
        return SOURCES[self.by].needs

    def sources(self, *kinds: str) -> dict[str, str]:
        """The hub id or folder of these kinds of models ("diffusion", "clip"); ValueError where one is not named."""
        if absent := [kind for kind in kinds if not self.preset.sources[kind]]:
            raise ValueError(f"{' and '.join(absent)}: missing; without a preset every model must be named")
        return {kind: self.preset.sources[kind] for kind in kinds}

    def recorded_options(self) -> dict[str, Any]:
        """The settings of the method in the record, as its model used them."""
        options = self.recorded["options"] if self.recorded else {}
        return {name: value for name, value in options.items() if name in MASK_FIELDS}

    def options(self, model: EmerDiff | None) -> Options:
        """The method's options: the preset's, or the paper's at the model's own size, and the settings over them."""
        method: Mapping[str, Any] = self.preset.method
        if not self.preset.name and model is not None:
            method = {"base_size": model.diffusion.native_size}
        return Options(**{**method, **self.settings})

    def view(self, clip: NamingModel, masks: bool = True) -> View:
        """How the naming model sees images, with masks or without."""
        if self.recorded is not None:
            view = View(**self.recorded["view"])
        else:
            view = self.preset.view if self.preset.name else clip.native_view
        view = replace(view, variant=self.dense or view.variant)
        if not masks:
            return replace(view, regions="mean", scope=NO_SCOPE, merge=1.0)
        scope = self.scope or view.scope
        merge = 1.0 if scope == NO_SCOPE else view.merge if self.merge is None else self.merge
        return replace(view, regions=self.regions or view.regions, scope=scope, merge=merge)

    def find_device(self) -> torch.device:
        """The device; ValueError where it cannot be used here."""
        return find_device(self.device)

    def torch_dtype(self) -> torch.dtype:
        """The numbers in the networks."""
        import torch

        found: torch.dtype = getattr(torch, self.dtype)
        return found


def setup_of(facts: Mapping[str, Any], asked: Mapping[str, Any], **changes: Any) -> Setup:
    """The set-up of an earlier run by its record's facts, for using its kept analyses.

    asked: settings of the method; changes: fields of `Setup` that are other. Where no setting that is asked for differs
    from the run's, its diffusion model is not looked for before an image needs it. Raises ValueError for a run that
    keeps no analyses, and for facts that are damaged.
    """
    if "view" not in facts:
        raise ValueError(f"analyses: a run of `ovseg {facts.get('command')}` keeps none")
    if "by" not in changes and facts.get("by") not in SOURCES:
        raise ValueError(f"by: the run's masks are by {facts.get('by')}, which is no source here; choose one")
    try:
        fields_of_run = _fields_of(facts, asked, changes)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"analyses: its record is damaged ({type(error).__name__}: {error})") from error
    return Setup(**fields_of_run | changes)


def _fields_of(facts: Mapping[str, Any], asked: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    models, sources = facts["models"], facts["sources"]
    own = Preset(name="", diffusion=sources.get("diffusion", ""), clip=sources.get("clip", ""))
    options, by = facts.get("options") or {}, changes.get("by", facts["by"])
    recorded = {name: value for name, value in options.items() if name in MASK_FIELDS}
    Options(**recorded)  # raises for what is none
    preset, view = get_preset(facts["preset"]) if facts.get("preset") else own, asdict(View(**facts["view"]))
    usual = NEW_IN_VIEWS | {"regions": preset.regions}
    same = "diffusion" in models and all(recorded.get(name) == value for name, value in asked.items())
    return {
        "preset": preset,
        "settings": {**recorded, **asked},
        "dtype": facts["dtype"],
        "by": by,
        "masks_from": options.get("masks_from") if by == "files" else None,
        **{name: view[name] for name, plain in usual.items() if SOURCES[by].masks and view[name] != plain},
        "dense": view["variant"],
        "recorded": dict(facts) if same else None,
    }


def find_device(name: str) -> torch.device:
    """ "auto" is a CUDA GPU if there is one, else the CPU; anything else as torch names it. ValueError if unusable.

    Of processes that were launched together each has the GPU with its own number.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        name = f"cuda:{os.environ.get('LOCAL_RANK', torch.cuda.current_device())}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:
        # The reason may be a page about torch's own build.
        there = ", ".join(usable_devices())
        raise ValueError(f"device: {show(name)} cannot be used here; expected auto, {there}") from error
    return device


def usable_devices() -> list[str]:
    """The devices of this machine by torch's names, the CPU first."""
    import torch

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return devices + [f"xpu:{index}" for index in range(torch.xpu.device_count() if torch.xpu.is_available() else 0)]
