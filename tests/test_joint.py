"""One table over data sets: its rows, what it refuses, and all eight benchmarks rehearsed on tiny trees."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from dataset_trees import build_instances, build_tree

from ovseg.cli import main
from ovseg.eval.joint import ORDER, joint_table
from ovseg.eval.layouts import LAYOUTS
from ovseg.eval.protocols import protocol

ROOT = Path(__file__).parent.parent


def write_results(folder: Path, dataset: str, mIoU: float | None, **changes: Any) -> Path:
    """The results of a whole data set by NACLIP's rules, to the pixel."""
    images = LAYOUTS[dataset].expected or 3
    rules = asdict(protocol("naclip", dataset, pixel_exact=True))
    facts = {
        "dataset": dataset,
        "best_label": False,
        "by": "none",
        "view": {"variant": "naclip"},
        "metrics": {"mIoU": mIoU},
        "counts": {"scored": images, "dataset": images},
        "protocol": rules,
        "vocabulary": rules["classes"] or LAYOUTS[dataset].vocabulary,
        "classes": [{"name": "background" if LAYOUTS[dataset].background else "a"}],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(facts | changes), encoding="utf-8")
    return folder


def test_a_row_a_folder_and_the_published_rows_of_its_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for dataset, mIoU in (("voc21", 58.0), ("ade20k", 17.0)):
        write_results(tmp_path / "ours" / dataset, dataset, mIoU)
    part = {"counts": {"scored": 8, "dataset": 2000}, "by": "emerdiff"}
    write_results(tmp_path / "part", "ade20k", None, **part, protocol=asdict(protocol("tcl", "ade20k")))
    assert main(["eval", "table", str(tmp_path / "ours"), str(tmp_path / "part")]) == 0
    printed = capsys.readouterr().out
    assert "| run | masks | dense CLIP | protocol | voc21 | ade20k | mean |" in printed
    assert f"| {tmp_path / 'ours'} | none | naclip | naclip, pixel-exact | 58.00 | 17.00 | 37.50 |" in printed
    assert f"| {tmp_path / 'part'} | emerdiff | naclip | tcl |  | - (8 of 2000) |  |" in printed
    assert "(n of m): a part of the data set" in printed
    assert "| NACLIP, no PAMR | naclip | 58.90 | 17.40 | 38.15 |" in printed and "SCLIP, its" not in printed
    write_results(tmp_path / "ours/voc21", "voc21", 58.0, partial=True)
    assert [row[2:] for row in (joint_table([tmp_path / "ours"]).below or pytest.fail()).rows] == [["", "17.40", ""]]
    shutil.rmtree(tmp_path / "ours/ade20k")
    alone = joint_table([tmp_path / "ours"])
    assert alone.below is None and "--pixel-exact" in alone.notes[-1]
    assert [*alone.header[-2:], *alone.rows[0][-1:]] == ["protocol", "voc21", "58.00 (1449 of 1449)"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"best_label": True}, "best_label: expected false, got true"),
        ({"counts": {"scored": 3}}, "counts.dataset: missing"),
        ({"metrics": {"mIoU": 101}}, "metrics.mIoU: expected a number from 0 to 100"),
        ({"protocol": "naclip"}, "protocol: expected an object with a name or null, got 'naclip'"),
        ({"by": 3}, "by: expected"),
    ],
)
def test_damaged_results_are_one_line(
    changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_results(tmp_path / "run", "ade20k", 1.0, **changes) / "results.json"
    assert main(["eval", "table", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert f"{path}: not the results of a run: " in said and words in said and said.count("\n") == 1


def test_folders_without_results_and_twice_the_same_set_are_refused(tmp_path: Path) -> None:
    for folder, words in ((tmp_path / "no", "no such folder"), (tmp_path, "no results.json in it or one folder below")):
        with pytest.raises(ValueError, match=words):
            joint_table([folder])
    for name in ("a", "b"):
        write_results(tmp_path / name, "ade20k", 1.0)
    with pytest.raises(ValueError, match=r"b/results.json: a second result of ade20k in"):
        joint_table([tmp_path])
    assert len(joint_table([tmp_path / "a", tmp_path / "b"]).rows) == 2


@pytest.mark.slow
def test_converted_labels_and_outlines_make_a_row_as_well(
    tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = {name: build_tree(name, tmp_path, raw=False) for name in ("coco-stuff171", "cityscapes")}
    roots["coco-object"] = build_instances(tmp_path)
    rules = ["--by", "none", "--dense", "naclip", "--protocol", "naclip", "--pixel-exact", "--partial", "--score"]
    for name, root in roots.items():
        where = [
            "--root",
            str(root),
            "--clip",
            str(tiny_clip),
            "--device",
            "cpu",
            "--out",
            str(tmp_path / "runs" / name),
        ]
        assert main(["eval", "predict", name, *where, *rules]) == 0
    capsys.readouterr()
    assert main(["eval", "table", str(tmp_path / "runs")]) == 0
    header, _, row = capsys.readouterr().out.splitlines()[2:5]
    assert header.endswith("| coco-object | coco-stuff171 | cityscapes | mean |")
    assert all(f"(3 of {number}) |" in row for number in (5000, 500))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_all_eight_benchmarks_killed_resumed_and_in_one_table(tiny_clip: Path, tmp_path: Path) -> None:
    """`make benchmarks` as docs/BENCHMARKS.md has it, on trees of three images and a random CLIP, in the places of
    mmsegmentation's guide."""
    for name in ORDER:
        tree = build_tree(name, tmp_path / "trees")
        shutil.copytree(tree, tmp_path / "data" / LAYOUTS[name].home, dirs_exist_ok=True)
    flags = f"--partial --clip {tiny_clip} --device cpu"
    command = ["make", "-f", str(ROOT / "Makefile"), "-o", ".venv/installed", "benchmarks", "FAMILY=naclip"]
    command += [f"BIN={Path(sys.executable).parent}", f"DATA={tmp_path / 'data'}", f"FLAGS={flags}"]
    runs = tmp_path / "runs/naclip-naclip-none"
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 300
        while not list(runs.glob("coco-object/*.png")) and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
        assert first.wait() != 0, (tmp_path / "log").read_text()
    assert (runs / "voc21/results.json").is_file() and not (runs / "ade20k").exists()
    before = {path: path.stat().st_mtime_ns for path in runs.glob("voc21/2007*.png")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(before) == 3 and before == {path: path.stat().st_mtime_ns for path in before}
    table = done.stdout.rpartition("## mIoU over data sets")[2].splitlines()
    assert table[2] == f"| run | masks | dense CLIP | protocol | {' | '.join(ORDER)} | mean |"
    cells = table[4].strip("| ").split(" | ")
    assert cells[:4] == ["runs/naclip-naclip-none", "none", "naclip", "naclip, pixel-exact"]
    expected = [LAYOUTS[name].expected for name in ORDER]
    assert [cell.partition(" ")[2] for cell in cells[4:12]] == [f"(3 of {number})" for number in expected]
    assert all(0 <= float(cell.split()[0]) <= 100 for cell in cells[4:])
