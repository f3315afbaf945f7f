"""Made videos with exact labels: a camera that pans over pocket scenes side by side, and a thing that crosses them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from ovseg.pocket.scene import NAMES, OBJECTS, SIZE
from ovseg.pocket.world import scene

STEP = 3  # pixels of the pan a frame


def moving_scene(first: int, frames: int, split: str = "tuning") -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(image (128, 128, 3) uint8, labels (128, 128) uint8, place (128, 128) int32) of each frame.

    place: which point of the scene a pixel shows, so that points can be followed; those of the thing that moves are its
    own. Scenes `first` and `first + 1` are the ground, the first object of `first + 2` is the thing.
    """
    left, right, other = (scene(split, 0, first + number) for number in range(3))
    ground = np.concatenate([left.image, right.image], axis=1)
    labels = np.concatenate([left.labels, right.labels], axis=1)
    place = np.arange(labels.size, dtype=np.int32).reshape(labels.shape)
    objects = [index for index in np.unique(other.labels) if NAMES[index] in OBJECTS]
    rows, columns = np.nonzero(other.labels == objects[0]) if objects else (np.array([], int),) * 2
    made = []
    for number in range(frames):
        image, truth, point = ground.copy(), labels.copy(), place.copy()
        across = np.clip(columns + 5 * number, 0, 2 * SIZE - 1)  # it moves faster than the camera
        image[rows, across] = other.image[rows, columns]
        truth[rows, across] = other.labels[rows, columns]
        point[rows, across] = labels.size + np.arange(len(rows))
        window = slice(STEP * number, STEP * number + SIZE)
        made.append((image[:, window], truth[:, window], point[:, window]))
    return made


def write_video(path: Path, images: Sequence[np.ndarray], rate: int = 10) -> None:
    """Write images (H, W, 3) uint8 without loss: FFV1 on RGB."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = images[0].shape[1], images[0].shape[0], "bgr0"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())
