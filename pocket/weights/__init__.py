"""Where the embedded models lie: `diffusion` (a diffusers folder) and `clip` (an open_clip folder)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

DIFFUSION = Path(__file__).parent / "diffusion"
CLIP = Path(__file__).parent / "clip"


def save_half(model: Any, folder: Path) -> None:
    """Saves a diffusers or transformers model in half precision as safetensors, leaving the model as it is."""
    copy.deepcopy(model).half().save_pretrained(folder, safe_serialization=True)
