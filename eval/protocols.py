"""The rules of one evaluation: a family's for a data set, or what `ovseg label` does ("native").

`ovseg.eval.families` has the values; `ovseg.towers.dense` or `ovseg.pixel_exact` applies a view, `ovseg.labels` a
background.
Without `pixel_exact` the way from pixels to labels is the project's own: images resized bicubically and to whole cells,
windows' cosines averaged on CLIP's grid and upsampled once. Does not load torch before `protocol` is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ovseg.classes import Background
from ovseg.eval.families import FAMILIES
from ovseg.eval.layouts import LAYOUTS
from ovseg.prompts import words
from ovseg.setup import NO_REFINER, Setup
from ovseg.towers.scope import NO_SCOPE

if TYPE_CHECKING:
    from ovseg.towers.view import View

NATIVE = "native"
ANY_PROTOCOL = ("custom", "camvid")  # sets without published rows that can be evaluated by any family's rules
OF_THE_METHOD = ("variant", "regions", "scope", "merge")  # fields of a view that are no rule


@dataclass(frozen=True)
class Protocol:
    """The rules of one evaluation. `dataclasses.asdict` of it is what run.json keeps.

    From Python a run may depart from its family's rules: `replace(protocol("sclip", "voc21"), logit_scale=40)`.
    """

    name: str  # the family's
    view: View | None  # how images are shown to CLIP (its variant belongs to the method); None: the model's own view
    logit_scale: float | None  # factor between cosine and logit; None: the model's own
    background: Background  # with neither words nor threshold where the set has no background class
    templates: str | None  # name of the prompt templates; None: the preset's
    citation: str  # whose rules these are
    classes: str | None = None  # name of the class list; None: the data set's own
    pixel_exact: bool = False  # from pixels to labels as the published code does it, see `ovseg.pixel_exact`
    pad: bool = False  # what that code does with windows that are not whole cells; without effect otherwise


def protocols_of(dataset: str) -> tuple[str, ...]:
    """The names of the protocols that a data set can be evaluated by, its default first."""
    if dataset in ANY_PROTOCOL:
        return (NATIVE, *FAMILIES)
    return (*(name for name, family in FAMILIES.items() if dataset in family.sets), NATIVE)


def protocol(name: str | None, dataset: str, background: bool = False, pixel_exact: bool = False) -> Protocol:
    """A protocol for one data set.

    Args:
        name: a family's, or "native"; None for the set's default (sclip for the benchmarks, native for the others).
        dataset: a name that `ovseg.eval.datasets` knows.
        background: whether a set of the user's own has a background class (`Dataset.background`).
        pixel_exact: whether labels are to be those of the family's own code.
    Raises:
        ValueError: a protocol that does not apply to the set (the message names those that do), or one whose code is
            not followed to the pixel.
    """
    known = protocols_of(dataset)
    if name is not None and name not in known:
        raise ValueError(f"{dataset} has no protocol {name!r}, expected one of {', '.join(known)}")
    name = name or known[0]
    if pixel_exact:
        check_pixel_exact(name)
    has_one = LAYOUTS[dataset].background if dataset in LAYOUTS else background
    if name == NATIVE:
        rule = Background(words=words("background")) if has_one else Background()
        return Protocol(NATIVE, None, None, rule, None, "as `ovseg label` does it")
    from ovseg.towers.view import View

    family = FAMILIES[name]
    rules = family.rules(dataset, has_one)
    return Protocol(
        name=name,
        view=View(rules.short_side, rules.window, rules.stride, long_side=rules.long_side),
        logit_scale=rules.logit_scale,
        background=rules.background,
        templates=rules.templates,
        citation=family.citation,
        classes=rules.classes,
        pixel_exact=pixel_exact,
        pad=rules.pad,
    )


def check_pixel_exact(name: str) -> None:
    """Raise ValueError for a protocol whose code is not followed to the pixel."""
    exact = [one for one, family in FAMILIES.items() if family.pixel_exact]
    if name not in exact:
        raise ValueError(f"pixel_exact: is for the protocols {', '.join(exact)}, got {name}")


def check_readable(setup: Setup) -> None:
    """Raise ValueError for a way of reading CLIP that no published code of the protocols has."""
    asked = {
        "regions": setup.regions not in (None, "mean"),
        "scope": setup.scope not in (None, NO_SCOPE),
        "vote": setup.vote,
        "refine": setup.refine not in (None, NO_REFINER),
    }
    if found := [name for name, is_asked in asked.items() if is_asked]:
        raise ValueError(f"{found[0]}: is not in the code that a pixel-exact protocol follows; leave one of them out")


def same_rules(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two runs' recorded protocols are the same rules, so that their numbers can be compared."""
    return (_recorded_rules(one) if one else None) == (_recorded_rules(other) if other else None)


def departs(recorded: Mapping[str, Any], dataset: str, background: bool = False) -> bool:
    """Whether a run's recorded protocol has other values than its family has for this set: it was changed from Python,
    or made by a former release. Native rules depend on the model, and depart from nothing.

    background: as in `protocol`.
    """
    if recorded["name"] == NATIVE:
        return False
    if recorded["name"] not in FAMILIES or recorded["name"] not in protocols_of(dataset):
        return True
    rules = asdict(FAMILIES[recorded["name"]].rules(dataset, background))
    view = {name: rules.pop(name) for name in ("short_side", "window", "stride", "long_side")}
    pixel_exact = bool(recorded.get("pixel_exact"))
    return not same_rules(recorded, {"name": recorded["name"], **rules, "view": view, "pixel_exact": pixel_exact})


def _recorded_rules(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol as a record has it, in one form: tuples as lists, without what is no rule or has no effect. Of native
    rules the name, as the rest is the model's."""
    if recorded.get("name") == NATIVE:
        return {"name": NATIVE}
    rules = {name: value for name, value in recorded.items() if name != "citation"}
    view = {name: value for name, value in _object(rules.get("view")).items() if name not in OF_THE_METHOD}
    background = {"repeats": False, "area": None, "bias": 0.0, **_object(rules.get("background"))}
    if isinstance(background.get("words"), tuple):
        background["words"] = list(background["words"])
    if not rules.get("pixel_exact"):
        rules.pop("pad", None)
    return {"classes": None, "pixel_exact": False, **rules, "view": view, "background": background}


def _object(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
