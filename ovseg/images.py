"""Image files to arrays: one function, `read_image`, which either returns upright 8-bit RGB or says why not.

Follows Pillow for the decoding and the EXIF standard for the orientation. It does not apply colour profiles, does not
guess at images without an agreed white (32-bit integer, floating point), and reads only the first frame of animations.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # MPO, as phones write it, opens as JPEG
MAX_PIXELS = 100_000_000  # some 300 MB as RGB; beyond it a file is a mistake or an attack
TOO_LARGE = f"at most {MAX_PIXELS // 10**6} megapixels are read: make it smaller first"
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange rows and columns
# What Pillow's decoders are known to raise on damaged files.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, IndexError, struct.error, zlib.error)


class ImageError(ValueError):
    """An image that cannot be used; the message names the file and the reason."""


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as upright RGB.

    Handles JPEG, PNG, WebP, TIFF, BMP and GIF; EXIF orientation is applied; transparent pixels are laid over white;
    palette, greyscale and CMYK are converted; 16-bit samples are scaled so that 65535 becomes 255.

    Returns: (H, W, 3) uint8, rows from the top.
    Raises: `ImageError` naming the file if it is missing, empty, truncated, no image, or over 100 megapixels.
    """
    with _opened(Path(path)) as picture:
        return _to_rgb(picture)


def read_size(path: str | Path) -> tuple[int, int]:
    """(H, W) in pixels from the file's header, upright by its EXIF. Raises `ImageError` as `read_image`."""
    with _opened(Path(path)) as picture:
        columns, rows = picture.size
        if isinstance(picture, TiffImageFile):  # whose size newer Pillows have turned already
            columns, rows = (int(picture.tag_v2[tag]) for tag in (IMAGEWIDTH, IMAGELENGTH))
        # The base class' method, because PNG's own decodes the image.
        sideways = Image.Image.getexif(picture).get(ExifTags.Base.Orientation) in SIDEWAYS
        return (columns, rows) if sideways else (rows, columns)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file, opened but not decoded; whatever fails while it is open becomes an `ImageError` with its name."""
    try:
        if path.is_dir():
            raise ImageError("is a folder, not an image")
        if path.stat().st_size == 0:
            raise ImageError("the file is empty")
        with warnings.catch_warnings():
            # Pillow warns from 89 megapixels on, but the limit that counts is ours; and of damaged EXIF, which is
            # no reason to refuse the pixels.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            with Image.open(path, formats=FORMATS) as picture:
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
        raise ImageError(f"{path}: not a JPEG, PNG, WebP, TIFF, BMP or GIF image") from error
    except _BROKEN as error:
        raise ImageError(f"{path}: damaged or truncated image ({error})") from error


def check_array(image: np.ndarray) -> None:
    """Raise `ImageError` unless `image` is an (H, W, 3) uint8 array with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"an image must be a (H, W, 3) uint8 array, got {got}")
    if image.size == 0:
        raise ImageError(f"an image needs at least one pixel, got shape {image.shape}")


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
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(upright.convert("RGB"), dtype=np.uint8)
