"""The command line: `ovseg label`, `masks`, `explain`, `export`, `import`, `report`, `models`, `app`, and `eval`.

Exit codes: 0 all went well, 1 some images failed, 2 a mistake in the call, missing weights or models too large for the
memory (one line says which).
This file has the flags and their help; the code of a command is loaded when it is called (`run`: module:function).
"""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from ovseg import __version__
from ovseg.cli import flags
from ovseg.cli.app import add_app
from ovseg.cli.eval import add_eval
from ovseg.cli.exchange import add_export, add_import
from ovseg.cli.texts import wrong_text
from ovseg.sources import help_lines
from ovseg.towers.region_kinds import help_lines as regions_help

LABEL_EXAMPLES = """\
examples:
  ovseg label photo.jpg --classes "cat,dog,sofa"
  ovseg label photo.jpg --classes "cat;kitten,dog;puppy" --background none
  ovseg label photos/ --classes-file classes.txt --out run1 --masks 20
  ovseg label photo.jpg --classes cat,dog,sofa --preset photo         (works offline, on words it knows)
  ovseg label photos/ --classes cat,dog --format coco --format cvat  (exports, too; see `ovseg export`)
  ovseg label photos/ --classes cat,dog --out run1 --keep-analysis
  ovseg label photos/ --classes cow,pig --out run2 --analyses run1   (other classes, in seconds)
  ovseg label photos/ --classes cat,dog --by slic                    (other masks; see below)
  ovseg label photos/ --classes cat,dog --by files --masks-from sam  (masks of other tools: sam/ID.png, .npz or .json)
  ovseg label photos/ --classes cat --out run1 --shard 1/4           (and 2/4, 3/4, 4/4 on other machines)
  ovseg label photos/ --classes cat --out run1 --engine ray --workers 2:16 --ray-address auto
  ovseg label clip.mp4 --classes cat,dog --every 5                   (each fifth frame of a video)
  ovseg label s3://bucket/photos --classes cat --out s3://bucket/run  (`pip install 'ovseg[stores]'`)
  ovseg label photo.jpg --classes cat --diffusion /models/sd21 --clip timm/vit_base_patch16_clip_224.openai

INPUT is an image file; a folder, with all images below it; a pattern in quotes, "photos/**/*.jpg"; a text file with a
path a line; or - for such a list on standard input; s3://bucket/folder, gs://... (`pip install 'ovseg[stores]'`) or
https://host/a.jpg; a WebDataset's .tar, or a .parquet with image bytes. Read are JPEG, PNG, WebP, TIFF, BMP, GIF, PPM,
JPEG 2000, AVIF, and with `pip install 'ovseg[heif]'` HEIC; other files that look like images are named with the reason.
A video (`pip install 'ovseg[video]'`) or animated GIF, WebP or PNG given by its name is labelled frame by frame, as
CLIP/000120: masks keep their numbers until the scene changes, a mask's scores are averaged over time, and OUT gets
CLIP.overlay.mp4 to watch.
A semicolon separates a class's name from its aliases; a class file has one class a line, `name; alias`, # comments.
Two names are the same if they differ in upper and lower case, white space or Unicode spelling alone.
--by says where masks come from:
"""
REGION_RULES = "\n\n--regions, a mask's feature:\n"
LABEL_RULES = """
--background says what happens to pixels that are none of your classes:
  words        a list of stuff words (sky, wall, ...) competes with your classes and wins as "background" (default;
               a preset may have another, and photo does: its threshold)
  none         every pixel gets one of your classes
  threshold=T  a mask whose best class is less probable than T becomes background; with CLIP the best of P prompts has
               a probability of 1/P at least, so T must be above that
  sky,wall     your own words compete

OUT gets run.json and, for each image: ID.png (class indices in the order of the list, background in front as 0,
255 = no label), ID.overlay.png (to look at, with a legend), ID.masks.png (mask numbers), ID.json (pixels, share and
score per class, a row per mask). The same command again does only what is left; Ctrl-C stops after an image."""
MASKS_EXAMPLES = """\
examples:
  ovseg masks photo.jpg
  ovseg masks photos/ --masks 15 --out masks --device cuda
  ovseg masks scene.png --preset pocket --by naive

OUT gets run.json and, for each image: ID.png (mask numbers from 0; 16-bit where there are over 254) and
ID.overlay.png."""
MODELS_EXAMPLES = """\
examples:
  ovseg models                        which presets there are, and whether their weights are on this machine
  ovseg models diffusion              which models --diffusion takes: size, memory, cost of an image, licence
  ovseg models towers                 which image towers a CLIP given by --clip may have, and what is known of each
  ovseg models fetch sd14-vitb16      download a preset's weights (once; they stay in the hub's cache)"""

EXPLAIN_EXAMPLES = """\
examples:
  ovseg explain photo.jpg
  ovseg explain photo.jpg --classes "cat,dog,sofa" --out photo.png --out photo.svg
  ovseg explain scene.png --classes cat,grass --preset pocket          (works offline)

The figure shows the image, its low-resolution masks, what naive and modulated upsampling make of them, the labels if
there are classes, and the difference maps of the largest masks."""
REPORT_EXAMPLES = """\
examples:
  ovseg report ovseg-labels                                   then open ovseg-labels/report.html
  ovseg report ovseg-labels --out today.html --title "Street scenes"
  ovseg report ovseg-labels --truth labels/                      (errors, the worst image first)

The page needs no server and fetches nothing. Up to some 30 MB the images are inside it; where they take more they are
in a folder beside it, report-files, which must be copied with it. Runs of `ovseg masks` and `ovseg eval predict` work
as well. Difference maps show where the run kept its analyses (--keep-analysis)."""


