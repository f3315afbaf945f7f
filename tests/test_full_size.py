"""`ovseg label` itself at the real models' size: SD 1.4, SD 2.x, SDXL, BK-SDM, CLIP ViT-B/16, with random weights."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SAVE = """
import json, sys
from pathlib import Path
import open_clip, torch
from safetensors.torch import save_file
from bench.families import save_family
from bench.random_weights import save_sd14
folder, family = Path(sys.argv[1]), sys.argv[2]
if family == "sd14":
    save_sd14(folder / "diffusion")
else:
    save_family(folder / "diffusion", family, torch.bfloat16)  # half the disk; read into float32
(folder / "clip").mkdir()
config = {"model_cfg": open_clip.get_model_config("ViT-B-16-quickgelu")}
(folder / "clip" / "open_clip_config.json").write_text(json.dumps(config))
weights = open_clip.create_model("ViT-B-16-quickgelu").state_dict()
save_file(weights, folder / "clip" / "open_clip_model.safetensors")
"""

RUN = """
import resource, sys
from ovseg.cli import main
try:
    code = main(sys.argv[1:])
finally:
    print("megabytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
raise SystemExit(code)
"""


@pytest.mark.full_size
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("family", "speed"),
    [  # exact nudges both ways and decodes, fast compares latents
        ("sd14", "fast"),
        ("sd-2-base", "fast"),
        ("bk-sdm-base", "fast"),
        ("bk-sdm-small", "fast"),
        ("bk-sdm-tiny", "exact"),
        ("sdxl-turbo", "fast"),  # SDXL's own shape at 512 pixels, a quarter of the work
    ],
)
def test_label_at_full_size_within_16_gigabytes(family: str, speed: str, tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    with tempfile.TemporaryDirectory(dir=tmp_path) as models:  # 6 GB that pytest would keep
        save = [sys.executable, "-c", SAVE, models, family]
        subprocess.run(save, check=True, cwd=Path(__file__).parent.parent)
        command = [sys.executable, "-c", RUN, "label", str(tmp_path / "photo.png"), "--classes", "cat,dog"]
        command += ["--diffusion", f"{models}/diffusion", "--clip", f"{models}/clip", "--device", "cpu"]
        command += ["--background", "none", "--masks", "2", "--steps", "10", "--t-m", "101", "--speed", speed]
        command += ["--out", str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert int(done.stdout.split("megabytes")[1]) < 16 * 1024
    run = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert run["names"] == ["cat", "dog"] and run["dtype"] == "float32"
    with Image.open(tmp_path / "out" / "photo.png") as labels:
        assert labels.size == (512, 512) and set(np.unique(labels)) <= {0, 1}
