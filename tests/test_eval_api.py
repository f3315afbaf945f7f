"""Evaluation from Python: `ovseg.eval.predict` and `ovseg.eval.score`."""

from __future__ import annotations

import doctest
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_predict import facts
from test_score import DATASET, LABELS, MASKS, write_run
from test_unsupervised import save_tree

from ovseg import eval as evaluation
from ovseg.cli import main
from ovseg.eval import api
from ovseg.eval.prediction import PredictJob
from ovseg.presets import Preset
from ovseg.run.folder import RunFolder
from ovseg.setup import Setup

QUICK = {"masks": 3, "steps": 5}


@pytest.fixture(scope="module")
def tiny(tiny_diffusion: Path, tiny_clip: Path) -> Preset:
    return Preset(name="", diffusion=str(tiny_diffusion), clip=str(tiny_clip))


@pytest.mark.parametrize("name", ["predict", "score"])
def test_the_examples_of_the_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestFinder(recurse=False).find(getattr(api, name), name)[0]
    assert len(test.examples) >= 3
    # What a run says of its images while it goes on stands before the result: examples show the results alone.
    checker = _LastLines()
    found = doctest.DocTestRunner(checker=checker, verbose=False).run(test)
    assert found.attempted == len(test.examples) and found.failed == 0


class _LastLines(doctest.OutputChecker):
    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return got.endswith(want) if want else True


