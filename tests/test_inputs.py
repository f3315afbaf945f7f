"""Files and folders named by the user become items with ids; what cannot be is refused by name."""

from __future__ import annotations

import io
import os
import sys
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


def test_links_are_followed_each_folder_once(tmp_path: Path) -> None:
    touch(
        tmp_path / "in/a.png", tmp_path / "in/sub/c.png", tmp_path / "elsewhere/b.png", tmp_path / "elsewhere/x/d.png"
    )
    (tmp_path / "in/linked.png").symlink_to(tmp_path / "elsewhere/b.png")
    (tmp_path / "in/folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/up").symlink_to(tmp_path / "in")  # a loop
    (tmp_path / "in/again").symlink_to(tmp_path / "in/sub")
    (tmp_path / "in/results").symlink_to(tmp_path / "out")
    (tmp_path / "in/itself.png").symlink_to(tmp_path / "in/itself.png")
    (tmp_path / "in/nothing.png").symlink_to(tmp_path / "absent.png")
    touch(tmp_path / "out/e.png")
    said: list[str] = []
    items = collect([tmp_path / "in"], tmp_path / "out", tell=said.append)
    found = ["a", "folder/b", "folder/x/d", "itself", "linked", "nothing", "sub/c"]
    assert [item.id for item in items] == found  # two of them will fail by name, in their turn
    links = f"{tmp_path / 'in/again'}, {tmp_path / 'in/folder/up'}"
    assert said == [f"left out, as links to folders whose files are taken already: {links}"]


def test_every_kind_of_image_is_taken_and_what_only_looks_like_one_is_said(tmp_path: Path) -> None:
    read = ["a.jfif", "b.JPE", "c.avif", "d.jp2", "e.ppm", "f.heic"]
    unread = ["g.NEF", "h.svg", "i.exr"]
    touch(*(tmp_path / "in" / name for name in (*read, *unread, "notes.txt", ".j.nef")))
    said: list[str] = []
    items = collect([tmp_path / "in"], tmp_path / "out", tell=said.append)
    assert [item.path.name for item in items] == sorted(read)
    assert said == [
        f"left out, camera raw is not read: develop it to JPEG or TIFF: {tmp_path / 'in/g.NEF'}",
        f"left out, not read here: convert it to PNG: {tmp_path / 'in/h.svg'}",
        f"left out, their samples have no agreed white: save the image with 8 or 16 bits: {tmp_path / 'in/i.exr'}",
    ]
    touch(*(tmp_path / f"raw/{number:02}.cr2" for number in range(20)))
    with pytest.raises(ValueError, match=r"raw: no images .*; 20 left out, camera raw is not read"):
        ids(tmp_path / "raw")
    touch(tmp_path / "raw/a.png")
    said.clear()
    collect([tmp_path / "raw"], tmp_path / "out", tell=said.append)
    assert len(said) == 1 and said[0].endswith("11.cr2 and 8 more")


def test_two_files_of_one_name_get_ids_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path / "in/cut.jpg", tmp_path / "in/cut.png", tmp_path / "in/other.png", tmp_path / "in/sub/cut.png")
    said: list[str] = []
    items = collect([tmp_path / "in"], tmp_path / "out", tell=said.append)
    assert [(item.id, item.path.name) for item in items] == [
        ("cut.jpg", "cut.jpg"),
        ("cut.png", "cut.png"),
        ("other", "other.png"),
        ("sub/cut", "cut.png"),
    ]
    assert said == ["note: 2 images share their names with others; their ids are longer, such as 'cut.jpg'"]
    touch(tmp_path / "one/a.png", tmp_path / "two/a.png", tmp_path / "two/b.png", tmp_path / "x/two/a.png")
    assert ids(tmp_path / "one", tmp_path / "two") == ["one/a.png", "two/a.png", "b"]
    touch(tmp_path / "x/two/b.png")
    with pytest.raises(ValueError, match=r"2 ids are of two files each: .*/two/a.png and .*/x/two/a.png, .*b.png and"):
        ids(tmp_path / "two", tmp_path / "x/two")


def test_patterns_are_ids_below_their_fixed_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "in/a/x.jpg", tmp_path / "in/b/y.png", tmp_path / "in/b/c/z.png", tmp_path / "in/b/notes.txt")
    assert ids(tmp_path / "in/*/*") == ["a/x", "b/y"]
    assert ids(tmp_path / "in/**/*.png") == ["b/c/z", "b/y"]
    monkeypatch.chdir(tmp_path / "in/b")
    assert ids(Path("?.png")) == ["y"] and ids(Path("../[ab]/*.jpg")) == ["a/x"]
    touch(tmp_path / "in/b/[1].png")  # a file that is called so
    assert ids(Path("[1].png")) == ["[1]"]
    with pytest.raises(ValueError, match=r"q\*.png: matches no image"):
        ids(Path("q*.png"))


def test_patterns_pass_over_results_and_take_each_folder_once(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "photos/out"
    touch(photos / "x.png", photos / "sub/y.png", out / "x.png", out / "run.json", photos / "z/old/run-1-of-2.json")
    touch(photos / "z/old/w.png", photos / "z/old/deep/v.png")
    (photos / "a-link").symlink_to(photos / "sub")
    (photos / "sub/loop").symlink_to(photos)
    lines: list[str] = []
    items = collect([photos / "**/*.png"], out, tell=lines.append)
    assert [item.id for item in items] == ["sub/y", "x"]
    assert len(lines) == 2 and "as results of other runs" in (lines[0] + lines[1])
    assert str(photos / "z/old") in lines[0] + lines[1] and str(out) not in lines[0] + lines[1]
    assert [item.id for item in collect([photos / "*/y.png"], out)] == ["sub/y"]
    assert [item.id for item in collect([photos / "*.png"], photos)] == ["x"]  # results beside the images
    with pytest.raises(ValueError, match="matches no image"):
        collect([photos / "[o]ut/*.png"], out)


def test_lists_name_images_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "lists/sub/a.png", tmp_path / "b.jpg")
    given = tmp_path / "lists/today.txt"
    given.write_bytes(b"sub/a.png\r\n\n./sub/../gone.png\n../b.jpg\n" + os.fsencode(tmp_path / "b.jpg") + b"\n")
    below = str(tmp_path).removeprefix("/")
    assert ids(given) == ["sub/a", "gone", f"{below}/b"]  # that one is not there is seen when it is read
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"lists/sub/a.png\0b.jpg\0")))
    assert ids(Path("-")) == ["lists/sub/a", "b"]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="-: standard input reaches one process alone"):
        ids(Path("-"))
    given.write_text(" \n")
    with pytest.raises(ValueError, match=r"today\.txt: holds no path; expected one a line"):
        ids(given)
    given.write_text("sub\n")
    with pytest.raises(ValueError, match=r"today\.txt: sub: is a folder"):
        ids(given)


def test_bytes_that_are_no_utf8_are_escaped_in_the_id_and_kept_in_the_path(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    touch(Path(path), tmp_path / "café.jpg")
    items = collect([tmp_path], tmp_path / "out")
    assert {item.id for item in items} == {"caf\\xe9", "café"}
    assert all(item.path.is_file() for item in items)


def test_inputs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no images"):
        ids(tmp_path / "empty")
    with pytest.raises(ValueError, match="absent: no such file or folder"):
        ids(tmp_path / "absent")
