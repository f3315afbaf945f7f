"""The protocols' table against the papers' values, its refusals, and its fit to every data set's class list."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from ovseg import prompts
from ovseg.classes import Background, build_vocabulary
from ovseg.eval.datasets import NAMES
from ovseg.eval.families import BENCHMARKS, FAMILIES, Family, Rules
from ovseg.eval.layouts import LAYOUTS
from ovseg.eval.protocols import Protocol, departs, protocol, protocols_of, same_rules
from ovseg.labels import label_pixels
from ovseg.towers.clip import Clip
from ovseg.towers.scoring import Scoring
from ovseg.towers.view import View, resized_sides

SERVED = [(name, dataset) for dataset in NAMES for name in protocols_of(dataset)]


WORDS = Background(words=prompts.words("background-sclip"), threshold=0.1)
BARE = Background(words=("background",))
# (family, data set): shorter side, window, stride, logit scale, class list, background; as the code's own configs say.
BY_HAND = {
    ("sclip", "voc21"): (336, 224, 112, 65, "voc20-sclip", replace(WORDS, area=0.1)),
    ("sclip", "voc20"): (336, 224, 112, 40, "voc20-sclip", Background()),
    ("sclip", "context60"): (336, 224, 112, 50, "context59-sclip", replace(BARE, threshold=0.1)),
    ("sclip", "context59"): (336, 224, 112, 40, "context59-sclip", Background()),
    ("sclip", "coco-object"): (336, 224, 112, 50, "coco-object-sclip", replace(WORDS, repeats=True)),
    ("sclip", "coco-stuff171"): (448, 224, 112, 40, "coco-stuff171-sclip", Background()),
    ("sclip", "ade20k"): (336, 224, 112, 40, "ade20k-sclip", Background()),
    ("sclip", "cityscapes"): (560, 224, 112, 40, "cityscapes-sclip", Background()),
    ("sclip", "coco-stuff27"): (448, 224, 112, 40, None, Background()),
    ("naclip", "voc21"): (336, 0, 0, 40, "voc20-sclip", WORDS),
    ("naclip", "voc20"): (336, 0, 0, 40, "voc20-sclip", Background()),
    ("naclip", "context60"): (336, 224, 112, 40, "context59-sclip", replace(BARE, threshold=0.1)),
    ("naclip", "context59"): (336, 224, 112, 40, "context59-sclip", Background()),
    ("naclip", "coco-object"): (336, 224, 112, 40, "coco-object-sclip", replace(WORDS, repeats=True)),
    ("naclip", "coco-stuff171"): (336, 224, 112, 40, "coco-stuff171-sclip", Background()),
    ("naclip", "ade20k"): (336, 224, 112, 40, "ade20k-sclip", Background()),
    ("naclip", "cityscapes"): (560, 224, 112, 40, "cityscapes-sclip", Background()),
    ("clearclip", "voc21"): (448, 448, 224, 50, "voc20-clearclip", replace(BARE, threshold=0.5)),
    ("clearclip", "voc20"): (448, 448, 224, 50, "voc20-clearclip", Background()),
    ("clearclip", "context60"): (448, 448, 224, 50, "context59-sclip", replace(BARE, threshold=0.15)),
    ("clearclip", "context59"): (448, 448, 224, 50, "context59-sclip", Background()),
    ("clearclip", "coco-object"): (448, 448, 224, 50, "coco-object-clearclip", replace(BARE, threshold=0.4)),
    ("clearclip", "coco-stuff171"): (448, 448, 224, 50, "coco-stuff171-sclip", Background()),
    ("clearclip", "ade20k"): (448, 448, 224, 50, "ade20k-sclip", Background()),
    ("clearclip", "cityscapes"): (448, 224, 224, 50, "cityscapes-sclip", Background()),
    ("sc-clip", "voc21"): (336, 224, 112, 50, "voc20-sclip", replace(WORDS, threshold=0.15, area=0.1)),
    ("sc-clip", "context60"): (336, 224, 112, 40, "context59-sclip", replace(BARE, threshold=0.15)),
    ("sc-clip", "coco-object"): (336, 224, 112, 55, "coco-object-sclip", replace(WORDS, threshold=0.35, repeats=True)),
    ("sc-clip", "coco-stuff171"): (336, 224, 112, 40, "coco-stuff171-sclip", Background()),
    ("sc-clip", "cityscapes"): (560, 224, 112, 40, "cityscapes-sclip", Background()),
}


@pytest.mark.parametrize(("case", "expected"), BY_HAND.items())
def test_the_rows_of_a_family_by_hand(case: tuple[str, str], expected: tuple) -> None:
    short_side, window, stride, scale, classes, background = expected
    citation = FAMILIES[case[0]].citation
    for exact in (False, True):
        assert protocol(*case, pixel_exact=exact) == Protocol(
            name=case[0],
            view=View(short_side, window, stride, long_side=2048),
            logit_scale=scale,
            background=background,
            templates="imagenet80",
            citation=citation,
            classes=classes,
            pixel_exact=exact,
            pad=case[0] == "clearclip",
        )
    assert (len(WORDS.words), WORDS.words[0], WORDS.words[-1]) == (26, "sky", "fence")


def test_the_tcl_and_maskclip_rows_by_hand() -> None:
    tcl = protocol("tcl", "voc21")
    assert tcl.view == View(short_side=448, long_side=2048, window=448, stride=224)
    assert (tcl.background, tcl.logit_scale) == (Background(threshold=0.5), 100)
    assert protocol("tcl", "cityscapes").view == tcl.view
    maskclip = protocol("maskclip", "voc20")
    assert maskclip.view == View(short_side=512, long_side=2048)
    assert (maskclip.background, maskclip.logit_scale) == (Background(), 100)
    # Context's limit holds for both sides: 500x375 becomes 520x390, to whole cells of 16.
    assert resized_sides((375, 500), protocol("maskclip", "context59").view, (16, 16)) == (384, 512)


def test_defaults_and_what_a_set_has() -> None:
    assert protocols_of("voc20") == ("sclip", "naclip", "clearclip", "sc-clip", "tcl", "maskclip", "native")
    assert all(set(protocols_of(name)) >= {"sclip", "naclip", "clearclip", "sc-clip", "tcl"} for name in BENCHMARKS)
    assert protocols_of("custom") == protocols_of("camvid") == ("native", *FAMILIES)
    assert protocols_of("pocket") == ("native",)
    assert protocols_of("coco-stuff27") == ("sclip", "native")
    for dataset in NAMES:
        default = "native" if dataset in ("pocket", "camvid", "custom") else "sclip"
        assert protocol(None, dataset) == protocol(default, dataset)
        assert protocols_of(dataset)[0] == default


@pytest.mark.parametrize(
    ("name", "dataset", "known"),
    [
        ("maskclip", "voc21", "sclip, naclip, clearclip, sc-clip, tcl, native"),
        ("tcl", "coco-stuff27", "sclip, native"),
        ("sclip", "pocket", "native"),
        ("SCLIP", "ade20k", "sclip, naclip, clearclip, sc-clip, tcl, native"),
    ],
)
def test_other_protocols_are_refused_by_name(name: str, dataset: str, known: str) -> None:
    with pytest.raises(ValueError, match=f"^{dataset} has no protocol '{name}', expected one of {known}$"):
        protocol(name, dataset)


def test_native_is_what_the_model_and_its_preset_say() -> None:
    native = protocol("native", "pocket")
    assert (native.name, native.view, native.logit_scale, native.templates) == ("native", None, None, None)
    assert native.background == protocol("native", "ade20k").background == protocol(None, "custom").background
    assert native.background == Background()
    stuff = Background(words=prompts.words("background"))
    assert protocol("native", "voc21").background == protocol(None, "custom", background=True).background == stuff


@pytest.mark.parametrize("name", ["native", "tcl", "maskclip"])
def test_code_that_is_not_followed_to_the_pixel_is_said(name: str) -> None:
    known = "sclip, naclip, clearclip, sc-clip"
    with pytest.raises(ValueError, match=f"^pixel_exact: is for the protocols {known}, got {name}$"):
        protocol(name, "voc20", pixel_exact=True)
    with pytest.raises(ValueError, match="got native$"):
        protocol(None, "custom", pixel_exact=True)


def test_custom_takes_any_family_with_its_own_classes() -> None:
    for name in FAMILIES:
        assert protocol(name, "custom").classes is None and protocol(name, "custom").background == Background()
    assert protocol("sclip", "custom").view == View(336, 224, 112, long_side=2048)
    assert protocol("naclip", "custom").view == protocol("sclip", "camvid").view
    assert protocol("clearclip", "custom", True, True).background == replace(BARE, threshold=0.5)
    assert protocol("sclip", "custom", background=True).background == WORDS
    assert protocol("tcl", "custom", background=True).background == Background(threshold=0.5)
    with pytest.raises(ValueError, match="^custom has a background class, for which MaskCLIP .* has no rule$"):
        protocol("maskclip", "custom", background=True)


@pytest.mark.parametrize(("name", "dataset"), [pair for pair in SERVED if pair[1] in LAYOUTS])
def test_every_protocol_fits_its_data_set(name: str, dataset: str) -> None:
    layout, rules = LAYOUTS[dataset], protocol(name, dataset)
    official = prompts.classes(layout.vocabulary)
    for entries in (official, prompts.classes(rules.classes) if rules.classes else official):
        vocabulary = build_vocabulary(entries, rules.background)
        names = [entry.split(";")[0].strip() for entry in entries]
        assert len(names) == len(official)
        assert list(vocabulary.names) == (["background"] if layout.background else []) + names
        assert vocabulary.threshold is None or layout.background
        once = {prompt.casefold() for prompt in vocabulary.prompts}
        assert len(once) == len(vocabulary.prompts) - rules.background.repeats  # "bed"


@pytest.mark.parametrize(
    ("dataset", "values", "message"),
    [
        ("voc20", {"background": Background(threshold=0.1)}, "voc20 has no background class"),
        ("ade20k", {"background": Background(words=("sky",))}, "ade20k has no background class"),
        ("voc21", {}, "voc21 has background class, but its"),
        ("voc21", {"background": Background()}, "voc21 has background class, but its"),
    ],
)
def test_a_table_whose_backgrounds_do_not_fit_is_refused(dataset: str, values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^Paper: {message}"):
        Family(citation="Paper", common=Rules(), sets={dataset: values}, others=None)


@pytest.mark.parametrize(("name", "dataset"), SERVED)
def test_a_record_of_a_familys_rules_departs_from_nothing_and_one_that_was_changed_does(
    name: str, dataset: str
) -> None:
    rules = protocol(name, dataset)
    record = json.loads(json.dumps(asdict(rules)))
    assert not departs(record, dataset) and same_rules(record, asdict(rules))
    if name == "native":
        return
    record["view"]["variant"] = "naclip"
    assert not departs(record, dataset) and same_rules(record, asdict(rules))
    for changed in (replace(rules, logit_scale=41), replace(rules, view=replace(rules.view, short_side=500))):
        assert departs(asdict(changed), dataset) and not same_rules(asdict(changed), record)
    assert not same_rules(asdict(replace(rules, pixel_exact=True)), record)
    assert departs(record | {"name": "unknown"}, dataset) and departs({"name": name}, dataset)


@pytest.mark.parametrize(("name", "dataset"), SERVED)
def test_a_protocol_is_stated_in_full_in_a_record(name: str, dataset: str) -> None:
    rules = protocol(name, dataset)
    record = json.loads(json.dumps(asdict(rules)))
    assert record["name"] == name
    assert record["background"]["words"] == list(rules.background.words)
    if rules.view:
        assert View(**record["view"]) == rules.view
        assert all(length % 16 == 0 and length % 14 == 0 for length in (rules.view.window, rules.view.stride))


def test_names_are_known_without_torch() -> None:
    program = "import sys, ovseg.eval.protocols as p; p.protocol(None, 'pocket'); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent)


def test_a_clip_labels_pixels_by_a_protocol(tiny_clip: Path) -> None:
    clip, rules = Clip.from_pretrained(tiny_clip), protocol("sclip", "voc21")
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    features = clip.dense_features(image, rules.view)
    assert features.shape[1:] == (42, 63)  # 336x504 pixels in cells of 8
    vocabulary = build_vocabulary(prompts.classes("voc20"), rules.background)
    text = clip.encode_text(vocabulary.prompts, prompts.templates("plain"))
    sure, _ = label_pixels(features, text, vocabulary, Scoring(1000.0), image.shape[:2])
    unsure, _ = label_pixels(features, text, vocabulary, Scoring(0.001), image.shape[:2])
    assert sure.max() > 0
    assert not unsure.any()  # 46 prompts share the probability: none reaches 0.1, so all is background
