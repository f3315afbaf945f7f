"""`ovseg eval check`: what it says of whole, half and wrong data sets, and its exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import FOLDER_SETS, build_instances, build_tree, image_file, label_file, tree_ids
from PIL import Image
from test_datasets import OFFICIAL

from ovseg.cli import main
from ovseg.eval.check import SAMPLE, check


def test_a_whole_set_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = build_tree("camvid", tmp_path)
    assert check("camvid", root)
    assert capsys.readouterr().out == (
        f"camvid: complete: 3 images with labels (labels/**/*.png) in {root}; 3 label files looked into\n"
    )
    assert check("custom", build_tree("custom", tmp_path))
    assert check("pocket", None)
    assert capsys.readouterr().out.endswith(
        "\npocket: complete: 200 scenes of world3/evaluation/0, painted when they are asked for\n"
    )


def test_a_whole_benchmark_is_complete_by_its_official_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = build_tree("cityscapes", tmp_path, images=1)
    (id,) = tree_ids("cityscapes", 1)
    for path in (root / image_file("cityscapes", id), root / label_file("cityscapes", id)):
        for number in range(1, 500):
            os.link(path, path.with_name(path.name.replace("000000", f"{number:06d}")))
    assert check("cityscapes", root)
    printed = capsys.readouterr().out
    assert printed.startswith("cityscapes: complete: 500 images") and f"{SAMPLE} label files looked into" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("name", [name for name in FOLDER_SETS if name not in ("camvid", "custom")])
def test_too_few_images_are_counted_and_the_tree_is_printed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not check(name, build_tree(name, tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{name}: incomplete or wrong, in ")
    assert lines[1].startswith("  images ") and lines[1].endswith(f": 3 of {OFFICIAL[name]}")
    assert lines[2].startswith("  labels ") and lines[2].endswith(f": 3 of {OFFICIAL[name]}")
    assert any(line.startswith("expected, in the given folder") for line in lines)


def test_missing_files_and_wrong_values_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = build_tree("camvid", tmp_path, images=4)
    first, second, third, _ = tree_ids("camvid", 4)
    (root / image_file("camvid", first)).unlink()
    (root / label_file("camvid", second)).unlink()
    wrong = root / label_file("camvid", third)
    Image.fromarray(np.full((128, 96), 37, np.uint8)).save(wrong)
    assert not check("camvid", root)
    printed = capsys.readouterr().out
    assert "\n  images images/**/*: 3\n  labels labels/**/*.png: 3\n" in printed
    assert f"1 of 4 images missing: {root}/images/{first}.*\n" in printed
    assert f"1 of 4 labels missing: {root}/labels/{second}.png" in printed
    assert f"{wrong}: label values 37 are none of this set's; expected 0..11" in printed


def test_a_part_is_enough_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, (first, second, _) = build_tree("voc21", tmp_path), tree_ids("voc21")
    (root / label_file("voc21", first)).unlink()
    assert not check("voc21", root)
    capsys.readouterr()
    assert check("voc21", root, partial=True)
    printed = capsys.readouterr().out
    assert printed.startswith("voc21: 2 images of a part of the data set: 1 of 3 labels missing: ")
    assert "3 images, expected 1449" in printed and printed.count("\n") == 1
    assert printed.endswith(f"; of SegmentationClass/*.png in {root} 2 files looked into\n")
    Image.fromarray(np.full((128, 96), 37, np.uint8)).save(root / label_file("voc21", second))
    assert main(["eval", "check", "voc21", "--root", str(root), "--partial"]) == 1
    assert f"{root / label_file('voc21', second)}: label values 37" in capsys.readouterr().out
    for path in root.glob("SegmentationClass/*.png"):
        path.unlink()
    assert main(["eval", "check", "voc21", "--root", str(root), "--partial"]) == 1
    assert "no labels: no SegmentationClass/*.png" in capsys.readouterr().out


def test_nothing_there_and_objects_from_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not check("coco-object", tmp_path)
    printed = capsys.readouterr().out
    assert "no images: no images/val2017/*.jpg\n" in printed and "or annotations/instances_val2017.json\n" in printed
    assert not check("coco-object", build_instances(tmp_path))  # for there are three
    assert "labels annotations/instances_val2017.json: 3 of 5000\n" in capsys.readouterr().out


def test_mistakes_in_the_call_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown data set 'coco'"):
        check("coco", tmp_path)
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        check("voc21", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="^ignore: is for custom"):
        check("voc21", tmp_path, ignore=3)


def test_the_command_itself(tmp_path: Path) -> None:
    build_tree("camvid", tmp_path)
    for name, root, code in (("camvid", tmp_path, 0), ("ade20k", tmp_path, 1), ("nothing", tmp_path, 2)):
        command = [sys.executable, "-m", "ovseg", "eval", "check", name, "--root", str(root)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert bool(done.stderr) == (code == 2)
