"""Data sets as they lie on disk: what was painted comes back, and what is missing is said."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import (
    CONVERTED,
    FOLDER_SETS,
    TABLES,
    build_instances,
    build_tree,
    image_file,
    label_file,
    painted,
    tree_ids,
)
from PIL import Image
from test_label_rules import super_categories

from ovseg import prompts
from ovseg.classes import build_vocabulary
from ovseg.eval.check import check
from ovseg.eval.datasets import NAMES, open_dataset
from ovseg.pocket.world import NAMES as POCKET_NAMES
from ovseg.pocket.world import scene

CLASSES = {
    "voc21": 21, "voc20": 20, "context60": 60, "context59": 59, "coco-object": 81, "coco-stuff171": 171,
    "coco-stuff27": 27, "ade20k": 150, "cityscapes": 19, "camvid": 11, "pocket": 58, "custom": 4,
}  # fmt: skip
OFFICIAL = {
    "voc21": 1449, "voc20": 1449, "context60": 5104, "context59": 5104, "coco-object": 5000, "coco-stuff171": 5000,
    "coco-stuff27": 5000, "ade20k": 2000, "cityscapes": 500, "camvid": None, "pocket": 200, "custom": None,
}  # fmt: skip
WITH_BACKGROUND = {"voc21", "context60", "coco-object", "custom"}
COUNTED = [name for name in FOLDER_SETS if OFFICIAL[name]]


def converted(name: str, values: np.ndarray) -> np.ndarray:
    """The truth map that these label values should become, pixel by pixel."""
    table = super_categories() if name == "coco-stuff27" else TABLES[name]
    return np.array([[table[int(value)] for value in row] for row in values])


def test_the_names() -> None:
    assert set(NAMES) == set(CLASSES) == set(FOLDER_SETS) | {"pocket"}


@pytest.mark.parametrize("name", FOLDER_SETS)
def test_what_was_painted_comes_back(name: str, tmp_path: Path) -> None:
    root = build_tree(name, tmp_path, images=4)
    dataset = open_dataset(name, root, part=True)
    assert (dataset.name, dataset.root, dataset.expected) == (name, str(root), OFFICIAL[name])
    assert list(dataset.ids) == tree_ids(name, 4)
    for number, id in enumerate(dataset.ids):
        truth = dataset.truth(id)
        assert truth.dtype == np.uint8
        assert np.array_equal(truth, converted(name, painted(name, number)))
        assert dataset.image(id).shape == (*truth.shape, 3)
        assert Path(dataset.file(id)) == root / image_file(name, id)
        assert len(set(truth.ravel().tolist()) - {255}) >= 2
        assert (255 in truth) == (name not in ("context60", "coco-object"))


@pytest.mark.parametrize("name", FOLDER_SETS)
def test_names_and_classes_fit_the_indices(name: str, tmp_path: Path) -> None:
    dataset = open_dataset(name, build_tree(name, tmp_path, images=1), part=True)
    assert len(dataset.names) == CLASSES[name]
    assert dataset.background == (name in WITH_BACKGROUND) == (dataset.names[0] == "background")
    assert build_vocabulary(dataset.classes, "none").names == dataset.names[dataset.background :]
    if name != "custom":
        assert dataset.classes == prompts.classes(dataset.vocabulary)


@pytest.mark.parametrize("name", sorted(CONVERTED))
def test_converted_files_give_the_same_truth(name: str, tmp_path: Path) -> None:
    raw = open_dataset(name, build_tree(name, tmp_path / "raw"), part=True)
    other = open_dataset(name, build_tree(name, tmp_path / "converted", raw=False), part=True)
    assert raw.ids == other.ids
    for id in raw.ids:
        assert np.array_equal(raw.truth(id), other.truth(id))


def test_coco_objects_from_the_json_give_the_same_truth(tmp_path: Path) -> None:
    maps = open_dataset("coco-object", build_tree("coco-object", tmp_path), part=True)
    outlines = open_dataset("coco-object", build_instances(tmp_path), part=True)
    assert maps.ids == outlines.ids
    for id in maps.ids:
        assert np.array_equal(maps.truth(id), outlines.truth(id))


def test_stuffthingmaps_may_lie_in_the_folder_of_their_archive(tmp_path: Path) -> None:
    root = build_tree("coco-stuff27", tmp_path)
    (root / "annotations").rename(root / "stuffthingmaps")
    dataset = open_dataset("coco-stuff27", root, part=True)
    assert np.array_equal(dataset.truth(dataset.ids[1]), converted("coco-stuff27", painted("coco-stuff27", 1)))


@pytest.mark.parametrize("name", sorted(CONVERTED))
def test_files_as_downloaded_come_first_unless_some_are_missing(name: str, tmp_path: Path) -> None:
    root = build_tree(name, tmp_path)
    other = build_tree(name, tmp_path / "other", raw=False, seed=1)
    shutil.copytree(other, root, dirs_exist_ok=True)  # beside one another, as mmsegmentation's conversion leaves them
    first, *_ = tree_ids(name)
    assert np.array_equal(open_dataset(name, root, part=True).truth(first), converted(name, painted(name, 0)))
    (root / label_file(name, tree_ids(name)[2])).unlink()
    assert np.array_equal(open_dataset(name, root, part=True).truth(first), converted(name, painted(name, 0, seed=1)))


def test_where_no_form_is_whole_the_first_of_which_there_is_any_is_missed(tmp_path: Path) -> None:
    root = build_tree("cityscapes", tmp_path)
    shutil.copytree(build_tree("cityscapes", tmp_path / "other", raw=False), root, dirs_exist_ok=True)
    first, second, _ = tree_ids("cityscapes")
    (root / label_file("cityscapes", first)).unlink()
    (root / label_file("cityscapes", second, raw=False)).unlink()
    with pytest.raises(ValueError, match=f"1 of 3 labels missing: .*{label_file('cityscapes', first)}\n"):
        open_dataset("cityscapes", root, part=True)


def test_a_part_of_the_images_may_have_the_whole_json(tmp_path: Path) -> None:
    root = build_instances(tmp_path)
    first, second, third = tree_ids("coco-object")
    (root / image_file("coco-object", second)).unlink()
    assert open_dataset("coco-object", root, part=True).ids == (first, third)


@pytest.mark.parametrize(("name", "raw"), [("context60", True), ("coco-object", False)])
def test_where_nothing_is_left_out_255_is_a_wrong_file(name: str, raw: bool, tmp_path: Path) -> None:
    root = build_tree(name, tmp_path, images=1, raw=raw)
    path = root / label_file(name, tree_ids(name, 1)[0], raw)
    Image.fromarray(np.full((96, 128), 255, np.uint8)).save(path)
    dataset = open_dataset(name, root, part=True)
    with pytest.raises(ValueError, match=f"{path}: label values 255 are none of this set's"):
        dataset.truth(dataset.ids[0])


@pytest.mark.parametrize("name", COUNTED)
def test_the_data_folder_of_mmsegmentation_is_a_root_too(name: str, tmp_path: Path) -> None:
    home = {
        "voc": "VOCdevkit/VOC2012", "context": "VOCdevkit/VOC2010", "coco": "coco_stuff164k",
        "ade": "ade/ADEChallengeData2016", "cityscapes": "cityscapes",
    }  # fmt: skip
    below = next(folder for start, folder in home.items() if name.startswith(start))
    (tmp_path / "data" / below).parent.mkdir(parents=True)
    build_tree(name, tmp_path, images=1).rename(tmp_path / "data" / below)
    dataset = open_dataset(name, tmp_path / "data", part=True)
    assert dataset.root == str(tmp_path / "data" / below) and len(dataset.ids) == 1


def test_a_whole_cityscapes_opens_without_being_asked_for_a_part(tmp_path: Path) -> None:
    root = build_tree("cityscapes", tmp_path, images=1)
    (id,) = tree_ids("cityscapes", 1)
    for path in (root / image_file("cityscapes", id), root / label_file("cityscapes", id)):
        for number in range(1, 500):
            os.link(path, path.with_name(path.name.replace("000000", f"{number:06d}")))
    dataset = open_dataset("cityscapes", root)
    assert len(dataset.ids) == 500 and dataset.ids[499] == "frankfurt/frankfurt_000499_000019"


@pytest.mark.parametrize("name", COUNTED)
def test_another_number_of_images_is_refused_with_the_tree(name: str, tmp_path: Path) -> None:
    root = build_tree(name, tmp_path, images=2)
    with pytest.raises(ValueError, match=f"^{name}: .*: 2 images, expected {OFFICIAL[name]}\n") as error:
        open_dataset(name, root)
    tree = str(error.value).split("\n", 1)[1]
    assert tree.startswith("expected, in the given folder, or in its ")
    assert image_file(name, "*").replace("/*_left", "/*/*_left") in tree
    assert label_file(name, "*").replace("/*_gt", "/*/*_gt") in tree


@pytest.mark.parametrize("name", FOLDER_SETS)
def test_every_half_of_a_tree_is_missed_by_name(name: str, tmp_path: Path) -> None:
    root = build_tree(name, tmp_path)
    for part in sorted(path for path in root.iterdir()):
        away = tmp_path / "away"
        part.rename(away)
        with pytest.raises(ValueError, match=f"{name}: .*: no .*{part.name}(.|\n)*expected, in the given folder"):
            open_dataset(name, root, part=True)
        away.rename(part)
    open_dataset(name, root, part=True)


@pytest.mark.parametrize("name", FOLDER_SETS)
def test_one_missing_file_is_named(name: str, tmp_path: Path) -> None:
    root = build_tree(name, tmp_path)
    id = tree_ids(name)[1]
    for kind, file in (("image", image_file(name, id)), ("label", label_file(name, id))):
        (root / file).rename(tmp_path / "away")
        written = f"images/{id}.*" if name in ("camvid", "custom") and kind == "image" else file
        with pytest.raises(ValueError, match=re.escape(f"1 of 3 {kind}s missing: {root}/{written}\n")):
            open_dataset(name, root, part=True)
        (tmp_path / "away").rename(root / file)


def test_of_many_missing_files_three_are_named(tmp_path: Path) -> None:
    root = build_tree("ade20k", tmp_path, images=6)
    for id in tree_ids("ade20k", 6)[1:]:
        (root / label_file("ade20k", id)).unlink()
    with pytest.raises(
        ValueError, match="5 of 6 labels missing: .*_00000002.png, .*_00000003.png, .*_00000004.png, ...\n"
    ):
        open_dataset("ade20k", root, part=True)


def test_an_image_that_the_json_does_not_know_has_no_labels(tmp_path: Path) -> None:
    root = build_instances(tmp_path)
    shutil.copy(root / image_file("coco-object", tree_ids("coco-object")[0]), root / "images/val2017/000000999999.jpg")
    with pytest.raises(ValueError, match="1 of 4 labels missing in .*instances_val2017.json: 000000999999\n"):
        open_dataset("coco-object", root, part=True)


def test_the_list_of_ids_counts_and_lists_each_once(tmp_path: Path) -> None:
    root = build_tree("voc21", tmp_path)
    path = root / "ImageSets/Segmentation/val.txt"
    path.write_text("2008_000001\n\n2007_000002\n")
    assert open_dataset("voc21", root, part=True).ids == ("2007_000002", "2008_000001")
    path.write_text("2007_000002\n2007_000002\n")
    with pytest.raises(ValueError, match="val.txt: lists '2007_000002' twice"):
        open_dataset("voc21", root, part=True)


def test_hidden_files_of_the_mac_are_not_images(tmp_path: Path) -> None:
    root = build_tree("ade20k", tmp_path)
    (root / "images/validation/._ADE_val_00000001.jpg").write_bytes(b"resource fork")
    (root / "annotations/validation/.DS_Store").write_bytes(b"")
    assert list(open_dataset("ade20k", root, part=True).ids) == tree_ids("ade20k")


def test_labels_converted_to_colours_are_refused(tmp_path: Path) -> None:
    root = build_tree("voc21", tmp_path)
    dataset = open_dataset("voc21", root, part=True)
    path = root / label_file("voc21", dataset.ids[0])
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(
        ValueError, match="2007_000000.png: .* got mode RGB; take the label files as downloaded, not conv"
    ):
        dataset.truth(dataset.ids[0])
    build_tree("voc21", tmp_path)
    Image.open(path).convert("L").save(path)  # the brightness of the palette's colours
    with pytest.raises(
        ValueError, match="2007_000000.png: label values .* are none of this set's; expected 0..20, 255"
    ):
        dataset.truth(dataset.ids[0])


def test_labels_of_another_size_are_refused_with_both_names(tmp_path: Path) -> None:
    root = build_tree("ade20k", tmp_path)
    dataset = open_dataset("ade20k", root, part=True)
    path = root / label_file("ade20k", dataset.ids[0])
    Image.open(path).resize((64, 48), Image.Resampling.NEAREST).save(path)
    message = "ADE_val_00000001.png: labels of 64 x 48, but .*ADE_val_00000001.jpg has 128 x 96 "
    with pytest.raises(ValueError, match=message):
        dataset.truth(dataset.ids[0])


def test_damaged_files_are_named(tmp_path: Path) -> None:
    root = build_tree("cityscapes", tmp_path)
    dataset = open_dataset("cityscapes", root, part=True)
    first, second, _ = dataset.ids
    path = root / label_file("cityscapes", first)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=f"{path}: cannot be read as an index map"):
        dataset.truth(first)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{path}: cannot be read as an index map"):
        dataset.truth(first)
    (root / image_file("cityscapes", second)).write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"{image_file('cityscapes', second)}: not a JPEG"):
        dataset.image(second)


# --- a data set of one's own


def own(root: Path, values: np.ndarray, classes: str = "cat\ndog\n", image: Image.Image | None = None) -> Path:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text(classes)
    (image or Image.new("RGB", values.shape[::-1])).save(root / "images/one.jpg")
    Image.fromarray(values).save(root / "labels/one.png")
    return root


def test_custom_with_and_without_background(tmp_path: Path) -> None:
    values = np.array([[0, 1, 255], [1, 1, 0]], np.uint8)
    plain = open_dataset("custom", own(tmp_path / "a", values))
    assert (plain.names, plain.background, plain.classes) == (("cat", "dog"), False, ("cat", "dog"))
    other = open_dataset("custom", own(tmp_path / "b", values, "Background\ncat ;  small cat # one\n"))
    assert (other.names, other.background) == (("background", "cat"), True)
    assert (other.classes, other.vocabulary) == (("cat; small cat",), "classes.txt")
    assert np.array_equal(plain.truth("one"), values) and np.array_equal(other.truth("one"), values)


def test_custom_leaves_out_the_value_that_is_given(tmp_path: Path) -> None:
    root = own(tmp_path, np.array([[0, 1, 9]], np.uint8))
    assert open_dataset("custom", root, ignore=9).truth("one").tolist() == [[0, 1, 255]]
    with pytest.raises(ValueError, match=r"labels/one.png: label values 9 are none of this set's; expected 0..1, 255"):
        open_dataset("custom", root).truth("one")
    wide = own(tmp_path / "wide", np.array([[0, 1, 65535, 0]], np.uint16))
    assert open_dataset("custom", wide, ignore=65535).truth("one").tolist() == [[0, 1, 255, 0]]


def test_custom_where_0_is_no_class_counts_the_classes_from_1(tmp_path: Path) -> None:
    root = own(tmp_path / "zero", np.array([[0, 1, 2]], np.uint8))
    dataset = open_dataset("custom", root, ignore=0)
    assert dataset.names == ("cat", "dog") and dataset.truth("one").tolist() == [[255, 0, 1]]
    Image.fromarray(np.array([[0, 3, 255]], np.uint8)).save(root / "labels/one.png")
    message = r"label values 3, 255 are none of this set's; expected 0..2 \(left out: 0\)$"
    with pytest.raises(ValueError, match=message):
        dataset.truth("one")
    (root / "labels/one.png").unlink()
    tree = "1 = the first class of classes.txt, 2 = the second, ..., 0 = left out"
    with pytest.raises(ValueError, match=tree):
        open_dataset("custom", root, ignore=0)


@pytest.mark.parametrize(
    ("classes", "ignore", "message"),
    [
        ("background\ncat\n", 0, "^ignore: 0: then label value 1 is the first class of .*, which is 'background'; if"),
        ("Unlabelled\ncat\n", 0, "^ignore: 0: then label value 1 is the first class of .*, which is 'Unlabelled'; if"),
        ("cat\ndog\n", 1, "^ignore: 1: is the class 'dog' of .*classes.txt; expected 2 or more, or 0, which makes"),
        ("background\ncat\nox; bull\n", 2, "^ignore: 2: is the class 'ox' of .*classes.txt; expected 3 or more"),
    ],
)
def test_custom_leaves_out_no_class_unasked(tmp_path: Path, classes: str, ignore: int, message: str) -> None:
    root = own(tmp_path, np.array([[0, 1, 1]], np.uint8), classes)
    with pytest.raises(ValueError, match=message):
        open_dataset("custom", root, ignore=ignore)
    assert open_dataset("custom", root, ignore=3).truth("one").tolist() == [[0, 1, 1]]


def test_a_root_given_from_here_is_recorded_for_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = own(tmp_path / "mine", np.array([[0, 1]], np.uint8))
    absolute = open_dataset("custom", root)
    monkeypatch.chdir(tmp_path)
    for given in ("mine", "./mine/", "mine/../mine"):
        dataset = open_dataset("custom", given)
        assert (dataset.root, dataset.file("one")) == (absolute.root, absolute.file("one"))
    monkeypatch.chdir("/")
    assert dataset.file("one") == str(root / "images/one.jpg") and dataset.truth("one").tolist() == [[0, 1]]


def test_custom_labels_of_a_photo_that_was_held_upright(tmp_path: Path) -> None:
    photo = Image.new("RGB", (40, 20))  # as stored; shown turned by a quarter
    exif = photo.getexif()
    exif[0x0112] = 6
    root = own(tmp_path, np.zeros((40, 20), np.uint8))
    photo.save(root / "images/one.jpg", exif=exif)
    dataset = open_dataset("custom", root)
    assert dataset.truth("one").shape == dataset.image("one").shape[:2] == (40, 20)
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(root / "labels/one.png")  # of a tool that ignores EXIF
    with pytest.raises(ValueError, match="labels of 40 x 20, but .*one.jpg has 20 x 40"):
        open_dataset("custom", root).truth("one")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "classes.txt: holds no class"),
        ("cat\ncat\n", "classes.txt, line 2: 'cat' was given before"),
        ("background\n", "classes.txt: no class besides the background"),
        ("background; wall\ncat\n", "classes.txt: the background has aliases; leave them out"),
        ("\n".join(f"c{n}" for n in range(256)), "classes.txt: 256 classes, at most 255"),
    ],
)
def test_custom_class_lists_that_cannot_be(tmp_path: Path, classes: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_dataset("custom", own(tmp_path, np.zeros((4, 4), np.uint8), classes))


def test_two_images_of_one_id_are_refused(tmp_path: Path) -> None:
    root = own(tmp_path, np.zeros((4, 4), np.uint8))
    Image.new("RGB", (4, 4)).save(root / "images/one.png")
    with pytest.raises(ValueError, match="one.jpg and .*one.png have the same id 'one'; rename one"):
        open_dataset("custom", root)


def test_two_images_of_one_id_do_not_stop_the_rest_of_a_part(tmp_path: Path) -> None:
    root = own(tmp_path, np.zeros((4, 4), np.uint8))
    Image.new("RGB", (4, 4)).save(root / "images/one.png")
    Image.new("RGB", (4, 4)).save(root / "images/two.jpg")
    Image.new("L", (4, 4)).save(root / "labels/two.png")
    dataset = open_dataset("custom", root, partial=True)
    assert dataset.ids == ("two",) and "have the same id 'one'" in dataset.lacking


def test_linked_folders_are_followed_and_what_is_not_read_is_said(tmp_path: Path, capsys) -> None:
    root = own(tmp_path, np.zeros((4, 4), np.uint8))
    for kind in ("images", "labels"):
        (tmp_path / "elsewhere" / kind).mkdir(parents=True)
        (root / kind / "linked").symlink_to(tmp_path / "elsewhere" / kind)
    Image.new("RGB", (4, 4)).save(tmp_path / "elsewhere/images/two.jfif", format="JPEG")
    Image.new("L", (4, 4)).save(tmp_path / "elsewhere/labels/two.png")
    (root / "images/three.cr2").write_bytes(b"raw")
    dataset = open_dataset("custom", root)
    assert dataset.ids == ("linked/two", "one") and dataset.truth("linked/two").shape == (4, 4)
    assert dataset.notes == (
        f"left out, camera raw is not read: develop it to JPEG or TIFF: {root / 'images/three.cr2'}",
    )
    assert check("custom", root)
    assert f"custom: {dataset.notes[0]}\n" in capsys.readouterr().out


# --- the pocket world


def test_pocket_scenes_are_those_of_the_world() -> None:
    dataset = open_dataset("pocket", None)
    assert dataset.root == "world3/evaluation/0" and dataset.names == dataset.classes == POCKET_NAMES
    assert len(dataset.ids) == 200 and dataset.ids == tuple(sorted(dataset.ids)) and not dataset.background
    assert dataset.ids[17] == "world3-evaluation-0-000017"
    assert dataset.file(dataset.ids[17]) == "pocket:world3/evaluation/0/17"
    other = open_dataset("pocket", "tuning/12")
    expected = scene("tuning", 12, 3)
    assert np.array_equal(other.image("world3-tuning-12-000003"), expected.image)
    assert np.array_equal(other.truth(other.ids[3]), expected.labels)
    held_out = open_dataset("pocket", "world2/heldout/12")
    assert np.array_equal(held_out.image(held_out.ids[3]), scene("heldout", 12, 3, world=2).image)


# --- mistakes in the call


@pytest.mark.parametrize(
    ("root", "message"),
    [
        *((text, "expected WORLD/SPLIT/SEED such as .*got") for text in ("", "tuning", "tuning/", "tuning/-1")),
        *((text, "expected WORLD/SPLIT/SEED such as .*got") for text in ("tuning/0/1", "/data/pocket", "2/tuning/0")),
        ("validation/0", "world3 has the splits train, tuning, evaluation, heldout, got 'validation/0'"),
        ("world1/heldout/0", "world1 has the splits train, tuning, evaluation, got 'world1/heldout/0'"),
        ("world4/tuning/0", "expected one of world1, world2, world3, got 'world4/tuning/0'"),
    ],
)
def test_pocket_takes_a_world_a_split_and_a_seed(root: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^root: pocket: {message}"):
        open_dataset("pocket", root)


def test_mistakes_in_the_call(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown data set 'voc', expected one of voc21, voc20, .*, pocket, custom$"):
        open_dataset("voc", tmp_path)
    with pytest.raises(
        ValueError, match="^root: voc21 needs the folder it lies in\nexpected, .*VOC2012:\n  JPEGImages"
    ):
        open_dataset("voc21", None)
    with pytest.raises(ValueError, match="^root: custom needs the folder it lies in\nexpected, in the given folder:\n"):
        open_dataset("custom", None)
    with pytest.raises(ValueError, match="^root: .*nowhere: no such folder$"):
        open_dataset("voc21", tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="^root: .*file: not a folder$"):
        open_dataset("voc21", tmp_path / "file")
    with pytest.raises(ValueError, match="^ignore: is for custom data sets; the label values of voc21 are fixed"):
        open_dataset("voc21", tmp_path, ignore=0)
    with pytest.raises(ValueError, match="^ignore: expected a label value from 0 to 65535, got -1"):
        open_dataset("custom", tmp_path, ignore=-1)


def test_no_network_library_is_loaded() -> None:
    code = (
        "import sys, ovseg.eval.datasets, ovseg.eval.check; print('torch' in sys.modules, 'pycocotools' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "False"]
