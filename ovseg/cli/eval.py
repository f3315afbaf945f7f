"""The grammar of `ovseg eval`: check a data set, predict, score, the unsupervised protocols, ablations.

The code of a command is loaded when it is called; importing this file loads neither torch nor NumPy.
"""

from __future__ import annotations

import argparse
from typing import Any

from ovseg.cli import flags
from ovseg.run.folder import FORMER_METHODS
from ovseg.sources import help_lines

EVAL_EXAMPLES = """\
examples:
  ovseg eval check voc21 --root data/VOCdevkit/VOC2012
  ovseg eval predict voc21 --root data/VOCdevkit/VOC2012 --by emerdiff --out runs/voc21
  ovseg eval score voc21 --root data/VOCdevkit/VOC2012 --predictions runs/voc21
  ovseg eval predict pocket --preset pocket --limit 20 --out runs/pocket                (works offline)"""
PREDICT_EXAMPLES = """\
examples:
  ovseg eval predict ade20k --root data/ade/ADEChallengeData2016 --by none --out runs/ade-maskclip
  ovseg eval predict custom --root my-data --preset pocket --limit 50 --out runs/mine
  ovseg eval predict voc21 --root R --by none --dense naclip --protocol naclip --pixel-exact --out runs/naclip
  ovseg eval predict voc20 --root R --out runs/e --keep-analysis
  ovseg eval predict voc20 --root R --out runs/n --by naive --analyses runs/e      (no diffusion again)
  accelerate launch -m ovseg eval predict voc20 --root R --out runs/e --score                (every GPU a part)

masks (--by) over which CLIP's dense features are pooled:
"""
PREDICT_RULES = """
  truth        the true masks: an oracle, reads labels
protocols (image size, windows, logit scale, class and background words, thresholds; docs/BENCHMARKS.md has them):
  sclip, naclip, clearclip, sc-clip, tcl, maskclip   of these papers' code, for its data sets; custom, camvid: any
  native                                             as `ovseg label` does it (default for pocket, camvid, custom)
--pixel-exact labels as that code does, to the pixel (sclip, naclip, clearclip, sc-clip): its size rule, its bilinear
kernel, its averages on pixels. Published rows stand beside such a run of the whole set alone; all others stand apart.
--partial takes a tree of which images, labels or the list of ids are missing; every table says so.

OUT is a run folder: run.json and, for each image, ID.png (class indices) and ID.masks.png. The same command again
does only what is left."""
SCORE_EXAMPLES = """\
examples:
  ovseg eval score voc21 --root R --predictions runs/maskclip runs/emerdiff
  ovseg eval score voc21 --root R --predictions runs/emerdiff --best-label     (the masks alone: reads labels)
  ovseg eval score voc21 --root R --predictions theirs --names theirs.txt      (anyone's index maps: theirs/ID.png)

A folder without a record holds index maps, ID.png or ID.npy, in the data set's own indices or those of --names; 255 is
no class. A class that is predicted but in no label has IoU 0 in the mean, as mmsegmentation counts it, and is named.
Writes results.json, table.md, table.tex (LaTeX), classes.csv and images.csv into --out, with --report also report.html.
All metrics in percent, at the labels' own resolution."""
TABLE_EXAMPLES = """\
examples:
  ovseg eval table runs/naclip                    (runs/naclip/voc21, runs/naclip/ade20k, ...: a row)
  ovseg eval table runs/naclip runs/emerdiff      (a row each) > table.md

Reads the results.json that `ovseg eval score` or `predict --score` left; the data sets need not be there. mIoU by data
set and their mean; below, published rows by exactly the same rules."""
UNSUPERVISED_EXAMPLES = """\
examples:
  ovseg eval predict coco-stuff27 --root R --out runs/e --keep-analysis
  ovseg eval unsupervised coco-stuff27 --root R --predictions runs/e

protocols, of the masks' embeddings alone, without class names:
  traditional   k-means into as many concepts as classes, matched with the classes
  modified      a class's concept is the mean embedding of its pixels: reads the labels of the same images

Writes unsupervised.json and unsupervised.md into --out. No model is run."""
ABLATE_EXAMPLES = """\
examples:
  ovseg eval ablate pocket --preset pocket --limit 20 --over masks=10,20,30 --out runs/ablation      (works offline)
  ovseg eval ablate voc20 --root R --limit 100 --over t_m=181,281,381 --over injection=on,off --out runs/ablation

settings, one varied at a time (several --over: several tables):
  masks, t_f, t_m, strength, sigma, steps, seed   numbers, as the flags of the method
  speed                                           fast, exact
  injection                                       on, off
  feature_layer, modulated_layer                  a module's full name, or up1.0 for
                                                  up_blocks.1.attentions.0.transformer_blocks.0.attn2

OUT gets a run folder for each value (`masks=10`, and `default`), ablation.json, ablation.md and ablation.png. The same
command again does only what is left."""


