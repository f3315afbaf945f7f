"""Worlds 2 and 3: exact labels, the held-out family, and how its difficulty is measured."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from ovseg.eval import difficulty
from ovseg.eval.confusion import mean_iou
from ovseg.masks import superpixels
from ovseg.pocket import sprites, world2
from ovseg.pocket.scene import GLYPH_FOLDER
from ovseg.pocket.sprites import HELD_OUT, drawings
from ovseg.pocket.world import BACKGROUNDS, NAMES, OBJECTS, WORLDS, scene


@pytest.mark.parametrize("index", range(6))
def test_world_2_labels_every_pixel_by_what_is_painted_there(index, monkeypatch):
    """Every thing is painted in one grey level, its name's number, with the shapes it has: then the picture is the
    label map, but for edges, where a pixel is a mixture."""
    pose = world2.pose

    def number(name):
        return np.float32(NAMES.index(name))

    def posed(path, side, rng):
        colour, alpha = pose(path, side, rng)
        return np.full_like(colour, number(path.stem.split("-")[0])), alpha

    flat = {name: lambda rng, name=name: np.full((3, 128, 128), number(name)) for name in BACKGROUNDS}
    monkeypatch.setattr(world2, "ALIKE", 0)
    monkeypatch.setattr(world2, "SHADOW", 0)
    monkeypatch.setattr(world2, "TEXTURES", flat)
    monkeypatch.setattr(world2, "pose", posed)
    monkeypatch.setattr(world2, "_lit", lambda texture, rng: texture)
    monkeypatch.setattr(world2, "dress", lambda colour, alpha, behind, light, appearance, rng: colour)
    monkeypatch.setattr(world2, "_photograph", lambda image, rng: image[0])
    one = scene("train", 11, index, world=2)
    shown = sorted({NAMES.index(name) for name in one.objects + one.backgrounds})
    assert list(np.unique(one.labels)) == shown
    pure = np.isin(one.image, np.array(shown, np.float32))
    assert pure.mean() > 0.75
    # At an edge, a mixture of two may happen to be a third one's number.
    assert (one.labels == one.image)[pure].mean() > 0.998


def test_the_label_is_the_last_object_that_covers_at_least_half_of_a_pixel(monkeypatch):
    """The labels follow from the objects' alphas and places and the backgrounds' covers, worked out pixel by pixel."""
    record, paths, covers, grounds = [], [], [], []
    place, pose, part = world2._place, world2.pose, world2._part

    def placed(alpha, owner, areas, rng):
        where = place(alpha, owner, areas, rng)
        record.append((alpha, where))
        return where

    def noted(name, texture):
        return lambda rng: (grounds.append(name), texture(rng))[1]

    monkeypatch.setattr(world2, "_place", placed)
    monkeypatch.setattr(world2, "TEXTURES", {name: noted(name, paint) for name, paint in world2.TEXTURES.items()})
    monkeypatch.setattr(world2, "pose", lambda path, side, rng: (paths.append(path), pose(path, side, rng))[1])
    monkeypatch.setattr(world2, "_part", lambda rng: (covers.append(part(rng)), covers[-1])[1])
    one = scene("tuning", 4, 16, world=2)  # six objects on three backgrounds
    things = [(path, alpha, where) for path, (alpha, where) in zip(paths, record, strict=True) if where]
    assert len(things) >= 3 and len(covers) == len(grounds) - 1 == 2
    for y in range(128):
        for x in range(128):
            expected = grounds[0]
            for name, cover in zip(grounds[1:], covers, strict=True):
                expected = name if cover[y, x] >= 0.5 else expected
            for path, alpha, (top, left, (rows, columns)) in things:
                seen = alpha[rows, columns]
                if 0 <= y - top < seen.shape[0] and 0 <= x - left < seen.shape[1] and seen[y - top, x - left] >= 0.5:
                    expected = path.stem.split("-")[0]
            assert NAMES[one.labels[y, x]] == expected


def test_no_object_of_world_2_is_hidden_by_more_than_half(monkeypatch):
    areas = []
    place = world2._place

    def placed(alpha, owner, known, rng):
        if known:
            areas.append(np.bincount(owner[owner >= 0], minlength=len(known)) / np.array(known))
        return place(alpha, owner, known, rng)

    monkeypatch.setattr(world2, "_place", placed)
    for index in range(40):
        scene("train", 5, index, world=2)
    shares = np.concatenate(areas)
    assert 0.5 <= shares.min() < 0.7 and shares.max() == 1


@pytest.mark.parametrize(("world", "composition"), world2.COMPOSITIONS.items())
def test_the_held_out_family_is_in_its_own_split_and_nowhere_else(world, composition, monkeypatch):
    families = {split: set() for split in WORLDS[world]}
    pose = world2.pose
    for split, used in families.items():
        monkeypatch.setattr(
            world2, "pose", lambda path, side, rng, used=used: (used.add(path.parent.name), pose(path, side, rng))[1]
        )
        for index in range(20):
            scene(split, 6, index, world)
    assert families.pop("heldout") == set(HELD_OUT)
    assert all(used == set(composition.appearance.families) for used in families.values())


def test_every_noun_has_drawings_of_several_families_and_of_the_held_out_one():
    with (GLYPH_FOLDER / "GLYPHS.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    listed = {Path(row["family"], f"{row['noun']}-{row['code point']}.png") for row in rows}
    assert listed == {path.relative_to(GLYPH_FOLDER) for path in GLYPH_FOLDER.glob("*/*.png")}
    for name in OBJECTS:
        assert len({path.parent.name for path in drawings(name, world2.COMPOSITIONS[2].appearance.families)}) >= 3, name
        assert len(drawings(name, world2.COMPOSITIONS[3].appearance.families)) >= 2, name
        assert drawings(name, HELD_OUT), name
    assert sum(path.stat().st_size for path in GLYPH_FOLDER.rglob("*.png")) < 2.5e6


@pytest.mark.parametrize("world", [2, 3])
def test_every_name_occurs_in_a_healthy_share(world):
    labels = np.stack([scene("train", 0, index, world).labels for index in range(300)])
    seen = np.stack([(labels == index).any((1, 2)) for index in range(len(NAMES))]).mean(1)
    assert seen[: len(OBJECTS)].min() > 0.02 and seen[len(OBJECTS) :].min() > 0.1
    assert 0.2 < (labels < len(OBJECTS)).mean() < 0.4


def test_hues_of_world_3_are_turned_slightly_and_those_of_world_2_to_any():
    red = np.zeros((3, 4, 4), np.float32)
    red[0] = 200

    def share_of_red(composition):
        rng = np.random.default_rng(0)
        found = [sprites._recolour(red, composition.appearance, rng)[:, 0, 0] for _ in range(300)]
        return np.mean([colour.argmax() == 0 for colour in found])

    assert share_of_red(world2.COMPOSITIONS[3]) == 1
    assert 0.5 < share_of_red(world2.COMPOSITIONS[2]) < 0.85


def test_difficulty_counts_the_pixels_of_each_segments_best_label():
    one = scene("tuning", 0, 0, world=2)
    segments = superpixels(one.image, 20, compactness=30.0)
    given = np.empty_like(one.labels)
    for number in np.unique(segments):
        given[segments == number] = np.bincount(one.labels[segments == number]).argmax()
    counts = difficulty.best_label_counts(segments, one.labels)
    for name in range(len(NAMES)):
        true, found = one.labels == name, given == name
        assert counts[name].tolist() == [true.sum(), found.sum(), (true & found).sum()]


def test_difficulty_of_a_scene_cut_along_its_labels_is_none():
    one = scene("tuning", 0, 0, world=2)
    counts = difficulty.best_label_counts(one.labels.astype(np.int64), one.labels)
    assert mean_iou(counts) == 100
    assert len(np.unique(difficulty.blocks(one.image))) == 256
    assert len(np.unique(difficulty.colour_clusters(one.image, 5))) == 5
