"""Small run folders, as `ovseg label` writes them, from label maps that a test makes up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ovseg.draw import class_colours
from ovseg.files import json_bytes, write_atomically
from ovseg.result import Segmentation, no_label
from ovseg.run.folder import FORMAT, RUN_FILE


def write_run(
    folder: Path,
    maps: Mapping[str, np.ndarray],
    names: Sequence[str],
    *,
    sources: Mapping[str, str | Path] | None = None,
    scores: Mapping[int, float] | None = None,
    states: Mapping[str, str] | None = None,
) -> Path:
    """Write a run of `ovseg label`; returns its folder.

    maps: id -> (H, W) label map, indices into `names` or "no label"; each class is one mask of its image.
    sources: id -> the image's file; "/photos/<id>.jpg", which is not there, for the others.
    scores: index -> the score of the class's mask, 0.75 for the others.
    states: id -> "failed" or "pending", of images without files.
    """
    names, colours, unlabelled = tuple(names), class_colours(names), no_label(len(names))
    ids: dict[str, dict[str, Any]] = {}
    for id, labels in maps.items():
        values, segments = np.unique(labels, return_inverse=True)
        mask_scores = np.zeros((len(values), len(names)), np.float32)
        for mask, value in enumerate(values.tolist()):
            if value != unlabelled:
                mask_scores[mask, value] = (scores or {}).get(value, 0.75)
        index_type = np.uint8 if unlabelled == 255 else np.uint16
        labels, segments = labels.astype(index_type), segments.reshape(labels.shape).astype(np.int32)
        Segmentation(labels, names, colours, segments, mask_scores).save(folder, id)
        ids[id] = {"file": str((sources or {}).get(id, f"/photos/{id}.jpg")), "state": "done", "seconds": 1.0}
    for id, state in (states or {}).items():
        ids[id] = {"file": f"/photos/{id}.jpg", "state": state}
    facts = {"command": "label", "names": names, "colours": colours, "no_label": unlabelled, "protocol": None}
    record = {"format": FORMAT, **facts, "shard": None, "versions": {"ovseg": "1"}, "timings": {}, "ids": ids}
    write_atomically(folder / RUN_FILE, json_bytes(record))
    return folder


def blobs(seed: int, height: int, width: int, values: Sequence[int], *, smoothness: float = 2.0) -> np.ndarray:
    """(H, W) int64: a random map of these values in blobs with holes and several parts; smoothness 0 is noise."""
    noise = np.random.default_rng(seed).normal(size=(len(values), height, width))
    smooth = [ndimage.gaussian_filter(layer, smoothness, mode="wrap") if smoothness else layer for layer in noise]
    return np.array(values)[np.argmax(smooth, axis=0)]
