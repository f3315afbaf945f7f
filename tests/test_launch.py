"""One run in many processes: shards by rank, a GPU each, one exit code for all."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import SERVER

from ovseg.files import read_index_png
from ovseg.run.folder import read_run
from ovseg.run.launch import Shard, choose_shard, launched, sum_over_processes
from ovseg.setup import find_device

ROOT = Path(__file__).parent.parent
TORCHRUN = ["torch.distributed.run", "--nproc-per-node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]


def ranked(monkeypatch: pytest.MonkeyPatch, rank: int, count: int, local: int = 0) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", count), ("LOCAL_RANK", local)):
        monkeypatch.setenv(name, str(value))


def test_alone_there_is_no_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert launched() is None and choose_shard(None) is None and sum_over_processes(3) == 3
    assert choose_shard("2/3") == Shard(2, 3)
    monkeypatch.setenv("WORLD_SIZE", "4")  # a left-over of something else: there is no rank
    assert launched() is None
    ranked(monkeypatch, 0, 1)
    assert launched() is None


def test_processes_launched_together_take_the_shards_by_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked(monkeypatch, 2, 4)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="^RANK 2 and WORLD_SIZE 4 are set, but MASTER_ADDR and MASTER_PORT are not"):
        choose_shard(None)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert launched() == choose_shard(None) == Shard(3, 4)
    with pytest.raises(ValueError, match="^shard: 1/2: the processes launched together share the images"):
        choose_shard("1/2")


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 4, "cuda:1"), ("cuda", 4, "cuda:1"), ("cuda:3", 4, "cuda:3"), ("cpu", 4, "cpu"), ("auto", 0, "cpu")],
)
def test_each_process_has_a_gpu_of_its_own(
    device: str, gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **_: empty(*size))  # there need be no such GPU here
    ranked(monkeypatch, 5, 8, local=1)
    assert str(find_device(device)) == expected
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name)
    assert str(find_device(device)) == ("cuda:0" if expected == "cuda:1" else expected)


def come_later(rank: int, port: int, seconds: float, results: multiprocessing.Queue[tuple[int, int]]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    time.sleep(seconds)
    results.put((rank, sum_over_processes(10**rank)))


def test_processes_wait_for_each_other_and_add_up() -> None:
    results: multiprocessing.Queue[tuple[int, int]] = SERVER.Queue()
    port = free_port()
    processes = [SERVER.Process(target=come_later, args=(i, port, i / 2, results)) for i in range(3)]
    for process in processes:
        process.start()
    assert sorted(results.get(timeout=60) for _ in processes) == [(0, 111), (1, 111), (2, 111)]
    for process in processes:
        process.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("launcher", [TORCHRUN, pytest.param(ACCELERATE, marks=pytest.mark.slow)])
def test_launchers_share_a_run_and_tell_of_a_bad_image_in_one_part(
    launcher: list[str], tmp_path: Path, tiny_diffusion: Path, tiny_clip: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "3.png").write_text("no image")
    quick = ["--background", "none", "--masks", "2", "--steps", "5", "--by", "naive"]
    models = ["--diffusion", str(tiny_diffusion), "--clip", str(tiny_clip), *quick]
    command = [*launcher, port_flag(launcher), str(free_port()), "-m", "ovseg", "label", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--classes", "cat,sky", *models, "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1, done.stderr
    assert sorted(line[:8] for line in done.stdout.splitlines()) == ["[1/2] 0:", "[1/2] 1:", "[2/2] 2:"]
    assert "[2/2] 3: failed: " in done.stderr and done.stderr.count("results in ") == 2
    if launcher is TORCHRUN:  # its own traceback cannot be helped, but it holds our reason, and there is none of ours
        assert "1 images failed; ovseg has said above which, and the records hold why" in done.stderr
        assert done.stderr.count("Traceback (most recent call last)") == 1 and "ChildFailedError" in done.stderr
    assert {path.name for path in (tmp_path / "out").glob("run*")} == {"run-1-of-2.json", "run-2-of-2.json"}
    run = read_run(tmp_path / "out")
    assert run.done == ["0", "1", "2"] and run.ids["3"]["state"] == "failed"
    for id in run.done:
        assert read_index_png(run.file(id, ".png")).shape == (30, 40)


def port_flag(launcher: list[str]) -> str:
    return "--main_process_port" if launcher is ACCELERATE else "--master-port"
