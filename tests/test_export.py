"""`ovseg export`: what is read from a run folder, what is refused, and folders that are whole or not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from run_folders import blobs, write_run

from ovseg import export
from ovseg.cli import main
from ovseg.export import WRITERS, LabelledImage, check_names, open_images
from ovseg.export import image as export_image
from ovseg.export import write as export_write
from ovseg.export.write import export as export_images
from ovseg.files import index_png, read_index_png
from ovseg.run.corrections import save

ROOT = Path(__file__).parent.parent
NAMES = ("background", "cat", "dog")
LABELS = np.array([[0, 1, 1], [2, 2, 255]])
ALL = [part for name in WRITERS for part in ("--format", name)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two images, of which one failed and one is not finished besides."""
    maps, states = {"a": LABELS, "sub/b": LABELS[::-1]}, {"bad": "failed", "later": "pending"}
    return write_run(tmp_path / "run", maps, NAMES, scores={1: 0.25}, states=states)


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_an_image_is_one_value(run: Path) -> None:
    first, second = open_images(run)
    assert (first.id, first.source, first.file_name) == ("a", "/photos/a.jpg", "a.jpg")
    assert (second.id, second.file_name) == ("sub/b", "sub/b.jpg")
    assert first.names == NAMES and first.no_label == 255 and len(first.colours) == 3
    assert first.labels.dtype == np.uint8 and (first.labels == LABELS).all()
    assert first.confidence.dtype == np.float32
    assert first.confidence.tolist() == [[0.75, 0.25, 0.25], [0.75, 0.75, 0]]


def test_unsure_pixels_have_no_label(run: Path) -> None:
    image = next(iter(open_images(run, unsure=0.5)))
    assert image.labels.dtype == np.uint8 and image.labels.tolist() == [[0, 255, 255], [2, 2, 255]]
    assert image.confidence.tolist() == [[0.75, 0, 0], [0.75, 0.75, 0]]
    assert (next(iter(open_images(run, unsure=0.25))).labels == LABELS).all()  # under it, not at it


