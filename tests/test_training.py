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
from torch import nn

from ovseg.pocket.training import autoencoder as train_autoencoder
from ovseg.pocket.training import loop as training
from ovseg.pocket.training import processes
from ovseg.pocket.training.clip import build, mixture
from ovseg.pocket.training.locality import impose, shield
from ovseg.pocket.training.loop import OtherRunError, Plan, carry_out, fit, read_plan
from ovseg.pocket.training.muon import Muon, orthogonal
from ovseg.pocket.weights import DIFFUSION, save_half

ROOT = Path(__file__).parent.parent


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


def test_fixed_entries_of_the_clip_get_no_gradient_and_the_others_do():
    torch.manual_seed(0)
    tower = build().visual
    before = {name: one.detach().clone() for name, one in tower.named_parameters()}
    shield(tower)
    pooled = tower(torch.randn(1, 3, 128, 128))
    pooled.square().sum().backward()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.sub_(parameter.grad) if parameter.grad is not None else None
    stepped = {name: one.detach().clone() for name, one in tower.named_parameters()}
    impose(tower)
    assert all(torch.equal(stepped[name], one) for name, one in tower.named_parameters())
    moved = [name for name, one in before.items() if not torch.equal(one, stepped[name])]
    assert "transformer.resblocks.0.attn.in_proj_weight" in moved and "positional_embedding" not in moved
