"""The loaded models, as the worker's thread uses them: loaded when first asked for, exchanged when settings change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ovseg.app.naming import RememberingModel
from ovseg.app.session import Session
from ovseg.classes import build_vocabulary
from ovseg.json_files import read_json
from ovseg.masks import DiffusionSource
from ovseg.run.batch import make_ready
from ovseg.setup import Setup
from ovseg.sources import SOURCES

if TYPE_CHECKING:
    from ovseg.segmenter import Segmenter, Text

ASKED = ".ovseg-app.json"  # in the run folder: the names with their aliases and the rule, as they were typed
MOST_ASKED = 1 << 24  # bytes of it


@dataclass(eq=False)
class Models:
    """Used by one thread. text: the vocabulary that was asked for last."""

    session: Session
    setup: Setup | None = None
    segmenter: Segmenter | None = None
    text: Text | None = None
    _pointing: tuple[Setup, DiffusionSource] | None = field(default=None)

    def load(self, setup: Setup | None = None) -> Segmenter:
        """The models of a set-up, the session's by default. Raises as `Segmenter.load`."""
        from ovseg.segmenter import Segmenter

        setup = setup or self.session.setup
        if self.segmenter is not None and self.setup == setup:
            return self.segmenter
        make_ready(setup, "clip")
        if self.segmenter is not None and self.setup is not None and _same_naming(self.setup, setup):
            source = SOURCES[setup.by].make(setup)
            diffusion = {kind: name for kind, name in source.identity.items() if kind == "diffusion"}
            models = {"clip": self.segmenter.models["clip"], **diffusion}
            models = dict(sorted(models.items(), reverse=True))
            self.segmenter = replace(self.segmenter, source=source, models=models, refiner=setup.refiner)
        else:
            loaded = Segmenter.load(setup)
            self.segmenter = replace(loaded, clip=RememberingModel(loaded.clip))
            self.text = None
        self.setup = setup
        return self.segmenter

    def pointing(self) -> DiffusionSource:
        """A diffusion model for point mode, whichever source the masks come from. Raises as `Source.make`."""
        segmenter = self.load()
        if isinstance(segmenter.source, DiffusionSource):
            return segmenter.source
        if self._pointing is None or self._pointing[0] != self.setup:
            setup = replace(self.session.setup, by="emerdiff", masks_from=None)
            make_ready(setup)
            self._pointing = self.session.setup, SOURCES["emerdiff"].make(setup)
        return self._pointing[1]

    def text_of_run(self) -> Text:
        """The vocabulary of the open run. Raises ValueError where its aliases are not known."""
        session, segmenter = self.session, self.load()
        facts = session.run.facts if session.run else {}
        wanted = facts.get("vocabulary_sha256")
        if self.text is None or self.text.vocabulary.sha256 != wanted:
            asked = read_asked(session)
            self.text = segmenter.encode(asked["classes"], asked["background"], facts.get("background_bias") or 0.0)
        if self.text.vocabulary.sha256 != wanted:
            raise ValueError("the run's aliases are not recorded: ask again, to see the other names of its masks")
        return self.text


def read_asked(session: Session) -> dict[str, Any]:
    """What was asked of the open run: "classes", a list of "name; alias", and "background"; ValueError without names.

    From the run folder's own note, if it is about this vocabulary; else the record's names, which have no aliases.
    """
    facts = session.run.facts if session.run else {}
    path = session.out / ASKED
    if path.is_file():
        noted = read_json(path, MOST_ASKED)
        if isinstance(noted, dict) and noted.get("vocabulary_sha256") == facts.get("vocabulary_sha256"):
            classes, background = noted.get("classes"), noted.get("background")
            if isinstance(classes, list) and all(isinstance(one, str) for one in classes):
                build_vocabulary(classes, str(background))
                return {"classes": classes, "background": str(background)}
    background = facts.get("background") or "none"
    names = [name for name in facts.get("names") or () if name not in (facts.get("added") or ())]
    if names[:1] == ["background"] and background != "none":
        names = names[1:]
    if not names:
        raise ValueError("no names were asked for yet")
    return {"classes": names, "background": background}


def _same_naming(one: Setup, other: Setup) -> bool:
    """Whether two set-ups see and name alike, so that only the source of masks is another."""
    free: dict[str, Any] = {"by": "none", "masks_from": None, "settings": {}}
    return replace(one, **free) == replace(other, **free)
