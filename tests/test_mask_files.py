"""Anyone's masks: files of every form, made by the tools that write them, and each mistake in one line."""

from __future__ import annotations

import io
import json
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import bounded_memory
from PIL import Image
from pycocotools import mask as coco_mask

from ovseg.files import index_png
from ovseg.mask_files import layered, read_mask_file
from ovseg.result import save_masks

# Three masks of 4 x 6 pixels that overlap and leave gaps, and what becomes of them: the smallest is on top, the pixels
# that none covers are one mask more.
LARGE, MIDDLE, SMALL = (np.zeros((4, 6), bool) for _ in range(3))
LARGE[:, :3] = True
MIDDLE[1:3, 2:5] = True
SMALL[2, 2:4] = True
LAYERS = np.stack([MIDDLE, LARGE, SMALL])
EXPECTED = np.array(
    [
        [1, 1, 1, 3, 3, 3],
        [1, 1, 0, 0, 0, 3],
        [1, 1, 2, 2, 0, 3],
        [1, 1, 1, 3, 3, 3],
    ]
)


def compressed(mask: np.ndarray) -> dict[str, Any]:
    """As SAM's generator writes a mask with output_mode="coco_rle"."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths down the columns, the zeros first: (0, 0, 1) -> [2, 1]."""
    edges = [0, *(np.flatnonzero(np.diff(mask.ravel(order="F").astype(int))) + 1).tolist(), mask.size]
    counts = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": ([0, *counts] if mask[0, 0] else counts)}


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def rows(encode: Any) -> list[dict[str, Any]]:
    """SAM's list: the run lengths among other keys."""
    return [{"area": int(mask.sum()), "segmentation": encode(mask), "bbox": [0, 0, 1, 1]} for mask in LAYERS]


def test_run_lengths_by_hand() -> None:
    assert uncompressed(SMALL) == {"size": [4, 6], "counts": [10, 1, 3, 1, 9]}
    assert uncompressed(LARGE) == {"size": [4, 6], "counts": [0, 12, 12]}


@pytest.mark.parametrize(
    "content",
    [
        rows(compressed),
        rows(uncompressed),
        {"masks": rows(compressed)},
        {"image": {"width": 6}, "annotations": rows(uncompressed)},
        [compressed(mask) for mask in LAYERS],
        [{"segmentation": compressed(LAYERS[0])}, *rows(uncompressed)[1:]],
    ],
)
def test_run_lengths_of_every_form(tmp_path: Path, content: object) -> None:
    write_json(tmp_path / "a.json", content)
    labels = read_mask_file(tmp_path, "a", (4, 6))
    assert labels.dtype == np.int32 and labels.tolist() == EXPECTED.tolist()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_layers_in_npz(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "a.npz", masks=LAYERS)
    assert read_mask_file(tmp_path, "a", (4, 6)).tolist() == EXPECTED.tolist()


def test_masks_that_cover_the_image_make_no_mask_more(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.stack([~SMALL, SMALL]))
    assert read_mask_file(tmp_path, "a", (4, 6)).tolist() == SMALL.astype(int).tolist()


def test_of_masks_of_one_size_the_later_is_on_top_and_hidden_ones_take_no_number(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.stack([SMALL, SMALL, MIDDLE]))
    labels = read_mask_file(tmp_path, "a", (4, 6))
    assert labels.tolist() == np.where(SMALL, 0, np.where(MIDDLE, 1, 2)).tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_integers_are_numbered_from_0_in_their_order(tmp_path: Path, dtype: type) -> None:
    values = np.array([[7, 7, 0], [100, 7, 0]], dtype)
    np.savez(tmp_path / "a.npz", values)
    assert read_mask_file(tmp_path, "a", (2, 3)).tolist() == [[1, 1, 0], [2, 1, 0]]
    np.savez(tmp_path / "b.npz", values.astype(np.int64) - 50)
    assert read_mask_file(tmp_path, "b", (2, 3)).tolist() == [[1, 1, 0], [2, 1, 0]]


def test_index_pngs_palette_grey_and_16_bits_in_sub_folders(tmp_path: Path) -> None:
    values = np.array([[7, 7, 0], [200, 7, 0]])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.png").write_bytes(index_png(values.astype(np.uint8), [(n, n, n) for n in range(256)]))
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "sub/b.png")
    Image.fromarray((values * 300).astype(np.uint16)).save(tmp_path / "sub/c.png")
    for name in "abc":
        assert read_mask_file(tmp_path, f"sub/{name}", (2, 3)).tolist() == [[1, 1, 0], [2, 1, 0]]


