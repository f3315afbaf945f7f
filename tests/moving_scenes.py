"""Videos as tests write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np


def write_video(
    path: Path, images: Sequence[np.ndarray], *, rate: int = 10, times: Sequence[int] = (), turned: int = 0
) -> None:
    """Write images (H, W, 3) or (H, W, 4) uint8 without loss, each a frame that needs no other: PNG.

    times: when each is shown, in ticks of 1 / rate; () one after the other. turned: degrees against the clock, by which
    the file says that it is to be shown turned.
    """
    kind = "rgb24" if images[0].shape[2] == 3 else "rgba"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("png", rate=rate)
        stream.width, stream.height, stream.pix_fmt = images[0].shape[1], images[0].shape[0], kind
        if turned:
            stream.set_display_rotation(turned)
        for image, time in zip(images, times or range(len(images)), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=kind)
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
