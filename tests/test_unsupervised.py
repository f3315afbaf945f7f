"""The evaluations without text, on masks few enough to work them out by hand and by a slower way."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from processes import run_here
from test_cli import ovseg

from emerdiff import Options
from ovseg.analysis import Analysis, Origin
from ovseg.eval import unsupervised
from ovseg.eval.confusion import best_labels, class_counts, confusion_matrix, mean_iou
from ovseg.eval.embeddings import SOURCES, Masks, assign, best_label, image_masks, read_masks, upsampled_naively
from ovseg.eval.unsupervised import cluster, match, modified, sheet, traditional
from ovseg.files import json_bytes
from ovseg.run.folder import read_run

SEEDS = st.integers(0, 2**32 - 1)


def analysis_of(
    segments: object, queries: object, low: object, *, size: tuple[int, int] | None = None, **options: object
) -> Analysis:
    """An analysis with segments (H, W), queries (h, w, D), low-resolution masks (h, w) and network size (H', W')."""
    segments, low = np.array(segments, np.int32), np.array(low, np.int32)
    chosen = replace(Options(), **options)
    by = "naive" if chosen.upsampling == "naive" else "emerdiff"
    masks = {"by": by, "options": asdict(chosen), "diffusion": "d"}
    return Analysis(
        segments=segments,
        features=np.zeros((2, 1, 1), np.float16),
        origin=Origin("0" * 64, *segments.shape, "c", "float32", {}, masks),
        evidence={"low_resolution_masks": low, "queries": np.array(queries, np.float16).reshape(low.size, -1)},
        facts={"network_size": list(size or segments.shape), "layer_rms": 0.5},
    )


@dataclass(frozen=True)
class Truth:
    """A data set in memory."""

    maps: dict[str, np.ndarray]
    names: tuple[str, ...] = ("cat", "dog")
    name: str = "custom"
    vocabulary: str = "classes.txt"
    root: str = "somewhere"
    expected: int | None = None
    more: tuple[str, ...] = field(default=())

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(sorted([*self.maps, *self.more]))

    def truth(self, id: str) -> np.ndarray:
        return np.array(self.maps[id], np.uint8)


# One row of four pixels an image; the queries' grid is the image's own, so an embedding is a plain mean over pixels.
ANALYSES = {
    "a": analysis_of([[0, 0, 1, 1]], [[0, 2, 10, 10]], [[0, 1, 1, 1]]),  # embeddings 1 and 10
    "b/c": analysis_of([[0, 0, 0, 0]], [[4, 4, 6, 6]], [[0, 0, 0, 0]]),  # embedding 5
}
DATASET = Truth({"a": [[0, 0, 1, 0]], "b/c": [[0, 1, 1, 255]]})


def write_run(folder: Path, analyses: dict[str, Analysis], **facts: object) -> Path:
    """A run folder that kept these analyses."""
    for id, analysis in analyses.items():
        analysis.save(folder / f"{id}.safetensors")
    ids = {id: {"file": f"{id}.jpg", "state": "done", "seconds": 1.0} for id in analyses}
    settings = {"options": asdict(Options()), "models": {"diffusion": "d", "clip": "c"}, **facts}
    record = {"format": "ovseg run 1", **settings, "versions": {}, "timings": {}, "ids": ids}
    (folder / "run.json").write_bytes(json_bytes(record))
    return folder


def masks_of(folder: Path, source: str = "EmerDiff", dataset: Truth = DATASET) -> Masks:
    return read_masks(read_run(folder), dataset, source)


def random_masks(seed: int, masks: int, classes: int, images: int = 2) -> Masks:
    """Masks with embeddings (M, 2) and counts that need not come from any image; every image has one."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 9, (masks, classes)).astype(np.int32)
    image = np.sort(np.concatenate([np.arange(images), rng.integers(0, images, masks - images)]))
    return Masks(rng.normal(size=(masks, 2)).astype(np.float32), truth.sum(1) + rng.integers(1, 5, masks), truth, image)


