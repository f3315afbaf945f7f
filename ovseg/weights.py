"""The one owner of weights: where a model's files are, which they are, and fetching them (see `ovseg.model_files`).

Weights come from folders, single-file checkpoints, or the hub's cache (`ovseg.hub`); only safetensors, JSON and text
files are ever fetched, and a repository's JSON is looked at before its weights are. Models themselves are loaded from
what `folder` gives. Does not load torch: `ovseg models`, and the message that weights are missing, must come at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from emerdiff import configs
from emerdiff.layout import PICKLED, check_kind
from ovseg.hub import Unreachable, WeightsMissing, download, files_of
from ovseg.model_files import FORMS, KINDS, form_of, missing
from ovseg.towers.transformers_config import read_layout

__all__ = ["KINDS", "WeightsMissing", "fetch", "find", "folder", "identity", "is_hub_id", "missing", "require"]
CHECKPOINT = ".safetensors"  # ending of a single-file checkpoint
SAMPLES, SAMPLE = 64, 2**16  # places of a single file that are looked at, and bytes of each


def find(kind: str, source: str) -> Path | None:
    """Where a model's files are on this machine, None if they are not all there. Never uses the network.

    kind: "diffusion" or "clip"; source: hub id, folder or, of a diffusion model, a single-file checkpoint.
    """
    if Path(source).is_file():
        return Path(source) if kind == "diffusion" and source.endswith(CHECKPOINT) else None
    if Path(source).is_dir():
        return Path(source) if not missing(kind, Path(source)) else None
    if not is_hub_id(source):
        return None
    from huggingface_hub import try_to_load_from_cache

    for name in FORMS[kind]:
        config = KINDS[name].configs[0]
        cached = try_to_load_from_cache(source, config)
        folder = Path(cached).parents[config.count("/")] if isinstance(cached, str) else None
        if folder and not missing(kind, folder):
            return folder
    return None


def folder(kind: str, source: str) -> Path:
    """Where a model's files are. Raises `WeightsMissing` if they are not all on this machine."""
    found = find(kind, source)
    if found is None:
        raise WeightsMissing(f"{source}: the files of a {kind} model are not all there")
    return found


