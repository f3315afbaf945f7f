"""`--engine ray`: the same files as without, whatever dies on the way. A Ray of two CPUs is started by the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.run.folder import read_run
from ovseg.run.ray import parse_workers
from ovseg.run.record import Run

IMAGES = int(os.environ.get("OVSEG_RAY_IMAGES", "40"))


def test_workers_are_a_number_or_a_range() -> None:
    assert parse_workers("4") == (4, 4) and parse_workers(" 2:16 ") == (2, 16)
    for wrong in ("0", "4:2", "", "two", "1:2:3", "-1"):
        with pytest.raises(ValueError, match="workers: expected N or MIN:MAX, from 1, got"):
            parse_workers(wrong)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workers", "2"], "--workers: is for --engine ray"),
        (["--ray-address", "auto"], "--ray-address: is for --engine ray"),
        (["--engine", "ray", "--workers", "x"], "--workers: expected N or MIN:MAX, from 1, got 'x'"),
        (["--engine", "ray", "--shard", "1/2"], "--shard: Ray shares the images out by itself"),
        (["--engine", "ray", "--device", "cuda:1"], "--device: cuda:1: each worker of Ray has a GPU of its own"),
    ],
)
def test_flags_that_cannot_be_cost_one_line(tmp_path: Path, flags: list[str], said: str, capsys) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    arguments = ["masks", str(tmp_path / "a.png"), "--by", "slic", "--preset", "pocket", "--out", str(tmp_path / "out")]
    assert main([*arguments, *flags]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in cells, and one file that is no image."""
    folder = tmp_path_factory.mktemp("ray") / "scenes"
    (folder / "sub").mkdir(parents=True)
    for number in range(IMAGES):
        cells = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(cells.repeat(8, 0).repeat(8, 1)).save(folder / f"{'sub/' * (number % 2)}{number:03}.png")
    (folder / "bad.png").write_text("no image")
    return folder


def command(scenes: Path, out: Path, *more: str) -> list[str]:
    flags = ["--by", "slic", "--masks", "6", "--preset", "pocket", "--device", "cpu"]
    return ["masks", str(scenes), "--out", str(out), *flags, *more]


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.png")}


def actors() -> list[int]:
    """The processes of the pool."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes()
        except OSError:
            continue
        if words.startswith(b"ray::MapWorker"):
            found.append(int(place.parent.name))
    return found


@pytest.mark.slow
def test_an_actor_that_is_killed_costs_nothing_and_the_bytes_are_those_without_ray(
    ray: Any, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    begin = time.monotonic()
    assert main(command(scenes, tmp_path / "plain")) == 1
    plain = time.monotonic() - begin
    whole, note, killed, noted = files(tmp_path / "plain"), Run.note, [], []

    def killing(self: Run, outcome: Any) -> None:
        note(self, outcome)
        noted.append(outcome.item.id)
        if len(noted) == IMAGES // 3 and (found := actors()):
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])

    monkeypatch.setattr(Run, "note", killing)
    capsys.readouterr()
    assert main(command(scenes, tmp_path / "ray", "--engine", "ray", "--workers", "2")) == 1
    printed = capsys.readouterr()
    assert killed and sorted(noted) == sorted(set(noted)) and len(noted) == IMAGES + 1
    assert files(tmp_path / "ray") == whole and len(whole) == 2 * IMAGES
    states = [entry["state"] for entry in read_run(tmp_path / "ray").ids.values()]
    assert states.count("done") == IMAGES and states.count("failed") == 1
    assert "bad: failed: " in printed.err and f"; 1 of {IMAGES + 1} images failed" in printed.err
    assert f"[{IMAGES + 1}/{IMAGES + 1}] " in printed.out + printed.err and "left" in printed.out
    print(f"plain {plain:.1f} s")
    monkeypatch.undo()
    assert main(command(scenes, tmp_path / "ray", "--engine", "ray")) == 1  # again: only the bad one is tried
    assert f"{IMAGES} of {IMAGES + 1} images are finished already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["masks", "--engine", "dask"])
    assert main(command(scenes, tmp_path / "ray", "--engine", "ray", "--masks", "7")) == 2  # another run's folder
    assert "was made with other settings (options.masks 6 and 7)" in capsys.readouterr().err


DRIVER = """
import os, signal, sys
import ray
from ovseg.cli import main
from ovseg.run.record import Run
ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
note, noted = Run.note, []
def dying(self, outcome):
    note(self, outcome)
    noted.append(1)
    if len(noted) == int(os.environ["DYING_AFTER"]):
        self._write()
        os.kill(os.getpid(), signal.SIGKILL)
Run.note = dying
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_where_it_stopped(scenes: Path, tmp_path: Path, capsys) -> None:
    arguments = command(scenes, tmp_path / "out", "--engine", "ray", "--workers", "1:2")
    noted = IMAGES // 3 + 1
    environment = os.environ | {"DYING_AFTER": str(noted)}
    done = subprocess.run([sys.executable, "-c", DRIVER, *arguments], capture_output=True, timeout=600, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    states = [entry["state"] for entry in json.loads((tmp_path / "out/run.json").read_text())["ids"].values()]
    assert noted - 1 <= states.count("done") <= noted  # one of them may be the one that is no image
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files(tmp_path / "out")}
    assert main(arguments) == 1
    assert "images are finished already" in capsys.readouterr().err
    assert main(command(scenes, tmp_path / "plain")) == 1
    assert files(tmp_path / "out") == files(tmp_path / "plain")
    kept = sum((tmp_path / "out" / name).stat().st_mtime_ns == moment for name, moment in before.items())
    assert kept >= 2 * (noted - 1)
