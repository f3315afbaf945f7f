"""`npz`: NumPy archives without pickle, for `np.load(path, allow_pickle=False)`.

    <id>.npz   labels      (H, W) uint8 or uint16, as in the run; no_label (255 or 65535) where there is none
               confidence  (H, W) float32 in 0..1, 0 without a label; absent if the run kept no masks
               names       (L,) str;  colours (L, 3) uint8;  no_label () int64

Exact; the background is a class.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from ovseg.export.image import ImageSet
from ovseg.files import write_atomically


def write_npz(images: ImageSet, folder: Path) -> None:
    """Write an archive an image."""
    for image in images:
        arrays = {
            "labels": image.labels,
            "names": np.array(image.names),
            "colours": np.array(image.colours, np.uint8),
            "no_label": np.array(image.no_label),
        }
        if image.confidence is not None:
            arrays["confidence"] = image.confidence
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_atomically(folder / f"{image.id}.npz", buffer.getvalue())
