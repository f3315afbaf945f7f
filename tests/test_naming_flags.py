"""What the command line says of names and their features: background bias, thresholds that cannot act."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_trees import build_tree
from PIL import Image
from processes import run_here

from ovseg.files import read_index_png

CLASSES = ["--classes", "cat,dog"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 40 x 60 pixels."""
    path = tmp_path_factory.mktemp("scene") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path, tiny_clip: Path) -> list[str]:
    return ["--diffusion", str(tiny_diffusion), "--clip", str(tiny_clip), "--steps", "5", "--masks", "3"]


@pytest.fixture(scope="module")
def kept(scene: Path, models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with kept analyses."""
    out = tmp_path_factory.mktemp("kept") / "run"
    done = run_here("label", str(scene), *CLASSES, *models, "--keep-analysis", "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def one_error(*arguments: object) -> str:
    """What a refused command said: its exit code is 2 and it ends in one line."""
    done = run_here(*map(str, arguments))
    lines = [line for line in done.stderr.splitlines() if "ovseg: error: " in line]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def test_a_bias_turns_all_into_background_or_none(kept: Path, scene: Path, tmp_path: Path) -> None:
    for bias, share in (("900", 1.0), ("-900", 0.0)):
        out = tmp_path / bias
        flags = [*CLASSES, "--analyses", kept, f"--background-bias={bias}", "--out", out]
        done = run_here("label", str(scene), *map(str, flags))
        assert done.returncode == 0, done.stderr
        assert np.mean(read_index_png(out / "a.png") == 0) == share
        assert record(out)["background_bias"] == float(bias)
    assert record(tmp_path / "900")["vocabulary_sha256"] != record(kept)["vocabulary_sha256"]
    assert record(kept).get("background_bias") is None


def test_another_bias_is_another_run(kept: Path, scene: Path, tmp_path: Path) -> None:
    arguments = ["label", scene, *CLASSES, "--analyses", kept, "--out", tmp_path / "out"]
    assert run_here(*map(str, arguments), "--background-bias", "1").returncode == 0
    assert "background_bias 1.0 and 2.0" in one_error(*arguments, "--background-bias", "2")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--background", "none", "--background-bias", "2"], "--background-bias: is added to the logits"),
        (["--background", "threshold=0.7", "--background-bias", "2"], "choose another threshold instead"),
        (["--background-bias", "nan"], "--background-bias: expected a number from -1000 to 1000"),
        (["--background-bias", "much"], "--background-bias: invalid float value: 'much'"),
        (["--background", "threshold=0.5"], "threshold=0.5 can never act over 2 prompts"),
    ],
)
def test_what_cannot_act_is_refused_in_one_line(
    flags: list[str], words: str, kept: Path, scene: Path, tmp_path: Path
) -> None:
    said = one_error("label", scene, *CLASSES, "--analyses", kept, *flags, "--out", tmp_path / "out")
    assert words in said
    assert not list(tmp_path.glob("out/*.png"))


def test_one_class_and_a_threshold_is_refused_with_the_way_out(kept: Path, scene: Path, tmp_path: Path) -> None:
    flags = ["--classes", "zebra", "--background", "threshold=0.99", "--analyses", kept, "--out", tmp_path / "out"]
    said = one_error("label", scene, *flags)
    assert "over 1 prompt, of which the best has a probability of 1" in said and "name more" in said


def test_evaluation_refuses_and_records_likewise(tmp_path: Path, models: list[str]) -> None:
    root, run = build_tree("voc21", tmp_path), ("--by", "none", "--limit", "1", *models)
    said = one_error(
        "eval", "predict", "voc20", "--root", root, *run, "--background-bias", "1", "--out", tmp_path / "no"
    )
    assert "--background-bias: voc20 has no background words by sclip's rules" in said
    out = tmp_path / "out"
    done = run_here(
        "eval", "predict", "voc21", "--root", root, *run, "--background-bias", "500", "--out", out, "--score"
    )
    assert done.returncode == 0, done.stderr
    assert "sclip, other values" in done.stdout
    assert record(out)["protocol"]["background"]["bias"] == 500
    assert all((read_index_png(path) == 0).all() for path in out.glob("*.png") if ".masks" not in path.name)
