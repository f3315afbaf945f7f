"""The one owner of weights: where a model's files are, which they are, and fetching them (see `ovseg.model_files`).

Weights come from folders or from the hub's cache; only safetensors, JSON and text files are ever fetched, and a
repository's JSON is looked at before its weights are. Models themselves are loaded from folders. Does not load torch:
`ovseg models`, and the message that weights are missing, must come at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread

from emerdiff import configs
from ovseg.clip_config import read_clip_config
from ovseg.model_files import KINDS, missing

HUB_DEADLINE = 5.0  # seconds to find out that the hub cannot be reached, name look-up and all addresses included


class WeightsMissing(OSError):
    """Weights that are neither in a folder nor in the hub's cache, and cannot be fetched now."""


def find(kind: str, source: str) -> Path | None:
    """Where a model's files are on this machine, None if they are not all there. Never uses the network.

    kind: "diffusion" or "clip"; source: hub id or folder.
    """
    if Path(source).is_dir():
        return Path(source) if not missing(kind, Path(source)) else None
    if not is_hub_id(source):
        return None
    from huggingface_hub import try_to_load_from_cache

    config = KINDS[kind].configs[0]
    cached = try_to_load_from_cache(source, config)
    if not isinstance(cached, str):
        return None
    folder = Path(cached).parents[config.count("/")]
    return folder if not missing(kind, folder) else None


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
    """Which weights these are: "id@commit" for a hub model, "folder-name@digest" for a folder, 12 hex digits each.

    The digest is SHA-256 over the path, size, first and last mebibyte of each JSON and safetensors file: quick, and
    retrained weights in the same folder differ. Raises `WeightsMissing` if the files are not there.
    """
    here = folder(kind, source)
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


def require(sources: Mapping[str, str], preset: str = "") -> list[str]:
    """The hub ids that have yet to be fetched; empty if all weights are on this machine.

    sources: kind -> hub id or folder. preset: the name under which `ovseg models fetch` gets them, if they have one.
    Raises `WeightsMissing` within some seconds if anything is missing that cannot be fetched, saying what was looked
    for and what to do.
    """
    absent = {kind: source for kind, source in sources.items() if find(kind, source) is None}
    for kind, source in absent.items():
        if Path(source).is_dir():
            lacking = ", ".join(missing(kind, Path(source)))
            raise WeightsMissing(f"{source}: not a whole {kind} model; it lacks {lacking}")
        if not is_hub_id(source):
            raise WeightsMissing(f"{source}: no such folder, and not a hub id of the form owner/name ({kind} model)")
    if absent:
        _check_hub(list(absent.values()), preset)
    return list(absent.values())


def fetch(sources: Mapping[str, str], preset: str = "") -> list[Path]:
    """Download what is missing into the hub's cache, JSON before weights, with progress bars; returns the folders.

    Raises `WeightsMissing` if the hub cannot be reached or a download breaks off (it goes on from there next time),
    and before any weights of it are fetched: ValueError for a repository whose JSON asks for code or describes a model
    that cannot be used, `WeightsMissing` for one without that JSON. A file that is not what the hub states is deleted,
    and a `WeightsMissing`.
    """
    wanted = require(sources, preset)
    for kind, source in sources.items():
        if source not in wanted:
            continue
        known = KINDS[kind]
        settings = _download(source, (*known.configs, *known.settings))
        _judge(kind, source, settings)
        # The same commit: its folder is named after it.
        weights = [name for group in known.weights for name in group]
        _check_hashes(_download(source, weights, revision=settings.name), (*known.settings, *weights))
        if find(kind, source) is None:
            raise WeightsMissing(f"{source}: fetched, but it does not hold a {kind} model with safetensors weights")
    return [folder(kind, source) for kind, source in sources.items()]


def _download(source: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """Fetch the files of these patterns into the hub's cache; returns their folder. Raises `WeightsMissing`."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the hub client's errors share no base class
        raise WeightsMissing(f"{source}: the download broke off ({_reason(error)}); start it again") from error


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


def _judge(kind: str, source: str, folder: Path) -> None:
    """Look at a model's JSON without its weights. Raises as `fetch`."""
    if lacking := [name for name in KINDS[kind].configs if not (folder / name).is_file()]:
        raise WeightsMissing(f"{source}: not a {kind} model; it lacks {', '.join(lacking)}")
    configs.check_configs(*(folder / part for part in KINDS[kind].parts))
    if kind == "clip":
        read_clip_config(folder)
    else:
        from emerdiff import LatentDiffusion

        LatentDiffusion.sketch(folder)


def _check_hub(sources: list[str], preset: str) -> None:
    """Raise `WeightsMissing` unless the hub answers for every source."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if failure := _hub_failure(sources):
        fetching = f"`ovseg models fetch {preset}`" if preset else "the same command"
        raise WeightsMissing(
            f"the weights of {' and '.join(sources)} are not on this machine (looked in {HF_HUB_CACHE}) and the hub "
            f"does not give them ({failure}). With a network, {fetching} gets them; without one, copy that "
            "folder from another machine, name folders with --diffusion and --clip, or use `--preset photo`, whose "
            "small models come with ovseg and work offline"
        )


def _hub_failure(sources: list[str]) -> str:
    """Why the hub does not give these repositories, "" if it does; known within `HUB_DEADLINE` seconds."""
    from huggingface_hub import HfApi

    api, answers = HfApi(), [f"no answer within {HUB_DEADLINE:g} seconds"]

    def ask() -> None:
        try:
            for source in sources:
                api.model_info(source)
            answers.append("")
        except Exception as error:  # the hub client's errors share no base class
            answers.append(_reason(error))

    # A thread, because no timeout of the client covers a name look-up that hangs, or several addresses in turn.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_DEADLINE)
    return answers[-1]


def _reason(error: BaseException) -> str:
    """One short line of an exception that may be a page long."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
