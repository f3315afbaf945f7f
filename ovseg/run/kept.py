"""Kept analyses as a run uses them: of its own folder, or of an earlier run that --analyses names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.analysis import Analysis, AnalysisMismatch
from ovseg.compare import differences
from ovseg.masks import MaskSource
from ovseg.run.folder import facts_of, read_record, record_files
from ovseg.run.images import ANALYSIS
from ovseg.run.inputs import Item


@dataclass(frozen=True)
class Kept:
    """Where a run looks for analyses before it makes new ones."""

    folder: Path
    own: bool  # it is the run's own folder: an analysis that does not fit there is made anew, elsewhere it is an error

    def file(self, item: Item) -> Path:
        """Where the analysis of an image is, if it is kept."""
        return self.folder / f"{item.id}{ANALYSIS}"

    def has(self, item: Item) -> bool:
        """Whether the analysis of an image is kept; False, too, for a name too long to be one."""
        return os.path.isfile(self.file(item))

    def has_all(self, items: Sequence[Item]) -> bool:
        """Whether the analyses of all images are kept."""
        return all(map(self.has, items))

    def spares(self, items: Sequence[Item], source: MaskSource) -> bool:
        """Whether all images' masks come from kept analyses, so that the source need not be ready.

        Of the run's own folder the first analysis is looked at: others may have been made with other settings.
        """
        if not self.has_all(items):
            return False
        if not self.own or not items:
            return True
        try:
            return not source.differences(Analysis.load(self.file(items[0])).origin.masks)
        except ValueError:
            return False

    def stands(self, kept: Analysis | None, analysis: Analysis) -> bool:
        """Whether an analysis is in the run's own folder as it is, and need not be written again."""
        if kept is None or not self.own:
            return False
        return (
            kept.origin == analysis.origin and kept.segments is analysis.segments and kept.refined is analysis.refined
        )

    def load(self, item: Item, check: Callable[[Analysis], None]) -> Analysis | None:
        """The kept analysis of an image; None if there is none, or if one in the run's own folder does not fit.

        check: raises `AnalysisMismatch` for one of something else. Raises ValueError, naming the file, for one of
        another run that is damaged or does not fit.
        """
        if not self.has(item):
            return None
        path = self.file(item)
        try:
            analysis = Analysis.load(path)
            check(analysis)
        except AnalysisMismatch as error:
            if not self.own:
                raise AnalysisMismatch(f"{path}: {error}") from error
        except ValueError:
            if not self.own:
                raise
        else:
            return analysis
        return None

    def expect(
        self, items: Sequence[Item], facts: Mapping[str, Any], source: MaskSource, *, tell: Callable[[str], None]
    ) -> None:
        """Find out beforehand whether an earlier run's analyses will do; `tell` gets a line where some are missing.

        facts, source: of the run at hand. Raises ValueError, naming the folder, where that run had another CLIP, view
        or numbers, or masks that are of no use here, and where none of the images has an analysis there.
        """
        if self.own or not items:
            return
        for path in record_files(self.folder):
            earlier = facts_of(read_record(path))
            masks = {
                "by": earlier.get("by"),
                "options": earlier.get("options"),
                "diffusion": _model(earlier, "diffusion"),
            }
            found = differences(_features(earlier), _features(facts)) + source.differences(masks)
            if found:
                raise ValueError(f"analyses: {self.folder}: made with other settings ({'; '.join(found)})")
        missing = sum(not self.has(item) for item in items)
        if missing == len(items):
            raise ValueError(f"analyses: {self.folder}: holds none of these images; was it made with --keep-analysis?")
        if missing:
            tell(f"{missing} of {len(items)} images have no analysis in {self.folder}: it is made anew")


def _features(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of all that decides an image's features."""
    return {"clip": _model(facts, "clip"), "view": facts.get("view"), "dtype": facts.get("dtype")}


def _model(facts: Mapping[str, Any], kind: str) -> str | None:
    return (facts.get("models") or {}).get(kind)
