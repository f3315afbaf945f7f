"""The command line as a user meets it; real processes where start-up, exit codes or bytes are what matters."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image

from emerdiff import Options
from ovseg.analysis import Analysis
from ovseg.cli import main
from ovseg.files import read_index_png
from ovseg.presets import PRESETS
from ovseg.run import batch
from ovseg.run.folder import read_run

ROOT = Path(__file__).parent.parent


def ovseg(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m ovseg` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ovseg", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        # Passive: threads that wait do not spin, which costs minutes where the cores are busy.
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"} | environment,
    )


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder with two images, one in a sub-folder, of 40 x 60 and 32 x 32 pixels."""
    return make_scenes(tmp_path / "scenes")


def make_scenes(folder: Path) -> Path:
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


@pytest.fixture
def label(scenes: Path, models: list[str]) -> list[str]:
    """A quick `ovseg label` of the scenes, to which --out, or flags that come again and win, are added."""
    return label_command(scenes, models)


def label_command(scenes: Path, models: list[str]) -> list[str]:
    return ["label", str(scenes), "--classes", "cat;kitten,sky", "--background", "none", *models]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion: Path, tiny_clip: Path) -> Path:
    """What the `label` command gives, once; the same images lie in another folder. Not to be changed."""
    folder = tmp_path_factory.mktemp("labelled")
    models = ["--diffusion", str(tiny_diffusion), "--clip", str(tiny_clip), "--masks", "3", "--steps", "5"]
    assert main([*label_command(make_scenes(folder / "scenes"), models), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_help_comes_at_once_and_teaches() -> None:
    start = time.perf_counter()
    shown = ovseg("label", "--help")
    assert time.perf_counter() - start < 2  # some 0.1 s on an idle machine
    assert shown.returncode == 0
    for part in ("--classes", "--background", "threshold=T", "--preset photo", "examples:", "ID.overlay.png"):
        assert part in shown.stdout
    code = "import sys, ovseg.cli; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_help_names_the_real_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["masks", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    defaults = Options()
    for part in (
        f"masks per image ({defaults.masks})",
        f"whole schedule ({defaults.steps})",
        f"are clustered ({defaults.feature_timestep})",
        f"is nudged ({defaults.modulation_timestep})",
        f"it is nudged ({defaults.strength:g})",
        f"clustering ({defaults.seed})",
    ):
        assert part in shown


def test_label_in_two_processes_gives_the_same_files(scenes: Path, models: list[str], tmp_path: Path) -> None:
    arguments = ["label", str(scenes), "--classes", "cat;kitten,sky", *models, "--out"]
    done = ovseg(*arguments, tmp_path / "one", OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    assert main([*arguments, str(tmp_path / "two")]) == 0
    assert "taken out of the default background words, because they are classes: sky" in done.stderr
    assert "device: " in done.stderr and f"results in {tmp_path / 'one'}" in done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and lines[0].startswith("[1/2] a: ") and lines[1].startswith("[2/2] sub/b: ")

    names = sorted(path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*.*"))
    endings = (".json", ".masks.png", ".overlay.png", ".png")
    written = [f"{id}{suffix}" for id in ("a", "sub/b") for suffix in endings]
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
    flags = [*diffusion, "--by", "naive", "--seed", "3", "--out", str(tmp_path / "out")]
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
        feature_layer="up_blocks.1.attentions.0.transformer_blocks.0.attn2",  # the model's own
        modulated_layer="up_blocks.1.attentions.2.transformer_blocks.0.attn2",
    )
    assert options == {name: getattr(expected, name) for name in options}


def test_timesteps_that_snap_are_told_and_recorded(
    scenes: Path, diffusion: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*diffusion, "--by", "naive", "--t-f", "41"]
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
    assert "ovseg: error: --steps: expected 1 to 999, got 5000" in capsys.readouterr().err.splitlines()
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
    assert (
        capsys.readouterr().err == "ovseg: error: --classes-file: at most 65534 names fit into a label map, got 65535\n"
    )


def images_done(printed: str) -> list[str]:
    """The ids that plain lines on standard output tell as done."""
    return [line.split("] ")[1].split(": ")[0] for line in printed.splitlines()]


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and bytes of all files but the record, by name."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.json"]
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def test_the_same_command_does_only_what_is_left(
    scenes: Path, label: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*label, "--out", str(tmp_path / "out")]
    assert main(command) == 0 and images_done(capsys.readouterr().out) == ["a", "sub/b"]
    first = files(tmp_path / "out")
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.out == "" and "2 of 2 images are finished already" in printed.err
    assert files(tmp_path / "out") == first

    (tmp_path / "out/sub/b.json").unlink()
    Image.new("RGB", (20, 20), (90, 40, 10)).save(scenes / "new.png")
    assert main(command) == 0 and images_done(capsys.readouterr().out) == ["new", "sub/b"]
    last = files(tmp_path / "out")
    assert {name: last[name] for name in first if name.startswith("a.")} == {
        name: first[name] for name in first if name.startswith("a.")
    }
    assert {name: last[name][1] for name in first} == {name: first[name][1] for name in first}  # the same bytes again
    assert list(json.loads((tmp_path / "out/run.json").read_text())["ids"]) == ["a", "sub/b", "new"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--masks", "4"], "options.masks 3 and 4"),
        (["--classes", "cat;kitten,dog"], 'names ["cat", "sky"] and ["cat", "dog"]'),
        (["--classes", "cat;kitty,sky"], "vocabulary_sha256 "),
        (["--background", "words"], 'background "none" and "words"'),
    ],
)
def test_a_run_with_other_settings_is_refused_by_name_unless_it_overwrites(
    changed: list[str],
    named: str,
    label: list[str],
    labelled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(labelled, tmp_path / "out")
    before, flags = files(tmp_path / "out"), ["--out", str(tmp_path / "out"), *changed]
    assert main([*label, *flags]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"ovseg: error: {tmp_path}/out/run.json was made with other settings (") and named in last
    assert "--overwrite" in last and files(tmp_path / "out") == before


def test_overwriting_does_everything_again(
    label: list[str], labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(labelled, tmp_path / "out")
    before = files(tmp_path / "out")
    assert main([*label, "--masks", "2", "--out", str(tmp_path / "out"), "--overwrite"]) == 0
    assert images_done(capsys.readouterr().out) == ["a", "sub/b"]
    after = files(tmp_path / "out")
    assert after.keys() == before.keys() and all(after[name][0] > before[name][0] for name in before)
    assert json.loads((tmp_path / "out/run.json").read_text())["options"]["masks"] == 2


def test_another_file_under_an_old_id_is_refused(
    scenes: Path, label: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*label, "--out", str(tmp_path / "out")]) == 0
    (scenes / "a.png").rename(scenes / "a.bmp")
    assert main([*label, "--out", str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"'a' was labelled from {scenes}/a.png, not {scenes}/a.bmp" in last


def test_shards_together_are_the_whole_run(
    label: list[str], labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "out", read_run(labelled)
    for shard, ids in (("1/3", ["a"]), ("3/3", []), ("2/3", ["sub/b"])):
        assert main([*label, "--out", str(out), "--shard", shard]) == 0
        assert images_done(capsys.readouterr().out) == ids
    parts = read_run(out)
    assert parts.done == whole.done == ["a", "sub/b"] and parts.facts == whole.facts
    shared = {name: content for name, (_, content) in files(out).items() if not name.startswith("run-")}
    assert shared == {name: content for name, (_, content) in files(labelled).items()}
    (out / "run-2-of-3.json").unlink()
    with pytest.raises(ValueError, match=r"run-2-of-3\.json missing"):
        read_run(out)
    assert main([*label, "--out", str(out)]) == 2
    assert "run-1-of-3.json: the folder holds a run that is divided otherwise" in capsys.readouterr().err


def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on neither the diffusion model nor CLIP's image tower may run."""

    def fail(*_: object, **__: object) -> None:
        pytest.fail("a network saw the image")

    monkeypatch.setattr(UNet2DConditionModel, "forward", fail)
    monkeypatch.setattr(AutoencoderKL, "encode", fail)
    monkeypatch.setattr(AutoencoderKL, "decode", fail)
    monkeypatch.setattr("ovseg.towers.clip.view_features", fail)


def test_kept_analyses_give_the_same_labels_without_the_networks(
    label: list[str],
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(batch, "LONG_RUN_SECONDS", 0)
    monkeypatch.setattr(batch, "LONG_IMAGE_SECONDS", 0)
    kept, other = tmp_path / "kept", ["--classes", "grass,house,boat", "--background", "none"]
    assert main([*label, "--out", str(kept), "--keep-analysis"]) == 0
    assert main([*label, *other, "--out", str(tmp_path / "direct")]) == 0
    assert capsys.readouterr().err.count("an image on this CPU") == 2
    analyses = {name: content for name, content in files(kept).items() if name.endswith(".safetensors")}
    assert analyses.keys() == {"a.safetensors", "sub/b.safetensors"}
    assert {name: content for name, (_, content) in files(kept).items() if name not in analyses} == {
        name: content for name, (_, content) in files(labelled).items()
    }
    no_models(monkeypatch)
    with pytest.raises(pytest.fail.Exception, match="a network saw the image"):
        main([*label, *other, "--out", str(tmp_path / "none")])

    # From another run's folder ...
    assert main([*label, *other, "--analyses", str(kept), "--out", str(tmp_path / "again")]) == 0
    direct = {name: content for name, (_, content) in files(tmp_path / "direct").items()}
    assert {name: content for name, (_, content) in files(tmp_path / "again").items()} == direct
    # ... and in place: analyses that are there are used, and not written again.
    assert main([*label, *other, "--out", str(kept), "--keep-analysis", "--overwrite"]) == 0
    assert files(kept) == {name: files(kept)[name] for name in direct} | analyses
    assert {name: files(kept)[name][1] for name in direct} == direct
    assert "an image on this CPU" not in capsys.readouterr().err  # there is nothing that takes long


def test_kept_analyses_can_be_copied_on(label: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*label, "--out", str(tmp_path / "one"), "--keep-analysis"]) == 0
    no_models(monkeypatch)
    flags = ["--analyses", str(tmp_path / "one"), "--keep-analysis", "--out", str(tmp_path / "two")]
    assert main([*label, *flags]) == 0
    one, two = (files(tmp_path / name) for name in ("one", "two"))
    assert {name: content for name, (_, content) in one.items()} == {name: two[name][1] for name in two}


def test_analyses_that_do_not_fit_are_refused_by_name(
    scenes: Path, label: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    assert main([*label, "--out", str(kept), "--keep-analysis"]) == 0
    flags = [*label, "--analyses", str(kept)]
    assert main([*flags, "--masks", "4", "--out", str(tmp_path / "other")]) == 2
    assert f"--analyses: {kept}: made with other settings (options.masks 3 instead of 4)" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    Image.new("RGB", (60, 40)).save(scenes / "a.png")
    (kept / "sub/b.safetensors").write_bytes(b"half a file")
    assert main([*flags, "--out", str(tmp_path / "third")]) == 1
    told = capsys.readouterr().err
    assert f"{kept}/a.safetensors: the kept analysis does not fit: image_sha256" in told
    assert f"{kept}/sub/b.safetensors: not a saved analysis" in told
    # In the run's own folder they give way.
    assert main([*label, "--out", str(kept), "--keep-analysis", "--overwrite"]) == 0
    assert Analysis.load(kept / "sub/b.safetensors").segments.shape == (32, 32)
    assert main([*label, "--analyses", str(tmp_path / "nowhere"), "--out", str(tmp_path / "fourth")]) == 2
    assert f"--analyses: {tmp_path}/nowhere: no run folder" in capsys.readouterr().err


def test_masks_and_rows_say_what_was_segmented(labelled: Path) -> None:
    for id in ("a", "sub/b"):
        facts = json.loads((labelled / f"{id}.json").read_text())
        masks, labels = (read_index_png(labelled / f"{id}{suffix}") for suffix in (".masks.png", ".png"))
        assert masks.shape == labels.shape == (facts["height"], facts["width"])
        assert [row["mask"] for row in facts["masks"]] == np.unique(masks).tolist()
        for row in facts["masks"]:
            here = masks == row["mask"]
            assert set(row) == {"mask", "class", "score", "pixels"}
            assert here.sum() == row["pixels"] and set(labels[here].tolist()) == {row["class"]}
            assert 0 < row["score"] < 1
        for row in facts["classes"]:  # the score of a class is that of its masks, by pixels
            mine = [mask for mask in facts["masks"] if mask["class"] == row["index"]]
            assert sum(mask["pixels"] for mask in mine) == row["pixels"]
            if mine:
                mean = sum(mask["pixels"] * mask["score"] for mask in mine) / row["pixels"]
                assert abs(mean - row["score"]) < 2e-6


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["label", "IMAGE", "--classes", "cat,cat"], "'cat' was given before"),
        (["label", "IMAGE", "--classes", "cat,,dog"], "empty name"),
        (["label", "IMAGE", "--classes-file", "/no/such/list"], "/no/such/list"),
        (["label", "/no/such/image.png", "--classes", "cat"], "/no/such/image.png: no such file or folder"),
        (["label", "IMAGE", "--classes", "cat", "--background", "threshold=2"], "threshold=T"),
        (["label", "IMAGE", "--classes", "cat", "--preset", "sd15"], "no preset 'sd15'"),
        (["label", "IMAGE", "--classes", "cat", "--diffusion", "DIFFUSION"], "--clip: missing"),
        (["label", "IMAGE", "--classes", "cat", "--diffusion", "D", "--clip", "C", "--preset", "pocket"], "--preset"),
        (["masks", "IMAGE", "--diffusion", "/no/such"], "/no/such: no such folder"),
        (["masks", "IMAGE", "--diffusion", "DIFFUSION", "--masks", "0"], "--masks: expected at least 1"),
        (["masks", "IMAGE", "--diffusion", "DIFFUSION", "--device", "tpu"], "--device: 'tpu' cannot be used here"),
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
    for part in ("CompVis/stable-diffusion-v1-4", "timm/vit_base_patch16", "models fetch", "--preset photo"):
        assert part in failed.stderr


def test_models_lists_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["sd14-vitb16 (default)", "photo", "pocket"]
    assert all(row[1] in ("yes", "no") and row[2].endswith(" MB") for row in rows)
    assert rows[2][1:3] == ["yes", f"{PRESETS['pocket'].megabytes} MB"]
    assert main(["models", "fetch", "nothing"]) == 2


def test_models_towers_lists_what_is_known_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "towers"]) == 0
    rows = {row[0]: row[1:] for row in (line.split("\t") for line in capsys.readouterr().out.splitlines())}
    assert rows["SigLIP, SigLIP 2"][2:] == ["attention pool", "maskclip, maskclip-plain", "mean, soft, head", "sigmoid"]
    assert rows["EVA01, EVA02"] == [
        "14, 16",
        "224, 336",
        "class token",
        "all but elf, sc-clip",
        "mean, soft",
        "softmax",
    ]
    assert rows["ViT (OpenAI, LAION, MetaCLIP, DFN)"][3] == "all" and len(rows) > 10


def test_a_long_run_says_how_long_before_it_starts(
    scenes: Path,
    diffusion: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "LONG_RUN_SECONDS", 0)
    monkeypatch.setattr(batch, "LONG_IMAGE_SECONDS", 0)
    flags = ["--by", "naive", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["masks", str(scenes), *diffusion, *flags]) == 0
    *before, after = capsys.readouterr().err.splitlines()
    assert before[0].startswith("device: cpu") and "an image on this CPU" in before[-1]
    assert after.startswith("results in ")


def test_real_photos_run_with_the_embedded_models_from_anywhere(tmp_path: Path) -> None:
    photos = {"chelsea": (300, 451), "astronaut": (512, 512), "coffee": (400, 600)}
    (tmp_path / "photos").mkdir()
    for name in photos:
        Image.fromarray(getattr(skimage.data, name)()).save(tmp_path / f"photos/{name}.png")
    flags = ["--classes", "cat,sky", "--preset", "pocket", "--masks", "4", "--steps", "5", "--out", "out"]
    nowhere = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = ovseg("label", "photos", *flags, cwd=tmp_path, **nowhere)
    assert done.returncode == 0, done.stderr
    assert "warning: the pocket models only know their own emoji world" in done.stderr
    for name, size in photos.items():
        labels = read_index_png(tmp_path / f"out/{name}.png")
        assert labels.shape == size and labels.max() <= 2


def test_a_class_file_given_as_class_names_is_a_mistake(
    scenes: Path, models: list[str], tmp_path: Path, capsys
) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("cat\n", encoding="utf-8")
    for flag, value, said in (
        ("--classes", names, f"--classes: {names}: this is a file; --classes-file reads names from it"),
        ("--classes-file", tmp_path / "no.txt", "no.txt: no such file"),
    ):
        assert main(["label", str(scenes), flag, str(value), *models, "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err


def test_a_list_of_classes_may_be_longer_than_a_file_name(
    scenes: Path, models: list[str], tmp_path: Path, capsys
) -> None:
    names = ",".join(f"thing{number}" for number in range(100))
    assert main(["label", str(scenes / "no.png"), "--classes", names, *models, "--out", str(tmp_path / "out")]) == 2
    assert "no.png" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")])
@pytest.mark.parametrize("where", ["load_state_dict", "to"])
def test_models_too_large_for_the_memory_are_one_line(
    label: list[str], tmp_path: Path, where: str, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(UNet2DConditionModel, where, fail)
    assert main([*label, "--out", str(tmp_path / "out")]) == 2
    assert "ovseg: error: out of memory; --dtype float16 takes half of it" in capsys.readouterr().err


def test_flags_are_taken_in_full_alone(scenes: Path, models: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["label", str(scenes), "--classes", "cat", "--over", *models])
    assert ended.value.code == 2 and "--over" in capsys.readouterr().err


def test_one_image_can_be_done_again_without_losing_the_others(
    scenes: Path, label: list[str], models: list[str], tmp_path: Path, capsys
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main([*label, *out]) == 0
    one = ["label", str(scenes / "a.png"), "--classes", "cat;kitten,sky", "--background", "none", *models, *out]
    assert main([*one, "--overwrite"]) == 0
    ids = json.loads((tmp_path / "out/run.json").read_text())["ids"]
    assert {id: entry["state"] for id, entry in ids.items()} == {"a": "done", "sub/b": "done"}
    assert main([*one, "--masks", "4", "--overwrite"]) == 0
    assert (
        "1 results of other images, by other settings or parts, are no longer part of the run"
        in capsys.readouterr().err
    )
    assert list(json.loads((tmp_path / "out/run.json").read_text())["ids"]) == ["a"]
