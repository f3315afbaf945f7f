"""Damaged and crafted videos and animations: each frame is read, or one line names the file; nothing else is opened.

Cases are drawn by a fixed seed, see `fuzzing`.
"""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import time
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from fuzzing import bounded_memory, check_one_line, damaged_bytes, refusing_network, seeds
from moving_scenes import write_video
from PIL import Image
from processes import run_here
from run_folders import write_run

from ovseg.run.decoded import frames_a_second
from ovseg.run.inputs import collect
from ovseg.run.overlay_video import write_clips
from ovseg.run.pictures import read_item

ROOM = 2**30  # bytes that a case may take
SECONDS = 20.0  # of the processors
MOST = 8  # frames that are read of a case
CODECS = {".mov": "png", ".mp4": "libx264", ".mkv": "mpeg4", ".avi": "mjpeg", ".webm": "libvpx", ".ts": "mpeg2video"}


def noise(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(number).integers(0, 256, (32, 48, 3), dtype=np.uint8) for number in range(count)]


def write_sound(path: Path) -> None:
    """Four frames in a container's usual form."""
    if path.suffix in (".gif", ".webp", ".png"):
        first, *rest = map(Image.fromarray, noise(4))
        first.save(path, save_all=True, append_images=rest, duration=40)
        return
    if path.suffix == ".mov":
        write_video(path, noise(4))
        return
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=25)
        stream.width, stream.height = 48, 32
        stream.pix_fmt = "yuvj420p" if path.suffix == ".avi" else "yuv420p"
        for image in noise(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def tried(path: Path, out: Path, every: int = 1) -> int:
    """How many frames are read of the first `MOST`; for the others, or for all, a line that names the file."""
    read = 0
    try:
        for item in collect([path], out, every=every)[:MOST]:
            try:
                assert read_item(item.path).shape[2] == 3
                read += 1
            except ValueError as error:
                check_one_line(error, str(path))
        frames_a_second(path)
    except ValueError as error:
        check_one_line(error, str(path))
    return read


@pytest.mark.parametrize("ending", [*CODECS, ".gif", ".webp", ".png"])
def test_fuzzed_videos(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"clip{ending}"
    write_sound(path)
    content = path.read_bytes()
    read = tried(path, tmp_path / "out")
    assert read == 4
    for seed in seeds(15):
        draw = random.Random(seed)
        damage = content
        for _ in range(draw.choice((1, 1, 2, 5))):
            damage = damaged_bytes(damage, draw)
        path.write_bytes(damage)
        start = time.process_time()
        try:
            with refusing_network() as asked, bounded_memory(ROOM):
                read += tried(path, tmp_path / "out", draw.choice((1, 2, 10**9)))
            assert not asked and time.process_time() - start < SECONDS
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {ending}: {error!r}") from error
    assert read > 4


def playlists(port: int, other: Path) -> dict[str, str]:
    """Texts that lead a careless reader to another file and to an address."""
    address = f"http://127.0.0.1:{port}/a.ts"
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{other}'\nfile '{address}'\n",
        "protocol": f"concat:{other}|{address}",
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
        "asf": f"[Reference]\nRef1={address}\nRef2={other}\n",
        "dash": f'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet mimeType="video/mp4">'
        f'<Representation id="1" bandwidth="1"><BaseURL>{address}</BaseURL></Representation></AdaptationSet></Period>'
        "</MPD>",
    }


@pytest.mark.parametrize("ending", [".mp4", ".ts", ".wmv", ".mkv"])
def test_what_refers_to_other_files_or_addresses_opens_nothing(tmp_path: Path, ending: str) -> None:
    other = tmp_path / "other.mov"
    os.mkfifo(other)  # which cannot be opened for writing unless somebody has it open
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        for name, text in playlists(server.getsockname()[1], other).items():
            path = tmp_path / f"{name}{ending}"
            path.write_text(text)
            with pytest.raises(ValueError, match=f"{path}: (not a video that can be read|holds no frames)"):
                collect([path], tmp_path / "out", every=1)
            with pytest.raises(BlockingIOError):
                server.accept()
            with pytest.raises(OSError, match="No such device"):
                os.open(other, os.O_WRONLY | os.O_NONBLOCK)


def png(width: int, height: int) -> bytes:
    """A black PNG of a bit a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes((-(-width // 8) + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def write_packets(path: Path, pictures: list[bytes]) -> Path:
    """A video of PNGs as they are."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "rgb24"
        for number, picture in enumerate(pictures):
            packet = av.Packet(picture)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 10)
            packet.is_keyframe = True
            container.mux(packet)
    return path


def write_gif(path: Path, width: int, height: int, frames: list[tuple[int, int]]) -> Path:
    """A GIF whose frames are declared as so large, and hold a pixel."""
    header = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff"
    control = b"\x21\xf9\x04\x04\x01\0\0\0\x2c"
    body = [control + struct.pack("<HHHH", 0, 0, *size) + b"\0\x02\x02\x44\x01\0" for size in frames]
    path.write_bytes(header + b"".join(body) + b";")
    return path


