"""Mask exports, read back: the map that comes back is the one that went out.

COCO is read by pycocotools. The other readers here are written from the formats' descriptions, independent of the
writers, as the tools' own would clash with our pins or cannot be had from the package index. Datumaro 1.13, with which
CVAT reads its zips (and which read the VOC trees and both COCO formats as well), the checks in panopticapi's
evaluation and the decoder of label-studio-sdk 2.1 were run on such exports by hand: no pixel differed.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet
from pycocotools.coco import COCO
from run_folders import blobs, write_run

from ovseg.draw import class_colours
from ovseg.export import WRITERS, open_images
from ovseg.export.categories import read_category_ids
from ovseg.export.label_map import object_colours
from ovseg.export.label_studio import encode

NAMES = ("background", "cat", '犬, of "all" kinds #1', "<a&b> 'c'")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools decodes so
UNLABELLED = -1  # in the maps that the readers here return: name per pixel is names[value]


def write(run: Path, name: str, **options: object) -> Path:
    """Export a run folder next to it; returns the export."""
    target = run.with_name(name)
    target.mkdir()
    WRITERS[name](open_images(run, **options), target)
    return target


def read_png(root: Path, id: str, names: tuple[str, ...]) -> np.ndarray:
    legend = json.loads((root / "legend.json").read_text(encoding="utf-8"))
    assert tuple(legend["names"]) == names
    with Image.open(root / f"{id}.png") as picture:
        labels = np.array(picture).astype(int)
    return np.where(labels == legend["no_label"], UNLABELLED, labels)


def read_npz(root: Path, id: str, names: tuple[str, ...]) -> np.ndarray:
    with np.load(root / f"{id}.npz", allow_pickle=False) as archive:
        assert tuple(archive["names"].tolist()) == names
        assert archive["confidence"].dtype == np.float32
        return np.where(archive["labels"] == archive["no_label"], UNLABELLED, archive["labels"].astype(int))


def read_coco(root: Path, id: str, names: tuple[str, ...]) -> np.ndarray:
    coco = COCO(str(root / "annotations/instances_default.json"))
    (entry,) = (image for image in coco.dataset["images"] if image["file_name"] == f"{id}.jpg")
    labels = np.full((entry["height"], entry["width"]), UNLABELLED)
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=entry["id"])):
        mask = coco.annToMask(annotation).astype(bool)
        rows, columns = np.nonzero(mask)
        assert annotation["area"] == mask.sum() and (labels[mask] == UNLABELLED).all()
        assert annotation["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        (category,) = coco.loadCats(annotation["category_id"])
        labels[mask] = names.index(category["name"])
    return labels


def read_panoptic(root: Path, id: str, names: tuple[str, ...]) -> np.ndarray:
    """As panopticapi's evaluation: what is in the PNG is in the JSON and the other way round."""
    content = json.loads((root / "annotations/panoptic_default.json").read_text())
    categories = {row["id"]: row for row in content["categories"]}
    (annotation,) = (row for row in content["annotations"] if row["file_name"] == f"{id}.png")
    (entry,) = (row for row in content["images"] if row["id"] == annotation["image_id"])
    with Image.open(root / "annotations/panoptic_default" / annotation["file_name"]) as picture:
        assert picture.mode == "RGB" and picture.size == (entry["width"], entry["height"])
        red, green, blue = np.moveaxis(np.array(picture).astype(int), 2, 0)
    ids = red + 256 * green + 256**2 * blue
    assert set(np.unique(ids)) - {0} == {row["id"] for row in annotation["segments_info"]}
    labels = np.full(ids.shape, UNLABELLED)
    seen = set()
    for row in annotation["segments_info"]:
        category = categories[row["category_id"]]
        assert category["isthing"] or row["category_id"] not in seen  # stuff has one segment a class
        seen.add(row["category_id"])
        assert row["area"] == (ids == row["id"]).sum() and row["iscrowd"] == 0
        labels[ids == row["id"]] = names.index(category["name"])
    return labels


