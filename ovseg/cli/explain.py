"""`ovseg explain`: segments one image, labels the masks if there are classes, and draws `ovseg.figure`."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ovseg.classes import ClassList, biased, build_vocabulary
from ovseg.cli.setup import read_class_flags, read_setup
from ovseg.figure import explain_figure
from ovseg.files import write_atomically
from ovseg.images import read_image
from ovseg.masks import DiffusionSource, MaskSource
from ovseg.run.attempt import Outcome
from ovseg.run.batch import make_ready, tell_timesteps
from ovseg.run.inputs import Item
from ovseg.run.terminal import make_report, say
from ovseg.sheet import SUFFIXES, figure_bytes, require_matplotlib
from ovseg.sources import SOURCES


def run(given: Namespace) -> int:
    """`ovseg explain`; returns the exit code."""
    require_matplotlib()
    path = Path(given.image)
    files = choose_files(path, given.out, overwrite=given.overwrite)
    classes = _classes(given)
    image, item = read_image(path), Item(path.stem, path)
    kinds = ("clip",) if classes else ()
    setup = read_setup(given, *kinds)
    background = given.background or setup.preset.background
    for note in build_vocabulary(classes, biased(background, given.background_bias)).notes if classes else ():
        say(f"note: {note}")
    make_ready(setup, *kinds)
    segmenter, result = None, None
    if classes is not None:
        from ovseg.segmenter import Segmenter

        segmenter = Segmenter.load(setup)
        source: MaskSource = segmenter.source
        models = segmenter.models
        text = segmenter.encode(classes, background, given.background_bias)
    else:
        source = SOURCES[setup.by].make(setup)
        models = {"diffusion": source.identity["diffusion"]}
    if not isinstance(source, DiffusionSource):
        raise ValueError(f"by: {setup.by} has no diffusion model whose steps could be shown")
    tell_timesteps(setup, source)
    source.check(image.shape[:2])
    with make_report(0, 1) as report:
        report.image_started(item)
        start = time.perf_counter()
        options = replace(source.options, keep_difference_maps=True)
        segments = source.model.segment(image, options, progress=report.rows)
        if segmenter is not None:
            features = segmenter.clip.dense_features(image, segmenter.view)
            result = segmenter.label_segments(segments.labels, features, text, image)
        figure = explain_figure(image, segments, result, title=path.name, models=models)
        for file in files:
            write_atomically(file, figure_bytes(figure, file.suffix.lower()))
        report.image_ended(Outcome(item, time.perf_counter() - start, ", ".join(map(str, files))))
    return 0


def choose_files(image: Path, given: Sequence[str], *, overwrite: bool) -> list[Path]:
    """The files to write: those given, or `<stem>.explain.png` here.

    Raises ValueError for a suffix that is none of `SUFFIXES`, the image itself, and a file that is there already,
    unless it may be overwritten.
    """
    files = [Path(file) for file in given] or [Path(f"{image.stem}.explain.png")]
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            raise ValueError(f"out: {file}: expected a file name that ends in {' or '.join(SUFFIXES)}")
        if file.resolve() == image.resolve():
            raise ValueError(f"out: {file}: this is the image itself; choose another file")
        if file.is_dir() or (file.exists() and not overwrite):
            raise ValueError(f"out: {file}: already there; choose another file, or --overwrite to replace it")
    return files


def _classes(given: Namespace) -> ClassList | None:
    """The classes asked for, if any, checked together with a background that is asked for."""
    if given.classes is None and given.classes_file is None:
        if given.background is not None:
            raise ValueError("background: only with --classes or --classes-file")
        if given.background_bias:
            raise ValueError("background_bias: only with --classes or --classes-file")
        return None
    classes = read_class_flags(given)
    build_vocabulary(classes, given.background or "none")
    return classes
