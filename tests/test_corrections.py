"""Labels that a person corrected: what is kept of them, what can be undone, and that everybody reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from run_folders import blobs, write_run

from ovseg.export import open_images
from ovseg.files import read_index_png
from ovseg.run import corrections
from ovseg.run.corrections import MOST_STEPS, mark_reviewed, redo, save, undo, unmark_reviewed
from ovseg.run.folder import read_run
from ovseg.run.images import RunImage
from ovseg.run.inputs import Item, prepare

NAMES = ("background", "cat", "dog")
OWN = np.array([[0, 1, 1], [2, 2, 255]])
BETTER = np.array([[0, 1, 2], [2, 2, 1]])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", {"a": OWN, "sub/b": OWN}, NAMES, scores={1: 0.25})


def read(run: Path, id: str = "a", *, uncorrected: bool = False) -> list[list[int]]:
    return RunImage(read_run(run), id, uncorrected).index_map().tolist()


def test_corrected_labels_are_read_everywhere_and_the_runs_own_stay(run: Path) -> None:
    before = (run / "a.png").read_bytes()
    assert corrections.labels(run, "a") is None and corrections.corrections(run, "a").who is None
    found = save(run, "a", BETTER, "Ada", when="2026-01-31T23:59:59Z")
    assert (found.stands, found.who, found.steps[0].when) == (1, "Ada", "2026-01-31T23:59:59Z")
    assert read(run) == corrections.labels(run, "a").tolist() == BETTER.tolist()
    assert read(run, uncorrected=True) == OWN.tolist() and (run / "a.png").read_bytes() == before
    assert read(run, "sub/b") == OWN.tolist()
    image = next(iter(open_images(run)))  # a pixel that a person changed is sure
    assert image.labels.tolist() == BETTER.tolist()
    assert image.confidence.tolist() == [[0.75, 0.25, 1], [0.75, 0.75, 1]]
    sure = next(iter(open_images(run, unsure=0.5)))
    assert sure.labels.tolist() == [[0, 255, 2], [2, 2, 1]]


def test_steps_are_undone_and_done_again_and_a_new_one_ends_what_was_undone(run: Path) -> None:
    maps = [np.array([[0, 0, value], [1, 1, 1]]) for value in (1, 2, 255)]
    for labels in maps:
        save(run, "a", labels, "Ada")
    assert undo(run, "a").stands == 2 and read(run) == maps[1].tolist()
    assert undo(run, "a").stands == 1 and undo(run, "a").stands == 0 and undo(run, "a").stands == 0
    assert read(run) == OWN.tolist()
    assert redo(run, "a").stands == 1 and read(run) == maps[0].tolist()
    found = save(run, "a", BETTER, "Bob")
    assert [(step.step, step.who) for step in found.steps] == [(1, "Ada"), (4, "Bob")]
    assert redo(run, "a") == found and read(run) == BETTER.tolist()
    assert sorted(path.name for path in run.glob("*.corrected*")) == [
        "a.corrected-1.png",
        "a.corrected-4.png",
        "a.corrected.json",
    ]
    assert save(run, "a", BETTER, "Cid") == found  # nothing new


def test_a_review_is_of_the_labels_that_stood_then(run: Path) -> None:
    assert mark_reviewed(run, "a", "Ada").reviewed  # the run's own labels are right
    assert not save(run, "a", BETTER, "Bob").reviewed
    assert mark_reviewed(run, "a", "Cid").review.who == "Cid"
    assert not undo(run, "a").reviewed and redo(run, "a").reviewed
    assert not unmark_reviewed(run, "a").reviewed and corrections.corrections(run, "a").who == "Bob"


def test_random_steps_against_a_list_in_memory(run: Path) -> None:
    random, stack, place = np.random.default_rng(0), [OWN], 0
    for number in range(40):
        action = random.choice(["save", "undo", "redo"])
        if action == "save":
            labels = blobs(number, 2, 3, [0, 1, 2, 255], smoothness=0)
            if not np.array_equal(labels, stack[place]):
                stack, place = [*stack[: place + 1], labels], place + 1
            save(read_run(run), "sub/b", labels, "Ada")
        elif action == "undo":
            undo(run, "sub/b")
            place = max(0, place - 1)
        else:
            redo(run, "sub/b")
            place = min(len(stack) - 1, place + 1)
        assert read(run, "sub/b") == stack[place].tolist()
        assert len(list((run / "sub").glob("b.corrected-*.png"))) == len(stack) - 1


def test_old_steps_are_dropped_with_their_files(run: Path) -> None:
    for number in range(MOST_STEPS + 3):
        save(run, "a", np.full((2, 3), number % 3), "Ada")
    assert len(list(run.glob("a.corrected-*.png"))) == MOST_STEPS


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros((3, 2), int), r"labels: expected integers of shape \(2, 3\), got int64 of \(3, 2\)"),
        (np.zeros((2, 3)), "labels: expected integers"),
        (np.full((2, 3), 3), r"labels: holds index 3, expected 0\.\.2 or 255 \(no label\)"),
        (np.full((2, 3), -1), "labels: holds index -1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(run: Path, labels: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        save(run, "a", labels, "Ada")
    with pytest.raises(ValueError, match=r"no image 'c' is done there, expected one of its 2"):
        save(run, "c", OWN, "Ada")
    with pytest.raises(ValueError, match="who: expected a name, got ' '"):
        save(run, "a", BETTER, " ")
    assert not list(run.glob("*corrected*"))


def test_files_that_were_damaged_or_are_of_other_names_are_named(run: Path) -> None:
    save(run, "a", BETTER, "Ada")
    (run / "a.corrected-1.png").unlink()
    with pytest.raises(ValueError, match=r"a\.corrected-1\.png: missing, though a\.corrected\.json names it"):
        read(run)
    file = run / "a.corrected.json"
    content = json.loads(file.read_text())
    for change in ({"stands": 7}, {"steps": [{"step": "../x"}]}, {"format": 1}, {"reviewed": {}}, {"stands": None}):
        file.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=r"a\.corrected\.json: not what was corrected of an image"):
            read(run)
    for text in ("[]", "{", "null"):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"a\.corrected\.json: not "):
            read(run)
    file.write_text(json.dumps(content | {"names_sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"a\.corrected\.json: corrected under other names than the run has now"):
        read(run)


def test_an_image_called_so_is_no_correction(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"a": OWN, "a.corrected": OWN}, NAMES)
    assert read(run) == OWN.tolist()
    with pytest.raises(ValueError, match=r"corrections of 'a' would be files of the image 'a\.corrected'"):
        save(run, "a", BETTER, "Ada")


def test_overwriting_does_not_lay_corrections_over_other_labels(run: Path) -> None:
    items = [Item("a", Path("/photos/a.jpg")), Item("sub/b", Path("/photos/b.jpg"))]
    assert prepare(run, items, (".png",), overwrite=True) == run
    save(run, "sub/b", BETTER, "Ada")
    with pytest.raises(ValueError, match=r"1 of the images hold corrections, such as sub/b\.corrected\.json"):
        prepare(run, items, (".png",), overwrite=True)
    assert prepare(run, items, (".png",)) == run


def test_over_254_names_take_16_bits(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"a": OWN * 0}, [f"class {number}" for number in range(300)])
    save(run, "a", np.array([[0, 299, 1], [65535, 255, 2]]), "Ada")
    assert read_index_png(run / "a.corrected-1.png").dtype == np.uint16
    assert read(run) == [[0, 299, 1], [65535, 255, 2]]


def test_names_that_are_added_behind_leave_corrections_as_they_are(tmp_path):
    labels = np.array([[0, 1], [1, 1]])
    run = write_run(tmp_path / "run", {"a": labels}, ["cat", "dog"])
    save(run, "a", 1 - labels, "Ada")
    record = json.loads((run / "run.json").read_text())
    for names, stand in ((["cat", "dog", "cow"], True), (["cat", "cow"], False), (["cow", "cat", "dog"], False)):
        (run / "run.json").write_text(json.dumps(record | {"names": names, "colours": None}))
        if stand:
            np.testing.assert_array_equal(RunImage(read_run(run), "a").index_map(), 1 - labels)
        else:
            with pytest.raises(ValueError, match="corrected under other names than the run has now"):
                RunImage(read_run(run), "a").index_map()
