"""Images of every kind, files, pictures and arrays, become the same upright RGB array; others are refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovseg import images
from ovseg.images import ImageError, as_image, check_array, read_image, read_size

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


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("jfif", {"format": "JPEG", "quality": 95}),
        ("jpe", {"format": "JPEG", "quality": 95}),
        ("avif", {"quality": 95}),
        ("jp2", {}),  # without loss, as the next ones
        ("ppm", {}),
        ("pnm", {"format": "PPM"}),
        ("heic", {"quality": 95}),
    ],
)
def test_further_formats(tmp_path: Path, suffix: str, options: dict) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()  # to write one
    rows, columns = np.indices((24, 40)) * 5
    image = np.stack([rows, columns, 200 - rows], axis=2).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / f"image.{suffix}", **options)
    found = read_image(tmp_path / f"image.{suffix}")
    assert read_size(tmp_path / f"image.{suffix}") == found.shape[:2] == (24, 40)
    far = np.abs(found.astype(int) - image).max()
    assert far == 0 if suffix in ("jp2", "ppm", "pnm") else far < 20


def test_what_is_not_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.nef").write_bytes(b"II*\0 and more")
    with pytest.raises(ImageError, match=r"a\.nef: (camera raw is not read|damaged)"):
        read_image(tmp_path / "a.nef")
    (tmp_path / "a.svg").write_text("<svg/>")
    with pytest.raises(ImageError, match=r"a\.svg: not read here: convert it to PNG"):
        read_image(tmp_path / "a.svg")
    monkeypatch.setattr(images, "FORMATS", tuple(name for name in images.FORMATS if name != "HEIF"))
    monkeypatch.setitem(images.UNREAD, ".heic", images.OPTIONAL["HEIF"][1])
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ImageError, match=r"a\.heic: HEIC needs pillow-heif: pip install 'ovseg\[heif\]'"):
        read_image(tmp_path / "a.heic")


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
    suffix = data.draw(st.sampled_from(["png", "jpg", "webp", "tif", "gif", "bmp", "avif", "jp2", "ppm"]))
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


def test_a_path_is_read(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    assert (as_image(tmp_path / "image.png") == PIXELS).all()
    assert (as_image(str(tmp_path / "image.png")) == PIXELS).all()
    with pytest.raises(ImageError, match=r"absent\.png: no such file"):
        as_image(str(tmp_path / "absent.png"))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "I;16"])
def test_a_picture_is_what_its_file_is(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.array([[0, 257, 65535], [128 * 257, 300, 1000]], np.uint16))
    else:
        picture = Image.fromarray(PIXELS).convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(np.array([[0, 51, 255], [255, 100, 1]], np.uint8)))
    picture.save(tmp_path / "image.tif")
    before = picture.tobytes()
    assert (as_image(picture) == read_image(tmp_path / "image.tif")).all()
    assert picture.mode == mode and picture.tobytes() == before


def test_a_picture_is_turned_upright_and_stays_open(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "image.png", exif=exif)
    with Image.open(tmp_path / "image.png") as picture:
        assert (as_image(picture) == np.rot90(PIXELS, -1)).all()
        assert picture.size == (3, 2) and (np.asarray(picture) == PIXELS).all()


def test_pictures_that_cannot_be_rgb_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="PIL image: 32-bit integer samples"):
        as_image(Image.new("I", (2, 2)))
    with pytest.raises(ImageError, match="PIL image: floating-point samples"):
        as_image(Image.new("F", (2, 2)))
    with pytest.raises(ImageError, match="PIL image: an image needs at least one pixel"):
        as_image(Image.new("RGB", (0, 2)))
    with pytest.raises(ImageError, match=r"PIL image: 10001 x 10000 pixels; at most 100 megapixels"):
        as_image(Image.new("1", (10_001, 10_000)))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with Image.open(tmp_path / "half.png") as picture, pytest.raises(ImageError, match="truncated"):
        as_image(picture)
    with pytest.raises(ImageError, match="PIL image: its file was closed"):
        as_image(picture)


def test_an_rgb_array_is_itself() -> None:
    assert as_image(PIXELS) is PIXELS
    mirrored = as_image(PIXELS[:, ::-1, ::-1])
    assert mirrored.flags.c_contiguous and (mirrored == PIXELS[:, ::-1, ::-1]).all()


def test_grey_arrays_have_two_axes_or_one_channel() -> None:
    grey = np.array([[0, 10, 255]], np.uint8)
    expected = [[[0] * 3, [10] * 3, [255] * 3]]
    assert as_image(grey).tolist() == as_image(grey[..., None]).tolist() == expected
    assert as_image(grey / 255).tolist() == expected


def test_rgba_arrays_are_laid_over_white(tmp_path: Path) -> None:
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    expected = [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]  # by hand above
    assert as_image(rgba).tolist() == as_image(rgba / 255).tolist() == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_from_0_to_1_give_all_256_values(dtype: type | str) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = as_image((values / 255).astype(dtype))
    assert image.dtype == np.uint8 and (image == values[..., None]).all()
    # Halves round: 0.501 of 255 is 127.755.
    assert as_image(np.full((1, 1), 0.501, dtype)).tolist() == [[[128] * 3]]


def test_what_rounding_left_beside_0_and_1_is_within() -> None:
    assert as_image(np.array([[-1e-7, 1 + 1e-7]])).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (PIXELS.astype(np.float32), "got float32 array of shape (2, 3, 3) from 0 to 255: divide by 255"),
        (np.array([[-2.1, 2.6]]), "got float64 array of shape (1, 2) from -2.1 to 2.6: undo its normalisation"),
        (np.array([[0.5, np.nan]]), "got float64 array of shape (1, 2) with NaN or infinity"),
        (np.array([[0.5, np.inf]]), "with NaN or infinity"),
        (np.zeros((3, 48, 64), np.uint8), "got channels-first shape (3, 48, 64): move the channels last"),
        (np.zeros((1, 48, 64)), "got channels-first shape (1, 48, 64)"),
        (np.zeros((2, 48, 64, 3), np.uint8), "got shape (2, 48, 64, 3): pass the images of a batch one by one"),
        (np.zeros((5, 4, 2), np.uint8), "got shape (5, 4, 2)"),
        (np.zeros(3, np.uint8), "got shape (3,)"),
        (np.zeros((0, 4, 3), np.uint8), "an image needs at least one pixel, got shape (0, 4, 3)"),
        (np.zeros((4, 4, 3), np.int64), "got int64 array of shape (4, 4, 3)"),
        (np.zeros((4, 4, 3), np.uint16), "got uint16 array of shape (4, 4, 3)"),
        (np.zeros((4, 4), bool), "got bool array of shape (4, 4)"),
        (np.zeros((4, 4), complex), "got complex128 array of shape (4, 4)"),
        ([[0, 1]], "got list"),
        (b"image.png", "got bytes"),
        (None, "got NoneType"),
        (7, "got int"),
    ],
)
def test_anything_else_is_refused_with_what_was_got_and_what_is_taken(image: object, reason: str) -> None:
    with pytest.raises(ImageError) as raised:
        as_image(image)
    message = str(raised.value)
    assert reason in message and "\n" not in message
    assert (
        message.startswith("an image is a path, a PIL image, or an array, uint8 or float in 0..1") or "pixel" in reason
    )


def test_torch_tensors_are_arrays() -> None:
    whole = torch.from_numpy(PIXELS)
    assert (as_image(whole) == PIXELS).all()
    assert (as_image((whole / 255).requires_grad_()) == PIXELS).all()
    with pytest.raises(ImageError, match=r"channels-first shape \(3, 48, 64\)"):
        as_image(torch.zeros(3, 48, 64))
    with pytest.raises(ImageError, match=r"got a tensor of torch\.bfloat16 that NumPy cannot hold"):
        as_image(torch.zeros(4, 4, 3, dtype=torch.bfloat16))


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(0, 5), max_size=4),
    dtype=st.sampled_from(["u1", "u2", "i8", "f2", "f4", "f8", "?", "c8"]),
    scale=st.sampled_from([1, 255, -1]),
)
def test_every_array_is_rgb_afterwards_or_an_image_error(shape: list[int], dtype: str, scale: int) -> None:
    image = (np.random.default_rng(0).random(shape) * scale).astype(dtype)
    try:
        taken = as_image(image)
    except ImageError:
        return
    check_array(taken)
    assert taken.shape[:2] == image.shape[:2]
