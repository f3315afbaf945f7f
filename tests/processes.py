"""The command line in real processes, forked from one that has torch loaded already, which takes seconds otherwise."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from ovseg.cli import main

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["ovseg.cli.label", "ovseg.segmenter", "ovseg.run.batch"])


def command(arguments: list[str], log: Path, prepare: Callable[..., None] | None = None, *more: Any) -> None:
    """The command line in this process; what it prints goes to the log. prepare: called before, with `more`."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # even where the tests were started with it ignored
    if prepare:
        prepare(*more)
    code = main(arguments)
    print(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss} KiB")
    sys.exit(code)


def start(arguments: list[str], log: Path, prepare: Callable[..., None] | None = None, *more: Any) -> ForkServerProcess:
    """`command` in a process of its own."""
    process = SERVER.Process(target=command, args=(arguments, log, prepare, *more))
    process.start()
    return process


def finish(arguments: list[str], log: Path, prepare: Callable[..., None] | None = None, *more: Any) -> int:
    """Run the command to its end; returns the exit code."""
    process = start(arguments, log, prepare, *more)
    process.join()
    assert process.exitcode is not None
    return process.exitcode