def test_a_run_folder_of_ovseg_masks_or_label_is_one_too(tmp_path: Path) -> None:
    masks = EXPECTED.astype(np.int32)
    save_masks(tmp_path, "a", np.zeros((4, 6, 3), np.uint8), masks)
    assert np.array_equal(read_mask_file(tmp_path, "a", (4, 6)), masks)
    (tmp_path / "a.png").rename(tmp_path / "a.masks.png")  # as beside labels and their summary
    (tmp_path / "a.png").write_bytes(b"labels")
    write_json(tmp_path / "a.json", {"classes": []})
    assert np.array_equal(read_mask_file(tmp_path, "a", (4, 6)), masks)


def test_a_part_of_compressed_run_lengths_is_not_the_whole(tmp_path: Path) -> None:
    """pycocotools decodes it, with zeros for the rest."""
    for seed in range(20):
        mask = np.random.default_rng(seed).random((37, 41)) < 0.3
        whole = compressed(mask)
        write_json(tmp_path / "a.json", [whole])
        assert np.array_equal(read_mask_file(tmp_path, "a", (37, 41)), 1 - mask)
        write_json(tmp_path / "a.json", [whole | {"counts": whole["counts"][: -1 - seed]}])
        assert "counts cover" in refused(tmp_path, (37, 41))


