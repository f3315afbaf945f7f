"""What the page did, as a command and as five lines of Python that do the same."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from emerdiff.options import settings
from ovseg.app.models import read_asked
from ovseg.app.session import Session
from ovseg.run.inputs import Item, collect
from ovseg.setup import OWN_FIELDS, Setup


def shown(session: Session) -> dict[str, str]:
    """ "command": the `ovseg label` line that makes the run's own answer; "python": a script for its first image.

    Raises ValueError where nothing was asked for yet.
    """
    asked, setup = read_asked(session), session.setup
    flags = _flags(setup)
    line = ["ovseg", "label", *_inputs(session), "--classes", ",".join(asked["classes"])]
    if any("," in entry for entry in asked["classes"]):  # a name with a comma needs a file
        line = [*line[:-2], "--classes-file", "classes.txt"]
    bias = _bias(session)
    line += ["--background", asked["background"], *([f"--background-bias={bias!r}"] if bias else [])]
    line += ["--out", str(session.out), *flags, "--keep-analysis"]
    return {"command": shlex.join(line), "python": _script(session, setup, asked)}


def _flags(setup: Setup) -> list[str]:
    """The flags of a set-up, those at their defaults left out."""
    preset, flags = setup.preset, []
    if preset.name:
        flags += ["--preset", preset.name]
    else:
        flags += [*(["--diffusion", preset.diffusion] if preset.diffusion else []), "--clip", preset.clip]
    for name, value in _own(setup).items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [f"{flag}={value}"] if isinstance(value, float) else [flag, str(value)]
    for setting in settings():
        usual = preset.method.get(setting.field, setting.default)
        if (value := setup.settings.get(setting.field, usual)) == usual:
            continue
        if isinstance(setting.default, bool):
            flags.append(setting.flag if value else setting.flag.replace("--", "--no-", 1))
        else:
            flags += [setting.flag, setting.show(value)]
    return flags


def _own(setup: Setup) -> dict[str, Any]:
    """The fields of a set-up, beside models and the method's settings, that are not at their defaults."""
    defaults = {one.name: one.default for one in fields(Setup)} | {"refine": setup.refine}
    if setup.refiner != replace(setup, refine=None).refiner:
        defaults["refine"] = None
    return {name: value for name in OWN_FIELDS if (value := getattr(setup, name)) != defaults[name]}


def _bias(session: Session) -> float:
    return float((session.run.facts.get("background_bias") if session.run else None) or 0.0)


def _inputs(session: Session) -> list[str]:
    """Files and folders that `ovseg label` reads as this session's images, with the same ids."""
    items = list(session.items.values())
    roots = sorted({str(root) for item in items if (root := _root(item)) is not None})
    try:
        if {item.id for item in collect(roots, session.out)} == {item.id for item in items}:
            return roots
    except (ValueError, OSError):
        pass
    return [str(item.path) for item in items]


def _root(item: Item) -> Path | None:
    """The folder below which an item's id is its path."""
    parts = Path(f"{item.id}{item.path.suffix}").parts
    return Path(*item.path.parts[: -len(parts)]) if item.path.parts[-len(parts) :] == parts else None


def _script(session: Session, setup: Setup, asked: dict[str, Any]) -> str:
    items = list(session.items.values())
    options = "".join(f", {name}={value!r}" for name, value in {**_own(setup), **setup.settings}.items())
    if setup.preset.name:
        made = f"from_preset({setup.preset.name!r}{options})"
    else:
        made = f"from_pretrained({setup.preset.diffusion!r}, {setup.preset.clip!r}{options})"
    rule = repr(asked["background"]) + (f", {bias!r}" if (bias := _bias(session)) else "")
    image, id = (str(items[0].path), items[0].id) if items else ("photo.jpg", "photo")
    return "\n".join(
        [
            "from ovseg import Segmenter",
            f"segmenter = Segmenter.{made}",
            f"analysis = segmenter.analyze({image!r})",
            f"result = segmenter.label(analysis, {asked['classes']!r}, {rule})",
            f"result.save({str(session.out)!r}, {id!r}, {image!r})",
        ]
    )
