"""What the page did, as a command and as five lines of Python that do the same."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from emerdiff.options import settings
from ovseg.app.models import read_asked
from ovseg.app.session import Session
from ovseg.run.inputs import Item, collect
from ovseg.setup import Setup


def shown(session: Session) -> dict[str, str]:
    """ "command": the `ovseg label` line that makes the run's own answer; "python": a script for its first image.

    Raises ValueError where nothing was asked for yet.
    """
    asked, setup = read_asked(session), session.setup
    flags = _flags(setup)
    line = ["ovseg", "label", *_inputs(session), "--classes", ",".join(asked["classes"])]
    if any("," in entry for entry in asked["classes"]):  # a name with a comma needs a file
        line = [*line[:-2], "--classes-file", "classes.txt"]
    line += ["--background", asked["background"], "--out", str(session.out), *flags, "--keep-analysis"]
    return {"command": shlex.join(line), "python": _script(session, setup, asked)}


def _flags(setup: Setup) -> list[str]:
    """The flags of a set-up, those at their defaults left out."""
    preset, flags = setup.preset, []
    if preset.name:
        flags += ["--preset", preset.name]
    else:
        flags += [*(["--diffusion", preset.diffusion] if preset.diffusion else []), "--clip", preset.clip]
    named = {"--by": (setup.by, "emerdiff"), "--device": (setup.device, "auto"), "--dtype": (setup.dtype, "float32")}
    flags += [text for flag, (value, default) in named.items() if value != default for text in (flag, value)]
    for flag, value in (("--masks-from", setup.masks_from), ("--dense", setup.dense)):
        flags += [flag, value] if value else []
    for setting in settings():
        if setting.field not in setup.settings:
            continue
        value = setup.settings[setting.field]
        if isinstance(setting.default, bool):
            flags.append(setting.flag if value else setting.flag.replace("--", "--no-", 1))
        else:
            flags += [setting.flag, setting.show(value)]
    return flags


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
    own = {"by": setup.by, "masks_from": setup.masks_from, "dense": setup.dense, "device": setup.device}
    own |= {"dtype": setup.dtype, **setup.settings}
    default = {"by": "emerdiff", "masks_from": None, "dense": None, "device": "auto", "dtype": "float32"}
    options = "".join(f", {name}={value!r}" for name, value in own.items() if default.get(name, ...) != value)
    if setup.preset.name:
        made = f"from_preset({setup.preset.name!r}{options})"
    else:
        made = f"from_pretrained({setup.preset.diffusion!r}, {setup.preset.clip!r}{options})"
    image, id = (str(items[0].path), items[0].id) if items else ("photo.jpg", "photo")
    return "\n".join(
        [
            "from ovseg import Segmenter",
            f"segmenter = Segmenter.{made}",
            f"analysis = segmenter.analyze({image!r})",
            f"result = segmenter.label(analysis, {asked['classes']!r}, {asked['background']!r})",
            f"result.save({str(session.out)!r}, {id!r}, {image!r})",
        ]
    )
