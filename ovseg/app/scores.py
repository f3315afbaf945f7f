"""The best names of every mask of an image, out of its kept analysis, and which of them are doubtful."""

from __future__ import annotations

from typing import Any

from ovseg.app.models import Models
from ovseg.app.naming import best_names, doubtful
from ovseg.app.session import Session
from ovseg.run.images import RunImage

MOST_MASKS = 4096  # whose names are sent


def scores(session: Session, models: Models, id: str) -> dict[str, Any]:
    """ "best": [index, score] of each mask's five best names, by the mask's number; "doubts": masks whose second name
    is near the first; "note": why there are none. A task of the worker."""
    run = session.run
    if run is None or run.ids.get(id, {}).get("state") != "done" or "vocabulary_sha256" not in run.facts:
        return {"best": {}, "doubts": [], "note": "no names were asked for"}
    image = RunImage(run, id)
    try:
        labels = image.index_map()
        analysis, text = image.analysis(labels.shape), models.text_of_run()
        result = models.load().label_analysis(analysis, text)
    except (ValueError, OSError) as error:
        return {"best": {}, "doubts": [], "note": str(error)}
    if result.mask_scores is None or len(result.mask_scores) > MOST_MASKS:
        return {"best": {}, "doubts": [], "note": "every pixel was named by itself" * (result.mask_scores is None)}
    names, values = best_names(result.mask_scores)
    best = {
        mask: [[int(name), round(float(value), 6)] for name, value in zip(*pair, strict=True)]
        for mask, pair in enumerate(zip(names, values, strict=True))
    }
    doubts = [mask for mask, row in enumerate(values) if doubtful(row)]
    return {"best": best, "doubts": doubts, "note": ""}
