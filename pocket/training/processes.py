"""Several processes that train one model on the cores of one machine.

    torchrun --nproc-per-node 2 -m ovseg.pocket.training.clip --batch 96

Each has its own batches, one core, and the mean of all gradients to step along, so that all have the same weights. A
loss that compares the pictures of a batch compares those of one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed, nn

PATIENCE = timedelta(days=1)  # how long others wait for the first process to draw or encode scenes


def launched() -> bool:
    """Whether torchrun started this process."""
    return bool(distributed.is_torchelastic_launched())


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if _joined() else 0


def count() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if _joined() else 1


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through the block before the others, which then find its files in place."""
    if rank() > 0:
        distributed.barrier()
    yield
    if rank() == 0 and count() > 1:
        distributed.barrier()


def average_gradients(model: nn.Module) -> None:
    """Puts the mean of all processes' gradients in the place of the model's own."""
    if count() == 1:
        return
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / count()).split([one.numel() for one in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _joined() -> bool:
    if launched() and not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=PATIENCE)
    return launched()
