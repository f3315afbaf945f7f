"""Damaged images, and flags with anything in them: each ends in good order, in one line that names what is wrong.

Cases are drawn by a fixed seed, see `fuzzing`.
"""

from __future__ import annotations

import io
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import STRANGE, bounded_memory, check_one_line, damaged_bytes, refusing_network, seeds
from PIL import Image
from processes import run_here

from ovseg.files import index_png, read_index_png
from ovseg.images import ImageError, read_image, read_size
from ovseg.pocket.world import picture

ROOM = 2 * 2**30  # bytes that a case may take
SECONDS = 30.0  # of the processors that a case may take


def sound_images() -> dict[str, bytes]:
    """A file of each kind, by its ending."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    whole = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        ".jpg": (whole, {"format": "JPEG", "exif": exif}),
        ".progressive.jpg": (whole, {"format": "JPEG", "progressive": True}),
        ".cmyk.jpg": (whole.convert("CMYK"), {"format": "JPEG"}),
        ".png": (whole, {"format": "PNG"}),
        ".palette.png": (whole.quantize(16), {"format": "PNG", "transparency": 3}),
        ".16.png": (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), {"format": "PNG"}),
        ".gif": (whole.quantize(16), {"format": "GIF", "save_all": True, "append_images": [whole.quantize(8)]}),
        ".webp": (whole, {"format": "WEBP"}),
        ".tif": (whole, {"format": "TIFF", "compression": "tiff_lzw"}),
        ".deflate.tif": (whole, {"format": "TIFF", "compression": "tiff_adobe_deflate"}),
        ".bmp": (whole, {"format": "BMP"}),
    }
    found = {}
    for ending, (image, settings) in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, **settings)
        found[ending] = buffer.getvalue()
    return found


def test_fuzzed_images(tmp_path: Path) -> None:
    """Bytes of image files, read as an image, for its size, and as an index map."""
    kinds = sound_images() | {".map.png": index_png(np.eye(9, dtype=np.uint8), [(1, 2, 3)] * 2)}
    read = 0
    for seed in seeds(400):
        draw = random.Random(seed)
        ending = draw.choice(list(kinds))
        content = kinds[ending]
        for _ in range(draw.choice((1, 1, 2, 5))):
            content = damaged_bytes(content, draw)
        path = tmp_path / f"image{ending}"
        path.write_bytes(content)
        start = time.process_time()
        try:
            for reader in (read_image, read_size, read_index_png):
                with refusing_network() as asked, bounded_memory(ROOM):
                    try:
                        reader(path)
                        read += 1
                    except (ImageError, ValueError) as error:
                        check_one_line(error, str(path))
                assert not asked
            assert time.process_time() - start < SECONDS
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {ending}: {error!r}") from error
    assert read > 0


FLAGS = (
    *("--masks", "--place", "--t-f", "--t-m", "--strength", "--sigma", "--steps", "--seed", "--speed"),
    *("--feature-layer", "--modulated-layer", "--by", "--masks-from", "--dense", "--preset", "--device", "--dtype"),
    *("--background", "--shard", "--analyses", "--format", "--classes", "--classes-file", "--out", "--clip"),
    *("--diffusion", "--injection", "--no-injection", "--keep-analysis", "--overwrite", "--root", "--limit"),
    *("--protocol", "--vocabulary", "--ignore", "--predictions", "--unsure", "--images", "--title", "--over"),
    *("--names", "--category-ids", "--from", "--who", "--regions", "--refine", "--vote", "--merge", "--scope"),
    *("--background-bias", "--pixel-exact", "--polygons", "--no-background", "--uncorrected", "--partial", "--score"),
    *("--components", "--best-label", "--engine", "--workers", "--token", "--host"),
)
WORDS = (
    *(
        "1",
        "0",
        "-1",
        "2/4",
        "1/1",
        "9" * 5000,
        "1e9",
        "1e999",
        "nan",
        "-inf",
        "0x10",
        "1_000",
        "٣",
        "3.5",
        "257",
        "up1.0",
    ),
    *("emerdiff", "naive", "slic", "none", "files", "truth", "pocket", "cpu", "meta", "mps", "float16", "fast"),
    *(
        "cat",
        "cat,dog;puppy",
        "cat,,dog",
        "threshold=0.5",
        "threshold=9",
        "caf\udce9",
        "a/b",
        "/dev/null",
        ".",
        "no/such",
    ),
    *("png", "coco", "label-studio", "world3/evaluation/0", "evaluation/1", "sclip", "masks=1,2", "masks", "copy"),
    *("cat=1", "cat=1,cat=2", "cat=" + "9" * 5000, "names.json", "pamr", "majority", "truth", "attention", "local"),
)


def drawn(draw: random.Random) -> str:
    word = draw.choice(WORDS) if draw.random() < 0.8 else draw.choice(STRANGE)
    return word if isinstance(word, str) else str(word)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(picture("world3/evaluation/0/0")[:48, :48]).save(path)
    return path


def commands(photo: Path, out: Path) -> tuple[list[str], ...]:
    classes, place, pocket = ["--classes", "cat,grass"], ["--out", str(out)], ["--preset", "pocket"]
    return (
        ["label", str(photo), *classes, *pocket, "--by", "slic", "--masks", "4", *place],
        ["masks", str(photo), *pocket, "--by", "slic", "--masks", "4", *place],
        ["explain", str(photo), *pocket, "--masks", "2", "--steps", "5", "--out", str(out / "figure.png")],
        ["eval", "predict", "pocket", *pocket, "--by", "slic", "--masks", "4", "--limit", "1", *place],
        ["eval", "check", "pocket"],
        ["eval", "score", "pocket", "--predictions", str(out)],
        ["eval", "ablate", "pocket", *pocket, "--over", "masks=1,2", "--limit", "1", *place],
        ["export", str(out), "--format", "png", "--out", str(out / "exports")],
        ["import", str(out), "--from", str(out), "--format", "png"],
        ["report", str(out)],
        ["models", "fetch", "nothing"],
    )


def test_fuzzed_flags(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command with one to three flags more, most of them another's; what is right is done, on one small image."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    codes = []
    for seed in seeds(60):
        draw, place = random.Random(seed), tmp_path / "place"
        place.mkdir()
        monkeypatch.chdir(place)
        arguments = [*draw.choice(commands(photo, place / "out"))]
        for _ in range(draw.randint(1, 3)):
            flag = draw.choice(FLAGS)
            arguments += [flag] if draw.random() < 0.1 else [flag, drawn(draw)]
        if draw.random() < 0.3:
            arguments[draw.randrange(len(arguments))] = drawn(draw)
        for name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        if draw.random() < 0.1:
            monkeypatch.setenv("WORLD_SIZE", drawn(draw).replace("\0", "")[:200])
        start = time.process_time()
        try:
            with refusing_network() as asked, bounded_memory(ROOM):
                done = run_here(*arguments)
            codes.append(done.returncode)
            assert not asked and time.process_time() - start < SECONDS
            assert done.returncode in (0, 1, 2) and "Traceback" not in done.stderr, done.stderr[-2000:]
            errors = [line for line in done.stderr.splitlines() if line.startswith("ovseg: error: ")]
            assert len(errors) == (done.returncode == 2), done.stderr
            for line in errors:
                check_one_line(ValueError(line))
            assert not any(path.name.endswith((".tmp", ".lock")) for path in place.rglob("*"))
            assert [path.name for path in photo.parent.iterdir()] == ["photo.png"]
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {str(arguments)[:300]}: {error!r}") from error
        finally:
            monkeypatch.chdir(tmp_path)
            shutil.rmtree(place, ignore_errors=True)
    assert 2 in codes
