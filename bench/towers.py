"""What CLIP's image towers cost: processor time and memory of an image's dense features, with random weights.

`python -m bench.towers [NAME ...]` prints a row a tower of open_clip's list, each measured in a process of its own;
`python -m bench.towers --flops` what the default preset's view of a square image costs, counted on shapes alone.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from typing import Any

TOWERS = (
    *("ViT-B-16-quickgelu", "ViT-L-14-quickgelu", "RN50-quickgelu", "ViT-B-16-SigLIP", "ViT-L-16-SigLIP-256"),
    *("PE-Core-S-16-384", "PE-Core-B-16", "PE-Core-L-14-336", "EVA02-B-16", "EVA02-L-14", "MobileCLIP-B"),
    *("MobileCLIP2-S0", "MobileCLIP2-S3", "ViTamin-B", "ViTamin-L", "convnext_base", "convnext_large_d"),
)
SIDES = 448, 672  # pixels of the image, whole cells of every tower
RUNS = 2  # the quickest counts


def measure(name: str) -> str:
    """A row: name, cell, side of its own images, millions of parameters, processor's seconds, peak memory."""
    import open_clip
    import torch
    from open_clip.model import _build_vision_tower

    from emerdiff.folder import Unfilled
    from ovseg.towers.dense import dense_features
    from ovseg.towers.readout import cell_size

    config = open_clip.get_model_config(name)
    torch.manual_seed(0)
    with Unfilled():
        tower: Any = _build_vision_tower(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False))
    tower.eval().requires_grad_(False)
    for parameter in tower.parameters():
        parameter.normal_(0, 0.02)
    cell = cell_size(tower)[0]
    height, width = (side // cell * cell for side in SIDES)
    image = torch.randn(1, 3, height, width)
    seconds = []
    with torch.inference_mode():
        for _ in range(RUNS):
            start = time.process_time()
            dense_features(tower, image)
            seconds.append(time.process_time() - start)
    millions = sum(parameter.numel() for parameter in tower.parameters()) / 1e6
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # it counts kibibytes
    row = (name, cell, config["vision_cfg"].get("image_size", 224), f"{millions:.0f} M", f"{height}x{width}")
    return f"| {' | '.join(map(str, row))} | {min(seconds):.1f} s | {memory:.1f} GB |"


def flops() -> int:
    """FLOPs of the default preset's dense features of an image as large as Stable Diffusion 1.4's, on shapes alone."""
    import open_clip
    import torch
    from open_clip.model import _build_vision_tower
    from torch.utils.flop_counter import FlopCounterMode

    from ovseg.presets import DEFAULT, get_preset
    from ovseg.towers.dense import view_features

    config, view = open_clip.get_model_config("ViT-B-16-quickgelu"), get_preset(DEFAULT).view
    with torch.device("meta"):
        tower: Any = _build_vision_tower(config["embed_dim"], config["vision_cfg"], True)
        image = torch.empty(3, view.short_side, view.short_side)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        view_features(tower.eval(), image, view)
    return int(counter.get_total_flops())


def main() -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="towers of open_clip's list; without any, a selection")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--flops", action="store_true", help="count those of the default preset's view instead")
    given = parser.parse_args()
    if given.flops:
        print(f"{flops() / 1e12:.3f} TFLOPs: ViT-B/16, the default preset's view of a square image")
        return 0
    if given.one:
        print(measure(given.names[0]), flush=True)
        return 0
    print(
        "| tower | cell | native | parameters | image | processor time | memory |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    codes = [
        subprocess.run([sys.executable, "-m", "bench.towers", "--one", name], check=False).returncode
        for name in given.names or TOWERS
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