def label_map(text: str) -> dict[tuple[int, ...], str]:
    """Colour -> name of a labelmap.txt, "name:red,green,blue:parts:actions"."""
    rows = [line.split(":") for line in text.splitlines() if not line.startswith("#")]
    assert all(len(row) == 4 for row in rows)
    colours = {tuple(map(int, row[1].split(","))): row[0] for row in rows}
    assert len(colours) == len(rows) == len(set(colours.values()))
    return colours


def by_colour(path: object, colours: dict[tuple[int, ...], str], names: tuple[str, ...]) -> np.ndarray:
    """A class mask by its colours, as CVAT reads it: "ignored" is no label, so is a background the run has not."""
    with Image.open(path) as picture:
        pixels = np.array(picture.convert("RGB"))
    values, inverse = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    found = [colours[tuple(value)] for value in values.tolist()]
    indices = np.array([names.index(name) if name in names else UNLABELLED for name in found])
    return indices[inverse.ravel()].reshape(pixels.shape[:2])


def read_voc(root: Path, id: str, names: tuple[str, ...]) -> np.ndarray:
    assert id in (root / "ImageSets/Segmentation/default.txt").read_text(encoding="utf-8").splitlines()
    colours = label_map((root / "labelmap.txt").read_text(encoding="utf-8"))
    labels = by_colour(root / f"SegmentationClass/{id}.png", colours, names)
    indices = np.array(Image.open(root / f"SegmentationClass/{id}.png")).astype(int)
    shift = 0 if names[0] == "background" else 1
    assert (np.where(indices == 255, UNLABELLED, indices - shift) == labels).all()
    objects = np.array(Image.open(root / f"SegmentationObject/{id}.png"))
    assert ((objects == 255) == (indices == 255)).all() and ((objects == 0) == (indices == 0)).all()
    for number in set(np.unique(objects)) - {0, 255}:
        assert len(np.unique(labels[objects == number])) == 1
    return labels


def read_cvat(root: Path, id: str, names: tuple[str, ...]) -> np.ndarray:
    with zipfile.ZipFile(root / "ovseg.zip") as archive:
        assert archive.testzip() is None
        assert id in archive.read("ImageSets/Segmentation/default.txt").decode().splitlines()
        colours = label_map(archive.read("labelmap.txt").decode())
        assert colours[0, 0, 0] == "background"
        with archive.open(f"SegmentationClass/{id}.png") as file:
            labels = by_colour(file, colours, names)
        with archive.open(f"SegmentationObject/{id}.png") as file:
            objects = np.array(Image.open(file).convert("RGB"))
    background = 0 if names[0] == "background" else UNLABELLED
    assert ((objects == 0).all(axis=2) == (labels == background)).all()
    return labels


def decode(code: list[int]) -> np.ndarray:
    """Values of Label Studio's run-length code, as thi.ng's rle-pack describes its decoder."""
    bits = "".join(f"{byte:08b}" for byte in code)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated, count = read(1), 0
        count = read(sizes[read(2)]) + 1
        values += [read(word)] * count if repeated else [read(word) for _ in range(count)]
    assert len(values) == total and len(bits) - place < 8
    return np.array(values, np.uint8)


def read_label_studio(root: Path, id: str, names: tuple[str, ...]) -> np.ndarray:
    view = ElementTree.parse(root / "labeling_config.xml").getroot()
    (task,) = (
        task for task in json.loads((root / "tasks.json").read_text()) if task["data"]["image"].endswith(f"d={id}.jpg")
    )
    (prediction,) = task["predictions"]
    labels = None
    for result in prediction["result"]:
        assert view.find(f"BrushLabels[@name='{result['from_name']}']").get("toName") == result["to_name"]
        shape = (result["original_height"], result["original_width"])
        labels = np.full(shape, 0 if names[0] == "background" else UNLABELLED) if labels is None else labels
        mask = decode(result["value"]["rle"]).reshape(*shape, 4)
        (name,) = result["value"]["brushlabels"]
        assert name in [label.get("value") for label in view.iter("Label")]
        labels[mask[:, :, 3] == 255] = names.index(name)
    assert labels is not None and len({result["id"] for result in prediction["result"]}) == len(prediction["result"])
    return labels