def test_both_protocols_by_hand(tmp_path):
    masks = masks_of(write_run(tmp_path, ANALYSES))
    assert masks.embeddings.tolist() == [[1], [10], [5]] and masks.image.tolist() == [0, 0, 1]
    assert masks.pixels.tolist() == [2, 2, 4] and masks.truth.tolist() == [[2, 0], [1, 1], [1, 2]]
    # Modified: cat's concept is (2 * 1 + 10 + 5) / 4 = 4.25, dog's (10 + 2 * 5) / 3 = 6.67; 5 is nearer to cat's.
    assert modified(masks).tolist() == [0, 1, 0]
    # Traditional: {1, 5} and {10}; as cat and dog 3 + 1 labelled pixels agree, as dog and cat only 2 + 1.
    assert traditional(masks).tolist() == [0, 1, 0]
    outcome = assign(masks, modified(masks))
    # Of cat, 4 pixels are true, 5 predicted and 3 both: 3/6. Of dog 3, 2 and 1: 1/4.
    assert outcome.counts.sum(axis=0).tolist() == [[4, 5, 3], [3, 2, 1]]
    assert outcome.mIoU == pytest.approx(37.5)
    assert outcome.counts[1].tolist() == [[1, 3, 1], [2, 0, 0]]


def test_naive_masks_get_their_own_embeddings_from_the_same_queries(tmp_path):
    masks = masks_of(write_run(tmp_path, ANALYSES), "naive upsampling")
    assert masks.embeddings.ravel() == pytest.approx([0, 22 / 3, 5], rel=1e-6)
    assert masks.truth.tolist() == [[1, 0], [2, 1], [1, 2]]
    low = np.array([[0, 0, 1, 2], [0, 0, 1, 2]])
    analysis = analysis_of(np.zeros((9, 13)), np.zeros((2, 4, 3)), low, size=(16, 32))
    naive = upsampled_naively(analysis)
    # Each column goes to the nearest of four cells; the seventh lies between two, and the first mask has it.
    columns = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert naive.shape == (9, 13) and (naive == columns).all()


@given(
    seed=SEEDS,
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    channels=st.integers(1, 3),
    classes=st.integers(1, 4),
)
@settings(max_examples=60)
def test_the_modified_protocol_is_what_it_is_when_every_pixel_carries_its_embedding(
    seed, height, width, grid, channels, classes
):
    rng = np.random.default_rng(seed)
    pixels, images = [], []
    for number in range(3):
        queries = rng.normal(size=(*grid, channels)).astype(np.float16)
        segments = rng.integers(0, 4, (height, width)) * 2  # some ids have no pixel
        truth = rng.choice([*range(classes), 255], (height, width)).astype(np.uint8)
        analysis = analysis_of(segments, queries, rng.integers(0, 3, grid))
        images.append(image_masks(analysis, analysis.segments, truth, classes, number))
        pixels.append((pixel_embeddings(queries, segments), truth))
    masks = Masks(*(np.concatenate([getattr(one, name) for one in images]) for name in Masks.__annotations__))
    labelled = np.concatenate([embeddings[truth != 255] for embeddings, truth in pixels])
    labels = np.concatenate([truth[truth != 255] for _, truth in pixels])
    assume(len(labels))
    concepts = {label: labelled[labels == label].mean(axis=0) for label in np.unique(labels)}
    confusion = np.zeros((classes, classes + 1), np.int64)
    for embeddings, truth in pixels:
        distances = np.stack([np.linalg.norm(embeddings - concept, axis=-1) for concept in concepts.values()])
        if len(concepts) > 1:  # nearly as near to two concepts: either may be right
            first, second = np.sort(distances, axis=0)[:2]
            assume((second - first).min() > 1e-3)
        confusion += confusion_matrix(truth, np.array(list(concepts))[distances.argmin(axis=0)], classes)
    outcome = assign(masks, modified(masks))
    assert outcome.counts.sum(axis=0).tolist() == class_counts(confusion).tolist()


