"""Videos and animations: frames as they are, masks that keep their ids, results that do not hang on interruptions."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from moving_scenes import moving_scene, write_video
from PIL import Image

from emerdiff.clusters import centres, cluster_queries, fit
from ovseg.classes import build_vocabulary
from ovseg.cli import main
from ovseg.files import read_index_png
from ovseg.images import read_image
from ovseg.pocket.scene import NAMES
from ovseg.result import Segmentation
from ovseg.run.folder import read_run
from ovseg.run.frames import _upright
from ovseg.run.images import RunImage
from ovseg.run.inputs import collect
from ovseg.run.pictures import read_item
from ovseg.run.video import DECAY, Carried, renamed, running_mean

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
    write_video(tmp_path / "clip.mkv", images)
    items = collect([tmp_path / "clip.mkv"], tmp_path / "out", every=3)
    assert [item.id for item in items] == ["clip/000000", "clip/000003", "clip/000006"]
    assert str(items[1].path) == f"video:{tmp_path / 'clip.mkv'}#frame=3"
    for place in (0, 1, 1, 2, 0):  # once more, on, and back
        assert (read_item(items[place].path) == images[3 * place]).all()
    for number, reason in ((7, "has no frame 7, only 7"), ("x", "expected PATH#frame=NUMBER")):
        with pytest.raises(ValueError, match=reason):
            read_item(Path(f"video:{tmp_path / 'clip.mkv'}#frame={number}"))
    write_video(tmp_path / "clip.mkv", images[::-1])  # another file of the same name is read anew
    assert (read_item(items[2].path) == images[0]).all()


def test_a_telephones_upright_film_is_read_upright() -> None:
    class Frame:  # as PyAV gives it: to be turned by so many degrees against the clock
        rotation, width, height = -90, 3, 2

        def to_ndarray(self, format: str) -> np.ndarray:
            return np.arange(6, dtype=np.uint8).reshape(2, 3)

    assert _upright(Frame()).tolist() == [[3, 0], [4, 1], [5, 2]]


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
    write_video(tmp_path / "clip.mkv", [image for image, _, _ in scenes])
    (tmp_path / "frames/clip").mkdir(parents=True)
    for number, (image, _, _) in enumerate(scenes):
        Image.fromarray(image).save(tmp_path / f"frames/clip/{number:06}.png")
    run, single = tmp_path / "run", tmp_path / "single"
    assert label(tmp_path / "clip.mkv", run, *POCKET) == 0
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
    assert record.ids["clip/000002"]["file"] == f"video:{tmp_path / 'clip.mkv'}#frame=2"
    assert (RunImage(record, "clip/000002").photo((128, 128)) == scenes[2][0]).all()
    with av.open(str(run / "clip.overlay.mp4")) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == len(scenes) and clip.streams.video[0].average_rate == 10

    before = files_of(run)
    for name in ("000000.carried.safetensors", "000001.png"):
        (run / "clip" / name).unlink()
    (run / "clip.overlay.mp4").unlink()
    assert label(tmp_path / "clip.mkv", run, *POCKET) == 0
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
    """A video of PNGs, one of which is damaged."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "rgb24"
        for image in noise(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    starts = [place for place in range(len(content)) if content[place : place + 8] == b"\x89PNG\r\n\x1a\n"]
    content[starts[frame] : starts[frame] + 60] = bytes(60)
    path.write_bytes(content)


def test_where_a_video_is_damaged_the_frames_before_are_done_and_the_rest_is_said(
    tmp_path: Path, tiny_diffusion: Path, tiny_clip: Path, capsys
) -> None:
    tiny = ["--diffusion", str(tiny_diffusion), "--clip", str(tiny_clip)]
    broken_at(tmp_path / "clip.mov", 3)
    assert label(tmp_path / "clip.mov", tmp_path / "out", *SLIC, *tiny) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'clip.mov'}: cannot be decoded from frame 3 on" in said and "1 of 4 images failed" in said
    assert len(read_run(tmp_path / "out").done) == 3


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
    write_video(tmp_path / "clip.mkv", noise(2))
    Image.fromarray(noise(1)[0]).save(tmp_path / "one.png")
    clip, out = str(tmp_path / "clip.mkv"), str(tmp_path / "out")
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
    ):
        assert code(["label", *given, "--out", out]) == 2, expected
        said = capsys.readouterr().err.strip().splitlines()
        assert expected in said[-1] and said[-1].startswith("ovseg: error: "), said
    assert not Path(out).exists()
    folder = tmp_path / "films"
    folder.mkdir()
    write_video(folder / "clip.mkv", noise(2))
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
    again = Carried.read(tmp_path, "clip/000001", 2)
    assert again is not None and (again.centres == carried.centres).all() and (again.scores == carried.scores).all()
    assert Carried.read(tmp_path, "clip/000000", 2) is None
    with pytest.raises(ValueError, match=r"clip.000001.carried.safetensors: not what a frame of this run left"):
        Carried.read(tmp_path, "clip/000001", 3)
    (tmp_path / "clip/000001.carried.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"carried.safetensors: damaged"):
        Carried.read(tmp_path, "clip/000001", 2)


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
