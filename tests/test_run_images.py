"""The reader of a run's image, against files whose content a test made up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import write_run
from safetensors.numpy import save_file

from ovseg.draw import class_colours
from ovseg.files import read_index_png
from ovseg.pocket.world import scene
from ovseg.result import masks_png
from ovseg.run import images as run_images
from ovseg.run.folder import read_run
from ovseg.run.images import LABELS, MASKS, SUMMARY, Legend, RunImage, read_legend
from ovseg.run.pictures import PICTURES, read_picture

NAMES = ("background", "cat", "dog")
LABELS_OF_A = np.array([[0, 1, 1], [2, 2, 255]])  # one mask a class: 0, 1, 2, and 3 without a label


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", {"a": LABELS_OF_A}, NAMES, scores={1: 0.25})


def change(run: Path, drop: tuple[str, ...] = (), **facts: object) -> Path:
    """The same run with other facts in its record."""
    record = {key: value for key, value in json.loads((run / "run.json").read_text()).items() if key not in drop}
    (run / "run.json").write_text(json.dumps({**record, **facts}))
    return run


def image(run: Path, id: str = "a") -> RunImage:
    return RunImage(read_run(run), id)


def test_everything_of_one_image(run: Path) -> None:
    one = image(run)
    assert one.legend == Legend(NAMES, class_colours(NAMES), 255)
    labels = one.index_map()
    assert labels.dtype == np.uint8 and labels.tolist() == LABELS_OF_A.tolist()
    assert one.masks(labels.shape).tolist() == [[0, 1, 1], [2, 2, 3]]
    summary = one.summary()
    assert summary.classes == {0: 0.75, 1: 0.25, 2: 0.75}
    rows = [(row.mask, row.index, row.score) for row in summary.masks]
    assert rows == [(0, 0, 0.75), (1, 1, 0.25), (2, 2, 0.75), (3, None, None)]
    confidence = one.confidence(labels)
    assert confidence.dtype == np.float32 and confidence.tolist() == [[0.75, 0.25, 0.25], [0.75, 0.75, 0]]
    assert one.difference_maps() is None and one.source == "/photos/a.jpg"


def test_a_run_of_masks_has_masks_and_no_names(run: Path) -> None:
    (run / "a.png").write_bytes(masks_png(np.array([[0, 700], [1, 1]])))
    for ending in (MASKS, SUMMARY):
        (run / f"a{ending}").unlink()
    one = image(change(run, ("names", "colours", "no_label"), command="masks"))
    assert one.legend is None and one.summary() is None
    assert one.index_map().tolist() == one.masks((2, 2)).tolist() == [[0, 700], [1, 1]]
    assert one.confidence(one.index_map()) is None


def test_a_run_without_scores_or_without_masks_has_no_confidence(run: Path) -> None:
    one = image(run)
    (run / "a.json").unlink()  # as `ovseg eval predict` leaves it
    assert one.summary() is None and one.masks((2, 3)) is not None and one.confidence(one.index_map()) is None
    (run / "a.masks.png").unlink()
    assert one.masks((2, 3)) is None


def test_colours_and_no_label_follow_from_the_names(run: Path) -> None:
    names = [f"class {number}" for number in range(300)]
    legend = read_legend(read_run(change(run, ("colours", "no_label"), names=names)))
    assert legend == Legend(tuple(names), class_colours(names), 65535)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (
            {"names": ["background", 7, "dog"]},
            "names: expected a list of at most 65534 different names",
        ),
        (
            {"names": ["background", "cat\x1b[31m", "dog"]},
            "names: expected a list of .* without control characters",
        ),
        ({"names": ["background", "cat", "cat"]}, "names: expected a list of .* different names"),
        ({"names": 7}, "names: expected a list"),
        ({"colours": [[0, 0, 0]]}, "colours: expected 3, one a name, got 1"),
        ({"colours": [[0, 0]] * 3}, "colours: expected a list of colours, each three"),
        ({"colours": [[0, 0, 256]] * 3}, "colours: expected a list of colours, each three"),
        ({"no_label": "none"}, "no_label: expected a whole number from 0 to 65535 or null, got 'none'"),
        ({"no_label": 2}, "no_label: expected an index behind the 3 names', got 2"),
    ],
)
def test_damaged_names_cost_one_line_that_names_the_run(run: Path, facts: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        read_legend(read_run(change(run, **facts)))
    assert str(caught.value).startswith(f"{run / 'run.json'}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"masks": []}',
        '{"classes": [], "masks": [{"mask": 0}]}',
        '{"classes": [], "masks": [{"mask": "x", "class": 0, "score": 1}]}',
        '{"classes": [{"index": 0, "score": "high"}], "masks": []}',
        '{"classes": 7, "masks": []}',
        '{"classes": [{"index": 0, "score": NaN}], "masks": []}',
        '{"classes": [{"index": 0, "score": 1e999}], "masks": []}',
        '{"classes": [{"index": 9, "score": 1}], "masks": []}',  # of three names
        "[" * 100_000,
    ],
)
def test_a_damaged_summary_costs_one_line_that_names_the_file(run: Path, content: str) -> None:
    (run / "a.json").write_text(content)
    with pytest.raises(ValueError, match="not (the summary of an image|JSON)|names class 9") as caught:
        image(run).summary()
    assert str(caught.value).startswith(f"{run / 'a.json'}: ") and "\n" not in str(caught.value)


def test_maps_that_do_not_fit_are_named_with_what_was_expected(run: Path) -> None:
    one, path = image(run), run / "a.png"
    with pytest.raises(ValueError, match=r"a\.png: is of 3x2 pixels, the labels of this image are 5x4"):
        one.index_map((4, 5))
    with pytest.raises(ValueError, match=r"a\.masks\.png: is of 3x2 pixels, the labels of this image are 2x3"):
        one.masks((3, 2))
    Image.fromarray(np.array([[0, 3]], np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"a\.png: holds index 3, expected 0\.\.2 or 255 \(no label\)"):
        one.index_map()
    path.unlink()
    with pytest.raises(ValueError, match=r"a\.png: missing, though the run's record says that it is done"):
        one.index_map()


def test_difference_maps_are_those_of_the_kept_analysis(run: Path) -> None:
    maps = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    masks = read_index_png(run / "a.masks.png")
    save_file({"difference_maps": maps, "segments": masks}, run / "a.safetensors")
    assert image(run).difference_maps().tolist() == maps.tolist()
    save_file({"difference_maps": maps, "segments": masks[::-1].copy()}, run / "a.safetensors")
    assert image(run).difference_maps() is None  # of other masks, which an earlier call left
    (run / "a.safetensors").write_bytes(b"no analysis")
    with pytest.raises(ValueError, match=r"a\.safetensors: not a saved analysis"):
        image(run).difference_maps()
    (run / "a.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no kept analysis"):
        image(run).analysis((2, 3))


def test_a_photo_is_looked_for_where_the_run_found_it_below_the_root_and_below_the_run(tmp_path: Path) -> None:
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    sources = {"a": tmp_path / "a.png", "b": "photos/b.png", "c": "c.png"}
    run = write_run(tmp_path / "run", dict.fromkeys(sources, LABELS_OF_A), NAMES, sources=sources)
    (tmp_path / "data/photos").mkdir(parents=True)
    for number, path in enumerate((tmp_path / "a.png", tmp_path / "data/photos/b.png", run / "c.png")):
        Image.fromarray(pixels + np.uint8(number)).save(path)
    change(run, root=str(tmp_path / "data"))
    for number, id in enumerate(sources):
        assert (image(run, id).photo((2, 3)) == pixels + number).all()
    with pytest.raises(ValueError, match=r"a\.png: has another size now, 3 x 2 pixels"):
        image(run).photo((3, 2))
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"the image could not be read \(.*a\.png: no such file\)"):
        image(run).photo((2, 3))


def test_scenes_of_pocket_are_pictures_by_their_names() -> None:
    assert (read_picture("pocket:world3/tuning/3/1") == scene("tuning", 3, 1).image).all()
    for name, reason in (("nowhere/3/1", "has the splits"), ("tuning/3", "WORLD/SPLIT/SEED"), ("tuning/3/x", "NUMBER")):
        with pytest.raises(ValueError, match=reason):
            read_picture(f"pocket:{name}")


def test_a_new_kind_of_picture_is_a_function_and_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stripes.py").write_text(
        "import numpy as np\n\ndef picture(name):\n    return np.full((2, 3, 3), int(name), np.uint8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PICTURES, "grey", "stripes:picture")
    run = write_run(tmp_path / "run", {"a": LABELS_OF_A}, NAMES, sources={"a": "grey:7"})
    assert image(run).photo((2, 3)).tolist() == [[[7, 7, 7]] * 3] * 2


def test_reading_runs_loads_no_world_and_no_network() -> None:
    code = "import sys, ovseg.run.images, ovseg.report, ovseg.export.write; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()
    assert run_images.__name__ in loaded
    assert not [name for name in loaded if name.startswith("ovseg.pocket") or name == "torch"]


def test_the_endings_are_those_of_the_files(run: Path) -> None:
    endings = (LABELS, MASKS, SUMMARY)
    assert sorted(path.name for path in run.glob("a*")) == sorted(f"a{ending}" for ending in endings)
    assert all(image(run).file(ending).is_file() for ending in endings)
