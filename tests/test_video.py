"""Videos and animations: frames as they are, masks that keep their ids, results that do not hang on interruptions."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from itertools import pairwise, permutations
from pathlib import Path

import av
import numpy as np
import pytest
from moving_scenes import write_video
from PIL import Image

from bench.videos import measure, moving_scene
from emerdiff import clusters
from emerdiff.clusters import centres, cluster_queries, fit, matched
from ovseg.app.rows import Rows
from ovseg.app.session import Session
from ovseg.classes import build_vocabulary
from ovseg.cli import main
from ovseg.files import read_index_png
from ovseg.images import read_image
from ovseg.pocket.scene import NAMES, SIZE
from ovseg.result import Segmentation
from ovseg.run.decoded import frames_a_second
from ovseg.run.folder import read_run
from ovseg.run.frames import video
from ovseg.run.images import RunImage
from ovseg.run.inputs import Item, collect
from ovseg.run.pictures import read_item
from ovseg.run.video import CARRIED, DECAY, Carried, carried_before, renamed, running_mean
from ovseg.segmenter import Segmenter
from ovseg.setup import Setup

POCKET = ["--classes", ",".join(NAMES), "--preset", "pocket", "--device", "cpu", "--by", "naive"]
SLIC = ["--classes", "cat,tree", "--background", "none", "--device", "cpu", "--by", "slic", "--masks", "4"]


def noise(count: int) -> list[np.ndarray]:
    cells = np.random.default_rng(0).integers(0, 256, (count, 4, 6, 3), dtype=np.uint8)
    return [one.repeat(8, 0).repeat(8, 1) for one in cells]


def label(source: Path, out: Path, *flags: str) -> int:
    return main(["label", str(source), "--out", str(out), *flags])


def files_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("clip/*")}


def test_frames_are_the_ones_that_were_written(tmp_path: Path) -> None:
    images = noise(7)
    write_video(tmp_path / "clip.mov", images)
    items = collect([tmp_path / "clip.mov"], tmp_path / "out", every=3)
    assert [item.id for item in items] == ["clip/000000", "clip/000003", "clip/000006"]
    assert str(items[1].path) == f"video:{tmp_path / 'clip.mov'}#frame=3"
    for place in (0, 1, 1, 2, 0):  # once more, on, and back
        assert (read_item(items[place].path) == images[3 * place]).all()
    for number, reason in ((7, "has no frame 7, only 7"), ("x", "expected PATH#frame=NUMBER")):
        with pytest.raises(ValueError, match=reason):
            read_item(Path(f"video:{tmp_path / 'clip.mov'}#frame={number}"))
    write_video(tmp_path / "clip.mov", images[::-1])  # another file of the same name is read anew
    assert (read_item(items[2].path) == images[0]).all()


def test_a_film_is_read_upright_with_its_own_times_and_over_white(tmp_path: Path) -> None:
    path, (image, other) = tmp_path / "clip.mov", noise(2)
    write_video(path, [image, other], turned=90)
    assert (video(f"{path}#frame=0") == np.rot90(image)).all()
    write_video(path, [image, other], turned=180)
    assert (video(f"{path}#frame=1") == other[::-1, ::-1]).all()
    write_video(path, [image, other, image, other], times=[0, 1, 7, 19])  # each counts, however long it is shown
    assert [item.id[-1] for item in collect([path], tmp_path / "out", every=1)] == ["0", "1", "2", "3"]
    assert (video(f"{path}#frame=2") == image).all() and frames_a_second(path) == 2
    alpha = np.full((32, 48, 1), 255, np.uint8)
    alpha[:, :24] = 0
    write_video(path, [np.concatenate([image, alpha], axis=2)] * 2)
    read = video(f"{path}#frame=1")
    assert (read[:, :24] == 255).all() and (read[:, 24:] == image[:, 24:]).all()


def test_an_animations_holes_are_white_and_its_frames_times_their_own(tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    pictures = [Image.fromarray(image).convert("RGBA") for image in noise(3)]
    for picture in pictures:
        picture.putalpha(Image.fromarray(np.repeat(np.uint8([[0, 255]]), 24, axis=1).repeat(32, axis=0)))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100, 100, 400], disposal=2)
    for number in range(3):
        assert (video(f"{path}#frame={number}")[:, :24] == 255).all()
    assert frames_a_second(path) == 5


def test_two_videos_of_one_name_keep_their_frames_apart(tmp_path: Path) -> None:
    for name, frames in (("a/clip.mov", 2), ("a/clip.avi", 3), ("b/clip.mov", 1)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / name, noise(frames))
    both = [tmp_path / "a/clip.mov", tmp_path / "a/clip.avi"]
    ids = [item.id for item in collect(both, tmp_path / "out", every=1)]
    assert ids == [f"clip.{name}/00000{number}" for name, count in (("mov", 2), ("avi", 3)) for number in range(count)]
    three = collect([*both, tmp_path / "b/clip.mov"], tmp_path / "out", every=2)
    assert [item.id for item in three] == [
        *("a/clip.mov/000000", "clip.avi/000000", "clip.avi/000002", "b/clip.mov/000000")
    ]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_read_frame_by_frame(suffix: str, tmp_path: Path) -> None:
    path, pictures = tmp_path / f"clip.{suffix}", [Image.fromarray(one) for one in noise(3)]
    more = {"lossless": True} if suffix == "webp" else {}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40, **more)
    items = collect([path], tmp_path / "out", every=1)
    assert [item.id for item in items] == ["clip/000000", "clip/000001", "clip/000002"]
    assert (read_item(items[0].path) == read_image(path)).all()
    with Image.open(path) as opened:
        for number, item in enumerate(items):
            opened.seek(number)
            assert (read_item(item.path) == np.asarray(opened.convert("RGB"))).all()
    assert [item.id for item in collect([path], tmp_path / "out")] == ["clip"]  # one image, where none are asked for


def test_masks_keep_their_ids_until_the_scene_changes_and_a_run_goes_on(tmp_path: Path) -> None:
    scenes = moving_scene(100, 2) + moving_scene(200, 1)
    write_video(tmp_path / "clip.mov", [image for image, _, _ in scenes])
    (tmp_path / "frames/clip").mkdir(parents=True)
    for number, (image, _, _) in enumerate(scenes):
        Image.fromarray(image).save(tmp_path / f"frames/clip/{number:06}.png")
    run, single = tmp_path / "run", tmp_path / "single"
    assert label(tmp_path / "clip.mov", run, *POCKET) == 0
    assert label(tmp_path / "frames", single, *POCKET) == 0

    def masks(folder: Path) -> list[np.ndarray]:
        return [read_index_png(folder / f"clip/{number:06}.masks.png") for number in range(len(scenes))]

    def steadiness(maps: list[np.ndarray]) -> float:
        """Share of the points of the first scene that keep their mask's id in the second frame."""
        ids = np.full(2**17, -1)
        ids[scenes[0][2].ravel()] = maps[0].ravel()
        seen = ids[scenes[1][2].ravel()]
        return float((seen == maps[1].ravel())[seen >= 0].mean())

    assert steadiness(masks(run)) > 0.6 > 0.3 > steadiness(masks(single))
    for number in (0, 2):  # the first frame and the first after the cut are as images by themselves
        for ending in (".png", ".masks.png", ".json", ".overlay.png"):
            alone = (single / f"clip/{number:06}{ending}").read_bytes()
            assert (run / f"clip/{number:06}{ending}").read_bytes() == alone, ending

    record = read_run(run)
    assert record.facts["video"] == {"every": 1, "decay": DECAY}
    assert record.ids["clip/000002"]["file"] == f"video:{tmp_path / 'clip.mov'}#frame=2"
    assert (RunImage(record, "clip/000002").photo((128, 128)) == scenes[2][0]).all()
    with av.open(str(run / "clip.overlay.mp4")) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == len(scenes) and clip.streams.video[0].average_rate == 10

    before = files_of(run)
    for name in ("000000.carried.safetensors", "000001.png"):
        (run / "clip" / name).unlink()
    (run / "clip.overlay.mp4").unlink()
    assert label(tmp_path / "clip.mov", run, *POCKET) == 0
    assert files_of(run) == before and (run / "clip.overlay.mp4").is_file()

    assert main(["report", str(run)]) == 0 and (run / "report.html").is_file()
    assert main(["export", str(run), "--format", "coco", "--out", str(tmp_path / "coco")]) == 0


