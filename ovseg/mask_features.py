"""From an image and its masks to what naming needs: dense features, one feature a mask, masks along the edges."""

from __future__ import annotations

import numpy as np

from ovseg.analysis import Analysis
from ovseg.masks import Masks
from ovseg.naming import NamingModel
from ovseg.setup import NO_REFINER
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


def refined_masks(image: np.ndarray, masks: Masks, kept: Analysis | None, refiner: str) -> np.ndarray | None:
    """The masks as they follow the image's edges, (H, W) int32: kept ones where the masks are, else by the refiner.

    None where there is no refiner, or no masks.
    """
    if kept is not None and kept.refined is not None and masks.labels is kept.segments:
        return kept.refined
    if refiner == NO_REFINER or masks.labels is None:
        return None
    from ovseg.pamr import refine_masks

    return refine_masks(image, masks.labels)
