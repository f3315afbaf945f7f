"""Named pairs of models with the settings that suit them, and whether their weights are at hand.

Does not load torch: `ovseg models`, and the message that weights are missing, must come at once. Weights come from
folders or from the hub's cache; only safetensors, JSON and text files are ever fetched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from math import ceil
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emerdiff import Options
    from ovseg.dense import View

DEFAULT = "sd14-vitb16"
HUB_DEADLINE = 5.0  # seconds to find out that the hub cannot be reached, name look-up and all addresses included
# What is fetched of a hub repository; a repository may hold the same weights in several other forms.
DIFFUSION_FILES = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
)
TOKENIZER_FILES = ("tokenizer/tokenizer.json", "tokenizer/merges.txt")  # either of them, by the form it was saved in
CLIP_CONFIG = "open_clip_config.json"
CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")  # in open_clip's own order
FETCHED = {
    "diffusion": (*DIFFUSION_FILES, "tokenizer/*.json", "tokenizer/*.txt"),
    "clip": (CLIP_CONFIG, *CLIP_WEIGHTS, "tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
}


class WeightsMissing(OSError):
    """Weights that are neither in a folder nor in the hub's cache, and cannot be fetched now."""


@dataclass(frozen=True)
class Preset:
    """Two models and how to use them."""

    name: str
    diffusion: str  # hub id or folder of a diffusers latent diffusion model
    clip: str  # hub id or folder of an open_clip model
    method: Mapping[str, int | float | str] = field(default_factory=dict)  # emerdiff.Options unlike its defaults
    short_side: int = 336  # pixels of the image's shorter side in CLIP (see ovseg.dense.View)
    window: int = 224  # pixels of CLIP's sliding window
    stride: int = 112  # pixels from window to window
    templates: str = "imagenet80"  # name of the prompt templates (see prompts.templates)
    megabytes: int = 0  # of all weights together
    note: str = ""  # what it is, for the list of models
    warning: str = ""  # what to tell everybody who uses it

    @property
    def options(self) -> Options:
        """The diffusion side's settings."""
        from emerdiff import Options

        return Options(**self.method)  # type: ignore[arg-type]

    @property
    def view(self) -> View:
        """How images are shown to CLIP."""
        from ovseg.dense import View

        return View(short_side=self.short_side, window=self.window, stride=self.stride)

    @property
    def sources(self) -> dict[str, str]:
        """Its models by kind: "diffusion" and "clip", each a hub id or folder."""
        return {"diffusion": self.diffusion, "clip": self.clip}


POCKET = Path(str(files("ovseg.pocket") / "weights"))


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="sd14-vitb16",
            diffusion="CompVis/stable-diffusion-v1-4",
            clip="timm/vit_base_patch16_clip_224.openai",
            megabytes=4900,
            note="Stable Diffusion 1.4 and OpenAI's CLIP ViT-B/16: photos of anything",
        ),
        Preset(
            name="pocket",
            diffusion=str(POCKET / "diffusion"),
            clip=str(POCKET / "clip"),
            method={  # chosen on tuning scenes, see the README
                "base_size": 128,
                "masks": 20,
                "steps": 10,
                "feature_timestep": 101,
                "modulation_timestep": 501,
                "sigma": 0.25,  # the paper's one pixel of 512, scaled
                "feature_layer": "up_blocks.1.attentions.1.transformer_blocks.0.attn2",
                "modulated_layer": "up_blocks.1.attentions.1.transformer_blocks.0.attn2",
            },
            short_side=128,
            window=128,  # whole: its CLIP's positions, and with them its locality, do not bear being resized
            stride=64,
            megabytes=ceil(sum(path.stat().st_size for path in POCKET.rglob("*.safetensors")) / 1e6),
            note="tiny models that come with ovseg: scenes of emoji, works offline",
            warning="the pocket models only know their own emoji world; on photos of the real world their labels mean "
            "little (use --preset sd14-vitb16 for those)",
        ),
    )
}


