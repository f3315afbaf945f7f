"""`ovseg app` without a browser: asking, correcting, exporting, and what the folder holds after that."""

from __future__ import annotations

import io
import json
import runpy
import shlex
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from app_server import Server
from PIL import Image
from processes import run_here
from run_folders import write_run
from test_report import unpack

from ovseg import locks
from ovseg.app import commands
from ovseg.app.edits import stroke_mask
from ovseg.app.labelling import Ask, label_images
from ovseg.app.models import Models
from ovseg.app.naming import best_names, doubtful
from ovseg.app.session import Session
from ovseg.app.worker import Busy, Cancelled, Worker
from ovseg.cli.app import _setup as make_setup
from ovseg.cli.grammar import parser
from ovseg.export import open_images
from ovseg.files import read_index_png
from ovseg.pocket.world import picture
from ovseg.run.attempt import attempt
from ovseg.run.folder import read_run
from ovseg.run.images import RunImage
from ovseg.setup import Setup

SCENES = ("world3/evaluation/0/1", "world3/evaluation/0/2", "world3/evaluation/0/3")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, scene in zip("abc", SCENES, strict=True):
        Image.fromarray(picture(scene)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def server(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    served = Server(photos, tmp_path_factory.mktemp("app") / "out")
    yield served
    served.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Server]:
    """A run that is there already, of one image without its photo; no model is needed."""
    labels = np.repeat([[0, 1, 2, 255]], 4, axis=0).repeat(10, axis=1)
    run = write_run(tmp_path / "run", {"a": labels, "sub/b": labels}, ["background", "cat", "dog"])
    served = Server(run, tmp_path / "unused")
    yield served
    served.close()


def map_of(answer: dict) -> np.ndarray:
    return unpack(answer["maps"]["labels"])


def test_asked_in_the_page_is_what_the_shown_command_gives(server, tmp_path):
    state = server.ask("cat; kitten\ndog, car\nsea; ocean")
    assert state["progress"]["state"] == "done" and state["progress"]["done"] == 3
    assert [one["name"] for one in state["legend"]["classes"]] == ["cat", "dog", "car", "sea", "no label"]
    command = shlex.split(server.get("/api/command")["command"])
    assert (
        command[:2] == ["ovseg", "label"]
        and command[command.index("--classes") + 1] == "cat; kitten,dog,car,sea; ocean"
    )
    command[command.index("--out") + 1] = str(tmp_path / "again")
    assert run_here(*command[1:]).returncode == 0
    for name in "abc":
        for ending in (".png", ".masks.png", ".json", ".overlay.png"):
            here, there = server.session.out / f"{name}{ending}", tmp_path / "again" / f"{name}{ending}"
            assert here.read_bytes() == there.read_bytes(), here


def test_the_shown_python_does_the_same(server, tmp_path):
    if not server.session.run:
        server.ask("cat, dog")
    script = server.get("/api/command")["python"].replace(repr(str(server.session.out)), repr(str(tmp_path)))
    assert len(script.splitlines()) == 5
    exec(compile(script, "<shown>", "exec"), {})
    assert (tmp_path / "a.png").read_bytes() == (server.session.out / "a.png").read_bytes()


def test_other_names_need_no_masks_again_and_the_image_in_view_comes_first(server, monkeypatch):
    server.ask("cat, dog")
    analysis = (server.session.out / "c.safetensors").read_bytes()
    server.post("/api/words", classes="horse\ntree", background="none")
    order = []

    def noting(worker, item, step):
        order.append(item.id)
        return attempt(worker, item, step)

    def again(*_: object):
        raise AssertionError("the diffusion model ran again")

    monkeypatch.setattr("ovseg.app.labelling.attempt", noting)
    monkeypatch.setattr("ovseg.masks.DiffusionSource.segment", again)
    state = server.ask("horse, tree", first="c")
    assert state["progress"]["text"] == "3 images"
    assert order == ["c", "a", "b"] and state["asked"]["classes"] == ["horse", "tree"]
    assert (server.session.out / "c.safetensors").read_bytes() == analysis
    labels = read_index_png(server.session.out / "c.png")
    assert set(np.unique(labels)) <= {0, 1}


def test_scores_are_the_models_own_and_doubts_are_those_near_each_other(server):
    server.ask("cat, dog, horse")
    scores = server.get("/api/scores", id="a")
    rows = {row["mask"]: row for row in json.loads((server.session.out / "a.json").read_text())["masks"]}
    assert len(rows) == len(scores["best"]) > 2
    for mask, best in scores["best"].items():
        assert [index for index, _ in best][0] == rows[int(mask)]["class"]
        assert best[0][1] == pytest.approx(rows[int(mask)]["score"], abs=1e-6)
        assert sorted((score for _, score in best), reverse=True) == [score for _, score in best]
        assert (int(mask) in scores["doubts"]) == (best[1][1] > 0.5 * best[0][1])


def test_best_names_by_hand():
    names, scores = best_names(np.array([[0.1, 0.5, 0.5, 0.3]]), 3)
    assert names.tolist() == [[1, 2, 3]] and scores.tolist() == [[0.5, 0.5, 0.3]]
    assert doubtful(np.array([0.6, 0.31])) and not doubtful(np.array([0.6, 0.3])) and not doubtful(np.array([0.2]))


def test_masks_are_renamed_painted_erased_undone_and_reviewed(small):
    run = small.session.out
    own = (run / "a.png").read_bytes()
    renamed = small.post("/api/edit", id="a", kind="masks", masks=[1, 2], to="dog")
    assert map_of(renamed)[0].tolist() == [0] * 10 + [2] * 20 + [255] * 10
    assert renamed["row"]["corrected"] and renamed["row"]["undo"] and not renamed["row"]["reviewed"]
    painted = small.post("/api/edit", id="a", kind="stroke", points=[[5.5, 1.5]], radius=1, to="cat")
    assert (map_of(painted)[:, 3:9] == 1).sum(axis=1).tolist() == [1, 3, 1, 0]
    erased = small.post("/api/edit", id="a", kind="stroke", points=[[0, 2], [40, 2]], radius=40, to=None)
    assert (map_of(erased) == 255).all()
    back = small.post("/api/edit", id="a", kind="undo")
    assert (map_of(back) == map_of(painted)).all() and back["row"]["redo"]
    small.post("/api/edit", id="a", kind="undo")
    assert (map_of(small.post("/api/edit", id="a", kind="redo")) == map_of(painted)).all()
    assert small.post("/api/edit", id="a", kind="review")["row"]["reviewed"]
    image = next(iter(open_images(run)))
    assert (image.labels == map_of(painted)).all()
    assert RunImage(read_run(run), "a").corrections.review.who == "Ada"
    assert (map_of(small.post("/api/edit", id="a", kind="own"))[0] == np.repeat([0, 1, 2, 255], 10)).all()
    assert (map_of(small.post("/api/edit", id="a", kind="undo")) == map_of(painted)).all()
    assert (run / "a.png").read_bytes() == own


def test_a_new_name_stands_behind_the_others_and_is_exported(small):
    small.post("/api/edit", id="a", kind="masks", masks=[0], to="cat")
    answer = small.post("/api/edit", id="sub/b", kind="masks", masks=[3], to="  hedge\u0301hog ")
    assert [one["name"] for one in answer["legend"]["classes"]] == [
        "background",
        "cat",
        "dog",
        "hedg\u00e9hog",
        "no label",
    ]
    assert map_of(answer)[0].tolist() == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10
    assert RunImage(read_run(small.session.out), "a").index_map()[0, 0] == 1  # what was corrected before still stands
    made = small.post("/api/export", format="png")
    _, headers, content = small.raw("GET", "/api/download?format=png")
    assert headers["content-disposition"] == 'attachment; filename="run-png.zip"' and len(content) == made["size"]
    archive = zipfile.ZipFile(io.BytesIO(content))
    with Image.open(io.BytesIO(archive.read("png/sub/b.png"))) as exported:
        assert (np.array(exported) == map_of(answer)).all()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"kind": "masks", "masks": [], "to": "cat"}, "masks: expected a list of numbers"),
        ({"kind": "masks", "masks": [1], "to": 7}, "to: expected a name"),
        ({"kind": "masks", "masks": [1], "to": "x\u0000y"}, "name: expected 1 to 200 characters that can be seen"),
        ({"kind": "stroke", "points": [[1, "2"]], "radius": 2, "to": 1}, "points: expected pairs of numbers"),
        ({"kind": "stroke", "points": [[1, 2]], "radius": -2, "to": 1}, "radius: expected a number from 0.5 to 2000"),
        ({"kind": "answer", "key": "9", "cut": 9, "to": 1}, "key: this answer is gone: click the point again"),
        (
            {"kind": "delete"},
            "kind: expected one of masks, stroke, answer, undo, redo, review, unreview, own, got 'delete'",
        ),
    ],
)
def test_edits_that_cannot_be_meant_change_nothing(small, body, message):
    status, answer = small.refused("/api/edit", id="a", **body)
    assert (status, answer["error"]) == (400, message)
    assert not list(small.session.out.glob("*.corrected*"))
    assert small.refused("/api/edit", id="../a", **body)[0] == 404


