"""What the command line says of names and their features: background bias, thresholds that cannot act."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_trees import build_tree
from PIL import Image
from processes import run_here

from ovseg.analysis import Analysis
from ovseg.compare import NEW_IN_VIEWS
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


@pytest.fixture(scope="module")
def values(scene: Path, models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with kept analyses whose masks have other features."""
    out = tmp_path_factory.mktemp("values") / "run"
    flags = [*CLASSES, *models, "--regions", "values-mlp", "--scope", "like", "--merge", "0.9", "--keep-analysis"]
    done = run_here("label", str(scene), *flags, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


def test_analyses_say_which_features_they_hold_and_naming_takes_those(
    values: Path, kept: Path, scene: Path, tmp_path: Path
) -> None:
    analysis, plain = Analysis.load(values / "a.safetensors"), Analysis.load(kept / "a.safetensors")
    expected = {"regions": "values-mlp", "scope": "like", "merge": 0.9}
    assert expected.items() <= analysis.origin.view.items() and expected.items() <= record(values)["view"].items()
    assert analysis.segments is not None and np.array_equal(analysis.segments, plain.segments)
    assert analysis.regions is not None and analysis.regions.shape == (analysis.segments.max() + 1, 16)
    assert not np.array_equal(analysis.regions, plain.regions)
    # K x C is all that naming takes: without a dense feature it gives the same.
    replace(analysis, features=np.zeros_like(analysis.features)).save(values / "b.safetensors")
    again = tmp_path / "again"
    done = run_here("label", str(scene), *CLASSES, "--analyses", str(values), "--out", str(again))
    assert done.returncode == 0, done.stderr
    assert (again / "a.png").read_bytes() == (values / "a.png").read_bytes()
    other = tmp_path / "b.png"
    other.write_bytes(scene.read_bytes())
    done = run_here("label", str(other), *CLASSES, "--analyses", str(values), "--out", str(again / "b"))
    assert done.returncode == 0, done.stderr
    assert np.array_equal(read_index_png(again / "b/b.png"), read_index_png(values / "a.png"))
    said = one_error("label", scene, *CLASSES, "--analyses", values, "--regions", "mean", "--out", tmp_path / "no")
    assert 'view.regions "values-mlp" instead of "mean"' in said


def test_an_analysis_of_before_is_read_and_its_features_are_means(kept: Path, scene: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    facts = record(kept)
    analysis = Analysis.load(kept / "a.safetensors")
    view = {name: value for name, value in analysis.origin.view.items() if name not in NEW_IN_VIEWS}
    replace(analysis, regions=None, origin=replace(analysis.origin, view=view)).save(old / "a.safetensors")
    facts["view"] = view
    (old / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    out = tmp_path / "out"
    done = run_here("label", str(scene), *CLASSES, "--analyses", str(old), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert (out / "a.png").read_bytes() == (kept / "a.png").read_bytes()
    assert "view.regions" in one_error(
        "label", scene, *CLASSES, "--analyses", old, "--regions", "values", "--out", tmp_path / "no"
    )


def test_votes_and_edges_are_recorded_and_change_the_labels(kept: Path, scene: Path, tmp_path: Path) -> None:
    labels = {}
    for flag in ("--vote", "--refine=pamr"):
        out = tmp_path / flag
        done = run_here("label", str(scene), *CLASSES, "--analyses", str(kept), flag, "--out", str(out))
        assert done.returncode == 0, done.stderr
        labels[flag], said = read_index_png(out / "a.png"), record(out)
        assert (said["vote"], said["refine"]) == ((True, None) if flag == "--vote" else (None, "pamr"))
    masks = read_index_png(kept / "a.masks.png")
    assert all(len(np.unique(labels["--vote"][masks == one])) == 1 for one in np.unique(masks))
    refined = read_index_png(tmp_path / "--refine=pamr/a.masks.png")
    assert (refined != masks).any() and set(np.unique(refined)) <= set(np.unique(masks))
    out = tmp_path / "pixels"
    flags = ["--analyses", str(kept), "--by", "none", "--refine", "pamr", "--out", str(out)]
    assert run_here("label", str(scene), *CLASSES, *flags).returncode == 0
    assert read_index_png(out / "a.png").shape == (40, 60)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--by", "none", "--regions", "values"], "--regions: is for masks, and by none makes none"),
        (["--by", "none", "--vote"], "--vote: is for masks"),
        (["--by", "none", "--scope", "like"], "--scope: is for masks"),
        (["--by", "naive", "--regions", "soft"], "needs difference maps, which by emerdiff leaves, got by naive"),
        (["--by", "slic", "--merge", "0.9"], "--merge: joins masks for attention within them; choose a scope as well"),
        (["--scope", "like", "--merge", "2"], "--merge: expected a cosine from -1 to 1, got 2.0"),
        (["--vote", "--regions", "values"], "--vote: counts the labels of a mask's pixels"),
        (["--regions", "means"], "--regions: invalid choice: 'means'"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_any_mask(
    flags: list[str], words: str, scene: Path, models: list[str], tmp_path: Path
) -> None:
    said = one_error("label", scene, *CLASSES, *models, *flags, "--out", tmp_path / "out")
    assert words in said
    assert not list(tmp_path.glob("out/*.png"))


def test_pixel_exact_runs_take_no_reading_that_published_code_has_not(tmp_path: Path, models: list[str]) -> None:
    root = build_tree("voc20", tmp_path)
    for flags, name in ((["--regions", "values"], "regions"), (["--refine", "pamr"], "refine"), (["--vote"], "vote")):
        said = one_error(
            *("eval", "predict", "voc20", "--root", root, "--by", "slic", "--limit", "1", *models, *flags),
            *("--protocol", "sclip", "--pixel-exact", "--partial", "--out", tmp_path / "no"),
        )
        assert f"--{name}: is not in the code that a pixel-exact protocol follows" in said


@pytest.mark.parametrize("by", ["slic", "truth"])
def test_evaluation_reads_masks_likewise(by: str, tmp_path: Path, models: list[str]) -> None:
    root, out = build_tree("voc20", tmp_path), tmp_path / "out"
    flags = ["--by", by, "--limit", "1", *models, "--regions", "values", "--scope", "uniform", "--out", str(out)]
    done = run_here("eval", "predict", "voc20", "--root", str(root), *flags, "--score")
    assert done.returncode == 0, done.stderr
    assert record(out)["view"]["regions"] == record(out)["protocol"]["view"]["regions"] == "values"
    assert "other values" not in done.stdout