def test_sources_that_cannot_go_on_take_each_frame_by_itself(
    tmp_path: Path, tiny_diffusion: Path, tiny_clip: Path, capsys
) -> None:
    tiny = ["--diffusion", str(tiny_diffusion), "--clip", str(tiny_clip)]
    pictures = [Image.fromarray(one) for one in noise(3)]
    pictures[0].save(tmp_path / "clip.gif", save_all=True, append_images=pictures[1:], duration=40)
    assert label(tmp_path / "clip.gif", tmp_path / "out", *SLIC, *tiny) == 0
    assert "not carried from frame to frame" in capsys.readouterr().err
    assert read_run(tmp_path / "out").done == ["clip/000000", "clip/000001", "clip/000002"]
    with av.open(str(tmp_path / "out/clip.overlay.mp4")) as clip:
        assert clip.streams.video[0].average_rate == 25


def broken_at(path: Path, frame: int) -> None:
    """A video of 5 PNGs, one of which is damaged."""
    write_video(path, noise(5))
    content = bytearray(path.read_bytes())
    starts = [place for place in range(len(content)) if content[place : place + 8] == b"\x89PNG\r\n\x1a\n"]
    content[starts[frame] : starts[frame] + 60] = bytes(60)
    path.write_bytes(content)


def test_a_damaged_frame_is_said_and_masks_go_on_behind_it(
    tmp_path: Path, tiny_diffusion: Path, tiny_clip: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(clusters, "SAME_SCENE", 2.0)  # noise has no clusters
    broken_at(tmp_path / "clip.mov", 3)
    tiny = ["--diffusion", str(tiny_diffusion), "--clip", str(tiny_clip), "--by", "naive"]
    assert label(tmp_path / "clip.mov", tmp_path / "out", *SLIC, *tiny) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'clip.mov'}: frame 3 is damaged" in said and "1 of 5 images failed" in said
    run = read_run(tmp_path / "out")
    assert run.done == [f"clip/00000{number}" for number in (0, 1, 2, 4)]
    item = Item("clip/000004", Path(run.ids["clip/000004"]["file"]))
    before = carried_before(tmp_path / "out", item, 1, 2)
    assert before is not None and (before.scores == Carried.read(carried_file(tmp_path / "out", 2), 2).scores).all()
    now = Carried.read(carried_file(tmp_path / "out", 4), 2)
    own = 2 * now.scores - before.scores  # the mean is of both
    assert (abs(own.sum(axis=1) - 1) < 1e-5).all() and abs(now.scores - before.scores).max() > 1e-6


