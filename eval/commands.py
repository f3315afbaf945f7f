"""`ovseg eval ...`: each command's flags to the library's functions."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ovseg.classes import read_classes
from ovseg.cli.engine import open_out, run_by
from ovseg.cli.setup import read_setup
from ovseg.eval.oracle import TRUTH, check_source
from ovseg.run.batch import make_ready
from ovseg.run.folder import FORMER_METHODS
from ovseg.run.inputs import batch_of
from ovseg.run.launch import launched
from ovseg.run.terminal import say

if TYPE_CHECKING:
    from ovseg.eval.prediction import PredictJob


def predict(given: Namespace) -> int:
    """`ovseg eval predict`; returns the exit code."""
    from ovseg.eval.scoring import score_and_show

    if given.by and given.method:
        raise ValueError("by: given with --method, which is its former spelling; leave one out")
    out, bucket = open_out(given)
    job = read_job(given, given.by or FORMER_METHODS.get(given.method), out)
    if given.score and given.shard:
        raise ValueError("score: a shard alone cannot be scored; when all are done, `ovseg eval score`")
    batch = batch_of(job.items, out, job.files, given.shard, overwrite=given.overwrite, bucket=bucket)
    code = run_by(given, job, batch)
    if given.score and code:
        say(f"not scored, because images failed: when all are done, `ovseg eval score {job.name}`")
    elif given.score and (batch.shard is None or batch.shard.number == 1):
        score_and_show(job.dataset, [job.out])
    return code


def ablate(given: Namespace) -> int:
    """`ovseg eval ablate`; returns the exit code."""
    from ovseg.eval.ablate import ablate, read_over

    if launched():
        raise ValueError("ablate runs as one process; start it without accelerate or torchrun")
    over = read_over(given.over)
    job = replace(read_job(given, "emerdiff", Path(given.out)), keep_analysis=True)
    make_ready(job.setup, "clip")
    ablate(job, over, overwrite=given.overwrite)
    return 0


def score(given: Namespace) -> int:
    """`ovseg eval score`; returns the exit code."""
    from ovseg.eval.scoring import read_all, score_and_show

    names = None if given.names is None else read_classes(given.names)
    runs, dataset = read_all(given.predictions, given.name, given.root, given.ignore, names)
    for note in dataset.notes:
        say(note)
    score_and_show(dataset, runs, given.out, given.best_label, given.uncorrected, given.report)
    return 0


def table(given: Namespace) -> int:
    """`ovseg eval table`; returns the exit code."""
    from ovseg.eval.joint import joint_table

    joint_table(given.runs).show()
    return 0


def unsupervised(given: Namespace) -> int:
    """`ovseg eval unsupervised`; returns the exit code."""
    from ovseg.eval.scoring import dataset_of, read_runs
    from ovseg.eval.unsupervised import PROTOCOLS, unsupervised

    dataset = dataset_of(read_runs([given.predictions]), given.name, given.root, given.ignore)
    protocols = tuple(PROTOCOLS) if given.protocol == "both" else (given.protocol,)
    unsupervised(dataset, given.predictions, protocols, seed=given.seed, out=given.out)
    return 0


def check(given: Namespace) -> int:
    """`ovseg eval check`; returns the exit code."""
    from ovseg.eval.check import check

    return 0 if check(given.name, given.root, given.ignore, partial=given.partial) else 1


def read_job(given: Namespace, by: str | None, out: Path) -> PredictJob:
    """The job that the flags ask for. Mistakes in the data set, its protocol and vocabulary show now.

    by: the mask source, or "truth"; None: the set-up's own.
    """
    from ovseg.eval.prediction import PredictJob  # which loads torch

    truth = by is not None and check_source(by) == TRUTH
    if truth and getattr(given, "masks_from", None):
        raise ValueError("masks_from: is for by files, got by truth")
    job = PredictJob(
        setup=read_setup(given, "clip", by="none" if truth else by),
        name=given.name,
        root=given.root,
        out=out,
        ignore=given.ignore,
        limit=given.limit,
        partial=given.partial,
        protocol=given.protocol,
        pixel_exact=given.pixel_exact,
        vocabulary=given.vocabulary,
        truth=truth,
        analyses=Path(given.analyses) if getattr(given, "analyses", None) else None,
        keep_analysis=getattr(given, "keep_analysis", False),
        background_bias=given.background_bias,
    )
    job.check()
    for note in job.dataset.notes:
        say(note)
    return job
