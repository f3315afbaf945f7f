"""Scoring run folders small enough to score by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.eval.boundaries import boundary_counts
from ovseg.eval.confusion import confusion_matrix, scores
from ovseg.eval.datasets import open_dataset
from ovseg.eval.scored import Scored
from ovseg.eval.scoring import score_and_show, score_run
from ovseg.run.corrections import mark_reviewed, save

TRUTH = {"a": [[0, 0], [1, 1]], "b/c": [[0, 1], [255, 1]]}
LABELS = {"a": [[0, 0], [1, 0]], "b/c": [[0, 1], [0, 1]]}  # one pixel of seven wrong
MASKS = {"a": [[4, 4], [9, 9]], "b/c": [[0, 0], [0, 0]]}  # the second image is one mask: its 0 is lost
FACTS = {
    "command": "eval predict",
    "by": "none",
    "names": ["cat", "dog"],
    "no_label": 255,
    "protocol": {"name": "sclip"},
    "view": {"variant": "naclip"},
    "vocabulary": "classes.txt",
    "vocabulary_sha256": "abc",
    "preset": "vitb16",
    "models": {"clip": "some/model"},
    "options": {"masks": 20},
}


@dataclass(frozen=True)
class Truth:
    """A data set in memory."""

    maps: dict[str, np.ndarray]
    names: tuple[str, ...] = ("cat", "dog")
    more: tuple[str, ...] = ("z",)  # ids that no run undertook
    name: str = "custom"
    vocabulary: str = "classes.txt"
    root: str = "somewhere"
    expected: int | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(sorted([*self.maps, *self.more]))

    def truth(self, id: str) -> np.ndarray:
        return np.array(self.maps[id], np.uint8)


DATASET = Truth({id: np.array(pixels) for id, pixels in TRUTH.items()})


def write_run(folder: Path, maps: dict[str, list], suffix: str = ".png", **facts: object) -> Path:
    """A run folder with these index maps, all done."""
    for id, pixels in maps.items():
        path = folder / f"{id}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array(pixels, np.uint8)).save(path)
    ids = {id: {"file": f"{id}.jpg", "state": "done", "seconds": 1.0} for id in maps}
    record = {"format": "ovseg run 1", **FACTS, **facts, "versions": {"ovseg": "1"}, "timings": {}, "ids": ids}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def change(run: Path, **facts: object) -> Path:
    """The same run with other facts in its record."""
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, **facts}), encoding="utf-8")
    return run


def test_labels_by_hand(tmp_path):
    scored = score_run(write_run(tmp_path, LABELS), DATASET)
    # cat: 3 of 4 pixels in the union, dog: 3 of 4; 6 of 7 pixels right; cats found 3 of 3, dogs 3 of 4.
    assert scored.confusion.tolist() == [[3, 0, 0], [1, 3, 0]]
    metrics = {"mIoU": 75, "pixel_accuracy": 600 / 7, "mean_accuracy": 87.5, "fwIoU": 75, "boundary_IoU": 75}
    assert scored.metrics == pytest.approx(metrics)  # in images this small every pixel is at a boundary
    assert scored.ids == ("a", "b/c") and scored.images == 3


def test_best_label_by_hand_and_its_lead(tmp_path):
    masks = score_run(write_run(tmp_path / "masks", MASKS, ".masks.png"), DATASET, best_label=True)
    # Image b/c as one mask has two dogs and a cat: cat 2 of 3, dog 4 of 5. It has no boundary, image a has the truth's.
    assert masks.metrics["mIoU"] == pytest.approx((200 / 3 + 80) / 2)
    assert masks.image_boundary_f.tolist() == [100, 0] and masks.metrics["boundary_F"] == 50
    pixels = {id: [[0, 1], [2, 3]] for id in TRUTH}  # a mask a pixel: nothing is lost
    every_pixel = score_run(write_run(tmp_path / "pixels", pixels, command="masks"), DATASET, best_label=True)
    assert every_pixel.metrics["mIoU"] == 100
    lead, low, high = every_pixel.lead(masks)
    assert lead == pytest.approx(100 - (200 / 3 + 80) / 2) and low <= lead <= high
    # In image b/c two of three valid pixels are at a true boundary: precision 2/3, recall 1, 80 where one mask has 0.
    assert every_pixel.boundary_lead(masks) == pytest.approx((40, 0, 80))


def test_an_image_scored_is_one_of_the_sum(tmp_path):
    rng = np.random.default_rng(0)
    truth = {str(n): rng.choice([0, 1, 2, 255], (20, 30), p=[0.5, 0.3, 0.1, 0.1]) for n in range(6)}
    labels = {id: np.where(rng.random((20, 30)) < 0.7, map, rng.choice([0, 1, 2, 255])) for id, map in truth.items()}
    names = ("cat", "dog", "cow")
    dataset = Truth(truth, names)
    whole = score_run(write_run(tmp_path / "whole", labels, names=names), dataset)
    parts = [
        score_run(write_run(tmp_path / str(part), {id: labels[id] for id in "012345"[part::3]}, names=names), dataset)
        for part in range(3)
    ]
    assert np.array_equal(sum(part.confusion for part in parts), whole.confusion)
    assert np.array_equal(sum(part.boundaries for part in parts), whole.boundaries)
    # ... and the whole is what all pixels side by side give.
    t, p = (np.concatenate(list(maps.values())) for maps in (truth, labels))
    assert whole.metrics["mIoU"] == pytest.approx(scores(confusion_matrix(t, p, 3)).mIoU, abs=1e-12)
    assert np.array_equal(whole.boundaries, sum(boundary_counts(truth[id], labels[id], 3) for id in truth))
    assert np.array_equal(whole.image_counts.sum(0)[:, 2], whole.confusion.diagonal())


def test_the_shards_of_a_run_are_scored_as_one(tmp_path):
    run = write_run(tmp_path / "run", LABELS)
    whole = score_run(run, DATASET)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").unlink()
    for number, id in enumerate(LABELS, 1):
        part = {**record, "shard": [number, 2], "ids": {id: record["ids"][id]}}
        (run / f"run-{number}-of-2.json").write_text(json.dumps(part), encoding="utf-8")
    assert score_run(run, DATASET).results() == whole.results()


def test_results_hold_what_a_reader_needs_and_no_nan(tmp_path):
    dataset = Truth(DATASET.maps, ("cat", "dog", "cow"))
    results = score_run(write_run(tmp_path, LABELS, names=["cat", "dog", "cow"]), dataset).results()
    read = json.loads(json.dumps(results, allow_nan=False))
    assert set(read["metrics"]) == {"mIoU", "pixel_accuracy", "mean_accuracy", "fwIoU", "boundary_IoU"}
    assert read["metrics"]["mIoU"] == 75
    assert read["classes"][1] == {"name": "dog", "IoU": 75, "accuracy": 75, "pixels": 4}
    assert read["classes"][2] == {"name": "cow", "IoU": None, "accuracy": None, "pixels": 0}
    assert read["confusion"] == [[3, 0, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0]]
    assert read["counts"] == {"scored": 2, "undertaken": 2, "dataset": 3, "corrected": 0}
    for key in ("protocol", "vocabulary", "vocabulary_sha256", "preset", "models", "options", "view"):
        assert read[key] == FACTS[key]
    assert read["versions"] == {"ovseg": "1"} and read["best_label"] is False


def test_a_set_without_a_counted_pixel_is_null_not_nan(tmp_path):
    dataset = Truth({"a": np.full((2, 2), 255)})
    scored = score_run(write_run(tmp_path, {"a": [[0, 0], [1, 1]]}), dataset)
    assert math.isnan(scored.scores.mIoU)
    read = json.loads(json.dumps(scored.results(), allow_nan=False))
    assert set(read["metrics"].values()) == {None} and read["mIoU_interval"] == [None, None]


def test_maps_of_many_classes_mark_no_label_by_65535(tmp_path):
    folder = write_run(tmp_path, {}, names=[f"class {n}" for n in range(300)], no_label=65535)
    Image.fromarray(np.array([[0, 299], [65535, 255]], np.uint16)).save(folder / "a.png")
    change(folder, ids={"a": {"file": "a.jpg", "state": "done"}})
    dataset = Truth({"a": np.array([[0, 1], [2, 254]])}, tuple(f"class {n}" for n in range(300)))
    confusion = score_run(folder, dataset).confusion
    assert confusion[0, 0] == confusion[1, 299] == confusion[2, 300] == confusion[254, 255] == 1


def mistake(run: Path, dataset: Truth = DATASET, best_label: bool = False) -> str:
    """The one line that scoring this run ends in."""
    with pytest.raises(ValueError) as caught:
        score_run(run, dataset, best_label)
    message = str(caught.value)
    assert str(run) in message and "\n" not in message
    return message


def test_a_run_that_does_not_fit_the_data_set_is_named(tmp_path):
    run = write_run(tmp_path / "run", LABELS)
    entry = {"file": "a.jpg", "state": "done"}
    done, failed = {"a": entry, "b/c": entry}, entry | {"state": "failed", "error": "b.jpg: no image"}
    for facts, said in (
        ({"ids": {**done, "b/c": failed}}, "1 of 2 .* b/c .failed: b.jpg: no"),
        ({"ids": {**done, "b/c": {"state": "done"}}}, r"1 of 2 .* b/c .damaged: .*run.json: ids.b/c.file: missing"),
        ({"ids": {**done, "z": entry | {"state": "pending"}}}, "1 of 3 images are not done, such as z .pending"),
        ({"ids": {**done, "strange": entry}}, "strange is no image of custom at somewhere"),
        ({"ids": {}}, "no image was undertaken"),
        ({"ids": done, "names": ["dog", "cat"]}, "name 0 is 'dog', that of custom is 'cat'"),
        ({"names": ["cat"]}, "has 1 names, custom has 2"),
        ({"names": None}, "^best_label: needed, because .* holds masks without names"),
    ):
        with pytest.raises(ValueError, match=said):
            score_run(change(run, **facts), DATASET)
    with pytest.raises(ValueError, match="not a run folder"):
        score_run(tmp_path, DATASET)


def test_a_prediction_that_cannot_be_scored_is_named(tmp_path):
    run = write_run(tmp_path / "run", {"a": LABELS["a"]})
    assert str(run / "a.masks.png") in mistake(run, best_label=True)
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(run / "a.png")
    assert f"{run / 'a.png'}: is of 3x2 pixels, the labels of this image are 2x2" in mistake(run)
    Image.fromarray(np.full((2, 2), 7, np.uint8)).save(run / "a.png")
    assert f"{run / 'a.png'}: holds index 7, expected 0..1 or 255 (no label)" in mistake(run)
    (run / "a.png").write_bytes((run / "a.png").read_bytes()[:45])
    assert f"{run / 'a.png'}: cannot be read" in mistake(run)
    (run / "a.png").write_bytes(b"not a picture")
    assert f"{run / 'a.png'}: cannot be read" in mistake(run)
    (run / "a.png").unlink()
    assert f"{run / 'a.png'}: missing" in mistake(run)


def test_a_lead_needs_the_same_images(tmp_path):
    both, one = write_run(tmp_path / "both", LABELS), write_run(tmp_path / "one", {"a": LABELS["a"]})
    scored: list[Scored] = [score_run(run, DATASET) for run in (both, one)]
    with pytest.raises(ValueError, match="different images"):
        scored[1].lead(scored[0])
    assert scored[0].lead(scored[0]) == (0, 0, 0)


@pytest.fixture
def custom(tmp_path: Path) -> Path:
    """A data set of one's own: the truth above as files, and an image that no run undertook."""
    root = tmp_path / "custom"
    for id, pixels in {**TRUTH, "z": [[0, 0], [0, 0]]}.items():
        for folder, values in (("images", np.zeros((2, 2, 3))), ("labels", np.array(pixels))):
            (root / folder / id).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(root / folder / f"{id}.png")
    (root / "classes.txt").write_text("cat; kitten\ndog\n", encoding="utf-8")
    return root