def is_hub_id(source: str) -> bool:
    """Whether it has the form of a hub id, owner/name."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None


def identity(kind: str, source: str) -> str:
    """Which weights these are: "id@commit" for a hub model, "name@digest" for a folder or file, 12 hex digits each.

    The digest is SHA-256 over the path, size, first and last mebibyte of each JSON and safetensors file, and of a
    single file over its size and samples all over it: quick, and retrained weights in the same place differ. Raises
    `WeightsMissing` if the files are not there.
    """
    here = folder(kind, source)
    if here.is_file():
        return f"{here.name}@{_sampled(here)}"
    if not Path(source).is_dir():
        return f"{source}@{here.name[:12]}"
    digest = hashlib.sha256()
    for path in sorted(here.rglob("*")):
        if path.suffix in (".json", ".safetensors") and path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.relative_to(here).as_posix()} {size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(2**20))
                file.seek(max(0, size - 2**20))
                digest.update(file.read())
    return f"{here.resolve().name}@{digest.hexdigest()[:12]}"


def _sampled(path: Path) -> str:
    """12 hex digits of SHA-256 over a file's size, and over samples from its beginning to its end."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}".encode())
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(max(0, size - SAMPLE) * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()[:12]


def require(sources: Mapping[str, str], preset: str = "") -> list[str]:
    """The hub ids that have yet to be fetched; empty if all weights are on this machine.

    sources: kind -> hub id, folder or file. preset: the name under which `ovseg models fetch` gets them, if they have
    one. Raises `WeightsMissing` within `hub.deadline` seconds if anything is missing that cannot be fetched, saying
    what was looked for and what to do; ValueError for a folder of a model that cannot be used.
    """
    absent = {kind: source for kind, source in sources.items() if find(kind, source) is None}
    for kind, source in absent.items():
        _check_local(kind, source)
    for source in absent.values():
        try:
            files_of(source)
        except Unreachable as error:
            raise WeightsMissing(_without_hub(list(absent.values()), preset, error.reason)) from error
    return list(absent.values())


def _check_local(kind: str, source: str) -> None:
    """Raise where something that is not at hand cannot be a hub id, or names a file or folder of this machine."""
    path = Path(source)
    if path.is_dir():
        if kind == "diffusion":
            check_kind(path)
        lacking = ", ".join(missing(kind, path))
        names = [found.relative_to(path).as_posix() for found in (*path.glob("*"), *path.glob("*/*"))]
        raise WeightsMissing(f"{source}: not a whole {kind} model; it lacks {lacking}{_other_forms(kind, names)}")
    if path.is_file():
        expected = "a diffusers folder, a .safetensors checkpoint" if kind == "diffusion" else "an open_clip folder"
        pickled = "; pickled weights may hold code, and are never read" if path.suffix.lower() in PICKLED else ""
        raise WeightsMissing(f"{source}: a file; expected {expected} or a hub id ({kind} model){pickled}")
    if path.suffix.lower() in (CHECKPOINT, *PICKLED):
        raise WeightsMissing(f"{source}: no such file ({kind} model)")
    if not is_hub_id(source):
        raise WeightsMissing(f"{source}: no such folder, and not a hub id of the form owner/name ({kind} model)")


def _other_forms(kind: str, names: Collection[str]) -> str:
    """What to say of files that hold weights in a form that is not read, or not from there; "" without any."""
    single = sorted(name for name in names if "/" not in name and name.endswith(CHECKPOINT))
    if kind == "diffusion" and single:
        return f"; it holds {single[0]}: if that is a whole checkpoint, give that file on this machine"
    if pickled := sorted(name for name in names if Path(name).suffix.lower() in PICKLED):
        return f"; {pickled[0]} is pickled, may hold code and is never read: choose a copy with safetensors"
    return ""


def fetch(sources: Mapping[str, str], preset: str = "") -> list[Path]:
    """Download what is missing into the hub's cache, JSON before weights, with progress bars; returns where models are.

    Raises `WeightsMissing` if the hub cannot be reached or a download breaks off (it goes on from there next time),
    and before any weights of it are fetched: ValueError for a repository whose JSON asks for code or describes a model
    that cannot be used, `WeightsMissing` for one without that JSON, or whose weights are in no form that is read. A
    file that is not what the hub states is deleted, and a `WeightsMissing`.
    """
    wanted = require(sources, preset)
    for kind, source in sources.items():
        if source in wanted:
            _fetch(kind, source)
    return [folder(kind, source) for kind, source in sources.items()]


def _fetch(kind: str, source: str) -> None:
    present = files_of(source)
    form = form_of(kind, present)
    known = KINDS[form]
    if present and not present & set(known.configs) and (said := _other_forms(kind, present)):
        raise WeightsMissing(f"{source}: not a {kind} model; it lacks {known.configs[0]}{said}")
    settings = download(source, (*known.configs, *known.settings))
    _judge(form, source, settings, present)
    # The same commit: its folder is named after it.
    weights = known.weights(settings, present)
    _check_hashes(download(source, weights, revision=settings.name), (*known.settings, *weights))
    if find(kind, source) is None:
        raise WeightsMissing(f"{source}: fetched, but it does not hold a {kind} model with safetensors weights")


def _check_hashes(folder: Path, patterns: Sequence[str]) -> None:
    """Delete the first file whose SHA-256 is not what the hub states, and raise `WeightsMissing`.

    The hub states it for large files alone, and its cache names their content after it (not where it has no links).
    """
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        content = path.resolve()
        if not re.fullmatch(r"[0-9a-f]{64}", content.name):
            continue
        with content.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != content.name:
            path.unlink()
            content.unlink()
            raise WeightsMissing(
                f"{path}: expected SHA-256 {content.name[:12]}... as the hub states, got {found[:12]}...; the file is "
                "deleted, the same command fetches it again"
            )


def _judge(form: str, source: str, folder: Path, present: Collection[str]) -> None:
    """Look at a model's JSON without its weights, and whether they are in a form that is read. Raises as `fetch`."""
    known = KINDS[form]
    if form == "diffusion":
        check_kind(folder)
    if lacking := [name for name in known.configs if not (folder / name).is_file()]:
        raise WeightsMissing(f"{source}: not a {form} model; it lacks {', '.join(lacking)}")
    configs.check_configs(*(folder / part for part in known.parts))
    if form == "diffusion":
        from emerdiff import LatentDiffusion

        LatentDiffusion.sketch(folder)
    elif form != "classifier":
        read_layout(folder)
    coming = set(known.weights(folder, present))
    if lacking := [name for name in known.missing(folder) if not coming & set(name.split(" or "))]:
        others = _other_forms(form, present)
        raise WeightsMissing(f"{source}: not a {form} model; it lacks {', '.join(lacking)}{others}")


def _without_hub(sources: Sequence[str], preset: str, failure: str) -> str:
    """The line for weights that are not here while the hub does not answer."""
    from huggingface_hub.constants import HF_HUB_CACHE

    fetching = f"`ovseg models fetch {preset}`" if preset else "the same command"
    return (
        f"the weights of {' and '.join(sources)} are not on this machine (looked in {HF_HUB_CACHE}) and the hub "
        f"does not give them ({failure}). With a network, {fetching} gets them; without one, copy that "
        "folder from another machine, name folders with --diffusion and --clip, or use `--preset photo`, whose "
        "small models come with ovseg and work offline"
    )
