"""Anyone's predictions, scored: index maps in a folder without a record."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import blobs

from ovseg.cli import main
from ovseg.eval import score
from ovseg.eval.confusion import confusion_matrix, scores
from ovseg.eval.latex import escaped

CLASSES = ("background", "cat", "dog; puppy", "horse")
L = len(CLASSES)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A custom data set of three images, in which horses are in no label."""
    root = tmp_path / "data"
    for number, id in enumerate(("a", "sub/b", "sub/c")):
        for kind in ("images", "labels"):
            (root / kind / id).parent.mkdir(parents=True, exist_ok=True)
        truth = blobs(number, 20, 30, [0, 1, 2, 255]).astype(np.uint8)
        Image.fromarray(truth).save(root / f"labels/{id}.png")
        Image.new("RGB", (30, 20)).save(root / f"images/{id}.jpg")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def truth(tree: Path, id: str) -> np.ndarray:
    return np.array(Image.open(tree / f"labels/{id}.png"))


def predicted(number: int) -> np.ndarray:
    return blobs(number + 10, 20, 30, [0, 1, 2, 3, 255])


def write(folder: Path, maps: dict[str, np.ndarray], ending: str = ".png") -> Path:
    for id, indices in maps.items():
        path = folder / f"{id}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == ".npy":
            np.save(path, indices)
        else:
            Image.fromarray(indices.astype(np.uint8)).save(path)
    return folder


MAPS = {id: predicted(number) for number, id in enumerate(("a", "sub/b", "sub/c"))}


def by_the_field(tree: Path, maps: dict[str, np.ndarray]) -> float:
    """mIoU as mmsegmentation's IoUMetric has it: histograms of intersection, prediction and label, nanmean of the
    ratios; a prediction outside the classes is in no histogram of predictions, its label counts."""
    both, ours, theirs = (np.zeros(L) for _ in range(3))
    for id, indices in maps.items():
        label = truth(tree, id)
        valid = label != 255
        label, indices = label[valid].astype(int), indices[valid]
        both += np.histogram(label[label == indices], bins=L, range=(0, L - 1))[0]
        ours += np.histogram(indices[(indices >= 0) & (indices < L)], bins=L, range=(0, L - 1))[0]
        theirs += np.histogram(label, bins=L, range=(0, L - 1))[0]
    with np.errstate(invalid="ignore"):
        return float(100 * np.nanmean(both / (ours + theirs - both)))


@pytest.mark.parametrize("ending", [".png", ".npy"])
def test_plain_maps_are_scored_as_the_field_scores_them(tree: Path, tmp_path: Path, ending: str, capsys) -> None:
    folder = write(tmp_path / "theirs", MAPS, ending)
    assert main(["eval", "score", "custom", "--root", str(tree), "--predictions", str(folder)]) == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["metrics"]["mIoU"] == pytest.approx(by_the_field(tree, MAPS))
    assert results["counts"] == {"scored": 3, "undertaken": 3, "dataset": 3, "corrected": 0}
    assert results["predicted_but_absent"] == ["horse"]
    without = np.nanmean([row["IoU"] for row in results["classes"] if row["name"] != "horse"])
    shown = capsys.readouterr().out
    assert f"predicted, but in no label here: horse; IoU 0 each in the mean, {without:.2f} without them" in shown


