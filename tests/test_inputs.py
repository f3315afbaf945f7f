"""Files and folders named by the user become items with ids; what cannot be is refused by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ovseg.run.inputs import collect


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def ids(*inputs: Path, out: Path = Path("/nowhere")) -> list[str]:
    return [item.id for item in collect(inputs, out)]


def test_ids_are_paths_below_the_input_without_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "in/b.jpg", tmp_path / "in/sub/a.v2.PNG", tmp_path / "in/notes.txt", tmp_path / "in/.hidden.png")
    touch(tmp_path / "in/.git/x.png", tmp_path / "single.tiff")
    items = collect([tmp_path / "in", tmp_path / "single.tiff"], tmp_path / "out")
    assert [item.id for item in items] == ["b", "sub/a.v2", "single"]
    assert items[1].path == tmp_path / "in/sub/a.v2.PNG"


def test_files_are_absolute_from_wherever_the_run_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "in/a.png")
    monkeypatch.chdir(tmp_path / "in")
    assert [item.path for item in collect([Path("../in"), Path("a.png")], "out")] == [tmp_path / "in/a.png"]


def test_the_output_folder_is_no_input(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "out/a.png", tmp_path / "out/a.overlay.png")
    assert ids(tmp_path, out=tmp_path / "out") == ["a"]
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=f"^out: {tmp_path}/link: is also an input"):
        collect([tmp_path], tmp_path / "link")


def test_run_folders_below_an_input_are_left_out_and_said(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "old/run.json", tmp_path / "old/a.png", tmp_path / "old/sub/b.png")
    touch(tmp_path / "shared/run-1-of-2.json", tmp_path / "shared/c.png")
    said: list[str] = []
    assert [item.id for item in collect([tmp_path], tmp_path / "out", tell=said.append)] == ["a"]
    named = f"{tmp_path / 'old'}, {tmp_path / 'shared'}"
    assert said == [f"left out, as results of other runs (they hold a run.json): {named}"]
    with pytest.raises(ValueError, match=r"old: is a run's results \(it holds run.json\)"):
        ids(tmp_path / "old")


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a.png", tmp_path / "locked/b.png")
    scandir = os.scandir

    def locked(path: str) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(PermissionError, match="locked"):
        ids(tmp_path)


def test_the_same_file_twice_is_one_image(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    (tmp_path / "again").mkdir()
    (tmp_path / "again/a.png").symlink_to(tmp_path / "a.png")
    assert ids(tmp_path / "a.png", tmp_path / "a.png", tmp_path / "again/a.png") == ["a"]


def test_links_are_followed_to_files_but_not_to_folders(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.png", tmp_path / "elsewhere/b.png")
    (tmp_path / "in/linked.png").symlink_to(tmp_path / "elsewhere/b.png")
    (tmp_path / "in/folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/itself.png").symlink_to(tmp_path / "in/itself.png")
    (tmp_path / "in/nothing.png").symlink_to(tmp_path / "absent.png")
    assert ids(tmp_path / "in") == ["a", "itself", "linked", "nothing"]  # two of them will fail by name, in their turn


def test_bytes_that_are_no_utf8_are_escaped_in_the_id_and_kept_in_the_path(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    touch(Path(path), tmp_path / "café.jpg")
    items = collect([tmp_path], tmp_path / "out")
    assert {item.id for item in items} == {"caf\\xe9", "café"}
    assert all(item.path.is_file() for item in items)


def test_inputs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "one/a.png", tmp_path / "two/a.jpg", tmp_path / "same/b.png", tmp_path / "same/b.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"one/a.png and .*two/a.jpg would both be written as 'a'"):
        ids(tmp_path / "one", tmp_path / "two")
    with pytest.raises(ValueError, match=r"b.jpg and .*b.png would both"):
        ids(tmp_path / "same")
    with pytest.raises(ValueError, match="empty: no images"):
        ids(tmp_path / "empty")
    with pytest.raises(ValueError, match="absent: no such file or folder"):
        ids(tmp_path / "absent")
