"""`python -m bench`, from the repository's root: the engines compared, or with --curves what their cost grows with.

Does not load torch before it is needed, so that a mistake in the call is reported at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

ENGINES = ("reference", "exact", "fast")
SETTINGS = ("pocket", "sd14")
DTYPES = ("float32", "bfloat16", "float16")


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bench: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.curves and not (given.images is given.reference_images is given.part is None and given.engines is ENGINES):
        parser.error("--curves: takes --setting, --masks, --device, --dtype and --out alone")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    logging.basicConfig(format="%(message)s")
    try:
        module = import_module("bench.curves" if given.curves else "bench.compare")
        return int(module.run(given))
    except (ValueError, OSError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m bench", allow_abbrev=False, description="What EmerDiff's engines cost and give.")
    parser.add_argument("--setting", choices=SETTINGS, default="pocket", help="models and images (default pocket)")
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=ENGINES, metavar="E", help="default: all three"
    )
    parser.add_argument(
        "--images",
        type=_count,
        metavar="N",
        help="timed after a warm-up; 0: the warm-up is timed (default pocket 100; sd14 3, or 0 on a CPU)",
    )
    parser.add_argument(
        "--reference-images", type=_count, metavar="N", help="of them by the reference too (default pocket 3, sd14 1)"
    )
    parser.add_argument("--masks", type=_count, metavar="K", help="default: the setting's own")
    parser.add_argument(
        "--part",
        nargs=2,
        type=_count,
        metavar=("MASKS", "STEPS"),
        help="run this much of the reference and extrapolate its seconds (default for sd14 on the CPU: 2 2)",
    )
    parser.add_argument("--curves", action="store_true", help="seconds and FLOPs against masks, image size and images")
    parser.add_argument("--device", default="cpu", help="as torch names it (default cpu)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of exact and fast (default float32)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file (default bench/results/NAME.json)")
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"expected a number from 0 up, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
