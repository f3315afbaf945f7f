"""What an image's cost grows with: masks, image size, number of images; exact and fast, as JSON and as a picture.

At Stable Diffusion's full size on a CPU an image takes minutes: FLOPs are counted on shapes there, nothing is timed.
"""

from __future__ import annotations

import io
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.engine import EXACT, FAST, Setting, load, setting
from bench.machine import choose_device, machine
from bench.shapes import count_flops, shapes_of_sd14
from emerdiff import EmerDiff, Options
from ovseg.files import json_bytes, write_atomically
from ovseg.run.terminal import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = Path("bench/results")
MASKS, IMAGES = (10, 20, 40), (1, 2, 4)
SIZES = {"pocket": (128, 192, 256), "sd14": (256, 512, 768)}  # sides of an image in the network, pixels
COLOURS = {EXACT: "C0", FAST: "C1"}
UNITS = {"seconds": "seconds", "tflops": "TFLOPs"}

# Options and a number of images -> seconds, None if nothing is timed, and FLOPs.
Measure = Callable[[Options, int], tuple[float | None, float]]


@dataclass(frozen=True)
class Point:
    """The cost of one image, or of several."""

    engine: str
    varied: str  # "masks", "size" or "images"
    value: int
    seconds: float | None  # None where nothing was timed
    tflops: float


def run(given: Namespace) -> int:
    """`python -m bench --curves`; returns the exit code."""
    device = choose_device(given.device)
    images: tuple[int, ...] = ()
    if given.setting == "sd14" and device.type == "cpu":
        options, measure = Options(), _on_shapes(shapes_of_sd14())
    else:
        at = setting(given.setting, None)
        model = load(at, EXACT, device, getattr(torch, given.dtype))
        options, measure, images = at.options, _timed(model, at), IMAGES
    if given.masks is not None:
        options = replace(options, masks=given.masks)
    points = []
    for point in curves(options, SIZES[given.setting], images, measure):
        points.append(point)
        took = "" if point.seconds is None else f"{point.seconds:.3g} s, "
        say(f"{point.engine}, {point.varied} {point.value}: {took}{point.tflops:.3g} TFLOPs")
    out = given.out or RESULTS / f"curves-{given.setting}-{device.type}-{given.dtype}.json"
    results = {"setting": given.setting, "device": str(device), "dtype": given.dtype, "machine": machine(device)}
    results |= {"masks": options.masks, "size": options.base_size, "points": [asdict(point) for point in points]}
    write_atomically(out, json_bytes(results))
    write_atomically(out.with_suffix(".png"), plot(points))
    say(f"written: {out}, {out.with_suffix('.png')}")
    return 0


def curves(options: Options, sizes: Sequence[int], images: Sequence[int], measure: Measure) -> Iterator[Point]:
    """Vary one thing at a time, for each engine."""
    for engine in (EXACT, FAST):
        own = replace(options, speed=engine)
        cases = [("masks", masks, replace(own, masks=masks), 1) for masks in MASKS]
        cases += [("size", size, replace(own, base_size=size), 1) for size in sizes]
        cases += [("images", number, own, number) for number in images]
        for varied, value, changed, number in cases:
            seconds, flops = measure(changed, number)
            yield Point(engine, varied, value, seconds, flops / 1e12)


def _on_shapes(model: EmerDiff) -> Measure:
    return lambda options, images: (None, images * count_flops(model, options))


def _timed(model: EmerDiff, at: Setting) -> Measure:
    def measure(options: Options, images: int) -> tuple[float, float]:
        pictures = [at.image(number) for number in range(images)]
        with FlopCounterMode(display=False) as counter:  # the warm-up too
            for picture in pictures:
                model.segment(picture, options)
        start = time.perf_counter()
        for picture in pictures:
            model.segment(picture, options)
        return time.perf_counter() - start, float(counter.get_total_flops())

    return measure


def plot(points: Sequence[Point]) -> bytes:
    """A PNG with a column for each varied quantity, and a row each for seconds, if there are any, and TFLOPs."""
    from matplotlib.figure import Figure  # here, because only this needs it

    units = {name: unit for name, unit in UNITS.items() if getattr(points[0], name) is not None}
    varied = list(dict.fromkeys(point.varied for point in points))
    figure = Figure(figsize=(4 * len(varied), 3.2 * len(units)), layout="constrained")
    panels = figure.subplots(len(units), len(varied), squeeze=False)
    for row, (name, unit) in zip(panels, units.items(), strict=True):
        for panel, what in zip(row, varied, strict=True):
            _draw(panel, [point for point in points if point.varied == what], name)
            panel.set_ylabel(unit)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw(panel: Axes, points: Sequence[Point], name: str) -> None:
    """Lines from zero up; sizes stand at their areas, so that a cost per pixel is a straight line."""
    what = points[0].varied
    values = sorted({point.value for point in points})
    for engine, colour in COLOURS.items():
        own = [point for point in points if point.engine == engine]
        places = [point.value**2 if what == "size" else point.value for point in own]
        panel.plot(places, [getattr(point, name) for point in own], color=colour, marker="o", label=engine)
    panel.set_xticks([value**2 if what == "size" else value for value in values], [str(value) for value in values])
    panel.set(xlim=(0, None), ylim=(0, None), xlabel="size (pixels a side, by area)" if what == "size" else what)
    panel.grid(alpha=0.3)
