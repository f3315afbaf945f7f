"""From features and names to a `Segmentation`: mask by mask, pixel by pixel, or by the pixels' vote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ovseg.classes import Vocabulary
from ovseg.draw import class_colours
from ovseg.labels import label_masks, label_pixels, vote
from ovseg.result import Segmentation, no_label
from ovseg.setup import NO_REFINER
from ovseg.towers.scoring import Scoring


@dataclass(frozen=True, eq=False, repr=False)
class Text:
    """A vocabulary and its embeddings: P prompts, (P, C) float32, rows of length 1."""

    vocabulary: Vocabulary
    embeddings: np.ndarray

    def __repr__(self) -> str:
        return f"Text({len(self.vocabulary.names)} names, {len(self.vocabulary.prompts)} prompts)"


@dataclass(frozen=True)
class Deciding:
    """How labels are decided. vote: a mask takes the name that most of its pixels have, see `labels.vote`. refine:
    "pamr": masks, or the scores of pixels, follow the image's edges, see `ovseg.pamr`; "none": they are as they are."""

    scoring: Scoring
    vote: bool = False
    refine: str = NO_REFINER


def name_masks(
    masks: np.ndarray,
    regions: np.ndarray,
    text: Text,
    how: Deciding,
    image: np.ndarray | None = None,
    refined: np.ndarray | None = None,
) -> Segmentation:
    """Masks (H, W) int32, ids from 0, by a feature (K, C) for each. image: (H, W, 3) uint8. refined: the masks as the
    refiner makes them, where that was done; otherwise it needs the image."""
    pixels = np.bincount(masks.ravel())
    scores, best = label_masks(regions, text.embeddings, text.vocabulary, how.scoring, pixels)
    return _of_masks(masks, best, scores, text, how, image, refined)


def name_by_vote(
    masks: np.ndarray,
    features: np.ndarray,
    text: Text,
    how: Deciding,
    image: np.ndarray | None = None,
    refined: np.ndarray | None = None,
) -> Segmentation:
    """Masks (H, W) int32, ids from 0, by the labels of their pixels, of dense features (C, h, w). image, refined: as
    in `name_masks`."""
    size, names = (masks.shape[0], masks.shape[1]), len(text.vocabulary.names)
    labels, _ = label_pixels(features.astype(np.float32), text.embeddings, text.vocabulary, how.scoring, size)
    scores, best = vote(labels, masks, names)
    return _of_masks(masks, best, scores, text, how, image, refined)


def name_pixels(
    features: np.ndarray, size: tuple[int, int], text: Text, how: Deciding, image: np.ndarray | None = None
) -> Segmentation:
    """Every pixel of an image of (H, W) by dense features (C, h, w)."""
    edges = None if how.refine == NO_REFINER else _needed(image)
    features = features.astype(np.float32)
    labels, scores = label_pixels(features, text.embeddings, text.vocabulary, how.scoring, size, edges)
    return _result(text, labels, masks=None, mask_scores=None, pixel_scores=scores, image=image)


def _of_masks(
    masks: np.ndarray,
    best: np.ndarray,
    scores: np.ndarray,
    text: Text,
    how: Deciding,
    image: np.ndarray | None,
    refined: np.ndarray | None,
) -> Segmentation:
    if how.refine != NO_REFINER:
        from ovseg.pamr import refine_masks

        masks = refine_masks(_needed(image), masks) if refined is None else refined
    return _result(text, best[masks], masks=masks, mask_scores=scores, image=image)


def _needed(image: np.ndarray | None) -> np.ndarray:
    if image is None:
        raise ValueError(
            "refine: follows the image's edges, and here is no image: analyze it with this segmenter, or give "
            "label_analysis one"
        )
    return image


def _result(text: Text, labels: np.ndarray, **rest: Any) -> Segmentation:
    """A result with what the vocabulary says; labels (H, W) in as few bytes as its indices need."""
    names, notes = text.vocabulary.names, text.vocabulary.notes
    labels = labels.astype(np.uint8 if no_label(len(names)) == 255 else np.uint16)
    return Segmentation(labels=labels, names=names, colours=class_colours(names), notes=notes, **rest)
