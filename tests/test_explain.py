"""The figure of one image: what its panels hold, worked out by hand, and the command that draws it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

import ovseg
from emerdiff import Options, Segments
from ovseg.cli import main
from ovseg.draw import FIRST_COLOURS, class_colours
from ovseg.figure import explain_figure
from ovseg.result import Segmentation
from ovseg.sheet import figure_bytes

GRID = np.array([[0, 0, 1], [2, 0, 1]], np.int32)  # a cell is 4 x 4 pixels
BY_SIZE = (1, 0, 2)  # of the masks at the image's size: 54, 36 and 6 pixels


def by_hand(size: tuple[int, int] = (8, 12), masks: int = 3) -> Segments:
    """Segments of an image of (8, 12) pixels, or of other sizes; further masks have cells of their own and no pixel."""
    grid = GRID if masks == 3 else np.concatenate([GRID.ravel(), np.arange(3, masks)]).astype(np.int32)[None]
    labels = np.full(size, 1, np.int32)
    labels[: size[0] * 3 // 4, : size[1] // 2] = 0
    labels[size[0] * 3 // 4 :, : size[1] // 4] = 2
    maps = np.random.default_rng(0).uniform(0.1, 1, (masks, 8, 12)).astype(np.float32)
    queries, options = (
        np.zeros((grid.size, 2), np.float32),
        Options(masks=masks, strength=7.5, attention_injection=False),
    )
    return Segments(labels, grid, queries, maps, 21, 301, (8, 12), 1.0, options)


def labelled(segments: Segments, names: list[str]) -> Segmentation:
    """Mask i has class i, with a score of 0.9."""
    count = int(segments.low_resolution_masks.max()) + 1
    scores = np.zeros((count, len(names)), np.float32)
    scores[np.arange(count), np.arange(count) % len(names)] = 0.9
    labels = (segments.labels % len(names)).astype(np.uint8)
    return Segmentation(labels, tuple(names), class_colours(names), segments.labels, scores)


def grey(size: tuple[int, int] = (8, 12)) -> np.ndarray:
    return np.full((*size, 3), 128, np.uint8)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def outlined(figure: Figure) -> list[tuple[Axes, LineCollection]]:
    """The difference maps and the coloured outline in each, in the order they are drawn in."""
    return [(axes, axes.collections[-1]) for axes in figure.axes if axes.collections]


def test_captions_say_what_is_shown_and_with_which_settings() -> None:
    segments = by_hand()
    figure = explain_figure(grey(), segments, title="scene.png", models={"diffusion": "sd@12", "clip": "vit@34"})
    shown = words(figure)
    for line in (
        "scene.png",
        "12 × 8 pixels",
        "Low-resolution masks",
        "3 × 2 queries at t_f = 21, 3 clusters",
        "Naive masks",
        "Modulated masks",
        "Difference maps of all masks",
        "K = 3, t_f = 21, t_m = 301, λ = 7.5, σ = 1 px, 50 steps, seed 0, fast, no attention injection",
        "diffusion sd@12, clip vit@34",
    ):
        assert line in shown
    assert not {"Labels", "Classes"} & set(shown)
    assert [line for line in shown if line.startswith("mask ")] == [f"mask {mask}" for mask in BY_SIZE]
    assert [line for line in shown if line.endswith("of the image")] == [
        "56 % of the image",
        "38 % of the image",
        "6 % of the image",
    ]


def test_a_mask_has_one_colour_everywhere() -> None:
    figure = explain_figure(grey(), by_hand())
    colours = dict(zip(BY_SIZE, FIRST_COLOURS, strict=False))
    tiles = np.asarray(figure.axes[1].images[0].get_array())
    middle = tiles[14::28, 14::28]  # 28 pixels a cell
    for row in range(2):
        for column in range(3):
            assert tuple(middle[row, column]) == colours[int(GRID[row, column])]
    # Half the colour, half the image: in the corners, where both ways of upsampling agree with the grid.
    for panel in figure.axes[2:4]:
        painted = np.asarray(panel.images[0].get_array())
        for corner, mask in (((0, 0), 0), ((0, -1), 1), ((-1, 0), 2)):
            expected = [(128 + value) / 2 for value in colours[mask]]
            np.testing.assert_allclose(painted[corner], expected, atol=1)
    for mask, (_, line) in zip(BY_SIZE, outlined(figure), strict=True):
        np.testing.assert_allclose(line.get_colors()[0][:3], np.array(colours[mask]) / 255)
    boxes = [axes.get_facecolor()[:3] for axes in figure.axes if not axes.images]
    for colour in colours.values():
        assert any(np.allclose(box, np.array(colour) / 255) for box in boxes)


def test_a_map_is_the_masks_own_with_its_cells_outlined() -> None:
    segments = by_hand()
    figure = explain_figure(grey(), segments)
    assert segments.difference_maps is not None
    black = np.percentile(segments.difference_maps, 99.5)
    for mask, (axes, line) in zip(BY_SIZE, outlined(figure), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), segments.difference_maps[mask])
        assert axes.images[0].get_clim() == (0, pytest.approx(black))  # one scale for all
        drawn = {
            frozenset(map(tuple, np.round(np.array(edge) * (3, 2)).astype(int).tolist()))
            for edge in line.get_segments()
        }
        cells = [(x, y) for y, x in np.argwhere(mask == GRID).tolist()]
        border: set[frozenset[tuple[int, int]]] = set()
        for x, y in cells:  # an edge that two cells share is inside the mask
            corners = [(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)]
            border ^= {frozenset((corners[i], corners[i - 1])) for i in range(4)}
        assert drawn == border


def test_eight_maps_at_most_and_fewer_rows_for_fewer_masks() -> None:
    many, few = explain_figure(grey(), by_hand(masks=11)), explain_figure(grey(), by_hand())
    assert len(outlined(many)) == 8 and len(outlined(few)) == 3
    assert "Difference maps of the 8 largest masks" in words(many)
    assert many.get_figheight() > few.get_figheight() + 1


def test_the_legend_lists_classes_by_share_and_says_how_many_it_leaves_out() -> None:
    segments = by_hand()
    figure = explain_figure(grey(), segments, labelled(segments, ["background", "a$b_c$", "fish " * 20]))
    shown = words(figure)
    at = shown.index("score") + 1
    assert shown[at : at + 9] == [
        *("a$b_c$", "56 %", "0.90"),
        *("background", "38 %", "0.90"),
        *(f"{('fish ' * 20)[:23]}…", "6 %", "0.90"),
    ]
    assert not any(text.get_parse_math() for text in figure.texts)

    strips = by_hand((10, 40))
    strips = Segments(**{**vars(strips), "labels": np.tile(np.arange(40, dtype=np.int32), (10, 1))})
    grid = np.arange(40, dtype=np.int32)[None]
    strips = Segments(**{**vars(strips), "low_resolution_masks": grid, "difference_maps": np.ones((40, 8, 12))})
    shown = words(explain_figure(grey((10, 40)), strips, labelled(strips, [f"class {index}" for index in range(40)])))
    listed = sum(line.startswith("class ") for line in shown)
    assert 2 < listed < 40 and f"and {40 - listed} more" in shown


@pytest.mark.parametrize("size", [(8, 32), (32, 8), (1, 1), (700, 1000)])
def test_nothing_lies_outside_the_figure_whatever_the_image(size: tuple[int, int]) -> None:
    segments = by_hand(size)
    figure = explain_figure(grey(size), segments, labelled(segments, ["cat", "dog", "fish"]), title="n" * 99)
    picture = Image.open(io.BytesIO(figure_bytes(figure, ".png")))
    assert picture.size == tuple(round(200 * side) for side in figure.get_size_inches())
    frame = figure.bbox
    for part in (*figure.axes, *figure.texts):
        extent = part.get_window_extent()
        assert frame.x0 <= extent.x0 and extent.x1 <= frame.x1, part
        assert frame.y0 <= extent.y0 and extent.y1 <= frame.y1, part
    aspect = figure.axes[0].get_window_extent()
    assert aspect.height / aspect.width == pytest.approx(size[0] / size[1])


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_segments_give_the_same_file(suffix: str) -> None:
    files = [figure_bytes(explain_figure(grey(), by_hand()), suffix) for _ in range(2)]
    assert files[0] == files[1]
    if suffix == ".svg":
        assert ElementTree.fromstring(files[0]).tag == "{http://www.w3.org/2000/svg}svg"
    else:
        assert Image.open(io.BytesIO(files[0])).format == "PNG"


def test_segments_that_do_not_fit_are_refused() -> None:
    segments = by_hand()
    with pytest.raises(ValueError, match="keep_difference_maps"):
        explain_figure(grey(), Segments(**{**vars(segments), "difference_maps": None}))
    with pytest.raises(ValueError, match=r"expected one size, got \[\(8, 12\), \(9, 12\)\]"):
        explain_figure(grey((9, 12)), segments)
    other = labelled(by_hand((8, 13)), ["cat", "dog", "fish"])
    with pytest.raises(ValueError, match=r"expected one size, got \[\(8, 12\), \(8, 13\)\]"):
        explain_figure(grey(), segments, other)
    with pytest.raises(ValueError, match="uint8"):
        explain_figure(grey().astype(float), segments)


def test_matplotlib_loads_when_a_figure_is_asked_for_and_not_before() -> None:
    code = "import sys, ovseg.cli.explain; sys.exit(any(name in sys.modules for name in ('matplotlib', 'torch')))"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(ovseg.__file__).parents[1], check=False).returncode == 0
    )


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image of 40 x 60 pixels in the folder the command is called in."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.fixture
def quick(tiny_diffusion: Path) -> list[str]:
    return ["--diffusion", str(tiny_diffusion), "--masks", "3", "--steps", "5"]


def test_without_classes_it_needs_no_clip_and_writes_beside_the_caller(
    scene: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(scene), *quick]) == 0
    assert Image.open("scene.explain.png").width > 1000
    assert capsys.readouterr().out.startswith("[1/1] scene: scene.explain.png (")


def test_the_labels_are_those_of_ovseg_label(
    scene: Path, quick: list[str], tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []

    def kept(figure: Figure, suffix: str) -> bytes:
        figures.append(figure)
        return figure_bytes(figure, suffix)

    monkeypatch.setattr("ovseg.cli.explain.figure_bytes", kept)
    flags = [str(scene), "--classes", "cat;kitten,dog,sky", "--background", "none", *quick, "--clip", str(tiny_clip)]
    assert main(["explain", *flags, "--out", "new/one.png", "--out", "new/one.SVG"]) == 0
    assert sorted(path.name for path in Path("new").iterdir()) == ["one.SVG", "one.png"]
    assert main(["label", *flags, "--out", "labels"]) == 0

    rows = json.loads(Path("labels/scene.json").read_text())["classes"]
    shown = words(figures[0])
    expected = sorted((row for row in rows if row["pixels"]), key=lambda row: -row["pixels"])
    at = shown.index("score") + 1
    assert shown[at : at + 3 * len(expected) : 3] == [row["name"] for row in expected]
    assert shown[at + 2 : at + 3 * len(expected) : 3] == [f"{row['score']:.2f}" for row in expected]
    painted = np.asarray(figures[0].axes[4].images[0].get_array())
    labels = np.asarray(Image.open("labels/scene.overlay.png"))[: painted.shape[0], : painted.shape[1]]
    np.testing.assert_array_equal(painted, labels)


def test_what_is_there_is_replaced_only_if_that_is_asked_for(
    scene: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.svg").write_text("precious")
    arguments = ["explain", str(scene), *quick, "--out", "mine.svg"]
    assert main(arguments) == 2
    assert Path("mine.svg").read_text() == "precious"
    assert main([*arguments, "--overwrite"]) == 0
    assert Path("mine.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--out", "a.jpg"], "--out: a.jpg: expected a file name that ends in .png or .svg"),
        (["--out", "scene.png", "--overwrite"], "--out: scene.png: this is the image itself"),
        (["--out", "folder.png", "--overwrite"], "--out: folder.png: already there"),
        (["--background", "none"], "--background: only with --classes"),
        (["--classes", "cat,cat"], "'cat' was given before"),
        (["--classes", "sky", "--background", "sky"], "both as a class and as background: sky"),
        (["--classes", "cat"], "--clip: missing"),
        (["--masks", "0"], "--masks: expected at least 1"),
    ],
)
def test_mistakes_cost_one_line_and_exit_code_2(
    flags: list[str], reason: str, scene: Path, tiny_diffusion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder.png").mkdir()
    assert main(["explain", "scene.png", "--diffusion", str(tiny_diffusion), *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("ovseg: error: ") and reason in lines[0]
    assert sorted(path.name for path in Path().iterdir()) == ["folder.png", "scene.png"]


def test_an_image_that_cannot_be_read_is_named(
    scene: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "nothing.png", *quick]) == 2
    assert capsys.readouterr().err == "ovseg: error: nothing.png: no such file\n"


def test_without_matplotlib_one_line_says_what_to_install(
    scene: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as Python remembers a module that cannot be imported
    assert main(["explain", str(scene), *quick]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "pip install matplotlib" in lines[0]
