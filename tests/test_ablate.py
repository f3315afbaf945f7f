"""One setting varied at a time: what is run, where, and what is read off it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import run_here
from test_cli import ovseg
from test_unsupervised import DATASET, Truth, analysis_of, save_tree, write_run

from emerdiff import EmerDiff, Options
from emerdiff.options import read_layer, show_layer
from ovseg.eval.ablate import SETTINGS, plan, read_over
from ovseg.eval.ablation_table import Measured, Row, measure, plot, sheet
from ovseg.eval.datasets import open_dataset
from ovseg.eval.scoring import score_run
from ovseg.files import index_png
from ovseg.result import masks_png

BASE = Options()


def snapped(options: Options) -> Options:
    """A grid of every 100th timestep."""
    return replace(options, modulation_timestep=round(options.modulation_timestep / 100) * 100)


def test_values_become_options_that_differ_in_one_setting():
    over = read_over(["masks=10, 30", "strength=5,10.0", "injection=on,off", "feature_layer=up1.2"])
    variations = plan(over, BASE, lambda options: options)
    options = {name: [one.options for one in found] for name, found in variations.items()}
    assert options == {
        "masks": [replace(BASE, masks=10), BASE],
        "strength": [replace(BASE, strength=5.0), BASE],
        "injection": [BASE, replace(BASE, attention_injection=False)],
        "feature_layer": [replace(BASE, feature_layer="up_blocks.1.attentions.2.transformer_blocks.0.attn2")],
    }
    folders = [one.folder for found in variations.values() for one in found]
    assert folders == [
        "masks=10",
        "default",
        "strength=5",
        "default",
        "default",
        "injection=off",
        "feature_layer=up1.2",
    ]


def test_every_setting_is_one_of_the_options_and_reads_what_it_shows():
    for name, setting in SETTINGS.items():
        default = getattr(BASE, setting.field)
        shown = setting.show(default)
        assert read_over([f"{name}={shown}"]) == {name: [default]}
    assert len({setting.field for setting in SETTINGS.values()}) == len(SETTINGS)


def test_layers_have_short_names():
    full = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
    assert read_layer("up2.1") == full and show_layer(full) == "up2.1"
    other = "down_blocks.2.attentions.1.transformer_blocks.0.attn2"
    assert read_layer(other) == show_layer(other) == other
    assert show_layer(full.replace("attn2", "attn1")).endswith("attn1")


def test_timesteps_are_shown_as_the_grid_has_them_and_may_not_fall_together():
    found = plan(read_over(["t_m=100,290"]), snapped(BASE), snapped)["t_m"]
    assert [(one.value, one.folder) for one in found] == [("100", "t_m=100"), ("300", "default")]
    with pytest.raises(ValueError, match="^over: t_m: two values come to 300 in a grid of 50 steps; leave one out"):
        plan(read_over(["t_m=290,310"]), BASE, snapped)
    with pytest.raises(ValueError, match="^over: masks: two values come to 10; leave one out"):
        plan(read_over(["masks=10,20,10"]), BASE, snapped)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["colour=red"], "over: colour=red: expected SETTING=VALUE,VALUE,... with one of masks, place, t_f"),
        (["masks"], "over: masks: expected a whole number, got ''"),
        (["masks=10,x"], "over: masks: expected a whole number, got 'x'"),
        (["injection=yes"], "over: injection: expected on or off, got 'yes'"),
        (["masks=0"], "over: masks=0: masks: expected at least 1, got 0"),
        (["sigma=nan"], "over: sigma=nan: sigma: expected a number from 0 up"),
        (["masks=1", "masks=2"], "over: masks=2: masks is there twice"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(texts, message):
    with pytest.raises(ValueError) as raised:
        read_over(texts)
    assert message in str(raised.value)


def measured_run(folder: Path, labels: dict[str, list], dataset: Truth = DATASET) -> Measured:
    """A run whose EmerDiff masks are right and whose naive ones are a mask an image; strength 10, RMS 0.5."""
    analyses = {id: analysis_of([[0, 0, 1, 1]], [[0, 0, 10, 10]], [[0, 0, 0, 0]]) for id in labels}
    write_run(folder, analyses, names=list(dataset.names), command="eval predict")
    for id, pixels in labels.items():
        (folder / f"{id}.png").write_bytes(index_png(np.array(pixels, np.uint8), [(0, 0, 0), (9, 9, 9)]))
        (folder / f"{id}.masks.png").write_bytes(masks_png(analyses[id].segments))
    return measure(folder, dataset)


RIGHT = Truth({id: [[0, 0, 1, 1]] for id in ("a", "b")})


def test_a_run_measured_by_hand(tmp_path):
    found = measured_run(tmp_path, {"a": [[0, 0, 1, 1]], "b": [[0, 0, 0, 0]]}, RIGHT)
    assert found.labels.mIoU == pytest.approx((4 / 6 + 2 / 4) * 50)
    # Naive images are one mask: all cat, which has half of the pixels.
    for outcomes in (found.best_label, found.modified):
        assert [outcome.mIoU for outcome in outcomes.values()] == [100, 25]
    assert found.boundary_f == {"EmerDiff": 100, "naive upsampling": 0}
    assert found.relative_strength == 20 and found.results()["modified"]["lead"] == {"mIoU": 75, "interval": [75, 75]}


def test_a_table_for_each_setting_and_the_notes_once(tmp_path):
    one = measured_run(tmp_path / "one", {"a": [[0, 0, 1, 1]], "b": [[0, 0, 1, 1]]}, RIGHT)
    other = measured_run(tmp_path / "other", {"a": [[1, 1, 0, 0]], "b": [[1, 1, 0, 0]]}, RIGHT)
    shown = sheet(RIGHT, {"masks": [Row("10", False, other), Row("30", True, one)], "sigma": [Row("1", True, one)]})
    assert shown.title == "masks: custom, 2 classes, 2 of 2 images" and not shown.notes
    assert [row[:3] for row in shown.rows] == [
        ["10", "20", "0.00 [0.00, 0.00]"],
        ["30 (default)", "20", "100.00 [100.00, 100.00]"],
    ]
    assert shown.below is not None and shown.below.header[0] == "sigma" and shown.below.below is None
    assert any("reads labels" in note for note in shown.below.notes)
    assert all(len(row) == len(shown.header) for row in shown.rows)


def test_the_picture_has_a_panel_for_each_setting(tmp_path):
    one = measured_run(tmp_path, {"a": [[0, 0, 1, 1]], "b": [[0, 0, 0, 0]]}, RIGHT)
    rows = [Row("10", False, one), Row("30", True, one)]
    (tmp_path / "two.png").write_bytes(plot({"masks": rows, "sigma": rows}))
    (tmp_path / "three.png").write_bytes(plot({"masks": rows, "sigma": rows, "t_m": rows}))
    two, three = (np.array(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("two", "three"))
    assert three.shape[1] > two.shape[1] > 600 and len(np.unique(two.reshape(-1, 3), axis=0)) > 10


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return save_tree(tmp_path / "mine")


@pytest.fixture
def flags(tree, tiny_diffusion, tiny_clip) -> list[str | Path]:
    """The start of a quick ablation."""
    models = ["--diffusion", tiny_diffusion, "--clip", tiny_clip, "--masks", "4", "--steps", "5"]
    return ["eval", "ablate", "custom", "--root", tree, *models, "--limit", "2"]


@pytest.mark.slow
def test_an_ablation_of_real_runs_and_the_same_once_more(flags, tree, tmp_path, tiny_diffusion):
    out = tmp_path / "ablation"
    call = [*flags, "--over", "masks=2,4", "--over", "injection=on,off", "--out", out]
    shown = run_here(*call)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.endswith((out / "ablation.md").read_text())
    assert sorted(path.name for path in out.iterdir()) == [
        *("ablation.json", "ablation.md", "ablation.png", "default", "injection=off", "masks=2")
    ]
    written = (out / "ablation.json").read_bytes()
    results = json.loads(written)
    assert {name: [row["value"] for row in rows] for name, rows in results["settings"].items()} == {
        "masks": ["2", "4"],
        "injection": ["on", "off"],
    }
    few, many = results["settings"]["masks"]
    assert few["options"] | {"masks": 4} == many["options"] and many["default"] and results["images"] == 2
    assert many | {"value": "on"} == results["settings"]["injection"][0]
    assert many["relative_strength"] == pytest.approx(10 / many["layer_rms"])
    dataset = open_dataset("custom", tree)
    for row, folder in ((few, "masks=2"), (many, "default")):
        scored = score_run(out / folder, dataset, best_label=True)
        assert row["best_label"]["EmerDiff"]["mIoU"] == pytest.approx(scored.metrics["mIoU"])
        assert row["boundary_F"]["EmerDiff"] == pytest.approx(scored.metrics["boundary_F"])
        assert row["labels"]["mIoU"] == pytest.approx(score_run(out / folder, dataset).metrics["mIoU"])
    # The same masks as by hand.
    model = EmerDiff.from_pretrained(tiny_diffusion)
    options = Options(**few["options"])
    id = dataset.ids[0]
    expected = model.segment(dataset.image(id), options).labels
    assert (np.array(Image.open(out / "masks=2" / f"{id}.masks.png")) == expected).all()

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    (out / "default" / f"{id}.png").unlink()
    again = ovseg(*call)  # a process of its own
    assert again.returncode == 0, again.stderr
    assert (out / "ablation.json").read_bytes() == written
    assert before == {path: path.stat().st_mtime_ns for path in before}  # no diffusion again
    assert (out / "default" / f"{id}.png").is_file()

    fewer = run_here(*call, "--limit", "1")
    assert fewer.returncode == 2 and "masks=2: holds sub/1, which is not among the first 1 images" in fewer.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--over", "masks=ten"], "--over: masks: expected a whole number, got 'ten'"),
        (["--over", "t_m=210,220"], "--over: t_m: two values come to 201 in a grid of 5 steps; leave one out"),
        (["--over", "feature_layer=up9.0"], "up_blocks.9.attentions.0"),
        (["--over", "masks=2", "--limit", "0"], "--limit: expected at least 1 image, got 0"),
        (["--over", "masks=2,5000"], "--over: masks=5000: masks: at most "),
    ],
)
def test_a_mistake_ends_in_one_line(flags, tmp_path, more, message):
    shown = run_here(*flags, *more, "--out", tmp_path / "out")
    assert shown.returncode == 2 and message in shown.stderr.splitlines()[-1], shown.stderr
    assert "Traceback" not in shown.stderr and not (tmp_path / "out").exists()


def test_an_image_that_fails_stops_before_the_next_value(flags, tree, tmp_path):
    out = tmp_path / "out"
    (tree / "images" / "sub" / "1.png").write_bytes(b"no image")
    shown = run_here(*flags, "--over", "masks=3,2", "--out", out)
    assert shown.returncode == 2
    assert f"{out}/masks=3: 1 of 2 images are not done, such as sub/1 (failed: " in shown.stderr.splitlines()[-1]
    assert [path.name for path in out.iterdir()] == ["masks=3"]


def test_processes_launched_together_are_refused(flags, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    shown = run_here(*flags, "--over", "masks=2", "--out", tmp_path)
    assert shown.returncode == 2 and "ablate runs as one process" in shown.stderr
