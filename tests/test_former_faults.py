"""Mistakes that once ended in tracebacks or in silence, by the command line: one line each, by flag or variable."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import bounded_memory
from PIL import Image
from processes import run_here
from run_folders import blobs, write_run

MASKS = ("masks", "photo.png", "--preset", "pocket", "--by", "slic", "--masks", "4", "--device", "cpu", "--out", "out")
LABEL = ("label", "photo.png", "--preset", "pocket", "--by", "slic", "--out", "out")
NUMBER = "expected a number from {} in the environment, as launchers set it, got {}"
CASES: dict[str, tuple[tuple[str, ...], dict[str, str], str]] = {  # name -> arguments, environment, what is said
    "world": (MASKS, {"RANK": "0", "WORLD_SIZE": "abc"}, f"WORLD_SIZE: {NUMBER.format('1 to 999999', repr('abc'))}"),
    "rank": (MASKS, {"RANK": "9" * 5000, "WORLD_SIZE": "2"}, f"RANK: {NUMBER.format('0 to 1', '5000 characters')}"),
    "shard": ((*MASKS, "--shard", "9" * 5000 + "/2"), {}, "--shard: expected i/n with i from 1 to n, such as 2/4, got"),
    "bytes": ((*LABEL, "--classes", os.fsdecode(b"caf\xe9")), {}, r"--classes: expected UTF-8 text, got b'caf\xe9'"),
    "nothing": (("label", "photo.png", "--classes", "cat", "--out", ""), {}, "--out: expected something, got ''"),
    "sigma": ((*MASKS, "--by", "naive", "--sigma", "1e9"), {}, "--sigma: expected at most the base size, 128 pixels"),
    "masks": ((*MASKS, "--by", "naive", "--masks", "5000"), {}, "--masks: at most "),
    **{
        device: ((*MASKS, "--device", device), {}, f"--device: '{device}' cannot be used here; expected auto, cpu")
        for device in ("meta", "hpu", "privateuseone", "ipu", "cuda:-1")
    },
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a photo."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save("photo.png")
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_in_a_flag_or_the_environment_is_one_line(case: str, folder: Path, monkeypatch) -> None:
    arguments, environment, said = CASES[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = run_here(*arguments)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith(("warning: ", "device: "))]
    assert len(errors) == 1 and errors[0].startswith(f"ovseg: error: {said}") and len(errors[0]) < 1000, done.stderr
    assert {path.name for path in folder.iterdir()} == {"photo.png"}


def test_a_full_disk_is_one_line_with_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = os.replace

    def full(source: Any, target: Any, **more: Any) -> None:
        if str(target).endswith("photo.png"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        kept(source, target, **more)

    monkeypatch.setattr(os, "replace", full)
    done = run_here(*MASKS)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (failed,) = [line for line in done.stderr.splitlines() if ": failed: " in line]
    assert "No space left on device" in failed and "out/photo.png" in failed
    assert not [path for path in (folder / "out").rglob("*") if path.name.endswith(".tmp")]


def test_names_that_are_no_utf_8_are_scored(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    for place in ("data/images", "data/labels", "maps"):
        (folder / place).mkdir(parents=True)
        Image.fromarray(np.zeros((3, 4), np.uint8)).save(folder / place / name)
    (folder / "data/classes.txt").write_text("a\nb\n")
    (folder / "maps/x\x1b[31m\ny.png").write_bytes(b"none")
    assert run_here("eval", "check", "custom", "--root", "data").returncode == 0
    done = run_here("eval", "score", "custom", "--root", "data", "--predictions", "maps", "--out", "scores")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "left out: 1 files of maps that are no image of custom, such as x\\x1b[31m\\ny.png"
    ]
    assert "caf" in (folder / "scores/images.csv").read_text(encoding="utf-8", errors="strict")


ENDLESS = ("run/run.json", "run/a.json", "run/a.png", "truth/a.png", "data/labels/a.png")
COMMANDS = (
    ("report", "run", "--truth", "truth", "--overwrite"),
    ("export", "run", "--format", "npz", "--out", "exports", "--overwrite"),
    ("eval", "check", "custom", "--root", "data"),
    ("eval", "score", "custom", "--root", "data", "--predictions", "run", "--out", "scores"),
    ("eval", "table", "scores"),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two images, its truth, a data set, and scores."""
    folder = tmp_path_factory.mktemp("sound")
    maps = {id: blobs(number, 20, 30, [0, 1, 255]) for number, id in enumerate("ab")}
    write_run(folder / "run", maps, ("cat", "dog"))
    for place in ("truth", "data/labels", "data/images"):
        (folder / place).mkdir(parents=True)
        for id, labels in maps.items():
            Image.fromarray(labels.astype(np.uint8)).save(folder / place / f"{id}.png")
    (folder / "data/classes.txt").write_text("cat\ndog\n")
    return folder


@pytest.mark.parametrize("kind", ["zeros", "pipe"])
@pytest.mark.parametrize("name", ENDLESS)
def test_files_that_never_end_are_named_soon(name: str, kind: str, sound: Path, folder: Path) -> None:
    shutil.copytree(sound, folder, dirs_exist_ok=True)
    assert run_here(*COMMANDS[3]).returncode == 0
    (folder / name).unlink()
    if kind == "zeros":
        (folder / name).symlink_to("/dev/zero")
    else:
        os.mkfifo(folder / name)
    said = []
    for command in COMMANDS:
        with bounded_memory(2**30):
            done = run_here(*command)
        assert done.returncode in (0, 1, 2) and "Traceback" not in done.stderr, done.stderr
        said.append(done.stderr + done.stdout)
    if (page := folder / "run/report.html").is_file():
        said.append(page.read_text())
    assert name == "run/a.json" or any(name in one for one in said), said  # scores may be missing


def test_where_no_truth_can_be_read_its_file_is_named(sound: Path, folder: Path) -> None:
    shutil.copytree(sound, folder, dirs_exist_ok=True)
    (folder / "truth/a.png").write_bytes(b"none")
    (folder / "truth/b.png").unlink()
    done = run_here(*COMMANDS[0])
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "truth/a.png: cannot be read as an index map" in done.stderr
