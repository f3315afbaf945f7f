"""A run folder is read whole or refused by name: its shards belong together, and none is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovseg.run.folder import differing, read_run
from ovseg.run.launch import Shard

FACTS = {"command": "label", "by": "emerdiff", "names": ["cat", "sky"], "options": {"masks": 3, "steps": 5}}


def write_record(folder: Path, name: str, ids: dict[str, dict[str, Any]], **facts: Any) -> None:
    folder.mkdir(exist_ok=True)
    record = {"format": "ovseg run 1", **FACTS, **facts, "shard": None, "versions": {"torch": "2"}, "timings": {}}
    (folder / name).write_text(json.dumps(record | {"ids": ids}))


def entry(state: str, file: str = "a.png") -> dict[str, Any]:
    return {"file": file, "state": state}


def test_a_run_is_its_facts_and_its_ids(tmp_path: Path) -> None:
    write_record(tmp_path, "run.json", {"b/x": entry("done"), "c": entry("failed"), "a": entry("done")})
    run = read_run(tmp_path)
    assert run.facts == FACTS and run.versions == {"torch": "2"}
    assert run.done == ["a", "b/x"] and run.ids["c"]["state"] == "failed"
    assert run.file("b/x", ".masks.png") == tmp_path / "b/x.masks.png"


def test_shards_are_read_as_one_run(tmp_path: Path) -> None:
    write_record(tmp_path, "run-1-of-2.json", {"a": entry("done")}, device="cuda:0")
    write_record(tmp_path, "run-2-of-2.json", {"b": entry("pending")}, device="cuda:1")  # where it ran does not count
    assert {id: value["state"] for id, value in read_run(tmp_path).ids.items()} == {"a": "done", "b": "pending"}


def test_shards_are_counted_as_numbers(tmp_path: Path) -> None:
    for number in range(1, 12):
        write_record(tmp_path, f"run-{number}-of-11.json", {str(number): entry("done")})
    assert len(read_run(tmp_path).done) == 11
    (tmp_path / "run-2-of-11.json").unlink()
    (tmp_path / "run-10-of-11.json").unlink()
    with pytest.raises(ValueError, match=r"run-2-of-11\.json, run-10-of-11\.json missing"):
        read_run(tmp_path)


def test_shards_of_two_runs_are_refused_with_what_differs(tmp_path: Path) -> None:
    write_record(tmp_path, "run-1-of-2.json", {})
    write_record(tmp_path, "run-2-of-2.json", {}, options={"masks": 4, "steps": 5}, names=["cat", "cow"])
    named = r"run-1-of-2\.json and .*run-2-of-2\.json are not of one run: "
    with pytest.raises(ValueError, match=named + r'names \["cat", "sky"\] and \["cat", "cow"\]; options.masks 3 and 4'):
        read_run(tmp_path)


@pytest.mark.parametrize("other", ["run.json", "run-1-of-1.json", "run-2-of-3.json"])
def test_a_folder_holds_one_run_divided_in_one_way(tmp_path: Path, other: str) -> None:
    for name in ("run-1-of-2.json", "run-2-of-2.json", other):
        write_record(tmp_path, name, {})
    with pytest.raises(ValueError, match="a folder is for one run") as caught:
        read_run(tmp_path)
    assert other in str(caught.value) and "-of-2.json" in str(caught.value)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent: not a run folder, it holds no run\.json"):
        read_run(tmp_path / "absent")
    with pytest.raises(ValueError, match="not a run folder"):
        read_run(tmp_path)
    for content in ("", "{", "[]", "{}", '{"format": "ovseg run 9", "ids": {}}', '{"format": "ovseg run 1", "ids": 3}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(ValueError, match=r"run\.json: not (the record of a run|JSON)"):
            read_run(tmp_path)
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"run\.json: not (the record of a run|JSON)"):
        read_run(tmp_path)


def test_differences_name_every_setting_with_both_values() -> None:
    one = {"options": {"masks": 3, "sigma": 1.0}, "models": {"clip": "a@1"}, "device": "cpu", "protocol": None}
    two = {"options": {"masks": 4, "sigma": 1.0}, "models": {"clip": "b@2"}, "device": "cuda", "names": ("x",)}
    assert differing(one, two) == ['models.clip "a@1" and "b@2"', 'names null and ["x"]', "options.masks 3 and 4"]
    assert differing(one, one) == []
    assert differing({"names": ("x", "y")}, {"names": ["x", "y"]}) == []  # as JSON gives a tuple back
    assert differing({"options": {"device": 1}}, {"options": {"device": 2}}) == ["options.device 1 and 2"]
    (long,) = differing({"names": ["class"] * 40}, {"names": []})
    assert len(long) < 80 and "..." in long


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/", "a/b", "-1/2", "1/2/3", ""])
def test_parts_that_are_no_parts_are_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match="^shard: expected i/n with i from 1 to n, such as 2/4, got " + re.escape(repr(text))
    ):
        Shard.parse(text)


@given(st.lists(st.integers()), st.integers(1, 12))
def test_shards_share_all_images_evenly(items: list[int], count: int) -> None:
    parts = [Shard.parse(f"{number}/{count}").take(items) for number in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len({Shard(number, count).file for number in range(1, count + 1)}) == count
