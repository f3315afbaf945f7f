"""Damaged images, and flags with anything in them: each ends in good order, in one line that names what is wrong.

Cases are drawn by a fixed seed, see `fuzzing`.
"""

from __future__ import annotations

import argparse
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

from ovseg.app import server
from ovseg.cli.grammar import parser
from ovseg.files import index_png, read_index_png
from ovseg.images import ImageError, read_image, read_size
from ovseg.pocket.world import picture

ROOM = 2 * 2**30  # bytes that a case may take
SECONDS = 90.0  # of the processors that a case may take: three runs in float16, slow on a CPU, took 33 beside others


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


# What no case may ask for: another program that takes a while to start.
NEVER = {"ray"}


def drawn(draw: random.Random) -> str:
    word = draw.choice(WORDS) if draw.random() < 0.8 else draw.choice(STRANGE)
    return "/dev/null/" if word == "/" else str(word)  # who may write everywhere would find results in "/"


def leaves(parser: argparse.ArgumentParser, name: str = "") -> dict[str, list[argparse.Action]]:
    """The flags of every command that does something, "eval score", by its name."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    found = {name: [action for action in parser._actions if action.option_strings]} if parser._defaults else {}
    for action in below:
        for word, one in action.choices.items():
            found |= leaves(one, f"{name} {word}".strip())
    return found


def drawn_flag(draw: random.Random, actions: list[argparse.Action]) -> list[str]:
    """A flag of these, with what it may be given, or with anything."""
    action = draw.choice(actions)
    flag = draw.choice(action.option_strings)
    if action.nargs == 0 and draw.random() < 0.9 or draw.random() < 0.05:
        return [flag]
    if action.choices and draw.random() < 0.6:
        return [flag, str(draw.choice([choice for choice in action.choices if choice not in NEVER]))]
    return [flag, drawn(draw)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small photo, a clip, a run of each kind with kept analyses, and a map to import."""
    folder = tmp_path_factory.mktemp("inputs")
    pixels = picture("world3/evaluation/0/0")[:48, :48]
    first, second = Image.fromarray(pixels), Image.fromarray(pixels[::-1])
    first.save(folder / "photo.png")
    first.save(folder / "clip.gif", save_all=True, append_images=[second], duration=40)
    few = ["--preset", "pocket", "--device", "cpu", "--masks", "4", "--speed", "fast", "--keep-analysis"]
    label = ["label", folder / "photo.png", "--classes", "cat,grass", "--by", "slic", *few]
    assert run_here(*label, "--out", folder / "labels").returncode == 0
    predict = ["eval", "predict", "pocket", "--by", "slic", "--limit", "1", *few, "--score"]
    assert run_here(*predict, "--out", folder / "predictions").returncode == 0
    (folder / "maps").mkdir()
    shutil.copy(folder / "labels/photo.png", folder / "maps")
    return folder


def commands(inputs: Path, place: Path) -> tuple[list[str], ...]:
    """A sound call of each command. place: of results, where the runs of `inputs` are copied to."""
    classes, pocket, out = ["--classes", "cat,grass"], ["--preset", "pocket"], ["--out", str(place / "out")]
    slic, photo = [*pocket, "--by", "slic", "--masks", "4"], str(inputs / "photo.png")
    labels, predictions = str(place / "labels"), str(place / "predictions")
    return (
        ["label", photo, *classes, *slic, *out],
        ["label", photo, *classes, *slic, "--out", labels],
        ["label", photo, "--classes", "cow,pig", *slic, "--analyses", labels, *out],
        ["label", str(inputs / "clip.gif"), *classes, *slic, *out],
        ["masks", photo, *slic, *out],
        ["explain", photo, *pocket, "--masks", "2", "--steps", "5", "--out", str(place / "figure.png")],
        ["eval", "predict", "pocket", *slic, "--limit", "1", *out],
        ["eval", "check", "pocket"],
        ["eval", "score", "pocket", "--predictions", predictions],
        ["eval", "table", predictions],
        ["eval", "unsupervised", "pocket", "--predictions", predictions],
        ["eval", "ablate", "pocket", *pocket, "--over", "masks=1,2", "--limit", "1", *out],
        ["export", labels, "--format", "png", "--out", str(place / "exports")],
        ["import", labels, "--from", str(inputs / "maps"), "--format", "png"],
        ["report", labels],
        ["app", photo, "--no-browser", *slic, *out],
        ["models"],
        ["models", "fetch", "nothing"],
        ["models", "diffusion"],
        ["models", "towers"],
    )


def test_every_command_has_a_sound_call_to_begin_at(tmp_path: Path) -> None:
    known, called = leaves(parser()), [" ".join(call) for call in commands(tmp_path, tmp_path)]
    assert not [name for name in known if not any(f"{call} ".startswith(f"{name} ") for call in called)]
    flags = {option for actions in known.values() for action in actions for option in action.option_strings}
    assert {"--every", "--detail", "--tile", "--edges", "--refine", "--truth", "--report", "--partial"} <= flags


def test_fuzzed_flags(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command with one to three flags more, most of them its own; what is right is done, on one small image."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(server, "serve", lambda *given, **more: None)
    known = leaves(parser())
    every = [action for actions in known.values() for action in actions]
    before = {path: path.stat().st_mtime_ns for path in inputs.rglob("*")}
    codes = []
    for seed in seeds(60):
        draw, place = random.Random(seed), tmp_path / "place/below/deep"  # "../.." is a place as well
        for run in ("labels", "predictions"):
            shutil.copytree(inputs / run, place / run)
        monkeypatch.chdir(place)
        arguments = [*draw.choice(commands(inputs, place))]
        own = max((name for name in known if f"{' '.join(arguments)} ".startswith(f"{name} ")), key=len)
        for _ in range(draw.randint(1, 3)):
            arguments += drawn_flag(draw, known[own] if draw.random() < 0.8 else every)
        if draw.random() < 0.3:
            arguments[draw.randrange(len(arguments))] = drawn(draw)
        for name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        if draw.random() < 0.1:
            text = drawn(draw).replace("\0", "")[:200]
            monkeypatch.setenv("WORLD_SIZE", text.encode("utf-8", "replace").decode())  # no variable holds others
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
            assert {path: path.stat().st_mtime_ns for path in inputs.rglob("*")} == before
            assert {path.name for path in tmp_path.iterdir()} <= {"place", "hub"}
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {str(arguments)[:300]}: {error!r}") from error
        finally:
            monkeypatch.chdir(tmp_path)
            shutil.rmtree(tmp_path / "place", ignore_errors=True)
    assert {0, 2} <= {*codes}
