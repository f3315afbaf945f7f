"""A run does what is left, keeps a true record, and ends in good order; clashes are found beforehand."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emerdiff.memory import is_out_of_memory
from ovseg.masks import Progress
from ovseg.precision import multiplies_quickly
from ovseg.result import masks_png
from ovseg.run import record as records
from ovseg.run.attempt import Outcome
from ovseg.run.batch import make_ready, process
from ovseg.run.folder import read_run
from ovseg.run.images import ANALYSIS, LABELS, MASKS, OVERLAY, SUMMARY
from ovseg.run.inputs import Item, collect, prepare
from ovseg.run.launch import Shard
from ovseg.run.record import Run
from ovseg.run.terminal import PlainReport, RichReport, duration, make_report
from ovseg.setup import Setup

LABEL_FILES = (SUMMARY, MASKS, OVERLAY, LABELS)
MASK_FILES = (OVERLAY, LABELS)
FILES = (".json", ".png")
SUMMARY_JSON = b'{"classes": [], "masks": []}'
FACTS = {"command": "label", "by": "emerdiff", "names": ["cat"], "options": {"masks": 3}}


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Ctrl-C interrupts, even where the tests were started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def write(path: Path) -> None:
    """A result that can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(masks_png(np.zeros((2, 3), int)) if path.suffix == ".png" else SUMMARY_JSON)


def images(*ids: str) -> list[Item]:
    return [Item(id, Path(f"/photos/{id}.jpg")) for id in ids]


def test_a_pipe_is_told_once_how_long_a_long_image_still_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([-1.0, 0.0, 4.0, 8.0, 12.0])  # the report begins; two rows in four seconds
    monkeypatch.setattr("ovseg.run.terminal.time.monotonic", lambda: next(now))
    report = PlainReport(0, 1)
    report.image_started(images("slow")[0])
    for done in (10, 12, 14):
        report.rows(done, 100)
    assert capsys.readouterr().err == "slow: about 3 min left\n"  # of 86 rows
    report.rows(16, 100)
    assert capsys.readouterr().err == ""


def writer(out: Path, *, bad: tuple[str, ...] = ()) -> Callable[[Item, Progress | None], str]:
    """Work that writes an image's files, and fails for the bad ones."""

    def work(item: Item, progress: Progress | None = None) -> str:
        if item.id in bad:
            raise ValueError(f"{item.path}: truncated")
        for suffix in FILES:
            write(out / f"{item.id}{suffix}")
        return "cat 50%"

    return work


class Silent(PlainReport):
    """A report that remembers."""

    def __init__(self) -> None:
        super().__init__(0, 9)
        self.said: list[str] = []
        self.asked = 0

    def image_ended(self, outcome: Outcome) -> None:
        self.said.append(f"{outcome.item.id} {outcome.error or outcome.summary}")

    def stopping(self) -> None:
        self.asked += 1


def go(out: Path, items: list[Item], *, bad: tuple[str, ...] = (), **settings: Any) -> list[str]:
    """One call of a command on these images; returns the ids it worked on."""
    shard = settings.get("shard")
    prepare(out, items, FILES, overwrite=settings.get("overwrite", False), shard=shard)
    run = Run(out, **{"facts": FACTS, "suffixes": FILES} | settings)
    todo = run.open(items)
    process(run, todo, writer(out, bad=bad), Silent())
    return [item.id for item in todo]


def states(folder: Path) -> dict[str, str]:
    return {id: entry["state"] for id, entry in read_run(folder).ids.items()}


def test_outputs_that_would_clash_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "in/run.jpg", tmp_path / "in2/a.png", tmp_path / "in2/a.overlay.jpg", tmp_path / "file")
    run, pair = collect([tmp_path / "in"], tmp_path / "out"), collect([tmp_path / "in2"], tmp_path / "out")
    for name in ("run", "run-2-of-3"):
        with pytest.raises(ValueError, match=rf"{name}\.json would have a record's name; rename it"):
            prepare(tmp_path / "out", images(name), LABEL_FILES, shard=Shard(1, 2))
    prepare(tmp_path / "out", run, MASK_FILES)  # masks write no run.json of an image's own
    with pytest.raises(ValueError, match=r"a.overlay.png is also the file of"):
        prepare(tmp_path / "out", pair, LABEL_FILES)
    with pytest.raises(ValueError, match="is a file"):
        prepare(tmp_path / "file", pair[:1], LABEL_FILES)
    assert not (tmp_path / "out").exists()


