"""The scoring command on run folders small enough to score by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.confusion import scores
from eval.score import confusions, interval

TRUTH = {"a": [[0, 0], [1, 1]], "b": [[0, 1], [255, 1]]}
GIVEN = {"a": [[0, 0], [1, 0]], "b": [[0, 1], [0, 1]]}  # one pixel of seven wrong
MASKS = {"a": [[4, 4], [9, 9]], "b": [[0, 0], [0, 0]]}  # the second image is one mask: its 0 is lost


def write(folder: Path, maps: dict[str, list], **document: object) -> Path:
    folder.mkdir()
    for one, pixels in maps.items():
        Image.fromarray(np.array(pixels, np.uint8)).save(folder / f"{one}.png")
    ids = {one: {"state": "done"} for one in maps}
    (folder / "run.json").write_text(json.dumps({"ids": ids, **document}), encoding="utf-8")
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    write(tmp_path / "truth", TRUTH)
    write(tmp_path / "labels", GIVEN, names=["cat", "dog"])
    write(tmp_path / "masks", MASKS)
    (tmp_path / "classes.txt").write_text("cat; kitten\ndog\n", encoding="utf-8")
    return tmp_path


def score(folders: Path, run: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eval.score", str(folders / run), "--labels", str(folders / "truth")]
    command += ["--classes", str(folders / "classes.txt"), *more]
    return subprocess.run(command, capture_output=True, text=True)


def test_labels_by_hand(folders: Path):
    done = score(folders, "labels")
    # cat: 3 of 4 pixels in the union, dog: 3 of 4; 6 of 7 pixels right.
    assert done.returncode == 0 and "mIoU 75.00" in done.stdout and "pixel accuracy 85.71" in done.stdout


def test_best_label_by_hand_and_its_lead(folders: Path):
    write(folders / "pixels", {one: [[0, 1], [2, 3]] for one in TRUTH})  # a mask a pixel: nothing is lost
    done = score(folders, "pixels", "--best-label", "--against", str(folders / "masks"))
    # Image b as one mask has two dogs and a cat: cat 2 of 3, dog 4 of 5, so (66.67 + 80) / 2 = 73.33.
    assert "mIoU 100.00" in done.stdout and "+26.67" in done.stdout


def test_mistakes_cost_one_line(folders: Path):
    other_names = write(folders / "other", GIVEN, names=["dog", "cat"])
    fewer = write(folders / "fewer", {"a": MASKS["a"]})
    started = write(folders / "started", GIVEN, names=["cat", "dog"])
    document = json.loads((started / "run.json").read_text())
    document["ids"]["b"]["state"] = "failed"
    (started / "run.json").write_text(json.dumps(document))
    for run, more, said in (
        (other_names.name, (), "names"),
        ("masks", ("--best-label", "--against", str(fewer)), "other images"),
        (started.name, (), "not done"),
        ("nowhere", (), "nowhere"),
    ):
        done = score(folders, run, *more)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_interval_holds_the_value_and_closes_on_equal_images(folders: Path):
    matrices = confusions(folders / "labels", folders / "truth", ["cat", "dog"], best_label=False)
    low, high = interval(matrices)
    assert low <= scores(matrices.sum(0)).mIoU <= high
    assert interval(np.stack([matrices[0]] * 5))[0] == pytest.approx(interval(np.stack([matrices[0]] * 5))[1])
    assert interval(matrices, matrices) == (0, 0)
