"""From an image and its masks to what naming needs: dense features, and one feature a mask."""

from __future__ import annotations

import numpy as np

from ovseg.masks import Masks
from ovseg.naming import NamingModel
from ovseg.towers.region_kinds import REGIONS
from ovseg.towers.regions import merged, pool
from ovseg.towers.scope import NO_SCOPE
from ovseg.towers.scoring import READINGS
from ovseg.towers.view import View


def plain_features(model: NamingModel, image: np.ndarray, view: View) -> np.ndarray:
    """Dense features without any masks, (C, h, w) float16, as they are kept. Raises ValueError as the model does."""
    return model.dense_features(image, view).astype(np.float16)


def mask_features(
    model: NamingModel, image: np.ndarray, view: View, masks: Masks, plain: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Dense features (C, h, w) float16, within masks if the view has a scope, and the masks' features (K, C) float32.

    plain: as `plain_features` gives them; by their means masks are joined for a scope. Without masks the second is
    None. Raises ValueError for soft masks of a source that leaves no difference maps, and as the model does.
    """
    if masks.labels is None:
        return plain, None
    unit, features, scope = READINGS[model.scoring.reading].unit, plain, None
    if view.scope != NO_SCOPE:
        scope = merged(masks.labels, pool(plain, masks.labels, unit), view.merge)
        features = model.dense_features(image, view, scope).astype(np.float16)
    kind = REGIONS[view.regions]
    maps = masks.evidence.get("difference_maps") if kind.soft else None
    if kind.soft and maps is None:
        raise ValueError("regions: soft masks need EmerDiff's difference maps, which these masks have not")
    if kind.values or kind.own_head:
        return features, model.region_features(image, view, masks.labels, maps, scope)
    return features, pool(features, masks.labels, unit, maps)
