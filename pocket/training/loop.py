"""The training loop the three pocket models share: averaged weights, resumable checkpoints, one command line."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ovseg.pocket.training import precision, processes
from ovseg.pocket.training.data import CACHE
from ovseg.pocket.training.muon import Muon
from ovseg.pocket.world import WORLD_VERSION, WORLDS

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
    world: int = WORLD_VERSION  # of the training scenes

    def learning_rate_at(self, step: int) -> float:
        cosine = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
        return self.learning_rate * min(1.0, (step + 1) / WARM_UP) * cosine

    @property
    def checkpoint(self) -> Path:
        """The file of a run that is not saved yet, in the cache."""
        return CACHE / f"{self.name}-world{self.world}.pt"


class OtherRunError(ValueError):
    """The cache holds the checkpoint of a run that is not this one."""


def read_plan(name: str, description: str, *, steps: int, batch: int, learning_rate: float) -> Plan:
    """The plan as the command line of `python -m ovseg.pocket.training.<name>` gives it."""
    parser = argparse.ArgumentParser(prog=f"python -m ovseg.pocket.training.{name}", description=description)
    parser.add_argument("--steps", type=int, default=steps, help=f"optimiser steps in all (default {steps})")
    parser.add_argument("--batch", type=int, default=batch, help=f"pictures in each process's step (default {batch})")
    parser.add_argument("--learning-rate", type=float, default=learning_rate, help=f"default {learning_rate}")
    parser.add_argument("--seed", type=int, default=0)
    gpu = torch.cuda.is_available() and not processes.launched()
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--from-weights", action="store_true", help="start from the shipped weights")
    parser.add_argument("--world", type=int, choices=WORLDS, default=WORLD_VERSION, help="default %(default)s")
    given = parser.parse_args()
    if min(given.steps, given.batch) < 1:
        parser.error(f"--steps {given.steps} --batch {given.batch}: expected at least 1 of either")
    if processes.launched() and given.device != "cpu":
        parser.error(f"--device {given.device}: processes that torchrun starts train on a CPU; add --device cpu")
    return Plan(name, average=0.999, **vars(given))


def carry_out(plan: Plan, train: Callable[[Plan], Any], save: Callable[[Any], None]) -> None:
    """Trains, saves the outcome and removes the checkpoint, so that the next run starts from what is saved or anew.

    Ends the process with exit code 2 where the checkpoint in the cache is another run's.
    """
    try:
        model = train(plan)
    except OtherRunError as error:
        print(f"pocket: error: {error}", file=sys.stderr)
        sys.exit(2)
    if processes.rank() == 0:
        save(model)
        plan.checkpoint.unlink()


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
    OtherRunError for a checkpoint of another plan or of another number of processes. Of several processes all end with
    the same weights; the first keeps the checkpoint and the log, whose losses are its own batches'.
    """
    optimizers = _optimizers(model, plan, matrices)
    average = {key: value.detach().clone() for key, value in model.state_dict().items()}
    start = _resume(plan, model, optimizers, average)
    log = plan.checkpoint.with_suffix(".log")
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
                line = f"step {done} loss {float(torch.stack(recent).mean()):.5f}"
                with log.open("a") as stream:
                    print(line, file=stream)
                progress.update(task, loss=line)
                recent = []
            if time.monotonic() - saved > SAVE_EVERY or done == plan.steps:
                _save(plan, done, model, optimizers, average)
                saved = time.monotonic()
            progress.advance(task)
    model.load_state_dict(average)
    model.eval()


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
) -> Tensor:
    rank = processes.rank()  # 0 adds nothing to either seed: NumPy fills up with zeros
    torch.manual_seed(1_000_003 * plan.seed + step + (rank << 40))
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate_at(step)
    # On a CPU, plain matrix products beat the fused attention's backward pass by far.
    on_cpu = torch.device(plan.device).type == "cpu"
    kernels = [SDPBackend.MATH] if on_cpu else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(kernels):
        with precision.autocast(plan.device):
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
    return value.detach()


def _save(
    plan: Plan,
    step: int,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    average: dict[str, Tensor],
) -> None:
    draft = plan.checkpoint.with_suffix(".partial")
    state = {"plan": _identity(plan), "step": step, "model": model.state_dict(), "average": average}
    torch.save(state | {"optimizers": [optimizer.state_dict() for optimizer in optimizers]}, draft)
    draft.rename(plan.checkpoint)


def _resume(plan: Plan, model: nn.Module, optimizers: list[torch.optim.Optimizer], average: dict[str, Tensor]) -> int:
    path = plan.checkpoint
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)  # what takes it up knows its device
    if {"processes": 1} | state["plan"] != _identity(plan):
        raise OtherRunError(f"{path} was written by another run, {state['plan']}; remove it, or train as it did")
    model.load_state_dict(state["model"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    for key, value in state["average"].items():
        average[key].copy_(value)
    return int(state["step"])


def _identity(plan: Plan) -> dict[str, object]:
    """What must be equal for a run to be the same one; it may go on on another device."""
    return {key: value for key, value in asdict(plan).items() if key != "device"} | {"processes": processes.count()}
