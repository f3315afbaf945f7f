"""The report's Python side: what the page carries is read back with other readers than the page's own."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from run_folders import blobs, write_run
from safetensors.numpy import save_file

from ovseg import cli, locks
from ovseg.draw import class_colours, distinct_colours
from ovseg.files import read_index_png
from ovseg.pocket.world import scene
from ovseg.report import write_report
from ovseg.report.image import pack
from ovseg.report.page import SCRIPTS, class_statistics, json_in_script
from ovseg.result import masks_png

NAMES = ("background", "cat", '</script><script>alert("x")</script>', "<!-- 犬 & 'дом'")
REPORT = Path(__file__).parent.parent / "ovseg" / "report"


class Page(HTMLParser):
    """The page as an HTML parser sees it: its title, and its script elements' contents by id ("" for the code)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.title = ""
        self._place: tuple[str, str] | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._place = (tag, dict(attrs).get("id") or "")
        if tag == "script":
            assert self._place[1] not in self.scripts
            self.scripts[self._place[1]] = ""

    def handle_endtag(self, tag: str) -> None:
        self._place = None

    def handle_data(self, text: str) -> None:
        if self._place and self._place[0] == "script":
            self.scripts[self._place[1]] += text
        elif self._place and self._place[0] == "title":
            self.title += text

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts["data"])

    def image(self, number: int) -> dict[str, Any]:
        return json.loads(self.scripts[f"image-{number}"])


