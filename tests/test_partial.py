"""Parts of data sets, pixel-exact runs and rules of one's own, as a user asks for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import build_tree, tree_ids
from processes import run_here

from ovseg import prompts
from ovseg.classes import build_vocabulary
from ovseg.eval import predict, score
from ovseg.eval.datasets import open_dataset
from ovseg.eval.protocols import protocol
from ovseg.eval.tables import PARTIAL_NOTE
from ovseg.files import read_index_png
from ovseg.pixel_exact import label_masks_exactly, label_pixels_exactly, pixel_cosines
from ovseg.presets import Preset
from ovseg.towers.clip import Clip
from ovseg.towers.scoring import Scoring


def evaluate(*arguments: object):
    return run_here("eval", *arguments)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC without its list of ids, with one label missing; the tree has an image more than the list had."""
    root = build_tree("voc21", tmp_path_factory.mktemp("voc"))
    home = root if (root / "JPEGImages").is_dir() else root / "VOCdevkit/VOC2012"
    (home / "ImageSets/Segmentation/val.txt").unlink()
    (home / f"SegmentationClass/{tree_ids('voc21')[1]}.png").unlink()
    return root


def test_a_tree_that_is_not_whole_is_refused_unless_it_is_asked_for(sample: Path, tiny_clip: Path, tmp_path: Path):
    first, second, third = tree_ids("voc21")
    flags = ["voc20", "--root", sample, "--clip", tiny_clip, "--by", "none", "--out", tmp_path / "run"]
    done = evaluate("predict", *flags)
    assert done.returncode == 2 and "no list of ids" in done.stderr
    done = evaluate("predict", *flags, "--limit", 3)
    assert done.returncode == 2 and "no list of ids" in done.stderr

    done = evaluate("predict", *flags, "--partial", "--protocol", "naclip", "--dense", "naclip", "--pixel-exact")
    assert done.returncode == 0, done.stderr
    assert "note: 3 images of a part of the data set: no list of ids" in done.stderr
    record = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    assert len(record["ids"]) == 3 and {first, third} < set(record["ids"]) and second not in record["ids"]
    assert record["partial"] is True
    assert record["protocol"]["pixel_exact"] is True and record["protocol"]["view"]["window"] == 0
    assert record["vocabulary"] == record["protocol"]["classes"] == "voc20-sclip"
    assert record["names"][3] == "boat"  # the data set's own names, whatever the prompts

    done = evaluate("score", "voc20", "--root", sample, "--predictions", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "| 3 of 1449 |" in done.stdout and PARTIAL_NOTE in done.stdout and "naclip, pixel-exact" in done.stdout
    assert "voc20, published, apart" in done.stdout and "voc20, published\n" not in done.stdout
    assert PARTIAL_NOTE in (tmp_path / "run/table.md").read_text(encoding="utf-8")


def test_nothing_to_take_is_no_part(tmp_path: Path):
    root = build_tree("ade20k", tmp_path)
    for path in root.rglob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="no labels"):
        open_dataset("ade20k", root, partial=True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--protocol", "tcl"), "--pixel-exact: is for the protocols sclip, naclip, clearclip, sc-clip, got tcl"),
        (("--protocol", "native"), "--pixel-exact: is for the protocols sclip, naclip, clearclip, sc-clip, got native"),
    ],
)
def test_protocols_without_pixels_of_their_own_are_refused(flags, said, sample: Path, tiny_clip: Path, tmp_path: Path):
    where = ("--root", sample, "--clip", tiny_clip, "--by", "none", "--out", tmp_path / "run", "--partial")
    done = evaluate("predict", "voc20", *where, "--pixel-exact", *flags)
    assert done.returncode == 2 and said in done.stderr


