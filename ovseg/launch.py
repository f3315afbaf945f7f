"""One run in many processes: under `accelerate launch` or `torchrun` each takes a shard and a GPU of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from ovseg.run_folder import Shard

PATIENCE = timedelta(days=7)  # how long a process that is done waits for the others


def launched() -> Shard | None:
    """The part of this process among those launched together; None where there is only one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return Shard(int(os.environ["RANK"]) + 1, count) if count > 1 else None


def choose_shard(flag: str | None) -> Shard | None:
    """The shard that --shard names, or the one that this process was launched for.

    Raises ValueError for a flag that is not i/n, or one given to processes launched together.
    """
    mine = launched()
    if flag and mine:
        raise ValueError(
            f"--shard {flag}: the processes launched together share the images by themselves; leave it out"
        )
    return Shard.parse(flag) if flag else mine


def place(device: str) -> str:
    """The device of this process: "auto" and "cuda" are the GPU with its number where several were launched."""
    return (
        f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if launched() and device in ("cuda", "auto") and _gpus() else device
    )


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


@contextmanager
def together() -> Iterator[None]:
    """Wait at the end until all processes launched together are here: one that exits early would end the others."""
    if launched() is None:
        yield
        return
    from accelerate import PartialState

    state = PartialState(cpu=not _gpus(), timeout=PATIENCE)
    try:
        yield
    finally:
        state.wait_for_everyone()
        state.destroy_process_group()
