"""The work on one image as a value: a job can be pickled and sent, and its worker writes the same files anywhere."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_trees import build_tree
from PIL import Image
from processes import SERVER

from ovseg.classes import parse_classes
from ovseg.cli import main
from ovseg.eval.prediction import PredictJob
from ovseg.files import read_index_png
from ovseg.masks import Progress
from ovseg.presets import Preset
from ovseg.run.attempt import Job, Outcome, Worker, attempt
from ovseg.run.inputs import Item, collect
from ovseg.run.work import LabelJob, MaskJob
from ovseg.setup import Setup


@pytest.fixture(scope="module")
def setup(tiny_diffusion: Path, tiny_clip: Path) -> Setup:
    """The tiny models, quickly."""
    own = Preset(name="", diffusion=str(tiny_diffusion), clip=str(tiny_clip))
    return Setup(preset=own, settings={"masks": 3, "steps": 5}, device="cpu")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two images, one in a sub-folder, of 40 x 60 and 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("work") / "scenes"
    (folder / "sub").mkdir(parents=True)
    for number, (name, size) in enumerate((("a.png", (40, 60)), ("sub/b.jpg", (32, 32)))):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def jobs(setup: Setup, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Job, list[Item]]]:
    """A job of every command, with the images it is for."""
    out, root = tmp_path_factory.mktemp("jobs"), build_tree("custom", tmp_path_factory.mktemp("custom"))
    items = collect([scenes], out)
    predict = PredictJob(setup, "custom", str(root), out / "predict", limit=1, keep_analysis=True)
    return [
        (LabelJob(setup, parse_classes("cat;kitten,sky"), "none", out / "label"), items),
        (LabelJob(replace(setup, by="slic"), parse_classes("cat,sky"), "words", out / "slic"), items),
        (MaskJob(setup, out / "masks"), items),
        (predict, predict.items),
    ]


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder but run.json, by name."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def do(pickled: bytes, items: list[Item]) -> None:
    """Start a job that came as bytes and do its images, in whatever process this is."""
    worker = pickle.loads(pickled).start()
    for item in items:
        outcome = attempt(worker, item)
        assert outcome.error is None, outcome.error


def do_all(work: list[tuple[bytes, list[Item]]]) -> None:
    torch.set_num_threads(1)
    for pickled, items in work:
        do(pickled, items)


def test_a_job_is_a_value(jobs: list[tuple[Job, list[Item]]]) -> None:
    for job, _ in jobs:
        copy = pickle.loads(pickle.dumps(job))
        assert copy == job and copy is not job and copy.files == job.files
        with pytest.raises(dataclasses.FrozenInstanceError):
            job.out = Path("elsewhere")


def test_a_job_that_was_used_can_still_be_sent(jobs: list[tuple[Job, list[Item]]]) -> None:
    job, items = jobs[3]
    assert job.items == items and job.start().facts["dataset"] == "custom"  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(job)) == job


def test_a_process_that_gets_a_job_as_bytes_writes_the_same_files(
    jobs: list[tuple[Job, list[Item]]], tmp_path: Path
) -> None:
    sent = []
    for number, (job, items) in enumerate(jobs):
        elsewhere = replace(job, out=tmp_path / str(number))  # type: ignore[type-var]
        do(pickle.dumps(job), items)
        sent.append((pickle.dumps(elsewhere), items))
    process = SERVER.Process(target=do_all, args=(sent,))
    process.start()
    process.join()
    assert process.exitcode == 0
    for number, (job, items) in enumerate(jobs):
        here, there = files(job.out), files(tmp_path / str(number))
        assert set(here) == {f"{item.id}{ending}" for item in items for ending in job.files}
        assert here == there


def test_a_loop_of_three_lines_writes_what_the_command_does(setup: Setup, scenes: Path, tmp_path: Path) -> None:
    worker = LabelJob(setup, parse_classes("cat;kitten,sky"), "none", tmp_path / "loop", keep_analysis=True).start()
    for item in collect([scenes], tmp_path / "loop"):
        attempt(worker, item)

    models = ["--diffusion", setup.preset.diffusion, "--clip", setup.preset.clip, "--masks", "3", "--steps", "5"]
    asked = ["--classes", "cat;kitten,sky", "--background", "none", "--keep-analysis", "--device", "cpu"]
    assert main(["label", str(scenes), *asked, *models, "--out", str(tmp_path / "command")]) == 0
    loop = files(tmp_path / "loop")
    assert loop == files(tmp_path / "command") and len(loop) == 10
    assert read_index_png(tmp_path / "loop/a.png").shape == (40, 60)


def test_a_bad_image_is_an_outcome_and_the_next_one_is_done(setup: Setup, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes((scenes / "a.png").read_bytes()[:500])
    Image.new("RGB", (100, 10)).save(tmp_path / "wide.png")
    shutil.copy(scenes / "a.png", tmp_path / "fine.png")
    worker = MaskJob(setup, tmp_path / "out").start()
    names = ("cut", "absent", "wide", "fine")
    outcomes = [attempt(worker, Item(name, tmp_path / f"{name}.png")) for name in names]
    cut, absent, wide, fine = outcomes
    assert cut.error is not None and cut.error.startswith(f"{tmp_path}/cut.png: damaged or truncated")
    assert absent.error == f"{tmp_path}/absent.png: no such file"
    assert wide.error is not None and "4:1" in wide.error and "\n" not in wide.error
    assert fine.error is None and fine.summary == "3 masks" and fine.seconds > 0
    assert files(tmp_path / "out").keys() == {"fine.png", "fine.overlay.png"}


def raising(error: Exception) -> Callable[..., str]:
    def work(item: Item, progress: Progress | None = None) -> str:
        raise error

    return work


def outcome_of(error: Exception) -> Outcome:
    worker: Any = raising(error)
    return attempt(worker, Item("a", Path("/photos/a.jpg")))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), MemoryError()]
)
def test_what_is_too_large_for_the_memory_is_an_outcome(error: Exception) -> None:
    assert (outcome_of(error).error or "").startswith("/photos/a.jpg: out of memory; --dtype float16")


@pytest.mark.parametrize(
    "error", [KeyError("bug"), TypeError("bug"), RuntimeError("shapes differ"), KeyboardInterrupt()]
)
def test_a_fault_of_ours_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        outcome_of(error)


def test_progress_comes_step_by_step(setup: Setup, scenes: Path, tmp_path: Path) -> None:
    worker: Worker = MaskJob(setup, tmp_path / "out").start()
    told: list[tuple[int, int]] = []
    attempt(worker, Item("a", scenes / "a.png"), lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] and [done for done, _ in told] == sorted(done for done, _ in told)


def test_mistakes_show_when_a_job_is_made(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^by: none makes no masks"):
        MaskJob(replace(setup, by="none"), tmp_path)
    with pytest.raises(ValueError, match="both as a class and as background: sky"):
        LabelJob(setup, parse_classes("sky"), "sky", tmp_path)
    with pytest.raises(ValueError, match="^format: tiff: no such format"):
        LabelJob(setup, parse_classes("sky"), "none", tmp_path, formats=("tiff",))