def pixel_embeddings(queries: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """(H, W, D): every pixel's upsampled query, replaced by the mean over its mask."""
    maps = torch.from_numpy(queries.astype(np.float64)).permute(2, 0, 1)[None]
    size = segments.shape
    upsampled = torch.nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    values = upsampled[0].permute(1, 2, 0).numpy()
    for mask in np.unique(segments):
        values[segments == mask] = values[segments == mask].mean(axis=0)
    return values


@given(seed=SEEDS, classes=st.integers(1, 4))
@settings(max_examples=25)
def test_the_traditional_protocol_is_k_means_of_pixels_and_the_best_of_all_matchings(seed, classes):
    # Every pixel is a point; concepts are so far apart that k-means has one answer, and masks lie within concepts.
    rng = np.random.default_rng(seed)
    images, points, labels = [], [], []
    for number in range(3):
        concept = rng.integers(0, classes, (4, 5)) if number else np.arange(20).reshape(4, 5) % classes
        truth = rng.choice([*range(classes), 255], (4, 5)).astype(np.uint8)
        segments = 2 * concept + rng.integers(0, 2, (4, 5))
        queries = np.stack([100 * concept + rng.normal(size=(4, 5)), rng.normal(size=(4, 5))], axis=-1)
        analysis = analysis_of(segments, queries, np.zeros((4, 5)))
        images.append(image_masks(analysis, analysis.segments, truth, classes, number))
        points.append(concept.ravel())
        labels.append(truth.ravel())
    masks = Masks(*(np.concatenate([getattr(one, name) for one in images]) for name in Masks.__annotations__))
    points, labels = np.concatenate(points), np.concatenate(labels)
    assume((labels != 255).any())
    outcome = assign(masks, traditional(masks, seed=seed))
    agreeing = outcome.counts[:, :, 2].sum()
    matchings = [np.array(order)[points] for order in itertools.permutations(range(classes))]
    assert agreeing == max((matching == labels).sum() for matching in matchings)
    means = [float(mean_iou(class_counts(confusion_matrix(labels, matching, classes)))) for matching in matchings]
    best = [mean for mean, matching in zip(means, matchings, strict=True) if (matching == labels).sum() == agreeing]
    assert any(outcome.mIoU == pytest.approx(mean) for mean in best)


@given(
    counts=st.integers(1, 5).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 9), min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
def test_no_other_matching_has_more_pixels_that_agree(counts):
    counts = np.array(counts)
    found = match(counts)
    assert sorted(found) == list(range(len(counts)))
    rows = range(len(counts))
    best = max(sum(counts[rows, list(order)]) for order in itertools.permutations(rows))
    assert counts[rows, found].sum() == best


def test_large_masks_weigh_more_in_k_means():
    points = np.array([[0.0], [100.0], [103.0]], np.float32)
    # Of 10000 pixels each, two concepts for the last two save 45000 and cost 10000, the first one's way to 100.
    by_size = cluster(points, np.array([1, 10000, 10000]), 2)
    alike = cluster(points, np.array([1, 1, 1]), 2)
    assert by_size[0] == by_size[1] != by_size[2]
    assert alike[0] != alike[1] == alike[2]


def test_many_masks_are_clustered_in_mini_batches_with_the_same_result_where_it_is_clear(monkeypatch):
    rng = np.random.default_rng(0)
    concept = rng.integers(0, 3, 300)
    points = (100 * concept[:, None] + rng.normal(size=(300, 2))).astype(np.float32)
    pixels = rng.integers(1, 50, 300)
    whole = cluster(points, pixels, 3)
    asked = []
    batches = unsupervised.MiniBatchKMeans
    monkeypatch.setattr(unsupervised, "MiniBatchKMeans", lambda *a, **k: asked.append(k) or batches(*a, **k))
    monkeypatch.setattr(unsupervised, "MOST_MASKS", 299)
    monkeypatch.setattr(unsupervised, "BATCH", 64)
    parts = cluster(points, pixels, 3)
    assert asked[0]["batch_size"] == 64
    for found in (whole, parts):
        assert len({(a, b) for a, b in zip(concept, found, strict=True)}) == 3


def test_an_id_that_no_pixel_has_is_no_mask():
    segments, truth = np.array([[0, 0, 3, 3]], np.int32), np.array([[0, 1, 255, 255]], np.uint8)
    masks = image_masks(analysis_of(segments, [[1, 1, 7, 7]], np.zeros((1, 4))), segments, truth, 2)
    assert masks.embeddings.tolist() == [[1], [7]] and masks.pixels.tolist() == [2, 2]
    assert masks.truth.tolist() == [[1, 1], [0, 0]]


def test_fewer_masks_than_classes_and_no_labels_at_all_are_refused():
    masks = random_masks(0, 3, 4)
    with pytest.raises(ValueError, match="needs as many masks as classes, 4; got 3"):
        traditional(masks)
    with pytest.raises(ValueError, match="no pixel of these images has one"):
        modified(replace(masks, truth=np.zeros_like(masks.truth)))


@given(seed=SEEDS, masks=st.integers(2, 12), classes=st.integers(1, 5))
@settings(max_examples=50)
def test_outcomes_count_every_labelled_pixel_once(seed, masks, classes):
    found = random_masks(seed, masks, classes)
    assigned = np.random.default_rng(seed).integers(0, classes, masks)
    counts = assign(found, assigned).counts
    for image in range(2):
        mine = found.image == image
        assert counts[image, :, 0].tolist() == found.truth[mine].sum(axis=0).tolist()
        confusion = np.zeros((classes, classes + 1), np.int64)
        for truth, label in zip(found.truth[mine], assigned[mine], strict=True):
            confusion[:, label] += truth
        assert counts[image].tolist() == class_counts(confusion).tolist()


@given(seed=SEEDS, classes=st.integers(1, 4))
@settings(max_examples=25)
def test_the_best_label_of_masks_is_that_of_their_pixels(seed, classes):
    rng = np.random.default_rng(seed)
    segments = rng.integers(0, 5, (6, 7)).astype(np.int32)
    truth = rng.choice([*range(classes), 255], (6, 7)).astype(np.uint8)
    masks = image_masks(analysis_of(segments, np.zeros((2, 2, 1)), np.zeros((2, 2))), segments, truth, classes)
    by_pixels = class_counts(confusion_matrix(truth, best_labels(segments, truth, classes), classes))
    assert assign(masks, best_label(masks)).counts[0].tolist() == by_pixels.tolist()


def test_a_class_without_pixels_has_no_concept():
    masks = random_masks(1, 6, 3)
    masks.truth[:, 1] = 0
    assert 1 not in modified(masks)


def test_the_modified_protocol_does_not_depend_on_how_masks_are_divided():
    embeddings, pixels, image = np.array([[0.0], [8.0]], np.float32), np.array([4, 4]), np.array([0, 0])
    whole = Masks(embeddings, pixels, np.array([[4, 0], [1, 3]]), image)
    halves = Masks(
        np.repeat(embeddings, 2, axis=0),
        np.repeat(pixels // 2, 2),
        np.array([[2, 0], [2, 0], [1, 1], [0, 2]]),
        np.repeat(image, 2),
    )
    assert modified(halves).tolist() == [0, 0, 1, 1] and modified(whole).tolist() == [0, 1]


def test_published_rows_stand_beside_the_same_data_set_and_protocol(tmp_path):
    run = read_run(write_run(tmp_path, ANALYSES))
    outcomes = {source: assign(masks, modified(masks)) for source in SOURCES for masks in [masks_of(tmp_path, source)]}
    shown = sheet(run, replace(DATASET, name="ade20k"), {"modified": outcomes})
    assert shown.below is not None
    assert list(shown.below.rows) == [["modified", "naive upsampling", "29.1"], ["modified", "EmerDiff", "33.1"]]
    assert any("reads labels" in note for note in shown.notes)
    assert sheet(run, DATASET, {"modified": outcomes}).below is None
    assert sheet(run, replace(DATASET, name="ade20k"), {"traditional": outcomes}).below is None
    partial = sheet(run, replace(DATASET, more=("z",)), {"modified": outcomes})
    assert partial.rows[0][3] == "2 of 3" and any("not all images" in note for note in partial.notes)


def test_the_lead_is_emerdiffs_over_naive_upsampling_of_the_same_images(tmp_path):
    # EmerDiff's masks are right in every image, the naive ones (one mask an image) cannot be.
    analyses = {id: analysis_of([[0, 0, 1, 1]], [[0, 0, 10, 10]], [[0, 0, 0, 0]]) for id in ("a", "b", "c")}
    dataset = Truth({id: [[0, 0, 1, 1]] for id in analyses})
    run = read_run(write_run(tmp_path, analyses))
    found = {
        source: assign(masks, modified(masks)) for source in SOURCES for masks in [read_masks(run, dataset, source)]
    }
    # A naive image is one mask, as near to cat's concept as to dog's; all of it becomes the first: 1/2 and 0.
    assert [outcome.mIoU for outcome in found.values()] == [100, 25]
    assert found["EmerDiff"].lead(found["naive upsampling"]) == (75, 75, 75)
    assert sheet(run, dataset, {"modified": found}).rows[0][-1] == "+75.00 [+75.00, +75.00]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, r"a\.safetensors: no kept analysis; expected a run made with --keep-analysis"),
        ({"upsampling": "naive"}, "holds masks by naive, expected those of EmerDiff"),
        ({"masks": 7}, r"kept by a run with other settings \(masks 30 and 7\)"),
    ],
)
def test_an_analysis_that_is_not_the_runs_is_refused_by_name(tmp_path, change, message):
    write_run(tmp_path, ANALYSES)
    (tmp_path / "a.safetensors").unlink()
    if change:
        analysis_of([[0, 0, 1, 1]], [[0, 2, 10, 10]], [[0, 1, 1, 1]], **change).save(tmp_path / "a.safetensors")
    with pytest.raises((ValueError, OSError), match=message):
        masks_of(tmp_path)


