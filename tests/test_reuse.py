"""Kept analyses and mask sources by the command line: what a run takes from an earlier one, and from files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from processes import finish, run_here

from ovseg.cli import main
from ovseg.files import read_index_png

OTHER = ["--classes", "grass,house", "--background", "none"]


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder with two images of 40 x 60 and 32 x 32 pixels."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for number, (name, size) in enumerate((("a.png", (40, 60)), ("b.png", (32, 32)))):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def models(tmp_path: Path, tiny_diffusion: Path, tiny_clip: Path) -> list[str]:
    """Flags for tiny models of one's own; the diffusion model's folder may be removed."""
    diffusion = tmp_path / "own-diffusion"
    shutil.copytree(tiny_diffusion, diffusion)
    return ["--diffusion", str(diffusion), "--clip", str(tiny_clip), "--steps", "5"]


def label(scenes: Path, *more: str | Path) -> list[str]:
    return ["label", str(scenes), *map(str, more)]


def finish_here(arguments: list[str], log: Path) -> int:
    """`finish` in this process."""
    done = run_here(*arguments)
    log.write_text(done.stdout + done.stderr)
    return done.returncode


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


def error(log: Path) -> str:
    """What a failed command said, as its only error."""
    lines = [line for line in log.read_text().splitlines() if "ovseg: error: " in line]
    assert len(lines) == 1 and "Traceback" not in log.read_text(), log.read_text()
    return lines[0]


@pytest.mark.parametrize("dense", [[], ["--dense", "sclip"]])
def test_an_earlier_runs_models_and_settings_are_its_records(
    dense: list[str], scenes: Path, models: list[str], tmp_path: Path
) -> None:
    kept, log = tmp_path / "kept", tmp_path / "log"
    settings = [*models, *dense, "--masks", "3", "--t-m", "401", "--strength", "5"]
    assert main(label(scenes, "--classes", "cat,sky", *settings, "--keep-analysis", "--out", kept)) == 0
    assert main(label(scenes, *OTHER, *settings, "--out", tmp_path / "direct")) == 0
    shutil.rmtree(tmp_path / "own-diffusion")
    again = label(scenes, *OTHER, "--analyses", kept)
    assert finish([*again, "--out", str(tmp_path / "again")], log) == 0, log.read_text()
    assert files(tmp_path / "again") == files(tmp_path / "direct")
    (one, two) = record(tmp_path / "again"), record(tmp_path / "direct")
    for fact in ("by", "options", "models", "sources", "view", "dtype", "preset"):
        assert one[fact] == two[fact], fact
    assert finish_here([*again, "--by", "naive", "--out", str(tmp_path / "naive")], log) == 0, log.read_text()
    assert record(tmp_path / "naive")["by"] == "naive"

    # An image without an analysis needs the model, and a setting that differs cannot be had from what is kept.
    (kept / "b.safetensors").unlink()
    log.unlink()
    assert finish_here([*again, "--out", str(tmp_path / "missing")], log) == 2
    assert f"{tmp_path}/own-diffusion: no such folder" in error(log)
    assert not (tmp_path / "missing").exists()


def test_images_without_an_analysis_are_done_anew_and_other_settings_are_refused(
    scenes: Path, models: list[str], tmp_path: Path
) -> None:
    kept, log = tmp_path / "kept", tmp_path / "log"
    own = [*models, "--masks", "3"]
    assert main(label(scenes, "--classes", "cat,sky", *own, "--keep-analysis", "--out", kept)) == 0
    assert main(label(scenes, *OTHER, *own, "--out", tmp_path / "direct")) == 0
    again = label(scenes, *OTHER, "--analyses", kept)
    for flags, said in (
        (["--masks", "7"], "options.masks 3 instead of 7"),
        (["--dense", "sclip"], 'view.variant "maskclip" instead of "sclip"'),
        (["--dtype", "bfloat16"], 'dtype "float32" instead of "bfloat16"'),
    ):
        assert finish_here([*again, *flags, "--out", str(tmp_path / "other")], log) == 2, log.read_text()
        assert error(log) == f"ovseg: error: --analyses: {kept}: made with other settings ({said})"
        assert not (tmp_path / "other").exists()
        log.unlink()
    (kept / "b.safetensors").unlink()
    assert finish_here([*again, "--out", str(tmp_path / "anew")], log) == 0, log.read_text()
    assert f"1 of 2 images have no analysis in {kept}: it is made anew" in log.read_text()
    assert files(tmp_path / "anew") == files(tmp_path / "direct")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("no JSON", "run.json: not JSON"),
        ({"models": None}, "its record is damaged"),
        ({"view": {"nonsense": 1}}, "its record is damaged"),
        ({"options": {"masks": "many"}}, "its record is damaged"),
        ({"options": ["many"]}, "run.json: not the record of a run"),
        ({"dtype": 3}, "dtype"),
        ({"by": None}, "the run's masks are by None"),
        ({"preset": "sd99"}, "no preset 'sd99'"),
        ({"command": "masks", "view": ...}, "a run of `ovseg masks` keeps none"),
    ],
)
def test_a_damaged_record_is_one_line(
    damage: str | dict[str, Any], said: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    content: dict[str, Any] = {
        "format": "ovseg run 1",
        "command": "label",
        "by": "emerdiff",
        "options": {"masks": 3},
        "models": {"diffusion": "d@1", "clip": "c@1"},
        "sources": {"diffusion": "d", "clip": "c"},
        "view": {"short_side": 32, "window": 32, "stride": 16, "variant": "maskclip"},
        "dtype": "float32",
        "preset": None,
        "ids": {},
    }
    if isinstance(damage, dict):
        content = {key: value for key, value in {**content, **damage}.items() if value is not ...}
    (kept / "run.json").write_text(damage if isinstance(damage, str) else json.dumps(content))
    assert main(label(scenes, *OTHER, "--analyses", kept, "--out", tmp_path / "out")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("ovseg: error: ") and said in lines[0]
    assert not (tmp_path / "out").exists()


def test_settings_that_no_image_can_meet_change_nothing(scenes: Path, models: list[str], tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    (scenes / "a.png").unlink()  # a square is left
    assert finish_here(["masks", str(scenes), *models[:2], "--masks", "9999", "--out", str(out)], log) == 2
    assert error(log).startswith("ovseg: error: --masks: at most ") and not out.exists()
    most = int(error(log).split("at most ")[1].split()[0])

    run = label(scenes, *OTHER, *models, "--out", out)
    assert main([*run, "--masks", "3"]) == 0
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    log.unlink()
    assert finish_here([*run, "--masks", str(most + 1), "--overwrite"], log) == 2
    assert (
        error(log)
        == f"ovseg: error: --masks: at most {most} (the positions of the feature layer's grid), got {most + 1}"
    )
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before

    Image.new("RGB", (64, 32), (9, 99, 200)).save(scenes / "long.png")  # twice the positions
    assert finish_here([*run[:-1], str(tmp_path / "mixed"), "--masks", str(most + 1), "--by", "naive"], log) == 1
    states = {id: entry["state"] for id, entry in record(tmp_path / "mixed")["ids"].items()}
    assert states == {"b": "failed", "long": "done"}


def test_images_of_a_shape_that_cannot_be_are_reported_by_name(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (100, 10)).save(tmp_path / "wide.png")
    assert main(["masks", str(tmp_path / "wide.png"), *models[:2], "--out", str(tmp_path / "out")]) == 1
    assert "[1/1] wide: failed: " in (told := capsys.readouterr().err) and "4:1" in told


@pytest.mark.parametrize("by", ["naive", "slic", "none", "files"])
def test_masks_come_from_every_source(by: str, scenes: Path, models: list[str], tmp_path: Path) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    if by in ("naive", "files"):
        flags = [*models[:2], "--steps", "5", "--masks", "3", "--by", "naive"]
        assert main(["masks", str(scenes), *flags, "--out", str(masks)]) == 0
    own = models[2:4] if by in ("slic", "none", "files") else models
    more = ["--masks-from", str(masks)] if by == "files" else []
    given = [] if by == "files" else ["--masks", "3"]
    if by in ("slic", "none", "files"):  # no diffusion model is looked for
        shutil.rmtree(tmp_path / "own-diffusion")
    assert main(label(scenes, *OTHER, *own, "--by", by, *more, *given, "--dense", "sclip", "--out", out)) == 0
    facts = record(out)
    assert facts["by"] == by and facts["view"]["variant"] == "sclip"
    assert ("diffusion" in facts["models"]) == (by == "naive")
    for id, size in (("a", (40, 60)), ("b", (32, 32))):
        labels = read_index_png(out / f"{id}.png")
        assert labels.shape == size and set(np.unique(labels)) <= {0, 1}
        assert (out / f"{id}.masks.png").exists() == (by != "none")
        if by in ("naive", "files"):
            found, expected = read_index_png(out / f"{id}.masks.png"), read_index_png(masks / f"{id}.png")
            assert len(np.unique(found)) == len(np.unique(expected))
            assert len({*zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True)}) == len(np.unique(found))
        if by != "none":  # a mask has one class
            pairs = zip(read_index_png(out / f"{id}.masks.png").ravel().tolist(), labels.ravel().tolist(), strict=True)
            assert len(set(pairs)) == len(np.unique(read_index_png(out / f"{id}.masks.png")))


def test_masks_from_a_file_are_labelled_as_those_of_the_source_they_came_from(
    scenes: Path, models: list[str], tmp_path: Path
) -> None:
    assert main(label(scenes, *OTHER, *models, "--masks", "3", "--out", tmp_path / "direct")) == 0
    flags = ["--by", "files", "--masks-from", str(tmp_path / "direct")]
    assert main(label(scenes, *OTHER, *models[2:4], *flags, "--out", tmp_path / "files")) == 0
    for id in "ab":
        for ending in (".png", ".masks.png", ".json"):
            assert (tmp_path / f"files/{id}{ending}").read_bytes() == (tmp_path / f"direct/{id}{ending}").read_bytes()


def test_layers_may_be_named_in_short(scenes: Path, models: list[str], tmp_path: Path) -> None:
    layers = ["--feature-layer", "up1.1", "--modulated-layer", "up1.0"]
    out = tmp_path / "out"
    assert (
        main(["masks", str(scenes / "a.png"), *models[:2], "--steps", "5", *layers, "--masks", "3", "--out", str(out)])
        == 0
    )
    options = record(out)["options"]
    assert options["feature_layer"] == "up_blocks.1.attentions.1.transformer_blocks.0.attn2"
    assert options["modulated_layer"] == "up_blocks.1.attentions.0.transformer_blocks.0.attn2"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["label", "--shard", "0/2"], "--shard: expected i/n with i from 1 to n, such as 2/4, got '0/2'"),
        (["label", "--t-m", "-1"], "--t-m: expected a number from 0 up, got -1"),
        (["label", "--masks", "0"], "--masks: expected at least 1, got 0"),
        (["label", "--masks", "x"], "--masks: expected a whole number, got 'x'"),
        (["label", "--seed", "-1"], "--seed: expected at least 0, got -1"),
        (["label", "--strength", "inf"], "--strength: expected a finite number, got inf"),
        (["label", "--sigma", "nan"], "--sigma: expected a number from 0 up, got nan"),
        (["label", "--speed", "slow"], "--speed: expected fast or exact, got 'slow'"),
        (["label", "--device", "nonsense"], "--device: 'nonsense' cannot be used here"),
        (["label", "--dtype", "float8"], "--dtype: invalid choice: 'float8'"),
        (["label", "--dense", "nonsense"], "--dense: invalid choice: 'nonsense'"),
        (["label", "--by", "nonsense"], "--by: no mask source 'nonsense', expected one of emerdiff, "),
        (["label", "--by", "files"], "--masks-from: missing"),
        (["label", "--masks-from", "."], "--masks-from: is for by files, got by emerdiff"),
        (["label", "--by", "files", "--masks-from", "/no/such"], "--masks-from: /no/such: no such folder"),
        (["label", "--format", "tiff"], "--format: tiff: no such format"),
        (["label", "--background", "threshold=2"], "background"),
        (["label", "--analyses", "/no/such"], "--analyses: /no/such: no run folder"),
        (["label", "--diffusion", "/no/such"], "--clip: missing"),
        (["label", "--preset", "pocket", "--clip", "C"], "--preset: brings its own models"),
        (["label", "--preset", "nonsense"], "--preset: no preset 'nonsense'"),
        (["label", "--feature-layer", "up9.9", "--preset", "pocket"], "--feature-layer: 'up_blocks.9.attentions.9."),
        (["label", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["label", "--classes-file", "/absent"], "--classes-file: not allowed with argument --classes"),
        (["masks", "--by", "none"], "--by: none makes no masks"),
        (["masks", "--shard", "x"], "--shard: expected i/n"),
        (["predict", "--limit", "0"], "--limit: expected at least 1 image, got 0"),
        (["predict", "--limit", "x"], "--limit: invalid int value: 'x'"),
        (["predict", "--by", "nonsense"], "--by: no mask source 'nonsense'"),
        (["predict", "--by", "slic", "--method", "maskclip"], "--by: given with --method"),
        (["predict", "--score", "--shard", "1/2"], "--score: a shard alone cannot be scored"),
        (["predict", "--ignore", "3"], "--ignore: 3: is for custom alone"),
    ],
)
def test_a_mistake_in_a_flag_is_one_line_that_names_it(
    arguments: list[str], said: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *flags = arguments
    inputs = {
        "label": ["label", str(scenes), "--classes", "cat"],
        "masks": ["masks", str(scenes)],
        "predict": ["eval", "predict", "pocket"],
    }[command]
    models = [] if {"--preset", "--diffusion", "--analyses"} & set(flags) else ["--preset", "pocket"]
    try:
        code = main([*inputs, *models, *flags, "--out", str(tmp_path / "out")])
    except SystemExit as ended:  # argparse's own
        code = ended.code if isinstance(ended.code, int) else -1
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("warning: ", "device: "))]
    assert code == 2 and len(lines) == 1 and lines[0].startswith("ovseg: error: "), lines
    assert said in lines[0] and not (tmp_path / "out").exists()


def test_a_list_of_classes_that_is_absent_is_named_by_its_flag(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["label", str(scenes), "--classes-file", "absent"]) == 2
    assert capsys.readouterr().err == "ovseg: error: --classes-file: absent: no such file\n"