def test_importing_evaluation_loads_no_torch_and_scoring_does_not_either(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", LABELS)
    code = f"""
import sys, ovseg.eval
assert not [name for name in ("torch", "sklearn", "ovseg.eval.api") if name in sys.modules]
assert {{"predict", "score"}} <= set(dir(ovseg.eval))
try:
    ovseg.eval.score("custom", {str(run)!r}, {str(tmp_path / "nowhere")!r})
except ValueError as error:
    print(error)
assert "torch" not in sys.modules
from ovseg.cli import main
assert main(["eval", "score", "custom", "--root", {str(tmp_path / "nowhere")!r}, "--predictions", {str(run)!r}]) == 2
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"root: {tmp_path / 'nowhere'}: no such folder\n"


def test_predict_is_the_command_in_python(tmp_path: Path, tiny: Preset) -> None:
    tree, command = save_tree(tmp_path / "mine"), tmp_path / "command"
    models = ["--diffusion", tiny.diffusion, "--clip", tiny.clip, "--masks", "3", "--steps", "5"]
    flags = ["--root", str(tree), "--limit", "2", "--by", "naive", "--dense", "clearclip", "--out", str(command)]
    assert main(["eval", "predict", "custom", *flags, *models]) == 0
    for number, preset in enumerate((tiny, Setup(tiny, dense="clearclip", settings={"masks": 7}))):
        out = tmp_path / str(number)
        run = evaluation.predict(
            "custom", tree, out=out, preset=preset, by="naive", dense="clearclip", limit=2, **QUICK
        )
        assert isinstance(run, RunFolder) and run.path == out and run.done == ["sub/0", "sub/1"]
        assert run.facts == facts(command)
        for path in command.rglob("*.png"):
            assert (out / path.relative_to(command)).read_bytes() == path.read_bytes()


def test_a_run_kept_in_python_brings_models_and_settings_to_the_next(tmp_path: Path, tiny: Preset) -> None:
    tree = save_tree(tmp_path / "mine")
    run = evaluation.predict("custom", tree, out=tmp_path / "a", preset=tiny, keep_analysis=True, **QUICK)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = evaluation.predict("custom", tree, out=tmp_path / "b", by="slic", analyses=run)
    assert again.facts["by"] == "slic" and again.facts["options"]["masks"] == 3
    assert again.facts["models"] == {"clip": run.facts["models"]["clip"]}
    assert len(before) == 3 and {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    naive, plain = evaluation.score("custom", [again, run.path], tree, best_label=True)
    assert [one.run.path.name for one in (naive, plain)] == ["b", "a"]


def test_an_image_that_fails_is_in_the_run_and_the_run_is_not_scored(tmp_path: Path, tiny: Preset) -> None:
    tree = save_tree(tmp_path / "mine")
    (tree / "images" / "sub" / "1.png").write_bytes(b"no image")
    run = evaluation.predict("custom", tree, out=tmp_path / "run", preset=tiny, by="none", limit=3)
    assert run.done == ["sub/0", "sub/2"]
    assert run.ids["sub/1"]["state"] == "failed" and "1.png" in run.ids["sub/1"]["error"]
    with pytest.raises(ValueError, match=r"1 of 3 images are not done, such as sub/1 \(failed: "):
        evaluation.score("custom", run, tree)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"by": "sam"},
            "by: no mask source 'sam', expected one of emerdiff, naive, attention, diffcut, slic, none, files, truth",
        ),
        ({"limit": 0}, "limit: expected at least 1 image, got 0"),
        ({"dtype": "float8"}, "dtype: expected one of float32"),
        ({"masks": 0}, "masks: expected at least 1, got 0"),
        ({"masks": 5000}, "masks: at most "),
        ({"vocabulary": "voc20"}, "vocabulary: voc20 has 20 classes, custom has 3"),
        ({"by": "files"}, "masks_from: missing"),
        ({"analyses": "nowhere"}, "nowhere: no run folder"),
    ],
)
def test_a_mistake_is_a_value_error_and_leaves_nothing(more: dict, said: str, tmp_path: Path, tiny: Preset) -> None:
    tree = save_tree(tmp_path / "mine")
    with pytest.raises(ValueError, match=said):
        evaluation.predict("custom", tree, out=tmp_path / "out", preset=tiny, **more)
    assert not (tmp_path / "out").exists()


def test_a_job_can_be_sent_to_another_process(tmp_path: Path, tiny: Preset) -> None:
    job = PredictJob(Setup(tiny, by="none"), "pocket", "tuning/5", tmp_path, limit=2)
    sent = pickle.loads(pickle.dumps(job))
    assert sent == job and [item.id for item in sent.items] == list(job.dataset.ids[:2])
    assert pickle.loads(pickle.dumps(job)).rules == job.rules  # with what it has looked up by now


def custom(root: Path) -> Path:
    """The data set of `test_score` as files."""
    from PIL import Image

    for id, pixels in DATASET.maps.items():
        for folder, values in (("images", np.zeros((2, 2, 3))), ("labels", pixels)):
            (root / folder / id).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(root / folder / f"{id}.png")
    (root / "classes.txt").write_text("cat\ndog\n", encoding="utf-8")
    return root


def test_score_by_hand_writes_nothing_unless_asked_and_shows_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = custom(tmp_path / "mine")
    runs = [write_run(tmp_path / name, LABELS) for name in ("one", "two")]
    before = sorted(tmp_path.rglob("*"))
    one, two = evaluation.score("custom", runs, root)
    assert sorted(tmp_path.rglob("*")) == before and capsys.readouterr() == ("", "")
    assert one.metrics["mIoU"] == 75 and one.lead(two) == (0, 0, 0)  # worked out in test_score
    assert repr(one) == f"Scored({runs[0]}: custom, 2 of 2 images, mIoU 75.00)"
    for run in runs:
        write_run(run, MASKS, ".masks.png")
    for single in (runs[0], str(runs[0])):
        [best] = evaluation.score("custom", single, root, best_label=True, out=tmp_path / "out")
        assert best.metrics["mIoU"] == pytest.approx((200 / 3 + 80) / 2)
    assert capsys.readouterr() == ("", "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("best-label.json", "best-label-classes.csv", "best-label-images.csv"),
        *("best-label-table.md", "best-label-table.tex"),
    }
    written = json.loads((tmp_path / "out" / "best-label.json").read_text())
    assert written == json.loads(json.dumps(best.results()))
    with pytest.raises(ValueError, match="^runs: none given"):
        evaluation.score("custom", [], root)


def test_an_image_may_be_called_results_where_none_are_written(tmp_path: Path) -> None:
    root = custom(tmp_path / "mine")
    for folder in ("images", "labels"):
        (root / folder / "a.png").rename(root / folder / "results.png")
    run = write_run(tmp_path / "run", {"results": LABELS["a"]})
    [scored] = evaluation.score("custom", run, root)
    assert scored.ids == ("results",)
    with pytest.raises(ValueError, match="^out: .*results.json is the file of an image called 'results'"):
        evaluation.score("custom", run, root, out=run)
