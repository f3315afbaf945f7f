"""The precision of training: bfloat16 where the device multiplies it quickly, float32 elsewhere."""

from __future__ import annotations

import torch

from ovseg.precision import multiplies_quickly


def product_dtype(device: torch.device | str) -> torch.dtype:
    """What matrix products are made in: without units for bfloat16 a step takes 16 to 20 times as long in it."""
    return torch.bfloat16 if multiplies_quickly(torch.bfloat16, device) else torch.float32


def autocast(device: torch.device | str) -> torch.autocast:
    """The context in which a model's forward pass runs."""
    dtype = product_dtype(device)
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype == torch.bfloat16)
