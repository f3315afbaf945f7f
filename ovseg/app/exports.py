"""Exports from the page: `ovseg.export` into the run's folder `exports`, and each as one zip to take away."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovseg.app.session import Session
from ovseg.export import open_images
from ovseg.export.write import check_formats, export

FOLDER = "exports"


class Exports:
    """The exports that this session made: what may be downloaded, by format."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.folder = Path(tempfile.mkdtemp(prefix="ovseg-app-"))
        self.made: dict[str, Path] = {}
        self._one = threading.Lock()  # export at a time

    def make(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Export the run and zip it. body: "format", and if given "unsure" (0..1), "components", "images" (bool).

        Returns its folder, the lines that the export said, and how many images it did without. Raises ValueError as
        `export`. Where another process writes the run, the export is not put into its folder.
        """
        (name,) = check_formats([str(body.get("format"))])
        unsure = body.get("unsure")
        if unsure is not None and not (isinstance(unsure, int | float) and 0 <= unsure <= 1):
            raise ValueError("unsure: expected a number from 0 to 1")
        if self.session.run is None:
            raise ValueError("nothing is labelled yet")
        images = open_images(
            self.session.out,
            unsure=unsure,
            components=body.get("components") is True,
            images="copy" if body.get("images") is True else "none",
        )
        out = self.folder / "exports" if self.session.read_only() else self.session.out / FOLDER
        lines: list[str] = []
        target = self.folder / f"{name}.zip"
        with self._one:
            left_out = export(images, [name], out, overwrite=True, tell=lines.append)
            _zip(out / name, target)
            self.made[name] = target
        return {"folder": str(out / name), "lines": lines, "left_out": left_out, "size": target.stat().st_size}

    def close(self) -> None:
        """Remove the zips; the exports in the run's folder stay."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _zip(folder: Path, target: Path) -> None:
    """Write a folder's files as a zip, whole or not at all."""
    temporary = target.with_suffix(".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder.parent))
    os.replace(temporary, target)
