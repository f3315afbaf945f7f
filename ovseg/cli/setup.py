"""From flags to a set-up: classes, models, mask source and settings. torch is not loaded: a mistake is told at once."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from emerdiff.options import settings
from ovseg.classes import ClassList, parse_classes, read_classes
from ovseg.presets import DEFAULT, Preset, get_preset
from ovseg.run.folder import recorded_facts
from ovseg.setup import READING_FIELDS, Setup, setup_of

NAMED = ("masks_from", *READING_FIELDS, "device", "dtype")  # fields of a set-up that are flags
MODELS = ("preset", "diffusion", "clip")


def read_class_flags(given: Namespace) -> ClassList:
    """What --classes or --classes-file says. Raises ValueError and OSError as the readers, naming the flag."""
    if given.classes is None:
        if not os.path.isfile(given.classes_file):
            raise ValueError(f"classes_file: {given.classes_file}: no such file")
        given.flags["classes"] = given.flags["classes_file"]  # what is said of the classes is about the file
        return read_classes(given.classes_file)
    if os.path.isfile(given.classes):  # unlike Path's, it takes a list longer than a file name may be
        raise ValueError(f"classes: {given.classes}: this is a file; --classes-file reads names from it")
    return parse_classes(given.classes)


def read_setup(given: Namespace, *kinds: str, by: str | None = None) -> Setup:
    """The set-up that the flags ask for; with --analyses and no model named, that of the run, with flags over it.

    kinds: the models that the command itself needs, such as "clip". by: the mask source; None: the set-up's own.
    """
    named = {"by": by, **{name: getattr(given, name, None) for name in NAMED}}
    changes: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    asked = {one.field: getattr(given, one.field) for one in settings() if getattr(given, one.field) is not None}
    if getattr(given, "analyses", None):
        facts = recorded_facts(Path(given.analyses))
        if not any(getattr(given, name) for name in MODELS):
            return setup_of(facts, asked, **changes)
    setup = Setup(preset=_preset(given), settings=asked, **changes)
    setup.sources(*setup.needs, *kinds)  # refuses those that are not named
    return setup


def _preset(given: Namespace) -> Preset:
    """The preset asked for, or one without a name for --diffusion and --clip."""
    if not (given.diffusion or given.clip):
        return get_preset(given.preset or DEFAULT)
    if given.preset:
        raise ValueError("preset: brings its own models; give either it, or --diffusion and --clip")
    return Preset(name="", diffusion=given.diffusion or "", clip=given.clip or "")