def score(root: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "ovseg",
        "eval",
        "score",
        "custom",
        "--root",
        root,
        "--predictions",
        *arguments,
    ]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def test_the_command_writes_results_a_table_and_the_classes_into_the_run(custom, tmp_path):
    run = write_run(tmp_path / "run", LABELS)
    done = score(custom, run)
    assert done.returncode == 0 and "75.00" in done.stdout and "2 of 3" in done.stdout, done.stderr
    assert (run / "table.md").read_text() == done.stdout
    assert json.loads((run / "results.json").read_text())["metrics"]["pixel_accuracy"] == pytest.approx(600 / 7)
    assert (run / "classes.csv").read_text().splitlines()[1] == "cat,75.0000,100.0000,3"
    # Masks scored later leave these results as they are.
    for id, pixels in MASKS.items():
        Image.fromarray(np.array(pixels, np.uint8)).save(run / f"{id}.masks.png")
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    done = score(custom, run, "--best-label")
    assert done.returncode == 0 and "73.33" in done.stdout and "reads labels" in done.stdout, done.stderr
    assert json.loads((run / "best-label.json").read_text())["metrics"]["boundary_F"] == 50
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in run.iterdir() if path.is_file()} - {path.name for path in before} == {
        "best-label.json",
        "best-label-table.md",
        "best-label-table.tex",
        "best-label-classes.csv",
        "best-label-images.csv",
    }


