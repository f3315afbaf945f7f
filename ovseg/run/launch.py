"""One run in many processes: each has a shard of the images, under `accelerate launch` or `torchrun` a GPU as well."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

SHARD_FILE = re.compile(r"run-([1-9]\d{0,5})-of-([1-9]\d{0,5})\.json")
MOST_SHARDS = 999_999
PATIENCE = timedelta(days=7)  # how long a process that is done waits for the others

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One part of a run that several processes share: every `count`-th image from the `number`-th (1-based) on."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "2/4". Raises ValueError for anything that is not i/n with 1 <= i <= n."""
        match = re.fullmatch(r"0*([0-9]{1,6})/0*([0-9]{1,6})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            got = repr(text) if len(text) <= 40 else f"{text[:40]!r} and {len(text) - 40} characters more"
            raise ValueError(f"shard: expected i/n with i from 1 to n, such as 2/4, got {got}")
        return cls(int(match[1]), int(match[2]))

    def take(self, items: Sequence[T]) -> list[T]:
        """The items of this shard, in their order."""
        return list(items[self.number - 1 :: self.count])

    @property
    def file(self) -> str:
        """The name of its record."""
        return f"run-{self.number}-of-{self.count}.json"


def launched() -> Shard | None:
    """The part of this process among those launched together; None where there is only one.

    Raises ValueError, naming the variable, where the environment holds what no launcher sets.
    """
    count = _from_environment("WORLD_SIZE", 1, MOST_SHARDS)
    if "RANK" not in os.environ or count == 1:
        return None
    _from_environment("LOCAL_RANK", 0, count - 1)  # whose GPU is whose: see `ovseg.setup`
    _from_environment("MASTER_PORT", 0, 65535)
    return Shard(_from_environment("RANK", 0, count - 1) + 1, count)


def _from_environment(variable: str, least: int, most: int) -> int:
    """A number that launchers set; `least` where it is not set."""
    text = os.environ.get(variable, str(least))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        got = repr(text) if len(text) <= 40 else f"{len(text)} characters"
        raise ValueError(
            f"{variable}: expected a number from {least} to {most} in the environment, as launchers set it, got {got}; "
            "unset it where this is one process alone"
        )
    return int(text)


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


def tell_launcher(message: str) -> None:
    """Leave a message where torchrun looks for why a process ended with an error; it shows it beside the exit code.

    torchrun prints a traceback of its own whenever a process exits with one, which nothing here can prevent.
    """
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        when = str(int(time.time()))
        content = {"message": {"message": message, "extraInfo": {"py_callstack": message, "timestamp": when}}}
        with contextlib.suppress(OSError):
            Path(file).write_text(json.dumps(content), encoding="utf-8")
