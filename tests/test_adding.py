"""One more export format and one more data set: a function or a row, and an entry in a dict. For mask sources, dense
variants, towers and presets see test_masks.py and test_towers.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import write_run

from ovseg.cli import main
from ovseg.eval import label_rules
from ovseg.eval.datasets import open_dataset
from ovseg.eval.layouts import LAYOUTS, Labels, Layout
from ovseg.export import WRITERS, ImageSet


def write_counts(images: ImageSet, folder: Path) -> None:
    """An export format: how many pixels each class has, a text file an image."""
    for image in images:
        lines = [f"{images.names[region.index]} {region.mask.sum()}" for region in image.regions()]
        (folder / f"{image.id}.txt").write_text("\n".join(lines), encoding="utf-8")


def test_an_export_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", {"a": np.array([[0, 1, 1], [0, 0, 1]])}, ("sky", "grass"))
    monkeypatch.setitem(WRITERS, "counts", write_counts)
    assert main(["export", str(run), "--format", "counts", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/counts/a.txt").read_text() == "sky 3\ngrass 3"


def test_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    labels = (Labels("truth/*.png", label_rules.indices(19, ignored=[255]), "0..18, 255 = left out"),)
    monkeypatch.setitem(LAYOUTS, "street", Layout("street", "photos/*.jpg", labels, vocabulary="cityscapes"))
    for name in ("photos", "truth"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "photos/one.jpg")
    Image.fromarray(np.array([[0, 18, 255, 1]] * 3, np.uint8)).save(tmp_path / "truth/one.png")
    dataset = open_dataset("street", tmp_path)
    assert dataset.ids == ("one",) and dataset.names[0] == "road"
    assert dataset.truth("one").tolist() == [[0, 18, 255, 1]] * 3
    assert main(["eval", "check", "street", "--root", str(tmp_path)]) == 0
    assert "street: complete: 1 images" in capsys.readouterr().out