def test_corrected_labels_are_scored_and_said_unless_the_runs_own_are_asked_for(custom, tmp_path, capsys):
    run = write_run(tmp_path / "run", LABELS)
    save(run, "a", np.array(TRUTH["a"]), "Ada")
    arguments = ["eval", "score", "custom", "--root", str(custom), "--predictions", str(run)]
    mark_reviewed(run, next(id for id in LABELS if id != "a"), "Ada")  # is not corrected by that
    for flags, accuracy, corrected in (([], 100, 1), (["--uncorrected"], 600 / 7, 0)):
        assert main([*arguments, *flags]) == 0
        results = json.loads((run / "results.json").read_text())
        assert results["metrics"]["pixel_accuracy"] == pytest.approx(accuracy)
        assert results["counts"]["corrected"] == corrected
        assert ("labels of 1 images as a person corrected them" in capsys.readouterr().out) == bool(corrected)


def test_the_command_sets_runs_side_by_side(custom, tmp_path):
    runs = [write_run(tmp_path / name, LABELS) for name in ("one", "two")]
    done = score(custom, *runs, "--out", tmp_path / "out")
    assert done.returncode == 0 and "+0.00 [+0.00, +0.00]" in done.stdout, done.stderr
    assert (tmp_path / "out" / "table.md").read_text() == done.stdout
    for name in ("one", "two"):
        assert json.loads((tmp_path / "out" / name / "results.json").read_text())["metrics"]["mIoU"] == 75
    assert not (runs[0] / "results.json").exists()