def carried_file(out: Path, number: int) -> Path:
    return out / f"clip/{number:06}{CARRIED}"


def test_where_a_video_breaks_off_the_rest_is_said_whichever_frames_are_asked_for(
    tmp_path: Path, tiny_diffusion: Path, tiny_clip: Path, capsys
) -> None:
    tiny = ["--diffusion", str(tiny_diffusion), "--clip", str(tiny_clip)]
    pictures = [Image.fromarray(one) for one in noise(6)]
    pictures[0].save(tmp_path / "clip.png", save_all=True, append_images=pictures[1:], duration=40)
    content = bytearray((tmp_path / "clip.png").read_bytes())
    starts = [place for place in range(len(content)) if content[place : place + 4] == b"fcTL"]
    (tmp_path / "clip.png").write_bytes(content[: starts[3] + 60])
    assert label(tmp_path / "clip.png", tmp_path / "out", *SLIC, *tiny, "--every", "2") == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'clip.png'}: cannot be read from frame 3 on" in said and "1 of 3 images failed" in said
    assert read_run(tmp_path / "out").done == ["clip/000000", "clip/000002"]


def test_without_pyav_it_is_said_once_and_animations_have_no_clip(
    tmp_path: Path, tiny_diffusion: Path, tiny_clip: Path, capsys, monkeypatch
) -> None:
    tiny = ["--diffusion", str(tiny_diffusion), "--clip", str(tiny_clip)]
    write_video(tmp_path / "clip.mov", noise(2))
    pictures = [Image.fromarray(one) for one in noise(2)]
    pictures[0].save(tmp_path / "clip.gif", save_all=True, append_images=pictures[1:], duration=40)
    for name in ("av", "av.error"):
        monkeypatch.setitem(sys.modules, name, None)
    out = tmp_path / "out"
    assert label(tmp_path / "clip.mov", out, *SLIC, *tiny) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].endswith("clip.mov: needs PyAV, not installed here: pip install 'ovseg[video]'")
    assert label(tmp_path / "clip.gif", out, *SLIC, *tiny) == 0
    assert f"{out / 'clip.overlay.mp4'} not written: needs PyAV" in capsys.readouterr().err
    assert read_run(out).done == ["clip/000000", "clip/000001"] and not (out / "clip.overlay.mp4").exists()


