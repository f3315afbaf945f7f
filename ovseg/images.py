"""Images to arrays: `read_image` for files, `as_image` for whatever a program holds; upright 8-bit RGB or the reason.

Follows Pillow for the decoding and the EXIF standard for the orientation. Colour profiles are not applied, images
without an agreed white (32-bit integer, floating-point files) are refused, and of animations the first frame is read.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

SUFFIXES: dict[str, tuple[str, ...]] = {  # of each format of Pillow's that is read
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),  # MPO, as phones write it, opens as JPEG
    "PNG": (".png",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
OPTIONAL = {  # formats that not every installation reads -> the module that does, and how to get it
    "AVIF": ("PIL._avif", "AVIF needs a newer Pillow: pip install 'pillow>=11.3'"),
    "HEIF": ("pillow_heif", "HEIC needs pillow-heif: pip install 'ovseg[heif]'"),
}
FORMATS = tuple(name for name in SUFFIXES if name not in OPTIONAL or find_spec(OPTIONAL[name][0]))
IMAGE_SUFFIXES = frozenset(suffix for name in FORMATS for suffix in SUFFIXES[name])
RAW = "camera raw is not read: develop it to JPEG or TIFF"
CONVERT = "not read here: convert it to PNG"
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv", ".ogv")
UNREAD = {  # endings of files that look like images -> why they are not read
    **{suffix: OPTIONAL[name][1] for name in SUFFIXES if name not in FORMATS for suffix in SUFFIXES[name]},
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"), RAW),
    **dict.fromkeys((".exr", ".hdr", ".pfm"), "their samples have no agreed white: save the image with 8 or 16 bits"),
    **dict.fromkeys(VIDEOS, "a video: give it to `ovseg label` by its own name"),
    **dict.fromkeys((".jxl", ".svg", ".psd", ".xcf", ".tga", ".ico", ".pcx", ".dds"), CONVERT),
}
KINDS = "JPEG, PNG, WebP, TIFF, BMP, GIF, PPM, JPEG 2000, AVIF or HEIC"
MAX_PIXELS = 100_000_000  # some 300 MB as RGB; beyond it a file is a mistake or an attack
TOO_LARGE = f"at most {MAX_PIXELS // 10**6} megapixels are read: make it smaller first"
TAKEN = (
    "an image is a path, a PIL image, or an array, uint8 or float in 0..1, of shape (H, W), (H, W, 1), (H, W, 3) or "
    "(H, W, 4)"
)
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange rows and columns
# What Pillow's decoders are known to raise on damaged files.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, IndexError, struct.error, zlib.error)


ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray  # what `as_image` takes, torch tensors besides


class ImageError(ValueError):
    """An image that cannot be used; the message names the reason, and the file if it is one."""


def as_image(image: object) -> np.ndarray:
    """Any usual form of an image as upright RGB.

    image: one of
        a path (str or Path), read by `read_image`;
        a PIL image, treated as `read_image` treats a file (EXIF, palette, grey, transparency, 16 bits);
        an array or torch tensor, uint8, or float in 0..1 (multiplied by 255 and rounded): grey (H, W) or (H, W, 1),
        RGB (H, W, 3), or RGBA (H, W, 4), which is laid over white.
    Returns: (H, W, 3) uint8, contiguous; an array that is that already is returned itself, not copied.
    Raises: `ImageError` for anything else, with what was got and what is taken.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return _from_picture(image)
    if (type(image).__module__, type(image).__name__) == ("torch", "Tensor"):
        image = _from_tensor(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    raise ImageError(f"{TAKEN}; got {type(image).__name__}")


def read_image(path: str | Path, data: bytes | None = None) -> np.ndarray:
    """Read an image file as upright RGB. data: its content, if it is none on this disk; `path` then names it.

    Handles the formats of `SUFFIXES`; EXIF orientation is applied; transparent pixels are laid over white;
    palette, greyscale and CMYK are converted; 16-bit samples are scaled so that 65535 becomes 255.

    Returns: (H, W, 3) uint8, rows from the top.
    Raises: `ImageError` naming the file if it is missing, empty, truncated, no image, or over 100 megapixels.
    """
    with _opened(path, data) as picture:
        return _to_rgb(picture)


def read_size(path: str | Path) -> tuple[int, int]:
    """(H, W) in pixels from the file's header, upright by its EXIF. Raises `ImageError` as `read_image`."""
    with _opened(path) as picture:
        columns, rows = picture.size
        if isinstance(picture, TiffImageFile):  # whose size newer Pillows have turned already
            columns, rows = (int(picture.tag_v2[tag]) for tag in (IMAGEWIDTH, IMAGELENGTH))
        # The base class' method, because PNG's own decodes the image.
        sideways = Image.Image.getexif(picture).get(ExifTags.Base.Orientation) in SIDEWAYS
        return (columns, rows) if sideways else (rows, columns)


@contextmanager
def _opened(path: str | Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """The file, opened but not decoded; whatever fails while it is open becomes an `ImageError` with its name."""
    file, suffix = Path(path), Path(path).suffix.lower()
    try:
        if data is None and file.is_dir():
            raise ImageError("is a folder, not an image")
        if not (file.stat().st_size if data is None else data):
            raise ImageError("the file is empty")
        with warnings.catch_warnings():
            # Pillow warns from 89 megapixels on, but the limit that counts is ours; and of damaged EXIF, which is
            # no reason to refuse the pixels.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            with Image.open(file if data is None else io.BytesIO(data), formats=_formats(suffix)) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise ImageError(f"{picture.width} x {picture.height} pixels; {TOO_LARGE}")
                yield picture
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except PermissionError as error:
        raise ImageError(f"{path}: no permission to read it") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: {TOO_LARGE}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: {UNREAD.get(suffix, f'not a {KINDS} image')}") from error
    except BROKEN as error:
        raise ImageError(f"{path}: damaged or truncated image ({error})") from error


def _formats(suffix: str) -> tuple[str, ...]:
    """The formats that a file of this ending may have: HEIC where it says so, as its reader takes a while to load."""
    if "HEIF" not in FORMATS or suffix not in SUFFIXES["HEIF"]:
        return tuple(name for name in FORMATS if name != "HEIF")
    import_module("pillow_heif").register_heif_opener()
    return FORMATS


def check_array(image: np.ndarray) -> None:
    """Raise `ImageError` unless `image` is an (H, W, 3) uint8 array with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = _kind(image) if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"an image must be a (H, W, 3) uint8 array, got {got}")
    if image.size == 0:
        raise ImageError(f"an image needs at least one pixel, got shape {image.shape}")


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} array of shape {array.shape}"


def _from_picture(picture: Image.Image) -> np.ndarray:
    """A PIL image as (H, W, 3) uint8; the picture itself stays as it was."""
    if picture.width * picture.height > MAX_PIXELS:
        raise ImageError(f"PIL image: {picture.width} x {picture.height} pixels; {TOO_LARGE}")
    try:
        pixels = _to_rgb(picture)
        check_array(pixels)
    except ImageError as error:
        raise ImageError(f"PIL image: {error}") from error
    except AssertionError as error:  # Pillow's word for a file that was closed before it was decoded
        raise ImageError("PIL image: its file was closed before its pixels were read") from error
    except BROKEN as error:  # a damaged file that Pillow decodes only now
        raise ImageError(f"PIL image: damaged or truncated image ({error})") from error
    return pixels


def _from_tensor(tensor: Any) -> np.ndarray:
    try:
        return tensor.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:  # bfloat16, which NumPy has not; sparse tensors
        raise ImageError(f"{TAKEN}; got a tensor of {tensor.dtype} that NumPy cannot hold ({error})") from error


def _from_array(array: np.ndarray) -> np.ndarray:
    """Grey, RGB or RGBA, uint8 or float in 0..1, as (H, W, 3) uint8."""
    shape = array.shape
    if array.ndim == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        raise ImageError(
            f"{TAKEN}; got channels-first shape {shape}: move the channels last, as image.transpose(1, 2, 0) does"
        )
    if array.ndim == 4:
        raise ImageError(f"{TAKEN}; got shape {shape}: pass the images of a batch one by one")
    if not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))):
        raise ImageError(f"{TAKEN}; got shape {shape}")
    if array.size == 0:
        raise ImageError(f"an image needs at least one pixel, got shape {shape}")
    if array.dtype != np.uint8:
        array = _to_8_bits(array)
    if array.ndim == 2 or shape[2] == 1:
        array = np.repeat(array.reshape(*shape[:2], 1), 3, axis=2)
    if array.shape[2] == 4:
        array = _over_white(Image.fromarray(np.ascontiguousarray(array)))
    return np.ascontiguousarray(array)


def _to_8_bits(array: np.ndarray) -> np.ndarray:
    """Floats from 0 (black) to 1 (white) as uint8; what rounds into 0..255 counts as within."""
    if array.dtype.kind != "f":
        raise ImageError(f"{TAKEN}; got {_kind(array)}")
    wide = array.astype(np.result_type(array, np.float32), copy=False)
    low, high = float(wide.min()), float(wide.max())  # NaN if any is
    if not np.isfinite([low, high]).all():
        raise ImageError(f"{TAKEN}; got {_kind(array)} with NaN or infinity")
    if round(low * 255) < 0 or round(high * 255) > 255:
        remedy = "divide by 255" if low >= 0 else "undo its normalisation"
        raise ImageError(f"{TAKEN}; got {_kind(array)} from {low:.4g} to {high:.4g}: {remedy}")
    return np.rint(wide * 255).astype(np.uint8)


def _to_rgb(picture: Image.Image) -> np.ndarray:
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16"):
        # Pillow's own convert() clips at 255 instead of scaling.
        wide = np.asarray(upright).astype(np.uint32)
        grey = ((wide + 128) // 257).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2))
    if upright.mode in ("I", "F"):
        kind = "32-bit integer" if upright.mode == "I" else "floating-point"
        raise ImageError(f"{kind} samples have no agreed white; save the image with 8 or 16 bits a channel")
    if upright.has_transparency_data:
        return _over_white(upright.convert("RGBA"))
    return np.array(upright.convert("RGB"), dtype=np.uint8)


def _over_white(layer: Image.Image) -> np.ndarray:
    """An RGBA picture laid over white: (H, W, 3) uint8."""
    whole = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(whole.convert("RGB"), dtype=np.uint8)
