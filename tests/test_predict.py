"""Predicting data sets as a user does, over small trees in each set's own format with tiny models."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import CONVERTED, FOLDER_SETS, SIZES, TABLES, build_tree, painted, tree_ids
from processes import run_here
from sklearn.metrics import confusion_matrix

from emerdiff import EmerDiff
from ovseg.analysis import Analysis
from ovseg.cli import main
from ovseg.eval.datasets import open_dataset
from ovseg.eval.oracle import BY
from ovseg.files import read_index_png
from ovseg.masks import superpixels
from ovseg.run.folder import read_run
from ovseg.towers.clip import Clip
from ovseg.towers.variants import VARIANTS

ROOT = Path(__file__).parent.parent
QUICK = ("--masks", "3", "--steps", "5")


@pytest.fixture(scope="session")
def models(tiny_diffusion: Path, tiny_clip: Path) -> list[str]:
    """Flags for the tiny models."""
    return ["--diffusion", str(tiny_diffusion), "--clip", str(tiny_clip), *QUICK]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ovseg", "eval", *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def evaluate_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_here("eval", *arguments)


def in_process_of_its_own(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `ovseg eval ...` as a process of its own."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, env=environment())


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def facts(folder: Path) -> dict:
    return read_run(folder).facts


@pytest.mark.parametrize("name", FOLDER_SETS)
def test_every_data_set_is_predicted_and_scored(name: str, tmp_path: Path, models: list[str]) -> None:
    root, out = build_tree(name, tmp_path), tmp_path / "out"
    by = "none" if name in ("voc21", "coco-stuff171") else "emerdiff"
    evaluate = in_process_of_its_own if name == "custom" else evaluate_here
    done = evaluate("predict", name, "--root", root, "--out", out, "--limit", 2, "--by", by, *models)
    assert done.returncode == 0, done.stderr
    done = evaluate("score", name, "--root", root, "--predictions", out)
    assert done.returncode == 0, done.stderr
    assert "2 of" in done.stdout and f"| {by} |" in done.stdout

    found, record = results(out), json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert found["counts"]["scored"] == 2 and len(found["classes"]) == len(record["names"])
    assert found["protocol"]["name"] == ("native" if name in ("camvid", "custom") else "sclip")
    if name == "coco-object":  # sclip's background words hold bed, which is a class here, and they keep it
        assert {"bed", "sky"} <= set(record["protocol"]["background"]["words"])
    ids = tree_ids(name)[:2]
    assert sorted(record["ids"]) == ids
    if name not in TABLES:  # the 27 super-categories have a test of their own
        return
    if name in CONVERTED:  # the same predictions against labels that lie about converted
        converted, scored = build_tree(name, tmp_path / "converted", raw=False), tmp_path / "scored"
        flags = ["--root", converted, "--predictions", out, "--out", scored]
        assert main(["eval", "score", name, *map(str, flags)]) == 0
        assert results(scored)["confusion"] == found["confusion"]
    labels = len(record["names"])
    truth = [np.vectorize(TABLES[name].__getitem__)(painted(name, number)) for number in range(2)]
    given = [read_index_png(out / f"{id}.png") for id in ids]
    assert [one.shape for one in given] == list(SIZES[:2])
    valid = np.concatenate([one.ravel() != 255 for one in truth])
    flat_truth, flat_given = (np.concatenate([one.ravel() for one in maps])[valid] for maps in (truth, given))
    expected = confusion_matrix(flat_truth, flat_given, labels=range(labels))
    assert np.array_equal(np.array(found["confusion"])[:, :labels], expected)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, models: list[str]) -> Path:
    """Three tuning scenes predicted with EmerDiff's masks, their analyses kept."""
    out = tmp_path_factory.mktemp("kept") / "run"
    assert predict(out, *models, "--keep-analysis") == 0
    return out


def predict(out: Path, *flags: object) -> int:
    scenes = ["eval", "predict", "pocket", "--root", "tuning/5", "--limit", "3", "--out", str(out)]
    return main([*scenes, *map(str, flags)])


