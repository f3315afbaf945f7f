"""`ovseg export`: the parsed command line to `ovseg.export.write.export`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ovseg.export import open_images
from ovseg.export.categories import read_category_ids
from ovseg.export.write import check_formats, export
from ovseg.run.terminal import say


def run(given: Namespace) -> int:
    """`ovseg export`; returns the exit code."""
    formats = check_formats(given.format)
    images = open_images(
        given.folder,
        unsure=given.unsure,
        components=given.components,
        background=not given.no_background,
        outlines=given.polygons,
        category_ids=None if given.category_ids is None else read_category_ids(given.category_ids),
        images=given.images,
        uncorrected=given.uncorrected,
    )
    return 1 if export(images, formats, Path(given.out), overwrite=given.overwrite, tell=say) else 0
