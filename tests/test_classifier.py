"""A classifier as a naming model: its dense readout against the network itself, its words, its folder, the labels."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ovseg import prompts
from ovseg.classes import Background, build_vocabulary
from ovseg.labels import label_masks, label_pixels
from ovseg.model_files import form, missing
from ovseg.naming import without_unknown
from ovseg.segmenter import Segmenter
from ovseg.towers.classifier import SIZE_POWER, Classifier
from ovseg.towers.regions import pool
from ovseg.towers.scoring import Scoring
from ovseg.towers.view import View
from ovseg.towers.words import Words, read_words

SETTINGS = {
    "architecture": "tf_efficientnet_lite0",
    "classes": 6,
    "stride": 32,
    "mean": [0.5, 0.4, 0.3],
    "deviation": [0.5, 0.6, 0.7],
    "temperature": 1.0,
    "context": 0.0,
    "scale": 1.0,
    "bias": 0.0,
    "size": 64,
}
WORDS = {
    "sets": [[0, 1, 2], [3], [4], [0, 1, 2, 3]],
    "words": {"dog": 0, "cat": 1, "Sky": 2, "animal": 3, "mouse": 1, "bus": 1, "dining table": 2, "knife": 1},
    "plurals": {"mice": "mouse"},
    "near": {"wolf": "dog"},
}
NOUNS = Words({"dog": (0,), "zebra": (1,), "hot dog": (2,), "dress": (3,)}, {}, {"wolf": "dog"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder with random weights, in half precision as it ships."""
    made = tmp_path_factory.mktemp("namer")
    torch.manual_seed(0)
    tensors = timm.create_model("tf_efficientnet_lite0", num_classes=6).state_dict()
    tensors["classifier.weight"].normal_(0, 30)  # at random the features hardly differ from place to place
    tensors["classifier.bias"].normal_()
    kept = {name: tensor.half() for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    save_file(kept, made / "model.safetensors")
    return write(made)


def write(folder: Path, settings: dict | None = None, words: dict | None = None) -> Path:
    (folder / "config.json").write_text(json.dumps(settings or SETTINGS), encoding="utf-8")
    (folder / "words.json").write_text(json.dumps(words or WORDS), encoding="utf-8")
    return folder


def changed(folder: Path, copy: Path, settings: dict | None = None, words: dict | None = None) -> Path:
    (copy / "model.safetensors").symlink_to(folder / "model.safetensors")
    return write(copy, {**SETTINGS, **(settings or {})}, {**WORDS, **(words or {})})


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return Classifier.from_pretrained(folder)


def image(height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_mean_of_the_dense_logits_is_what_the_network_itself_says(folder: Path, classifier: Classifier) -> None:
    network = timm.create_model("tf_efficientnet_lite0", num_classes=6).eval()
    network.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()}, strict=False)
    features = classifier.dense_features(image(), View(64))  # it has that size already
    assert features.shape == (6, 2, 3) and features.dtype == np.float32 and features.std(axis=(1, 2)).min() > 1e-4
    pixels = (torch.from_numpy(image()).permute(2, 0, 1) / 255 - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / (
        torch.tensor([0.5, 0.6, 0.7])[:, None, None]
    )
    with torch.inference_mode():
        own = network(pixels[None])[0].numpy()
    np.testing.assert_allclose(features.mean(axis=(1, 2)), own, rtol=1e-4, atol=1e-4)


def test_context_and_temperature(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    plain = classifier.dense_features(image(), View(64))
    other = Classifier.from_pretrained(changed(folder, tmp_path, {"context": 0.5, "temperature": 2.0}))
    expected = (plain + 0.5 * plain.mean(axis=(1, 2), keepdims=True)) / 2
    np.testing.assert_allclose(other.dense_features(image(), View(64)), expected, rtol=1e-5, atol=1e-6)


def test_a_finer_stride_gives_a_finer_grid(folder: Path, tmp_path: Path) -> None:
    fine = Classifier.from_pretrained(changed(folder, tmp_path, {"stride": 16}))
    assert fine.dense_features(image(), View(64)).shape == (6, 4, 6)


def test_what_the_classifier_cannot_see_is_refused(classifier: Classifier) -> None:
    with pytest.raises(ValueError, match="window 0 and variant maskclip, got window 64"):
        classifier.dense_features(image(), View(64, 64, 32))
    with pytest.raises(ValueError, match="variant sclip"):
        classifier.dense_features(image(), View(64, variant="sclip"))
    with pytest.raises(ValueError, match="uint8"):
        classifier.dense_features(image().astype(np.float32), View(64))


def test_names_are_sets_of_classes(classifier: Classifier) -> None:
    rows = classifier.encode_text(["dogs", "cat"], ("a photo of a {}.",))
    weight = 3**-SIZE_POWER
    np.testing.assert_allclose(rows, [[weight, weight, weight, 0, 0, 0], [0, 0, 0, 1, 0, 0]], rtol=1e-6)
    with pytest.raises(ValueError, match="knows no word 'horse'"):
        classifier.encode_text(["horse"], ("{}",))


def test_membership_by_hand() -> None:
    """Classes at odds 4 : 2 : 1 : 1, so "pets" = the first two are 6 to 1 against the third, held back by 2^0.7."""
    logits = np.log(np.array([[4.0, 2.0, 1.0, 1.0]]))
    text = np.array([[2**-0.7, 2**-0.7, 0, 0], [0, 0, 1, 0]])
    vocabulary = build_vocabulary("pets,sky", "none")
    odds = np.array([6 / 8 * 2**-0.7, 1 / 8])
    for scale in (1.0, 0.5):
        probabilities, best = label_masks(logits, text, vocabulary, Scoring(scale, reading="membership"))
        np.testing.assert_allclose(probabilities[0], odds**scale / (odds**scale).sum(), rtol=1e-6)
        assert best.tolist() == [0]
    # Logits that are all raised by the same amount say the same.
    again, _ = label_masks(logits + 50, text, vocabulary, Scoring(1.0, reading="membership"))
    np.testing.assert_allclose(again[0], odds / odds.sum(), rtol=1e-6)


def test_pixels_and_masks_agree_where_the_features_are_the_same_everywhere() -> None:
    generator = np.random.default_rng(1)
    column = generator.normal(size=(5, 1, 1))
    features, scoring = np.broadcast_to(column, (5, 2, 3)), Scoring(0.7, reading="membership")
    text, vocabulary = generator.random((3, 5)), build_vocabulary("a,b,c", "none")
    pooled = pool(features, np.zeros((8, 9), np.int32), unit=False)
    np.testing.assert_allclose(pooled[0], column[:, 0, 0], rtol=1e-6)
    probabilities, best = label_masks(pooled, text, vocabulary, scoring)
    labels, scores = label_pixels(features, text, vocabulary, scoring, (8, 9))
    assert (labels == best[0]).all()
    np.testing.assert_allclose(scores, probabilities[0, best[0]], rtol=1e-5)


def test_a_single_name_may_be_improbable() -> None:
    """Evidence 1/4 at a bias of ln 2 is 1/2 against 1 for none of them: a third, which a threshold can refuse."""
    vocabulary, text = build_vocabulary("cat", "threshold=0.5"), np.eye(4)[:1]
    scoring = Scoring(1.0, float(np.log(2)), "softmax-or-none", "membership")
    probabilities, best = label_masks(np.zeros((1, 4)), text, vocabulary, scoring)
    np.testing.assert_allclose(probabilities, [[0.5, 1 / 3]], rtol=1e-6)
    assert best.tolist() == [0]


def test_doubt_holds_back_what_is_sure_and_leaves_the_order() -> None:
    """Weights 8 and 1 against 1 for none: 0.8 and 0.1 without doubt; 8/19 and 1/19 with nine more for look-alikes."""
    logits = np.log([[8.0], [1.0]])
    for doubt, expected in ((0.0, [0.8, 0.1]), (1.0, [8 / 19, 1 / 19])):
        found = Scoring(1.0, rule="softmax-or-none", doubt=doubt).probabilities(logits)
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-12)
    surest = Scoring(1.0, rule="softmax-or-none", doubt=3.0).probabilities(np.array([[500.0]]))
    np.testing.assert_allclose(surest, [[0.25]], rtol=1e-12)
    with pytest.raises(ValueError, match="doubt: expected a finite number from 0, got -1"):
        Scoring(1.0, doubt=-1)


def test_a_reading_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="no reading 'sum', expected one of cosine, membership"):
        Scoring(1.0, reading="sum")


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("dog", (0, 1, 2)),
        ("The  Dogs", (0, 1, 2)),
        ("sky", (4,)),
        ("ｃａｔ", (3,)),
        ("mice", (3,)),
        ("buses", (3,)),
        ("bus", (3,)),
        ("dining_tables", (4,)),
        ("dining-table", (4,)),
        ("knives", (3,)),
        ("horse", ()),
        ("s", ()),
        ("", ()),
    ],
)
def test_words_are_found_in_every_spelling(classifier: Classifier, word: str, found: tuple[int, ...]) -> None:
    assert classifier.words.find(word) == found and classifier.knows(word) == bool(found)