def add_eval(commands: Any) -> None:
    """Add `eval` and its commands to the command line's subparsers."""
    plain = argparse.RawDescriptionHelpFormatter
    eval_parser = commands.add_parser(
        "eval", help="benchmarks: check, predict, score, ...", epilog=EVAL_EXAMPLES, formatter_class=plain
    )
    actions = eval_parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = actions.add_parser("check", help="is a data set complete on this disk?")
    _add_dataset(check)
    _add_partial(check)
    check.set_defaults(run="ovseg.eval.commands:check")

    predict = actions.add_parser(
        "predict",
        help="label a data set's images",
        epilog=PREDICT_EXAMPLES + help_lines() + PREDICT_RULES,
        formatter_class=plain,
    )
    _add_dataset(predict)
    _add_limit(predict)
    _add_approach(predict)
    flags.add_run(predict, "ovseg-eval")
    flags.add_engine(predict)
    flags.add_analyses(predict)
    flags.add_models(predict)
    flags.add_method(predict)
    predict.add_argument("--score", action="store_true", help="score when all is done (on the first process)")
    predict.set_defaults(run="ovseg.eval.commands:predict")

    score = actions.add_parser("score", help="score run folders", epilog=SCORE_EXAMPLES, formatter_class=plain)
    _add_dataset(score)
    score.add_argument("--predictions", nargs="+", required=True, metavar="DIR", help="runs, or folders of index maps")
    score.add_argument("--names", metavar="FILE", help="of index maps: the class names by index, one a line")
    score.add_argument("--uncorrected", action="store_true", help="runs' own labels, also where corrected by hand")
    score.add_argument("--best-label", action="store_true", help="give every mask its majority class first (an oracle)")
    score.add_argument("--report", action="store_true", help="report.html as well, which shows where labels are wrong")
    score.add_argument("--out", metavar="DIR", help="folder for results (default: in each RUN, the table in the first)")
    score.set_defaults(run="ovseg.eval.commands:score")

    table = actions.add_parser("table", help="one table over data sets", epilog=TABLE_EXAMPLES, formatter_class=plain)
    table.add_argument("runs", nargs="+", metavar="DIR", help="a scored run, or a folder of them: one a data set")
    table.set_defaults(run="ovseg.eval.commands:table")
    _add_unsupervised(actions)
    _add_ablate(actions)


def _add_unsupervised(actions: Any) -> None:
    parser = actions.add_parser(
        "unsupervised",
        help="the masks without class names, by their embeddings",
        epilog=UNSUPERVISED_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_dataset(parser)
    parser.add_argument("--predictions", required=True, metavar="RUN", help="a folder made with --keep-analysis")
    parser.add_argument("--protocol", choices=("traditional", "modified", "both"), default="both", help="see below")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of k-means (0)")
    parser.add_argument("--out", metavar="DIR", help="folder for the table (default: RUN)")
    parser.set_defaults(run="ovseg.eval.commands:unsupervised")


def _add_ablate(actions: Any) -> None:
    parser = actions.add_parser(
        "ablate",
        help="vary one setting of the masks at a time",
        epilog=ABLATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_dataset(parser)
    parser.add_argument("--over", action="append", required=True, metavar="S=V,V", help="a setting and its values")
    _add_limit(parser)
    _add_rules(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the runs and the tables")
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds, instead of going on there")
    flags.add_models(parser)
    flags.add_method(parser)
    parser.set_defaults(run="ovseg.eval.commands:ablate")


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="voc21, voc20, context60, ..., camvid, pocket, custom")
    parser.add_argument("--root", metavar="DIR", help="the data set's folder (pocket: such as world3/heldout/0)")
    parser.add_argument(
        "--ignore",
        type=int,
        default=255,
        metavar="N",
        help="custom: label value not scored (255); with 0, value 1 is the first class of classes.txt",
    )


def _add_partial(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--partial", action="store_true", help="take what is here of a data set that is not whole")


def _add_limit(parser: argparse.ArgumentParser) -> None:
    _add_partial(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")


def _add_approach(parser: argparse.ArgumentParser) -> None:
    flags.add_masks(parser, "truth")
    parser.add_argument("--method", choices=FORMER_METHODS, help="former spelling: maskclip+slic is --by slic")
    _add_rules(parser)


def _add_rules(parser: argparse.ArgumentParser) -> None:
    flags.add_dense(parser)
    flags.add_reading(parser)
    parser.add_argument("--protocol", metavar="P", help="sclip, naclip, clearclip, sc-clip, tcl, maskclip or native")
    parser.add_argument("--pixel-exact", action="store_true", help="labels as that protocol's own code gives them")
    flags.add_background_bias(parser)
    parser.add_argument("--vocabulary", metavar="LIST", help="another list of class names than the protocol's")
