"""The command line as a user meets it; real processes where start-up, exit codes or bytes are what matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from emerdiff import Options
from ovseg import commands
from ovseg.cli import main
from ovseg.presets import PRESETS
from ovseg.result import read_index_png

ROOT = Path(__file__).parent.parent


def ovseg(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m ovseg.cli` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ovseg.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
    )


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder with two images, one in a sub-folder, of 40 x 60 and 32 x 32 pixels."""
    folder = tmp_path / "scenes"
    (folder / "sub").mkdir(parents=True)
    for number, (name, size) in enumerate((("a.png", (40, 60)), ("sub/b.jpg", (32, 32)))):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def diffusion(tiny_diffusion: Path) -> list[str]:
    """Flags for a quick run of `ovseg masks` with the tiny model."""
    return ["--diffusion", str(tiny_diffusion), "--masks", "3", "--steps", "5"]


@pytest.fixture
def models(diffusion: list[str], tiny_clip: Path) -> list[str]:
    """Flags for a quick run of `ovseg label` with the tiny models."""
    return [*diffusion, "--clip", str(tiny_clip)]


def test_help_comes_at_once_and_teaches() -> None:
    start = time.perf_counter()
    shown = ovseg("label", "--help")
    assert time.perf_counter() - start < 2  # some 0.1 s on an idle machine
    assert shown.returncode == 0
    for part in ("--classes", "--background", "threshold=T", "--preset pocket", "examples:", "ID.overlay.png"):
        assert part in shown.stdout
    code = "import sys, ovseg.cli; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_help_names_the_real_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["masks", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    defaults = Options()
    for part in (
        f"masks per image ({defaults.masks}; pocket: {PRESETS['pocket'].options.masks})",
        f"whole schedule ({defaults.steps})",
        f"are clustered ({defaults.feature_timestep})",
        f"is nudged ({defaults.modulation_timestep})",
        f"it is nudged ({defaults.strength:g})",
        f"clustering ({defaults.seed})",
    ):
        assert part in shown