@pytest.mark.parametrize("by", BY)
def test_kept_analyses_give_what_a_fresh_run_gives(
    by: str, kept: Path, tmp_path: Path, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ["--by", by, *(["--masks-from", kept] if by == "files" else [])]
    own = by in ("attention", "diffcut")  # whose masks are not among what EmerDiff keeps
    assert predict(tmp_path / "fresh", *models, *source, *(["--keep-analysis"] if own else [])) == 0
    kept = tmp_path / "fresh" if own else kept
    monkeypatch.setattr(EmerDiff, "segment", None)  # no diffusion from here on
    monkeypatch.setattr(Clip, "dense_features", None)
    assert predict(tmp_path / "again", *models, *source, "--analyses", kept) == 0
    assert predict(tmp_path / "unnamed", *source, "--analyses", kept) == 0  # models and settings are that run's
    for path in (tmp_path / "fresh").glob("*.png"):
        for folder in ("again", "unnamed"):
            assert (tmp_path / folder / path.name).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "again").glob("*.masks.png"))) == (0 if by == "none" else 3)
    assert facts(tmp_path / "again") == facts(tmp_path / "fresh")


def test_sources_differ_in_their_masks_alone(kept: Path, tmp_path: Path, models: list[str]) -> None:
    sources = ("emerdiff", "naive", "slic", "truth")
    for by in sources:
        assert predict(tmp_path / by, *models, "--by", by, "--analyses", kept) == 0
    for id in json.loads((kept / "run.json").read_text())["ids"]:
        analysis = Analysis.load(kept / f"{id}.safetensors")
        assert np.array_equal(read_index_png(kept / f"{id}.masks.png"), analysis.segments)
        naive = read_index_png(tmp_path / "naive" / f"{id}.masks.png")
        grid = analysis.evidence["low_resolution_masks"]
        step = 128 // grid.shape[0]
        assert (naive[step // 2 :: step, step // 2 :: step] == grid).mean() > 0.9
        for folder in (kept, *(tmp_path / by for by in sources)):
            segments, labels = read_index_png(folder / f"{id}.masks.png"), read_index_png(folder / f"{id}.png")
            pairs = set(zip(segments.ravel().tolist(), labels.ravel().tolist(), strict=True))
            assert len(pairs) == len(np.unique(segments))  # one label a mask


@pytest.mark.parametrize(("by", "method"), [("none", "maskclip"), ("naive", "maskclip+naive")])
def test_a_run_of_the_former_release_goes_on(
    by: str, method: str, kept: Path, tmp_path: Path, models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = [*models, "--by", by, "--analyses", kept]
    assert predict(out, *flags) == 0
    record, before = json.loads((out / "run.json").read_text()), {path: path.read_bytes() for path in out.glob("*.png")}
    del record["by"]  # as it was written then
    former = {
        **record,
        "method": method,
        "options": record["options"] and {**record["options"], "upsampling": "modulated"},
    }
    (out / "run.json").write_text(json.dumps(former), encoding="utf-8")
    min(before).unlink()
    capsys.readouterr()
    assert predict(out, *flags) == 0
    assert "2 of 3 images are finished already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.glob("*.png")} == before
    assert json.loads((out / "run.json").read_text())["by"] == by
    (out / "run.json").write_text(json.dumps({**former, "method": "maskclip+slic"}), encoding="utf-8")
    assert predict(out, *flags) == 2
    assert f'run.json was made with other settings (by "slic" and "{by}"' in capsys.readouterr().err


def test_true_masks_are_the_classes_of_the_labels(kept: Path, tmp_path: Path, models: list[str]) -> None:
    out = tmp_path / "truth"
    assert predict(out, *models, "--by", "truth", "--analyses", kept) == 0
    dataset = open_dataset("pocket", "tuning/5")
    for id in dataset.ids[:3]:
        masks, truth = read_index_png(out / f"{id}.masks.png"), dataset.truth(id)
        pairs = set(zip(masks.ravel().tolist(), truth.ravel().tolist(), strict=True))
        assert len(pairs) == len(np.unique(truth)) == len(np.unique(masks)) > 1


def test_another_vocabulary_or_view_does_not_pass_for_a_kept_one(
    kept: Path, tmp_path: Path, models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(tmp_path / "a", *models, "--analyses", kept, "--dense", "maskclip-plain") == 2
    assert 'other settings (view.variant "maskclip" instead of "maskclip-plain")' in capsys.readouterr().err
    assert predict(tmp_path / "b", *models[:4], "--masks", "4", "--steps", "5", "--analyses", kept) == 2
    assert "other settings (options.masks 3 instead of 4)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_overwriting_a_run_replaces_analyses_that_do_not_fit(kept: Path, tmp_path: Path, models: list[str]) -> None:
    for flags in ((), ("--overwrite", "--dense", "clearclip")):
        assert predict(tmp_path / "run", *models, "--keep-analysis", *flags) == 0
    one = next((tmp_path / "run").glob("*.safetensors"))
    assert Analysis.load(one).origin.view["variant"] == "clearclip"
    assert Analysis.load(kept / one.name).origin.view["variant"] == "maskclip"


def test_shards_score_as_the_whole(kept: Path, tmp_path: Path, models: list[str]) -> None:
    for shard in ("1/2", "2/2"):
        assert predict(tmp_path / "parts", *models, "--shard", shard) == 0
    for folder in (kept, tmp_path / "parts"):
        out = ["--out", str(tmp_path / f"scored-{folder.name}")]
        assert main(["eval", "score", "pocket", "--root", "tuning/5", "--predictions", str(folder), *out]) == 0
    whole, parts = (results(tmp_path / f"scored-{folder}") for folder in ("run", "parts"))
    assert parts["confusion"] == whole["confusion"] and parts["metrics"] == whole["metrics"]


@pytest.mark.slow
def test_processes_launched_together_share_the_images_and_print_one_table(
    kept: Path, tmp_path: Path, models: list[str]
) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29611", "-m"]
    arguments = ["ovseg", "eval", "predict", "pocket", "--root", "tuning/5", "--limit", "3", "--score"]
    done = subprocess.run(
        [*launch, *arguments, "--out", str(tmp_path / "run"), *models],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mIoU") >= 1 and done.stdout.count("3 of 200") == 1
    assert {path.name for path in (tmp_path / "run").glob("run*.json")} == {"run-1-of-2.json", "run-2-of-2.json"}
    for path in kept.glob("*.png"):
        assert (tmp_path / "run" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--limit", "0"), "--limit"),
        (("--protocol", "sclip"), "pocket has no protocol 'sclip', expected one of native"),
        (("--vocabulary", "voc20"), "--vocabulary: voc20 has 20 classes, pocket has 58"),
        (("--method", "maskclip", "--by", "none"), "--by: given with --method, which is its former spelling"),
        (
            ("--by", "watershed"),
            "--by: no mask source 'watershed', expected one of emerdiff, naive, attention, diffcut, slic, none, files",
        ),
        (("--by", "files"), "--masks-from: missing; by files needs the folder"),
        (("--by", "files", "--masks-from", "/nowhere"), "--masks-from: /nowhere: no such folder"),
        (("--masks-from", "nowhere"), "--masks-from: is for by files, got by emerdiff"),
        (("--analyses", "nowhere"), "nowhere: no run folder"),
        (("--score", "--shard", "1/2"), "--score: a shard alone cannot be scored"),
        (("--shard", "3/2"), "--shard: expected i/n"),
        (("--root", "exam/0"), "--root: pocket: world3 has the splits"),
    ],
)
def test_mistakes_cost_one_line_and_leave_nothing(
    flags: tuple[str, ...], said: str, tmp_path: Path, models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(tmp_path / "out", *models, *flags) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_dense_variant_can_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        predict(tmp_path / "out", "--dense", "clip")
    assert "--dense: invalid choice: 'clip'" in (said := capsys.readouterr().err)
    assert all(name in said for name in VARIANTS)


@pytest.mark.parametrize("count", [4, 20])
def test_superpixels_are_about_as_many_as_asked_for(count: int) -> None:
    ramp = np.linspace(0, 255, 96)[:, None, None] * np.linspace(0, 1, 128)[None, :, None]
    image = np.broadcast_to(ramp, (96, 128, 3)).astype(np.uint8)
    segments = superpixels(image, count)
    assert segments.shape == (96, 128) and abs(len(np.unique(segments)) - count) <= count // 4
    assert segments.min() == 0 and segments.max() + 1 == len(np.unique(segments))


@pytest.mark.slow
def test_twenty_kills_change_no_count(tmp_path: Path, models: list[str]) -> None:
    scenes = ("pocket", "--root", "tuning/6", "--limit", 30)
    assert in_process_of_its_own("predict", *scenes, "--out", tmp_path / "whole", *models).returncode == 0
    moments = random.Random(0)
    for _ in range(20):
        running = subprocess.Popen(
            command("predict", *scenes, "--out", tmp_path / "killed", *models), env=environment()
        )
        time.sleep(moments.uniform(2, 9))
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert in_process_of_its_own("predict", *scenes, "--out", tmp_path / "killed", *models).returncode == 0
    for folder in ("whole", "killed"):
        assert in_process_of_its_own("score", *scenes[:3], "--predictions", tmp_path / folder).returncode == 0
    assert results(tmp_path / "killed")["confusion"] == results(tmp_path / "whole")["confusion"]
    assert not list((tmp_path / "killed").rglob(".*"))
