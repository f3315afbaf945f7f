"""What `ovseg label` does with videos: which job they get, what goes with them and what not, and the clip to watch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from ovseg.run.bucket import is_bucket
from ovseg.run.frames import is_frame, place_of
from ovseg.run.inputs import Batch, Item
from ovseg.run.launch import launched
from ovseg.run.overlay_video import check_places, write_clips
from ovseg.run.terminal import say
from ovseg.run.work import LabelJob


def job_for(given: Namespace, job: LabelJob, items: Sequence[Item]) -> LabelJob:
    """The job for these images: the one given, or where they are frames, one that carries masks on.

    Raises ValueError for flags that do not go with videos, and for videos among images.
    """
    frames = [item for item in items if is_frame(item)]
    if not frames:
        if given.every is not None:
            raise ValueError("every: is for videos and animated images, and here is none")
        return job
    if is_bucket(given.out):
        raise ValueError(f"out: {given.out}: frames go on from what the one before left on a disk; give a local folder")
    if len(frames) < len(items):
        video, other = place_of(frames[0])[0], next(item.path for item in items if not is_frame(item))
        raise ValueError(f"{video} is a video, {other} is not: a run is of one kind, run them apart")
    check_places(job.out, items)
    from ovseg.run.video import FramesJob, carries

    if not carries(job):
        say("note: these masks are not carried from frame to frame; each frame is labelled by itself")
        return job
    refused = {
        "shard": given.shard is not None or launched() is not None,
        "engine": given.engine != "here",
        "analyses": given.analyses is not None,
        "keep_analysis": given.keep_analysis,
    }
    for field, is_given in refused.items():
        if is_given:
            raise ValueError(f"{field}: not for videos, whose masks go on from the frame before")
    return FramesJob.of(job, given.every or 1)


def finish(given: Namespace, out: Path, batch: Batch) -> None:
    """Write the clips of overlays, where the images were frames."""
    if not batch.items or not is_frame(batch.items[0]):
        return
    if not batch.shard:
        write_clips(out, batch.items, given.every or 1, tell=say)
    elif batch.shard.number == 1 or not launched():
        say("no clip of overlays: this run is in parts")