def test_no_result_replaces_an_input(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.png", tmp_path / "in/sub/b.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "in/sub")
    items = collect([tmp_path / "in"], tmp_path / "elsewhere")
    for out, id in (("in", "a"), ("link", "a"), ("out", "b")):
        with pytest.raises(ValueError, match=rf"{id}\.png: the result would replace this input image"):
            prepare(tmp_path / out, items, LABEL_FILES, overwrite=True)


def test_files_without_a_record_are_replaced_only_when_asked(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.png", tmp_path / "out/a.json")
    items = collect([tmp_path / "in"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"a\.json: already there, without .* choose another --out, or --overwrite"):
        prepare(tmp_path / "out", items, LABEL_FILES)
    assert prepare(tmp_path / "out", items, LABEL_FILES, overwrite=True) == tmp_path / "out"


def test_a_bad_image_is_reported_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(records.time, "monotonic", lambda: now[0])
    items = images("a", "bad", "c")
    seen: list[list[str]] = []

    def work(item: Item, progress: Progress | None = None) -> str:
        seen.append(list(states(tmp_path).values()))
        now[0] += 10  # seconds: time to write the record
        assert progress is not None
        progress(1, 1)
        if item.id == "bad":
            raise ValueError("bad.jpg: truncated")
        return "cat 50%"

    report = Silent()
    run = Run(tmp_path, FACTS, FILES, loading_seconds=1.5)
    assert process(run, run.open(items), work, report) == 1
    assert report.said == ["a cat 50%", "bad bad.jpg: truncated", "c cat 50%"]
    assert seen == [["pending"] * 3, ["done", "pending", "pending"], ["done", "failed", "pending"]]
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["command"] == "label" and record["options"] == {"masks": 3} and record["shard"] is None
    assert record["timings"]["loading_seconds"] == 1.5
    assert record["ids"]["bad"] == {"file": "/photos/bad.jpg", "state": "failed", "error": "bad.jpg: truncated"}
    assert {"ovseg", "torch", "python"} <= record["versions"].keys()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_an_image_too_large_for_the_memory_is_one_images_error(tmp_path: Path, error: Exception) -> None:
    def work(item: Item, progress: Progress | None = None) -> str:
        if item.id == "large":
            raise error
        return "fine"

    report, run = Silent(), Run(tmp_path, FACTS, FILES)
    assert process(run, run.open(images("large", "small")), work, report) == 1
    assert report.said[0].startswith("large /photos/large.jpg: out of memory") and "--dtype float16" in report.said[0]
    assert report.said[1:] == ["small fine"]


def test_torch_says_so_where_an_array_is_beyond_all_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [KeyError("bug"), RuntimeError("shapes differ")])
def test_a_fault_of_ours_ends_the_run(tmp_path: Path, error: Exception) -> None:
    def work(item: Item, progress: Progress | None = None) -> str:
        raise error

    run = Run(tmp_path, FACTS, FILES)
    with pytest.raises(type(error)):
        process(run, run.open(images("a")), work, Silent())
    assert states(tmp_path) == {"a": "pending"}


def test_what_is_finished_is_not_touched_and_the_rest_is_done(tmp_path: Path) -> None:
    assert go(tmp_path, images("a", "bad", "sub/c"), bad=("bad",)) == ["a", "bad", "sub/c"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.name != "run.json"}
    (tmp_path / "sub/c.png").unlink()
    assert go(tmp_path, images("a", "bad", "sub/c", "new")) == ["bad", "sub/c", "new"]
    assert {id: state for id, state in states(tmp_path).items()} == dict.fromkeys(["a", "bad", "sub/c", "new"], "done")
    assert all((tmp_path / f"a{suffix}").stat().st_mtime_ns == before[tmp_path / f"a{suffix}"] for suffix in FILES)
    assert go(tmp_path, images("a", "bad", "sub/c", "new")) == []


def test_images_of_earlier_calls_stay_in_the_record(tmp_path: Path) -> None:
    go(tmp_path, images("a", "bad"), bad=("bad",))
    seconds = json.loads((tmp_path / "run.json").read_text())["ids"]["a"]["seconds"]
    assert go(tmp_path, images("b")) == ["b"]
    assert states(tmp_path) == {"a": "done", "b": "done"}  # the failed one is no longer asked for
    assert json.loads((tmp_path / "run.json").read_text())["ids"]["a"]["seconds"] == seconds


def test_an_image_finished_just_before_a_kill_counts_though_the_record_does_not_say_so(tmp_path: Path) -> None:
    def work(item: Item, progress: Progress | None = None) -> str:
        raise KeyError("killed")

    run = Run(tmp_path, FACTS, FILES)
    with pytest.raises(KeyError):
        process(run, run.open(images("a", "b")), work, Silent())
    assert states(tmp_path) == {"a": "pending", "b": "pending"}
    for suffix in FILES:
        write(tmp_path / f"a{suffix}")
    assert go(tmp_path, images("a", "b")) == ["b"]
    assert states(tmp_path) == {"a": "done", "b": "done"}


def test_half_files_of_a_killed_process_are_removed_and_others_are_not(tmp_path: Path) -> None:
    go(tmp_path, images("sub/a", "odd\nname", "whole"))
    (tmp_path / "sub/a.png").unlink()
    (tmp_path / "odd\nname.png").unlink()
    half = [".run.json.77.tmp", "sub/.a.png.77.tmp", ".odd\nname.json.78.tmp"]
    other = [".whole.png.5.tmp", ".notes.tmp", "sub/.b.png.77.tmp"]  # of another process, or not ours at all
    touch(*(tmp_path / name for name in (*half, *other)))
    go(tmp_path, images("sub/a", "odd\nname", "whole"))
    assert [name for name in (*half, *other) if (tmp_path / name).exists()] == other


def test_a_run_goes_on_only_with_the_same_settings(tmp_path: Path) -> None:
    go(tmp_path, images("a"))
    changed = FACTS | {"options": {"masks": 4}}
    with pytest.raises(ValueError, match=r"run\.json was made with other settings \(options\.masks 3 and 4\); choose"):
        go(tmp_path, images("a"), facts=changed)
    assert go(tmp_path, images("a", "b"), facts=changed, overwrite=True) == ["a", "b"]
    assert read_run(tmp_path).facts["options"] == {"masks": 4}


def test_another_file_under_an_old_id_is_refused(tmp_path: Path) -> None:
    go(tmp_path, images("a"))
    other = [Item("a", Path("/other/a.jpg"))]
    with pytest.raises(ValueError, match=r"'a' was labelled from /photos/a\.jpg, not /other/a\.jpg; choose another"):
        go(tmp_path, other)
    (tmp_path / "a.png").unlink()  # nothing of the old file is taken for the new one's
    assert go(tmp_path, other) == ["a"] and read_run(tmp_path).ids["a"]["file"] == "/other/a.jpg"


def test_a_bad_file_may_be_replaced_by_one_of_another_kind(tmp_path: Path) -> None:
    go(tmp_path, images("a", "bad"), bad=("bad",))
    assert go(tmp_path, [*images("a"), Item("bad", Path("/photos/bad.png"))]) == ["bad"]


def test_overwriting_begins_anew_but_keeps_analyses(tmp_path: Path) -> None:
    go(tmp_path, images("a"))
    touch(tmp_path / "a.safetensors")
    keeping: dict[str, Any] = {"suffixes": (*FILES, ANALYSIS), "overwrite": True}
    run = Run(tmp_path, FACTS, **keeping)
    before = {path.name for path in tmp_path.iterdir()}
    todo = run.open(images("a"))
    assert [item.id for item in todo] == ["a"]
    assert {path.name for path in tmp_path.iterdir()} == before  # nothing is lost before the settings were looked at
    with run.recording(todo):
        assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "run.json"}


