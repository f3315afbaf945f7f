"""Killed at random moments, label, predict, export, import and report end with the same bytes as if they had not been.

200 kills in all are slow tests; a few are in the default suite.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import finish, start

from ovseg.files import index_png, read_index_png
from ovseg.run.folder import read_run

QUICK = ["--preset", "pocket", "--by", "slic", "--masks", "4", "--device", "cpu"]
COMMANDS = ("label", "predict", "export", "import", "report")
KILLS = 40  # of each command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a run over them to export and to report, and corrected labels of it: "photos", "run", "corrected"."""
    place = tmp_path_factory.mktemp("killed")
    (place / "photos").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"photos/{number}.png")
    assert finish([*command("label", place), "--out", str(place / "run")], place / "log") == 0
    (place / "corrected").mkdir()
    for path in sorted((place / "run").glob("[0-9].png")):
        turned = np.flipud(read_index_png(path)).copy()
        (place / f"corrected/{path.name}").write_bytes(index_png(turned, [(0, 0, 0)] * 2))
    return place


def command(name: str, place: Path) -> list[str]:
    """Without what is written: --out, or the run that is imported into."""
    run, formats = (
        str(place / "run"),
        ["--format", "png", "--format", "coco", "--format", "cvat", "--format", "labelme"],
    )
    return {
        "label": ["label", str(place / "photos"), "--classes", "cat,sky", "--keep-analysis", *QUICK],
        "predict": ["eval", "predict", "pocket", "--limit", "6", *QUICK],
        "export": ["export", run, *formats, "--images", "copy", "--overwrite"],
        "import": ["import", "--from", str(place / "corrected"), "--format", "png", "--who", "Ada"],
        "report": ["report", run, "--overwrite"],
    }[name]


def contents(out: Path) -> dict[str, bytes]:
    """Every file, hidden ones as well; of a run's record, which has times, its ids and what was written of them."""
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    if "run.json" in found:
        entries = read_run(out).ids.items()
        found["run.json"] = repr(
            [(id, entry["file"], entry["state"], entry["files"]) for id, entry in entries]
        ).encode()
    times = re.compile(rb'"when": "[^"]*"')
    return {name: times.sub(b"", data) if name.endswith(".corrected.json") else data for name, data in found.items()}


@pytest.mark.parametrize(
    ("name", "kills"),
    [("predict", 1), ("export", 2), ("report", 2), *(pytest.param(n, KILLS, marks=pytest.mark.slow) for n in COMMANDS)],
)
def test_killed_at_random_moments_nothing_half_is_left(name: str, kills: int, place: Path, tmp_path: Path) -> None:
    moments, log, out = random.Random(kills), tmp_path / "log", tmp_path / "out"

    def arguments(folder: Path) -> list[str]:
        if name == "import":  # which changes a run where it is
            if not folder.exists():
                shutil.copytree(place / "run", folder)
            return [*command(name, place), str(folder)]
        return [*command(name, place), "--out", str(folder / "report.html" if name == "report" else folder)]

    begin = time.monotonic()
    assert finish(arguments(tmp_path / "whole"), log) == 0, log.read_text()
    whole, duration = contents(tmp_path / "whole"), time.monotonic() - begin
    while kills:
        process = start(arguments(out), log)
        process.join(moments.uniform(0, duration))
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode == -signal.SIGKILL:
            kills -= 1
            continue
        assert process.exitcode == 0 and contents(out) == whole, log.read_text()  # it was quicker, and begins anew
        shutil.rmtree(out)
    assert finish(arguments(out), log) == 0, log.read_text()
    assert contents(out) == whole and "Traceback" not in log.read_text()
