"""Many images into one run folder, one after the other: what is finished is skipped, a bad image is reported."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from ovseg import weights
from ovseg.masks import MaskSource
from ovseg.run.attempt import Job, Outcome, Worker, attempt
from ovseg.run.inputs import Batch, Item
from ovseg.run.launch import sum_over_processes, tell_launcher
from ovseg.run.record import Run
from ovseg.run.terminal import duration, make_report, say
from ovseg.run.writers import writing
from ovseg.setup import Setup

LONG_RUN_SECONDS = 60  # a run on a CPU that will take longer says so before it starts
LONG_IMAGE_SECONDS = 2  # unless its images take less: then the first one that is done says so at once, and better


class Report(Protocol):
    """Callbacks that report a run's progress and failures."""

    def image_started(self, item: Item) -> None: ...

    def rows(self, done: int, total: int) -> None: ...

    def image_ended(self, outcome: Outcome) -> None: ...

    def stopping(self) -> None: ...


def run_job(job: Job, batch: Batch) -> int:
    """Start a job and do it for all images that are not finished, with a report that fits the terminal.

    Returns the exit code, the same in all processes launched together: 1 if any image of any of them failed.
    Raises ValueError where nothing can be done: other settings than the folder's, or ones that no image can meet.
    """
    make_ready(job.setup, *job.needs, from_kept=job.kept.has_all(batch.items))
    start = time.perf_counter()
    worker = job.start()
    tell_timesteps(job.setup, worker.source)
    if not job.kept.spares(batch.items, worker.source):
        worker.source.load()
    return run_started(worker, batch, time.perf_counter() - start)


def run_started(worker: Worker, batch: Batch, seconds: float) -> int:
    """As `run_job`, with a worker that took so many seconds to start. One process at a time may do it."""
    with writing(worker.job.out, batch.shard):
        failed = _run(worker, batch, seconds)
    everywhere = sum_over_processes(failed)
    if everywhere:
        tell_launcher(f"{everywhere} images failed; ovseg has said above which, and the records hold why")
    return 1 if everywhere else 0


def _run(worker: Worker, batch: Batch, seconds: float) -> int:
    """Do all images that are not finished; returns how many failed."""
    job, items = worker.job, batch.items
    run = Run(job.out, worker.facts, job.files, seconds, batch.shard, batch.overwrite, batch.bucket)
    todo = run.open(items)
    job.kept.expect(todo, worker.facts, worker.source, tell=say)
    spared = job.kept.spares(todo, worker.source)
    announce(worker, [] if spared else [item for item in todo if job.kept.own or not job.kept.has(item)])
    with make_report(len(items) - len(todo), len(items)) as report:
        failed = process(run, todo, worker, report)
    say(f"results in {batch.bucket or run.out}" + (f"; {failed} of {len(items)} images failed" if failed else ""))
    return failed


def process(run: Run, items: Sequence[Item], worker: Worker, report: Report) -> int:
    """Let the worker do every item, as `Run.open` returned them; returns how many failed.

    Ctrl-C ends it with KeyboardInterrupt after the image at hand, a second one at once.
    """
    failed = 0
    with run.recording(items), finishing_the_image(report) as asked_to_stop:
        for item in items:
            if asked_to_stop.is_set():
                raise KeyboardInterrupt
            report.image_started(item)
            outcome = attempt(worker, item, report.rows)
            run.note(outcome)
            report.image_ended(outcome)
            failed += outcome.error is not None
    return failed


def make_ready(setup: Setup, *kinds: str, from_kept: bool = False) -> None:
    """Fetch the weights that a set-up needs, and say where it will run.

    kinds: models that are needed beside the mask source's. from_kept: all masks come from kept analyses.
    """
    sources = setup.sources(*kinds)
    if not (from_kept and setup.recorded):
        sources |= setup.sources(*setup.needs)
    preset = setup.preset
    if wanted := weights.require(sources, preset.name):
        size = f" (up to {preset.megabytes} MB)" if preset.megabytes else ""
        say(f"fetching {' and '.join(wanted)}{size}")
        weights.fetch(sources, preset.name)
    if preset.warning:
        say(f"warning: {preset.warning}")
    say(_device_line(setup))
    if slow := _slow_numbers(setup):
        say(f"warning: {slow}")


def tell_timesteps(setup: Setup, source: MaskSource) -> None:
    """Say which timesteps are used where the model's grid does not have those asked for."""
    used = source.identity["options"] or {}
    asked = setup.options(None)
    wanted = asked.feature_timestep, asked.modulation_timestep
    nearest = used.get("feature_timestep", wanted[0]), used.get("modulation_timestep", wanted[1])
    if nearest != wanted:
        say(
            f"timesteps: t_f {nearest[0]} and t_m {nearest[1]}, the nearest to {wanted[0]} and {wanted[1]} "
            f"in the grid of {asked.steps} steps"
        )


def _device_line(setup: Setup) -> str:
    import torch

    device = setup.find_device()
    if device.type == "cuda":
        return f"device: {device} ({torch.cuda.get_device_name(device)}), {setup.dtype}"
    remark = ", no CUDA GPU found" if setup.device == "auto" else ""
    return f"device: {device} ({torch.get_num_threads()} threads{remark}), {setup.dtype}"


def _slow_numbers(setup: Setup) -> str:
    """What there is to say of numbers that this device has no units for; "" where it has."""
    from ovseg.precision import multiplies_quickly

    if multiplies_quickly(setup.torch_dtype(), setup.find_device()):
        return ""
    return f"this CPU has no units for {setup.dtype}: networks run many times slower in it than in float32"


def announce(worker: Worker, items: Sequence[Item]) -> None:
    """Say how long masks for these images will take, where that is long: as if each had the size of the first.

    Of a single image, nothing is said but where `detail` or `tile` make it costly: its rows soon tell, and better.
    Raises ValueError, with the first one's reason, where there is no image that the settings fit.
    """
    refused = None
    for item in items:
        try:
            size = worker.size(item)
        except (ValueError, OSError):
            continue  # its own turn will come to be reported
        try:
            worker.source.check(size)
        except ValueError as error:
            if not str(error).startswith("image: "):  # its shape is its own failure, not the settings'
                refused = refused or error
            continue
        asked = worker.job.setup.settings
        costly = bool(asked.get("detail") or asked.get("tile"))
        if costly or len(items) > 1:
            announce_seconds(worker.source.seconds(size), len(items), always=costly)
        return
    if refused:
        raise refused


def announce_seconds(each: float | None, images: int, *, always: bool = False) -> None:
    """Say how long so many images will take, where that is long, or always."""
    if each is not None and (always or each > LONG_IMAGE_SECONDS and each * images > LONG_RUN_SECONDS):
        say(f"this takes about {duration(each)} an image on this CPU, {duration(each * images)} in all")


@contextmanager
def finishing_the_image(report: Report) -> Iterator[threading.Event]:
    """While this is entered the first Ctrl-C sets the event that is yielded, and the second one interrupts.

    Where the process was started with interrupts ignored, as `nohup` and scripts do in the background, they stay so.
    """
    asked = threading.Event()
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):  # None: not Python's to change
        yield asked
        return

    def handle(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        report.stopping()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