def read_fiftyone(root: Path, id: str, names: tuple[str, ...]) -> np.ndarray:
    targets = json.loads((root / "mask_targets.json").read_text(encoding="utf-8"))
    with Image.open(root / f"labels/{id}.png") as picture:
        assert picture.mode == ("L" if len(names) <= 254 else "I;16")
        values = np.array(picture).astype(int)
    table = {int(value): names.index(name) if name in names else UNLABELLED for value, name in targets.items()}
    assert targets["0"] == "background" and list(targets.values())[-1] == "no label"
    return np.vectorize(table.__getitem__)(values)


def read_imagefolder(root: Path, id: str, names: tuple[str, ...]) -> np.ndarray:
    assert tuple(json.loads((root / "id2label.json").read_text(encoding="utf-8")).values()) == names
    (row,) = (row for row in map(json.loads, (root / "metadata.jsonl").read_text().splitlines()) if row["id"] == id)
    with Image.open(root / row["mask_file_name"]) as picture:
        labels = np.array(picture).astype(int)
    assert labels.shape == (row["height"], row["width"]) and "file_name" not in row
    return np.where(labels == (255 if len(names) <= 254 else 65535), UNLABELLED, labels)


def read_parquet(root: Path, id: str, names: tuple[str, ...]) -> np.ndarray:
    table = parquet.read_table(root / "train.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["mask"] == {"_type": "Image"} and list(features) == ["id", "mask", "width", "height"]
    (row,) = (row for row in table.to_pylist() if row["id"] == id)
    with Image.open(io.BytesIO(row["mask"]["bytes"])) as picture:
        labels = np.array(picture).astype(int)
    return np.where(labels == (255 if len(names) <= 254 else 65535), UNLABELLED, labels)


READERS = {
    "png": read_png,
    "npz": read_npz,
    "coco": read_coco,
    "coco-panoptic": read_panoptic,
    "voc": read_voc,
    "cvat": read_cvat,
    "label-studio": read_label_studio,
    "fiftyone": read_fiftyone,
    "imagefolder": read_imagefolder,
    "parquet": read_parquet,
}
NO_LABEL_IS_BACKGROUND = {"cvat", "label-studio"}


def expected(labels: np.ndarray, names: tuple[str, ...], name: str) -> np.ndarray:
    """What should come back of a map with 255 as no label."""
    lost = 0 if name in NO_LABEL_IS_BACKGROUND and names[0] == "background" else UNLABELLED
    return np.where(labels == (255 if len(names) <= 254 else 65535), lost, labels)


@pytest.mark.parametrize("components", [False, True])
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    smoothness=st.sampled_from([1.5, 3.0]),
    background=st.booleans(),
)
def test_label_maps_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    components: bool,
    seed: int,
    shape: tuple[int, int],
    smoothness: float,
    background: bool,
) -> None:
    names = NAMES if background else ("wall", *NAMES[1:])
    labels = blobs(seed, *shape, [0, 1, 2, 3, 255], smoothness=smoothness)
    maps = {"sub/a": labels, "b": np.full((2, 3), 1)}
    run = write_run(tmp_path_factory.mktemp("run") / "run", maps, names)
    root = write(run, name, components=components)
    if not (name == "label-studio" and set(np.unique(labels)) <= {0, 255}):  # a task without a mask tells no size
        assert (READERS[name](root, "sub/a", names) == expected(labels, names, name)).all()
    assert (READERS[name](root, "b", names) == 1).all()


