"""`png`: index maps and a legend, for programs that read arrays.

    legend.json   {"names", "colours" (RGB 0..255), "no_label"}: what the indices mean
    <id>.png      (H, W) indices, 8-bit with the colours as palette; 16-bit grey for over 254 names

Exact. Pixels without a label keep the run's index for it (255; 65535 in 16 bits); the background is a class.
"""

from __future__ import annotations

from pathlib import Path

from ovseg.export.image import ImageSet
from ovseg.files import index_png, json_bytes, write_atomically


def write_png(images: ImageSet, folder: Path) -> None:
    """Write an index PNG an image and one legend."""
    for image in images:
        write_atomically(folder / f"{image.id}.png", index_png(image.labels, image.colours))
    legend = {"names": images.names, "colours": images.colours, "no_label": images.no_label}
    write_atomically(folder / "legend.json", json_bytes(legend))
