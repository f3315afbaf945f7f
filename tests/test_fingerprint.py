"""A result that came to harm is done again; one that somebody changed is not; records of before are gone on with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from test_batch import FILES, SUMMARY_JSON, go, images, states

from ovseg.files import index_png
from ovseg.run.fingerprint import RECENT_SECONDS, as_written, fingerprint, is_whole
from ovseg.run.folder import read_run


def record(out: Path) -> dict:
    return json.loads((out / "run.json").read_text())


def test_the_record_has_size_and_checksum_of_every_file(tmp_path: Path) -> None:
    go(tmp_path, images("a", "sub/b"))
    entry = record(tmp_path)["ids"]["sub/b"]
    assert entry["files"] == {end: fingerprint(tmp_path / f"sub/b{end}") for end in FILES}
    assert fingerprint(tmp_path / "sub/b.json") == "28 9fec1718"  # by zlib and every other CRC-32
    assert read_run(tmp_path).ids["a"]["seconds"] >= 0


@pytest.mark.parametrize("harm", ["emptied", "cut", "zeros"])
def test_a_file_that_came_to_harm_is_done_again(harm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(tmp_path, images("a", "b"))
    path = tmp_path / "b.png"
    whole = path.read_bytes()
    path.write_bytes({"emptied": b"", "cut": whole[:40], "zeros": bytes(len(whole))}[harm])
    assert go(tmp_path, images("a", "b")) == ["b"]
    assert f"done again: 1 damaged file, such as {path}" in capsys.readouterr().err
    assert path.read_bytes() == whole and go(tmp_path, images("a", "b")) == []


def test_a_file_that_came_to_harm_before_the_record_knew_of_it_is_done_again(tmp_path: Path) -> None:
    go(tmp_path, images("a", "b"))
    facts = record(tmp_path)
    for id in "ab":
        facts["ids"][id] = {"file": facts["ids"][id]["file"], "state": "pending"}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    (tmp_path / "b.json").write_bytes(b"")
    assert go(tmp_path, images("a", "b")) == ["b"] and states(tmp_path) == {"a": "done", "b": "done"}
    assert record(tmp_path)["ids"]["a"]["files"] == {end: fingerprint(tmp_path / f"a{end}") for end in FILES}


def test_what_somebody_changed_is_kept(tmp_path: Path) -> None:
    go(tmp_path, images("a"))
    mine = index_png(np.ones((2, 3), np.uint8), [(0, 0, 0), (9, 9, 9)])
    (tmp_path / "a.png").write_bytes(mine)
    (tmp_path / "a.json").write_text('{"classes": [], "masks": [], "note": "by hand"}')
    assert go(tmp_path, images("a")) == [] and (tmp_path / "a.png").read_bytes() == mine


def test_a_record_without_checksums_is_gone_on_with(tmp_path: Path) -> None:
    go(tmp_path, images("a", "b"))
    facts = record(tmp_path)
    for entry in facts["ids"].values():
        del entry["files"]
    (tmp_path / "run.json").write_text(json.dumps(facts))
    (tmp_path / "b.png").write_bytes(b"")
    assert go(tmp_path, images("a", "b", "c")) == ["b", "c"] and set(states(tmp_path).values()) == {"done"}


def test_a_damaged_entry_is_told_and_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(tmp_path, images("a", "b"))
    facts = record(tmp_path)
    facts["ids"]["b"] = {"file": "b.jpg", "state": "finished"}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    said = f"{tmp_path / 'run.json'}: ids.b.state: expected done, failed or pending, got 'finished'"
    assert read_run(tmp_path).ids["b"] == {"file": "", "state": "damaged", "error": said}
    assert go(tmp_path, images("a", "b")) == ["b"] and said in capsys.readouterr().err


def test_old_files_are_told_by_their_size_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(SUMMARY_JSON)
    recorded, now = fingerprint(path), path.stat().st_mtime
    path.write_bytes(SUMMARY_JSON[:-1] + b" ")
    assert not as_written(path, recorded, now - RECENT_SECONDS)
    os.utime(path, (now - 2 * RECENT_SECONDS,) * 2)
    assert as_written(path, recorded, now - RECENT_SECONDS)
    assert not as_written(path, "3 00000000", now) and not as_written(tmp_path / "absent", recorded, now)
    assert as_written(path, None, now) and not is_whole(path) and not is_whole(tmp_path / "absent.png")
