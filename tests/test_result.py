"""A labelled image and its files: exact indices, the same bytes every time, whole files only."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovseg import locks
from ovseg.draw import class_colours, distinct_colours
from ovseg.files import index_png, read_index_png, sweep, write_atomically
from ovseg.result import Segmentation, no_label, save_masks

IMAGE = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)


def example() -> Segmentation:
    """Three masks on 2 x 4 pixels: mask 0 is a cat, mask 1 background, mask 2 without a label."""
    names = ("background", "cat", "dog")
    return Segmentation(
        labels=np.array([[1, 1, 0, 0], [1, 1, 0, 255]], np.uint8),
        names=names,
        colours=class_colours(names),
        masks=np.array([[0, 0, 1, 1], [0, 0, 1, 2]], np.int32),
        mask_scores=np.array([[0.1, 0.8, 0.1], [0.5, 0.25, 0.25], [0.2, 0.2, 0.2]], np.float32),
    )


def by_pixels() -> Segmentation:
    """The same labels, every pixel by itself; the last one's score counts for nothing, for it has no label."""
    scores = np.array([[0.9, 0.7, 0.5, 0.5], [0.8, 0.8, 0.8, 0.3]], np.float32)
    good = example()
    return Segmentation(good.labels, good.names, good.colours, None, None, pixel_scores=scores)


def test_confidence_is_that_of_the_label_each_pixel_got() -> None:
    result = example()
    assert result.confidence.dtype == np.float32
    assert np.allclose(result.confidence, [[0.8, 0.8, 0.5, 0.5], [0.8, 0.8, 0.5, 0]])
    assert np.allclose(result.class_scores("dog"), [[0.1, 0.1, 0.25, 0.25], [0.1, 0.1, 0.25, 0.2]])
    with pytest.raises(ValueError, match="no class 'cow'"):
        result.class_scores("cow")


def test_more_names_than_a_map_can_hold_are_refused() -> None:
    assert [no_label(count) for count in (254, 255, 65534)] == [255, 65535, 65535]
    with pytest.raises(ValueError, match="at most 65534 names fit into a label map, got 65535"):
        no_label(65535)


def test_summary_counts_pixels() -> None:
    assert example().summary() == [
        {"index": 0, "name": "background", "pixels": 3, "share": 0.375, "score": 0.5},
        {"index": 1, "name": "cat", "pixels": 4, "share": 0.5, "score": 0.8},
        {"index": 2, "name": "dog", "pixels": 0, "share": 0.0, "score": None},
    ]