def test_a_row_an_image_and_a_table_for_a_paper(tree: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "their_maps", MAPS)
    score("custom", folder, tree, out=tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out/images.csv").open()))
    assert [row["id"] for row in rows] == list(MAPS)
    for row, (id, indices) in zip(rows, MAPS.items(), strict=True):
        found = scores(confusion_matrix(truth(tree, id), indices, L))
        assert float(row["mIoU"]) == pytest.approx(found.mIoU, abs=1e-4)
        assert float(row["pixel_accuracy"]) == pytest.approx(found.pixel_accuracy, abs=1e-4)
        assert int(row["pixels"]) == (truth(tree, id) != 255).sum()
    tex = (tmp_path / "out/table.tex").read_text()
    assert r"their\_maps & " in tex and r" 3 of 3 & " in tex and tex.count("{") == tex.count("}")
    body = tex[tex.index(r"\toprule") : tex.index(r"\bottomrule")]
    assert {line.count("&") for line in body.splitlines() if line.endswith(r"\\")} == {body.splitlines()[1].count("&")}
    assert escaped(r"a_b\50% ~{x}") == r"a\_b\textbackslash{}50\% \textasciitilde{}\{x\}"


def test_names_say_what_the_indices_mean(tree: Path, tmp_path: Path, capsys) -> None:
    order = ["Puppy", "sofa", "cat", "background"]  # an alias, a stranger, another order
    places = {2: 0, 1: 2, 0: 3}
    maps = {
        id: np.where(indices == 3, 1, np.vectorize(lambda index: places.get(index, 255))(indices))
        for id, indices in MAPS.items()
    }
    (tmp_path / "names.txt").write_text("\n".join(order))
    folder = write(tmp_path / "theirs", maps)
    arguments = ["eval", "score", "custom", "--root", str(tree), "--predictions", str(folder)]
    assert main([*arguments, "--names", str(tmp_path / "names.txt"), "--out", str(tmp_path / "out")]) == 0
    assert "note: 1 of 4 names are no class of custom, so wrong there: sofa" in capsys.readouterr().err
    found = json.loads((tmp_path / "out/results.json").read_text())["metrics"]["mIoU"]
    own = {id: np.where(indices == 3, 255, indices) for id, indices in MAPS.items()}
    assert found == pytest.approx(by_the_field(tree, own))
    assert score("custom", folder, tree, names=order)[0].metrics["mIoU"] == found


def test_masks_of_anyone_are_scored_by_best_labels(tree: Path, tmp_path: Path) -> None:
    maps = {id: np.arange(600).reshape(20, 30) // 3 for id in MAPS}
    (result,) = score("custom", write(tmp_path / "theirs", maps, ".npy"), tree, best_label=True)
    assert 0 < result.metrics["mIoU"] < 100 and result.metrics["boundary_F"] > 0


def test_ids_may_stand_by_their_last_part_and_other_files_are_said(tree: Path, tmp_path: Path, capsys) -> None:
    folder = write(tmp_path / "theirs", {id.rpartition("/")[2]: indices for id, indices in MAPS.items()})
    Image.new("L", (3, 2)).save(folder / "thumb.png")
    (result,) = score("custom", folder, tree)
    assert result.metrics["mIoU"] == pytest.approx(by_the_field(tree, MAPS))
    assert f"left out: 1 files of {folder} that are no image of custom, such as thumb.png" in capsys.readouterr().err
    write(folder, {"sub/b": MAPS["a"]})
    with pytest.raises(ValueError, match=r"b\.png and .*sub/b\.png are both predictions of sub/b; remove one"):
        score("custom", folder, tree)


def test_a_part_is_scored_as_a_part(tree: Path, tmp_path: Path) -> None:
    part = {"sub/c": MAPS["sub/c"]}
    (result,) = score("custom", write(tmp_path / "theirs", part), tree, out=tmp_path / "out")
    assert result.metrics["mIoU"] == pytest.approx(by_the_field(tree, part))
    text = (tmp_path / "out/table.md").read_text()
    assert "1 of 3" in text and "not all images of the data set were undertaken" in text


def test_mistakes_cost_one_line(tree: Path, tmp_path: Path, capsys) -> None:
    def said(maps: dict[str, np.ndarray] | None, ending: str = ".png", *more: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        write(folder, maps or {}, ending)
        capsys.readouterr()
        arguments = ["eval", "score", "custom", "--root", str(tree), "--predictions", str(folder), *more]
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    (tmp_path / "names.txt").write_text("sofa\nlamp")
    assert "neither a run nor predictions of an image of custom; expected a.png or .npy, ..." in said(None)
    assert "a.png: holds index 7, expected 0..3, of the data set's classes, or 255 (none)" in said(
        {"a": np.full((20, 30), 7)}
    )
    assert "a.png: is of 3x2 pixels, the labels of this image are 30x20" in said({"a": np.zeros((2, 3))})
    assert "a.npy: holds index -2" in said({"a": np.full((20, 30), -2)}, ".npy")
    assert "a.npy: expected integers of shape (H, W), got float64 of shape (20, 30)" in said(
        {"a": np.zeros((20, 30))}, ".npy"
    )
    assert "a.npy: cannot be read as an array" in said({"a": np.array([{}])}, ".npy")
    assert "--names: none of the 2 is a class of custom, such as 'background'" in said(
        {"a": MAPS["a"]}, ".png", "--names", str(tmp_path / "names.txt")
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text('{"format": "ovseg run 1", "ids": {}}')
    arguments = ["--predictions", str(tmp_path / "run"), "--names", str(tmp_path / "names.txt")]
    assert main(["eval", "score", "custom", "--root", str(tree), *arguments]) == 2
    assert "--names: are for predictions without a record" in capsys.readouterr().err
