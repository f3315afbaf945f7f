"""Damaged files that hold many images, masks, or labels from other tools: each is read, or named in one line.

Cases are drawn by a fixed seed, see `fuzzing`. Nothing is written outside, fetched, or takes much memory.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from fuzzing import bounded_memory, check_one_line, damage_file, damaged_bytes, refusing_network, seeds
from pyarrow import parquet
from run_folders import write_run
from test_import import as_annotated
from test_mask_files import LAYERS, compressed, rows, uncompressed
from test_stores import image

from ovseg.export import WRITERS, open_images
from ovseg.export.back import READERS, import_labels
from ovseg.mask_files import read_mask_file
from ovseg.run import packed
from ovseg.run.inputs import collect
from ovseg.run.pictures import read_item

ROOM = 2**30  # bytes that a case may take
LABELS = np.pad(np.ones((2, 3), np.uint8), 1)


def tried(path: Path, out: Path) -> None:
    """Every image of an archive is read, or named in a line; as is the archive."""
    packed._members.cache_clear(), packed._parquet.cache_clear(), packed._rows.cache_clear()
    try:
        for item in collect([path], out):
            try:
                read_item(item.path)
            except ValueError as error:
                check_one_line(error, str(path))
    except (ValueError, OSError) as error:
        check_one_line(error, str(path))


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
def test_fuzzed_archives(tmp_path: Path, ending: str) -> None:
    sound, path = io.BytesIO(), tmp_path / f"x{ending}"
    if ending == ".parquet":
        parquet.write_table(pyarrow.table({"image": [image(n) for n in range(3)], "id": ["a", "b", "c"]}), sound)
    else:
        with tarfile.open(fileobj=sound, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name in ("a.png", "ü" * 150 + ".png"):
                entry = tarfile.TarInfo(name)
                entry.size, entry.pax_headers = len(image(0)), {"mtime": "1.5", "comment": "x"}
                archive.addfile(entry, io.BytesIO(image(0)))
    for seed in seeds(100):
        draw, content = random.Random(seed), bytearray(sound.getvalue())
        if draw.random() < 0.3:
            content = bytearray(damaged_bytes(bytes(content), draw))
        elif ending == ".tar":
            damage_header(content, draw)
        else:
            content = bytearray(overwritten(bytes(content), draw))
        path.write_bytes(content)
        try:
            with refusing_network() as asked, bounded_memory(2**30):
                tried(path, tmp_path / "out")
            assert not asked
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error


def damage_header(content: bytearray, draw: random.Random) -> None:
    """One field of a tar header, with a checksum that is right."""
    start = 512 * draw.randrange(len(content) // 512)
    place, length = draw.choice(((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (257, 8), (345, 155)))
    field = bytes(draw.choice(b"\x80\xff0123456789 \0-KLgxSV7") for _ in range(length))
    content[start + place : start + place + length] = field
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])


def test_fuzzed_masks(tmp_path: Path) -> None:
    """A mask file of each form, read for an image."""
    arrays = io.BytesIO(), io.BytesIO()
    np.savez_compressed(arrays[0], LAYERS)
    np.savez(arrays[1], LABELS.astype(np.int32))
    texts = (json.dumps(rows(compressed)), json.dumps({"masks": rows(uncompressed)}))
    kinds = [(".npz", LAYERS.shape[1:], arrays[0].getvalue()), (".npz", LABELS.shape, arrays[1].getvalue())]
    kinds += [(".json", LAYERS.shape[1:], text.encode()) for text in texts]
    for seed in seeds(200):
        draw = random.Random(seed)
        ending, size, content = draw.choice(kinds)
        path = tmp_path / f"a{ending}"
        path.write_bytes(content)
        if ending == ".json" and draw.random() < 0.7:
            damage_file(path, draw)
        else:
            path.write_bytes(overwritten(content, draw) if draw.random() < 0.5 else damaged_bytes(content, draw))
        try:
            with refusing_network() as asked, bounded_memory(ROOM):
                try:
                    assert read_mask_file(tmp_path, "a", size).shape == size
                except ValueError as error:
                    check_one_line(error, str(path))
            assert not asked
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {ending}: {error!r}") from error
        path.unlink()


@pytest.mark.parametrize("format", READERS)
def test_fuzzed_imports(tmp_path: Path, format: str) -> None:
    """A tool's file, brought into a run: what cannot be read is named, and the run stays one that can."""
    run = write_run(tmp_path / "run", {"a": LABELS, "sub/b": LABELS}, ["background", "cat"])
    source = tmp_path / format
    source.mkdir()
    WRITERS[format](open_images(run), source)
    if format == "label-studio":
        as_annotated(source)
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and path.suffix != ".xml"]
    for seed in seeds(40):
        draw = random.Random(seed)
        path = draw.choice(files)
        sound = path.read_bytes()
        if path.suffix == ".json" and draw.random() < 0.8:
            damage_file(path, draw)
        else:
            path.write_bytes(overwritten(sound, draw) if draw.random() < 0.5 else damaged_bytes(sound, draw))
        before = {place for place in tmp_path.rglob("*") if run not in place.parents}
        try:
            with refusing_network() as asked, bounded_memory(ROOM):
                try:
                    found = import_labels(run, source, format, who="Ada")
                    for reason in found.problems.values():
                        check_one_line(ValueError(reason))
                except (ValueError, OSError) as error:
                    check_one_line(error, str(source))
            assert not asked and {place for place in tmp_path.rglob("*") if run not in place.parents} == before
            assert len(list(open_images(run))) == 2
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {path.name}: {error!r}") from error
        finally:
            path.write_bytes(sound)
            for place in [*run.rglob("*.corrected*")]:
                place.unlink()


def overwritten(content: bytes, draw: random.Random) -> bytes:
    """Some bytes other, which archives do not notice before they are unpacked."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 2, 8))):
        changed[draw.randrange(len(changed))] = draw.choice((0, 255, draw.randrange(256)))
    return bytes(changed)
