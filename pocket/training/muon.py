"""Muon, an optimiser for matrices: steps along the gradient with all its singular values made equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ovseg.pocket.training.precision import product_dtype


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
    """The matrix (m, n), any float dtype, with its singular values brought near 1.

    Five Newton-Schulz steps with the quintic of Jordan et al. (2024).
    """
    x = matrix.to(product_dtype(matrix.device)) / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)