@pytest.mark.parametrize("name", sorted({*READERS} - {"voc"}))
def test_300_names_come_back_where_the_format_holds_them(tmp_path: Path, name: str) -> None:
    names = ("background", *(f"class {number}" for number in range(1, 300)))
    labels = np.array([[0, 1, 254, 255], [256, 299, 65535, 65535]])
    root = write(write_run(tmp_path / "run", {"a": labels}, names), name)
    assert (READERS[name](root, "a", names) == expected(labels, names, name)).all()


def test_voc_holds_254_names_and_refuses_more(tmp_path: Path) -> None:
    labels = np.array([[0, 100, 253, 255]])
    names = tuple(f"class {number}" for number in range(254))
    root = write(write_run(tmp_path / "run", {"a": labels}, names), "voc")
    assert (read_voc(root, "a", names) == [0, 100, 253, UNLABELLED]).all()
    run = write_run(tmp_path / "more/run", {"a": np.zeros((1, 1), int)}, (*names, "one more"))
    with pytest.raises(ValueError, match="at most 255 classes with the background fit into 8 bits, got 256"):
        write(run, "voc")


@pytest.mark.parametrize("name", ["coco", "coco-panoptic", "voc", "cvat", "label-studio"])
def test_components_are_counted_by_edges_not_corners(tmp_path: Path, name: str) -> None:
    labels = np.array([[1, 0, 1], [0, 1, 0], [2, 2, 0]])  # three parts of 1, one of 2, the background whole
    run = write_run(tmp_path / "run", {"a": labels}, ("background", "cat", "dog"))
    root = write(run, name, components=True)
    if name == "coco":
        rows = json.loads((root / "annotations/instances_default.json").read_text())["annotations"]
        assert [row["category_id"] for row in rows] == [1, 2, 2, 2, 3]
    elif name == "coco-panoptic":
        content = json.loads((root / "annotations/panoptic_default.json").read_text())
        assert [row["category_id"] for row in content["annotations"][0]["segments_info"]] == [1, 2, 2, 2, 3]
        assert [row["isthing"] for row in content["categories"]] == [0, 1, 1]
    elif name == "label-studio":
        results = json.loads((root / "tasks.json").read_text())[0]["predictions"][0]["result"]
        assert [row["value"]["brushlabels"] for row in results] == [["cat"]] * 3 + [["dog"]]
    elif name == "voc":
        assert np.array(Image.open(root / "SegmentationObject/a.png")).tolist() == [[1, 0, 2], [0, 3, 0], [4, 4, 0]]
    else:
        with zipfile.ZipFile(root / "ovseg.zip").open("SegmentationObject/a.png") as file:
            pixels = np.array(Image.open(file))
        voc = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]  # the devkit's first five
        assert [voc.index(tuple(pixel)) for pixel in pixels.reshape(-1, 3).tolist()] == [1, 0, 2, 0, 3, 0, 4, 4, 0]


def test_over_255_segments_take_the_green_channel(tmp_path: Path) -> None:
    board = np.indices((30, 30)).sum(axis=0) % 2
    root = write(write_run(tmp_path / "run", {"board": board}, ("black", "white")), "coco-panoptic", components=True)
    assert (read_panoptic(root, "board", ("black", "white")) == board).all()
    assert np.array(Image.open(root / "annotations/panoptic_default/board.png"))[:, :, 1].max() == 900 // 256


def test_object_colours_are_those_of_pascal_voc() -> None:
    table = object_colours()
    assert table[15] == (192, 128, 128) and table[20] == (0, 64, 128) and table[255] == (224, 224, 192)  # person, tv
    assert len(set(table)) == 256