def test_a_threshold_that_cannot_act_is_refused_or_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cats = np.zeros((2, 3), np.int64)
    alone = write_run(tmp_path / "alone", {"a": cats, "b": cats}, ["cat"], scores={0: 1.0})  # a softmax over one name
    arguments = ["export", str(alone), "--format", "png", "--format", "coco", "--unsure", "0.9"]
    assert main([*arguments, "--out", str(tmp_path / "no")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "unsure: 0.9 can never act" in last and "--background words" in last
    assert not [path for path in (tmp_path / "no").rglob("*") if path.suffix == ".png"]
    sigmoid = write_run(tmp_path / "sigmoid", {"a": cats, "b": cats}, ["cat"], scores={0: 0.4})
    assert main([*arguments[:1], str(sigmoid), *arguments[2:], "--out", str(tmp_path / "acts")]) == 0
    assert "unsure" not in capsys.readouterr().err
    assert (read_index_png(tmp_path / "acts/png/a.png") == 255).all()
    assert main(["export", str(sigmoid), "--format", "png", "--unsure", "0.3", "--out", str(tmp_path / "kept")]) == 0
    assert "unsure: no pixel has a score under 0.3, the lowest is 0.4" in capsys.readouterr().err


def test_regions_of_an_image(run: Path) -> None:
    image = next(iter(open_images(run)))
    assert [(region.index, region.score, int(region.mask.sum())) for region in image.regions()] == [
        (0, 0.75, 1),
        (1, 0.25, 2),
        (2, 0.75, 2),
    ]
    assert [region.index for region in image.regions(background=False)] == [1, 2]


def test_the_images_name_comes_from_its_source(tmp_path: Path) -> None:
    sources = {"a": "x/a.JPG", "b": "pocket:evaluation/0/17", "c": "c.dat"}
    run = write_run(tmp_path / "run", dict.fromkeys(sources, LABELS), NAMES, sources=sources)
    assert [image.file_name for image in open_images(run)] == ["a.JPG", "b.png", "c.png"]
    sources = {"a.jpg": "x/a.jpg", "a.png": "x/a.png"}  # two files of one stem
    run = write_run(tmp_path / "two", dict.fromkeys(sources, LABELS), NAMES, sources=sources)
    assert [image.file_name for image in open_images(run)] == ["a.jpg", "a.png"]
    assert [image.paired_name for image in open_images(run)] == ["a.jpg.jpg", "a.png.png"]


def test_a_run_without_mask_files_has_no_confidence(run: Path) -> None:
    for path in run.rglob("*.masks.png"):
        path.unlink()
    assert main(["export", str(run), *ALL, "--out", str(run.parent / "out")]) == 0  # none of them needs it
    assert next(iter(open_images(run))).confidence is None
    with pytest.raises(ValueError, match=r"unsure: needs .*a\.masks\.png"):
        next(iter(open_images(run, unsure=0.5)))


def test_masks_without_scores_give_no_confidence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for id in ("a", "sub/b"):  # `ovseg eval predict` writes masks, but no scores
        (run / f"{id}.json").unlink()
    arguments = ["export", str(run), *ALL, "--out", str(run.parent / "out")]
    assert main(arguments) == 0
    assert next(iter(open_images(run))).confidence is None
    capsys.readouterr()
    assert main([*arguments, "--overwrite", "--unsure", "0.5"]) == 2
    missing = run / "a.json"
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(f"unsure: needs {missing}, which this run did not write")


def problems(run: Path) -> dict[str, str]:
    images = open_images(run)
    list(images)
    return images.problems


def test_damaged_images_are_left_out_and_told_by_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "sub/b.png").write_bytes((run / "sub/b.png").read_bytes()[:200])
    assert "sub/b.png: cannot be read as an index map" in problems(run)["sub/b"]
    assert main(["export", str(run), *ALL, "--out", str(run.parent / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert sum("left out: " in line and "sub/b.png: cannot be read" in line for line in lines) == 1
    assert f"voc: 1 image in {run.parent / 'out/voc'}" in lines
    assert (run.parent / "out/voc/ImageSets/Segmentation/default.txt").read_text() == "a\n"
    (run / "sub/b.png").write_bytes(index_png(np.full((2, 3), 3, np.uint8), []))
    assert "sub/b.png: holds index 3, expected 0..2 or 255 (no label)" in problems(run)["sub/b"]
    facts = json.loads((run / "a.json").read_text())
    (run / "a.json").write_text(json.dumps(facts | {"masks": facts["masks"][1:]}))
    with pytest.raises(ValueError, match=r"no image can be exported; the first: .*a\.json: no score for mask 0"):
        problems(run)
    write_run(run, {"sub/b": LABELS, "a": LABELS}, NAMES)
    (run / "a.json").write_text("{")
    assert "a.json: not JSON" in problems(run)["a"]
    (run / "a.json").write_text(json.dumps(facts))
    (run / "a.masks.png").write_bytes(index_png(np.zeros((2, 2), np.uint8), []))
    assert "a.masks.png: is of 2x2 pixels, the labels of this image are 3x2" in problems(run)["a"]


def test_a_name_that_xml_cannot_hold_is_refused_for_label_studio_alone(run: Path, tmp_path: Path, capsys) -> None:
    names = (*NAMES[:2], "dog\ufffe")
    labels = np.array([[0, 1, 2], [2, 1, 255]])
    written = write_run(tmp_path / "odd", {"a": labels}, names)
    assert main(["export", str(written), "--format", "label-studio", "--out", str(tmp_path / "out")]) == 2
    assert "format: label-studio: class 'dog\\ufffe': XML cannot hold the character U+FFFE" in capsys.readouterr().err
    formats = [part for name in WRITERS if name != "label-studio" for part in ("--format", name)]
    assert main(["export", str(written), *formats, "--out", str(tmp_path / "out")]) == 0
    assert yaml.safe_load((tmp_path / "out/yolo/data.yaml").read_text(encoding="utf-8"))["names"][1] == "dog\ufffe"
    assert json.loads((tmp_path / "out/coco/annotations/instances_default.json").read_text())["categories"][2]["name"]


def test_names_with_control_characters_come_from_no_record(run: Path, tmp_path: Path, capsys) -> None:
    record = json.loads((run / "run.json").read_text())
    for name in ("cat\x1b[31m", "cat\0", "two\nlines", "\ud800", ""):
        (run / "run.json").write_text(json.dumps(record | {"names": ["background", name, "dog"]}))
        assert main(["export", str(run), *ALL, "--out", str(tmp_path / "out")]) == 2
        assert f"{run / 'run.json'}: not the record of a run (names: expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


OUTSIDE = ("../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil", "a//b", "", "\\\\host\\a", "a\0b")


@pytest.mark.parametrize("id", OUTSIDE)
def test_an_id_that_leads_out_of_the_folder_is_refused(id: str, run: Path, tmp_path: Path, capsys) -> None:
    record = json.loads((run / "run.json").read_text())
    record["ids"][id] = record["ids"]["a"]
    (run / "run.json").write_text(json.dumps(record))
    for arguments in (
        ["export", str(run), *ALL, "--out", str(tmp_path / "out")],
        ["report", str(run), "--out", str(tmp_path / "report.html")],
        ["eval", "score", "pocket", "--predictions", str(run), "--out", str(tmp_path / "scores")],
        ["label", str(ROOT / "examples/images"), "--classes", "cat", "--preset", "pocket", "--analyses", str(run)],
    ):
        assert main(arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and f"{run / 'run.json'}: not the record of a run (ids: " in lines[0], lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("cat: small",), "class 'cat: small': labelmap.txt holds no name with a colon"),
        (("#1",), "class '#1'"),
        ((" cat",), "class ' cat'"),
        (("cat", "background"), "two classes of one name"),
        (tuple(f"class {number}" for number in range(5000)), "5001 classes, but their colours are not all different"),
    ],
)
def test_names_are_checked_without_a_run(names: tuple[str, ...], reason: str) -> None:
    for name in ("voc", "cvat"):
        with pytest.raises(ValueError, match=f"^format: {name}: {reason}"):
            check_names(["png", name], names)
    check_names([name for name in WRITERS if name not in ("voc", "cvat")], names)


def test_names_that_one_format_refuses_another_may_hold() -> None:
    check_names(list(WRITERS), NAMES)
    check_names(["cvat"], ("ignored",))
    with pytest.raises(ValueError, match="^format: voc: two classes of one name, or named as background or ignored"):
        check_names(["voc"], ("ignored",))
    most = tuple(f"class {number}" for number in range(254))
    check_names(["voc", "cvat"], ("background", *most))
    check_names(["cvat"], (*most, "one more"))
    with pytest.raises(ValueError, match="^format: voc: at most 255 classes .* got 256"):
        check_names(["cvat", "voc"], (*most, "one more"))


def test_names_are_refused_before_any_format_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", {"a": LABELS}, ("a", "b", "c: d"))
    arguments = ["export", str(run), "--format", "png", "--format", "voc", "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "format: voc: class 'c: d': " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", WRITERS)
def test_images_are_read_one_at_a_time(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    alive: weakref.WeakSet[LabelledImage] = weakref.WeakSet()
    most, read = 0, export_image.ImageSet._sure

    def watched(images: export_image.ImageSet, *arrays: Any) -> LabelledImage:
        nonlocal most
        image = read(images, *arrays)
        alive.add(image)
        most = max(most, len(alive))
        return image

    monkeypatch.setattr(export_image.ImageSet, "_sure", watched)
    run = write_run(tmp_path / "long", {f"{number}": LABELS for number in range(6)}, NAMES)
    (tmp_path / name).mkdir()
    WRITERS[name](open_images(run), tmp_path / name)
    assert 1 <= most <= 2  # the next one is read while the last one is still at hand


def test_every_format_in_a_process_of_its_own(run: Path, tmp_path: Path) -> None:
    def call(out: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ovseg", "export", str(run), *ALL, "--out", str(tmp_path / out)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )

    done = call("one")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "left out: 2 of 4 images (1 failed, 1 unfinished)"
    assert lines[1] == f"png: 2 images in {tmp_path / 'one/png'}"
    assert len(lines) == 1 + len(WRITERS) and done.stdout == ""
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted([*WRITERS, "export.json"])
    assert tree(tmp_path / "one/png") == ["a.png", "legend.json", "sub/b.png"]
    assert tree(tmp_path / "one/voc") == [
        "ImageSets/Segmentation/default.txt",
        "SegmentationClass/a.png",
        "SegmentationClass/sub/b.png",
        "SegmentationObject/a.png",
        "SegmentationObject/sub/b.png",
        "labelmap.txt",
    ]
    assert zipfile.ZipFile(tmp_path / "one/cvat/ovseg.zip").namelist() == [
        "labelmap.txt",
        "SegmentationClass/a.png",
        "SegmentationObject/a.png",
        "SegmentationClass/sub/b.png",
        "SegmentationObject/sub/b.png",
        "ImageSets/Segmentation/default.txt",
    ]
    assert call("two").returncode == 0
    for name in tree(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_help_names_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.split("formats:\n")[1].split("\n\n")[0].splitlines()] == list(WRITERS)


def test_a_new_format_is_a_function_and_an_entry(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_shares(images: export.ImageSet, folder: Path) -> None:
        """A line an image: its id and the share of its pixels that have a label."""
        lines = [f"{image.id},{(image.labels != image.no_label).mean():.3f}\n" for image in images]
        (folder / "shares.csv").write_text("".join(lines))

    monkeypatch.setitem(WRITERS, "shares", write_shares)
    assert main(["export", str(run), "--format", "shares", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/shares/shares.csv").read_text() == "a,0.833\nsub/b,0.833\n"  # 5 of 6 pixels each
    assert list(json.loads((tmp_path / "out/export.json").read_text())) == ["shares"]


def test_an_export_tells_nothing_unless_asked(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    export_images(open_images(run), ["png"], tmp_path / "a")
    export_images(open_images(run), ["png"], tmp_path / "b", tell=told.append)
    assert capsys.readouterr() == ("", "")
    assert told == ["left out: 2 of 4 images (1 failed, 1 unfinished)", f"png: 2 images in {tmp_path / 'b/png'}"]


def test_unsure_reaches_the_files(run: Path, tmp_path: Path) -> None:
    arguments = ["export", str(run), "--format", "png", "--format", "cvat", "--unsure", "0.5"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert read_index_png(tmp_path / "out/png/a.png").tolist() == [[0, 255, 255], [2, 2, 255]]
    with zipfile.ZipFile(tmp_path / "out/cvat/ovseg.zip").open("SegmentationClass/a.png") as file:
        assert [pixel.any() for pixel in np.array(Image.open(file))[0]] == [False, False, False]  # background
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record["cvat"]["unsure"] == 0.5 and record["png"]["run"] == str(run) and record["png"]["images"] == 2


def test_an_export_is_replaced_only_when_asked(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(run), "--format", "png", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    (tmp_path / "out/png/old.png").touch()
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith("png: already there; choose another --out, or --overwrite to replace it\n")
    assert (tmp_path / "out/png/old.png").exists()
    assert main([*arguments, "--overwrite"]) == 0
    assert tree(tmp_path / "out") == ["export.json", "png/a.png", "png/legend.json", "png/sub/b.png"]
    assert main(["export", str(run), "--format", "npz", "--out", str(tmp_path / "out")]) == 0
    assert sorted(json.loads((tmp_path / "out/export.json").read_text())) == ["npz", "png"]


def test_a_folder_of_someone_elses_is_never_replaced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out/png").mkdir(parents=True)
    (tmp_path / "out/png/mine.png").touch()
    assert main(["export", str(run), "--format", "png", "--out", str(tmp_path / "out"), "--overwrite"]) == 2
    assert "does not name it as an export" in capsys.readouterr().err
    assert tree(tmp_path / "out") == ["png/mine.png"]


def test_a_failed_export_leaves_the_old_one_and_nothing_else(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["export", str(run), "--format", "png", "--out", str(tmp_path / "out")]

    def fail(images: export.ImageSet, folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setitem(WRITERS, "png", fail)
        assert main(arguments) == 2
    assert list((tmp_path / "out").iterdir()) == []
    assert main(arguments) == 0
    before = tree(tmp_path / "out")
    monkeypatch.setitem(WRITERS, "png", fail)
    assert main([*arguments, "--overwrite"]) == 2
    assert tree(tmp_path / "out") == before and sorted(os.listdir(tmp_path / "out")) == ["export.json", "png"]


def test_a_folder_that_cannot_take_its_place_brings_the_old_one_back(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["export", str(run), "--format", "png", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    rename, before = os.rename, tree(tmp_path / "out")

    def fail(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError("disk full")
        rename(source, target)

    monkeypatch.setattr("os.rename", fail)
    assert main([*arguments, "--overwrite"]) == 2
    assert tree(tmp_path / "out") == before and sorted(os.listdir(tmp_path / "out")) == ["export.json", "png"]


KILLED_EXPORT = """
import os, signal, sys
from ovseg import export
from ovseg.cli import main

rename, moment = os.rename, sys.argv.pop(1)

def killing(source, target):
    if str(source).endswith(".tmp"):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)

def half(images, folder):
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "renaming":
    os.rename = killing
else:
    export.WRITERS["png"] = half
main(sys.argv[1:])
"""


@pytest.mark.parametrize(("moment", "left"), [("writing", ["png", "tmp"]), ("renaming", ["old", "tmp"])])
def test_the_next_export_clears_what_a_killed_one_left(moment: str, left: list[str], run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["export", str(run), "--format", "png", "--out", str(out)]
    assert main(arguments) == 0
    before = tree(out)
    command = [sys.executable, "-c", KILLED_EXPORT, moment, *arguments, "--overwrite"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    assert sorted(name.split(".")[-1] for name in os.listdir(out) if name[-5:] not in (".json", ".lock")) == left
    assert main(arguments) == 2  # as the old export is there again
    assert tree(out) == before and sorted(os.listdir(out)) == ["export.json", "png"]
    assert main([*arguments, "--overwrite"]) == 0
    assert tree(out) == before


def test_an_export_that_was_killed_before_it_was_noted_is_replaced_like_any(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["export", str(run), "--format", "png", "--out", str(tmp_path / "out")]
    note, calls = export_write._note, [0]

    def killed(*given: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyError("killed")
        note(*given)

    with monkeypatch.context() as patched, pytest.raises(KeyError):
        patched.setattr(export_write, "_note", killed)
        main(arguments)
    assert json.loads((tmp_path / "out/export.json").read_text()) == {"png": {"unfinished": True}}
    assert main([*arguments, "--overwrite"]) == 0
    assert json.loads((tmp_path / "out/export.json").read_text())["png"]["images"] == 2


def test_images_are_copied_where_a_format_has_a_place(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    Image.fromarray(blobs(0, 2, 3, range(256)).astype(np.uint8)).save(photo)
    run = write_run(tmp_path / "run", {"sub/a": LABELS}, NAMES, sources={"sub/a": photo})
    assert main(["export", str(run), *ALL, "--images", "copy", "--out", str(tmp_path / "out")]) == 0
    copies = [name for name in tree(tmp_path / "out") if name.endswith(".jpg")]
    assert copies == [
        "coco-panoptic/images/default/sub/a.jpg",
        "coco/images/default/sub/a.jpg",
        "fiftyone/data/sub/a.jpg",
        "imagefolder/images/sub/a.jpg",
        "label-studio/images/sub/a.jpg",
        "labelme/sub/a.jpg",
        "voc/JPEGImages/sub/a.jpg",
        "yolo/images/sub/a.jpg",
    ]
    assert all((tmp_path / "out" / name).read_bytes() == photo.read_bytes() for name in copies)


def test_images_are_linked_instead(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (3, 2)).save(photo)
    run = write_run(tmp_path / "run", {"sub/a": LABELS}, NAMES, sources={"sub/a": photo})
    assert main(["export", str(run), "--format", "yolo", "--images", "link", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/yolo/images/sub/a.jpg").readlink() == photo.resolve()


def test_corrected_labels_are_exported_unless_the_runs_own_are_asked_for(run: Path, tmp_path: Path) -> None:
    save(run, "a", LABELS[:, ::-1], "Ada")
    for flags, labels in (([], LABELS[:, ::-1]), (["--uncorrected"], LABELS)):
        assert main(["export", str(run), "--format", "png", *flags, "--overwrite", "--out", str(tmp_path / "out")]) == 0
        assert read_index_png(tmp_path / "out/png/a.png").tolist() == labels.tolist()
        assert json.loads((tmp_path / "out/export.json").read_text())["png"]["uncorrected"] == bool(flags)


def test_a_format_whose_package_is_not_installed_says_how_to_get_it(run, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(export.NEEDS, "parquet", ("no_such_package", "parquet"))
    assert main(["export", str(run), "--format", "parquet", "--out", str(tmp_path / "out")]) == 2
    said = "--format: parquet: needs no_such_package, not installed here: pip install 'ovseg[parquet]'"
    assert capsys.readouterr().err == f"ovseg: error: {said}\n"


def test_only_images_of_the_labels_size_are_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(blobs(0, 2, 3, range(256)).astype(np.uint8)).save(tmp_path / "photo.png")
    Image.fromarray(blobs(0, 3, 3, range(256)).astype(np.uint8)).save(tmp_path / "large.png")
    (tmp_path / "secret.png").write_text("root:x:0:0")
    sources = {"a": "photo", "large": "large", "secret": "secret", "gone": "gone"}
    paths = {id: tmp_path / f"{name}.png" for id, name in sources.items()} | {"scene": "pocket:evaluation/0/1"}
    run = write_run(tmp_path / "run", dict.fromkeys(paths, LABELS), NAMES, sources=paths)
    assert main(["export", str(run), *ALL, "--images", "copy", "--out", str(tmp_path / "out")]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if ": the image is not copied: " in line]
    assert [line.split(":")[0] for line in said] == ["gone", "large", "scene", "secret"]  # each once, for six formats
    assert "no such file" in said[0] and "has another size now" in said[1] and "not a JPEG, PNG" in said[3]
    assert [path.name for path in sorted((tmp_path / "out/yolo/images").iterdir())] == ["a.png"]
    assert (tmp_path / "out/yolo/labels/secret.txt").exists()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"root:x" in path.read_bytes()]


def test_odd_file_names_do_not_stop_an_export(tmp_path: Path) -> None:
    ids = ["100% 犬 'x' \"y\", z:1", os.fsdecode(b"caf\xe9"), "sub/ü.v2"]
    run = write_run(tmp_path / "run", dict.fromkeys(ids, LABELS), NAMES)
    formats = [part for name in WRITERS if name != "cvat" for part in ("--format", name)]
    assert main(["export", str(run), *formats, "--out", str(tmp_path / "out")]) == 0
    assert all((tmp_path / f"out/png/{id}.png").exists() for id in ids)
    urls = [task["data"]["image"] for task in json.loads((tmp_path / "out/label-studio/tasks.json").read_text())]
    assert "/data/local-files/?d=caf%E9.jpg" in urls


def test_a_zip_cannot_hold_a_name_that_is_no_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", {os.fsdecode(b"caf\xe9"): LABELS}, NAMES)
    assert main(["export", str(run), "--format", "cvat", "--out", str(tmp_path / "out")]) == 2
    assert "'SegmentationClass/caf\\udce9.png' is no UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["RUN", "--format", "pascal"], "format: pascal: no such format; choose from png, npz, coco,"),
        (["RUN", "--format", "png", "--unsure", "1.5"], "unsure: expected a score from 0 to 1, got 1.5"),
        (["RUN", "--format", "png", "--no-background"], "--no-background: is for coco and coco-panoptic, got png"),
        (["RUN", "--format", "coco-panoptic", "--polygons"], "--polygons: is for coco, got coco-panoptic"),
        (
            ["RUN", "--format", "coco", "--category-ids", "cat"],
            "--category-ids: expected NAME=ID, a whole number from 0",
        ),
        (["RUN", "--format", "coco", "--category-ids", "cat=-1"], "--category-ids: expected NAME=ID, a whole number"),
        (["RUN", "--format", "coco", "--category-ids", "cat=1,dog=1"], "'cat' and 'dog' both have 1"),
        (["RUN", "--format", "coco", "--category-ids", "cat=1,cat=2"], "two ids for one name"),
        (["RUN", "--format", "coco", "--category-ids", "cat=1,dog=2"], "no id for the class 'background'; give each"),
        (["RUN", "--format", "coco", "--category-ids", "/no/ids.json"], "/no/ids.json"),
        (["RUN", "--format", "png", "--unsure", "nan"], "unsure: expected a score from 0 to 1, got nan"),
        (["RUN", "--format", "png", "--out", "RUN/run.json"], "run.json: is a file, expected a folder"),
        (["/no/such", "--format", "png"], "/no/such: not a run folder"),
        (["MASKS", "--format", "png"], "a run of `ovseg masks` without names; expected `ovseg label`'s"),
        (["NONE", "--format", "png"], "none of the run's 1 images is done"),
    ],
)
def test_mistakes_cost_one_line_and_exit_code_2(
    arguments: list[str], reason: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "none", {}, NAMES, states={"a": "failed"})
    masks = json.loads((write_run(tmp_path / "masks", {"a": LABELS}, NAMES) / "run.json").read_text())
    kept = {key: value for key, value in masks.items() if key not in ("names", "colours", "no_label")}
    (tmp_path / "masks/run.json").write_text(json.dumps(kept | {"command": "masks"}))
    places = {"RUN": str(run), "MASKS": str(tmp_path / "masks"), "NONE": str(tmp_path / "none")}
    filled = list(arguments)
    for key, place in places.items():
        filled = [part.replace(key, place) for part in filled]
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
    assert main(["export", *filled, *out]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("left out: ")]
    assert len(lines) == 1 and lines[0].startswith("ovseg: error: ") and reason in lines[0]
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []
