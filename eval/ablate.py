"""One setting of the masks varied at a time: `ovseg eval ablate`, as the EmerDiff paper (arXiv 2401.11739) does it.

Every value has a run folder of its own, as `ovseg eval predict --keep-analysis` writes it, so a call that was killed
goes on where it stopped; values that equal the default options share the folder `default`. Then the folders are
measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from emerdiff.options import Options, Setting, settings
from ovseg.eval.ablation_table import NOTES, Row, measure, plot, sheet
from ovseg.eval.datasets import Dataset
from ovseg.eval.prediction import PredictJob, PredictWorker
from ovseg.eval.scoring import check_images
from ovseg.files import json_bytes, write_atomically
from ovseg.masks import DiffusionSource
from ovseg.run.batch import run_started
from ovseg.run.folder import read_run, record_files
from ovseg.run.inputs import AGAIN, Batch, Item, prepare
from ovseg.run.terminal import say

SETTINGS: dict[str, Setting] = {setting.name: setting for setting in settings()}  # what can be varied


@dataclass(frozen=True)
class Variation:
    """The default options but for one setting."""

    setting: str  # a name in SETTINGS
    options: Options
    default: bool  # whether the options are the default ones

    @property
    def value(self) -> str:
        """Normalised text of the value; timesteps as snapped to the model's grid."""
        setting = SETTINGS[self.setting]
        return setting.show(getattr(self.options, setting.field))

    @property
    def folder(self) -> str:
        """The run folder's name."""
        return "default" if self.default else f"{self.setting}={self.value}"


def read_over(texts: Sequence[str]) -> dict[str, list[Any]]:
    """The values of every setting, from texts such as "masks=10,20,30".

    Raises ValueError for an unknown setting, one that is given twice, or an invalid value.
    """
    over: dict[str, list[Any]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        if name not in SETTINGS:
            raise ValueError(f"over: {text}: expected SETTING=VALUE,VALUE,... with one of {', '.join(SETTINGS)}")
        if name in over:
            raise ValueError(f"over: {text}: {name} is there twice; give all its values in one list")
        over[name] = [_read_value(name, value.strip()) for value in values.split(",")]
    return over


def _read_value(name: str, text: str) -> Any:
    setting = SETTINGS[name]
    try:
        value = setting.read(text)
    except ValueError as error:
        raise ValueError(f"over: {name}: expected {setting.expected}, got {text!r}") from error
    try:
        Options(**{setting.field: value})
    except ValueError as error:
        raise ValueError(f"over: {name}={text}: {error}") from error
    return value


def plan(over: dict[str, list[Any]], base: Options, snap: Callable[[Options], Options]) -> dict[str, list[Variation]]:
    """The variations of every setting.

    base: the default options. snap: moves timesteps to the model's grid and raises ValueError for unknown layers
    (`EmerDiff.snap`). Raises ValueError for two values of a setting that are the same after it.
    """
    variations: dict[str, list[Variation]] = {}
    for name, values in over.items():
        snapped = [snap(replace(base, **{SETTINGS[name].field: value})) for value in values]
        variations[name] = [Variation(name, options, options == base) for options in snapped]
        shown = [variation.value for variation in variations[name]]
        if twice := [value for value in shown if shown.count(value) > 1]:
            grid = f" in a grid of {base.steps} steps" if name.startswith("t_") else ""
            raise ValueError(f"over: {name}: two values come to {twice[0]}{grid}; leave one out")
    return variations


def ablate(job: PredictJob, over: dict[str, list[Any]], *, overwrite: bool = False) -> None:
    """Vary settings of a job one at a time, in folders below its own, score the results, write and show the tables.

    over: the values of every setting, as `read_over` reads them. What is finished is left alone.
    Raises ValueError, before the first image, for a job without a diffusion model, two values that are the same on
    the model's grid, and one that an image is too small for; later for an image that fails.
    """
    start = time.perf_counter()
    worker = job.start()
    source = worker.source
    if not isinstance(source, DiffusionSource):
        raise ValueError(f"by: {job.by} uses no diffusion model, whose settings are varied here")
    seconds = time.perf_counter() - start
    variations = plan(over, source.options, source.model.snap)
    items, out, dataset = job.items, job.out, job.dataset
    workers = {one.folder: with_options(worker, source, one) for found in variations.values() for one in found}
    check_sizes(workers, dataset, items)
    for name, one in workers.items():
        prepare(out / name, items, one.job.files, overwrite=overwrite)
        if not overwrite:
            check_same_images(out / name, items)
    for number, (name, one) in enumerate(workers.items(), 1):
        say(f"{name} ({number} of {len(workers)})")
        if run_started(one, Batch(tuple(items), overwrite=overwrite), seconds):
            check_images(read_run(out / name), dataset)  # raises where an image failed: values need the same images
    measured = {name: measure(out / name, dataset) for name in workers}
    rows = {
        name: [Row(one.value, one.default, measured[one.folder]) for one in found] for name, found in variations.items()
    }
    write(out, dataset, rows, worker.facts)


def check_sizes(workers: Mapping[str, PredictWorker], dataset: Dataset, items: Sequence[Item]) -> None:
    """Raise ValueError for a variation that one of the images is too small for, before any image is segmented."""
    sizes = set()
    for item in items:
        with suppress(ValueError, OSError):  # an unreadable image is reported when its turn comes
            sizes.add(dataset.size(item.id))
    for name, worker in workers.items():
        for size in sorted(sizes):
            try:
                worker.source.check(size)
            except ValueError as error:
                raise ValueError(f"over: {name}: {error}") from error


def check_same_images(folder: Path, items: Sequence[Item]) -> None:
    """Raise ValueError if an earlier call left more images in a run folder: values are compared on the same ones."""
    earlier = read_run(folder).done if record_files(folder) else []
    if others := sorted(set(earlier) - {item.id for item in items}):
        raise ValueError(f"{folder}: holds {others[0]}, which is not among the first {len(items)} images; {AGAIN}")


def with_options(worker: PredictWorker, source: DiffusionSource, variation: Variation) -> PredictWorker:
    """The same models with a variation's options of the masks, and its run folder. source: the worker's."""
    return replace(
        worker,
        job=replace(worker.job, out=worker.job.out / variation.folder, keep_analysis=True),
        segmenter=replace(worker.segmenter, source=replace(source, options=variation.options)),
        facts=worker.facts | {"options": asdict(variation.options)},
    )


def write(out: Path, dataset: Dataset, settings: dict[str, list[Row]], facts: dict[str, Any]) -> None:
    """Write ablation.json, ablation.md and ablation.png into `out`, and show the tables. facts: of the default run."""
    shown = sheet(dataset, settings)
    results = {
        "dataset": dataset.name,
        "images": len(next(iter(settings.values()))[0].measured.run.ids),
        "settings": {
            name: [
                {
                    "value": row.value,
                    "default": row.default,
                    "run": str(row.measured.run.path),
                    **row.measured.results(),
                }
                for row in rows
            ]
            for name, rows in settings.items()
        },
        "notes": NOTES,
        **{key: facts[key] for key in ("by", "protocol", "vocabulary_sha256", "models", "options", "view")},
    }
    write_atomically(out / "ablation.json", json_bytes(results))
    write_atomically(out / "ablation.md", shown.markdown().encode())
    write_atomically(out / "ablation.png", plot(settings))
    shown.show()