def too_large(folder: Path) -> dict[Path, str]:
    """Small files that declare large frames -> what is said of them."""
    small, large = png(48, 32), png(12000, 9000)
    one = [(1, 1)]
    return {
        write_packets(folder / "all.mov", [large, large]): "frame 0 is damaged or over 100 megapixels",
        write_packets(folder / "one.mov", [small, large, small]): "frame 1 is damaged or over 100 megapixels",
        write_gif(folder / "canvas.gif", 13000, 13000, one * 3): "13000 x 13000 pixels; at most 100 megapixels",
        write_gif(folder / "bomb.gif", 65535, 65535, one * 3): "at most 100 megapixels are read",
        write_gif(folder / "grows.gif", 9, 9, [(1, 1), (12000, 9000), (1, 1)]): "frame 1: 12000 x 9000 pixels; at most",
        write_gif(folder / "bursts.gif", 9, 9, [(1, 1), (65535, 65535)]): "cannot be read from frame 1 on",
    }


def test_frames_that_are_declared_too_large_take_no_memory(tmp_path: Path) -> None:
    for path, expected in too_large(tmp_path).items():
        said = []
        with bounded_memory(2**29):
            for number in range(3):
                try:
                    assert read_item(Path(f"video:{path}#frame={number}")).shape[0] < 100
                except ValueError as error:
                    said.append(str(error))
            assert any(expected in one for one in said), (path, said)
            assert tried(path, tmp_path / "out") < 3


def test_a_record_that_names_frames_is_no_way_to_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "text.gif").write_text("none")
    sources = [*too_large(tmp_path), tmp_path / "text.gif", tmp_path / "gone.mp4", Path("/etc/passwd")]
    names = {f"a{number}": Path(f"video:{path}#frame=1") for number, path in enumerate(sources)}
    names["long"] = Path(f"video:{sources[0]}#frame={'9' * 5000}")
    run = write_run(tmp_path / "run", dict.fromkeys(names, np.ones((4, 5), np.uint8)), ["cat", "dog"], sources=names)
    done = run_here("report", run)
    assert done.returncode == 0 and "Traceback" not in done.stderr and f"{len(names)} images" in done.stdout
    copied = run_here("export", run, "--format", "png", "--images", "copy", "--out", tmp_path / "export")
    assert copied.returncode in (0, 1) and "Traceback" not in copied.stderr
    assert not [path for path in (tmp_path / "export").rglob("*") if path.suffix in (".gif", ".mov", ".webp")]


def test_a_failure_of_a_frame_does_not_begin_the_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = png(48, 32)
    path = write_packets(tmp_path / "clip.mov", [small, small[:60]] * 50)
    items = collect([path], tmp_path / "out", every=1)
    opened: list[object] = []
    kept = av.open
    monkeypatch.setattr(av, "open", lambda *given, **more: (opened.append(given), kept(*given, **more))[1])
    failed = 0
    for item in items:
        try:
            read_item(item.path)
        except ValueError as error:
            assert "is damaged" in str(error)
            failed += 1
    assert failed == 50 and len(opened) == 1


def test_titles_in_any_encoding_names_of_dots_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "XXXX"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(1)[0], format="rgb24")))
        container.mux(stream.encode())
    assert b"XXXX" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"XXXX", b"caf\xe9"))
    assert tried(path, tmp_path / "out") == 1
    for name in ("..avi", "...avi"):
        path.rename(tmp_path / name)
        (item,) = collect([tmp_path / name], tmp_path / "out", every=1)
        assert item.id == f"{name}/000000"
        path = tmp_path / name


def animation(path: Path, numerator: int, denominator: int) -> Path:
    """An animated PNG of two frames, each shown for so long."""
    content = io.BytesIO()
    first, *rest = map(Image.fromarray, noise(2))
    first.save(content, format="PNG", save_all=True, append_images=rest, duration=1000)
    data = bytearray(content.getvalue())
    for place in [place for place in range(len(data)) if data[place : place + 4] == b"fcTL"]:
        data[place + 24 : place + 28] = struct.pack(">HH", numerator, denominator)
        data[place + 30 : place + 34] = struct.pack(">I", zlib.crc32(data[place : place + 30]))
    path.write_bytes(data)
    return path


def test_a_clip_has_a_speed_however_fast_or_slow_its_frames_are(tmp_path: Path) -> None:
    check: Callable[[Path, int], Fraction] = lambda path, every: clip_of(tmp_path, path, every)  # noqa: E731
    assert check(animation(tmp_path / "fast.png", 1, 65535), 1) == 1000
    assert check(animation(tmp_path / "slow.png", 65535, 1), 999_999_999) == Fraction(1, 1000)
    assert check(animation(tmp_path / "plain.png", 1, 4), 1) == 4


def clip_of(folder: Path, path: Path, every: int) -> Fraction:
    """The speed of the clip of overlays that is written for an animation of two frames."""
    out, said = folder / "run", []
    items = collect([path], out, every=1)
    write_run(out, {item.id: np.ones((32, 48), np.uint8) for item in items}, ["cat", "dog"])
    for item in items:
        Image.fromarray(noise(1)[0]).save(out / f"{item.id}.overlay.png")
    write_clips(out, items, every, tell=said.append)
    assert len(said) == 1 and said[0].startswith("overlays of 2 frames in ")
    with av.open(str(out / f"{path.stem}.overlay.mp4")) as clip:
        return Fraction(clip.streams.video[0].average_rate or 0)
