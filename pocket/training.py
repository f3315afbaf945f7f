"""The training loop the three pocket models share: optimisers, averaged weights, resumable checkpoints."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pocket import processes
from pocket.data import CACHE
from pocket.world import WORLD_VERSION, WORLDS

WARM_UP = 200  # steps from learning rate 0 to its full value
GRADIENT_NORM = 1.0
SAVE_EVERY = 120  # seconds between checkpoints
REPORT_EVERY = 100  # steps between lines of the log


@dataclass(frozen=True)
class Plan:
    """How one model is trained. Options that a command line sets carry the same names there."""

    name: str  # of the checkpoint in the cache
    steps: int
    batch: int  # pictures in a step of each process
    learning_rate: float  # at the start; a cosine brings it to zero at the last step
    average: float  # weight of the past in the moving average of the weights
    seed: int
    device: str
    from_weights: bool  # start from the shipped weights, not from random ones
    world: int = WORLD_VERSION  # of the scenes it learns from

    def learning_rate_at(self, step: int) -> float:
        cosine = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
        return self.learning_rate * min(1.0, (step + 1) / WARM_UP) * cosine


def read_plan(name: str, description: str, *, steps: int, batch: int, learning_rate: float) -> Plan:
    """The plan as the command line of `python -m pocket.train_<name>` gives it."""
    parser = argparse.ArgumentParser(prog=f"python -m pocket.train_{name}", description=description)
    parser.add_argument("--steps", type=int, default=steps, help=f"optimiser steps in all (default {steps})")
    parser.add_argument("--batch", type=int, default=batch, help=f"pictures in each process's step (default {batch})")
    parser.add_argument("--learning-rate", type=float, default=learning_rate, help=f"default {learning_rate}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--from-weights", action="store_true", help="start from the shipped weights")
    parser.add_argument("--world", type=int, choices=WORLDS, default=WORLD_VERSION, help="default %(default)s")
    given = parser.parse_args()
    if processes.launched() and given.device != "cpu":
        parser.error(f"--device {given.device}: processes that torchrun starts train on a CPU; add --device cpu")
    return Plan(name, average=0.999, **vars(given))


def fit(
    model: nn.Module,
    loss: Callable[[np.random.Generator], Tensor],
    plan: Plan,
    constrain: Callable[[], None] = lambda: None,
    matrices: Sequence[nn.Parameter] = (),
) -> None:
    """Trains `model` in place and leaves it with the averaged weights, in evaluation mode.

    `matrices`, some of its parameters, are trained by `Muon`, the rest by AdamW.

    `loss` draws a batch with the random state it is given and returns a scalar. The state of step s depends on
    (plan.seed, s) and the process's rank alone, so a run resumed from its checkpoint sees the batches it would have
    seen. `constrain` is called after every optimiser step, to put back weights that are not to change. Raises
    ValueError for a checkpoint of another plan or of another number of processes. Of several processes all end with the
    same weights; the first keeps the checkpoint and the log, whose losses are its own batches'.
    """
    optimizers = _optimizers(model, plan, matrices)
    average = {key: value.detach().clone() for key, value in model.state_dict().items()}
    checkpoint = CACHE / f"{plan.name}-world{plan.world}.pt"
    start = _resume(checkpoint, plan, model, optimizers, average)
    log = checkpoint.with_suffix(".log")
    first = processes.rank() == 0
    model.train()
    saved, recent = time.monotonic(), []
    columns = (
        TextColumn(plan.name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, disable=not first) as progress:
        task = progress.add_task(plan.name, total=plan.steps, completed=start, loss="")
        for step in range(start, plan.steps):
            recent.append(_step(model, loss, optimizers, average, plan, step, constrain))
            done = step + 1
            if not first:
                continue
            if done % REPORT_EVERY == 0 or done == plan.steps:
                line = f"step {done} loss {np.mean(recent):.5f}"
                with log.open("a") as stream:
                    print(line, file=stream)
                progress.update(task, loss=line)
                recent = []
            if time.monotonic() - saved > SAVE_EVERY or done == plan.steps:
                _save(checkpoint, plan, done, model, optimizers, average)
                saved = time.monotonic()
            progress.advance(task)
    model.load_state_dict(average)
    model.eval()


class Muon(torch.optim.Optimizer):
    """Steps of the averaged gradient's nearest orthogonal matrix, as large as AdamW's (Jordan et al., 2024).

    A convolution's kernel is a matrix with a row for each output channel; torch's own Muon takes matrices alone.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["average"] = torch.zeros_like(matrix)
                average = state["average"].lerp_(matrix.grad, 1 - group["momentum"])
                ahead = matrix.grad.lerp(average, group["momentum"]).flatten(1)  # Nesterov's momentum
                size = 0.2 * max(ahead.shape) ** 0.5  # so that an entry moves by a fifth of the learning rate or so
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.sub_(orthogonal(ahead).view_as(matrix), alpha=group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix (m, n), any float dtype, with its singular values brought near 1; computed in bfloat16.

    Five Newton-Schulz steps with the quintic of Jordan et al. (2024).
    """
    x = matrix.bfloat16() / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)


def _optimizers(model: nn.Module, plan: Plan, matrices: Sequence[nn.Parameter]) -> list[torch.optim.Optimizer]:
    chosen = {id(matrix) for matrix in matrices}
    others = [one for one in model.parameters() if one.requires_grad and id(one) not in chosen]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    ]
    return [*found, Muon(matrices, plan.learning_rate)] if matrices else found


def _step(
    model: nn.Module,
    loss: Callable[[np.random.Generator], Tensor],
    optimizers: list[torch.optim.Optimizer],
    average: dict[str, Tensor],
    plan: Plan,
    step: int,
    constrain: Callable[[], None],
) -> float:
    rank = processes.rank()  # 0 adds nothing to either seed: NumPy fills up with zeros
    torch.manual_seed(1_000_003 * plan.seed + step + (rank << 40))
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate_at(step)
    # On a CPU with bfloat16 units, plain matrix products beat the fused attention's backward pass by far.
    device = torch.device(plan.device).type
    kernels = [SDPBackend.MATH] if device == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(kernels):
        with torch.autocast(device, torch.bfloat16):
            value = loss(np.random.default_rng([plan.seed, step, rank]))
        value.backward()
    processes.average_gradients(model)
    nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
    for optimizer in optimizers:
        optimizer.step()
    constrain()
    weight = min(plan.average, (step + 1) / (step + 10))
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                average[key].lerp_(tensor, 1 - weight)
    return float(value.detach())


def _save(
    path: Path,
    plan: Plan,
    step: int,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    average: dict[str, Tensor],
) -> None:
    draft = path.with_suffix(".partial")
    state = {"plan": _identity(plan), "step": step, "model": model.state_dict(), "average": average}
    torch.save(state | {"optimizers": [optimizer.state_dict() for optimizer in optimizers]}, draft)
    draft.rename(path)


def _resume(
    path: Path, plan: Plan, model: nn.Module, optimizers: list[torch.optim.Optimizer], average: dict[str, Tensor]
) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, map_location=plan.device, weights_only=True)
    if {"processes": 1} | state["plan"] != _identity(plan):
        raise ValueError(f"{path} was written by another run, {state['plan']}; remove it, or train as it did")
    model.load_state_dict(state["model"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    for key, value in state["average"].items():
        average[key].copy_(value)
    return int(state["step"])


def _identity(plan: Plan) -> dict[str, object]:
    """What must be equal for a run to be the same one; it may go on on another device."""
    return {key: value for key, value in asdict(plan).items() if key != "device"} | {"processes": processes.count()}
