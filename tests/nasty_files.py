"""A folder of image files as the world has them: sound, odd, damaged, and none at all, under names of every kind."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

END = b"\0\0\0\0IDAT\0\0\0\0"


def pixels(number: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sound(path: Path, number: int) -> None:
    Image.fromarray(pixels(number)).save(path)


def cmyk(path: Path, number: int) -> None:
    Image.fromarray(pixels(number)).convert("CMYK").save(path)


def sixteen_bits(path: Path, number: int) -> None:
    Image.fromarray(np.random.default_rng(number).integers(0, 65536, (24, 32), dtype=np.uint16)).save(path)


def palette_with_transparency(path: Path, number: int) -> None:
    Image.fromarray(pixels(number)).quantize(16).save(path, transparency=3)


def turned(path: Path, number: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(number)).save(path, exif=exif)


def with_broken_exif(path: Path, number: int) -> None:
    Image.fromarray(pixels(number)).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x63broken")


def single_pixel(path: Path, number: int) -> None:
    Image.fromarray(pixels(number, 1, 1)).save(path)


def animation(path: Path, number: int) -> None:
    frames = [Image.fromarray(pixels(number + frame)).quantize(16) for frame in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def link_to_sound(path: Path, number: int) -> None:
    target = path.parent.parent / "elsewhere" / f"{number}.png"
    target.parent.mkdir(exist_ok=True)
    sound(target, number)
    path.symlink_to(target)


def strip(path: Path, number: int) -> None:
    Image.fromarray(pixels(number, 1, 5000)).save(path)


def cut(path: Path, number: int) -> None:
    sound(path, number)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def empty(path: Path, number: int) -> None:
    path.write_bytes(b"")


def text(path: Path, number: int) -> None:
    path.write_text("<html>404: no such photo</html>\n" * (number + 1))


def noise(path: Path, number: int) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + np.random.default_rng(number).bytes(500))


def enormous(path: Path, number: int) -> None:
    """The header of 100,000 x 100,000 pixels, with no pixels behind it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + END
    )


def link_to_itself(path: Path, number: int) -> None:
    path.symlink_to(path)


def link_to_nothing(path: Path, number: int) -> None:
    path.symlink_to(path.with_name("absent"))


def pipe(path: Path, number: int) -> None:
    os.mkfifo(path)


# Of each kind: how its file is made, its ending, and what the error says; "" where it can be labelled.
KINDS: tuple[tuple[Callable[[Path, int], None], str, str], ...] = (
    (sound, ".jpg", ""),
    (cut, ".jpg", "damaged or truncated image"),
    (sound, ".png", ""),
    (cut, ".png", "damaged or truncated image"),
    (sound, ".webp", ""),
    (empty, ".png", "the file is empty"),
    (cmyk, ".jpg", ""),
    (text, ".jpg", "not a JPEG, PNG, WebP, TIFF, BMP, GIF,"),
    (sixteen_bits, ".png", ""),
    (strip, ".png", "4:1"),
    (palette_with_transparency, ".png", ""),
    (link_to_itself, ".png", "symbolic links"),
    (turned, ".jpg", ""),
    (link_to_nothing, ".jpg", "no such file"),
    (with_broken_exif, ".jpg", ""),
    (noise, ".png", "image"),
    (single_pixel, ".png", ""),
    (enormous, ".png", "at most 100 megapixels"),
    (animation, ".gif", ""),
    (pipe, ".png", "the file is empty"),
    (link_to_sound, ".png", ""),
)
# What stands in front of a file's number, as bytes.
NAMES = (
    b"plain",
    b"caf\xe9 ",
    b"two\nlines ",
    b"[brackets] (and) ",
    b"'quo\"tes' ",
    "emoji 🐈 ".encode(),
    b"100% #",
    b"\x1b[31m",
)


def make_nasty_folder(folder: Path, count: int) -> dict[str, str]:
    """Make a folder of `count` files, and links and folders that are none; returns id -> what its error says, or "".

    A file that nobody may read is among them where the user is not root, who may read everything.
    """
    folder.mkdir()
    expected = {}
    for number in range(count):
        make, suffix, reason = KINDS[number % len(KINDS)]
        stem = NAMES[number // 2 % len(NAMES)] + str(number).encode()
        make(Path(os.fsdecode(os.fsencode(folder) + b"/" + stem + suffix.encode())), number)
        expected[stem.decode("utf-8", "backslashreplace")] = reason
    (folder / "folder.png").mkdir()  # not an image, and nothing below it
    (folder / "up").symlink_to(folder)
    (folder / "notes.txt").write_text("no image")
    sound(folder / ".hidden.png", 0)
    long = "n" * (os.pathconf(folder, "PC_NAME_MAX") - 4)
    sound(folder / f"{long}.png", 0)  # its overlay's name would be longer than a file's may be
    expected[long] = "File name too long"
    if os.geteuid():
        sound(folder / "locked.png", 0)
        (folder / "locked.png").chmod(0)
        expected["locked"] = "no permission"
    return expected