def test_names_anew_leave_corrections_where_they_are(server):
    server.ask("cat, dog")
    out = server.session.out
    server.post("/api/edit", id="a", kind="masks", masks=[0], to="unicorn")
    before = {path.name: path.read_bytes() for path in out.glob("*.png")}
    state = server.ask("cow, pig")
    assert state["out"] == str(out) + "-2" and "holds corrections and stays as it is" in " ".join(
        state["progress"]["notes"]
    )
    assert {path.name: path.read_bytes() for path in out.glob("*.png")} == before
    again = server.ask("cow, pig")  # the same names go on in the same folder
    assert again["out"] == state["out"]


def test_a_run_that_another_process_writes_is_read_only(small):
    with locks.held(small.session.out / ".run.json.lock", "taken"):
        assert "another process is writing" in small.get("/api/state")["readOnly"]
        for path, body in {
            "/api/edit": {"id": "a", "kind": "review"},
            "/api/ask": {"classes": "cat", "background": "none"},
        }.items():
            status, answer = small.refused(path, **body)
            assert status == 409 and "another process is writing" in answer["error"]
        assert small.raw("POST", "/api/upload?name=a.png", b"x")[0] == 409
        assert small.get("/api/maps", id="a")["maps"] is not None
    assert small.get("/api/state")["readOnly"] == ""
    assert small.post("/api/edit", id="a", kind="review")["row"]["reviewed"]


