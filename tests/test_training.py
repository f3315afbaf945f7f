"""The pocket models' training loop: its optimiser, and runs that are broken off and go on."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from emerdiff import EmerDiff, Options
from ovseg.pocket.training import autoencoder as train_autoencoder
from ovseg.pocket.training import clip as train_clip
from ovseg.pocket.training import loop as training
from ovseg.pocket.training import photos as train_photos
from ovseg.pocket.training import processes
from ovseg.pocket.training.clip import mixture
from ovseg.pocket.training.data import cut
from ovseg.pocket.training.loop import OtherRunError, Plan, carry_out, fit, read_plan
from ovseg.pocket.training.muon import Muon, orthogonal
from ovseg.pocket.training.precision import product_dtype
from ovseg.pocket.weights import DIFFUSION, save_half
from ovseg.pocket.world import NAMES
from ovseg.towers.dense import dense_features

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("units", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_multiplies_in_bfloat16_where_it_has_units_for_it(units, expected, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: units)
    assert product_dtype("cpu") == expected
    assert product_dtype("cuda") == torch.bfloat16


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 3, 3, 3)])
def test_muon_steps_along_an_orthogonal_matrix_of_adamws_size(shape):
    generator = torch.Generator().manual_seed(0)
    matrix = nn.Parameter(torch.zeros(shape))
    matrix.grad = torch.randn(shape, generator=generator)
    u, _, v = torch.linalg.svd(matrix.grad.flatten(1), full_matrices=False)
    Muon([matrix], lr=0.5).step()
    step = -matrix.detach().flatten(1) / (0.5 * 0.2 * max(u.shape[0], v.shape[1]) ** 0.5)
    values = torch.diag(u.T @ step @ v.T)  # by the gradient's own singular vectors
    assert values.min() > 0.6 and values.max() < 1.3
    assert torch.dist(step, u @ torch.diag(values) @ v) < 0.1 * step.norm()  # and nothing else, within bfloat16


def test_muon_decays_weights_and_remembers_gradients():
    matrix = nn.Parameter(torch.eye(3))
    optimizer = Muon([matrix], lr=0.1, momentum=0.5, weight_decay=0.2)
    first, second = torch.diag(torch.tensor([1.0, 2.0, 4.0])), -torch.eye(3)
    matrix.grad = first
    optimizer.step()
    scale = 0.1 * 0.2 * 3**0.5
    after = 0.98 * torch.eye(3) - scale * orthogonal(0.75 * first)  # half of the gradient, half of its average
    assert torch.allclose(matrix, after)
    matrix.grad = second
    optimizer.step()
    average = 0.25 * first + 0.5 * second
    assert torch.allclose(matrix, 0.98 * after - scale * orthogonal(0.5 * second + 0.5 * average))


def test_the_loss_on_patches_by_hand():
    """Two patches of one window, three names of which it shows two: their mean says these with 0.4 and 0.35."""
    shares = torch.tensor([[[0.5, 0.1, 0.4], [0.3, 0.6, 0.1]]])
    shown = torch.tensor([[True, True, False]])
    assert mixture(shares.log(), shown).item() == pytest.approx(-(math.log(0.4) + math.log(0.35)) / 2)


def test_from_the_shipped_weights_an_autoencoder_learns_to_decode_and_its_latents_stay():
    for from_weights, learning in ((True, {"decoder", "post_quant_conv"}), (False, None)):
        model = train_autoencoder.build(from_weights)
        found = {name.split(".")[0] for name, one in model.named_parameters() if one.requires_grad}
        assert found == (learning or {"encoder", "decoder", "quant_conv", "post_quant_conv"})


def test_saved_weights_do_not_say_where_training_began(tmp_path):
    """What is saved of the shipped weights is what ships."""
    save_half(train_autoencoder.build(from_weights=True), tmp_path / "vae")
    for folder in (tmp_path / "vae", DIFFUSION / "vae", DIFFUSION / "unet", DIFFUSION / "text_encoder"):
        assert "_name_or_path" not in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "vae" / weights).read_bytes() == (DIFFUSION / "vae" / weights).read_bytes()


class Halt(Exception):
    pass


def test_a_run_that_was_broken_off_ends_as_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", -1)
    plan = Plan("small", 6, batch=4, learning_rate=0.01, average=0.9, seed=3, device="cpu", from_weights=False)

    def run(folder, stop):
        monkeypatch.setattr(training, "CACHE", folder)
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 1))
        seen = []

        def loss(rng):
            if len(seen) == stop:
                raise Halt
            seen.append(rng.standard_normal((plan.batch, 5)))
            x = torch.from_numpy(seen[-1]).float()
            return (model(x) - x.sum(1, keepdim=True)).square().mean()

        fit(model, loss, plan, matrices=[model[0].weight])
        return model, seen

    whole, all_seen = run(tmp_path / "whole", stop=-1)
    with pytest.raises(Halt):
        run(tmp_path / "broken", stop=4)
    resumed, later = run(tmp_path / "broken", stop=-1)
    assert len(all_seen) == 6 and np.array_equal(later, all_seen[4:])
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_saves_once_and_leaves_nothing_that_the_next_could_stumble_over(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "CACHE", tmp_path)
    plan = Plan("small", 3, batch=4, learning_rate=0.01, average=0.9, seed=3, device="cpu", from_weights=False)
    steps, saved = [], []

    def train(plan):
        model = nn.Linear(5, 1)

        def loss(rng):
            steps.append(plan)
            return model(torch.from_numpy(rng.standard_normal((plan.batch, 5))).float()).square().mean()

        fit(model, loss, plan)
        return model

    carry_out(plan, train, saved.append)
    carry_out(plan, train, saved.append)
    assert len(saved) == 2 and len(steps) == 6 and not plan.checkpoint.exists()

    train(plan)  # broken off before it was saved
    with pytest.raises(SystemExit, match="2"):
        carry_out(replace(plan, seed=4), train, saved.append)
    assert "small-world3.pt was written by another run" in capsys.readouterr().err
    assert len(saved) == 2 and plan.checkpoint.exists()
    with pytest.raises(OtherRunError):
        train(replace(plan, steps=4))


@pytest.mark.parametrize("flag", ["--steps", "--batch"])
def test_a_run_of_no_steps_is_refused(flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", flag, "0"])
    with pytest.raises(SystemExit, match="2"):
        read_plan("clip", "Train.", steps=1, batch=1, learning_rate=1.0)
    assert f"{flag} 0" in capsys.readouterr().err


PAIR = """
import sys
import numpy as np
import torch
from pathlib import Path
from ovseg.pocket.training import loop as training
from ovseg.pocket.training import processes