def test_an_analysis_of_other_masks_says_which_evidence_is_missing(tmp_path):
    write_run(tmp_path, ANALYSES, options={"masks": 3})
    origin = replace(ANALYSES["a"].origin, masks={"by": "slic", "options": {"masks": 3}})
    replace(ANALYSES["a"], origin=origin, evidence={}, facts={}).save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError) as raised:
        masks_of(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path}/a.safetensors: masks by slic leave no low_resolution_masks and queries, expected those of EmerDiff"
    )


def test_an_analysis_by_other_models_is_refused(tmp_path):
    write_run(tmp_path, ANALYSES, models={"diffusion": "other", "clip": "c"})
    with pytest.raises(ValueError, match=r"kept by a run with other models \(diffusion \"other\" and \"d\"\)"):
        masks_of(tmp_path)


def test_labels_of_another_size_are_refused(tmp_path):
    write_run(tmp_path, ANALYSES)
    with pytest.raises(ValueError, match=r"a\.safetensors: is of 4x1 pixels, the labels of this image are 2x2"):
        masks_of(tmp_path, dataset=Truth({"a": [[0, 0], [1, 1]], "b/c": [[0]]}))


def save_tree(root: Path) -> Path:
    """A data set of the user's own: three images of two sizes, three classes."""
    rng = np.random.default_rng(0)
    for number, size in enumerate(((40, 56), (32, 32), (32, 32))):
        for part, pixels in (
            ("images", rng.integers(0, 256, (*size, 3), dtype=np.uint8)),
            ("labels", rng.choice(np.array([0, 1, 2, 255], np.uint8), size)),
        ):
            path = root / part / "sub" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (root / "classes.txt").write_text("cat\ndog\nsky\n", encoding="utf-8")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return save_tree(tmp_path / "mine")