def test_rules_of_ones_own_from_python(sample: Path, tiny_clip: Path, tmp_path: Path):
    """Labels are those of the pipeline called by hand; the table says that the values are not the family's."""
    family = protocol("sclip", "voc21", pixel_exact=True)
    rules = replace(family, logit_scale=300.0, templates="plain", background=replace(family.background, area=None))
    own = Preset(name="", diffusion="", clip=str(tiny_clip))
    run = predict("voc21", sample, out=tmp_path / "run", preset=own, by="none", partial=True, protocol=rules, limit=1)
    id = run.done[0]
    dataset = open_dataset("voc21", sample, partial=True)
    clip = Clip.from_pretrained(tiny_clip)
    vocabulary = build_vocabulary(prompts.classes("voc20-sclip"), rules.background)
    text = clip.encode_text(vocabulary.prompts, prompts.templates("plain"))
    image = dataset.image(id)
    cosines = pixel_cosines(clip, image, text, rules.view)
    labels, _ = label_pixels_exactly(cosines, image.shape[:2], vocabulary, Scoring(300.0))
    assert np.array_equal(read_index_png(tmp_path / "run" / f"{id}.png"), labels)
    [scored] = score("voc21", run, sample, out=tmp_path / "scored")
    assert "sclip, pixel-exact, other values" in (tmp_path / "scored/table.md").read_text(encoding="utf-8")
    assert scored.results()["protocol"]["logit_scale"] == 300.0
    with pytest.raises(ValueError, match="pixel_exact: is said by the protocol itself"):
        predict(
            "voc21", sample, out=tmp_path / "no", preset=own, by="none", partial=True, pixel_exact=True,
            protocol=replace(rules, pixel_exact=False),
        )  # fmt: skip


def test_masks_and_kept_analyses_by_a_pixel_exact_protocol(sample: Path, tiny_clip: Path, tmp_path: Path):
    own = Preset(name="", diffusion="", clip=str(tiny_clip))
    arguments = {"preset": own, "by": "slic", "partial": True, "masks": 6, "limit": 1}
    run = predict(
        "voc20", sample, out=tmp_path / "run", protocol="sclip", pixel_exact=True, keep_analysis=True, **arguments
    )
    id = run.done[0]
    masks = read_index_png(tmp_path / "run" / f"{id}.masks.png").astype(np.int32)
    labels = read_index_png(tmp_path / "run" / f"{id}.png")
    assert len(np.unique(masks)) > 1 and all(len(np.unique(labels[masks == mask])) == 1 for mask in np.unique(masks))
    clip, dataset = Clip.from_pretrained(tiny_clip), open_dataset("voc20", sample, partial=True)
    vocabulary = build_vocabulary(prompts.classes("voc20-sclip"), "none")
    text = clip.encode_text(vocabulary.prompts, prompts.templates("imagenet80"))
    cosines = pixel_cosines(clip, dataset.image(id), text, protocol("sclip", "voc20").view)
    _, best = label_masks_exactly(cosines, masks, vocabulary, Scoring(40.0))
    assert np.array_equal(labels, best[masks])
    assert (tmp_path / "run" / f"{id}.safetensors").is_file()
    again = predict(
        "voc20", sample, out=tmp_path / "again", protocol="sclip", pixel_exact=True, analyses=run, partial=True, limit=1
    )
    assert np.array_equal(read_index_png(tmp_path / "again" / f"{id}.png"), labels) and again.facts["by"] == "slic"


def test_custom_takes_a_familys_rules(tiny_clip: Path, tmp_path: Path):
    root = build_tree("custom", tmp_path)
    where = ("--root", root, "--clip", tiny_clip, "--by", "none", "--out", tmp_path / "run")
    done = evaluate("predict", "custom", *where, "--protocol", "clearclip", "--pixel-exact", "--score", "--limit", 1)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    assert record["protocol"]["background"]["words"] == ["background"] and record["vocabulary"] == "classes.txt"
    assert record["protocol"]["view"]["short_side"] == 448 and record["names"][:2] == ["background", "cat"]
    assert "clearclip, pixel-exact" in done.stdout and "other values" not in done.stdout
    assert "published" not in done.stdout
