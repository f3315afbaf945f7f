"""Work in chunks that fit into a GPU's memory. On a CPU chunks have the size asked for, so results stay bit-equal."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

LOG = logging.getLogger(__name__)
SHARE = 0.7  # share of the free memory that may be used
NO_GPU_MEMORY = "STATUS_ALLOC_FAILED"  # cuBLAS' and cuDNN's messages, in plain RuntimeErrors
NO_MEMORY = re.compile(f"out of memory|not enough memory|can't allocate memory|{NO_GPU_MEMORY}")  # torch's messages
Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the machine or a GPU ran out of memory."""
    return isinstance(error, MemoryError) or isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error)))


def check_room(size: int, device: str | torch.device, path: Path) -> None:
    """Raise ValueError, naming the file, where `size` bytes fit into the free memory of the CPU or the GPU not at all.

    Weights pass through the CPU's memory on their way. Where a system does not tell what is free, nothing is raised.
    """
    room = {"the CPU": _free_on_cpu()}
    if torch.device(device).type == "cuda":
        room["the GPU"] = torch.cuda.mem_get_info(device)[0]
    for place, free in room.items():
        if free is not None and size > free:
            raise ValueError(
                f"{path}: expected weights that fit into the free memory of {place}, {free / 1e9:.1f} GB, "
                f"got {size / 1e9:.1f} GB; dtype bfloat16 or float16 take half of float32's"
            )


def _free_on_cpu() -> int | None:
    """Bytes of memory and swap that can still be taken, None where /proc does not say it."""
    try:
        lines = [line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()]
        return 1024 * sum(int(words[1]) for words in lines if words[0] in ("MemAvailable:", "SwapFree:"))
    except (OSError, ValueError, IndexError):
        return None


@dataclass
class Peak:
    """Peak memory of the work in a `measured` block, in bytes; None where it is not measured (not a CUDA GPU)."""

    bytes: int | None = None


@contextmanager
def measured(device: torch.device) -> Iterator[Peak]:
    """Measure the memory that the block allocates beyond what was allocated before."""
    peak = Peak()
    if device.type != "cuda":
        yield peak
        return
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    yield peak
    peak.bytes = torch.cuda.max_memory_allocated(device) - before


def rows_that_fit(rows: int, row: Peak, device: torch.device) -> int:
    """Return how many rows go in one call: `rows`, or fewer where a GPU has no room for them; one at least."""
    if not row.bytes:
        return rows
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + unused
    return max(1, min(rows, int(SHARE * free / row.bytes)))


def in_chunks(count: int, size: int, work: Callable[[slice], Result]) -> list[Result]:
    """Do `work` for 0..count-1, `size` at a time; where a chunk runs out of GPU memory, go on with half of it.

    Raises the RuntimeError, mostly a torch.OutOfMemoryError, of a chunk of one that does not fit.
    """
    results: list[Result] = []
    start = 0
    while start < count:
        chunk = slice(start, min(count, start + size))
        try:
            results.append(work(chunk))
            start = chunk.stop
            continue
        except RuntimeError as error:
            size = (chunk.stop - chunk.start) // 2
            if not size or not (isinstance(error, torch.OutOfMemoryError) or NO_GPU_MEMORY in str(error)):
                raise
        # Not in the `except` block, where the error keeps what the chunk allocated alive.
        torch.cuda.empty_cache()
        LOG.warning("out of GPU memory: going on with %d at a time", size)
    return results
