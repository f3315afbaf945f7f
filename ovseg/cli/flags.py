"""Flags that several commands share: a run's folder, its models, the method's settings. Nothing heavy is imported."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Callable
from typing import Any

from emerdiff.options import OWN_LAYER, Setting, settings
from ovseg.presets import DTYPES
from ovseg.setup import REFINERS
from ovseg.sources import SOURCES
from ovseg.towers.region_kinds import REGIONS
from ovseg.towers.scope import NO_SCOPE, SCOPES
from ovseg.towers.variants import VARIANTS


def add_inputs(parser: ArgumentParser) -> None:
    """Which images."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="image files, folders, patterns, .txt lists of paths, or -"
    )


def add_every(parser: ArgumentParser) -> None:
    """Which frames of videos."""
    parser.add_argument("--every", type=_from_one, metavar="N", help="of a video each N-th frame alone (1)")


def _from_one(text: str) -> int:
    if not re.fullmatch(r"0*[1-9]\d{0,8}", text):
        raise ArgumentTypeError(f"expected a whole number from 1, got {text[:60]!r}")
    return int(text)


def add_run(parser: ArgumentParser, out: str | None) -> None:
    """The folder for results, and which images of the input. out: the default folder, None if it must be given."""
    default = f" (default {out})" if out else ""
    parser.add_argument(
        "--out",
        default=out,
        required=out is None,
        metavar="DIR",
        help=f"folder for results, or s3://bucket/run{default}",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds, instead of going on there")
    parser.add_argument("--shard", metavar="I/N", help="only every N-th image from the I-th on, to share the work")


def add_engine(parser: ArgumentParser) -> None:
    """Who runs it: this process, or Ray."""
    engine = parser.add_argument_group("many machines")
    engine.add_argument("--engine", choices=("here", "ray"), default="here", help="ray: workers of Ray Data (here)")
    engine.add_argument("--workers", metavar="N|MIN:MAX", help="of Ray (default one for each GPU, else each CPU)")
    engine.add_argument("--ray-address", metavar="A", help="of a Ray that runs, such as auto (default: start one)")


def add_analyses(parser: ArgumentParser) -> None:
    """Keeping analyses, and using an earlier run's."""
    parser.add_argument(
        "--keep-analysis", action="store_true", help="keep masks and features, ID.safetensors, in --out"
    )
    parser.add_argument("--analyses", metavar="RUN", help="use an earlier run's kept analyses: no diffusion again")


def add_models(parser: ArgumentParser, *, clip: bool = True) -> None:
    """Which weights, device and dtype."""
    models = parser.add_argument_group("models")
    models.add_argument("--preset", metavar="P", help="sd14-vitb16 (default), pocket, ...; see `ovseg models`")
    models.add_argument(
        "--diffusion",
        metavar="D",
        help="instead: diffusers folder, hub id or .safetensors checkpoint of SD 1.x, 2.x, SDXL or their kin; see "
        "`ovseg models diffusion`",
    )
    if clip:
        models.add_argument("--clip", metavar="C", help="with --diffusion: hub id or folder, see `ovseg models towers`")
    else:
        parser.set_defaults(clip=None)
    models.add_argument("--device", default="auto", help="auto (a CUDA GPU, else the CPU), cpu, cuda, cuda:1, mps")
    models.add_argument("--dtype", choices=DTYPES, help="numbers in the networks (default float32)")


def add_masks(parser: ArgumentParser, *more: str) -> None:
    """Where masks come from. more: sources beside those of `ovseg.sources`."""
    known = ", ".join((*SOURCES, *more))
    parser.add_argument("--by", metavar="SOURCE", help=f"where masks come from: {known} (default emerdiff); see below")
    parser.add_argument("--masks-from", metavar="DIR", help="with --by files: ID.png, ID.npz or run-length ID.json")


def add_background_bias(parser: ArgumentParser, *, default: float | None = 0.0) -> None:
    """More background, or less."""
    parser.add_argument(
        "--background-bias",
        type=float,
        default=default,
        metavar="B",
        help="added to the logits of the background words: above 0 for more background, below for less (0)",
    )


def add_dense(parser: ArgumentParser) -> None:
    """Which dense readout of CLIP."""
    parser.add_argument(
        "--dense", choices=tuple(VARIANTS), metavar="V", help=f"dense CLIP: {', '.join(VARIANTS)} (default maskclip)"
    )


def add_reading(parser: ArgumentParser) -> None:
    """How masks are named: their features, attention within them, and what decides."""
    group = parser.add_argument_group("naming")
    group.add_argument(
        "--regions", choices=tuple(REGIONS), metavar="R", help="a mask's feature (mean): see `ovseg label --help`"
    )
    group.add_argument(
        "--scope",
        choices=(NO_SCOPE, *SCOPES),
        metavar="S",
        help="in CLIP's last block a patch attends within its mask: uniform, like (to like patches), none (none)",
    )
    group.add_argument(
        "--merge", type=float, metavar="C", help="with --scope: masks with at least this cosine are one scope (1: none)"
    )
    group.add_argument(
        "--vote", action="store_true", default=None, help="a mask takes the name that most of its pixels have"
    )
    group.add_argument(
        "--refine",
        choices=REFINERS,
        metavar="F",
        help="pamr: masks, or scores of --by none, follow the edges; none (default: the preset's, see `ovseg models`)",
    )


def add_method(parser: ArgumentParser) -> None:
    """The settings of EmerDiff, as `emerdiff.options` states them; None where a flag is not given."""
    method = parser.add_argument_group("method (defaults: the preset's, and those of the EmerDiff paper)")
    for setting in settings():
        default = setting.show(setting.default).replace(OWN_LAYER, "the model's own")
        shared: dict[str, Any] = {"dest": setting.field, "default": None, "help": f"{setting.help} ({default})"}
        if isinstance(setting.default, bool):
            method.add_argument(setting.flag, action=BooleanOptionalAction, **shared)
        else:
            if setting.alone is not None:
                shared |= {"nargs": "?", "const": setting.alone}
            method.add_argument(setting.flag, type=_reader(setting), metavar=setting.metavar, **shared)


def _reader(setting: Setting) -> Callable[[str], Any]:
    """The setting's own reader, whose errors argparse shows."""

    def read(text: str) -> Any:
        try:
            value = setting.read(text)
        except ValueError as error:
            raise ArgumentTypeError(f"expected {setting.expected}, got {text[:60]!r}") from error
        if value is None:  # None here means that the flag was not given
            raise ArgumentTypeError(f"expected {setting.expected} by its name, got {text!r}")
        return value

    return read