def test_parts_of_a_run_overwriting_and_the_pages_of_a_video(
    tmp_path: Path, tiny_diffusion: Path, tiny_clip: Path, capsys
) -> None:
    clip, out, images = tmp_path / "clip.mov", tmp_path / "out", noise(4)
    write_video(clip, images)
    tiny = [*SLIC, "--diffusion", str(tiny_diffusion), "--clip", str(tiny_clip)]
    assert label(clip, out, *tiny, "--shard", "1/2") == label(clip, out, *tiny, "--shard", "2/2") == 0
    assert capsys.readouterr().err.count("no clip of overlays: this run is in parts") == 2
    assert label(clip, out, *tiny, "--overwrite") == 0
    assert read_run(out).done == [f"clip/00000{number}" for number in range(4)]
    before = (out / "clip.overlay.mp4").stat().st_mtime_ns
    assert label(clip, out, *tiny) == 0 and (out / "clip.overlay.mp4").stat().st_mtime_ns == before
    write_video(clip, images[::-1])
    assert label(clip, out, *tiny, "--overwrite") == 0 and (out / "clip.overlay.mp4").stat().st_mtime_ns > before
    session = Session.open(Setup.of("pocket", {}), out, tmp_path / "else", "me")
    assert session.order == [f"clip/00000{number}" for number in range(4)]
    photo = Rows(session).picture("clip/000003", "photo")
    with Image.open(BytesIO(photo)) as opened:
        assert abs(np.asarray(opened).astype(int) - images[0]).mean() < 20  # a JPEG


def code(arguments: list[str]) -> object:
    try:
        return main(arguments)
    except SystemExit as stopped:  # argparse's way
        return stopped.code


def test_mistakes_are_one_line_each(tmp_path: Path, capsys) -> None:
    (tmp_path / "text.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://localhost:1/a.ts\n")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    write_video(tmp_path / "clip.mov", noise(2))
    Image.fromarray(noise(1)[0]).save(tmp_path / "one.png")
    clip, out = str(tmp_path / "clip.mov"), str(tmp_path / "out")
    (tmp_path / "empty.mp4").write_bytes(b"")
    naive = [*POCKET[2:], "--classes", "cat"]
    for given, expected in (
        ([str(tmp_path / "text.mp4"), *naive], "text.mp4: not a video that can be read"),
        ([str(tmp_path / "empty.mp4"), *naive], "empty.mp4: not a video that can be read"),
        ([str(tmp_path / "sound.mkv"), *naive], "sound.mkv: holds no frames"),
        ([str(tmp_path / "one.png"), *naive, "--every", "2"], "--every: is for videos"),
        ([clip, *naive, "--every", "0"], "expected a whole number from 1, got '0'"),
        ([clip, str(tmp_path / "one.png"), *naive], "one.png is not: a run is of one kind"),
        ([clip, *naive, "--shard", "1/2"], "--shard: not for videos"),
        ([clip, *naive, "--keep-analysis"], "--keep-analysis: not for videos"),
        ([clip, *naive, "--engine", "ray"], "--engine: not for videos"),
    ):
        assert code(["label", *given, "--out", out]) == 2, expected
        said = capsys.readouterr().err.strip().splitlines()
        assert expected in said[-1] and said[-1].startswith("ovseg: error: "), said
    assert not Path(out).exists()
    assert code(["masks", clip, "--preset", "pocket", "--by", "slic", "--device", "cpu", "--out", out]) == 1
    assert "clip.mov: a video: give it to `ovseg label` by its own name" in capsys.readouterr().err
    folder = tmp_path / "films"
    folder.mkdir()
    write_video(folder / "clip.mov", noise(2))
    assert main(["label", str(folder), *naive, "--out", out]) == 2
    assert "1 left out, a video: give it to `ovseg label` by its own name" in capsys.readouterr().err


