"""Reports that know the truth: what is right of each image, by other readers than the page's own."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import blobs, write_run
from test_report import Page, unpack

from ovseg.cli import main
from ovseg.report import write_report
from ovseg.report.errors import scores, truth_in

NAMES = ("background", "cat", "dog")
VALUES = [0, 1, 2, 255]


def written(
    tmp_path: Path, names: tuple[str, ...] = NAMES
) -> tuple[Path, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A run of three images, what it says, and what is true, in `labels` below a data set of the images."""
    said = {id: blobs(number, 20, 30, VALUES) for number, id in enumerate(("a", "sub/b", "sub/c"))}
    true = {
        id: np.where(blobs(9, 20, 30, [0, 1]) == 1, labels, blobs(7, 20, 30, VALUES)) for id, labels in said.items()
    }
    sources = {id: tmp_path / f"data/images/{id}.png" for id in said}
    for id, labels in true.items():
        for path, content in ((sources[id], np.zeros((20, 30, 3))), (tmp_path / f"data/labels/{id}.png", labels)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content.astype(np.uint8)).save(path)
    (tmp_path / "data/classes.txt").write_text("\n".join(NAMES))
    return write_run(tmp_path / "run", said, NAMES, sources=sources), said, true


def test_an_images_scores_by_hand() -> None:
    labels, truth = np.uint8([0, 0, 1, 255, 2]), np.uint8([0, 1, 1, 1, 0])
    # right: 2 of 5; IoU of 0: 1 of 3; of 1: 1 of 3; of 2: 0 of 1
    assert scores(labels, truth, 4) == {"known": 5, "right": 0.4, "mIoU": round(2 / 9, 6)}
    assert scores(labels[:0], truth[:0], 4) == {"known": 0, "right": None, "mIoU": None}


def test_the_page_holds_the_truth_and_evaluations_own_scores(tmp_path: Path, capsys) -> None:
    run, said, true = written(tmp_path)
    command = ["eval", "score", "custom", "--root", str(tmp_path / "data"), "--predictions", str(run), "--report"]
    assert main(command) == 0
    assert f"{run / 'report.html'}: where labels are wrong" in capsys.readouterr().out
    page = Page(run / "report.html")
    with (run / "images.csv").open() as file:
        expected = {row["id"]: row for row in csv.DictReader(file)}
    for number, row in enumerate(page.data["images"]):
        own = expected[row["id"]]
        assert 100 * row["right"] == pytest.approx(float(own["pixel_accuracy"]), abs=1e-3)
        assert 100 * row["mIoU"] == pytest.approx(float(own["mIoU"]), abs=1e-3)
        assert (unpack(page.image(number)["maps"]["truth"]) == true[row["id"]]).all()
        known = true[row["id"]] != 255
        assert row["right"] == pytest.approx((said[row["id"]] == true[row["id"]])[known].mean(), abs=1e-6)
    assert page.data["summary"][-1].endswith("% of pixels right")
    assert main(["report", str(run), "--truth", str(tmp_path / "data/labels"), "--overwrite"]) == 0
    again = Page(run / "report.html")
    assert again.data["images"] == page.data["images"] and again.image(1) == page.image(1)
    for flags, reason in ((["--best-label"], "shows a run's labels"), (["--uncorrected"], "shows a run's labels")):
        assert main([*command, *flags]) == 2
        assert reason in capsys.readouterr().err


def test_what_is_not_true_is_said(tmp_path: Path, capsys) -> None:
    run, _, _ = written(tmp_path)
    labels = tmp_path / "data/labels"
    (labels / "sub/c.png").unlink()
    report = ["report", str(run), "--truth", str(labels), "--overwrite"]

    def problems() -> str:
        return str(Page(run / "report.html").data["problems"])

    assert main(report) == 0
    assert f"1 images have no true labels in {labels}" in capsys.readouterr().err
    Image.new("L", (30, 21)).save(labels / "sub/b.png")
    assert main(report) == 1
    assert "truth of sub/b: is of 30 x 21 pixels, the labels of 30 x 20" in problems()
    Image.new("L", (30, 20), 9).save(labels / "sub/b.png")
    assert main(report) == 1
    assert "truth of sub/b: holds index 9, expected 0..2 or 255" in problems()
    (tmp_path / "empty").mkdir()
    for truth, reason in (("none", "none: no such folder"), ("empty", "none of the run's 3 images has true labels")):
        assert main(["report", str(run), "--truth", str(tmp_path / truth), "--overwrite"]) == 2
        assert reason in capsys.readouterr().err
    with pytest.raises(ValueError, match="no such folder"):
        truth_in(tmp_path / "none")
    (run / "run.json").write_text((run / "run.json").read_text().replace('"names"', '"nomes"'))
    with pytest.raises(ValueError, match="holds masks without names, which have no errors"):
        write_report(run, truth=truth_in(labels), overwrite=True)