training.CACHE = Path(sys.argv[1])
training.WARM_UP = 1
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 1))
step = 0


def loss(rng):
    global step
    drawn = [rng] if processes.launched() else [rng, np.random.default_rng([3, step, 1])]
    step += 1
    inputs = [torch.from_numpy(one.standard_normal((4, 5))).float() for one in drawn]
    with torch.autocast("cpu", enabled=False):
        return torch.stack([(model(x) - x.sum(1, keepdim=True)).square().mean() for x in inputs]).mean()


plan = training.Plan("pair", 6, batch=4, learning_rate=0.05, average=0.5, seed=3, device="cpu", from_weights=False)
for weight in model.parameters():
    weight.grad = torch.full_like(weight, 1.0 + processes.rank())
processes.average_gradients(model)
assert all((weight.grad == (1 + processes.count()) / 2).all() for weight in model.parameters())
torch.save(model.state_dict(), training.CACHE / f"before-{processes.rank()}")
training.fit(model, loss, plan, matrices=[model[0].weight])
torch.save(model.state_dict(), training.CACHE / f"after-{processes.rank()}")
"""


@pytest.mark.slow
def test_two_processes_train_as_one_that_sees_the_batches_of_both(tmp_path):
    script = tmp_path / "pair.py"
    script.write_text(PAIR, encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = []
    for folder, launcher in ((tmp_path / "one", []), (tmp_path / "two", torchrun)):
        folder.mkdir()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *launcher, script, folder], check=True, env=environment, timeout=300)
        found.append({path.name: torch.load(path, weights_only=True) for path in folder.glob("*-[01]")})
    alone, first, second = found[0]["after-0"], found[1]["after-0"], found[1]["after-1"]
    for name, start in found[0]["before-0"].items():
        assert torch.equal(first[name], second[name])
        assert torch.dist(first[name], alone[name]) < 0.01 * torch.dist(start, alone[name]), name


def test_processes_of_torchrun_train_on_a_cpu(monkeypatch, capsys):
    monkeypatch.setattr(processes, "launched", lambda: True)
    monkeypatch.setattr(sys, "argv", ["train", "--device", "cuda"])
    with pytest.raises(SystemExit, match="2"):
        read_plan("clip", "Train.", steps=1, batch=1, learning_rate=1.0)
    assert "--device cuda: processes that torchrun starts train on a CPU" in capsys.readouterr().err


def test_windows_frame_objects_and_say_what_they_show():
    """A scene of a red square (a cat) on blue (sky): windows that frame it are red in the middle and name the cat."""
    labels = torch.full((64, 128, 128), NAMES.index("sky"), dtype=torch.uint8)
    labels[:, 40:80, 30:60] = NAMES.index("cat")
    images = torch.zeros(64, 128, 128, 3, dtype=torch.uint8)
    images[..., 2] = 255
    images[:, 40:80, 30:60] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    torch.manual_seed(0)
    pictures, salient, noticed = train_clip.windows(images, labels)
    assert pictures.shape == (64, 3, 160, 160)
    cats = salient[:, NAMES.index("cat")]
    assert 0.7 < cats.float().mean() < 1  # a share lies anywhere
    assert (noticed | ~salient).all() and set(salient.nonzero()[:, 1].tolist()) == set(map(NAMES.index, ("cat", "sky")))
    red = (pictures[:, 0] > pictures[:, 2]).float().mean((1, 2))
    assert red[cats].min() > 0.1 > red[~cats].max() - 0.04  # salient is what covers 12 %
    assert (red[cats] > 0.3).sum() > 20  # framed


def test_squares_stay_inside_and_hold_their_object():
    labels = torch.full((200, 128, 128), NAMES.index("sky"), dtype=torch.uint8)
    labels[:100, 100:120, 5:25] = NAMES.index("dog")
    torch.manual_seed(1)
    corners, sides = train_clip.squares(labels)
    assert (corners >= 0).all() and (corners + sides[:, None] <= 128 + 1e-4).all()
    assert sides.min() >= train_clip.LEAST
    shown = (
        (corners[:100] < torch.tensor([120.0, 25.0])) & (corners[:100] + sides[:100, None] > torch.tensor([100.0, 5.0]))
    ).all(1)
    assert shown.float().mean() > train_clip.FRAMED + train_clip.NEAR - 0.1
    assert set(sides[100:].tolist()) == set(train_clip.SIDES)  # nothing to frame


def test_a_window_of_the_whole_image_is_the_image_and_a_mirrored_one_its_mirror():
    images = torch.rand(2, 3, 16, 16)
    corners, sides = torch.zeros(2, 2), torch.full((2,), 16.0)
    found = cut(images, corners, sides, torch.tensor([False, True]), 16)
    assert torch.allclose(found[0], images[0], atol=1e-5) and torch.allclose(found[1], images[1].flip(-1), atol=1e-5)
    corner = cut(images, torch.tensor([[4.0, 8.0]]).expand(2, 2), torch.full((2,), 8.0), torch.zeros(2).bool(), 8)
    assert torch.allclose(corner, images[:, :, 4:12, 8:16], atol=1e-5)


def test_embeddings_of_whole_scenes_are_open_clips_own():
    torch.manual_seed(0)
    tower = train_clip.build().visual.eval()
    pictures = torch.randn(1, 3, 512, 512)
    with torch.inference_mode():
        pooled, cells = train_clip.embed(tower, pictures, (0, 0))
        assert torch.allclose(pooled, tower(pictures), atol=1e-6)
        dense = dense_features(tower, pictures).flatten(2).transpose(1, 2)
    assert torch.allclose(cells, dense, atol=1e-6)


def test_photographs_become_squares_with_captions_and_train_a_model(tmp_path, monkeypatch):
    """A wide photo gives two squares; three steps of either part end in a folder that loads."""
    for name, number, size in (("golden_retriever", 0, (300, 90)), ("owl", 1, (100, 90)), ("0042", 2, (90, 99))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), np.uint8)).save(
            tmp_path / "photos" / name / f"{number}.png"
        )
    images, kinds, captions = train_photos.photographs(tmp_path / "photos")
    assert images.shape == (4, 200, 200, 3)
    assert [captions[kind] for kind in kinds] == ["", *["a photo of a golden retriever"] * 2, "a photo of an owl"]
    monkeypatch.setattr(train_photos, "SIDE", 40)
    monkeypatch.setattr(train_photos, "CROP", 32)
    monkeypatch.setattr(training, "CACHE", tmp_path)
    arguments = ["--steps", "3", "--decoder-steps", "2", "--batch", "2", "--device", "cpu"]
    assert train_photos.main([str(tmp_path / "photos"), str(tmp_path / "model"), *arguments]) == 0
    before, after = (
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors") for folder in (DIFFUSION, tmp_path / "model")
    )
    assert before.keys() == after.keys() and any((before[key] != after[key]).any() for key in before)
    assert EmerDiff.from_pretrained(tmp_path / "model").segment(images[0], Options(base_size=64, masks=4)).labels.max()


@pytest.mark.parametrize("wrong", ["missing", "there"])
def test_training_on_photographs_needs_photographs_and_room(wrong, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    photos = tmp_path if wrong == "there" else tmp_path / "missing"
    assert train_photos.main([str(photos), str(tmp_path / "there")]) == 2
    assert "expected" in capsys.readouterr().err
