"""Seconds and floating point operations of the parts of a procedure, by kind of part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Calls:
    """The calls of one kind that were made."""

    seconds: list[float] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)  # of matrix products, convolutions and attention; if counted

    def extrapolated(self, count: int) -> tuple[float, float]:
        """The seconds and FLOPs of `count` calls, at the mean of those that were made."""
        made = len(self.seconds)
        return sum(self.seconds) * count / made, sum(self.flops) * count / made


@dataclass
class Clock:
    """Times blocks of code by kind; waits for the device at both ends."""

    device: torch.device
    count_flops: bool = False
    calls: dict[str, Calls] = field(default_factory=dict)  # by kind

    @contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        calls = self.calls.setdefault(kind, Calls())
        synchronize(self.device)
        start = time.perf_counter()
        if self.count_flops:
            with FlopCounterMode(display=False) as counter:
                yield
            calls.flops.append(counter.get_total_flops())
        else:
            yield
        synchronize(self.device)
        calls.seconds.append(time.perf_counter() - start)

    def extrapolated(self, counts: dict[str, int]) -> tuple[float, float]:
        """The seconds and FLOPs of so many calls of each kind."""
        parts = [self.calls[kind].extrapolated(count) for kind, count in counts.items()]
        return sum(seconds for seconds, _ in parts), sum(flops for _, flops in parts)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
