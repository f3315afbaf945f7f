"""One run in many processes: under `accelerate launch` or `torchrun` each takes a shard and a GPU of its own."""

from __future__ import annotations

import os
from datetime import timedelta

from ovseg.run.folder import Shard

PATIENCE = timedelta(days=7)  # how long a process that is done waits for the others


def launched() -> Shard | None:
    """The part of this process among those launched together; None where there is only one."""
    rank, count = os.environ.get("RANK"), int(os.environ.get("WORLD_SIZE", "1"))
    return Shard(int(rank) + 1, count) if rank is not None and count > 1 else None


def choose_shard(flag: str | None) -> Shard | None:
    """The shard that --shard names, or the one that this process was launched for.

    Raises ValueError for a flag that is not i/n, one given to processes launched together, or a launch without the
    address at which they meet.
    """
    mine = launched()
    if mine and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ValueError(
            f"RANK {mine.number - 1} and WORLD_SIZE {mine.count} are set, but MASTER_ADDR and MASTER_PORT are not: "
            "launch with torchrun or accelerate, or unset them"
        )
    if flag and mine:
        raise ValueError(f"shard: {flag}: the processes launched together share the images by themselves; leave it out")
    return Shard.parse(flag) if flag else mine


def device_of_process(device: str) -> str:
    """The device of this process: "auto" and "cuda" are the GPU with its number where several were launched."""
    return (
        f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if launched() and device in ("cuda", "auto") and _gpus() else device
    )


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def sum_over_processes(number: int) -> int:
    """The sum of a number over all processes launched together, once each has come here; alone, the number itself.

    They wait for each other: a launcher ends all processes when one of them exits with an error. Once a process: the
    store where they meet remembers.
    """
    if launched() is None:
        return number
    from torch.distributed.rendezvous import rendezvous

    store, rank, count = next(rendezvous("env://", timeout=PATIENCE))

    def arrive(key: str) -> None:
        if store.add(f"{key} by", 1) == count:
            store.set(key, "all")

    store.add("sum", number)
    arrive("given")
    store.wait(["given"])
    found = store.add("sum", 0)
    arrive("read")
    if rank == 0:  # the store may be a part of this process
        store.wait(["read"])
    return found