def test_label_in_two_processes_gives_the_same_files(scenes: Path, models: list[str], tmp_path: Path) -> None:
    arguments = ["label", str(scenes), "--classes", "cat;kitten,sky", *models, "--out"]
    done, again = (ovseg(*arguments, tmp_path / name, OMP_NUM_THREADS="2") for name in ("one", "two"))
    assert done.returncode == again.returncode == 0, done.stderr + again.stderr
    assert "taken out of the default background words, because they are classes: sky" in done.stderr
    assert "device: " in done.stderr and f"results in {tmp_path / 'one'}" in done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and lines[0].startswith("[1/2] a: ") and lines[1].startswith("[2/2] sub/b: ")

    names = sorted(path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*.*"))
    written = [f"{id}{suffix}" for id in ("a", "sub/b") for suffix in (".json", ".overlay.png", ".png")]
    assert names == sorted([*written, "run.json"])
    for name in written:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name

    assert read_index_png(tmp_path / "one/a.png").shape == (40, 60)
    run = json.loads((tmp_path / "one/run.json").read_text())
    assert run["names"] == ["background", "cat", "sky"]
    assert {key: entry["state"] for key, entry in run["ids"].items()} == {"a": "done", "sub/b": "done"}
    assert run["options"]["masks"] == 3 and run["options"]["base_size"] == 32
    assert run["models"]["clip"].startswith("tiny_clip0@")
    assert len(run["vocabulary_sha256"]) == 64
    facts = json.loads((tmp_path / "one/sub/b.json").read_text())
    assert sum(row["pixels"] for row in facts["classes"]) == 32 * 32


def test_masks_alone_need_no_clip(scenes: Path, diffusion: list[str], tmp_path: Path) -> None:
    flags = [*diffusion, "--upsampling", "naive", "--seed", "3", "--out", str(tmp_path / "out")]
    assert main(["masks", str(scenes / "a.png"), *flags]) == 0
    masks = read_index_png(tmp_path / "out/a.png")
    assert masks.shape == (40, 60) and set(np.unique(masks)) <= {0, 1, 2}
    assert (tmp_path / "out/a.overlay.png").exists() and not (tmp_path / "out/a.json").exists()
    options = json.loads((tmp_path / "out/run.json").read_text())["options"]
    assert (options["upsampling"], options["seed"], options["masks"]) == ("naive", 3, 3)


def test_every_method_flag_reaches_the_options(scenes: Path, diffusion: list[str], tmp_path: Path) -> None:
    flags = ["--t-f", "201", "--t-m", "401", "--strength", "5", "--sigma", "0", "--seed", "7", "--no-injection"]
    assert main(["masks", str(scenes / "a.png"), *diffusion, *flags, "--out", str(tmp_path / "out")]) == 0
    options = json.loads((tmp_path / "out/run.json").read_text())["options"]
    expected = Options(
        masks=3,
        steps=5,
        feature_timestep=201,
        modulation_timestep=401,
        strength=5,
        sigma=0,
        seed=7,
        attention_injection=False,
        base_size=32,
    )
    assert options == {name: getattr(expected, name) for name in options}


def test_timesteps_that_snap_are_told_and_recorded(
    scenes: Path, diffusion: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*diffusion, "--upsampling", "naive", "--t-f", "41"]
    assert main(["masks", str(scenes / "a.png"), *flags, "--out", str(tmp_path / "out")]) == 0
    told = "timesteps: t_f 1 and t_m 201, the nearest to 41 and 281 in the grid of 5 steps"
    assert told in capsys.readouterr().err.splitlines()
    options = json.loads((tmp_path / "out/run.json").read_text())["options"]
    assert (options["feature_timestep"], options["modulation_timestep"]) == (1, 201)
    assert (
        main(["masks", str(scenes / "a.png"), *flags, "--t-f", "1", "--t-m", "201", "--out", str(tmp_path / "2")]) == 0
    )
    assert "timesteps: " not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["label", "masks"])