def unpack(packed: dict[str, Any]) -> np.ndarray:
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), f"<u{packed['bits'] // 8}")
    return numbers.reshape(packed["shape"])


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def photo(path: Path, height: int, width: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 255 // height, columns * 255 // width, 0 * rows + 90], axis=-1)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def make_run(folder: Path, count: int, *, height: int = 20, width: int = 30) -> tuple[Path, dict[str, np.ndarray]]:
    """A run of images with photos; returns its folder and the label maps by id."""
    maps = {f"{n // 10}/scene {n}": blobs(n, height, width, (0, 1, 2, 3, 255)) for n in range(count)}
    sources = {id: photo(folder.parent / "photos" / f"{id}.png", height, width) for id in maps}
    return write_run(folder, maps, NAMES, sources=sources, scores={1: 0.25}), maps


@pytest.mark.parametrize("count", [1, 40])
def test_the_embedded_maps_are_the_label_maps_pixel_for_pixel(tmp_path, count):
    run, maps = make_run(tmp_path / "run", count)
    report = write_report(run)
    page = Page(report.file)
    assert report.file == run / "report.html" and report.folder is None and report.images == count
    assert [row["id"] for row in page.data["images"]] == sorted(maps)
    for number, row in enumerate(page.data["images"]):
        content = page.image(number)
        np.testing.assert_array_equal(unpack(content["maps"]["labels"]), maps[row["id"]])
        masks = read_index_png(run / f"{row['id']}.masks.png")
        np.testing.assert_array_equal(unpack(content["maps"]["masks"]), masks)
        for mask, index, score in content["maps"]["rows"]:
            assert set(maps[row["id"]][masks == mask]) == {255 if index is None else index}
            assert score == (None if index is None else 0.25 if index == 1 else 0.75)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_gallery_picture_has_the_colours_of_the_labels_and_the_photo_is_the_photo(tmp_path):
    run, maps = make_run(tmp_path / "run", 1)
    pictures = Page(write_report(run).file).image(0)["pictures"]
    assert sorted(pictures) == [".jpg", ".png"]  # so small that the gallery needs no other
    colours = np.array([*class_colours(NAMES), (255, 255, 255)])
    expected = colours[np.minimum(maps["0/scene 0"], len(NAMES))]
    np.testing.assert_array_equal(np.asarray(picture(pictures[".png"]).convert("RGB")), expected)
    shown = np.asarray(picture(pictures[".jpg"])).astype(int)
    original = np.asarray(Image.open(tmp_path / "photos/0/scene 0.png")).astype(int)
    assert shown.shape == original.shape and np.abs(shown - original).mean() < 4  # a lossy format


def test_images_beyond_the_limit_are_kept_beside_the_page(tmp_path):
    run, maps = make_run(tmp_path / "run", 3)
    report = write_report(run, tmp_path / "new" / "look.html", embedded_bytes=100)
    assert report.folder == tmp_path / "new" / "look-files"
    page = Page(report.file)
    assert page.data["folder"] == "look-files" and sorted(page.scripts) == ["", "data"]
    assert sorted(p.name for p in report.folder.iterdir()) == sorted(
        f"{n}{suffix}" for n in range(3) for suffix in (".js", ".png", ".jpg")
    )
    for number, row in enumerate(page.data["images"]):
        call = (report.folder / f"{number}.js").read_text(encoding="ascii")
        argument = re.fullmatch(rf"ovsegReport\({number},(.*)\)\n", call, re.DOTALL)
        np.testing.assert_array_equal(unpack(json.loads(argument[1])["labels"]), maps[row["id"]])
        assert Image.open(report.folder / f"{number}.jpg").size == (30, 20)
    files = [report.file, *report.folder.iterdir()]
    assert report.size == sum(path.stat().st_size for path in files)


def test_names_of_classes_and_files_stay_text(tmp_path):
    id = "a <b>&\"'</script>"[:14].replace("/", "-") + " 画像"
    run = write_run(tmp_path / "r", {id: np.zeros((4, 5), int)}, NAMES, states={"<!--<script>": "pending"})
    page = Page(write_report(run, title='<i>"me" & you</i> $data').file)
    assert page.title == '<i>"me" & you</i> $data' == page.data["title"]
    assert [one["name"] for one in page.data["classes"]] == [*NAMES, "no label"]
    assert page.data["images"][0]["id"] == id
    assert page.data["problems"] == [{"id": "<!--<script>", "reason": "not done yet"}]
    assert sorted(page.scripts) == ["", "data", "image-0"]
    assert page.scripts[""].strip() == "\n".join((REPORT / name).read_text() for name in (*SCRIPTS, "start.js")).strip()


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_in_a_script_comes_back_and_can_neither_end_nor_hide_it(value):
    text = json_in_script(value)
    assert json.loads(text) == value
    assert "<" not in text and text.isascii()


@given(
    arrays.arrays(
        st.sampled_from([np.dtype("u1"), np.dtype("<u2"), np.dtype(">u2")]),
        arrays.array_shapes(min_dims=2, max_dims=3, max_side=9),
    )
)
def test_packed_arrays_come_back(array):
    back = unpack(json.loads(json.dumps(pack(array))))
    np.testing.assert_array_equal(back, array)


def test_over_254_names_and_masks_need_16_bits_and_stay_exact(tmp_path):
    labels = np.arange(20 * 30).reshape(20, 30) % 301
    labels[labels == 300] = 65535
    names = [f"class {n}" for n in range(300)]
    run = write_run(tmp_path / "run", {"x": labels}, names)
    page = Page(write_report(run).file)
    np.testing.assert_array_equal(unpack(page.image(0)["maps"]["labels"]), labels)
    assert page.image(0)["maps"]["masks"]["bits"] == 16
    row = page.data["images"][0]
    assert row["masks"] == 301 and len(row["classes"]) == 301
    assert [300, 1, None] in row["classes"]  # the last class of the page is "no label"
    colours = np.array([*class_colours(names), (255, 255, 255)])
    tint = np.asarray(picture(page.image(0)["pictures"][".png"]).convert("RGB"))
    np.testing.assert_array_equal(tint, colours[np.minimum(labels, 300)])


def test_large_images_are_shown_smaller_and_their_maps_sampled_at_the_nearest_pixel(tmp_path):
    labels = np.tile(np.arange(2560) // 2 % 4, (6, 1))  # pairs of columns, of which one is kept
    source = photo(tmp_path / "wide.png", 6, 2560)
    run = write_run(tmp_path / "run", {"wide": labels}, NAMES, sources={"wide": source})
    page = Page(write_report(run).file)
    row, content = page.data["images"][0], page.image(0)
    assert (row["width"], row["height"], row["shown"]) == (2560, 6, [1280, 3])
    assert row["classes"] == [[index, 6 * 640, 0.25 if index == -1 else 0.75] for index in range(4)]  # of all pixels
    np.testing.assert_array_equal(unpack(content["maps"]["labels"]), np.tile(np.arange(1280) % 4, (3, 1)))
    assert picture(content["pictures"][".jpg"]).size == (1280, 3)
    assert picture(content["pictures"][".thumb.jpg"]).size == (400, 1)


def test_class_statistics_by_hand():
    rows = [
        {"classes": [[0, 60, 0.5], [1, 30, 0.9], [3, 10, None]]},  # names 0..2; 3 is no label
        {"classes": [[1, 100, 0.6]]},
    ]
    assert class_statistics(rows, 3) == [
        {"index": 1, "share": 0.65, "images": 2, "score": round((30 * 0.9 + 100 * 0.6) / 130, 6)},
        {"index": 0, "share": 0.3, "images": 1, "score": 0.5},
        {"index": 2, "share": 0.0, "images": 0, "score": None},
        {"index": 3, "share": 0.05, "images": 1, "score": None},
    ]


def test_the_score_of_an_image_is_the_mean_over_its_labelled_pixels(tmp_path):
    labels = np.array([[1, 1, 1, 2], [255, 255, 255, 255]])
    run = write_run(tmp_path / "run", {"x": labels}, NAMES, scores={1: 0.2, 2: 0.6})
    row = Page(write_report(run).file).data["images"][0]
    assert row["score"] == pytest.approx((3 * 0.2 + 0.6) / 4)
    assert row["classes"] == [[4, 4, None], [1, 3, pytest.approx(0.2)], [2, 1, pytest.approx(0.6)]]


def test_photos_that_are_gone_or_changed_are_noted_and_the_labels_stay(tmp_path):
    run, _ = make_run(tmp_path / "run", 3)
    (tmp_path / "photos/0/scene 0.png").unlink()
    photo(tmp_path / "photos/0/scene 1.png", 21, 30)
    page = Page(write_report(run).file)
    gone, changed, fine = page.data["images"]
    assert "scene 0.png: no such file" in gone["note"]
    assert "scene 1.png: has another size now, 30 x 21 pixels" in changed["note"]
    assert fine["note"] == "" and fine["pictures"] == [".jpg", ".png"]
    assert gone["pictures"] == changed["pictures"] == [".png"]


def test_photos_are_found_below_the_data_sets_root_and_scenes_of_pocket_are_painted(tmp_path):
    photo(tmp_path / "data/a.png", 8, 8)
    maps = {"a": np.zeros((8, 8), int), "b": np.zeros((128, 128), int), "c": np.zeros((8, 8), int)}
    sources = {"a": "a.png", "b": "pocket:world3/tuning/3/1", "c": "pocket:nowhere/3/1"}
    run = write_run(tmp_path / "run", maps, NAMES, sources=sources)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"root": str(tmp_path / "data")}))
    page = Page(write_report(run).file)
    assert [row["pictures"] for row in page.data["images"]] == [[".jpg", ".png"], [".jpg", ".png"], [".png"]]
    shown = np.asarray(picture(page.image(1)["pictures"][".jpg"])).astype(int)
    assert np.abs(shown - scene("tuning", 3, 1).image).mean() < 6
    assert "nowhere" in page.data["images"][2]["note"]