def test_more_parts_than_a_mask_can_number_are_refused(tmp_path: Path) -> None:
    labels = np.indices((30, 30)).sum(axis=0) % 2
    run = write_run(tmp_path / "run", {"board": labels}, ("background", "cat"))
    for name in ("voc", "cvat"):
        with pytest.raises(ValueError, match="board: at most 254 objects .* without --components"):
            write(run, name, components=True)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("a:b",), "'a:b'.* no name with a colon"),
        (("#1",), "'#1'"),
        (("cat", "background"), "two classes of one name"),
    ],
)
def test_names_that_a_label_map_cannot_hold_are_refused(tmp_path: Path, names: tuple[str, ...], reason: str) -> None:
    run = write_run(tmp_path / "run", {"a": np.zeros((1, 1), int)}, names)
    for name in ("voc", "cvat"):
        with pytest.raises(ValueError, match=reason):
            write(run, name)


def test_an_id_that_a_list_cannot_hold_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"#1": np.zeros((1, 1), int)}, ("cat",))
    with pytest.raises(ValueError, match="image '#1'"):
        write(run, "voc")


def test_colours_show_the_classes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": np.array([[0, 1, 255]])}, ("background", "cat"))
    colours = class_colours(("background", "cat"))
    legend = json.loads((write(run, "png") / "legend.json").read_text())
    assert legend == {"names": ["background", "cat"], "colours": [[*colour] for colour in colours], "no_label": 255}
    with Image.open(write(run, "voc") / "SegmentationClass/a.png") as picture:
        shown = np.array(picture.convert("RGB"))[0].tolist()
    assert shown == [[0, 0, 0], [*colours[1]], [224, 224, 192]]
    view = ElementTree.parse(write(run, "label-studio") / "labeling_config.xml").getroot()
    assert [label.get("background") for label in view.iter("Label")] == ["#e2303c"]  # 226, 48, 60


def test_scores_go_along_where_a_format_has_a_place(tmp_path: Path) -> None:
    labels = np.array([[0, 0, 1, 255]])
    run = write_run(tmp_path / "run", {"a": labels}, ("background", "cat"), scores={0: 0.5, 1: 0.25})
    with np.load(write(run, "npz") / "a.npz") as archive:
        assert archive["confidence"].tolist() == [[0.5, 0.5, 0.25, 0]]
    rows = json.loads((write(run, "coco") / "annotations/instances_default.json").read_text())["annotations"]
    assert [row["score"] for row in rows] == [0.5, 0.25]
    (prediction,) = json.loads((write(run, "label-studio") / "tasks.json").read_text())[0]["predictions"]
    assert prediction["score"] == 0.3125 and prediction["result"][0]["score"] == 0.25


@settings(max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 70)), min_size=1, max_size=8))
def test_label_studios_code_decodes_to_the_mask(runs: list[tuple[bool, int]]) -> None:
    flat = np.repeat([value for value, _ in runs], [length for _, length in runs])
    assert decode(encode(flat[None])).tolist() == (np.repeat(flat, 4) * 255).tolist()


def test_label_studios_code_by_hand() -> None:
    code = encode(np.array([[True, False, False]]))
    assert code[:4] == [0, 0, 0, 12]  # three pixels of four values
    bits = "".join(f"{byte:08b}" for byte in code[4:])
    header, fill = "00111" + "0010" + "0011" + "0111" + "1111", "0000000"
    assert bits == header + "1" + "00" + "011" + "11111111" + "1" + "00" + "111" + "00000000" + fill


def test_label_studios_code_divides_long_runs() -> None:
    mask = np.zeros((300, 400), bool)
    mask[150:] = True
    code = encode(mask)
    assert len(code) < 50 and (decode(code).reshape(300, 400, 4) == 255 * mask[:, :, None]).all()


def test_coco_numbers_images_by_sorted_ids(tmp_path: Path) -> None:
    maps = {id: np.array([[0, 1]]) for id in ("b", "a/z", "a")}
    root = write(write_run(tmp_path / "run", maps, ("x", "y")), "coco")
    content = json.loads((root / "annotations/instances_default.json").read_text())
    assert [(row["id"], row["file_name"]) for row in content["images"]] == [(1, "a.jpg"), (2, "a/z.jpg"), (3, "b.jpg")]
    assert [(row["id"], row["image_id"]) for row in content["annotations"]] == [
        (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)
    ]  # fmt: skip