def test_pixels_by_themselves_have_a_score_each_and_no_masks(tmp_path: Path) -> None:
    result = by_pixels()
    assert result.confidence.dtype == np.float32
    assert np.allclose(result.confidence, [[0.9, 0.7, 0.5, 0.5], [0.8, 0.8, 0.8, 0]])
    assert [row["score"] for row in result.summary()] == [0.6, 0.8, None]
    assert result.mask_rows() == []
    with pytest.raises(ValueError, match="class_scores needs masks"):
        result.class_scores("cat")
    with pytest.raises(ValueError, match="no class 'cow'"):
        result.class_scores("cow")
    example().save(tmp_path, "scene")
    result.save(tmp_path, "scene")  # the former mask numbers go
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene.json", "scene.png"]
    facts = json.loads((tmp_path / "scene.json").read_text())
    assert facts["masks"] == [] and facts["classes"] == result.summary()
    assert (read_index_png(tmp_path / "scene.png") == result.labels).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": np.zeros((1, 4), np.uint8)}, r"labels \(1, 4\) and masks \(2, 4\) differ in size"),
        ({"names": ("background", "cat")}, "2 names, but 3 colours"),
        ({"mask_scores": np.zeros((3, 2), np.float32)}, r"3 names, but mask_scores of shape \(3, 2\)"),
        ({"names": ("cat", "dog", "cat")}, "names: 'cat' is there twice"),
        ({"masks": None}, "expected masks and mask_scores, or pixel_scores alone"),
        ({"mask_scores": None}, "expected masks and mask_scores, or pixel_scores alone"),
        ({"masks": None, "mask_scores": None}, "expected masks and mask_scores, or pixel_scores alone"),
        ({"pixel_scores": np.zeros((2, 4), np.float32)}, "expected masks and mask_scores, or pixel_scores alone"),
        (
            {"masks": None, "mask_scores": None, "pixel_scores": np.zeros((2, 4, 1), np.float32)},
            r"labels \(2, 4\) and pixel_scores \(2, 4, 1\)",
        ),
        ({"image": IMAGE[:, :3]}, r"labels \(2, 4\) and image \(2, 3\) differ"),
        ({"image": IMAGE[..., 0]}, r"an image must be a \(H, W, 3\) uint8 array"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(example(), **changes)


def test_a_class_is_asked_for_by_its_name() -> None:
    result = example()
    assert result["cat"].dtype == bool
    assert result["cat"].tolist() == [[True, True, False, False], [True, True, False, False]]
    assert result["background"].tolist() == [[False, False, True, True], [False, False, True, False]]
    assert not result["dog"].any()
    assert "cat" in result and "cow" not in result and 0 not in result
    assert list(result) == ["background", "cat", "dog"]
    for name in ("cow", 0, 255):
        with pytest.raises(ValueError, match=f"no class {name!r} here; the names are background, cat, dog"):
            result[name]  # type: ignore[index]


def test_a_result_saves_its_own_image_or_another(tmp_path: Path) -> None:
    replace(example(), image=IMAGE).save(tmp_path, "own")
    example().save(tmp_path, "given", IMAGE)
    assert (tmp_path / "own.overlay.png").read_bytes() == (tmp_path / "given.overlay.png").read_bytes()
    Image.fromarray(255 - IMAGE).save(tmp_path / "photo.png")
    replace(example(), image=IMAGE).save(tmp_path, "other", tmp_path / "photo.png")
    example().save(tmp_path, "same", 255 - IMAGE)
    assert (tmp_path / "other.overlay.png").read_bytes() == (tmp_path / "same.overlay.png").read_bytes()
    assert (tmp_path / "other.overlay.png").read_bytes() != (tmp_path / "own.overlay.png").read_bytes()
    with pytest.raises(ValueError, match=r"absent\.png: no such file"):
        example().save(tmp_path, "nothing", tmp_path / "absent.png")
    assert not list(tmp_path.glob("nothing*"))


def test_saved_files_hold_the_result_and_have_the_same_bytes_twice(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        example().save(tmp_path / folder, "sub/scene", IMAGE)
    names = sorted(path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*.*"))
    assert names == ["sub/scene.json", "sub/scene.masks.png", "sub/scene.overlay.png", "sub/scene.png"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (read_index_png(tmp_path / "one/sub/scene.png") == example().labels).all()
    assert (read_index_png(tmp_path / "one/sub/scene.masks.png") == example().masks).all()
    facts = json.loads((tmp_path / "one/sub/scene.json").read_text())
    assert (facts["id"], facts["width"], facts["height"], facts["no_label_pixels"]) == ("sub/scene", 4, 2, 1)
    assert facts["classes"] == example().summary()
    assert facts["masks"] == example().mask_rows()


def test_every_mask_in_use_has_a_row_with_its_class() -> None:
    assert example().mask_rows() == [
        {"mask": 0, "class": 1, "score": 0.8, "pixels": 4},
        {"mask": 1, "class": 0, "score": 0.5, "pixels": 3},
        {"mask": 2, "class": None, "score": None, "pixels": 1},
    ]


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_confidence_comes_back_from_the_mask_numbers_and_rows(
    tmp_path_factory: pytest.TempPathFactory, masks: int, count: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    segments = random.integers(0, masks, (6, 9)).astype(np.int32)  # some ids may be in no pixel
    scores = random.random((masks, count), np.float32)
    names = tuple(f"c{index}" for index in range(count))
    labels = scores.argmax(axis=1).astype(np.uint8)[segments]
    result = Segmentation(labels, names, class_colours(names), segments, scores)
    folder = tmp_path_factory.getbasetemp()
    result.save(folder, "scene")
    rows = json.loads((folder / "scene.json").read_text())["masks"]
    kept = read_index_png(folder / "scene.masks.png")
    assert sorted(row["mask"] for row in rows) == sorted(set(kept.ravel().tolist()))
    confidence = np.zeros(kept.shape)
    for row in rows:
        here = kept == row["mask"]
        confidence[here] = row["score"]
        assert (result.labels[here] == row["class"]).all() and here.sum() == row["pixels"]
    assert np.abs(confidence - result.confidence).max() < 1e-6


def test_the_palette_shows_the_colours(tmp_path: Path) -> None:
    example().save(tmp_path, "scene")
    with Image.open(tmp_path / "scene.png") as picture:
        assert picture.mode == "P"
        shown = np.asarray(picture.convert("RGB"))
    assert tuple(shown[0, 0]) == example().colours[1]
    assert tuple(shown[1, 3]) == (255, 255, 255)
    assert not (tmp_path / "scene.overlay.png").exists()


@settings(max_examples=30)
@given(st.integers(1, 256), st.integers(0, 2**32 - 1))
def test_any_8_bit_map_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, values: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, values, (5, 7)).astype(np.uint8)
    path = tmp_path_factory.getbasetemp() / "map.png"
    path.write_bytes(index_png(labels, distinct_colours(values)))
    assert (read_index_png(path) == labels).all()


def test_many_names_take_16_bits(tmp_path: Path) -> None:
    assert (no_label(254), no_label(255)) == (255, 65535)
    labels = np.array([[0, 255, 256, 65535]], np.uint16)
    (tmp_path / "map.png").write_bytes(index_png(labels, distinct_colours(300)))
    back = read_index_png(tmp_path / "map.png")
    assert back.dtype == np.uint16 and (back == labels).all()
    with pytest.raises(ValueError, match="uint8 or uint16"):
        index_png(labels.astype(np.int64), [])


def test_masks_of_over_254_segments_take_16_bits(tmp_path: Path) -> None:
    image = np.zeros((2, 128, 3), np.uint8)
    few, many = np.arange(256).reshape(2, 128) % 254, np.arange(256).reshape(2, 128)
    assert save_masks(tmp_path, "few", image, few) == 254
    assert save_masks(tmp_path, "many", image, many) == 256
    assert read_index_png(tmp_path / "few.png").dtype == np.uint8
    assert (read_index_png(tmp_path / "few.png") == few).all()
    assert (read_index_png(tmp_path / "many.png") == many).all()


def test_a_photo_is_no_index_map(tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="photo.png"):
        read_index_png(tmp_path / "photo.png")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    with pytest.raises(FileNotFoundError, match=r"map\.png: no such file"):
        read_index_png(path)
    whole = index_png(np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8), [])
    header = bytearray(whole[:33])
    header[16:24] = struct.pack(">II", 100_000, 100_000)  # width and height
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    for content in (b"", b"no picture", whole[:20], whole[:-40], bytes(header) + whole[33:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"map\.png: cannot be read as an index map"):
            read_index_png(path)
    with pytest.raises(ValueError, match="cannot be read as an index map"):
        read_index_png(tmp_path)


def test_a_sweep_takes_what_dead_processes_left_of_one_target(tmp_path: Path) -> None:
    stale = [".a[1].71.tmp", ".a[1].72.old", ".a[1].73.tmp"]
    others = ["a[1]", ".a[1].71.txt", ".a1.71.tmp", ".a[1].x.tmp", "a[1].71.tmp", ".b.a[1].71.tmp", ".a[1].71.tmp.tmp"]
    for name in (*stale[1:], *others):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / stale[0]).touch()
    with (tmp_path / ".a[1].74.tmp").open("w") as live:
        locks.keep(live.fileno())  # as `write_atomically` does, in a process that is alive
        sweep(tmp_path / "a[1]")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, ".a[1].74.tmp"])
    sweep(tmp_path / "a[1]")  # it has ended
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    sweep(tmp_path / "not/there")


def test_a_sweep_puts_back_what_was_about_to_be_replaced(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".a.{dead.pid}.old").mkdir()
    (tmp_path / f".a.{dead.pid}.old/file").write_bytes(b"old")
    sweep(tmp_path / "a")
    assert (tmp_path / "a/file").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"