def test_images_that_failed_or_cannot_be_read_are_listed_with_their_reasons(tmp_path):
    run, _ = make_run(tmp_path / "run", 6)
    record = json.loads((run / "run.json").read_text())
    record["ids"]["zz"] = {"file": "zz.jpg", "state": "failed", "error": "zz.jpg: the file is empty"}
    (run / "run.json").write_text(json.dumps(record))
    (run / "0/scene 0.png").unlink()
    (run / "0/scene 1.png").write_bytes((run / "0/scene 1.png").read_bytes()[:60])
    Image.new("L", (30, 20), 77).save(run / "0/scene 2.png")
    Image.new("L", (9, 9), 0).save(run / "0/scene 3.masks.png")
    (run / "0/scene 4.json").write_text('{"classes": [')
    report = write_report(run)
    problems = {one["id"]: one["reason"] for one in Page(report.file).data["problems"]}
    assert report.images == 1 and report.problems == 6 == len(problems)
    assert problems["zz"] == "zz.jpg: the file is empty"
    assert "holds index 77, expected 0..3 or 255 (no label)" in problems["0/scene 2"]
    assert "is of 9x9 pixels, the labels of this image are 30x20" in problems["0/scene 3"]
    assert "scene 4.json: not JSON" in problems["0/scene 4"] and report.damaged == 5
    assert cli.main(["report", str(run), "--overwrite"]) == 1
    assert all(f"scene {n}.png" in problems[f"0/scene {n}"] for n in (0, 1))


