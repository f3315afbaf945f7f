"""Images in stores, on web servers, in archives: what ids they get, and that the work is the same as on files."""

from __future__ import annotations

import functools
import http.server
import io
import socket
import tarfile
import threading
from pathlib import Path

import fsspec
import fsspec.core
import numpy as np
import pyarrow
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fuzzing import check_one_line
from PIL import Image
from pyarrow import parquet

from ovseg.cli import main
from ovseg.images import read_image
from ovseg.run import packed, stores
from ovseg.run.folder import read_run
from ovseg.run.images import RunImage
from ovseg.run.inputs import collect
from ovseg.run.pictures import read_item

NAMES = ("a.png", "sub/b.jpg", "sub/c.png")


def image(number: int) -> bytes:
    cells = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(cells.repeat(8, 0).repeat(8, 1)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The images as files."""
    for number, name in enumerate(NAMES):
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(number))
    return tmp_path / "files"


class Bucket(MemoryFileSystem):
    """A store in memory, under the name of S3."""

    protocol = "s3"
    store: dict = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("s3://").strip("/") if path.strip("/") else ""


@pytest.fixture
def bucket(files: Path) -> Bucket:
    fsspec.register_implementation("s3", Bucket, clobber=True)
    store = fsspec.filesystem("s3")
    store.store.clear()
    for name in NAMES:
        store.pipe(f"bucket/photos/{name}", (files / name).read_bytes())
    store.pipe("bucket/photos/notes.txt", b"no image")
    store.pipe("bucket/photos/raw.nef", b"raw")
    return store


def check_same(given: str, ids: dict[str, str], files: Path, tmp_path: Path) -> None:
    """The input has these ids (id -> file), the same pixels, and `ovseg masks` makes the same of them."""
    items = collect([given], tmp_path / "out")
    assert {item.id for item in items} == set(ids)
    for item in items:
        assert (read_item(item.path) == read_image(files / ids[item.id])).all()
    flags = ["--by", "slic", "--masks", "4", "--preset", "pocket", "--device", "cpu"]
    assert main(["masks", str(files), "--out", str(tmp_path / "plain"), *flags]) == 0
    for _ in range(2):  # the second call finds all done
        assert main(["masks", given, "--out", str(tmp_path / "out"), *flags]) == 0
    for id, name in ids.items():
        plain = (tmp_path / "plain" / Path(name).with_suffix(".png")).read_bytes()
        assert (tmp_path / f"out/{id}.png").read_bytes() == plain


def test_a_bucket_is_labelled_like_a_folder(bucket: Bucket, files: Path, tmp_path: Path, capsys) -> None:
    check_same("s3://bucket/photos", {"a": "a.png", "sub/b": "sub/b.jpg", "sub/c": "sub/c.png"}, files, tmp_path)
    printed = capsys.readouterr().err
    assert "left out, camera raw is not read: develop it to JPEG or TIFF: /bucket/photos/raw.nef" in printed
    assert "3 of 3 images are finished already" in printed
    run = read_run(tmp_path / "out")
    assert run.ids["sub/b"]["file"] == "s3:/bucket/photos/sub/b.jpg"
    with pytest.raises(ValueError, match="lies in a store .s3., from where nothing is fetched for a record"):
        RunImage(run, "a").photo((32, 40))


def test_patterns_and_single_images_of_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    def ids(given: str) -> list[str]:
        return [item.id for item in collect([given], tmp_path)]

    assert ids("s3://bucket/photos/*/*.png") == ["sub/c"]
    assert ids("s3://bucket/photos/sub/b.jpg") == ["b"]
    (tmp_path / "list.txt").write_text("s3://bucket/photos/a.png\n")
    assert ids(str(tmp_path / "list.txt")) == ["bucket/photos/a"]
    with pytest.raises(ValueError, match="s3://bucket/nothing: no images there"):
        ids("s3://bucket/nothing")


def test_runs_in_a_bucket_are_no_images(bucket: Bucket, tmp_path: Path) -> None:
    for name in ("run.json", "a.png", "sub/b.png"):
        bucket.pipe(f"bucket/photos/out/{name}", b"{}")
    told: list[str] = []
    assert {item.id for item in collect(["s3://bucket/photos"], tmp_path, tell=told.append)} == {"a", "sub/b", "sub/c"}
    assert "left out, as results of other runs (they hold a run.json): s3:/bucket/photos/out" in told
    with pytest.raises(ValueError, match="s3://bucket/photos/out: is a run's results; give the folder of images"):
        collect(["s3://bucket/photos/out"], tmp_path)


def test_an_image_that_is_gone_is_told_and_the_rest_goes_on(bucket: Bucket, tmp_path: Path, capsys) -> None:
    (tmp_path / "list.txt").write_text("s3://bucket/photos/gone.png\ns3://bucket/photos/a.png\n")
    flags = ["--by", "slic", "--masks", "4", "--preset", "pocket", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["masks", str(tmp_path / "list.txt"), *flags]) == 1
    assert "failed: s3://bucket/photos/gone.png: cannot be fetched" in capsys.readouterr().err
    assert read_run(tmp_path / "out").done == ["bucket/photos/a"]


def test_a_store_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ValueError, match=r"s3://bucket/x: Install s3fs to access S3: pip install 'ovseg\[stores\]'"):
        collect(["s3://bucket/x"], tmp_path)


def test_a_web_server(files: Path, tmp_path: Path) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=files)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        (item,) = collect([f"{url}/sub/b.jpg?size=1"], tmp_path / "out")
        assert item.id == "b" and (read_item(item.path) == read_image(files / "sub/b.jpg")).all()
        (gone,) = collect([f"{url}/gone.png"], tmp_path / "out")
        with pytest.raises(ValueError, match=f"^{url}/gone.png: cannot be fetched .*404"):
            read_item(gone.path)
        with pytest.raises(ValueError, match="empty parts or dots in an address"):
            collect([f"{url}//a.png"], tmp_path / "out")
    finally:
        server.shutdown()


def test_a_tar_archive(files: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for name in (*NAMES, "sub"):
            archive.add(files / name, name, recursive=False)
    (tmp_path / "files/notes.txt").write_text("no image")
    check_same(str(tmp_path / "shard.tar"), {"a": "a.png", "sub/b": "sub/b.jpg", "sub/c": "sub/c.png"}, files, tmp_path)
    assert RunImage(read_run(tmp_path / "out"), "sub/b").photo((32, 40)).shape == (32, 40, 3)  # reports show it
    with tarfile.open(tmp_path / "MAC.TAR", "w") as archive:
        archive.add(files / "a.png", "./a.png")
        archive.add(files / "a.png", "./._a.png")  # what macOS puts beside each file; it is no image
    (item,) = collect([tmp_path / "MAC.TAR"], tmp_path / "out")
    assert item.id == "a" and (read_item(item.path) == read_image(files / "a.png")).all()
    (tmp_path / "x.tar").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="x.tar: not a tar archive without compression"):
        collect([tmp_path / "x.tar"], tmp_path / "out")


@pytest.mark.parametrize("form", ["struct", "binary"])
def test_parquet(files: Path, tmp_path: Path, form: str) -> None:
    data = [(files / name).read_bytes() for name in NAMES]
    pictures = [{"bytes": one, "path": None} for one in data] if form == "struct" else data
    columns = {"image": pictures, "n": [1, 2, 3]} | ({"id": list(NAMES)} if form == "struct" else {})
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet", row_group_size=2)
    names = ["a", "sub/b", "sub/c"] if form == "struct" else ["00000000", "00000001", "00000002"]
    check_same(str(tmp_path / "x.parquet"), dict(zip(names, NAMES, strict=True)), files, tmp_path)
    parquet.write_table(pyarrow.table({"n": [1]}), tmp_path / "y.parquet")
    with pytest.raises(ValueError, match="y.parquet: expected a column of image bytes, such as image, got n"):
        collect([tmp_path / "y.parquet"], tmp_path / "out")
    (tmp_path / "z.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match="z.parquet: not parquet"):
        collect([tmp_path / "z.parquet"], tmp_path / "out")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf", b"what is this\r\n"])
def test_a_broken_answer_of_a_server_is_that_images_failure(answer: bytes):
    """A body that is cut short, and an answer that is none: http.client's own errors, which are no OSError."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        name = f"127.0.0.1:{server.getsockname()[1]}/a.png"
        with pytest.raises(ValueError, match=f"^http://{name}: cannot be fetched"):
            stores.http(name)
        thread.join()


EVIL = ("../e.png", "a/../../e.png", "C:/x.png", "a\\..\\..\\x.png", "\\\\host\\x.png")


def test_names_in_archives_that_lead_elsewhere_are_left_out_and_said(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in (*EVIL, "/etc/a.png", "b\nc.png", "\x1b[31m.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(image(0))
            archive.addfile(entry, io.BytesIO(image(0)))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            entry = tarfile.TarInfo(f"link{kind!r}.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    ids = [*EVIL, "/etc/a", "b\nc", "a\0b"]
    parquet.write_table(pyarrow.table({"image": [image(0)] * len(ids), "id": ids}), tmp_path / "x.parquet")
    for name in ("x.tar", "x.parquet"):
        told: list[str] = []
        items = collect([tmp_path / name], tmp_path / "out", tell=told.append)
        assert {"etc/a", "b\nc"} < {item.id for item in items} | {"\x1b[31m"} and len(items) in (2, 3)
        assert sum("left out, as their names cannot be ids" in line for line in told) >= 2
        for item in items:
            assert read_item(item.path).shape == (32, 40, 3)
    parquet.write_table(pyarrow.table({"image": [image(0)], "id": ["../e"]}), tmp_path / "x.parquet")
    packed._parquet.cache_clear()
    with pytest.raises(ValueError, match=r"x.parquet: holds no images; 1 left out, as their names cannot be ids"):
        collect([tmp_path / "x.parquet"], tmp_path / "out")


@pytest.mark.parametrize("name", ["127.0.0.1:99999/a.png", "127.0.0.1:x/a.png", "[x/a.png", "127.0.0.1:1/a b.png"])
def test_addresses_that_are_none_are_one_images_failure(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be fetched") as caught:
        stores.https(name)
    check_one_line(caught.value, f"https://{name}")
