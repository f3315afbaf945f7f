"""What `ovseg explain` does: it segments one image, labels the masks if there are classes, and draws `ovseg.figure`.

The order is that of the other commands: whatever can be wrong without the networks shows first.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ovseg.classes import ClassList, build_vocabulary
from ovseg.cli.label import announce_long_run
from ovseg.cli.loading import choose_classes, choose_models, load_emerdiff, load_segmenter
from ovseg.figure import explain_figure
from ovseg.files import write_atomically
from ovseg.images import read_image
from ovseg.presets import identity
from ovseg.run.inputs import Item
from ovseg.run.terminal import make_report, say
from ovseg.sheet import SUFFIXES, figure_bytes, require_matplotlib


def run(given: Namespace) -> int:
    """`ovseg explain`; returns the exit code."""
    require_matplotlib()
    path = Path(given.image)
    files = choose_files(path, given.out, overwrite=given.overwrite)
    classes = _classes(given)
    image = read_image(path)
    result = None
    if classes is None:
        preset = choose_models(given, ("diffusion",))
        model, options = load_emerdiff(given, preset)
        models = {"diffusion": identity("diffusion", preset.diffusion)}
    else:
        segmenter, _ = load_segmenter(given, choose_models(given, ("diffusion", "clip")))
        model, options, models = segmenter.emerdiff, segmenter.options, segmenter.models
        text = segmenter.encode(classes, given.background or "words")
        model.cost(image.shape[:2], options)  # refuses sides beyond 4:1 and too many masks
        features = segmenter.clip.dense_features(image, segmenter.view)
    if model.diffusion.device.type == "cpu":
        announce_long_run([Item(path.stem, path)], model, options)
    with make_report(0, 1) as report:
        report.image_started(Item(path.stem, path))
        start = time.perf_counter()
        segments = model.segment(image, replace(options, keep_difference_maps=True), progress=report.rows)
        if classes is not None:
            result = segmenter.label_segments(segments.labels, features, text)
        figure = explain_figure(image, segments, result, title=path.name, models=models)
        for file in files:
            write_atomically(file, figure_bytes(figure, file.suffix.lower()))
        report.image_done(Item(path.stem, path), ", ".join(map(str, files)), time.perf_counter() - start)
    return 0


def choose_files(image: Path, given: Sequence[str], *, overwrite: bool) -> list[Path]:
    """The files to write: those given, or `<stem>.explain.png` here.

    Raises ValueError for a suffix that is none of `SUFFIXES`, the image itself, and a file that is there already,
    unless it may be overwritten.
    """
    files = [Path(file) for file in given] or [Path(f"{image.stem}.explain.png")]
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            raise ValueError(f"--out {file}: expected a file name that ends in {' or '.join(SUFFIXES)}")
        if file.resolve() == image.resolve():
            raise ValueError(f"--out {file}: this is the image itself; choose another file")
        if file.is_dir() or (file.exists() and not overwrite):
            raise ValueError(f"--out {file}: already there; choose another file, or --overwrite to replace it")
    return files


def _classes(given: Namespace) -> ClassList | None:
    """The classes asked for, if any, checked together with the background."""
    if given.classes is None and given.classes_file is None:
        if given.background is not None:
            raise ValueError("--background: only with --classes or --classes-file")
        return None
    classes = choose_classes(given)
    for note in build_vocabulary(classes, given.background or "words").notes:
        say(f"note: {note}")
    return classes
