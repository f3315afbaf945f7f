"""The machine: its name, its rate of matrix products, and the peak memory of a block of work."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from bench.clock import synchronize
from ovseg.setup import find_device

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices that are multiplied
TRIES = 8


def choose_device(name: str) -> torch.device:
    """The device of that name; ValueError unless it is a CPU or a CUDA GPU that can be used here."""
    device = find_device(name)
    if device.type not in SIDES:
        raise ValueError(f"--device: expected cpu or cuda, got {name!r}")
    return device


def machine(device: torch.device) -> dict[str, str | int]:
    """What figures depend on: processor, threads, GPU and versions."""
    found: dict[str, str | int] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


@torch.inference_mode()
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOPs a second of the product of two large square matrices: 2 n^3 over the best time of several."""
    side = SIDES[device.type]
    left, right = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(TRIES):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(left, right)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


@dataclass
class Peak:
    """The most memory that was in use, bytes; None where the system does not report it."""

    size: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Find the most memory in use during the block: what torch reserved on a GPU, else this process' (Linux alone)."""
    gc.collect()
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        yield peak
        peak.size = torch.cuda.memory_reserved(
            device
        )  # grows alone while memory suffices; emerdiff resets torch's peaks
        return
    try:
        RESET.write_text("5", encoding="ascii")  # the kernel forgets the peak so far, see proc(5)
    except OSError:
        yield peak
        return
    yield peak
    lines = STATUS.read_text(encoding="ascii").splitlines()
    peak.size = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
