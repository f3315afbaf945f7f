"""Killed at random moments, label, predict, export and report end with the same bytes as if they had not been."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import finish, start

from ovseg.run.folder import read_run

QUICK = ["--preset", "pocket", "--by", "slic", "--masks", "4", "--device", "cpu"]
COMMANDS = ("label", "predict", "export", "report")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a run over them to export and to report: "photos", "run"."""
    place = tmp_path_factory.mktemp("killed")
    (place / "photos").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"photos/{number}.png")
    assert finish([*command("label", place), "--out", str(place / "run")], place / "log") == 0
    return place


def command(name: str, place: Path) -> list[str]:
    """Without --out, which is a folder."""
    run, formats = (
        str(place / "run"),
        ["--format", "png", "--format", "coco", "--format", "cvat", "--format", "labelme"],
    )
    return {
        "label": ["label", str(place / "photos"), "--classes", "cat,sky", "--keep-analysis", *QUICK],
        "predict": ["eval", "predict", "pocket", "--limit", "6", *QUICK],
        "export": ["export", run, *formats, "--images", "copy", "--overwrite"],
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
    return found


@pytest.mark.parametrize(
    ("name", "kills"),
    [("predict", 1), ("export", 2), ("report", 2), *(pytest.param(n, 50, marks=pytest.mark.slow) for n in COMMANDS)],
)
def test_killed_at_random_moments_nothing_half_is_left(name: str, kills: int, place: Path, tmp_path: Path) -> None:
    moments, log, out = random.Random(kills), tmp_path / "log", tmp_path / "out"

    def arguments(folder: Path) -> list[str]:
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
