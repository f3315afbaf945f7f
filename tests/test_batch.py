"""Inputs become ids, clashes are found beforehand, the run's record is true after every image."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ovseg.batch import LABEL_FILES, MASK_FILES, Item, Progress, Run, collect, prepare
from ovseg.terminal import PlainReport, RichReport, duration


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


class Silent(PlainReport):
    """A report that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def image_done(self, item: Item, summary: str, seconds: float) -> None:
        self.said.append(f"{item.id} {summary}")

    def image_failed(self, item: Item, error: str) -> None:
        self.said.append(f"{item.id} {error}")


def test_ids_are_paths_below_the_input_without_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "in/b.jpg", tmp_path / "in/sub/a.v2.PNG", tmp_path / "in/notes.txt", tmp_path / "in/.hidden.png")
    touch(tmp_path / "in/.git/x.png", tmp_path / "single.tiff")
    items = collect([tmp_path / "in", tmp_path / "single.tiff"], tmp_path / "out")
    assert [item.id for item in items] == ["b", "sub/a.v2", "single"]
    assert items[1].path == tmp_path / "in/sub/a.v2.PNG"


def test_the_output_folder_is_no_input(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "out/a.png", tmp_path / "out/a.overlay.png")
    assert [item.id for item in collect([tmp_path], tmp_path / "out")] == ["a"]


def test_run_folders_below_an_input_are_left_out_and_said(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "old/run.json", tmp_path / "old/a.png", tmp_path / "old/sub/b.png")
    said: list[str] = []
    assert [item.id for item in collect([tmp_path], tmp_path / "out", tell=said.append)] == ["a"]
    assert said == [f"left out, as results of other runs (they hold a run.json): {tmp_path / 'old'}"]
    assert [item.id for item in collect([tmp_path / "old"], tmp_path / "out")] == ["a", "sub/b"]  # asked for by name


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a.png", tmp_path / "locked/b.png")
    scandir = os.scandir

    def locked(path: str) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(PermissionError, match="locked"):
        collect([tmp_path], tmp_path / "out")


def test_the_same_file_twice_is_one_image(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    assert len(collect([tmp_path, tmp_path / "a.png"], tmp_path / "out")) == 1


def test_inputs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "one/a.png", tmp_path / "two/a.jpg", tmp_path / "same/b.png", tmp_path / "same/b.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"one/a.png and .*two/a.jpg would both be written as 'a'"):
        collect([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"b.jpg and .*b.png would both"):
        collect([tmp_path / "same"], tmp_path / "out")
    with pytest.raises(ValueError, match="empty: no images"):
        collect([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(ValueError, match="absent: no such file or folder"):
        collect([tmp_path / "absent"], tmp_path / "out")


def test_outputs_that_would_clash_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "in/run.jpg", tmp_path / "in2/a.png", tmp_path / "in2/a.overlay.jpg", tmp_path / "file")
    run, pair = collect([tmp_path / "in"], tmp_path / "out"), collect([tmp_path / "in2"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"run.json is also the file of the run's own record"):
        prepare(tmp_path / "out", run, LABEL_FILES)
    prepare(tmp_path / "out", run, MASK_FILES)  # masks write no run.json of an image's own
    with pytest.raises(ValueError, match=r"a.overlay.png is also the file of"):
        prepare(tmp_path / "out", pair, LABEL_FILES)
    with pytest.raises(ValueError, match="would replace this input image"):
        prepare(tmp_path / "in2", [item for item in pair if item.id == "a"], LABEL_FILES, overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        prepare(tmp_path / "file", pair[:1], LABEL_FILES)
    assert not (tmp_path / "out").exists()


def test_results_are_replaced_only_when_asked(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.png", tmp_path / "out/run.json", tmp_path / "other/a.json")
    items = collect([tmp_path / "in"], tmp_path / "out")
    for out in ("out", "other"):
        with pytest.raises(ValueError, match="already there; choose another --out, or --overwrite"):
            prepare(tmp_path / out, items, LABEL_FILES)
        assert prepare(tmp_path / out, items, LABEL_FILES, overwrite=True) == tmp_path / out


def test_a_bad_image_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    items = [Item(name, Path(f"{name}.png")) for name in ("a", "bad", "c")]
    states: list[list[str]] = []

    def work(item: Item, progress: Progress) -> str:
        record = json.loads((tmp_path / "run.json").read_text())
        states.append([entry["state"] for entry in record["ids"].values()])
        progress(1, 1)
        if item.id == "bad":
            raise ValueError("bad.png: truncated")
        return "cat 50%"

    report = Silent()
    assert Run(tmp_path, {"command": "label"}, 1.5).process(items, work, report) == 1
    assert report.said == ["a cat 50%", "bad bad.png: truncated", "c cat 50%"]
    assert states == [["pending"] * 3, ["done", "pending", "pending"], ["done", "failed", "pending"]]
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["command"] == "label" and record["protocol"] is None
    assert record["timings"]["loading_seconds"] == 1.5
    assert record["ids"]["bad"] == {"file": "bad.png", "state": "failed", "error": "bad.png: truncated"}
    assert {"ovseg", "torch", "python"} <= record["versions"].keys()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA: tried to allocate 9 GiB"), MemoryError()])
def test_an_image_too_large_for_the_memory_is_one_images_error(tmp_path: Path, error: Exception) -> None:
    def work(item: Item, progress: Progress) -> str:
        if item.id == "large":
            raise error
        return "fine"

    report = Silent()
    items = [Item("large", Path("large.png")), Item("small", Path("small.png"))]
    assert Run(tmp_path, {}).process(items, work, report) == 1
    assert report.said[0].startswith("large large.png: out of memory") and "--dtype float16" in report.said[0]
    assert report.said[1:] == ["small fine"]


def test_a_fault_of_ours_ends_the_run(tmp_path: Path) -> None:
    def work(item: Item, progress: Progress) -> str:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        Run(tmp_path, {}).process([Item("a", Path("a.png"))], work, Silent())
    assert json.loads((tmp_path / "run.json").read_text())["ids"]["a"]["state"] == "pending"


def test_reports_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    item = Item("sub/[red]cat[/red]", Path("x.png"))
    for make in (PlainReport, RichReport):
        with make() as report:
            report.image_started(1, 1, item)
            report.rows(3, 10)
            report.image_done(item, "cat 50%", 61.0)
            report.image_failed(item, "[odd] reason")
        printed = capsys.readouterr()
        shown = (printed.out + printed.err).replace("\n", " ")
        assert "sub/[red]cat[/red]" in shown and "[odd] reason" in shown and "1 min" in shown


@pytest.mark.parametrize(("seconds", "shown"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1 min"), (7200, "2.0 h")])
def test_durations_for_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
