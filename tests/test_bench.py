"""The literal reference against the exact engine, and the command that compares engines."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import detail, scores, towers
from bench.__main__ import main
from bench.attention import installed, map_attention
from bench.clock import Clock
from bench.compare import number, sheet
from bench.curves import Point, curves, plot
from bench.engine import EXACT, FAST, OTHER_SEED, REFERENCE, pocket_scene
from bench.machine import peak_memory
from bench.quality import RULES, quality
from bench.reference import Part, injection_cost, reference_segment
from bench.shapes import count_flops, made_up, shapes_of_sd14
from emerdiff import EmerDiff, LatentDiffusion, Options
from emerdiff.stable_diffusion import StableDiffusion
from ovseg.pocket.world import NAMES
from ovseg.segmenter import Segmenter
from ovseg.towers.view import View

ROOT = Path(__file__).parent.parent
OPTIONS = Options(masks=3, steps=10, modulation_timestep=201, base_size=32, speed="exact")
FIRST_LAYER = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"


@pytest.fixture(scope="module")
def model(tiny_diffusion: Path) -> EmerDiff:
    return EmerDiff.from_pretrained(tiny_diffusion)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """40 x 60 pixels: two flat halves with some noise."""
    noise = np.random.default_rng(0).integers(0, 40, (40, 60, 3))
    noise[:, 30:] += np.array([180, 90, 0])
    return noise.astype(np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"attention_injection": False},
        {"modulation": "before-projection"},
        {"modulated_layer": FIRST_LAYER},
        {"feature_timestep": 401, "seed": 3, "sigma": 0.0},
        {"place": 1.0},
    ],
    ids=str,
)
def test_the_reference_and_the_exact_engine_give_the_same_masks(model: EmerDiff, image: np.ndarray, change: dict):
    options = replace(OPTIONS, keep_difference_maps=True, **change)
    reference, exact = reference_segment(model, image, options), model.segment(image, options)
    assert (reference.low_resolution_masks == exact.low_resolution_masks).all()
    assert (reference.labels == exact.labels).mean() >= 0.999 and len(np.unique(reference.labels)) > 1
    assert reference.difference_maps.max() > 0.01
    np.testing.assert_allclose(reference.difference_maps, exact.difference_maps, atol=1e-3)
    assert reference.extrapolated == "" and reference.seconds > 0
    assert reference.unet_rows == 1 + 3 * (1 + 2 * 3) and reference.decodes == 6  # timesteps 201, 101, 1


def test_without_a_nudge_the_reference_returns_the_image_itself(model: EmerDiff, image: np.ndarray):
    assert reference_segment(model, image, replace(OPTIONS, strength=0.0)).difference_maps.max() < 1e-4


def test_the_reference_leaves_the_network_as_it_was(model: EmerDiff, image: np.ndarray):
    before = model.diffusion.predictor.unet.attn_processors
    reference_segment(model, image, OPTIONS, Part(1, 1))
    assert model.diffusion.predictor.unet.attn_processors == before


@torch.inference_mode()
def test_maps_are_diffusers_attention_and_given_maps_replace_it(model: EmerDiff):
    diffusion = model.diffusion
    one, other = torch.randn(2, 1, 4, 16, 24, generator=torch.Generator().manual_seed(0))

    def predict(latent: torch.Tensor) -> torch.Tensor:
        return diffusion.predictor.unet(latent, 201, encoder_hidden_states=diffusion.predictor.empty_prompt).sample

    plain = predict(one), predict(other)
    attention = map_attention(diffusion, model.snap(OPTIONS))
    with installed(diffusion.predictor.unet, attention):
        attention.mode = "record"
        torch.testing.assert_close(predict(one), plain[0], atol=1e-5, rtol=1e-5)
        attention.mode = "inject"
        torch.testing.assert_close(predict(one), plain[0], atol=1e-5, rtol=1e-5)
        assert (predict(other) - plain[1]).abs().max() > 1e-3
    for maps in attention.maps.values():
        torch.testing.assert_close(maps.sum(dim=-1), torch.ones(maps.shape[:-1]))


def test_a_part_tells_the_cost_of_the_whole_and_says_so(model: EmerDiff, image: np.ndarray):
    whole = reference_segment(model, image, OPTIONS, count_flops=True)
    part = reference_segment(model, image, OPTIONS, Part(masks=1, steps=2), count_flops=True)
    assert part.extrapolated == "extrapolated from 1 of 3 masks and 2 of 3 steps"
    assert part.labels is None and part.difference_maps is None
    assert (part.unet_rows, part.decodes) == (whole.unet_rows, whole.decodes)
    assert part.flops == pytest.approx(whole.flops) and whole.flops > 1e6
    assert part.seconds > 0


def test_a_part_that_is_all_of_it_is_the_whole(model: EmerDiff, image: np.ndarray):
    assert reference_segment(model, image, OPTIONS, Part(masks=9, steps=9)).extrapolated == ""


def test_a_clock_extrapolates_by_kind():
    clock = Clock(torch.device("cpu"), count_flops=True)
    left, right = torch.ones(2, 3), torch.ones(3, 5)
    for _ in range(2):
        with clock("product"):
            left @ right
    with clock("sum"):
        left + left
    clock.calls["product"].seconds, clock.calls["sum"].seconds = [1.0, 3.0], [0.5]
    # A product of 2 x 3 and 3 x 5 is 2 * 2 * 3 * 5 operations.
    assert clock.extrapolated({"product": 10, "sum": 4}) == (10 * 2.0 + 4 * 0.5, 600)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone tells the peak and forgets it")
def test_the_peak_of_a_block_is_its_own():
    sizes = []
    for megabytes in (400, 1):
        with peak_memory(torch.device("cpu")) as peak:
            torch.ones(megabytes * 2**18)
        sizes.append(peak.size)
    assert sizes[0] - sizes[1] > 300 * 2**20


def test_an_evaluation_with_given_maps_is_compared_with_a_plain_one(model: EmerDiff):
    assert 0.1 < injection_cost(model, (32, 32), OPTIONS, calls=2) < 10


def test_quality_compares_engines_on_the_same_scenes(model: EmerDiff, tiny_diffusion: Path, tiny_clip: Path):
    images = [pocket_scene(number).image for number in range(2)]
    segmenter = Segmenter.from_pretrained(tiny_diffusion, tiny_clip, device="cpu")
    segmenter = replace(segmenter, view=View(short_side=32), templates=("{}",))
    exact = [model.segment(image, OPTIONS) for image in images]
    found = {REFERENCE: [exact[0]], EXACT: exact, OTHER_SEED: [replace(one, labels=2 - one.labels) for one in exact]}
    results = quality(found, segmenter)
    assert results["scenes"] == 2
    same, renumbered = results["agreement"]
    assert same["masks"] == [EXACT, REFERENCE] and same["scenes"] == 1 and same["equal_pixels"] == 100
    assert renumbered["matched"] and renumbered["equal_pixels"] == 100 and renumbered["equal_labels"] == 100
    for rule in RULES:
        assert set(results[rule]) == {EXACT, OTHER_SEED, "naive upsampling"}  # the reference has not all scenes
        assert results[rule][EXACT] == results[rule][OTHER_SEED]


@pytest.mark.slow
def test_the_command_writes_its_results(tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "results" / "one.json"
    assert main(["--masks", "2", "--images", "1", "--out", str(out)]) == 0
    results = json.loads(out.read_text(encoding="utf-8"))
    reference, exact, fast = results["engines"]
    assert [one["engine"] for one in results["engines"]] == ["reference", "exact", "fast"]
    assert reference["unet_rows"] == 1 + 6 * (1 + 2 * 2) and reference["decodes"] == exact["decodes"] == 4
    for one in results["engines"]:
        assert len(one["seconds"]) == 1 and one["tflops"] > 0 and one["share_of_matrix_rate"] > 0
        assert one["speed_up"] == pytest.approx(reference["seconds"][0] / one["seconds"][0])
    assert fast["flops"] < exact["flops"] < reference["flops"]
    assert results["injection_cost"] > 0 and results["machine"]["threads"] == torch.get_num_threads()
    printed = capsys.readouterr().out
    assert printed == sheet(results).markdown() and "| fast | float32 |" in printed


@pytest.mark.parametrize("injection", [True, False])
def test_flops_on_shapes_are_those_of_a_real_run(tiny_diffusion: Path, injection: bool):
    options = replace(OPTIONS, attention_injection=injection)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)  # as many clusters as asked for
    real = EmerDiff.from_pretrained(tiny_diffusion).diffusion
    with FlopCounterMode(display=False) as counter:
        EmerDiff(real).segment(image, options)
    parts = (real.predictor.unet, real.vae, real.predictor.empty_prompt)
    unet, vae, prompt = (part.to("meta") for part in parts)
    shapes = EmerDiff(LatentDiffusion(StableDiffusion(unet, prompt), vae, real.scheduler))
    assert count_flops(shapes, options) == counter.get_total_flops() > 1e6


def test_stable_diffusions_shapes_are_of_its_size():
    diffusion = shapes_of_sd14().diffusion
    assert sum(tensor.numel() for tensor in diffusion.predictor.unet.parameters()) == 859_520_964  # as published: 860 M
    assert sum(tensor.numel() for tensor in diffusion.vae.parameters()) == 83_653_863


def test_made_up_responses_are_bumps_at_their_places():
    maps = made_up((5, 16, 24))
    assert maps.shape == (5, 16, 24) and maps.max() <= 1 and (maps.amax(dim=(1, 2)) > 0.9).all()
    assert len({int(one.argmax()) for one in maps}) == 5


def test_curves_vary_one_thing_at_a_time():
    def measure(options: Options, images: int) -> tuple[float, float]:
        work = options.masks * options.base_size**2 * images * (1 if options.speed == "fast" else 10)
        return work / 1e3, work * 1e12

    points = list(curves(replace(OPTIONS, masks=20, base_size=32), (32, 64), (1, 2), measure))
    assert points[0] == Point(EXACT, "masks", 10, 10 * 32**2 * 10 / 1e3, 10 * 32**2 * 10)
    assert [(point.varied, point.value) for point in points if point.engine == FAST] == [
        *(("masks", value) for value in (10, 20, 40)),
        *(("size", value) for value in (32, 64)),
        *(("images", value) for value in (1, 2)),
    ]
    usual = [point.tflops for point in points if (point.varied, point.value) in (("masks", 20), ("size", 32))]
    assert usual == [20 * 32**2 * 10] * 2 + [20 * 32**2] * 2
    timed, untimed = plot(points), plot([replace(point, seconds=None) for point in points])
    heights = [int.from_bytes(png[20:24]) for png in (timed, untimed)]  # of the picture, in a PNG's header
    assert timed.startswith(b"\x89PNG") and heights[0] == 2 * heights[1]


def test_numbers_have_three_digits_and_no_exponent():
    assert [number(value) for value in (31300.0, 808.8, 12.0, 0.09734)] == ["31300", "809", "12.0", "0.0973"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--engines", "quick"], "quick"),
        (["--images", "-1"], "--images"),
        (["--masks", "0"], "masks: expected at least 1"),
        (["--part", "0", "1"], "part: expected at least 1 mask"),
        (["--curves", "--images", "3"], "--curves"),
        (["--device", "abacus"], "abacus"),
        (["--device", "cuda"], "cuda"),
        (["--device", "meta"], "'meta'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture):
    if arguments == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and error.startswith("bench: error: ") and told in error


def test_the_help_needs_no_torch():
    script = "import sys, bench.__main__ as b\ntry: b.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--curves" in done.stdout, done.stderr


def test_what_dense_clip_costs_is_a_small_part_of_an_image() -> None:
    """Four windows of 197 tokens through 12 blocks of width 768, by hand; a fiftieth is left for the rest."""
    block = 197 * 12 * 768**2 + 2 * 197**2 * 768
    assert towers.flops() == pytest.approx(4 * 2 * 12 * block, rel=0.02)
    assert towers.flops() < 0.05 * 40e12


def test_detail_counts_things_by_size_and_how_masks_meet_them():
    labels = np.full((8, 16), NAMES.index("sand"))
    labels[:4, :4] = 3  # 16 pixels, 4 cells of 4, all in mask 1
    labels[:4, 8:11] = 3  # 12 pixels, 3 cells: 8 in mask 2, 4 in the ground's
    labels[7, :5] = 5  # a speck
    segments = np.zeros((8, 16), np.int32)
    segments[:4, :5] = 1  # 4 pixels of it are ground
    segments[:4, 9:11] = 2
    assert [(int(place.sum()), kind) for place, kind in detail.things(labels)] == [(16, 3), (12, 3)]
    found = detail.score(segments, labels, cell=4)
    assert sorted(found) == [2, 3]  # 2 to 4 cells, 4 to 8
    np.testing.assert_allclose(found[3], [100, 100 * 16 / 20])
    np.testing.assert_allclose(found[2], [100 * 8 / 12, 100 * 8 / 12])
    (line, other) = detail.lines([found], [{2: np.array([100.0, 90.0]), 3: found[3]}])
    assert line == (
        "2 to 4 cells, in 1 scenes: pixels 66.7 -> 100.0, +33.3 [+33.3, +33.3]; IoU 66.7 -> 90.0, +23.3 [+23.3, +23.3]"
    )
    assert other.startswith("4 to 8 cells, in 1 scenes: pixels 100.0 -> 100.0, +0.0")


def test_scores_are_counted_by_what_they_say_and_by_name():
    """Of four pixels three have labels, two of them 1; with one label of four there is none to go by."""
    assert scores.label_of_most(np.array([1, 1, 0, 255]), known=3) == 1
    assert scores.label_of_most(np.array([1, 255, 255, 255]), known=3) is None
    found = [("cat", 0.12, True), ("cat", 0.18, False), ("dog", 0.49, True)]
    assert list(scores.lines(found)) == [
        "0.1 to 0.2: told 0.15, right 0.50, 2 masks",
        "0.45 to 1: told 0.49, right 1.00, 1 masks",
        "cat: told 0.15, right 0.50, 2 masks",
        "dog: told 0.49, right 1.00, 1 masks",
    ]
