"""Kept analyses as a run uses them: of its own folder, or of an earlier run that --analyses names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.analysis import Analysis, AnalysisMismatch
from ovseg.run.batch import ANALYSIS_FILE
from ovseg.run.folder import differences, facts_of, read_record, record_files
from ovseg.run.inputs import Item


@dataclass(frozen=True)
class Kept:
    """Where a run looks for analyses before it makes new ones."""

    folder: Path
    own: bool  # it is the run's own folder: what does not fit there gives way, elsewhere it is an error

    @classmethod
    def choose(cls, flag: str | None, out: Path) -> Kept:
        """The folder that --analyses names, else the run's own. Raises ValueError for one that is no run folder."""
        if flag is None:
            return cls(out, own=True)
        if not record_files(Path(flag)):
            raise ValueError(f"--analyses {flag}: no run folder; expected one made with --keep-analysis")
        return cls(Path(flag), own=False)

    def file(self, item: Item) -> Path:
        """Where the analysis of an image is, if it is kept."""
        return self.folder / f"{item.id}{ANALYSIS_FILE}"

    def has(self, item: Item) -> bool:
        """Whether the analysis of an image is kept; False, too, for a name too long to be one."""
        return os.path.isfile(self.file(item))

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

    def expect(self, items: Sequence[Item], facts: Mapping[str, Any], *, tell: Callable[[str], None]) -> None:
        """Find out beforehand whether an earlier run's analyses will do; `tell` gets a line where some are missing.

        facts: what of that run's record must be as here, such as models, options, view. Raises ValueError, naming the
        folder, where it differs, or where none of the images has an analysis there.
        """
        if self.own or not items:
            return
        for path in record_files(self.folder):
            if found := differences(_same_keys(facts_of(read_record(path)), facts), facts):
                raise ValueError(f"--analyses {self.folder}: made with other settings ({'; '.join(found)})")
        missing = sum(not self.has(item) for item in items)
        if missing == len(items):
            raise ValueError(f"--analyses {self.folder}: holds none of these images; was it made with --keep-analysis?")
        if missing:
            tell(f"{missing} of {len(items)} images have no analysis in {self.folder}: it is made anew")


def _same_keys(facts: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the facts that has the keys, at every level, of those wanted."""
    return {
        key: _same_keys(facts.get(key) or {}, value) if isinstance(value, Mapping) else facts.get(key)
        for key, value in wanted.items()
    }
