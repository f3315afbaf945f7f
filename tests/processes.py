"""The command line in processes forked from one that has torch loaded, and in the tests' own: loading takes seconds."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from ovseg.cli import main

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("ovseg.cli.label", "ovseg.segmenter", "ovseg.run.batch", "open_clip", "sklearn.cluster"),
        *("diffusers.models.autoencoders.autoencoder_kl", "diffusers.models.unets.unet_2d_condition"),
        "transformers.models.clip.modeling_clip",
    ]
)


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


def run_script(code: str, folder: Path, log: Path) -> int:
    """Run a script in a process of its own that works in `folder`; returns the exit code. What it prints: the log."""
    process = SERVER.Process(target=script, args=(code, folder, log))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def script(code: str, folder: Path, log: Path) -> None:
    """The script in this process, as `python -c` runs it."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    os.chdir(folder)
    exec(compile(code, "<script>", "exec"), {"__name__": "__main__"})


def run_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process; returns its exit code and what it printed, as a process would give them."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as ended:  # argparse's own
            code = ended.code if isinstance(ended.code, int) else -1
    return subprocess.CompletedProcess(list(map(str, arguments)), code, out.getvalue(), err.getvalue())
