"""A run folder in a bucket: a store in memory here, and a real S3 server on loopback where moto is installed."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image
from processes import run_here

from ovseg.run.attempt import Outcome
from ovseg.run.bucket import Bucket, is_bucket
from ovseg.run.bucket_job import BucketJob
from ovseg.run.folder import read_run
from ovseg.run.images import RunImage
from ovseg.run.record import Run
from ovseg.run.work import MaskJob
from ovseg.setup import Setup

FLAGS = ("--by", "slic", "--masks", "4", "--preset", "pocket", "--device", "cpu")
CLASSES = ("--classes", "boat,sheep")
MOTO = "moto is not installed here, it brings an older python-dateutil: pip install s3fs 'moto[s3,server]'"


@dataclass(frozen=True)
class Store:
    """A bucket: the address of a run in it, and what fsspec has for it."""

    run: str
    files: Any
    stop: Callable[[], None] = lambda: None

    def names(self, run: str) -> set[str]:
        self.files.invalidate_cache()
        root = self.files._strip_protocol(run)
        return {path.removeprefix(root).lstrip("/") for path in self.files.find(root)}

    def read(self, run: str, name: str) -> bytes:
        return self.files.cat_file(f"{run}/{name}")


@pytest.fixture
def memory() -> Iterator[Store]:
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield Store("memory://bucket/runs/one", store)
    store.store.clear()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A bucket of a server that speaks S3, started here and stopped again."""
    if find_spec("moto") is None or find_spec("s3fs") is None:
        pytest.skip(MOTO)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        settings = {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        settings |= {"EC2_METADATA_DISABLED": "true", "DEFAULT_REGION": "us-east-1", "MAX_ATTEMPTS": "1"}
        for key, value in settings.items():
            monkeypatch.setenv(f"AWS_{key}", value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        store = fsspec.filesystem("s3")
        store.mkdir("bucket")
        yield Store("s3://bucket/runs/one", store, server.kill)
    finally:
        server.kill()
        server.wait()
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images in cells, one of them in a folder."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a", "b", "sub/c", "d")):
        cells = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(cells.repeat(8, 0).repeat(8, 1)).save(folder / f"{name}.png")
    return folder