def test_a_scores_mean_forgets_and_names_follow_it() -> None:
    before = np.array([[0.9, 0.1], [np.nan, np.nan], [0.4, 0.6]], np.float32)
    now = np.array([[0.3, 0.7], [0.2, 0.8], [np.nan, np.nan]], np.float32)
    mean = running_mean(before, now)
    assert np.allclose(mean, [[0.3 + 0.6 * DECAY, 0.7 - 0.6 * DECAY], [0.2, 0.8], [0.4, 0.6]])
    masks = np.array([[0, 0, 1]], np.int32)
    labels = np.array([[1, 1, 1]], np.uint8)
    plain = Segmentation(labels, ("a", "b"), ((0, 0, 0), (9, 9, 9)), masks, now[:2])
    found = renamed(plain, mean, build_vocabulary("a,b", "none"), by_vote=False)
    assert found.labels.tolist() == [[0, 0, 1]] and found.labels.dtype == np.uint8
    assert np.allclose(found.mask_scores, mean[:2])


def test_what_is_carried_reads_back_and_damage_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    carried = Carried(rng.random((3, 5), np.float32), rng.random((3, 2), np.float32))
    carried.save(tmp_path, "clip/000001")
    path = tmp_path / f"clip/000001{CARRIED}"
    again = Carried.read(path, 2)
    assert (again.centres == carried.centres).all() and (again.scores == carried.scores).all()
    for number, found in ((0, False), (1, False), (2, True), (3, True)):  # the nearest one before
        item = Item(f"clip/{number:06}", Path(f"video:/clip.mov#frame={number}"))
        assert (carried_before(tmp_path, item, 1, 2) is not None) == found
    with pytest.raises(ValueError, match=r"clip.000001.carried.safetensors: not what a frame of this run left"):
        Carried.read(path, 3)
    for wrong in (Carried(carried.centres * np.float32("nan"), carried.scores), Carried(*2 * [carried.scores + 7])):
        wrong.save(tmp_path, "clip/000001")
        with pytest.raises(ValueError, match="carried.safetensors: not what a frame of this run left"):
            Carried.read(path, 2)
    Carried(carried.centres, carried.scores * np.float32("nan")).save(tmp_path, "clip/000001")
    assert np.isnan(Carried.read(path, 2).scores).all()  # of masks without pixels
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"carried.safetensors: damaged"):
        Carried.read(path, 2)


def test_clusters_go_on_from_centres_of_the_frame_before() -> None:
    rng = np.random.default_rng(1)
    middles = rng.normal(0, 10, (5, 8))
    owners = rng.permutation(np.repeat(np.arange(5), 20))
    first = (middles[owners] + rng.normal(0, 1, (100, 8))).astype(np.float32)
    second = (middles[owners] + rng.normal(0, 1, (100, 8)) + 0.5).astype(np.float32)
    start = middles[[3, 1, 4, 0, 2]].astype(np.float32)
    ids = cluster_queries(second, 5, seed=0, start=start)
    assert (ids == np.array([3, 1, 4, 0, 2]).argsort()[owners]).all()
    assert np.allclose(centres(second, ids)[0], second[owners == 3].mean(axis=0), atol=1e-4)
    assert fit(first, start, 5) and not fit(rng.normal(0, 10, (100, 8)), start, 5)
    assert not fit(first, start[:4], 5) and not fit(first[:, :7], start, 5)