def test_the_command_is_open_dataset_and_score_and_show(custom, tmp_path, capsys):
    run = write_run(tmp_path / "run", LABELS)
    score_and_show(open_dataset("custom", custom), [run])
    shown, written = capsys.readouterr().out, {path.name: path.read_bytes() for path in run.glob("*.*")}
    assert shown == (run / "table.md").read_text() and "75.00" in shown and "results.json" in written
    done = score(custom, run)
    assert done.stdout == shown, done.stderr
    assert {path.name: path.read_bytes() for path in run.glob("*.*")} == written


def test_mistakes_cost_one_line_and_exit_code_2(custom, tmp_path):
    run = write_run(tmp_path / "run", LABELS)
    namesake = write_run(tmp_path / "other" / "run", LABELS)
    taken = write_run(tmp_path / "taken", {"results": LABELS["a"]})
    for arguments, said in (
        ((run, namesake, "--out", tmp_path / "out"), "two runs are called 'run'"),
        ((taken,), f"--out: {taken}/results.json is the file of an image called 'results'"),
        ((run, "--out", run / "run.json"), f"--out: {run}/run.json: is a file, expected a folder for the results"),
        ((run, tmp_path / "nowhere"), "nowhere: not a run folder"),
        ((change(run, names=["dog", "cat"]),), "its name 0 is 'dog'"),
    ):
        done = score(custom, *arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert said in done.stderr and len(done.stderr.splitlines()) == 1
