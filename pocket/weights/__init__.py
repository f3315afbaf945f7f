"""The folders of the embedded models: `diffusion` (a diffusers folder) and `clip` (an open_clip folder)."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DIFFUSION = Path(__file__).parent / "diffusion"
CLIP = Path(__file__).parent / "clip"


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `folder` when the block ends without an error."""
    draft = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    yield draft
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def save_half(model: Any, folder: Path) -> None:
    """Saves a diffusers or transformers model in half precision as safetensors, leaving the model as it is."""
    with replacing(folder) as draft:
        copy.deepcopy(model).half().save_pretrained(draft, safe_serialization=True)
        config = json.loads((draft / "config.json").read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # the path on this machine of the weights that training started from
        (draft / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
