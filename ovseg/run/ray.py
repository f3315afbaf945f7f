"""One run on many machines by Ray Data: the job's worker in a pool of actors, images in, outcomes out.

The process that calls holds the run's record and writes nothing else; workers write the images' files, so that all need
the same folders (inputs, --out, weights or the hub's cache). Images that are finished are dropped before anything is
read. An actor that dies is started again by Ray, and its images are done again: files are whole or not there.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.run.attempt import Job, Outcome, attempt
from ovseg.run.batch import make_ready
from ovseg.run.inputs import Batch, Item
from ovseg.run.launch import launched
from ovseg.run.record import Run
from ovseg.run.terminal import make_report, say
from ovseg.run.writers import writing

MOST_AT_A_TIME = 16  # images that an actor takes at once: those of one that dies are done again
TASKS_A_WORKER = 32  # if there are enough images


def parse_workers(text: str) -> tuple[int, int]:
    """Fewest and most workers: "4" is (4, 4), "2:16" (2, 16). Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", text.strip())
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most:
        raise ValueError(f"workers: expected N or MIN:MAX, from 1, got {text!r}")
    return least, most


def run_on_ray(job: Job, batch: Batch, workers: str | None = None, address: str | None = None) -> int:
    """Do a job for all images that are not finished, on the Ray that runs here, at `address`, or is started for it.

    workers: as `parse_workers` reads; None: one for each GPU of the cluster, or each CPU where there is none. Returns
    the exit code: 1 if any image failed. Raises ValueError as `run_job`, and where Ray is not installed.
    """
    pool = None if workers is None else parse_workers(workers)
    if find_spec("ray") is None:
        raise ValueError("engine: ray is not installed here: pip install 'ovseg[ray]'")
    if batch.shard or launched():
        raise ValueError("shard: Ray shares the images out by itself; leave it out, and launch one process")
    if re.fullmatch(r"\w+:\d+", job.setup.device):
        raise ValueError(f"device: {job.setup.device}: each worker of Ray has a GPU of its own; give cuda or cpu")
    make_ready(job.setup, *job.needs, from_kept=job.kept.has_all(batch.items))
    with _connected(address) as ray, writing(job.out, None):
        resources = ray.cluster_resources()
        gpus = int(job.setup.device != "cpu" and resources.get("GPU", 0) >= 1)
        each = max(1, int(resources.get("GPU" if gpus else "CPU", 1)))
        return _run(ray, job, batch, pool or (each, each), gpus)


def _run(ray: Any, job: Job, batch: Batch, pool: tuple[int, int], gpus: int) -> int:
    starter = ray.remote(_Starter).options(num_cpus=1, num_gpus=gpus).remote(job)
    run = Run(job.out, _result(ray, starter.facts.remote()), job.files, 0.0, None, batch.overwrite, batch.bucket)
    todo = run.open(batch.items)
    for line in _result(ray, starter.expect.remote(todo)):
        say(line)
    ray.kill(starter)
    failed, by_id = 0, {item.id: item for item in todo}
    with make_report(len(batch.items) - len(todo), len(batch.items)) as report, run.recording(todo):
        for row in _outcomes(ray, job, todo, pool, gpus):
            item = by_id[row["id"]]
            outcome = Outcome(item, row["seconds"], row["summary"], row["error"] or None)
            report.image_started(item)
            run.note(outcome)
            report.image_ended(outcome)
            failed += outcome.error is not None
    say(f"results in {batch.bucket or run.out}" + (f"; {failed} of {len(batch.items)} images failed" if failed else ""))
    return 1 if failed else 0


def _outcomes(ray: Any, job: Job, todo: Sequence[Item], pool: tuple[int, int], gpus: int) -> Iterator[dict[str, Any]]:
    """A row for each image, as they are done."""
    if not todo:
        return
    import ray.data as data

    least, most = (min(count, len(todo)) for count in pool)
    at_a_time = max(1, min(MOST_AT_A_TIME, len(todo) // (TASKS_A_WORKER * most)))
    rows = [{"id": item.id, "path": os.fsencode(item.path)} for item in todo]
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    outcomes = data.from_items(rows, override_num_blocks=-(-len(rows) // at_a_time)).map_batches(
        _Worker,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="numpy",
        compute=data.ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=1,
        num_gpus=gpus,
    )
    try:
        yield from outcomes.iter_rows()
    except ray.exceptions.RayError as error:
        raise _cause(error) from error


class _Starter:
    """An actor that says what a run's record needs to know before the others start."""

    def __init__(self, job: Job) -> None:
        self.worker = job.start()

    def facts(self) -> dict[str, Any]:
        return self.worker.facts

    def expect(self, todo: Sequence[Item]) -> list[str]:
        lines: list[str] = []
        self.worker.job.kept.expect(todo, self.worker.facts, self.worker.source, tell=lines.append)
        return lines


class _Worker:
    """An actor of the pool: a started job, asked for one image after the other."""

    def __init__(self, job: Job) -> None:
        self.worker = job.start()

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        items = [Item(str(id), Path(os.fsdecode(path))) for id, path in zip(rows["id"], rows["path"], strict=True)]
        outcomes = [attempt(self.worker, item) for item in items]
        return {
            "id": [item.id for item in items],
            "seconds": [outcome.seconds for outcome in outcomes],
            "summary": [_text(outcome.summary) for outcome in outcomes],
            "error": [_text(outcome.error or "") for outcome in outcomes],
        }


def _text(words: str) -> str:
    return words.encode("utf-8", "backslashreplace").decode("utf-8")


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        raise _cause(error) from None


def _cause(error: Any) -> Exception:
    """What an actor raised: the user's mistake as it is, anything else with what Ray says of it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, ValueError | OSError) else RuntimeError(f"engine: {error}")


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, started or joined if this process has not, and left again then."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(f"ray_address: {address or 'here'}: Ray could not be reached or started ({error})") from error
    try:
        yield ray
    finally:
        ray.shutdown()
