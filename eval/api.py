"""What one calls from Python: `predict` labels a data set's images into a run folder, `score` measures run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovseg.classes import ClassList, read_classes
from ovseg.eval.oracle import TRUTH, check_source
from ovseg.eval.protocols import Protocol
from ovseg.eval.scored import Scored
from ovseg.eval.scoring import out_folders, read_all, score_run, write_results
from ovseg.presets import DEFAULT, Preset, get_preset
from ovseg.run.batch import run_job
from ovseg.run.folder import RunFolder, read_run, recorded_facts
from ovseg.run.inputs import batch_of
from ovseg.setup import READING_FIELDS, Setup, setup_of


def predict(
    name: str,
    root: str | Path | None = None,
    *,
    out: str | Path,
    preset: str | Preset | Setup | None = None,
    by: str | None = None,
    limit: int | None = None,
    partial: bool = False,
    protocol: str | Protocol | None = None,
    pixel_exact: bool = False,
    vocabulary: str | None = None,
    ignore: int | None = None,
    analyses: str | Path | RunFolder | None = None,
    keep_analysis: bool = False,
    background_bias: float = 0.0,
    overwrite: bool = False,
    **options: Any,
) -> RunFolder:
    """Label a data set's images into the run folder `out`; what is finished there is left alone.

        >>> from ovseg.eval import predict
        >>> run = predict("pocket", "tuning/5", out="runs/slic", preset="pocket", by="slic", masks=8, limit=2)
        >>> run.done
        ['world3-tuning-5-000000', 'world3-tuning-5-000001']
        >>> run.facts["by"], run.facts["options"]["masks"]
        ('slic', 8)

    Args:
        name, root, ignore: the data set, as in `ovseg.eval.datasets.open_dataset`.
        preset: a name, a `Preset`, or a whole `Setup`; None: the default, or with `analyses` that run's models and
            settings.
        by: a mask source (see `ovseg.masks`) or "truth", the oracle, which reads labels; None: "emerdiff", or the
            set-up's.
        limit: only the first images. partial: take what is on this disk of a data set that is not whole.
        protocol: a name, None for the data set's own, or rules that depart from a family's, such as
            `replace(protocols.protocol("sclip", "voc21", pixel_exact=True), logit_scale=40)`.
        pixel_exact: labels as the named protocol's own code gives them.
        vocabulary: a class list's name; None: the protocol's or the data set's own.
        analyses: a run whose kept analyses are used: no diffusion again. keep_analysis: keep this run's.
        background_bias: added to the logits of the protocol's background words; above 0 for more background.
        overwrite: replace what `out` holds, instead of going on there.
        options: fields of `Setup` (masks_from, dense, regions, scope, merge, vote, refine, device, dtype) and of
            `emerdiff.Options` (masks, speed, ...).
    Returns:
        The run, with the state of each image in `.ids`: an image that cannot be done is reported there and on the
        terminal and does not end the run, so hours of work are not lost to one file; `score` refuses such a run.
    Raises:
        ValueError, OSError: what would be wrong with every image: settings, data set, models, `out`.
    """
    from ovseg.eval.prediction import PredictJob  # which loads torch, and scoring does not need it

    kept = analyses.path if isinstance(analyses, RunFolder) else analyses and Path(analyses)
    truth = by is not None and check_source(by) == TRUTH
    if truth and options.get("masks_from"):
        raise ValueError("masks_from: is for by files, got by truth")
    job = PredictJob(
        setup=_setup(preset, "none" if truth else by, kept or None, options),
        name=name,
        root=None if root is None else str(root),
        out=Path(out),
        ignore=ignore,
        limit=limit,
        partial=partial,
        protocol=protocol,
        pixel_exact=pixel_exact,
        vocabulary=vocabulary,
        truth=truth,
        analyses=kept or None,
        keep_analysis=keep_analysis,
        background_bias=background_bias,
    )
    job.check()
    run_job(job, batch_of(job.items, job.out, job.files, overwrite=overwrite))
    return read_run(job.out)


def score(
    name: str,
    runs: str | Path | RunFolder | Sequence[str | Path | RunFolder],
    root: str | Path | None = None,
    *,
    ignore: int | None = None,
    best_label: bool = False,
    names: str | Path | Sequence[str] | None = None,
    uncorrected: bool = False,
    out: str | Path | None = None,
) -> list[Scored]:
    """Score run folders, or folders of anyone's index maps (see `ovseg.eval.plain`), against a data set.

    No model is loaded, nothing is shown.

        >>> from ovseg.eval import predict, score
        >>> run = predict("pocket", "tuning/5", out="runs/truth", preset="pocket", by="truth", limit=2)
        >>> [result] = score("pocket", run, "tuning/5", best_label=True)    # the true masks, each with its true class
        >>> result
        Scored(runs/truth: pocket, 2 of 200 images, best labels, mIoU 100.00)
        >>> result.metrics["boundary_F"], result.results()["counts"]["scored"]
        (100.0, 2)

    Args:
        name, root, ignore: the data set, as in `ovseg.eval.datasets.open_dataset`; any part of it may be there.
        runs: one run, as a folder or as `predict` returned it, or several; each is scored over its own images.
        best_label: give every mask the class that most of its pixels have: reads labels, and measures masks alone.
        names: of folders without a record, what their indices mean: a file of names, or the names; None: the data
            set's classes. uncorrected: the runs' own labels, also where a person corrected them.
        out: a folder for results.json, classes.csv, images.csv, table.md and table.tex, as `ovseg eval score --out`
            has it; None: nothing is written.
    Returns:
        a result for each run, in their order: `.metrics` in percent, `.interval`, `.lead(baseline)`, `.results()`.
    Raises:
        ValueError, OSError: a data set or run that is not there, images that are not done, and as `scoring.score_run`.
    """
    given = [runs] if isinstance(runs, str | Path | RunFolder) else list(runs)
    folders, dataset = read_all(given, name, root, ignore, _class_list(names))
    if out is not None:
        out_folders(folders, out, best_label)  # a mistake in it shows now
    found = [score_run(folder, dataset, best_label, uncorrected=uncorrected) for folder in folders]
    if out is not None:
        write_results(found, out)
    return found


def _class_list(names: str | Path | Sequence[str] | None) -> ClassList | None:
    if names is None:
        return None
    return (
        read_classes(names)
        if isinstance(names, str | Path)
        else ClassList(tuple(names), tuple((name,) for name in names))
    )


def _setup(
    preset: str | Preset | Setup | None, by: str | None, analyses: Path | None, options: Mapping[str, Any]
) -> Setup:
    """The set-up that `predict` is asked for. options: fields of `Setup`, and settings of the method."""
    fields = ("masks_from", *READING_FIELDS, "device", "dtype")
    changes = {field: options[field] for field in fields if options.get(field) is not None}
    settings = {field: value for field, value in options.items() if field not in fields}
    if by is not None:
        changes["by"] = by
    if preset is None and analyses is not None:
        return setup_of(recorded_facts(analyses), settings, **changes)
    if isinstance(preset, Setup):
        return replace(preset, settings={**preset.settings, **settings}, **changes)
    chosen = preset if isinstance(preset, Preset) else get_preset(preset or DEFAULT)
    return Setup(preset=chosen, settings=settings, **changes)
