"""Folders as they come: files of every kind in one run, and runs that are interrupted, killed, or very long."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
from nasty_files import make_nasty_folder
from PIL import Image
from processes import finish, start

from ovseg.cli import main
from ovseg.run.folder import read_run
from ovseg.run.images import LABELS, MASKS, OVERLAY, SUMMARY

LABEL_FILES = (SUMMARY, MASKS, OVERLAY, LABELS)


@pytest.fixture
def label(tiny_diffusion: Path, tiny_clip: Path) -> list[str]:
    """A quick `ovseg label`, to which inputs and --out are added."""
    quick = ["--masks", "2", "--steps", "5", "--background", "none", "--device", "cpu"]
    return ["label", "--classes", "cat,sky", "--diffusion", str(tiny_diffusion), "--clip", str(tiny_clip), *quick]


def make_images(folder: Path, count: int, scale: int = 1) -> Path:
    """Noise of 24 to 39 rows of 32 cells, each of scale x scale pixels."""
    folder.mkdir()
    for number in range(count):
        cells = np.random.default_rng(number).integers(0, 256, (24 + number % 16, 32, 3), dtype=np.uint8)
        Image.fromarray(cells.repeat(scale, 0).repeat(scale, 1)).save(folder / f"image{number:03}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder, half ones included; of records all but versions and timings."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in (name for name in found if name.startswith("run")):
        record = json.loads(found[name])
        del record["timings"], record["versions"]
        for entry in record["ids"].values():
            entry.pop("seconds", None)
        found[name] = json.dumps(record).encode()
    return found


def assert_true(out: Path) -> None:
    """What the record calls done is there, whole; one image at most, the one at hand, has only some of its files."""
    begun = 0
    for id, entry in read_run(out).ids.items():
        there = [(out / f"{id}{suffix}").is_file() for suffix in LABEL_FILES]
        assert all(there) or entry["state"] == "pending"
        begun += any(there) and not all(there)
    assert begun <= 1


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_a_folder_of_odd_files_is_labelled_as_far_as_it_can_be(
    count: int, label: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = make_nasty_folder(tmp_path / "photos", count)
    bad = {id: reason for id, reason in expected.items() if reason}
    arguments = [*label, str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    assert len(expected) >= count * 0.9 and len(bad) > count / 4 and len(expected) - len(bad) > count / 4
    first: dict[str, int] = {}
    for call in (1, 2):
        assert main(arguments) == 1
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err and f"; {len(bad)} of {len(expected)} images failed" in printed.err
        lines = [line for line in printed.err.splitlines() if ": failed: " in line]
        assert len(lines) == len(bad)
        assert len(printed.out.splitlines()) == (len(expected) - len(bad) if call == 1 else 0)  # only what is left
        ids = read_run(tmp_path / "out").ids
        assert {id: entry["state"] for id, entry in ids.items()} == {
            id: "failed" if reason else "done" for id, reason in expected.items()
        }
        for id, reason in bad.items():
            error = ids[id]["error"]
            assert reason in error, (id, error)
            shown = id.replace("\n", r"\n").replace("\x1b", r"\x1b")
            assert any(f"] {shown}: failed: " in line and reason in line for line in lines), (id, lines)
        times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
        del times["run.json"]
        assert len(times) == 4 * (len(expected) - len(bad))
        first = first or times
        assert times == first


def test_one_interrupt_ends_the_run_in_good_order_and_the_same_command_goes_on(
    label: list[str], tmp_path: Path
) -> None:
    folder, log = make_images(tmp_path / "photos", 8), tmp_path / "log"
    arguments = [*label, str(folder), "--out", str(tmp_path / "out")]
    process = start(arguments, log)
    wait_for(lambda: (tmp_path / "out/image001.json").exists(), process)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    assert "stopping after this image" in log.read_text() and "ovseg: interrupted" in log.read_text()
    assert "Traceback" not in log.read_text()
    states = Counter(entry["state"] for entry in read_run(tmp_path / "out").ids.values())
    assert states["done"] >= 2 and states["pending"] >= 1 and states.total() == 8
    before = contents(tmp_path / "out")
    assert len(before) == 1 + 4 * states["done"]  # whole images only, and the record
    assert finish(arguments, log) == 0
    assert f"{states['done']} of 8 images are finished already" in log.read_text()
    after = contents(tmp_path / "out")
    assert len(read_run(tmp_path / "out").done) == 8
    assert {name: after[name] for name in before if name != "run.json"} == {
        name: content for name, content in before.items() if name != "run.json"
    }


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_a_run_started_with_interrupts_ignored_goes_on_to_its_end(label: list[str], tmp_path: Path) -> None:
    folder, log = make_images(tmp_path / "photos", 6), tmp_path / "log"
    process = start([*label, str(folder), "--out", str(tmp_path / "out")], log, ignore_interrupts)
    wait_for(lambda: (tmp_path / "out/image000.json").exists(), process)
    for _ in range(2):  # as Ctrl-C for a script in whose background it is
        os.kill(process.pid or 0, signal.SIGINT)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert len(read_run(tmp_path / "out").done) == 6 and "stopping" not in log.read_text()


def wait_for(condition: Callable[[], bool], process: ForkServerProcess) -> None:
    while not condition():
        assert process.is_alive(), "the process ended before"
        time.sleep(0.002)


def die_at(rename: int, after: bool) -> None:
    """End this process as `kill -9` does, just before or just after that renaming of a finished file."""
    replace, count = os.replace, 0

    def counting(source: str, target: str) -> None:
        nonlocal count
        count += 1
        if count == rename and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if count == rename:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counting  # type: ignore[assignment]


def test_killed_at_any_write_a_run_goes_on_to_the_same_files(label: list[str], tmp_path: Path) -> None:
    check_kills_at_writes(label, tmp_path, [(7, False), (9, True)])  # amid the second image, and just after it


@pytest.mark.slow
def test_killed_at_every_write_a_run_goes_on_to_the_same_files(label: list[str], tmp_path: Path) -> None:
    check_kills_at_writes(label, tmp_path, [(rename, after) for rename in range(1, 15) for after in (False, True)])


def check_kills_at_writes(label: list[str], tmp_path: Path, moments: list[tuple[int, bool]]) -> None:
    """Three images take 14 files: the record, four each, and the record again."""
    arguments = [*label, str(make_images(tmp_path / "photos", 3)), "--out"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    whole, log = contents(tmp_path / "whole"), tmp_path / "log"
    for rename, after in moments:
        out = tmp_path / f"killed-{rename}-{after}"
        process = start([*arguments, str(out)], log, die_at, rename, after)
        process.join()
        assert process.exitcode == -signal.SIGKILL, log.read_text()
        if (out / "run.json").exists():
            assert_true(out)
        assert finish([*arguments, str(out)], log) == 0, log.read_text()
        assert contents(out) == whole, (rename, after)


@pytest.mark.parametrize(("kills", "images"), [(2, 6), pytest.param(20, 30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_a_run_ends_with_the_same_files(
    kills: int, images: int, label: list[str], tmp_path: Path
) -> None:
    moments, log = random.Random(0), tmp_path / "log"
    arguments = [*label, str(make_images(tmp_path / "photos", images)), "--keep-analysis", "--out"]
    begin = time.monotonic()
    assert finish([*arguments, str(tmp_path / "whole")], log) == 0
    whole, duration, out = contents(tmp_path / "whole"), time.monotonic() - begin, tmp_path / "out"
    while kills:
        process = start([*arguments, str(out)], log)
        process.join(moments.uniform(0, duration))
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode == -signal.SIGKILL:
            kills -= 1
        else:  # it was quicker, and begins anew
            assert process.exitcode == 0 and contents(out) == whole
            shutil.rmtree(out)
        if (out / "run.json").exists():
            assert_true(out)
    assert finish([*arguments, str(out)], log) == 0
    assert contents(out) == whole
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
def test_three_hundred_images_take_the_memory_of_thirty(label: list[str], tmp_path: Path) -> None:
    peaks = []  # an image takes 0.9 MB, its masks 1.2 MB
    for count in (30, 300):
        log, folder = tmp_path / f"log{count}", make_images(tmp_path / f"photos{count}", count, scale=18)
        assert finish([*label, str(folder), "--out", str(tmp_path / f"out{count}")], log) == 0
        peaks.append(int(log.read_text().split("memory: ")[1].split()[0]) / 1024)
    print(f"peak memory: {peaks[0]:.0f} MB for 30 images, {peaks[1]:.0f} MB for 300")
    assert peaks[1] < peaks[0] + 20


def test_processes_of_one_run_may_be_killed_one_by_one(label: list[str], tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    arguments = [*label, str(make_images(tmp_path / "photos", 4)), "--out"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    first = start([*arguments, str(out), "--shard", "1/2"], log, die_at, 3, True)
    assert finish([*arguments, str(out), "--shard", "2/2"], log) == 0
    first.join()
    assert read_run(out).done == ["image001", "image003"]
    for _ in range(2):
        assert finish([*arguments, str(out), "--shard", "1/2"], log) == 0
    shared, whole = contents(out), contents(tmp_path / "whole")
    with contextlib.suppress(KeyError):
        del shared["run-1-of-2.json"], shared["run-2-of-2.json"], whole["run.json"]
    assert shared == whole and read_run(out).done == read_run(tmp_path / "whole").done