def get_preset(name: str) -> Preset:
    """The preset of that name. Raises ValueError, with the names there are."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def local_folder(kind: str, source: str) -> Path | None:
    """Where a model's files are on this machine, None if they are not all there. Never uses the network.

    kind: "diffusion" or "clip"; source: hub id or folder.
    """
    from huggingface_hub import try_to_load_from_cache

    def find(name: str) -> Path | None:
        found = Path(source) / name if Path(source).is_dir() else try_to_load_from_cache(source, name)
        return Path(found) if isinstance(found, (str, Path)) and Path(found).is_file() else None

    if not Path(source).is_dir() and not is_hub_id(source):
        return None
    if kind == "clip":
        config = find(CLIP_CONFIG)
        return config.parent if config and any(find(name) for name in CLIP_WEIGHTS) else None
    config = find(DIFFUSION_FILES[-1])
    whole = all(find(name) for name in DIFFUSION_FILES) and any(find(name) for name in TOKENIZER_FILES)
    return config.parent.parent if config and whole else None


def is_hub_id(source: str) -> bool:
    """Whether it has the form of a hub id, owner/name."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None


def identity(kind: str, source: str) -> str:
    """Which weights these are: "id@commit" for a hub model, "folder-name@digest" for a folder, 12 hex digits each.

    The digest is SHA-256 over the path, size, first and last mebibyte of each JSON and safetensors file: quick, and
    retrained weights in the same folder differ. Raises OSError if the files are not there.
    """
    folder = local_folder(kind, source)
    if folder is None:
        raise WeightsMissing(f"{source}: the files of a {kind} model are not all there")
    if not Path(source).is_dir():
        return f"{source}@{folder.name[:12]}"
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors") and path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(2**20))
                file.seek(max(0, size - 2**20))
                digest.update(file.read())
    return f"{folder.resolve().name}@{digest.hexdigest()[:12]}"


def require(preset: Preset, kinds: tuple[str, ...] = ("diffusion", "clip")) -> list[str]:
    """The hub ids that have yet to be fetched; empty if all weights are at hand.

    Raises `WeightsMissing` within some seconds if anything is missing that cannot be fetched, saying what was looked
    for and what to do.
    """
    missing = {kind: preset.sources[kind] for kind in kinds if local_folder(kind, preset.sources[kind]) is None}
    for kind, source in missing.items():
        wanted = ", ".join((*DIFFUSION_FILES, "tokenizer/") if kind == "diffusion" else (CLIP_CONFIG, CLIP_WEIGHTS[0]))
        if Path(source).is_dir():
            raise WeightsMissing(f"{source}: not a whole {kind} model; it needs {wanted}")
        if not is_hub_id(source):
            raise WeightsMissing(f"{source}: no such folder, and not a hub id of the form owner/name ({kind} model)")
    if missing:
        _check_hub(preset, list(missing.values()))
    return list(missing.values())


def fetch(preset: Preset, kinds: tuple[str, ...] = ("diffusion", "clip")) -> list[Path]:
    """Download what is missing into the hub's cache, with progress bars; returns the models' folders.

    Raises `WeightsMissing` if the hub cannot be reached or a download breaks off (it goes on from there next time).
    """
    from huggingface_hub import snapshot_download

    wanted = require(preset, kinds)
    folders = []
    for kind in kinds:
        source = preset.sources[kind]
        if source in wanted:
            try:
                snapshot_download(source, allow_patterns=list(FETCHED[kind]))
            except Exception as error:  # the hub client's errors share no base class
                raise WeightsMissing(f"{source}: the download broke off ({_reason(error)}); start it again") from error
        folder = local_folder(kind, source)
        if folder is None:
            raise WeightsMissing(f"{source}: fetched, but it does not hold a {kind} model with safetensors weights")
        folders.append(folder)
    return folders


def _check_hub(preset: Preset, sources: list[str]) -> None:
    """Raise `WeightsMissing` unless the hub answers for every source."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if failure := _hub_failure(sources):
        fetching = f"`ovseg models fetch {preset.name}`" if preset.name in PRESETS else "the same command"
        raise WeightsMissing(
            f"the weights of {' and '.join(sources)} are not on this machine (looked in {HF_HUB_CACHE}) and the hub "
            f"does not give them ({failure}). With a network, {fetching} gets them; without one, copy that "
            "folder from another machine, name folders with --diffusion and --clip, or use `--preset pocket`, whose "
            "models come with ovseg and work offline"
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
