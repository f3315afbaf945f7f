"""Damaged run folders: every command that reads one ends in good order, and writes nothing outside its own --out.

Cases are drawn by a fixed seed, see `fuzzing`. A record that makes the fault of the whole folder is one line and exit
code 2, an image's own damage is told and costs exit code 1.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fuzzing import (
    bounded_memory,
    check_one_line,
    damage_file,
    damaged,
    damaged_bytes,
    refusing_network,
    seeds,
    to_json,
)
from PIL import Image
from processes import run_here
from test_joint import write_results

from ovseg.export import WRITERS

ROOM = 2 * 2**30  # bytes that a case may take
SECONDS = 30.0  # of the processors that a case may take
IDS = ("a", "b", "sub/c")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and a run of `ovseg label` over its images: "dataset", "run"."""
    place = tmp_path_factory.mktemp("fuzzed")
    dataset = place / "dataset"
    for number, id in enumerate(IDS):
        draw = np.random.default_rng(number)
        for folder, pixels in (
            ("images", draw.integers(0, 256, (24, 32, 3))),
            ("labels", draw.integers(0, 3, (24, 32))),
        ):
            path = dataset / folder / f"{id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    (dataset / "classes.txt").write_text("background\ncat\nsky\n")
    done = run_here(*label(place), "--out", place / "run", "--keep-analysis")
    assert done.returncode == 0, done.stderr
    return place


def label(place: Path) -> list[object]:
    quick = ["--preset", "pocket", "--by", "slic", "--masks", "4", "--device", "cpu"]
    return ["label", place / "dataset/images", "--classes", "cat,sky", *quick]


def commands(place: Path, out: Path, draw: random.Random) -> list[object]:
    """One of the commands that read a run."""
    formats = [part for name in draw.sample(list(WRITERS), 2) for part in ("--format", name)]
    export: list[object] = ["export", place / "run", *formats, "--out", out, *draw.choice(([], ["--images", "copy"]))]
    score = ["eval", "score", "custom", "--root", place / "dataset", "--predictions", place / "run", "--out", out]
    return draw.choice(
        (
            export,
            [*export, "--unsure", "0.4", "--components"],
            ["report", place / "run", "--out", out / "report.html"],
            ["report", place / "run", "--out", out / "report.html", "--truth", place / "dataset/labels"],
            score,
            [*score, "--report"],
            [*score, "--best-label"],
        )
    )


def files(place: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, by when and how large."""
    found = ((path, path.stat()) for path in place.rglob("*"))
    return {str(path): (facts.st_mtime_ns, facts.st_size) for path, facts in found if path.is_file()}


def check(arguments: Sequence[object], place: Path, out: Path, *names: str) -> int:
    """Run a command; AssertionError where it ends in another way than it may. Returns the exit code."""
    before, start = files(place), time.process_time()
    with refusing_network() as asked, bounded_memory(ROOM):
        done = run_here(*arguments)
    assert not asked and time.process_time() - start < SECONDS
    assert done.returncode in (0, 1, 2) and "Traceback" not in done.stdout + done.stderr
    assert (done.stdout + done.stderr).replace("\n", "").replace("\t", "").isprintable()
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("ovseg: error: ")]
    assert len(errors) == (done.returncode == 2), lines
    if errors:
        check_one_line(ValueError(errors[0]), str(place / "run"), *names)
    assert files(place) == before, "something was written outside"
    assert not list(out.rglob(".*")) if out.is_dir() else True, "something half is left"
    return done.returncode


def test_fuzzed_runs(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    codes = []
    for seed in seeds(100):
        draw, out = random.Random(seed), tmp_path / "out"
        path = place / "run" / draw.choice(("run.json",) * 5 + ("a.json", "a.json", "b.masks.png", "sub/c.png"))
        sound = path.read_bytes()
        if path.suffix == ".png" or draw.random() < 0.1:
            path.write_bytes(damaged_bytes(sound, draw))
        else:
            path.write_text(to_json(damaged(json.loads(sound), draw)), encoding="utf-8")
        arguments = commands(place, out, draw)
        try:
            codes.append(check(arguments, place, out, "format: ", "unsure: ", "best_label: ", "--", "image '"))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {path.name}: {arguments[:2]}: {error!r}") from error
        finally:
            path.write_bytes(sound)
            shutil.rmtree(out, ignore_errors=True)
    assert {*codes} == {0, 1, 2} or len(codes) < 50


def test_fuzzed_results(tmp_path: Path) -> None:
    """`results.json` of a scored run, in a table of two."""
    own = write_results(tmp_path / "runs/voc21", "voc21", 58.0) / "results.json"
    write_results(tmp_path / "runs/ade20k", "ade20k", 17.0)
    sound, codes = own.read_bytes(), []
    for seed in seeds(100):
        draw = random.Random(seed)
        damage_file(own, draw)
        try:
            codes.append(check(["eval", "table", tmp_path / "runs"], tmp_path, tmp_path / "out", str(own)))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        finally:
            own.write_bytes(sound)
    assert {*codes} == {0, 2} or len(codes) < 50


def test_fuzzed_records_are_gone_on_with(place: Path, tmp_path: Path) -> None:
    """`ovseg label` again over its own results, whose record or files came to harm."""
    codes = []
    for seed in seeds(3):
        draw, out = random.Random(seed), tmp_path / "out"
        shutil.copytree(place / "run", out)
        path = out / draw.choice(("run.json", "run.json", "a.json", "b.png", "sub/c.safetensors"))
        if path.suffix == ".json" and draw.random() < 0.8:
            path.write_text(to_json(damaged(json.loads(path.read_bytes()), draw)), encoding="utf-8")
        else:
            path.write_bytes(damaged_bytes(path.read_bytes(), draw))
        more = draw.choice(([], ["--keep-analysis"], ["--overwrite"]))
        try:
            codes.append(check([*label(place), *more, "--out", out], place, out, str(out), "analyses: "))
            if codes[-1] == 0:
                assert run_here("export", out, "--format", "png", "--out", tmp_path / "exported").returncode == 0
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {path.name} {more}: {error!r}") from error
        finally:
            shutil.rmtree(out)
            shutil.rmtree(tmp_path / "exported", ignore_errors=True)
    assert 0 in codes or len(codes) < 5
