"""A job whose results go to a bucket: its worker writes an image's files to a folder of its own and then sends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovseg.masks import MaskSource, Progress
from ovseg.run.attempt import Job, Worker
from ovseg.run.bucket import Bucket
from ovseg.run.inputs import Item
from ovseg.run.kept import Kept
from ovseg.setup import Setup


@dataclass(frozen=True)
class BucketJob:
    """Another job, with its results at an address. Can be pickled: each worker opens the store by itself."""

    job: Job
    url: str

    @property
    def setup(self) -> Setup:
        return self.job.setup

    @property
    def out(self) -> Path:
        """Where the process that started the workers has the run's record."""
        return self.job.out

    @property
    def needs(self) -> tuple[str, ...]:
        return self.job.needs

    @property
    def files(self) -> tuple[str, ...]:
        return self.job.files

    @property
    def kept(self) -> Kept:
        return self.job.kept

    def start(self) -> Worker:
        bucket = Bucket(self.url)
        own: Any = self.job  # a frozen dataclass, as all jobs are
        return BucketWorker(self, replace(own, out=bucket.folder).start(), bucket)


@dataclass(frozen=True)
class BucketWorker:
    """A started `BucketJob`."""

    job: BucketJob
    worker: Worker
    bucket: Bucket

    @property
    def source(self) -> MaskSource:
        """Where the masks come from."""
        return self.worker.source

    @property
    def facts(self) -> dict[str, Any]:
        """For the run's record."""
        return self.worker.facts

    def size(self, item: Item) -> tuple[int, int]:
        return self.worker.size(item)

    def __call__(self, item: Item, progress: Progress | None = None) -> str:
        try:
            summary = self.worker(item, progress)
            self.bucket.put(self._files())
        finally:
            for file in self._files():
                file.unlink()
        return summary

    def _files(self) -> Sequence[Path]:
        return sorted(path for path in self.bucket.folder.rglob("*") if path.is_file())