def test_overwriting_by_another_command_leaves_none_of_its_files(tmp_path: Path) -> None:
    go(tmp_path, images("a", "b"))
    for id in "ab":
        touch(tmp_path / f"{id}.masks.png")
    go(tmp_path, images("a"), overwrite=True)
    assert not (tmp_path / "a.masks.png").exists() and (tmp_path / "b.masks.png").exists()


def test_a_whole_run_takes_over_what_shards_did_of_other_images(tmp_path: Path, capsys) -> None:
    for number, id in enumerate("ab", 1):
        go(tmp_path, images(id), shard=Shard(number, 2))
    run = Run(tmp_path, FACTS, FILES, overwrite=True)
    todo = run.open(images("c"))
    assert [item.id for item in todo] == ["c"]
    with run.recording(todo):
        assert read_run(tmp_path).done == ["a", "b"]  # should the run be killed now, they are not lost
    assert go(tmp_path, images("c"), overwrite=True) == ["c"] and read_run(tmp_path).done == ["a", "b", "c"]
    changed = FACTS | {"options": {"masks": 4}}
    assert go(tmp_path, images("c"), facts=changed, overwrite=True) == ["c"] and read_run(tmp_path).done == ["c"]
    assert (
        "2 results of other images, by other settings or parts, are no longer part of the run"
        in capsys.readouterr().err
    )