def test_clusters_that_got_loose_begin_anew_with_the_numbers_of_the_nearest(monkeypatch) -> None:
    rng = np.random.default_rng(2)
    middles = np.array([[100, 0], [40, 0], [-0.05, 0], [0.05, 0]], np.float32)
    groups = np.repeat(np.array([[0, 0], [40, 0], [80, 0], [120, 0]]), 30, axis=0)
    points = (groups + rng.normal(0, 0.1, (120, 2))).astype(np.float32)

    def ids() -> list[list[int]]:
        found = cluster_queries(points, 4, seed=0, start=middles)
        return [np.unique(found[30 * group : 30 * group + 30]).tolist() for group in range(4)]

    assert ids() in ([[2], [3], [1], [0]], [[3], [2], [1], [0]])  # the least sum of squares, 1600 + 1600 + 400
    monkeypatch.setattr(clusters, "LOOSER", 1e9)  # from those centres k-means ends with one cluster for two groups
    assert ids() == [[2, 3], [1], [0], [0]]
    for _ in range(20):
        now, before = rng.normal(0, 1, (2, 5, 3))
        cost = ((now[:, None] - before) ** 2).sum(axis=-1)
        best = min(permutations(range(5)), key=lambda order: sum(cost[range(5), order]))
        assert tuple(matched(now, before)) == best


def test_the_bench_of_videos_counts_every_pixel_by_every_way(tiny_diffusion: Path, tiny_clip: Path) -> None:
    clip = moving_scene(100, 3)
    for (_, labels, place), (_, later, there) in pairwise(clip):
        seen = np.intersect1d(place, there)
        one, other = (dict(zip(*map(np.ravel, pair), strict=True)) for pair in ((place, labels), (there, later)))
        assert len(seen) > 0.9 * place.size and all(one[point] == other[point] for point in seen)
    segmenter = Segmenter.from_pretrained(tiny_diffusion, tiny_clip, by="naive", masks=4, device="cpu")
    found = measure(segmenter, [100], 3, "tuning")
    assert len(found) == 4
    for (tally,) in found.values():
        assert tally.confusion.sum() == 3 * SIZE**2 and len(tally.kept) == 2
        assert (tally.consistency >= 0).all() and (tally.consistency <= 100).all()
    first = next(iter(found.values()))[0]
    truth = np.bincount(np.concatenate([labels.ravel() for _, labels, _ in clip]), minlength=len(NAMES))
    assert (first.confusion.sum(axis=1) == truth).all()


PEAKS = """
import re, sys
from pathlib import Path
from ovseg.cli import main
for every in ("10", "1"):
    assert main([*sys.argv[2:], "--every", every, "--out", f"{sys.argv[1]}/{every}"]) == 0
    print("peak", re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the largest resident set in /proc")
def test_memory_does_not_grow_over_a_clip_of_a_minute(tmp_path: Path, tiny_diffusion: Path, tiny_clip: Path) -> None:
    images = [image for image, _, _ in moving_scene(100, 42)]
    write_video(tmp_path / "clip.mov", (images + images[::-1]) * 17 + images + images[:30], rate=25)
    tiny = ["--diffusion", str(tiny_diffusion), "--clip", str(tiny_clip), "--by", "naive"]
    command = [sys.executable, "-c", PEAKS, str(tmp_path), "label", str(tmp_path / "clip.mov"), *SLIC, *tiny]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peaks = [int(line.split()[1]) / 1e3 for line in done.stdout.splitlines() if line.startswith("peak")]
    print(f"MB after 150 frames and after 1,500 more: {peaks}")
    for every, frames in ((10, 150), (1, 1500)):
        assert len(read_run(tmp_path / str(every)).done) == frames
        with av.open(str(tmp_path / f"{every}/clip.overlay.mp4")) as clip:
            assert float(clip.duration / av.time_base) == pytest.approx(60, abs=0.5)
    assert peaks[1] - peaks[0] < 60
