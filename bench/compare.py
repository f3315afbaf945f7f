"""The comparison: run the engines, write cost and quality into one JSON file, show them as tables."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.engine import ENGINES, REFERENCE, SD14_PART, Measured, count, load, setting, take_turns
from bench.machine import choose_device, machine, matrix_rate
from bench.quality import RULES, quality
from bench.reference import Part, injection_cost
from ovseg.eval.tables import Sheet, with_interval
from ovseg.files import json_bytes, write_atomically
from ovseg.run.terminal import say
from ovseg.segmenter import Segmenter

RESULTS = Path("bench/results")
IMAGES = {"pocket": 100, "sd14": 3}
REFERENCE_IMAGES = {"pocket": 3, "sd14": 1}
HEADER = ["engine", "dtype", "s/image", "speed-up", "UNet", "decodes", "TFLOPs", "fewer", "of matrix rate", "peak GB"]
MATRIX_NOTE = (
    "of matrix rate: the FLOPs of matrix products, convolutions and attention, by the seconds, against one large "
    "matrix product in the same dtype here, measured beforehand"
)


def run(given: Namespace) -> int:
    """`python -m bench`; returns the exit code."""
    device, dtype = choose_device(given.device), getattr(torch, given.dtype)
    slow = given.setting == "sd14" and device.type == "cpu"  # minutes an image: the counted run is the timed one
    images = (0 if slow else IMAGES[given.setting]) if given.images is None else given.images
    part = Part(*given.part) if given.part else (SD14_PART if slow else None)
    at = setting(given.setting, given.masks)
    rates = {name: matrix_rate(device, getattr(torch, name)) for name in sorted({"float32", given.dtype})}
    measured = []
    for engine in sorted(set(given.engines), key=ENGINES.index):  # the reference first
        say(f"{engine}: counting")
        measured.append(count(at, engine, device, dtype, part))
    wanted = REFERENCE_IMAGES[given.setting] if given.reference_images is None else given.reference_images
    judged = given.setting == "pocket" and images > 1
    found = take_turns(at, measured, images, wanted, device, part, other_seed=judged)
    results = {
        "setting": given.setting,
        "device": str(device),
        "machine": machine(device),
        "matrix_tflops": {name: rate / 1e12 for name, rate in rates.items()},
        "options": {name: value for name, value in asdict(at.options).items() if name != "speed"},
        "images": images,
        "engines": [_row(one, measured[0] if REFERENCE in given.engines else None, rates) for one in measured],
    }
    if REFERENCE in given.engines:
        model = load(at, REFERENCE, device, dtype)
        results["injection_cost"] = injection_cost(model, at.image(0).shape[:2], at.options, calls=2 if slow else 5)
    if judged:
        results["quality"] = quality(found, Segmenter.from_preset("pocket", device="cpu", refine="none"))
    out = given.out or RESULTS / f"{given.setting}-{device.type}-{given.dtype}.json"
    write_atomically(out, json_bytes(results))
    sheet(results).show()
    say(f"written: {out}")
    return 0


def _row(one: Measured, reference: Measured | None, rates: dict[str, float]) -> dict[str, Any]:
    """An engine's figures for JSON; the speed-up is on the images that both have run."""
    row = asdict(one) | {"seconds_per_image": one.mean_seconds, "tflops": one.flops / 1e12}
    row["share_of_matrix_rate"] = one.flops / one.mean_seconds / rates[one.dtype]
    if reference:
        if bool(reference.seconds) == bool(one.seconds):  # both timed, or both in the counted run
            row["speed_up"] = reference.mean_seconds / one.mean_of(len(reference.seconds))
        row["fewer_flops"] = reference.flops / one.flops
    return row


def sheet(results: dict[str, Any]) -> Sheet:
    """The content of the JSON file as tables."""
    found, quality = results["machine"], results.get("quality")
    rates = ", ".join(f"{rate:.3g} TFLOP/s in {name}" for name, rate in results["matrix_tflops"].items())
    notes = [", ".join(f"{key} {value}" for key, value in found.items()), f"matrix rate: {rates}; {MATRIX_NOTE}"]
    notes += [f"{one['engine']}: seconds {one['extrapolated']}" for one in results["engines"] if one["extrapolated"]]
    if "injection_cost" in results:
        notes.append(
            f"reference: one evaluation with given maps takes {results['injection_cost']:.2f} of diffusers' own"
        )
    return Sheet(
        title=f"{results['setting']}, K = {results['options']['masks']}, {results['device']}",
        header=HEADER,
        rows=[_cells(row) for row in results["engines"]],
        notes=notes,
        below=_agreement_sheet(quality) if quality else None,
    )


def _cells(row: dict[str, Any]) -> list[str]:
    peak = row["peak_bytes"]
    return [
        row["engine"],
        row["dtype"],
        number(row["seconds_per_image"]),
        f"{row['speed_up']:.1f}x" if "speed_up" in row else "",
        str(row["unet_rows"]),
        str(row["decodes"]),
        number(row["tflops"]),
        f"{row['fewer_flops']:.1f}x" if "fewer_flops" in row else "",
        f"{row['share_of_matrix_rate']:.0%}",
        f"{peak / 1e9:.1f}" if peak else "-",
    ]


def number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _agreement_sheet(quality: dict[str, Any]) -> Sheet:
    rows = [
        [
            " and ".join(one["masks"]) + (" (matched)" if one["matched"] else ""),
            str(one["scenes"]),
            f"{one['equal_pixels']:.3f}",
            f"{one['least_equal_pixels']:.3f}",
            f"{one['equal_labels']:.3f}",
        ]
        for one in quality["agreement"]
    ]
    header = ["masks", "scenes", "equal pixels", "worst scene", "equal labels"]
    notes = ["percent of pixels; matched: numbers mean nothing there, masks are matched by overlap; labels: by CLIP"]
    return Sheet("agreement", header, rows, notes, below=_quality_sheet(quality))


def _quality_sheet(quality: dict[str, Any]) -> Sheet:
    rows = [
        [name, *(with_interval(quality[rule][name]["mIoU"], *quality[rule][name]["interval"]) for rule in RULES)]
        for name in quality[RULES[0]]
    ]
    notes = ["percent; with 95 % bootstrap intervals over scenes, paired for the difference; best label reads labels"]
    return Sheet(f"mIoU on {quality['scenes']} scenes", ["masks", *RULES], rows, notes)