def test_shards_do_their_own_images_and_read_as_the_whole(tmp_path: Path) -> None:
    items = images(*"abcdefg")
    worked = [go(tmp_path, Shard(i, 3).take(items), shard=Shard(i, 3)) for i in (1, 2, 3)]
    assert worked == [["a", "d", "g"], ["b", "e"], ["c", "f"]]
    assert read_run(tmp_path).done == list("abcdefg")
    assert json.loads((tmp_path / "run-2-of-3.json").read_text())["shard"] == [2, 3]
    assert go(tmp_path, Shard(2, 3).take(items), shard=Shard(2, 3)) == []


def test_images_added_to_shards_move_others_which_are_not_done_again(tmp_path: Path) -> None:
    few, more = images(*"bdfh"), images(*"abcdefgh")
    for shard in (Shard(1, 2), Shard(2, 2)):
        go(tmp_path, shard.take(few), shard=shard)
    assert go(tmp_path, Shard(1, 2).take(more), shard=Shard(1, 2)) == ["a", "c", "e", "g"]
    assert go(tmp_path, Shard(2, 2).take(more), shard=Shard(2, 2)) == []
    assert read_run(tmp_path).done == list("abcdefgh")


def test_whole_runs_and_shards_do_not_mix(tmp_path: Path) -> None:
    go(tmp_path / "whole", images("a"))
    go(tmp_path / "parts", images("a"), shard=Shard(1, 2))
    for folder, shard in (("whole", Shard(1, 2)), ("parts", None), ("parts", Shard(1, 3)), ("whole", Shard(1, 1))):
        with pytest.raises(ValueError, match=r"run.*\.json: the folder holds a run that is divided otherwise; choose"):
            prepare(tmp_path / folder, images("a"), FILES, shard=shard)
    assert go(tmp_path / "whole", images("a"), shard=Shard(1, 1), overwrite=True) == ["a"]
    assert go(tmp_path / "parts", images("a"), overwrite=True) == ["a"]
    assert [path.name for path in (tmp_path / "parts").glob("run*")] == ["run.json"]


def test_a_shard_with_other_settings_is_refused_at_once(tmp_path: Path) -> None:
    go(tmp_path, images("a"), shard=Shard(1, 2))
    changed = FACTS | {"options": {"masks": 4}}
    with pytest.raises(ValueError, match=r"run-1-of-2\.json was made with other settings \(options\.masks 3 and 4\)"):
        go(tmp_path, images("b"), shard=Shard(2, 2), facts=changed)
    # All shards of a new run overwrite together: none waits for the others' old records to go.
    for number, id in ((2, "b"), (1, "a")):
        assert go(tmp_path, images(id), shard=Shard(number, 2), facts=changed, overwrite=True) == [id]
    assert read_run(tmp_path).done == ["a", "b"]


def test_the_record_is_not_written_for_every_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [0.0], []

    def write_record(path: Path, data: bytes) -> None:
        written.append(now[0])
        now[0] += 0.5  # it takes half a second, as on a slow disk

    monkeypatch.setattr(records, "write_atomically", write_record)
    monkeypatch.setattr(records.time, "monotonic", lambda: now[0])

    def work(item: Item, progress: Progress | None = None) -> str:
        now[0] += 1
        return ""

    run = Run(tmp_path, FACTS, FILES)
    process(run, run.open(images(*map(str, range(60)))), work, Silent())
    # At the start, then 50 times as long after each as writing took, then at the end: 60 seconds of work, 2 of writing.
    assert written == [0.0, 25.5, 51.0, 61.5]