def test_difference_maps_come_along_where_the_run_kept_them(tmp_path):
    run, _ = make_run(tmp_path / "run", 4)
    maps = np.random.default_rng(0).integers(0, 256, (5, 7, 9), dtype=np.uint8)
    masks = read_index_png(run / "0/scene 1.masks.png")
    save_file({"difference_maps": maps, "segments": masks}, run / "0/scene 1.safetensors")
    save_file({"features": np.zeros((1, 2, 2), np.float16)}, run / "0/scene 2.safetensors")
    save_file({"difference_maps": np.zeros((0, 1, 1), np.uint8)}, run / "0/scene 3.safetensors")
    page = Page(write_report(run).file)
    assert [row["differences"] for row in page.data["images"]] == [0, 5, 0, 0]
    np.testing.assert_array_equal(unpack(page.image(1)["maps"]["differences"]), maps)
    assert all(page.image(n)["maps"]["differences"] is None for n in (0, 2, 3))


@pytest.mark.parametrize("count", [5, 260])
def test_a_run_of_masks_shows_masks_alone(tmp_path, count):
    segments = np.arange(20 * 30).reshape(20, 30) % count
    run = write_run(tmp_path / "masks", {"x": np.zeros((20, 30), int)}, NAMES)
    (run / "x.png").write_bytes(masks_png(segments))
    for name in ("x.json", "x.masks.png"):
        (run / name).unlink()
    record = json.loads((run / "run.json").read_text())
    unnamed = {key: value for key, value in record.items() if key not in ("names", "colours", "no_label")}
    (run / "run.json").write_text(json.dumps(unnamed | {"command": "masks"}))
    page = Page(write_report(run).file)
    row, content = page.data["images"][0], page.image(0)
    assert page.data["classes"] == page.data["statistics"] == row["classes"] == []
    assert content["maps"]["labels"] is None and row["masks"] == count
    np.testing.assert_array_equal(unpack(content["maps"]["masks"]), segments)
    tint = np.asarray(picture(content["pictures"][".png"]).convert("RGB"))
    np.testing.assert_array_equal(tint, np.array(distinct_colours(256))[segments % 256])


def test_a_run_without_scores_shows_no_scores(tmp_path):
    predicted = write_run(tmp_path / "predicted", {"x": np.eye(4, dtype=int)}, NAMES)
    for name in ("x.json", "x.masks.png"):  # `ovseg eval predict` without masks
        (predicted / name).unlink()
    page = Page(write_report(predicted).file)
    row = page.data["images"][0]
    assert row["score"] is None and not row["rated"] and row["masks"] == 0
    assert row["classes"] == [[0, 12, None], [1, 4, None]]


def test_the_facts_of_the_run_are_grouped_to_be_read(tmp_path):
    run, _ = make_run(tmp_path / "run", 2)
    record = json.loads((run / "run.json").read_text())
    facts = {
        "preset": "pocket",
        "options": {"masks": 20, "attention_injection": True, "sigma": None, "view": {"short_side": 128, "words": []}},
    }
    (run / "run.json").write_text(json.dumps(record | facts))
    groups = dict(Page(write_report(run).file).data["facts"])
    assert list(groups) == ["run", "options", "versions"]
    assert groups["options"] == [["masks", "20"], ["attention injection", "yes"], ["sigma", "none"]] + [
        ["view: short side", "128"],
        ["view: words", "none"],
    ]
    assert ["preset", "pocket"] in groups["run"] and ["time an image", "1 s (median), 2 s in all"] in groups["run"]
    assert groups["versions"] == [["ovseg", "1"]]