def refused(folder: Path, size: tuple[int, int] = (4, 6)) -> str:
    with pytest.raises(ValueError) as caught:
        read_mask_file(folder, "a", size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_several_and_other_sizes_are_named(tmp_path: Path) -> None:
    assert refused(tmp_path).endswith("no masks for this image; looked for a.masks.png, a.png, a.npz, a.json") and str(
        tmp_path
    ) in refused(tmp_path)
    np.savez(tmp_path / "a.npz", LAYERS)
    assert "a.npz: cannot be read as masks (masks of 6x4 pixels, but the image has 4x6)" in refused(tmp_path, (6, 4))
    write_json(tmp_path / "a.json", rows(compressed))
    assert "a.npz and a.json both hold masks of this image; keep one" in refused(tmp_path)
    with pytest.raises(ValueError, match="masks_from: this image has no name"):
        read_mask_file(tmp_path, "", (4, 6))


class Evil:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('unpickled')",)


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.array([Evil()], dtype=object))
    assert "a.npz: cannot be read as masks (" in refused(tmp_path) and "got object of shape (1,)" in refused(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"one": LAYERS, "two": LAYERS}, "holds 2 arrays (one, two), expected one"),
        ({}, "holds 0 arrays"),
        (
            {"masks": LAYERS.astype(np.uint8)},
            "expected (H, W) integers or (K, H, W) booleans, got uint8 of shape (3, 4, 6)",
        ),
        ({"masks": LARGE}, "got bool of shape (4, 6)"),
        ({"masks": EXPECTED.astype(float)}, "got float64 of shape (4, 6)"),
        ({"masks": np.zeros((0, 4, 6), bool)}, "got bool of shape (0, 4, 6)"),
    ],
)
def test_other_arrays_are_named(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    assert "a.npz: " in refused(tmp_path) and said in refused(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        *([], {}, 5, None, "x", {"masks": 3}, [3], [{}], [{"segmentation": [[0, 0, 3, 0, 3, 3]]}]),
        *([{"size": [4, 6]}], [{"size": [4, 6], "counts": [3, 4]}], [{"size": [4, 6], "counts": [30, -6]}]),
        *([{"size": [4], "counts": [4]}], [{"size": ["a", 6], "counts": []}], [{"size": [4, 6], "counts": ["x", 3]}]),
        *(
            [{"size": [4, 6], "counts": "\u20ac"}],
            [{"size": [4, 6], "counts": "zzzz~~~"}],
            [{"size": [4, 6], "counts": ""}],
        ),
        [uncompressed(LARGE), uncompressed(np.ones((2, 2), bool))],
    ],
)
def test_other_json_is_named(tmp_path: Path, content: object) -> None:
    write_json(tmp_path / "a.json", content)
    assert 'a.json: expected a list of {"segmentation": {"size": [H, W], "counts": ...}} (' in refused(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.npz", "a.json"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    Image.fromarray(EXPECTED.astype(np.uint8)).save(tmp_path / "whole.png")
    np.savez_compressed(tmp_path / "whole.npz", LAYERS)
    write_json(tmp_path / "whole.json", rows(compressed))
    whole = (tmp_path / f"whole{Path(name).suffix}").read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\xff" + whole[1:], b"[" * 100_000):
        (tmp_path / name).write_bytes(damaged)
        assert f"{tmp_path / name}: " in refused(tmp_path)


def test_a_picture_of_colours_is_no_index_map(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    assert "a.png: expected a palette, grey or 16-bit PNG of indices, got mode RGB" in refused(tmp_path)


def npz_of(header: bytes, method: int = zipfile.ZIP_DEFLATED, data: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a.npy", header + data)
    return buffer.getvalue()


def npy(shape: str, dtype: str = "|b1") -> bytes:
    """The start of an npy file."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def marked(content: bytes, first: int, second: int, value: int) -> bytes:
    """A zip with one byte more in the head of its member and in its table."""
    changed, table = bytearray(content), content.find(b"PK\x01\x02")
    changed[first] |= value
    changed[table + second] |= value
    return bytes(changed)


SOUND = npz_of(npy("(4, 6)"), data=bytes(24))
BROKEN_LZMA = bytearray(npz_of(npy("(4, 6)"), zipfile.ZIP_LZMA, np.random.default_rng(0).bytes(3000)))
BROKEN_LZMA[150:200] = bytes(50)


@pytest.mark.parametrize(
    "content",
    [
        *(npz_of(npy("(100000, 10000, 10000)")), npz_of(npy("(4000000, 4, 6)")), npz_of(npy("(-4, -6)", "<i4"))),
        *(npz_of(npy("(4, 6)", "|O")), npz_of(npy("(4, 6)", "evil")), npz_of(npy(f"({2**62}, 4, 6)"))),
        npz_of(b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"(" * 9000),
        npz_of(b"\x93NUMPY\x01\x00" + struct.pack("<H", 30) + b"__import__('os').getpid()     \n"),
        *(marked(SOUND, 6, 8, 1), marked(SOUND, 8, 10, 98), bytes(BROKEN_LZMA)),  # encrypted; packed in another way
        *(npy("(4, 6)", "<i4") + bytes(96), b"\x80\x04K\x01."),
    ],
)
def test_crafted_arrays_are_named_soon_and_in_little_memory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with bounded_memory(2**29):
        assert f"{tmp_path / 'a.npz'}: cannot be read as masks (" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"size": [1e999, 6], "counts": [24]}]', "no finite number"),
        ('[{"size": [NaN, 6], "counts": [24]}]', "no finite number"),
        ('[{"size": [-4, -6], "counts": [24]}]', "masks of -6x-4 pixels, but the image has 6x4"),
        ('[{"size": ["4", "6"], "counts": [24]}]', "masks of '6'x'4' pixels, but"),
        ('[{"size": [4, 6], "counts": [1.5, 22.5]}]', "counts: expected whole numbers from 0 to 24"),
        ('[{"size": [4, 6], "counts": [true, 23]}]', "counts: expected whole numbers from 0 to 24"),
        (f'[{{"size": [4, 6], "counts": [{10**30}, {24 - 10**30}]}}]', "counts: expected whole numbers from 0 to 24"),
        (f'[{{"size": [4, 6], "counts": "{"o" * 100_000}"}}]', "counts: a number of over 64 bits"),
        ('[{"size": [4, 6], "counts": null}]', "counts cover 0 pixels of 24"),
        ('[{"size": [10000, 10000], "counts": [100000000]}]', "masks of 10000x10000 pixels, but the image has 6x4"),
        (f"[{','.join(['{}'] * 65537)}]", "65537 masks, expected at most 65536 of an image of 6x4"),
        ("[" * 100_000, "not JSON to be read here"),
    ],
)
def test_crafted_run_lengths_are_named_soon_and_in_little_memory(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.json").write_text(content)
    start = time.process_time()
    with bounded_memory(2**29):
        assert f"{tmp_path / 'a.json'}: " in refused(tmp_path) and said in refused(tmp_path)
    assert time.process_time() - start < 2


def test_layers_one_after_the_other_are_as_layers_from_the_largest() -> None:
    for seed in range(50):
        draw = np.random.default_rng(seed)
        masks = draw.random((draw.integers(1, 9), 5, 7)) < draw.random()
        expected = np.full((5, 7), len(masks))
        for number in np.argsort(-masks.sum(axis=(1, 2)), kind="stable"):
            expected[masks[number]] = number
        assert np.array_equal(layered(masks, (5, 7)), expected)
