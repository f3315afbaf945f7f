"""The rules that published numbers depend on besides the method, as one table.

Two families of papers and MaskCLIP's own differ in image size, windows, logit scale and background. "native" is what
`ovseg label` does, for sets without published rows. Where papers of a family differ among themselves the table says
whose values it has. The rest is the same everywhere and is the project's own: official class names, labels compared at
the truth's size, images resized bicubically and to whole cells, windows' cosines averaged on CLIP's grid and upsampled
once.

This file holds values alone; `ovseg.dense` applies a view, `ovseg.labels` a background. Does not load torch before
`protocol` is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovseg.classes import Background
from ovseg.eval.layouts import LAYOUTS
from ovseg.prompts import words

if TYPE_CHECKING:
    from ovseg.dense import View

NATIVE = "native"
NO_LIMIT = 0  # of the longer side


@dataclass(frozen=True)
class Protocol:
    """The rules of one evaluation. `dataclasses.asdict` of it is what run.json keeps."""

    name: str  # the family's
    view: View | None  # how images are shown to CLIP (its variant belongs to the method); None: the model's own view
    logit_scale: float | None  # factor between cosine and logit; None: the model's own
    background: Background  # with neither words nor threshold where the set has no background class
    templates: str | None  # name of the prompt templates; None: the preset's
    citation: str  # whose rules these are


@dataclass(frozen=True)
class Family:
    """A protocol's values for all data sets that it serves. Sides, window and stride are pixels."""

    citation: str
    sides: Mapping[str, tuple[int, int]]  # data set -> shorter side, limit of the longer side; keeps the aspect ratio
    logit_scale: float
    window: int = 0  # 0: the whole image at once
    stride: int = 0
    background: Mapping[str, Background] = field(default_factory=dict)  # data set -> rule, for each that has the class
    templates: str = "imagenet80"

    def __post_init__(self) -> None:
        for name in {*self.sides, *self.background}:
            rule = self.background.get(name, Background())
            given = bool(rule.words) or rule.threshold is not None
            if name not in self.sides or given != LAYOUTS[name].background:
                raise ValueError(
                    f"{self.citation}: {name} {'has' if LAYOUTS[name].background else 'has no'} background class and "
                    f"{'is' if name in self.sides else 'is not'} served, but its background rule is {rule}"
                )


COCO_STUFF = {name: (448, 2048) for name in ("coco-stuff171", "coco-stuff27")}
BENCHMARKS = ("voc21", "voc20", "context60", "context59", "coco-object", "coco-stuff171", "ade20k", "cityscapes")
STUFF = Background(words=words("background-sclip"), threshold=0.1)

FAMILIES: Mapping[str, Family] = {
    # NACLIP's values, which are SCLIP's but for three sets: SCLIP's code has logit scale 65 on voc21, where it also
    # turns classes of less than a tenth of the foreground to background, and 50 on context60 and coco-object.
    # ClearCLIP's code has shorter side 448, logit scale 50, and thresholds 0.5, 0.15 and 0.4 on those three.
    # coco-stuff27 is in none of the papers; it has the images of coco-stuff171.
    "sclip": Family(
        citation="SCLIP (arXiv 2312.01597) with the values of NACLIP (arXiv 2404.08181)",
        sides={name: (336, 2048) for name in BENCHMARKS} | COCO_STUFF | {"cityscapes": (560, 2048)},
        window=224,
        stride=112,
        logit_scale=40,
        background={
            "voc21": STUFF,
            "context60": Background(words=("background",), threshold=0.1),
            "coco-object": STUFF,
        },
    ),
    # TCL's scores are no softmax: each class has a sigmoid of its cosine with a learned scale and shift, and nine
    # templates. For CLIP without training this takes CLIP's probabilities, at its own logit scale and with its own
    # templates, as CLIP-DINOiser's MaskCLIP does; 0.5 is TCL's constant without mask refinement.
    "tcl": Family(
        citation="TCL (arXiv 2212.00785), probabilities as CLIP-DINOiser's MaskCLIP (arXiv 2312.12359)",
        sides={name: (448, 2048) for name in BENCHMARKS},
        window=448,
        stride=224,
        logit_scale=100,
        background={name: Background(threshold=0.5) for name in ("voc21", "context60", "coco-object")},
    ),
    # context59 as in mmsegmentation, whose limit holds for both sides.
    "maskclip": Family(
        citation="MaskCLIP (arXiv 2112.01071)",
        sides={"voc20": (512, 2048), "context59": (520, 520), "coco-stuff171": (512, 2048)},
        logit_scale=100,
    ),
}


def protocols_of(dataset: str) -> tuple[str, ...]:
    """The names of the protocols that a data set can be evaluated by, its default first."""
    return (*(name for name, family in FAMILIES.items() if dataset in family.sides), NATIVE)


def protocol(name: str | None, dataset: str, background: bool = False) -> Protocol:
    """A protocol for one data set.

    Args:
        name: "sclip", "tcl", "maskclip" or "native"; None for the set's default (sclip for the benchmarks, native for
            pocket, camvid and a user's own).
        dataset: a name that `ovseg.eval.datasets` knows.
        background: whether a set of the user's own has a background class (`Dataset.background`).
    Raises:
        ValueError: a protocol that does not apply to the set (the message names those that do).
    """
    known = protocols_of(dataset)
    if name is not None and name not in known:
        raise ValueError(f"{dataset} has no protocol {name!r}, expected one of {', '.join(known)}")
    name = name or known[0]
    if name == NATIVE:
        has_one = LAYOUTS[dataset].background if dataset in LAYOUTS else background
        rule = Background(words=words("background")) if has_one else Background()
        return Protocol(NATIVE, None, None, rule, None, "as `ovseg label` does it")
    from ovseg.dense import View

    family = FAMILIES[name]
    short_side, long_side = family.sides[dataset]
    return Protocol(
        name=name,
        view=View(short_side, family.window, family.stride, long_side=long_side),
        logit_scale=family.logit_scale,
        background=family.background.get(dataset, Background()),
        templates=family.templates,
        citation=family.citation,
    )