def test_a_stroke_covers_what_lies_within_its_radius_of_the_line():
    rows, columns = np.mgrid[0:60, 0:90] + 0.5
    for start, end, radius in (((10, 10), (70, 40), 6), ((20, 50), (20, 5), 9), ((5, 5), (5, 5), 3)):
        (x0, y0), (x1, y1) = start, end
        length = (x1 - x0) ** 2 + (y1 - y0) ** 2 or 1
        along = np.clip(((columns - x0) * (x1 - x0) + (rows - y0) * (y1 - y0)) / length, 0, 1)
        distance = np.hypot(columns - x0 - along * (x1 - x0), rows - y0 - along * (y1 - y0))
        mask = stroke_mask(60, 90, [start, end], radius)
        assert mask[distance < radius - 1].all() and not mask[distance > radius + 1].any()
    assert not stroke_mask(5, 5, [(-900.0, -900.0)], 3).any()


def test_uploads_become_images_with_ids_of_their_own_and_folders_keep_their_paths(tmp_path):
    served = Server(None, tmp_path / "out")
    try:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 6), "red").save(buffer, "PNG")
        ids = []
        for name in ("a.png", "a.png", "trip/day 1/a.png", "<script>alert(1)</script>.png".replace("/", "-")):
            status, _, content = served.raw("POST", f"/api/upload?name={name.replace(' ', '%20')}", buffer.getvalue())
            assert status == 200, content
            ids.append(json.loads(content)["id"])
        assert ids == ["a", "a-2", "trip/day 1/a", "<script>alert(1)<-script>"]
        assert sorted(served.session.items) == sorted(ids)
        status, _, content = served.raw("POST", "/api/upload?name=b.png", b"no image")
        assert status == 400 and b"b.png: not a" in content
        assert len(list((tmp_path / "out" / "uploads").rglob("*.*"))) == 4
        assert b"\\u003cscript>" in served.raw("GET", "/")[2] and b"<script>alert" not in served.raw("GET", "/")[2]
    finally:
        served.close()


def test_cancelling_stops_within_an_image_and_asking_again_goes_on(server, monkeypatch):
    def slowly(worker, item, step):
        for done in range(200):
            time.sleep(0.01)
            step(done, 200)
        raise AssertionError("was not cancelled")

    with monkeypatch.context() as patched:
        patched.setattr("ovseg.app.labelling.attempt", slowly)
        server.post("/api/ask", classes="cat, cow", background="none")
        while server.get("/api/state")["progress"]["state"] == "loading":
            time.sleep(0.02)
        status, answer = server.refused("/api/ask", classes="pig", background="none")
        assert status == 400 and "the models are at work" in answer["error"]
        assert server.get("/api/scores", id="a")["best"] == {}  # answered between the steps
        server.post("/api/cancel")
        while server.get("/api/state")["progress"]["state"] == "working":
            time.sleep(0.02)
    state = server.get("/api/state")
    assert state["progress"]["text"] == "cancelled; what is done is kept" and state["readOnly"] == ""
    assert server.get("/api/rows")["rows"][0]["state"] == "pending"
    assert server.ask("cat, cow")["progress"]["text"] == "3 images"
    assert server.get("/api/rows")["rows"][0]["state"] == "done"