def test_a_folder_that_is_no_run_or_has_nothing_done_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a run folder"):
        write_report(tmp_path)
    run = write_run(tmp_path / "run", {}, NAMES, states={"a": "failed", "b": "pending"})
    with pytest.raises(ValueError, match="none of its 2 images is done"):
        write_report(run)
    broken, _ = make_run(tmp_path / "broken", 2)
    for path in broken.glob("0/*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="no image can be shown; the first: .*scene 0.png"):
        write_report(broken)
    assert not (broken / "report.html").exists() and not list(tmp_path.rglob("*.tmp"))


def test_what_is_there_is_replaced_only_when_asked_and_only_if_it_is_a_reports(tmp_path):
    run, _ = make_run(tmp_path / "run", 2)
    write_report(run, embedded_bytes=0)
    before = sorted((run / "report-files").iterdir())
    with pytest.raises(ValueError, match="report.html: already there; .*--overwrite"):
        write_report(run)
    (run / "report.html").unlink()
    with pytest.raises(ValueError, match="report-files: already there; .*--overwrite"):
        write_report(run)
    assert sorted((run / "report-files").iterdir()) == before
    (run / "report-files" / "9.js").write_text("of an earlier report")
    assert write_report(run, embedded_bytes=0, overwrite=True).folder == run / "report-files"
    assert sorted((run / "report-files").iterdir()) == before
    assert write_report(run, overwrite=True).folder is None
    assert not (run / "report-files").exists()  # the page holds its images now

    photo(run / "report-files" / "0.jpg", 4, 4)  # of the user, who numbers photos
    with pytest.raises(ValueError, match="report-files: not of a report"):
        write_report(run, overwrite=True)
    shutil.rmtree(run / "report-files")
    (write_report(run, embedded_bytes=0, overwrite=True).folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="report-files: not of a report"):
        write_report(run, overwrite=True)
    with pytest.raises(ValueError, match="is a folder, expected a file"):
        write_report(run, tmp_path, overwrite=True)


def test_a_report_that_is_interrupted_leaves_nothing_and_harms_nothing(tmp_path):
    run, _ = make_run(tmp_path / "run", 3)
    first = write_report(run).file.read_bytes()

    def interrupt(done: int, total: int) -> None:
        assert total == 3
        if done == 2:
            raise KeyboardInterrupt

    files = sorted(run.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        write_report(run, overwrite=True, progress=interrupt)
    assert (run / "report.html").read_bytes() == first and sorted(run.rglob("*")) == files


def test_what_a_killed_report_left_is_cleared_by_the_next(tmp_path):
    run, _ = make_run(tmp_path / "run", 2)
    left = run / ".report-files.77.tmp"
    left.mkdir()
    (left / "0.json").touch()
    (run / ".report.html.77.tmp").touch()
    with locks.held(run / ".report.html.lock", ""), pytest.raises(ValueError, match="another process is writing this"):
        write_report(run)
    assert left.is_dir()
    with (run / ".report.html.78.tmp").open("w") as live:
        locks.keep(live.fileno())
        write_report(run)
        assert [path.name for path in run.glob(".*")] == [".report.html.78.tmp"]


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run, _ = make_run(tmp_path / "run", 3)
    first = write_report(run, tmp_path / "a.html", title="t").file.read_bytes()
    assert write_report(run, tmp_path / "b.html", title="t").file.read_bytes() == first


def test_the_command_says_where_the_page_is_and_mistakes_end_in_one_line(tmp_path, capsys, monkeypatch):
    run, _ = make_run(tmp_path / "my run", 2)
    assert cli.main(["report", str(run), "--title", "Two scenes"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{run / 'report.html'}: 2 images, ") and said.err == ""
    assert Page(run / "report.html").title == "Two scenes"
    assert cli.main(["report", str(run)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(
        "ovseg.report.write_report.__kwdefaults__", {**write_report.__kwdefaults__, "embedded_bytes": 0}
    )
    shutil.rmtree(run / "0", ignore_errors=True)
    make_run(run, 2)
    assert cli.main(["report", str(run), "--overwrite"]) == 0
    assert f"the images are in {run / 'report-files'}" in capsys.readouterr().out


def test_the_page_fetches_nothing(tmp_path):
    run, _ = make_run(tmp_path / "run", 1)
    text = write_report(run).file.read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://[^\s'\"]*", text)) == {"http://www.w3.org/2000/svg"}  # the icon's name space
    assert not re.search(
        r"@import|\burl\(|\bfetch\(|XMLHttpRequest|<link(?![^>]*href=\"data:)|<script[^>]*\bsrc=", text
    )
