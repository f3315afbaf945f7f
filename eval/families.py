"""The rules that published numbers depend on besides the method: one table, a family of rules for each code base.

A family's values are its code's own, read in its repository and stated here per data set; a paper's number may stand
beside a run by these rules alone (`ovseg.eval.published`). Values alone stand here; does not load torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ovseg.classes import Background
from ovseg.eval.layouts import LAYOUTS
from ovseg.prompts import words


@dataclass(frozen=True)
class Rules:
    """A family's rules for one data set. Lengths are pixels of the resized image."""

    short_side: int = 336  # of the image; its aspect ratio is kept
    long_side: int = 2048  # the limit of the longer side
    window: int = 224  # 0: the whole image at once
    stride: int = 112
    logit_scale: float = 40
    classes: str | None = None  # the class list's name in `prompts`; None: the data set's own
    background: Background = field(default_factory=Background)  # for sets that have the class
    pad: bool = False  # windows that are not whole cells are padded, see `ovseg.pixel_exact`
    templates: str = "imagenet80"


@dataclass(frozen=True)
class Family:
    """What a code base has in common, and where its data sets differ from that.

    others: `background` of a user's own set that has the class; None: the family has no rule for one.
    """

    citation: str
    common: Rules
    sets: Mapping[str, Mapping[str, Any]]  # data set -> fields of `Rules` that are not `common`'s
    others: Background | None
    pixel_exact: bool = True  # whether the code's way from pixels to labels is known to `ovseg.pixel_exact`

    def __post_init__(self) -> None:
        for name in self.sets:
            rule = self.rules(name).background
            if (bool(rule.words) or rule.threshold is not None) != LAYOUTS[name].background:
                has = "has" if LAYOUTS[name].background else "has no"
                raise ValueError(f"{self.citation}: {name} {has} background class, but its background rule is {rule}")

    def rules(self, dataset: str, background: bool = False) -> Rules:
        """The rules for a data set; for one that is not among `sets` those that they have in common.

        background: whether such a set has a background class. Raises ValueError where there is no rule for it.
        """
        if dataset in self.sets:
            return replace(self.common, **self.sets[dataset])
        if not background:
            return self.common
        if self.others is None:
            raise ValueError(f"{dataset} has a background class, for which {self.citation} has no rule")
        return replace(self.common, background=self.others)


BENCHMARKS = ("voc21", "voc20", "context60", "context59", "coco-object", "coco-stuff171", "ade20k", "cityscapes")
STUFF = words("background-sclip")
WORDS = Background(words=STUFF, threshold=0.1)
SCLIP_LISTS: dict[str, dict[str, Any]] = {
    "voc21": {"classes": "voc20-sclip", "background": WORDS},
    "voc20": {"classes": "voc20-sclip"},
    "context60": {"classes": "context59-sclip", "background": Background(words=("background",), threshold=0.1)},
    "context59": {"classes": "context59-sclip"},
    # "bed" is a class and a background word there; where it wins, that code gives the background.
    "coco-object": {"classes": "coco-object-sclip", "background": replace(WORDS, repeats=True)},
    "coco-stuff171": {"classes": "coco-stuff171-sclip"},
    "ade20k": {"classes": "ade20k-sclip"},
    "cityscapes": {"classes": "cityscapes-sclip", "short_side": 560},
}


