"""Where a run goes (`--out`: a folder, or a bucket) and who runs it (`--engine`: this process, or Ray's workers)."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ovseg.run.attempt import Job
from ovseg.run.batch import run_job
from ovseg.run.bucket import Bucket, is_bucket
from ovseg.run.folder import RUN_FILE, fetch_records
from ovseg.run.inputs import Batch


def open_out(given: Namespace) -> tuple[Path, Bucket | None]:
    """The folder for results, and the bucket for which it stands, if --out is one's address.

    Raises ValueError for a bucket that cannot be read, and flags for which it is none.
    """
    if not is_bucket(given.out):
        return Path(given.out), None
    if given.overwrite:
        raise ValueError("overwrite: is for a folder on a disk; remove that run by hand, or choose another --out")
    if getattr(given, "format", None):
        raise ValueError(f"format: is for a run on a disk; afterwards, `ovseg export {given.out} --out DIR`")
    if getattr(given, "score", False):
        raise ValueError(f"score: is for a run on a disk; afterwards, `ovseg eval score ... --predictions {given.out}`")
    bucket = Bucket(given.out)
    return fetch_records(bucket), bucket


def run_by(given: Namespace, job: Job, batch: Batch) -> int:
    """Do a job as the flags say; returns the exit code. Raises ValueError for Ray's flags without Ray."""
    if batch.bucket is None:
        return _run_by(given, job, batch)
    from ovseg.run.bucket_job import BucketJob

    with batch.bucket.announced(batch.shard.file if batch.shard else RUN_FILE):
        return _run_by(given, BucketJob(job, batch.bucket.url), batch)


def _run_by(given: Namespace, job: Job, batch: Batch) -> int:
    if given.engine == "ray":
        from ovseg.run.ray import run_on_ray

        return run_on_ray(job, batch, given.workers, given.ray_address)
    for name in ("workers", "ray_address"):
        if getattr(given, name) is not None:
            raise ValueError(f"{name}: is for --engine ray")
    return run_job(job, batch)