def test_kept_analyses_of_real_runs_are_evaluated_without_a_model(tree, tmp_path, tiny_diffusion, tiny_clip):
    run = tmp_path / "run"
    models = ["--diffusion", tiny_diffusion, "--clip", tiny_clip, "--masks", "4", "--steps", "5"]
    made = run_here("eval", "predict", "custom", "--root", tree, *models, "--keep-analysis", "--out", run)
    assert made.returncode == 0, made.stderr
    call = ["eval", "unsupervised", "custom", "--root", tree, "--predictions", run]
    shown = ovseg(*call)  # a process of its own
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == (run / "unsupervised.md").read_text() and "reads labels" in shown.stdout
    written = (run / "unsupervised.json").read_bytes()
    results = json.loads(written)
    assert set(results["protocols"]) == {"traditional", "modified"}
    both = results["protocols"]["modified"]
    assert both["lead"]["mIoU"] == pytest.approx(both["EmerDiff"]["mIoU"] - both["naive upsampling"]["mIoU"])
    assert run_here(*call).returncode == 0 and (run / "unsupervised.json").read_bytes() == written
    again = run_here(*call, "--protocol", "modified", "--out", tmp_path / "elsewhere")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "elsewhere" / "unsupervised.json").read_bytes())["protocols"] == {"modified": both}
    wrong = run_here(*call, "--seed", "-1")
    assert wrong.returncode == 2 and wrong.stderr.startswith("ovseg: error: --seed: expected")


def test_a_run_without_analyses_ends_in_one_line(tree, tmp_path, tiny_clip):
    run = tmp_path / "run"
    made = run_here(
        *("eval", "predict", "custom", "--root", tree, "--out", run, "--by", "none"),
        *("--diffusion", "none", "--clip", tiny_clip),
    )
    assert made.returncode == 0, made.stderr
    shown = run_here("eval", "unsupervised", "custom", "--root", tree, "--predictions", run)
    assert shown.returncode == 2 and "sub/0.safetensors: no kept analysis" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1 and not (run / "unsupervised.json").exists()