def _sets(*changes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Tables joined: what a later one says of a set goes over what an earlier one does."""
    names = dict.fromkeys(name for change in changes for name in change)
    return {name: {k: v for change in changes for k, v in change.get(name, {}).items()} for name in names}


def _at(table: Mapping[str, Mapping[str, Any]], dataset: str, **changes: Any) -> Background:
    """The background of a set in a table, with other values."""
    background: Background = table[dataset]["background"]
    return replace(background, **changes)


BARE = Background(words=("background",))  # with a threshold of each set's own

FAMILIES: Mapping[str, Family] = {
    # coco-stuff27 is in none of these papers; it has the images of coco-stuff171 and its own list here.
    "sclip": Family(
        citation="SCLIP (arXiv 2312.01597), github.com/wangf3014/SCLIP at b56bd30",
        common=Rules(),
        sets=_sets(
            SCLIP_LISTS,
            {
                "voc21": {"logit_scale": 65, "background": replace(WORDS, area=0.1)},
                "context60": {"logit_scale": 50},
                "coco-object": {"logit_scale": 50},
                "coco-stuff171": {"short_side": 448},
                "coco-stuff27": {"short_side": 448},
            },
        ),
        others=WORDS,
    ),
    # Its rows with PAMR are by these rules and PAMR, 10 iterations at dilations 8 and 16.
    "naclip": Family(
        citation="NACLIP (arXiv 2404.08181), github.com/sinahmr/NACLIP at 0cac3a6",
        common=Rules(),
        sets=_sets(SCLIP_LISTS, {"voc21": {"window": 0, "stride": 0}, "voc20": {"window": 0, "stride": 0}}),
        others=WORDS,
    ),
    # Its code runs in half precision.
    "clearclip": Family(
        citation="ClearCLIP (arXiv 2407.12442), github.com/mc-lan/ClearCLIP at ad68a40",
        common=Rules(short_side=448, window=448, stride=224, logit_scale=50, pad=True),
        sets=_sets(
            SCLIP_LISTS,
            {
                "voc21": {"classes": "voc20-clearclip", "background": replace(BARE, threshold=0.5)},
                "voc20": {"classes": "voc20-clearclip"},
                "context60": {"background": replace(BARE, threshold=0.15)},
                "coco-object": {"classes": "coco-object-clearclip", "background": replace(BARE, threshold=0.4)},
                "cityscapes": {"short_side": 448, "window": 224},
            },
        ),
        others=replace(BARE, threshold=0.5),
    ),
    "sc-clip": Family(
        citation="SC-CLIP (arXiv 2411.15869), github.com/SuleBai/SC-CLIP at 0417ba9",
        common=Rules(),
        sets=_sets(
            SCLIP_LISTS,
            {
                "voc21": {"logit_scale": 50, "background": replace(WORDS, threshold=0.15, area=0.1)},
                "context60": {"background": _at(SCLIP_LISTS, "context60", threshold=0.15)},
                "coco-object": {
                    "logit_scale": 55,
                    "background": _at(SCLIP_LISTS, "coco-object", threshold=0.35),
                },
            },
        ),
        others=replace(WORDS, threshold=0.15),
    ),
    # TCL's scores are no softmax: each class has a sigmoid of its cosine with a learned scale and shift, and nine
    # templates. For CLIP without training this takes CLIP's probabilities, at its own logit scale and with its own
    # templates, as CLIP-DINOiser's MaskCLIP does; 0.5 is TCL's constant without mask refinement.
    "tcl": Family(
        citation="TCL (arXiv 2212.00785), probabilities as CLIP-DINOiser's MaskCLIP (arXiv 2312.12359)",
        common=Rules(short_side=448, window=448, stride=224, logit_scale=100),
        sets={
            name: {"background": Background(threshold=0.5)} if LAYOUTS[name].background else {} for name in BENCHMARKS
        },
        others=Background(threshold=0.5),
        pixel_exact=False,
    ),
    # context59 as in mmsegmentation, whose limit holds for both sides. The code runs OpenAI's weights with another
    # activation (GELU), another epsilon and ImageNet's mean and deviation; here the CLIP is as it was trained.
    "maskclip": Family(
        citation="MaskCLIP (arXiv 2112.01071)",
        common=Rules(short_side=512, window=0, stride=0, logit_scale=100),
        sets={"voc20": {}, "context59": {"short_side": 520, "long_side": 520}, "coco-stuff171": {}},
        others=None,
        pixel_exact=False,
    ),
}
