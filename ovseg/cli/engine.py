"""`--engine`: a job in this process, or by the workers of Ray Data."""

from __future__ import annotations

from argparse import Namespace

from ovseg.run.attempt import Job
from ovseg.run.batch import run_job
from ovseg.run.inputs import Batch


def run_by(given: Namespace, job: Job, batch: Batch) -> int:
    """Do a job as the flags say; returns the exit code. Raises ValueError for Ray's flags without Ray."""
    if given.engine == "ray":
        from ovseg.run.ray import run_on_ray

        return run_on_ray(job, batch, given.workers, given.ray_address)
    for name in ("workers", "ray_address"):
        if getattr(given, name) is not None:
            raise ValueError(f"{name}: is for --engine ray")
    return run_job(job, batch)
