"""The command line: `ovseg label`, `ovseg masks`, `ovseg models`.

Exit codes: 0 all went well, 1 some images failed, 2 a mistake in the call or missing weights (one line says which).
Here is the grammar and its help; what the commands do is in `ovseg.commands`, loaded once it is known which one.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ovseg import __version__

DTYPES = ("float32", "float16", "bfloat16")
LABEL_EXAMPLES = """\
examples:
  ovseg label photo.jpg --classes "cat,dog,sofa"
  ovseg label photo.jpg --classes "cat;kitten,dog;puppy" --background none
  ovseg label photos/ --classes-file classes.txt --out run1 --masks 20
  ovseg label scene.png --classes cat,grass --preset pocket          (works offline)
  ovseg label photo.jpg --classes cat --diffusion /models/sd21 --clip timm/vit_base_patch16_clip_224.openai

A semicolon separates a class's name from its aliases; a class file has one class a line, `name; alias`, # comments.
--background says what becomes of pixels that are none of your classes:
  words        a list of stuff words (sky, wall, ...) competes with your classes and wins as "background" (default)
  none         every pixel gets one of your classes
  threshold=T  a mask whose best class is less probable than T becomes background
  sky,wall     your own words compete

OUT gets run.json and, for each image: ID.png (class indices in the order of the list, background in front as 0,
255 = no label), ID.overlay.png (to look at, with a legend), ID.json (pixels, share and score per class)."""
MASKS_EXAMPLES = """\
examples:
  ovseg masks photo.jpg
  ovseg masks photos/ --masks 15 --out masks --device cuda
  ovseg masks scene.png --preset pocket --upsampling naive

OUT gets run.json and, for each image: ID.png (mask numbers from 0; 16-bit where there are over 254) and
ID.overlay.png."""
MODELS_EXAMPLES = """\
examples:
  ovseg models                        which presets there are, and whether their weights are on this machine
  ovseg models fetch sd14-vitb16      download a preset's weights (once; they stay in the hub's cache)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    # Their loading bars and advice would bury our own lines.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        from ovseg import commands

        return int(getattr(commands, options.run)(options))
    except (ValueError, OSError) as error:
        print(f"ovseg: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ovseg: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="ovseg",
        description="Label every pixel of an image with the classes you name, from a diffusion model's masks "
        "(EmerDiff) and CLIP's dense features (MaskCLIP). No training.",
        epilog="`ovseg COMMAND --help` has examples.",
    )
    parser.add_argument("--version", action="version", version=f"ovseg {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    label = commands.add_parser(
        "label", help="label images with your classes", epilog=LABEL_EXAMPLES, formatter_class=plain
    )
    classes = label.add_mutually_exclusive_group(required=True)
    classes.add_argument("--classes", metavar="LIST", help='class names, such as "cat;kitten,dog"')
    classes.add_argument("--classes-file", metavar="FILE", help="class names, one a line")
    label.add_argument("--background", default="words", metavar="RULE", help="what is none of the classes, see below")
    _add_common(label, "ovseg-labels")
    label.add_argument("--clip", metavar="C", help="with --diffusion: open_clip folder or hub id")
    label.set_defaults(run="run_label")

    masks = commands.add_parser(
        "masks", help="masks alone, without class names", epilog=MASKS_EXAMPLES, formatter_class=plain
    )
    _add_common(masks, "ovseg-masks")
    masks.set_defaults(run="run_masks", clip=None)

    models = commands.add_parser(
        "models", help="list the presets, fetch weights", epilog=MODELS_EXAMPLES, formatter_class=plain
    )
    models.set_defaults(run="run_models")
    actions = models.add_subparsers(metavar="")
    fetch = actions.add_parser("fetch", help="download a preset's weights into the hub's cache")
    fetch.add_argument("preset", metavar="PRESET", help="a name that `ovseg models` lists")
    fetch.set_defaults(run="run_fetch")
    return parser


def _add_common(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image files, or folders with images")
    parser.add_argument("--out", default=out, metavar="DIR", help=f"folder for the results (default {out})")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are already in --out")
    models = parser.add_argument_group("models")
    models.add_argument("--preset", metavar="P", help="sd14-vitb16 (default), pocket, ...; see `ovseg models`")
    models.add_argument("--diffusion", metavar="D", help="instead: diffusers folder or hub id, of SD 1.x/2.x's shape")
    models.add_argument("--device", default="auto", help="auto (a CUDA GPU, else the CPU), cpu, cuda, cuda:1, mps")
    models.add_argument("--dtype", default="float32", choices=DTYPES, help="numbers in the networks (default float32)")
    method = parser.add_argument_group("method (defaults: the preset's, and those of the EmerDiff paper)")
    method.add_argument("--masks", type=int, metavar="K", help="masks per image (30; pocket: 20)")
    method.add_argument("--steps", type=int, metavar="N", help="denoising steps of the whole schedule (50)")
    method.add_argument("--t-f", type=int, metavar="T", help="timestep whose queries are clustered (1)")
    method.add_argument("--t-m", type=int, metavar="T", help="timestep at which a mask is nudged (281)")
    method.add_argument("--strength", type=float, metavar="X", help="lambda, how strongly it is nudged (10)")
    method.add_argument("--no-injection", action="store_true", help="do not keep the attention maps while nudging")
    method.add_argument("--sigma", type=float, metavar="PX", help="Gaussian smoothing of the difference maps")
    method.add_argument("--upsampling", choices=("modulated", "naive"), help="naive: the quick, blocky baseline")
    method.add_argument("--seed", type=int, metavar="S", help="of the noise and the clustering (0)")


if __name__ == "__main__":
    sys.exit(main())
