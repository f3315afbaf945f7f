from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ovseg.pocket.scene import GLYPH_FOLDER
from ovseg.pocket.training import data
from ovseg.pocket.training import loop as training
from ovseg.pocket.world import BACKGROUNDS, NAMES, OBJECTS, SPLITS, WORLD_VERSION, WORLDS, caption, scene


def test_the_promised_names_are_there_and_every_object_has_a_glyph():
    promised = {"cat", "dog", "car", "tree", "apple", "house", "fish", "bird", "grass", "sky", "sand", "water"}
    assert promised <= set(NAMES)
    assert len(OBJECTS) >= 48 and len(BACKGROUNDS) >= 8 and len(set(NAMES)) == len(NAMES)
    assert {path.stem for path in GLYPH_FOLDER.glob("*.png")} == set(OBJECTS)


def test_a_scene_is_the_same_bytes_every_time_and_no_two_arguments_share_one():
    one, again = scene("evaluation", 7, 3), scene("evaluation", 7, 3)
    assert one.image.tobytes() == again.image.tobytes() and one.labels.tobytes() == again.labels.tobytes()
    others = [("evaluation", 7, 4), ("evaluation", 8, 3), ("tuning", 7, 3), ("train", 7, 3)]
    assert len({scene(*other).image.tobytes() for other in others} | {one.image.tobytes()}) == 5
    assert len(set(SPLITS.values())) == len(SPLITS)


@pytest.mark.parametrize("world", [2, 3])
def test_worlds_2_and_3_too_and_they_share_no_scene_with_another_world(world):
    one, again = (scene("evaluation", 7, 3, world) for _ in range(2))
    assert one.image.tobytes() == again.image.tobytes() and one.labels.tobytes() == again.labels.tobytes()
    others = [("evaluation", 7, 4, world), ("evaluation", 8, 3, world)]
    others += [("evaluation", 7, 3, other) for other in WORLDS if other != world]
    others += [(split, 7, 3, world) for split in ("tuning", "train", "heldout")]
    assert len({scene(*other).image.tobytes() for other in others} | {one.image.tobytes()}) == 8
    assert set(WORLDS[world]) - set(WORLDS[1]) == {"heldout"} and len(set(WORLDS[world].values())) == 4


def test_a_world_has_its_own_splits_alone():
    for split, world in (("heldout", 1), ("test", 2), ("train", 4)):
        with pytest.raises(KeyError):
            scene(split, 0, 0, world)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("index", range(12))
def test_labels_are_exactly_the_objects_and_backgrounds_a_scene_names(index, world):
    one = scene("tuning", 5, index, world)
    assert one.image.shape == (128, 128, 3) and one.image.dtype == np.uint8
    assert one.labels.shape == (128, 128) and one.labels.dtype == np.uint8
    shown = {NAMES[i] for i in np.unique(one.labels)}
    assert set(one.objects) <= shown <= set(one.objects) | set(one.backgrounds)


def test_an_object_stands_out_where_the_labels_say_so():
    one = scene("tuning", 0, 4, world=1)  # a bicycle on lava
    inside = np.isin(one.labels, [NAMES.index(name) for name in one.objects])
    assert 0.01 < inside.mean() < 0.9
    contrast = np.abs(one.image[inside].mean(0) - one.image[~inside].mean(0)).max()
    assert contrast > 10


def test_captions():
    assert caption(("cat", "apple", "grass")) == "a photo of a cat and an apple on grass"
    assert caption(("sky", "car", "grass")) == "a photo of a car on sky and grass"
    assert caption(("sky",)) == "a photo of sky"


def test_the_command_writes_images_labels_and_classes(tmp_path):
    command = [sys.executable, "-m", "pocket.world", "--seed", "3", "--count", "2", "--out", str(tmp_path)]
    subprocess.run(command, check=True)
    assert (tmp_path / "classes.txt").read_text(encoding="utf-8").splitlines() == list(NAMES)
    expected = scene("evaluation", 3, 1)
    image_path, labels_path = (tmp_path / part / "00001.png" for part in ("images", "labels"))
    with Image.open(image_path) as image, Image.open(labels_path) as labels:
        assert np.array_equal(np.asarray(image), expected.image)
        assert np.array_equal(np.asarray(labels), expected.labels)
    assert len(list(tmp_path.glob("*/*.png"))) == 4


def test_the_command_refuses_a_folder_with_other_scenes(tmp_path):
    command = [sys.executable, "-m", "pocket.world", "--out", str(tmp_path), "--count"]
    subprocess.run([*command, "2"], check=True)
    subprocess.run([*command, "2"], check=True)
    done = subprocess.run([*command, "1"], capture_output=True, text=True)
    assert done.returncode == 2 and "00001.png" in done.stderr


def pinned(arrays):
    return hashlib.sha256(np.stack(arrays).tobytes()).hexdigest()[:16]


def test_this_is_world_1():
    """A world that changes must get another version, or training, tuning and figures would speak of different ones."""
    labels = np.stack([scene("evaluation", 0, index, world=1).labels for index in range(3)])
    assert hashlib.sha256(labels.tobytes()).hexdigest()[:16] == "7496df1c620ffbb1"


def test_the_command_refuses_a_negative_seed(tmp_path):
    command = [sys.executable, "-m", "pocket.world", "--seed", "-1", "--out", str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "--seed" in done.stderr and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("world", "labels", "images"),
    [(2, "5d31eb253e8f9365", "2cd62b6e49db1268"), (3, "088e3f9d544460b5", "6e629318bdeb1654")],
)
def test_these_are_worlds_2_and_3(world, labels, images):
    """As above; their images are pinned as well, since they come out of NumPy's plain arithmetic alone."""
    scenes = [scene(split, 3, index, world) for split in WORLDS[world] for index in range(3)]
    assert pinned([one.labels for one in scenes]) == labels
    assert pinned([one.image for one in scenes]) == images


def test_the_command_draws_world_2_and_its_held_out_split(tmp_path):
    command = [sys.executable, "-m", "pocket.world", "--world", "2", "--split", "heldout", "--count", "1"]
    subprocess.run([*command, "--out", str(tmp_path)], check=True)
    with Image.open(tmp_path / "images" / "00000.png") as image:
        assert np.array_equal(np.asarray(image), scene("heldout", 0, 0, world=2).image)


def test_the_command_refuses_the_held_out_split_of_world_1(tmp_path):
    command = [sys.executable, "-m", "pocket.world", "--world", "1", "--split", "heldout"]
    command += ["--out", str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "world 1 has train, tuning, evaluation, got 'heldout'" in done.stderr
    assert not (tmp_path / "new").exists()


def test_training_scenes_come_from_the_world_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CACHE", tmp_path)
    for world in WORLDS:
        for images, labels in (data.scenes("train", 2, world) for _ in range(2)):  # drawn, then read
            expected = scene("train", 0, 1, world)
            assert np.array_equal(images[1], expected.image) and np.array_equal(labels[1], expected.labels)


@pytest.mark.parametrize(("given", "world"), [([], WORLD_VERSION), (["--world", "2"], 2)])
def test_training_commands_take_a_world(given, world, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "--seed", "5", *given])
    plan = training.read_plan("clip", "", steps=10, batch=3, learning_rate=0.5)
    assert (plan.world, plan.seed, plan.steps, plan.batch, plan.learning_rate) == (world, 5, 10, 3, 0.5)
    assert training._identity(plan)["world"] == world
