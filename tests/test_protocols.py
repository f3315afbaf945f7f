"""The protocols' table against the papers' values, its refusals, and its fit to every data set's class list."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from ovseg import prompts
from ovseg.classes import Background, build_vocabulary
from ovseg.clip import Clip, resized_sides
from ovseg.dense import View
from ovseg.eval.datasets import NAMES
from ovseg.eval.layouts import LAYOUTS
from ovseg.eval.protocols import FAMILIES, Family, Protocol, protocol, protocols_of
from ovseg.labels import Scoring, label_pixels

SERVED = [(name, dataset) for dataset in NAMES for name in protocols_of(dataset)]


def test_the_sclip_rows_by_hand() -> None:
    assert protocol("sclip", "voc20") == Protocol(
        name="sclip",
        view=View(short_side=336, long_side=2048, window=224, stride=112),
        logit_scale=40,
        background=Background(),
        templates="imagenet80",
        citation="SCLIP (arXiv 2312.01597) with the values of NACLIP (arXiv 2404.08181)",
    )
    sides = {dataset: protocol("sclip", dataset).view.short_side for dataset in FAMILIES["sclip"].sides}
    assert sides == {
        "voc21": 336, "voc20": 336, "context60": 336, "context59": 336, "coco-object": 336, "ade20k": 336,
        "coco-stuff171": 448, "coco-stuff27": 448, "cityscapes": 560,
    }  # fmt: skip
    for dataset in ("voc21", "coco-object"):
        rule = protocol("sclip", dataset).background
        assert (len(rule.words), rule.words[0], rule.words[-1], rule.threshold) == (26, "sky", "fence", 0.1)
    assert protocol("sclip", "context60").background == Background(words=("background",), threshold=0.1)


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
    assert protocols_of("voc20") == ("sclip", "tcl", "maskclip", "native")
    assert protocols_of("coco-stuff27") == ("sclip", "native")
    for dataset in NAMES:
        default = "native" if dataset in ("pocket", "camvid", "custom") else "sclip"
        assert protocol(None, dataset) == protocol(default, dataset)
        assert protocols_of(dataset)[0] == default


@pytest.mark.parametrize(
    ("name", "dataset", "known"),
    [
        ("maskclip", "voc21", "sclip, tcl, native"),
        ("tcl", "coco-stuff27", "sclip, native"),
        ("sclip", "pocket", "native"),
        ("SCLIP", "ade20k", "sclip, tcl, native"),
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


@pytest.mark.parametrize(("name", "dataset"), [pair for pair in SERVED if pair[1] in LAYOUTS])
def test_every_protocol_fits_its_data_set(name: str, dataset: str) -> None:
    layout, rules = LAYOUTS[dataset], protocol(name, dataset)
    entries = prompts.classes(layout.vocabulary)
    vocabulary = build_vocabulary(entries, rules.background)
    names = [entry.split(";")[0].strip() for entry in entries]
    assert list(vocabulary.names) == (["background"] if layout.background else []) + names
    assert vocabulary.threshold is None or layout.background
    assert len({prompt.casefold() for prompt in vocabulary.prompts}) == len(vocabulary.prompts)


def test_a_word_that_is_also_a_class_is_taken_out_with_a_note() -> None:
    vocabulary = build_vocabulary(prompts.classes("coco-object80"), protocol("sclip", "coco-object").background)
    assert vocabulary.notes == ("taken out of the default background words, because they are classes: bed",)
    assert vocabulary.owners.count(0) == 25
    assert vocabulary.names[vocabulary.owners[vocabulary.prompts.index("bed")]] == "bed"


@pytest.mark.parametrize(
    ("dataset", "background", "message"),
    [
        ("voc20", {"voc20": Background(threshold=0.1)}, "voc20 has no background class"),
        ("ade20k", {"ade20k": Background(words=("sky",))}, "ade20k has no background class"),
        ("voc21", {}, "voc21 has background class and is served"),
        ("voc21", {"voc21": Background()}, "voc21 has background class and is served"),
        ("voc20", {"voc21": Background(threshold=0.1)}, "voc21 has background class and is not served"),
    ],
)
def test_a_table_whose_backgrounds_do_not_fit_is_refused(
    dataset: str, background: dict[str, Background], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^Paper: {message}"):
        Family(citation="Paper", sides={dataset: (336, 2048)}, logit_scale=40, background=background)


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