def test_quick_tasks_go_between_the_steps_of_a_long_one_which_can_be_cancelled():
    worker, seen = Worker(), []

    def long() -> None:
        for step in range(10_000):
            seen.append(step)
            time.sleep(0.001)
            worker.between()

    running = worker.submit(long)
    time.sleep(0.05)
    assert worker.submit(lambda: len(seen), quick=True).result(5) < 5000
    waiting = worker.submit(lambda: "next")
    worker.cancel()
    with pytest.raises(Cancelled):
        running.result(5)
    assert waiting.result(5) == "next" and worker.stop()
    with pytest.raises(Busy):
        worker.submit(long)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "--token: missing; at 0.0.0.0 others can reach the page, so choose one with --token"),
        (["--token", "short"], "--token: expected at least 16 letters, digits, - or _, got 5"),
        (["--port", "70000"], "--port: expected 0 to 65535, got 70000"),
        (["nowhere"], "nowhere: no such file or folder"),
        (["--preset", "none-such"], "--preset: no preset 'none-such'"),
    ],
)
def test_mistakes_in_the_call_are_one_line(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    ended = run_here("app", *flags, "--no-browser", *(() if "--preset" in flags else ("--preset", "pocket")))
    assert ended.returncode == 2 and message in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_out_is_refused_where_a_run_is_opened_and_would_do_nothing(tmp_path):
    run = write_run(tmp_path / "run", {"a": np.zeros((4, 5), int)}, ["cat"])
    ended = run_here("app", str(run), "--out", str(tmp_path / "other"), "--no-browser", "--preset", "pocket")
    assert (
        ended.returncode == 2 and "--out: " in ended.stderr and "is a run, which is corrected in place" in ended.stderr
    )


def test_what_a_kill_left_of_an_upload_and_what_is_left_out_do_not_stop_it(photos, tmp_path):
    (tmp_path / "out/uploads").mkdir(parents=True)
    (tmp_path / "out/uploads/.0123456789abcdef.upload").write_bytes(b"half")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes((photos / "a.png").read_bytes())
    (tmp_path / "photos/raw.nef").write_bytes(b"raw")
    lines: list[str] = []
    opened = Session.open(Setup.of("pocket", {}), tmp_path / "photos", tmp_path / "out", "Ada", tell=lines.append)
    assert list(opened.items) == ["a"] and opened.close()
    assert len(lines) == 1 and "raw.nef" in lines[0]


def test_a_run_is_asked_again_the_way_it_was_made(photos, tmp_path):
    """Its votes, its refinement and its bias are neither lost in silence nor missing from the command."""
    run, image = tmp_path / "run", str(photos / "a.png")
    flags = ["--preset", "pocket", "--by", "naive", "--masks", "6", "--device", "cpu", "--keep-analysis", "--vote"]
    flags += ["--refine", "none", "--background", "words", "--background-bias=-0.5"]
    assert run_here("label", image, "--classes", "cat,dog", "--out", str(run), *flags).returncode == 0
    before = {path.name: path.read_bytes() for path in run.glob("a.*")}, (run / "a.png").stat().st_mtime_ns
    setup, note = make_setup(parser().parse_args(["app", str(run), "--device", "cpu"]))
    assert (setup.vote, setup.refine, note) == (True, "none", "")
    opened = Session.open(setup, run, tmp_path / "unused", "Ada")
    try:
        label_images(opened, Models(opened), Ask.read({"classes": "cat\ndog", "background": "words"}, setup))
        assert opened.out == run and opened.progress.state == "done"
        assert (
            {path.name: path.read_bytes() for path in run.glob("a.*")},
            (run / "a.png").stat().st_mtime_ns,
        ) == before
        shown = commands.shown(opened)
    finally:
        assert opened.close()
    asked = parser().parse_args(shlex.split(shown["command"])[1:])
    assert (asked.vote, asked.refine, asked.background_bias, asked.by) == (True, "none", -0.5, "naive")
    assert "vote=True, refine='none'" in shown["python"] and "'words', -0.5)" in shown["python"]


def test_the_space_starts_the_page_with_its_secret_and_its_name():
    script = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "space" / "app.py"))
    given = script["arguments"]({"OVSEG_TOKEN": "t" * 16, "SPACE_HOST": "me-ovseg.hf.space", "HOME_OF_RESULTS": "x"})
    parsed = parser().parse_args(given)
    assert (parsed.host, parsed.port, parsed.token) == ("0.0.0.0", 7860, "t" * 16)
    assert parsed.allow_host == ["me-ovseg.hf.space"]
    assert parsed.preset == "photo" and Path(parsed.out) == Path("x/ovseg-app")
    with pytest.raises(SystemExit, match="OVSEG_TOKEN"):
        script["arguments"]({})
