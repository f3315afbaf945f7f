"""The precision of training: bfloat16 where the device has units for it, float32 elsewhere."""

from __future__ import annotations

import torch


def product_dtype(device: torch.device | str) -> torch.dtype:
    """What matrix products are made in.

    A CPU without units for bfloat16 works it out number by number: a training step then takes 16 to 20 times as long.
    """
    units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if units or torch.device(device).type != "cpu" else torch.float32


def autocast(device: torch.device | str) -> torch.autocast:
    """The context in which a model's forward pass runs."""
    dtype = product_dtype(device)
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype == torch.bfloat16)
