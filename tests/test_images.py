"""Image files of every kind become the same upright RGB array, and bad ones are refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovseg.images import ImageError, check_array, read_image, read_size

PIXELS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [128, 128, 128], [255, 255, 255]]], np.uint8)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "bmp"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(PIXELS).save(path, lossless=True)  # which WebP alone asks for
    assert (read_image(path) == PIXELS).all()
    assert read_size(path) == (2, 3)


def test_jpeg_comes_close(tmp_path: Path) -> None:
    image = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[:, None, None], (1, 64, 3))
    Image.fromarray(image).save(tmp_path / "image.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "image.jpg").astype(int) - image).max() < 6


def test_phones_multi_picture_jpeg_gives_its_first_picture(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (16, 8), (255, 0, 0)), Image.new("RGB", (16, 8), (0, 0, 255))
    red.save(tmp_path / "image.jpg", format="MPO", save_all=True, append_images=[blue])
    assert read_image(tmp_path / "image.jpg")[..., 0].min() > 250


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, PIXELS),
        (2, PIXELS[:, ::-1]),
        (3, PIXELS[::-1, ::-1]),
        (4, PIXELS[::-1]),
        (5, PIXELS.transpose(1, 0, 2)),
        (6, np.rot90(PIXELS, -1)),
        (7, np.rot90(PIXELS, 2).transpose(1, 0, 2)),
        (8, np.rot90(PIXELS)),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, upright: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ("png", "tif", "jpg"):
        path = tmp_path / f"image.{suffix}"
        Image.fromarray(PIXELS).save(path, exif=exif)
        assert read_size(path) == read_image(path).shape[:2] == upright.shape[:2]
        assert (read_image(path) == upright).all() or suffix == "jpg"


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "image.png")
    # 51 / 255 = a fifth of black over four fifths of white = 204.
    assert read_image(tmp_path / "image.png").tolist() == [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]


def test_grey_with_alpha_and_one_bit_images(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8)).save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png").tolist() == [[[10] * 3, [255] * 3]]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "one.png")
    assert read_image(tmp_path / "one.png").tolist() == [[[255] * 3, [0] * 3]]


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    picture.putpalette([9, 8, 7, 100, 110, 120, 0, 0, 0])
    picture.save(tmp_path / "image.png", transparency=2)
    assert read_image(tmp_path / "image.png").tolist() == [[[9, 8, 7], [100, 110, 120], [255, 255, 255]]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    wide = np.array([[0, 257, 65535], [128 * 257, 300, 1000]], np.uint16)
    Image.fromarray(wide).save(tmp_path / f"image.{suffix}")
    assert read_image(tmp_path / f"image.{suffix}")[..., 1].tolist() == [[0, 1, 255], [128, 1, 4]]


def test_16_bit_colour_png(tmp_path: Path) -> None:
    samples = struct.pack(">6H", 65535, 0, 256 * 128, 0, 65535, 256 * 7)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + samples)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    assert read_image(tmp_path / "image.png").tolist() == [[[255, 0, 128], [0, 255, 7]]]


def test_cmyk(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0, 255, 255, 0], [0, 0, 0, 255]]], np.uint8), mode="CMYK").save(tmp_path / "image.tif")
    assert read_image(tmp_path / "image.tif").tolist() == [[[255, 0, 0], [0, 0, 0]]]


def test_animations_give_their_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    for suffix in ("gif", "png", "webp"):
        path = tmp_path / f"image.{suffix}"
        frames[0].save(
            path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {})
        )
        assert read_image(path)[0, 0].tolist() == [255, 0, 0], suffix


def test_refusals_name_the_file_and_the_reason(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "truncated.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "vector.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "folder.png").mkdir()
    reasons = {
        "truncated.png": "truncated",
        "empty.jpg": "empty",
        "text.png": "not a JPEG",
        "vector.eps": "not a JPEG",
        "float.tif": "floating-point",
        "folder.png": "folder",
        "absent.png": "no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(ImageError, match=reason) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("size", [(10_001, 10_000), (60_000, 60_000)])
def test_absurd_sizes_are_refused_before_decoding(tmp_path: Path, size: tuple[int, int]) -> None:
    # A header alone: decoding it would fail differently.
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + b"\0" * 4)
    with pytest.raises(ImageError, match="at most 100 megapixels"):
        read_image(tmp_path / "huge.png")


@settings(max_examples=60, derandomize=True)
@given(data=st.data())
def test_damaged_files_never_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    suffix = data.draw(st.sampled_from(["png", "jpg", "webp", "tif", "gif", "bmp"]))
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 11, 3), np.uint8)).save(folder / f"image.{suffix}")
    content = bytearray((folder / f"image.{suffix}").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / f"image.{suffix}").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        check_array(read_image(folder / f"image.{suffix}"))
    except ImageError as error:
        assert f"image.{suffix}" in str(error)


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), [1]])
def test_arrays_of_another_kind_are_refused(bad: object) -> None:
    with pytest.raises(ImageError, match="image"):
        check_array(bad)  # type: ignore[arg-type]