def results(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def check_whole_way(store: Store, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label into the bucket with a stop halfway, go on, export, report; all as by a run on a disk."""
    plain = tmp_path / "plain"
    assert run_here("label", photos, "--out", plain, *FLAGS, *CLASSES).returncode == 0
    note, noted = Run.note, []

    def stopping(self: Run, outcome: Outcome) -> None:
        note(self, outcome)
        noted.append(outcome.item.id)
        if len(noted) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "note", stopping)
    label = ("label", photos, "--out", store.run, *FLAGS, *CLASSES)
    assert run_here(*label).returncode == 130
    monkeypatch.setattr(Run, "note", note)
    states = [entry["state"] for entry in json.loads(store.read(store.run, "run.json"))["ids"].values()]
    assert sorted(states) == ["done", "done", "pending", "pending"]
    done = {name: store.files.modified(f"{store.run}/{name}") for name in store.names(store.run) if name != "run.json"}
    assert len(done) == 8
    second = run_here(*label)
    assert second.returncode == 0 and "2 of 4 images are finished already" in second.stderr
    assert f"results in {store.run}" in second.stderr
    assert {name: store.files.modified(f"{store.run}/{name}") for name in done} == done  # only the rest was done
    whole = results(plain)
    assert store.names(store.run) == {*whole, "run.json"}  # no lock, and no other sign, stays
    assert {name: store.read(store.run, name) for name in whole} == whole
    here, there = read_run(plain), read_run(store.run)
    assert there.facts == here.facts and there.done == here.done and len(there.done) == 4
    assert (RunImage(there, "sub/c").index_map() == RunImage(here, "sub/c").index_map()).all()
    for run, name in ((plain, "here"), (store.run, "there")):
        formats = ("--format", "coco", "--format", "png", "--format", "npz")
        exported = run_here("export", run, *formats, "--out", tmp_path / name, "--images", "copy")
        assert exported.returncode == 0, exported.stderr
        page = run_here("report", run, "--out", tmp_path / f"{name}.html", "--title", "a run")
        assert page.returncode == 0 and "4 images" in page.stdout, page.stderr
    exports = [results(tmp_path / name) for name in ("here", "there")]
    for one in exports:
        assert one.pop("export.json")
    assert exports[0] == exports[1] and len(exports[0]) > 8
    pages = [(tmp_path / f"{name}.html").read_text() for name in ("here", "there")]
    assert len(pages[0]) > 10_000 and abs(len(pages[0]) - len(pages[1])) < 200  # files' times of writing differ
    store.files.rm_file(f"{store.run}/b.masks.png")  # what somebody removed is done again
    third = run_here(*label)
    assert third.returncode == 0 and "3 of 4 images are finished already" in third.stderr
    assert store.read(store.run, "b.masks.png") == whole["b.masks.png"]
    other = run_here(*label[:-1], "cow,pig")
    assert other.returncode == 2 and f"{store.run}/run.json was made with other settings" in other.stderr


def test_a_bucket_in_memory(memory, photos, tmp_path, monkeypatch):
    check_whole_way(memory, photos, tmp_path, monkeypatch)


def test_a_bucket_of_a_real_server(s3, photos, tmp_path, monkeypatch):
    check_whole_way(s3, photos, tmp_path, monkeypatch)
    plain, photo = run_here("masks", photos, "--out", tmp_path / "masks", *FLAGS), f"{s3.run}-photos"
    assert plain.returncode == 0
    for path in photos.rglob("*.png"):
        s3.files.pipe_file(f"{photo}/{path.relative_to(photos)}", path.read_bytes())
    for number in (1, 2):  # from a bucket into a bucket, in shards
        shard = run_here("masks", photo, "--out", f"{s3.run}-masks", "--shard", f"{number}/2", *FLAGS)
        assert shard.returncode == 0, shard.stderr
    found = read_run(f"{s3.run}-masks")
    assert len(found.done) == 4 and found.file("sub/c", ".png").read_bytes() == results(tmp_path / "masks")["sub/c.png"]
    missing = run_here("masks", photos, "--out", "s3://nobody/run", *FLAGS)
    assert missing.returncode == 2 and len(missing.stderr.splitlines()) == 1, missing.stderr
    assert "s3://nobody/run: cannot be " in missing.stderr and "bucket does not exist" in missing.stderr
    note = Run.note

    def breaking(self: Run, outcome: Outcome) -> None:
        note(self, outcome)
        s3.stop()

    monkeypatch.setattr(Run, "note", breaking)
    broken = run_here("masks", photos, "--out", f"{s3.run}-broken", *FLAGS)
    assert broken.returncode == 2 and "Traceback" not in broken.stderr
    assert "ovseg: error: s3://bucket/runs/one-broken" in broken.stderr.splitlines()[-1]
    assert "Could not connect" in broken.stderr.splitlines()[-1]


@pytest.mark.slow
def test_workers_of_ray_fill_a_bucket(s3, photos, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    done = run_here("masks", photos, tmp_path / "bad.png", "--out", s3.run, *FLAGS, "--engine", "ray", "--workers", "2")
    assert done.returncode == 1 and "bad: failed: " in done.stderr, done.stderr
    assert run_here("masks", photos, "--out", tmp_path / "plain", *FLAGS).returncode == 0
    whole = results(tmp_path / "plain")
    assert s3.names(s3.run) == {*whole, "run.json"} and len(whole) == 8
    assert {name: s3.read(s3.run, name) for name in whole} == whole
    again = run_here("masks", photos, tmp_path / "bad.png", "--out", s3.run, *FLAGS)
    assert again.returncode == 1 and "4 of 5 images are finished already" in again.stderr


def test_a_server_without_credentials_and_without_permission(s3, photos, tmp_path, monkeypatch):
    host = os.environ["AWS_ENDPOINT_URL"]
    ask = urllib.request.Request(f"{host}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
    urllib.request.urlopen(ask).close()  # from now on it looks at who asks
    refused = run_here("masks", photos, "--out", s3.run, *FLAGS)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1, refused.stderr
    assert refused.stderr.startswith(f"ovseg: error: {s3.run}: cannot be listed (The AWS Access Key Id you provided")
    for key in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{key}")
    monkeypatch.setenv("HOME", str(tmp_path))
    type(s3.files).clear_instance_cache()
    nobody = run_here("masks", photos, "--out", s3.run, *FLAGS)
    assert nobody.returncode == 2
    assert nobody.stderr == f"ovseg: error: {s3.run}: cannot be listed (Unable to locate credentials)\n"


def test_predictions_in_a_bucket_are_scored(memory, tmp_path):
    predict = ("eval", "predict", "pocket", "--limit", "1", *FLAGS, "--out")
    for out, name in ((tmp_path / "run", "here"), (memory.run, "there")):
        assert run_here(*predict, out).returncode == 0
        score = ("eval", "score", "pocket", "--predictions", out)
        assert run_here(*score, "--out", tmp_path / name).returncode == 0
        assert run_here(*score, "--best-label", "--out", tmp_path / name).returncode == 0
    for table in ("classes.csv", "images.csv", "best-label-images.csv"):
        assert (tmp_path / "there" / table).read_text() == (tmp_path / "here" / table).read_text()
    assert "memory:bucket/runs/one" in (tmp_path / "there/table.md").read_text()
    refused = run_here(*score)
    assert refused.returncode == 2 and f"--out: {memory.run} is a run in a bucket, where this is not" in refused.stderr
    refused = run_here(*predict, memory.run, "--score")
    assert refused.returncode == 2 and "--score: is for a run on a disk; afterwards, `ovseg" in refused.stderr


def test_what_a_bucket_is_not_for_costs_one_line(memory, photos, tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes((photos / "a.png").read_bytes())
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    masks = ("masks", photos, "--out", memory.run, *FLAGS)
    label = ("label", photos, "--out", memory.run, *FLAGS, *CLASSES)
    refused = {
        (*masks, "--overwrite"): "--overwrite: is for a folder on a disk",
        ("label", tmp_path / "x.gif", *label[2:]): f"--out: {memory.run}: frames go on from what the one before left",
        (*label, "--format", "coco"): "--format: is for a run on a disk; afterwards, `ovseg export memory://",
        ("masks", photos, "--out", "https://host/run", *FLAGS): "https://host/run: expected a folder of a store",
        ("masks", photos, "--out", "s3:///", *FLAGS): "s3:///: expected a folder of a store",
        ("masks", photos, "--out", "nothing://b/run", *FLAGS): "nothing://b/run: Protocol not known: nothing; expected",
        ("import", "s3://b/run", "--from", tmp_path): "RUN: expected a path, got s3://b/run: this works",
        ("export", tmp_path, "--format", "png", "--out", "s3://b/x"): "--out: expected a path, got s3://b/x: this",
        ("explain", tmp_path / "x.png", "--out", "gs://b/x.png"): "--out: expected a path, got gs://b/x.png",
        (*label, "--analyses", "s3://b/run"): "--analyses: expected a path, got s3://b/run",
        ("export", tmp_path, "--format", "png", "--out", "abfs://b/x"): "--out: expected a path, got abfs://b/x: this",
        ("report", memory.run): f"{memory.run}: not a run folder, it holds no run.json",
    }
    for arguments, said in refused.items():
        done = run_here(*arguments)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and said in done.stderr, done.stderr
    memory.files.pipe_file(f"{memory.run}/sub/c.png", b"somebody's")
    done = run_here(*masks)
    assert done.returncode == 2 and f"{memory.run}/sub/c.png: already there, without the record" in done.stderr
    memory.files.rm(memory.run, recursive=True)
    assert run_here(*masks).returncode == 0
    report = run_here("report", memory.run)
    assert report.returncode == 2
    assert report.stderr.startswith(
        f"ovseg: error: --out: {memory.run} is a run in a bucket, where this is not written"
    )
    memory.files.pipe_file(f"{memory.run}/sub/c.png", b"damaged")
    page = run_here("report", memory.run, "--out", tmp_path / "page.html")
    assert page.returncode == 1 and "not shown: 1" in page.stderr
    memory.files.pipe_file(f"{memory.run}/run.json", b"{]")
    damaged = run_here("report", memory.run, "--out", tmp_path / "two.html")
    assert damaged.returncode == 2 and f"error: {memory.run}/run.json: not JSON" in damaged.stderr  # by its address


def test_one_who_writes_too_is_told_and_the_first_stops(memory, photos, monkeypatch):
    masks = ("masks", photos, "--out", memory.run, *FLAGS)
    note, others = Run.note, []
    monkeypatch.setattr("ovseg.run.record.RECORD_SECONDS", 0.0)

    def another(self: Run, outcome: Outcome) -> None:
        if not others:
            others.append(None)
            others[0] = run_here(*masks)  # begins and ends while the first one is at its first image
        self._due = 0.0
        note(self, outcome)

    monkeypatch.setattr(Run, "note", another)
    first, (second,) = run_here(*masks), others
    assert second.returncode == 0
    assert f"note: {memory.run}: process {os.getpid()} of {socket.gethostname()} began to write" in second.stderr
    assert "a store has no locks: if it still runs, stop it" in second.stderr
    assert first.returncode == 2 and f"{memory.run}/run.json: another process is writing this run" in first.stderr
    assert len(read_run(memory.run).done) == 4 and memory.names(memory.run) & {".run.json.lock"} == set()


def test_a_job_of_a_bucket_travels_and_leaves_nothing_here(memory, photos, tmp_path):
    job = pickle.loads(pickle.dumps(BucketJob(MaskJob(Setup.of("pocket", {"by": "slic"}), tmp_path), memory.run)))
    assert job.out == tmp_path and job.files == job.job.files and job.setup.by == "slic"
    assert is_bucket("memory://a/b") and not is_bucket("a:b") and not is_bucket(Path("s3://a/b"))


def test_files_that_are_fetched_do_not_pile_up(memory):
    for number in range(100):
        memory.files.pipe_file(f"{memory.run}/{number}.png", b"x")
    bucket = Bucket(memory.run)
    for number in range(100):
        assert bucket.fetch(f"{number}.png").read_bytes() == b"x"
    assert len(list(bucket.folder.iterdir())) == 64 and not bucket.fetch("none.png").exists()
    assert bucket.fetch("0.png").read_bytes() == b"x"


@pytest.mark.parametrize("place", ["b/../../../../../../..{}/x", "b/./x", "..", "b\\..\\x", "b/x::file://{}"])
def test_no_address_leads_out_of_the_folder_that_stands_for_it(place, memory, tmp_path):
    outside = tmp_path / "outside"
    with pytest.raises(ValueError, match="expected (a folder of a store|one address)") as refused:
        Bucket(f"memory://{place.format(outside)}")
    assert place.format(outside) in str(refused.value) and not outside.exists()


@pytest.mark.parametrize(
    "url", ["reference://x", "dir://x", "generic://x", "jupyter://x", "zip://x", "ftp://127.0.0.1:1/x"]
)
def test_a_store_that_wants_more_than_an_address_costs_one_line(url, tmp_path):
    done = run_here("report", url, "--out", tmp_path / "page.html")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"ovseg: error: {url}: " in done.stderr and "Traceback" not in done.stderr


def test_a_password_in_an_address_is_refused_and_shown_nowhere(photos, tmp_path):
    (tmp_path / "list.txt").write_text("https://me:hidden@host/a.jpg\n")
    (tmp_path / "x.png").write_bytes((photos / "a.png").read_bytes())
    for arguments in (
        ("masks", "s3://me:hidden@host/photos", "--out", tmp_path / "out", *FLAGS),
        ("masks", "https://me:hidden@host/a.jpg", "--out", tmp_path / "out", *FLAGS),
        ("masks", tmp_path / "list.txt", "--out", tmp_path / "out", *FLAGS),
        ("masks", tmp_path / "x.png", "--out", "ftp://me:hidden@host/out", *FLAGS),
        ("report", "github://me:hidden@host/run", "--out", tmp_path / "page.html"),
        ("export", tmp_path, "--format", "png", "--out", "s3://me:hidden@host/out"),
    ):
        done = run_here(*arguments)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        assert "a user and a password in an address" in done.stderr
        assert "hidden" not in done.stderr + done.stdout and not (tmp_path / "out").exists()


def test_a_file_that_is_cut_short_on_its_way_is_fetched_again(memory, monkeypatch):
    memory.files.pipe_file(f"{memory.run}/a.png", b"whole")
    bucket, get_file = Bucket(memory.run), type(memory.files).get_file

    def cut(self: Any, source: str, target: str, **more: Any) -> None:
        Path(target).write_bytes(b"wh")
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(type(memory.files), "get_file", cut)
    with pytest.raises(ValueError, match="a.png: cannot be fetched .reset by peer"):
        bucket.fetch("a.png")
    monkeypatch.setattr(type(memory.files), "get_file", get_file)
    assert bucket.fetch("a.png").read_bytes() == b"whole"
