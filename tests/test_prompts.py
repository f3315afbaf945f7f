"""The text files: CLIP's templates as open_clip keeps them, and a sane background list."""

from __future__ import annotations

from importlib.resources import files

import pytest
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
from torchvision.datasets import Cityscapes
from torchvision.models._meta import _COCO_CATEGORIES, _VOC_CATEGORIES

from ovseg import prompts
from ovseg.classes import build_vocabulary


def test_imagenet80_is_the_list_of_clip() -> None:
    assert prompts.templates("imagenet80") == tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    assert len(prompts.templates("imagenet80")) == 80


def test_short_templates() -> None:
    assert prompts.templates("plain") == ("{}",)
    assert prompts.templates("photo") == ("a photo of a {}.",)


def test_background_words_are_distinct_bare_words() -> None:
    words = prompts.words("background")
    assert len(words) == len(set(words)) == 26
    assert {"sky", "grass", "water"} <= set(words)
    assert not {"cat", "dog", "person", "bed", "lamp"} & set(words)
    assert all(word == word.strip().lower() and "#" not in word for word in words)


OFFICIAL = {
    "voc20": 20, "context59": 59, "coco-object80": 80, "coco-stuff171": 171, "coco-stuff27": 27, "ade20k": 150,
    "cityscapes": 19, "camvid": 11,
}  # fmt: skip
LEGACY = {
    "voc20-sclip": "voc20", "context59-sclip": "context59", "coco-object-sclip": "coco-object80",
    "coco-stuff171-sclip": "coco-stuff171", "ade20k-sclip": "ade20k", "cityscapes-sclip": "cityscapes",
    "voc20-clearclip": "voc20", "coco-object-clearclip": "coco-object80",
}  # fmt: skip


def unspaced(names: tuple[str, ...]) -> list[str]:
    return [name.replace(" ", "") for name in names]


def test_there_are_no_other_class_lists_and_each_says_what_it_is() -> None:
    found = {entry.name: entry for entry in files("ovseg.prompts").iterdir() if entry.name.startswith("classes-")}
    assert set(found) == {f"classes-{name}.txt" for name in {*OFFICIAL, *LEGACY}}
    for name, entry in found.items():
        first = entry.read_text(encoding="utf-8").splitlines()[0]
        legacy = name.endswith(("-sclip.txt", "-clearclip.txt"))
        assert first.startswith("# Legacy: ") == legacy and first.startswith("# ")


@pytest.mark.parametrize("name", [*OFFICIAL, *LEGACY])
def test_class_lists_have_the_official_number_of_classes_and_make_vocabularies(name: str) -> None:
    entries = prompts.classes(name)
    vocabulary = build_vocabulary(entries, "none")  # refuses what occurs twice
    assert len(vocabulary.names) == OFFICIAL[LEGACY.get(name, name)]
    assert "background" not in vocabulary.prompts
    assert (len(vocabulary.prompts) > len(vocabulary.names)) == (name in ("voc20-sclip", "coco-object-sclip"))


def test_official_names_are_those_of_torchvision() -> None:
    assert prompts.classes("coco-object80") == tuple(n for n in _COCO_CATEGORIES if n not in ("__background__", "N/A"))
    assert unspaced(prompts.classes("voc20")) == _VOC_CATEGORIES[1:]
    cityscapes = {one.train_id: one.name for one in Cityscapes.classes if 0 <= one.train_id < 255}
    assert prompts.classes("cityscapes") == tuple(cityscapes[index] for index in range(19))


def test_the_orders_of_the_indices() -> None:
    context = unspaced(prompts.classes("context59"))
    assert context == sorted(context)
    stuff = prompts.classes("coco-stuff171")
    assert stuff[:80] == prompts.classes("coco-object80") and list(stuff[80:]) == sorted(stuff[80:])
    ade = prompts.classes("ade20k")
    at = {0: "wall", 7: "bed", 12: "person", 75: "swivel chair", 136: "traffic light", 149: "flag"}
    assert {index: ade[index] for index in at} == at
    things, groups = prompts.classes("coco-stuff27")[:12], prompts.classes("coco-stuff27")[12:]
    assert (things[0], things[9], things[11], groups[0], groups[14]) == (
        "electronic", "person", "vehicle", "ceiling", "water",
    )  # fmt: skip


@pytest.mark.parametrize("legacy", LEGACY)
def test_legacy_lists_stand_in_the_order_of_the_official_ones(legacy: str) -> None:
    names = unspaced(tuple(entry.split(";")[0] for entry in prompts.classes(legacy)))
    renamed = {"ship": "boat", "table": "diningtable", "televisionmonitor": "tvmonitor"} if "voc" in legacy else {}
    assert [renamed.get(name, name) for name in names] == unspaced(prompts.classes(LEGACY[legacy]))


def test_quirks_of_the_published_lists_are_kept() -> None:
    person = "person; person in shirt; person in jeans; person in dress; person in sweater; person in skirt"
    assert prompts.classes("voc20-sclip")[14] == f"{person}; person in jacket"
    assert prompts.classes("coco-object-sclip")[0] == f"{person}; person in jacket; body"
    first, aliases = (prompts.classes(f"coco-object-{paper}") for paper in ("clearclip", "sclip"))
    assert first == ("person", *aliases[1:])
    of_voc = prompts.classes("voc20-clearclip")
    assert of_voc[:14] == prompts.classes("voc20-sclip")[:14] and of_voc[14] == "person" and of_voc[19] == "tvmonitor"
    assert {"trafficlight", "diningtable"} <= set(prompts.classes("coco-stuff171-sclip"))
    words = prompts.words("background-sclip")
    assert len(words) == 26 and words[0] == "sky" and words[-1] == "fence" and "bed" in words
    assert set(prompts.words("background-proxyclip-object")) < set(words)
    assert len(prompts.words("background-proxyclip-object")) == 17


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown templates 'imagenet', expected one of imagenet80, photo, plain"):
        prompts.templates("imagenet")
    with pytest.raises(ValueError, match="unknown words 'photo', expected one of background"):
        prompts.words("photo")
    with pytest.raises(ValueError, match="unknown classes 'voc21', expected one of ade20k, .*, voc20, voc20-c"):
        prompts.classes("voc21")