def test_settings_that_no_image_can_have_are_refused_before_any_output(
    command: str, scenes: Path, models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--classes", "cat", *models] if command == "label" else models[:2]
    assert main([command, str(scenes), *own, "--steps", "5000", "--out", str(tmp_path / "out")]) == 2
    assert "ovseg: error: steps: expected 1 to 999, got 5000" in capsys.readouterr().err.splitlines()
    assert not (tmp_path / "out").exists()


def test_a_bad_image_is_told_and_the_others_are_done(
    scenes: Path, models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scenes / "a_cut.png").write_bytes((scenes / "a.png").read_bytes()[:500])
    Image.new("RGB", (100, 10)).save(scenes / "wide.png")
    arguments = ["label", str(scenes), "--classes", "cat", "--background", "none", *models]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert "a_cut.png: damaged or truncated" in printed.err and "4:1" in printed.err
    assert "2 of 4 images failed" in printed.err
    states = [entry["state"] for entry in json.loads((tmp_path / "out/run.json").read_text())["ids"].values()]
    assert states == ["done", "failed", "done", "failed"]


def test_more_classes_than_a_map_can_hold_are_refused_at_once(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "many.txt").write_text("\n".join(f"c{index}" for index in range(65535)))
    arguments = ["label", str(scenes), "--classes-file", str(tmp_path / "many.txt"), "--background", "none"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "ovseg: error: classes: at most 65534 names fit into a label map, got 65535\n"


def test_a_second_run_does_not_overwrite_the_first(
    scenes: Path, diffusion: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["masks", str(scenes / "a.png"), *diffusion, "--upsampling", "naive", "--out", str(tmp_path / "out")]
    assert [main(arguments), main(arguments), main([*arguments, "--overwrite"])] == [0, 2, 0]
    assert "run.json: already there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["label", "IMAGE", "--classes", "cat,cat"], "'cat' was given before"),
        (["label", "IMAGE", "--classes", "cat,,dog"], "empty name"),
        (["label", "IMAGE", "--classes-file", "/no/such/list"], "/no/such/list"),
        (["label", "/no/such/image.png", "--classes", "cat"], "/no/such/image.png: no such file or folder"),
        (["label", "IMAGE", "--classes", "cat", "--background", "threshold=2"], "threshold=T"),
        (["label", "IMAGE", "--classes", "cat", "--preset", "sd15"], "no preset 'sd15'"),
        (["label", "IMAGE", "--classes", "cat", "--diffusion", "DIFFUSION"], "--clip missing"),
        (["label", "IMAGE", "--classes", "cat", "--diffusion", "D", "--clip", "C", "--preset", "pocket"], "--preset"),
        (["masks", "IMAGE", "--diffusion", "/no/such"], "/no/such: no such folder"),
        (["masks", "IMAGE", "--diffusion", "DIFFUSION", "--masks", "0"], "masks: expected at least 1"),
        (["masks", "IMAGE", "--diffusion", "DIFFUSION", "--device", "tpu"], "device 'tpu'"),
    ],
)
def test_mistakes_cost_one_line_and_exit_code_2(
    arguments: list[str],
    reason: str,
    scenes: Path,
    tiny_diffusion: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"IMAGE": str(scenes / "a.png"), "DIFFUSION": str(tiny_diffusion)}
    assert main([*(places.get(part, part) for part in arguments), "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("ovseg: error: ") and reason in lines[-1]
    assert len(lines) == 1
    assert not (tmp_path / "out").exists()


def test_without_network_and_weights_the_default_says_what_to_do(scenes: Path, tmp_path: Path) -> None:
    start = time.perf_counter()
    nowhere = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    failed = ovseg("label", scenes, "--classes", "cat", "--out", tmp_path / "out", **nowhere)
    assert time.perf_counter() - start < 10
    assert failed.returncode == 2 and failed.stdout == ""
    assert len(failed.stderr.splitlines()) == 1
    for part in ("CompVis/stable-diffusion-v1-4", "timm/vit_base_patch16", "models fetch", "--preset pocket"):
        assert part in failed.stderr


def test_models_lists_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["sd14-vitb16 (default)", "pocket"]
    assert all(row[1] in ("yes", "no") and row[2].endswith(" MB") for row in rows)
    assert rows[1][1:3] == ["yes", f"{PRESETS['pocket'].megabytes} MB"]
    assert main(["models", "fetch", "nothing"]) == 2


def test_a_long_run_says_how_long_before_it_starts(
    scenes: Path,
    diffusion: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commands, "LONG_RUN_SECONDS", 0)
    flags = ["--upsampling", "naive", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["masks", str(scenes), *diffusion, *flags]) == 0
    *before, after = capsys.readouterr().err.splitlines()
    assert before[0].startswith("device: cpu") and "an image on this CPU" in before[-1]
    assert after.startswith("results in ")


def test_real_photos_run_with_the_embedded_models_from_anywhere(tmp_path: Path) -> None:
    photos = {"chelsea": (300, 451), "astronaut": (512, 512), "coffee": (400, 600)}
    (tmp_path / "photos").mkdir()
    for name in photos:
        Image.fromarray(getattr(skimage.data, name)()).save(tmp_path / f"photos/{name}.png")
    flags = ["--classes", "cat,sky", "--preset", "pocket", "--masks", "4", "--steps", "10", "--out", "out"]
    nowhere = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = ovseg("label", "photos", *flags, cwd=tmp_path, **nowhere)
    assert done.returncode == 0, done.stderr
    assert "warning: the pocket models only know their own emoji world" in done.stderr
    for name, size in photos.items():
        labels = read_index_png(tmp_path / f"out/{name}.png")
        assert labels.shape == size and labels.max() <= 2