def test_unknown_words_are_refused_in_one_line_with_the_nearest() -> None:
    with pytest.raises(ValueError) as error:
        NOUNS.check(["dog", "zebbra", "brown dog", "qqqq", "wolves"])
    message = str(error.value)
    assert "\n" not in message and message.startswith("namer: knows no word 'zebbra'; nearest: zebra")
    assert "no word 'brown dog'; nearest: dog, hot dog" in message
    assert "no word 'qqqq', nor any like it" in message and "no word 'wolves'; nearest: dog" in message
    NOUNS.check(["dog", "dresses"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"sets": [[6]]}, "sets: expected a list of length"),
        ({"sets": [[]]}, "sets: expected"),
        ({"words": {"dog": 9}}, "words.dog: expected a whole number from 0 to 3, got 9"),
        ({"words": {"dog": "0"}}, "words.dog: expected"),
        ({"plurals": {"mice": 3}}, "plurals.mice: expected a text"),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, words: dict, message: str) -> None:
    path = tmp_path / "words.json"
    path.write_text(json.dumps({**WORDS, **words}), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_words(path, 6)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("architecture", "hf-hub:someone/anything", "architecture: expected tf_efficientnet_lite0"),
        ("classes", 7, "not the weights that config.json describes"),
        ("temperature", 0, "temperature: expected a number"),
        ("mean", [0.5], "mean: expected a list of length 3"),
    ],
)
def test_a_damaged_config_is_named(folder: Path, tmp_path: Path, key: str, value: object, message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message) as error:
        Classifier.from_pretrained(changed(folder, tmp_path, {key: value}))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_refused(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"][2] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"classifier.bias: expected finite numbers"):
        Classifier.from_pretrained(write(tmp_path))


def test_a_folder_is_what_it_holds(folder: Path, tmp_path: Path) -> None:
    assert form("clip", folder) == "classifier" and missing("clip", folder) == []
    assert form("clip", tmp_path) == "clip" and form("diffusion", folder) == "diffusion"
    (tmp_path / "words.json").write_text("{}")
    assert missing("clip", tmp_path) == ["config.json", "model.safetensors"]
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert form("clip", tmp_path) == "clip"


def test_a_segmenter_labels_by_a_classifier(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(image()).save(tmp_path / "photo.png")
    segmenter = Segmenter.from_pretrained("", folder, by="slic", masks=4)
    assert isinstance(segmenter.clip, Classifier) and segmenter.view == View(64)
    analysis = segmenter.analyze(tmp_path / "photo.png")
    result = segmenter.label(analysis, "dogs, cat; mouse", "sky")
    assert result.names == ("background", "dogs", "cat") and result.labels.shape == (64, 96)
    features = analysis.features.astype(np.float32)
    pooled = pool(features, analysis.segments, unit=False)
    odds = np.exp(pooled - pooled.max(axis=1, keepdims=True))
    evidence = np.stack([odds[:, 4], odds[:, :3].sum(axis=1) * 3**-SIZE_POWER, odds[:, 3]])
    evidence /= odds.sum(axis=1)  # one is left for none of them; cat and mouse are the same class, twice in the sum
    expected = evidence / (1 + evidence.sum(axis=0) + evidence[2])
    np.testing.assert_allclose(result.mask_scores, expected.T, rtol=1e-4)


def test_default_background_words_that_are_unknown_are_said_and_the_users_own_refused(folder: Path) -> None:
    segmenter = Segmenter.from_pretrained("", folder, by="none")
    text = segmenter.encode("dog", "words")
    assert text.vocabulary.prompts == ("sky", "dog") and text.vocabulary.owners == (0, 1)
    (note,) = text.vocabulary.notes
    assert "does not know: cloud, wall" in note and "sky" not in note
    with pytest.raises(ValueError, match="knows no word 'wall'"):
        segmenter.encode("dog", "sky,wall")
    rule = Background(words=("wall", "floor"))
    with pytest.raises(ValueError, match="none of the default background words"):
        without_unknown(build_vocabulary("dog", rule), rule, segmenter.clip)


SHIPPED = Path(str(files("ovseg.pocket") / "weights" / "namer"))


def test_the_shipped_namer_names_a_photograph() -> None:
    """skimage's cat, by pixels: whatever else is asked, most of the picture is a cat."""
    segmenter = Segmenter.from_pretrained("", SHIPPED, by="none")
    result = segmenter.label(skimage.data.chelsea(), "people, car, cats, dog, couch, zebra", "none")
    shares = np.bincount(result.labels.ravel(), minlength=6) / result.labels.size
    assert shares[2] > 0.6, dict(zip(result.names, shares, strict=True))


def test_the_shipped_namer_is_small_and_knows_common_words() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 14e6
    words = read_words(SHIPPED / "words.json", json.loads((SHIPPED / "config.json").read_text())["classes"])
    assert len(words.classes) > 3000
    voc = [entry.split(";") for entry in prompts.classes("voc20")]
    assert [group[0] for group in voc if not any(words.find(name.strip()) for name in group)] == []
    assert all(map(words.find, ("sky", "trees", "roads", "sea", "snow", "buildings", "children", "Polar bears")))
    assert "zebra" in words.nearest("zebbra") and not words.find("giraffe")
    assert set(words.find("sky")).isdisjoint(range(1000))  # a row of its own, behind ImageNet's classes