def test_the_first_interrupt_lets_the_image_at_hand_be_finished(tmp_path: Path) -> None:
    done, report, run = writer(tmp_path), Silent(), Run(tmp_path, FACTS, FILES)

    def work(item: Item, progress: Progress | None = None) -> str:
        if item.id == "b":
            signal.raise_signal(signal.SIGINT)
        return done(item, progress)

    with pytest.raises(KeyboardInterrupt):
        process(run, run.open(images("a", "b", "c")), work, report)
    assert report.said == ["a cat 50%", "b cat 50%"] and report.asked == 1
    assert states(tmp_path) == {"a": "done", "b": "done", "c": "pending"}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    def work(item: Item, progress: Progress | None = None) -> str:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return pytest.fail("went on")

    run = Run(tmp_path, FACTS, FILES)
    with pytest.raises(KeyboardInterrupt):
        process(run, run.open(images("a", "b")), work, Silent())
    assert states(tmp_path) == {"a": "pending", "b": "pending"}


def test_an_interrupt_during_the_last_image_is_no_failure(tmp_path: Path) -> None:
    def work(item: Item, progress: Progress | None = None) -> str:
        signal.raise_signal(signal.SIGINT)
        return ""

    run = Run(tmp_path, FACTS, FILES)
    assert process(run, run.open(images("a")), work, Silent()) == 0
    assert states(tmp_path) == {"a": "done"}


def test_names_too_long_for_a_file_are_that_images_error(tmp_path: Path) -> None:
    long = "n" * os.pathconf(tmp_path, "PC_NAME_MAX")
    for _ in range(2):  # the second time the folder is there
        assert go(tmp_path / "out", images("a", long), overwrite=True) == ["a", long]
        assert go(tmp_path / "out", images("a", long)) == [long]
        assert states(tmp_path / "out") == {"a": "done", long: "failed"}


def test_reports_show_names_as_they_are_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    item = Item("sub/[red]cat[/red]\n\x1b[2Jend", Path("x.png"))
    for make in (PlainReport, RichReport):
        with make(0, 1) as report:
            report.image_started(item)
            report.rows(3, 10)
            report.image_ended(Outcome(item, 61.0, "cat 50%"))
            report.image_ended(Outcome(item, 1.0, error="[odd] reason"))
        printed = capsys.readouterr()
        shown = (printed.out + printed.err).replace("\n", "").replace(" ", "")  # rich wraps lines
        assert r"sub/[red]cat[/red]\n\x1b[2Jend" in shown and "[odd]reason" in shown and "1min" in shown


def test_plain_lines_tell_what_is_finished_and_what_time_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 10.0, 20.0, 30.0])  # ten seconds an image
    monkeypatch.setattr("ovseg.run.terminal.time.monotonic", lambda: next(now))
    with make_report(2, 5) as report:
        for item in images("c", "d", "e"):
            report.image_started(item)
            report.image_ended(Outcome(item, 9.0, "cat 50%"))
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["2 of 5 images are finished already"]
    assert printed.out.splitlines() == [
        "[3/5] c: cat 50% (9.0 s, 20.0 s left)",
        "[4/5] d: cat 50% (9.0 s, 10.0 s left)",
        "[5/5] e: cat 50% (9.0 s)",
    ]


def test_bars_tell_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ovseg.run.terminal.time.monotonic", lambda: now[0])
    with RichReport(2, 5) as report:
        for item, rate in (("c", "60.0 s an image"), ("d", "40.0 s an image"), ("e", "30.0 s an image")):
            report.image_started(Item(item, Path("x.png")))
            now[0] = {"c": 60.0, "d": 80.0, "e": 90.0}[item]
            report.image_ended(Outcome(Item(item, Path("x.png")), 9.0, "cat 50%"))
            left = {"c": ", 2 min left", "d": ", 40.0 s left", "e": ""}[item]
            assert report._bars.tasks[0].fields["rate"] == rate.replace("60.0 s", "1 min") + left


@pytest.mark.parametrize(("seconds", "shown"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1 min"), (7200, "2.0 h")])
def test_durations_for_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("has_units", [True, False])
def test_a_cpu_that_is_slow_in_half_precision_says_so_before_the_work(
    dtype: str, has_units: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"):
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: has_units)
    make_ready(Setup.of("pocket", {"dtype": dtype, "device": "cpu"}), "clip")
    warned = f"warning: this CPU has no units for {dtype}: " in capsys.readouterr().err
    assert warned == (dtype != "float32" and not has_units)


def test_a_gpu_is_quick_in_half_precision() -> None:
    assert multiplies_quickly(torch.float16, "cuda")