class Parser(argparse.ArgumentParser):
    """Takes no abbreviated flags: `--over` must not mean --overwrite. What it parses has its `flags` by field."""

    def __init__(self, **more: Any) -> None:
        super().__init__(allow_abbrev=False, **more)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(given, action.dest, None)
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and (wrong := wrong_text(action.dest, text, self.prog.partition(" ")[2])):
                    self.error(f"{'/'.join(action.option_strings) or action.metavar}: {wrong}")
        own = {action.dest: action.option_strings[0] for action in self._actions if action.option_strings}
        given.flags = own | getattr(given, "flags", {})
        return given, rest

    def error(self, message: str) -> NoReturn:
        """One line, as for every other mistake in a call; argparse's own message would follow a page of usage."""
        from ovseg.cli import shortened
        from ovseg.run.terminal import one_line

        said = shortened(one_line(message.removeprefix("argument ")))
        self.exit(2, f"ovseg: error: {said} (see `{self.prog} --help`)\n")


def parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="ovseg",
        description="Label every pixel of an image with the classes you name, from a diffusion model's masks "
        "(EmerDiff) and CLIP's dense features (MaskCLIP). No training.",
        epilog="`ovseg COMMAND --help` has examples.",
    )
    parser.add_argument("--version", action="version", version=f"ovseg {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    label = commands.add_parser(
        "label",
        help="label images with your classes",
        epilog=LABEL_EXAMPLES + help_lines() + REGION_RULES + regions_help() + "\n" + LABEL_RULES,
        formatter_class=plain,
    )
    classes = label.add_mutually_exclusive_group(required=True)
    classes.add_argument("--classes", metavar="LIST", help='class names, such as "cat;kitten,dog"')
    classes.add_argument("--classes-file", metavar="FILE", help="class names, one a line")
    label.add_argument("--background", metavar="RULE", help="what is none of the classes, see below")
    flags.add_background_bias(label)
    flags.add_inputs(label)
    flags.add_every(label)
    flags.add_run(label, "ovseg-labels")
    flags.add_engine(label)
    flags.add_models(label)
    flags.add_masks(label)
    flags.add_dense(label)
    flags.add_reading(label)
    flags.add_method(label)
    flags.add_analyses(label)
    label.add_argument(
        "--format", action="append", default=[], metavar="F", help="also `ovseg export` it to --out/exports"
    )
    label.set_defaults(run="ovseg.cli.label:run")

    masks = commands.add_parser(
        "masks", help="masks alone, without class names", epilog=MASKS_EXAMPLES, formatter_class=plain
    )
    flags.add_inputs(masks)
    flags.add_run(masks, "ovseg-masks")
    flags.add_engine(masks)
    flags.add_models(masks, clip=False)
    flags.add_masks(masks)
    flags.add_method(masks)
    masks.set_defaults(run="ovseg.cli.masks:run", clip=None)

    models = commands.add_parser(
        "models", help="list the presets, fetch weights", epilog=MODELS_EXAMPLES, formatter_class=plain
    )
    models.set_defaults(run="ovseg.cli.models:run")
    actions = models.add_subparsers(metavar="")
    fetch = actions.add_parser("fetch", help="download a preset's weights into the hub's cache")
    fetch.add_argument("name", metavar="PRESET", help="a name that `ovseg models` lists")
    fetch.set_defaults(run="ovseg.cli.models:run_fetch")
    diffusion = actions.add_parser("diffusion", help="list the diffusion models that load, with size, cost and licence")
    diffusion.set_defaults(run="ovseg.cli.models:run_diffusion")
    towers = actions.add_parser("towers", help="list the image towers that a CLIP may have")
    towers.set_defaults(run="ovseg.cli.models:run_towers")
    _add_explain(commands)
    add_export(commands)
    add_import(commands)
    _add_report(commands)
    add_app(commands)
    add_eval(commands)
    return parser


def _add_explain(commands: argparse._SubParsersAction[Parser]) -> None:
    explain = commands.add_parser(
        "explain",
        help="a figure of how one image's masks and labels came about",
        epilog=EXPLAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    explain.add_argument("image", metavar="IMAGE", help="an image file")
    classes = explain.add_mutually_exclusive_group()
    classes.add_argument("--classes", metavar="LIST", help='class names, such as "cat;kitten,dog"')
    classes.add_argument("--classes-file", metavar="FILE", help="class names, one a line")
    explain.add_argument("--background", metavar="RULE", help="with classes, as in `ovseg label`")
    flags.add_background_bias(explain)
    explain.add_argument(
        "--out", action="append", default=[], metavar="FILE", help="PNG or SVG; repeatable (default NAME.explain.png)"
    )
    explain.add_argument("--overwrite", action="store_true", help="replace the figure if it is there")
    flags.add_models(explain)
    flags.add_method(explain)
    explain.set_defaults(run="ovseg.cli.explain:run")


def _add_report(commands: argparse._SubParsersAction[Parser]) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    report = commands.add_parser(
        "report", help="a run as one HTML page to look through", epilog=REPORT_EXAMPLES, formatter_class=plain
    )
    report.add_argument("run_folder", metavar="RUN", help="run folder, as `ovseg label` wrote it")
    report.add_argument("--out", metavar="FILE", help="the page (default RUN/report.html)")
    report.add_argument("--title", metavar="TEXT", help="its heading (default the run folder's name)")
    report.add_argument("--truth", metavar="DIR", help="true labels, DIR/ID.png: shows where labels are wrong")
    report.add_argument("--overwrite", action="store_true", help="replace an earlier report")
    report.set_defaults(run="ovseg.cli.report:run")
