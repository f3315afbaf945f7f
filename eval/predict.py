"""Label a data set's images into a run folder: `ovseg eval predict`. Only the oracle "maskclip+truth" reads labels.

The protocol says how CLIP sees an image, how sharp the softmax is, and what becomes of the background; the method
(`methods`) over which masks features are pooled. With kept analyses neither another method nor another vocabulary
repeats the diffusion model's work.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from emerdiff import Options
from ovseg import prompts
from ovseg.analysis import Analysis
from ovseg.classes import Vocabulary, build_vocabulary
from ovseg.cli.label import process, shares
from ovseg.cli.loading import choose_models, load_clip, load_segmenter, method, provenance
from ovseg.draw import class_colours
from ovseg.eval.datasets import Dataset, open_dataset
from ovseg.eval.methods import DIFFUSION_METHODS, SLIC_COMPACTNESS, Case, Predictor
from ovseg.eval.protocols import Protocol, protocol
from ovseg.eval.score import score_and_show
from ovseg.files import index_png, write_atomically
from ovseg.presets import identity
from ovseg.result import masks_png, no_label
from ovseg.run.batch import ANALYSIS_FILE, Progress, Run
from ovseg.run.inputs import Item, prepare
from ovseg.run.kept import Kept
from ovseg.run.launch import choose_shard
from ovseg.run.terminal import say
from ovseg.segmenter import Text, native_view

LABELS, MASKS = ".png", ".masks.png"  # the files of an id


def predict(predictor: Predictor, dataset: Dataset, items: Sequence[Item], run: Run, kept: Kept | None = None) -> int:
    """Label the items into the run's folder, what is finished left alone; returns the exit code.

    run: its files (see `written`) say whether analyses are kept. kept: where analyses are looked for, its own folder
    if nothing is said.
    """
    kept = kept or Kept(run.out, own=True)
    names = dataset.names
    colours, index_type = class_colours(names), np.uint8 if no_label(len(names)) == 255 else np.uint16

    def work(item: Item, progress: Progress) -> str:
        image, found = dataset.image(item.id), []

        def find(check: Callable[[Analysis], None]) -> Analysis | None:
            found.append(kept.load(item, check))
            return found[-1]

        look = predictor.look(Case(image, lambda: dataset.truth(item.id), find, progress))
        labels = predictor.label(look, image.shape[:2]).astype(index_type)
        if look.analysis and ANALYSIS_FILE in run.suffixes and not (kept.own and look.analysis in found):
            look.analysis.save(run.out / f"{item.id}{ANALYSIS_FILE}")
        if look.segments is not None:
            write_atomically(run.out / f"{item.id}{MASKS}", masks_png(look.segments))
        write_atomically(run.out / f"{item.id}{LABELS}", index_png(labels, colours))
        return shares(labels, names)

    kept.expect(items, predictor.shared, tell=say)
    model = predictor.segmenter.emerdiff if predictor.segmenter else None
    return process(run, items, work, model, predictor.options, kept=kept)


def run(given: Namespace) -> int:
    """`ovseg eval predict`; returns the exit code."""
    dataset = open_dataset(given.name, given.root, ignore=given.ignore, part=given.limit is not None)
    rules = protocol(given.protocol, dataset.name, dataset.background)
    vocabulary = choose_vocabulary(dataset, rules, given.vocabulary)
    if given.keep_analysis and given.method not in DIFFUSION_METHODS:
        raise ValueError(f"--keep-analysis: {given.method} makes none; it needs {' or '.join(DIFFUSION_METHODS)}")
    if given.score and given.shard:
        raise ValueError("--score: a shard alone cannot be scored; when all are done, `ovseg eval score`")
    for note in vocabulary.notes:
        say(f"note: {note}")
    shard = choose_shard(given.shard)
    items = undertaken(dataset, given.limit)
    items = shard.take(items) if shard else items
    files = written(given.method, given.keep_analysis)
    out = prepare(given.out, items, files, overwrite=given.overwrite, shard=shard)
    kept = Kept.choose(given.analyses, out)
    predictor, seconds = load_predictor(given, dataset, rules, vocabulary)
    one = Run(out, predictor.facts, files, loading_seconds=seconds, shard=shard, overwrite=given.overwrite)
    code = predict(predictor, dataset, items, one, kept)
    if given.score and code:
        say(f"not scored, because images failed: when all are done, `ovseg eval score {dataset.name}`")
    elif given.score and (shard is None or shard.number == 1):
        score_and_show(dataset, [out])
    return code


def undertaken(dataset: Dataset, limit: int | None) -> list[Item]:
    """The first `limit` images of a data set, or all. Raises ValueError for a limit that is not positive."""
    if limit is not None and limit < 1:
        raise ValueError(f"--limit: expected at least 1 image, got {limit}")
    return [Item(id, Path(dataset.file(id))) for id in dataset.ids[:limit]]


def written(method: str, keep_analysis: bool) -> list[str]:
    """The files that make an image finished, by their endings."""
    return [LABELS] + [MASKS] * (method != "maskclip") + [ANALYSIS_FILE] * keep_analysis


def choose_vocabulary(dataset: Dataset, rules: Protocol, name: str | None = None) -> Vocabulary:
    """The data set's own classes, or the list of that name in `prompts`, with the protocol's background.

    Raises ValueError for a list of another length than the data set's.
    """
    classes = prompts.classes(name) if name else dataset.classes
    if len(classes) != len(dataset.classes):
        raise ValueError(f"--vocabulary {name}: has {len(classes)} classes, {dataset.name} has {len(dataset.classes)}")
    return build_vocabulary(classes, rules.background)


def load_predictor(
    given: Namespace, dataset: Dataset, rules: Protocol, vocabulary: Vocabulary
) -> tuple[Predictor, float]:
    """The models that the method needs, and the seconds it took."""
    needs_diffusion = given.method in DIFFUSION_METHODS
    preset = choose_models(given, ("diffusion", "clip") if needs_diffusion else ("clip",))
    start = time.perf_counter()
    segmenter, clip, options = None, None, method(given, preset.options)
    if needs_diffusion:
        segmenter, _ = load_segmenter(given, preset)
        clip, options = segmenter.clip, segmenter.options
    else:
        clip = load_clip(given, preset)
    view = rules.view or (preset.view if preset.name else native_view(clip))
    view = replace(view, variant=given.dense or view.variant)
    if segmenter:
        segmenter = replace(segmenter, view=view)
    templates = rules.templates or preset.templates
    text = Text(vocabulary, clip.encode_text(vocabulary.prompts, prompts.templates(templates)))
    scale = rules.logit_scale or clip.logit_scale
    models = segmenter.models if segmenter else {"clip": identity("clip", preset.clip)}
    first = {prompt for prompt, owner in zip(vocabulary.prompts, vocabulary.owners, strict=True) if owner == 0}
    competing = tuple(word for word in rules.background.words if word in first)  # those that are classes are not
    background = replace(rules.background, words=competing)
    facts = {
        "command": "eval predict",
        "dataset": dataset.name,
        "root": dataset.root,
        "method": given.method,
        "protocol": asdict(replace(rules, view=view, logit_scale=scale, templates=templates, background=background)),
        "vocabulary": given.vocabulary or dataset.vocabulary,
        "vocabulary_sha256": vocabulary.sha256,
        "names": dataset.names,
        "colours": class_colours(dataset.names),
        "no_label": no_label(len(dataset.names)),
        "options": recorded_options(given.method, options),
        "view": asdict(view),
        **provenance(given, preset, models, clip.device),
    }
    predictor = Predictor(given.method, clip, segmenter, options, view, text, scale, facts)
    return predictor, time.perf_counter() - start


def recorded_options(name: str, options: Options) -> dict[str, Any] | None:
    """What of the masks' options decides a method's results: nothing for pixels, the number for superpixels."""
    if name in DIFFUSION_METHODS:
        return asdict(options)
    return {"masks": options.masks, "slic_compactness": SLIC_COMPACTNESS} if name == "maskclip+slic" else None