@pytest.mark.parametrize("components", [False, True])
def test_coco_outlines_fill_to_the_same_pixels_in_pycocotools(tmp_path: Path, components: bool) -> None:
    names = NAMES
    for seed in range(6):
        labels = blobs(seed, 67, 101, [0, 1, 2, 3, 255], smoothness=[0, 1.5, 4][seed % 3])
        run = write_run(tmp_path / f"{seed}/run", {"a": labels}, names)
        root = write(run, "coco", outlines=True, components=components)
        found = read_coco(root, "a", names)
        assert (found == expected(labels, names, "coco")).all()


@pytest.mark.parametrize("name", ["coco", "coco-panoptic"])
def test_the_background_is_no_category_if_so_asked_and_ids_are_the_runs(tmp_path: Path, name: str) -> None:
    labels = blobs(0, 20, 30, [0, 1, 2, 255])
    root = write(write_run(tmp_path / "run", {"a": labels}, NAMES[:3]), name, background=False)
    content = json.loads(next((root / "annotations").glob("*.json")).read_text())
    assert [(row["id"], row["name"]) for row in content["categories"]] == [(1, NAMES[1]), (2, NAMES[2])]
    found = READERS[name](root, "a", NAMES[:3])
    assert (found == np.where((labels == 0) | (labels == 255), UNLABELLED, labels)).all()
    run = write_run(tmp_path / "without/run", {"a": labels}, ("wall", "cat", "dog"))  # nothing to leave out
    content = json.loads(next((write(run, name, background=False) / "annotations").glob("*.json")).read_text())
    assert [row["id"] for row in content["categories"]] == [1, 2, 3]


@pytest.mark.parametrize("name", ["coco", "coco-panoptic"])
def test_categories_have_the_ids_that_were_given(tmp_path: Path, name: str) -> None:
    labels = blobs(0, 20, 30, [0, 1, 2, 255])
    (tmp_path / "ids.json").write_text(json.dumps({"dog": 18, "cat": 17, "person": 1}))
    ids = read_category_ids(str(tmp_path / "ids.json"))
    assert ids == read_category_ids("dog=18, cat=17,person=1")
    run = write_run(tmp_path / "run", {"a": labels}, ("background", "cat", "dog"))
    root = write(run, name, background=False, category_ids=ids)
    content = json.loads(next((root / "annotations").glob("*.json")).read_text())
    rows = [(row["id"], row["name"]) for row in content["categories"]]
    assert rows == [(1, "person"), (17, "cat"), (18, "dog")]  # the whole list, to be joined with others' files
    found = READERS[name](root, "a", ("background", "cat", "dog"))
    assert (found == np.where((labels == 0) | (labels == 255), UNLABELLED, labels)).all()


def test_rows_with_images_hold_them_as_they_are_and_only_such(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), "red").save(tmp_path / "b.jpg")
    labels = np.array([[0, 1, 1], [2, 2, 255]])
    sources = {"sub/b": tmp_path / "b.jpg"}
    run = write_run(tmp_path / "run", {"sub/b": labels, "gone": labels}, NAMES[:3], sources=sources)
    root = write(run, "imagefolder", images="copy")
    (row,) = map(json.loads, (root / "metadata.jsonl").read_text().splitlines())
    assert row["file_name"] == "images/sub/b.jpg" and (root / row["file_name"]).is_file()
    assert not (root / "masks/gone.png").exists()
    (row,) = parquet.read_table(write(run, "parquet", images="copy") / "train.parquet").to_pylist()
    assert row["image"] == {"bytes": (tmp_path / "b.jpg").read_bytes(), "path": "sub/b.jpg"}


def test_parquet_has_row_groups(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {f"{number:03}": np.zeros((2, 3), int) for number in range(70)}, NAMES)
    file = parquet.ParquetFile(write(run, "parquet") / "train.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [64, 6]
