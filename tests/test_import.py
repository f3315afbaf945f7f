"""`ovseg import`: labels that other tools bring back, against runs and exports whose labels are known."""

from __future__ import annotations

import base64
import io
import json
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from run_folders import blobs, write_run

from ovseg.cli import main
from ovseg.export import WRITERS, open_images
from ovseg.export.back import READERS, find_source, import_labels
from ovseg.export.label_studio import decode, encode
from ovseg.run.corrections import corrections
from ovseg.run.folder import read_run
from ovseg.run.images import RunImage

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
NAMES = ("background", "cat", '犬, of "all" kinds #1', "dog")
IDS = ("a", "sub/b", "sub/a.v2")
EXACT = ("png", "voc", "coco")  # formats that tell no label from background


def standing(run: Path, id: str) -> np.ndarray:
    return RunImage(read_run(run), id).index_map()


def maps(seed: int, unlabelled: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Labels of each id; with `unlabelled` pixels without a label there, and nowhere else."""
    found = {id: blobs(seed + number, 41, 57, [0, 1, 2, 3, 255]) for number, id in enumerate(IDS)}
    if unlabelled is None:
        return found
    return {id: np.where(unlabelled, 255, np.where(labels == 255, 0, labels)) for id, labels in found.items()}


def as_annotated(folder: Path, who: object = 7) -> None:
    """Label Studio's own export of tasks whose predictions were accepted."""
    tasks = json.loads((folder / "tasks.json").read_text())
    for task in tasks:
        (prediction,) = task.pop("predictions")
        done = {"completed_by": who, "updated_at": "2026-02-03T04:05:06Z", "result": prediction["result"]}
        task["annotations"] = [{"result": [], "was_cancelled": False}, done, {"result": [], "was_cancelled": True}]
    (folder / "tasks.json").write_text(json.dumps(tasks))


def exported(run: Path, format: str, **options: object) -> Path:
    target = run.with_name(f"{run.name}-{format}")
    target.mkdir()
    WRITERS[format](open_images(run, **options), target)
    if format == "label-studio":
        as_annotated(target)
    return target


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("format", READERS)
def test_what_was_exported_comes_back(tmp_path: Path, format: str, background: bool) -> None:
    names = NAMES if background else ("wall", *NAMES[1:])
    where = None if format in EXACT else blobs(99, 41, 57, [False, True])
    run = write_run(tmp_path / "run", maps(0, where), names)
    same = import_labels(run, exported(run, format), who="Ada")
    assert (same.corrected, same.same, same.problems) == ([], sorted(IDS), {})  # nothing was touched
    better = maps(10, where)
    other = write_run(tmp_path / "other", better, names)
    source = exported(other, format, components=format in ("coco", "cvat", "label-studio"))
    assert find_source(source, None)[0] == format
    found = import_labels(run, source, who="Ada")
    assert found.corrected == sorted(IDS) and not found.problems
    for id, labels in better.items():
        assert (standing(run, id) == labels).all()
        assert corrections(run, id).who == ("7" if format == "label-studio" else "Ada")
        assert (RunImage(read_run(run), id, uncorrected=True).index_map() == maps(0, where)[id]).all()
    if format == "label-studio":
        assert corrections(run, "a").steps[0].when == "2026-02-03T04:05:06Z"


@pytest.mark.parametrize("outlines", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_coco_comes_back_by_outlines_and_without_its_background(
    tmp_path: Path, outlines: bool, background: bool
) -> None:
    where = blobs(99, 41, 57, [False, True])
    run = write_run(tmp_path / "run", maps(0, where), NAMES)
    better = maps(10, where)
    source = exported(write_run(tmp_path / "x", better, NAMES), "coco", outlines=outlines, background=background)
    assert import_labels(run, source, "coco", who="Ada").corrected == sorted(IDS)
    assert all((standing(run, id) == labels).all() for id, labels in better.items())


def test_smaller_regions_lie_over_larger_ones_in_coco(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": np.zeros((10, 12), int)}, NAMES)
    square = [[2, 2, 10, 2, 10, 8, 2, 8]]
    inner = {"size": [10, 12], "counts": [12 * 5 - 5, 2, 120 - 57]}
    rows = [
        {"id": n, "image_id": 5, "category_id": c, "segmentation": s} for n, c, s in ((1, 9, inner), (2, 3, square))
    ]
    content = {
        "images": [{"id": 5, "file_name": "deep/in/a.jpg", "height": 10, "width": 12}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": rows,
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert main(["import", str(run), "--from", str(tmp_path / "x.json")]) == 0
    expected = np.zeros((10, 12), int)
    expected[2:8, 2:10] = 1
    expected[5:7, 5] = 3
    expected[5:7, 5] = 3
    flat = np.zeros(120, int)
    flat[55:57] = 1
    inside = flat.reshape(12, 10).T.astype(bool)  # COCO counts down the columns
    expected[(expected == 3)] = 1
    expected[inside] = 3
    assert (standing(run, "a") == expected).all()


def labelme(folder: Path, shapes: list[dict[str, Any]], size: tuple[int, int] = (10, 12)) -> Path:
    folder.mkdir(exist_ok=True)
    content = {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": size[0], "imageWidth": size[1]}
    (folder / "a.json").write_text(json.dumps(content))
    return folder


def test_labelmes_shapes_lie_one_over_the_other(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": np.zeros((10, 12), int)}, NAMES)
    part = io.BytesIO()
    Image.fromarray(np.array([[255, 0], [255, 255]], np.uint8)).save(part, format="PNG")
    shapes = [
        {"label": "cat", "shape_type": "rectangle", "points": [[1, 2], [8, 6]]},
        {
            "label": "dog",
            "shape_type": "mask",
            "points": [[3, 4], [4, 5]],
            "mask": base64.b64encode(part.getvalue()).decode(),
        },
        {"label": "background", "shape_type": "polygon", "points": [[1, 2], [1, 2], [1, 2.4]]},
        {"label": "dog", "shape_type": "circle", "points": [[10, 8], [11, 8]]},
    ]
    assert import_labels(run, labelme(tmp_path / "lm", shapes), who="Ada").corrected == ["a"]
    expected = np.zeros((10, 12), int)
    expected[2:7, 1:9] = 1
    expected[4, 3] = expected[5, 3] = expected[5, 4] = 3
    expected[2, 1] = 0
    expected[7:10, 10] = expected[8, 9:12] = 3
    found = standing(run, "a")
    found[7:, 9:] = np.where(found[7:, 9:] == 3, expected[7:, 9:], 0)  # Pillow's circle may have corners
    assert (found == expected).all()


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), literal=st.booleans())
def test_label_studios_code_is_decoded(seed: int, literal: bool) -> None:
    mask = blobs(seed, 9, 11, [False, True], smoothness=seed % 3)
    values = np.repeat(np.where(mask.ravel(), 255, 0), 4)
    code = encode(mask)
    if literal:  # as its own encoder has short runs
        bits = f"{values.size:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
        for start in range(0, values.size, 8):
            some = values[start : start + 8]
            bits += f"0{0:02b}{len(some) - 1:03b}" + "".join(f"{value:08b}" for value in some)
        bits += "0" * (-len(bits) % 8)
        code = [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]
    assert decode(code, values.size).tolist() == values.tolist()
    with pytest.raises(ValueError, match="run-length code cannot be read"):
        decode(code[: len(code) // 2], values.size)


def test_polygons_and_rectangles_of_label_studio_are_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": np.zeros((10, 20), int)}, NAMES)
    common = {"original_width": 20, "original_height": 10}
    box = {"x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": ["cat"]}
    triangle = {"points": [[50, 10], [95, 10], [95, 90]], "polygonlabels": ["dog"]}
    results = [
        {"type": "rectanglelabels", "value": box, **common},
        {"type": "choices", "value": {"choices": ["good"]}},
        {"type": "polygonlabels", "value": triangle, **common},
    ]
    done = {"completed_by": {"email": "ada@x.org"}, "created_at": None, "result": results}
    tasks = [
        {"data": {"image": "/data/upload/1/0123abcd-a.jpg"}, "annotations": [done]},
        {"data": {"image": "http://x/other.jpg"}, "annotations": []},
    ]
    (tmp_path / "x.json").write_text(json.dumps(tasks))
    assert import_labels(run, tmp_path / "x.json", who="?").corrected == ["a"]
    labels = standing(run, "a")
    assert (labels[2:6, 2:8] == 1).all() and (labels == 1).sum() == 24
    assert labels[1, 10] == labels[1, 19] == labels[9, 19] == 3 and labels[8, 11] == 0
    assert corrections(run, "a").who == "ada@x.org"


def test_the_folder_of_exports_leads_to_one_of_them(tmp_path: Path, capsys) -> None:
    run, out = write_run(tmp_path / "run", maps(0), NAMES), tmp_path / "out"
    assert main(["export", str(run), "--format", "coco", "--format", "png", "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["import", str(run), "--from", str(out)]) == 2
    assert f"holds exports; name one of them: {out / 'png'}, {out / 'coco'}" in capsys.readouterr().err
    assert main(["import", str(run), "--from", str(out), "--format", "coco"]) == 0
    assert "labels of 0 corrected, 3 as they stood" in capsys.readouterr().err


def bad_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "ovseg.zip", "w") as archive:
        archive.writestr("labelmap.txt", "background:0,0,0::\ncat:1,2,3::\n")
        archive.writestr("SegmentationClass/a.png", b"no png")


def test_what_cannot_be_imported_is_told_and_the_rest_goes_on(tmp_path: Path, capsys) -> None:
    run = write_run(tmp_path / "run", maps(0), NAMES)
    source = exported(write_run(tmp_path / "x", maps(10), NAMES), "png")
    Image.new("L", (3, 2)).save(source / "a.png")
    Image.fromarray(np.full((41, 57), 9, np.uint8)).save(source / "sub/b.png")
    Image.new("L", (3, 2)).save(source / "stranger.png")
    assert main(["import", str(run), "--from", str(source), "--who", "Ada"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "left out: 1 that are none of the run's images, such as stranger",
        "not imported: a: its labels are of 3x2 pixels, the image is 57x41",
        "not imported: sub/b: holds index 9, which legend.json has not",
        "labels of 1 corrected, 0 as they stood, 2 not imported",
    ]
    assert corrections(run, "sub/a.v2").who == "Ada" and not (run / "a.corrected.json").exists()
    shutil.rmtree(source)
    source.mkdir()
    bad_zip(source)
    assert main(["import", str(run), "--from", str(source)]) == 1
    assert "not imported: a: cannot be read as a PNG" in capsys.readouterr().err


def png_of_size(width: int, height: int) -> str:
    """A PNG's first bytes in base64."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return base64.b64encode(png + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))).decode()


BOMB = png_of_size(60000, 60000)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"shapes": [{"label": "sofa", "points": [[0, 0], [1, 1], [1, 0]]}]},
            "its class 'sofa' is none of the run's: background,",
        ),
        (
            {"shapes": [{"label": "cat", "points": [[0, 0]], "shape_type": "point"}]},
            "its shape of type 'point' is no area",
        ),
        ({"shapes": [{"label": "cat", "points": [[0, 0], [1, 1]]}]}, "its polygon of 2 points is no area"),
        ({"shapes": [{"label": "cat", "points": 5}]}, "its JSON is not as expected"),
        ({"shapes": [{"points": []}]}, "its JSON is not as expected (KeyError: 'label')"),
        ({"shapes": [], "imageWidth": 5}, "its labels are of 5x10 pixels, the image is 12x10"),
        (
            {"shapes": [{"label": "cat", "points": [[0, 0], [1e300, 5], [5, 1]]}]},
            "its point at 1e+300 lies over 100000",
        ),
        (
            {"shapes": [{"label": "cat", "points": [[0, 0], [9e4, 0]], "shape_type": "circle"}]},  # Pillow: for minutes
            "its circle has a radius of 90000 pixels, over 44",
        ),
        (
            {"shapes": [{"label": "cat", "points": [[0, 0], [1, 1]], "shape_type": "mask", "mask": BOMB}]},
            "its mask cannot be read",
        ),
        (
            {"shapes": [{"label": "cat", "shape_type": "polygon", "points": [["x" * 2000, 0], [1, 1], [2, 2]]}]},
            "its points hold 'xxx",
        ),
    ],
)
def test_damaged_shapes_are_told_by_image(tmp_path: Path, content: dict[str, Any], said: str, capsys) -> None:
    run = write_run(tmp_path / "run", {"a": np.zeros((10, 12), int)}, NAMES)
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm/a.json").write_text(json.dumps({"imageHeight": 10, "imageWidth": 12} | content))
    assert main(["import", str(run), "--from", str(tmp_path / "lm")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert any(f"not imported: a: {said}" in line for line in lines) and max(map(len, lines)) < 1000


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([[0, 0, 1e9, 5, 5, 1e9]], "its point at 1e+09 lies over 100000"),  # which ends the process in pycocotools
        ([[0, 0, "x", 5, 5, 5]], "its segmentation cannot be read"),
        ({"size": [10, 12], "counts": [0, 10**8]}, "its segmentation cannot be read"),
    ],
)
def test_cocos_segmentations_that_cannot_be_are_told(tmp_path: Path, segmentation: object, said: str, capsys) -> None:
    run = write_run(tmp_path / "run", {"a": np.zeros((10, 12), int)}, NAMES)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 10, "width": 12}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": segmentation}],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert main(["import", str(run), "--from", str(tmp_path / "x.json")]) == 1
    assert "not imported: a: " in (line := capsys.readouterr().err) and said in line
    content["annotations"][0]["image_id"] = 7
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert main(["import", str(run), "--from", str(tmp_path / "x.json")]) == 2
    assert "x.json: its annotations are of image 7, which it does not list" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("rectanglelabels", {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 30}, "its rectangle is rotated"),
        ("ellipselabels", {"x": 1, "y": 1, "radiusX": 5, "radiusY": 5}, "its region of type 'ellipselabels' is not"),
        ("brushlabels", {"format": "rle", "rle": 10**13}, "its run-length code is no list of bytes"),
    ],
)
def test_regions_of_label_studio_that_are_not_read_are_told(
    tmp_path: Path, kind: str, value: dict[str, Any], said: str, capsys
) -> None:
    run = write_run(tmp_path / "run", {"a": np.zeros((10, 20), int)}, NAMES)
    region = {"type": kind, "value": value | {kind: ["cat"]}, "original_width": 20, "original_height": 10}
    tasks = [{"data": {"image": "/data/upload/1/0123abcd-a.jpg"}, "annotations": [{"result": [region]}]}]
    (tmp_path / "x.json").write_text(json.dumps(tasks))
    assert main(["import", str(run), "--from", str(tmp_path / "x.json")]) == 1
    assert f"not imported: a: {said}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["labelmap.txt", "SegmentationClass/a.png"])
def test_damaged_and_encrypted_files_of_a_zip_are_told(tmp_path: Path, name: str, capsys) -> None:
    run = write_run(tmp_path / "run", {"a": np.zeros((10, 12), int)}, NAMES)
    packed, path = io.BytesIO(), tmp_path / "ovseg.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labelmap.txt", "background:0,0,0::\n" + "".join(f"c{n}:{n},2,3::\n" for n in range(200)))
        archive.writestr("SegmentationClass/a.png", bytes(1000))
        entry = archive.getinfo(name)
    data = bytearray(packed.getvalue())
    start = entry.header_offset + 30 + len(name)
    data[start : start + 4] = b"\xff" * 4  # no deflate begins so
    path.write_bytes(data)
    assert main(["import", str(run), "--from", str(path)]) in (1, 2)
    assert "zip" in capsys.readouterr().err.splitlines()[0]
    data = bytearray(packed.getvalue())
    data[entry.header_offset + 6] |= 1  # "encrypted", in its own header and in the list at the end
    data[data.rindex(name.encode()) - 46 + 8] |= 1
    path.write_bytes(data)
    assert main(["import", str(run), "--from", str(path)]) in (1, 2)
    assert "encrypted" in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    ("make", "format", "said"),
    [
        (lambda path: None, None, "x: no such file or folder"),
        (lambda path: path.mkdir(), None, "x: of no format that is known by its files; give --format png, voc,"),
        (lambda path: path.mkdir(), "pascal", "--format: pascal: no such format; choose from png, voc,"),
        (lambda path: path.mkdir(), "coco", "x: expected one annotations/*.json in it, found 0; name the file"),
        (lambda path: path.write_text("x"), "voc", "x: is a file, and voc is a folder"),
        (lambda path: path.write_text("x"), "cvat", "x: not a zip to be read"),
        (lambda path: path.write_text("[]"), "coco", "x: COCO's JSON is not as expected"),
        (lambda path: path.write_text("{}"), "label-studio", "x: not Label Studio's JSON, expected a list of tasks"),
        (lambda path: path.write_text("[[]]"), "label-studio", "x: Label Studio's JSON is not as expected"),
        (lambda path: path.write_text("[]"), "label-studio", "x: holds labels of no image of"),
    ],
)
def test_sources_that_cannot_be_cost_one_line(
    tmp_path: Path, make: Callable[[Path], object], format: str | None, said: str, capsys
) -> None:
    run = write_run(tmp_path / "run", {"a": np.zeros((10, 12), int)}, NAMES)
    make(tmp_path / "x")
    flags = [] if format is None else ["--format", format]
    assert main(["import", str(run), "--from", str(tmp_path / "x"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_names_that_are_no_address_and_run_lengths_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": np.zeros((4, 6), np.uint8)}, ["background", "cat"])
    task = {"data": {"image": "http://[x"}, "annotations": [{"result": []}]}
    (tmp_path / "x.json").write_text(json.dumps([task]))
    with pytest.raises(ValueError, match=r"x.json: holds labels of no image of .* such as http://\[x"):
        import_labels(run, tmp_path / "x.json", who="Ada")
    content = {"categories": [], "images": [{"id": {}, "file_name": "a", "height": 4, "width": 6}], "annotations": []}
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"x.json: COCO's JSON is not as expected \(TypeError: unhashable"):
        import_labels(run, tmp_path / "x.json", who="Ada")
    for counts in ([1.5] * 16, [True] * 24, [24.0], [10**9, 24 - 10**9]):
        row = {"image_id": 1, "category_id": 1, "segmentation": {"size": [4, 6], "counts": counts}}
        image = {"id": 1, "file_name": "a.png", "height": 4, "width": 6}
        content = {"categories": [{"id": 1, "name": "cat"}], "images": [image], "annotations": [row]}
        (tmp_path / "x.json").write_text(json.dumps(content))
        found = import_labels(run, tmp_path / "x.json", who="Ada")
        assert "its segmentation cannot be read (counts: expected whole numbers" in found.problems["a"]
