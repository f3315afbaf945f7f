"""EmerDiff on shapes alone: the cost of an image of any size at Stable Diffusion 1.4's full size, without its weights.

The networks are on torch's meta device, where tensors have shapes and no values, and `EmerDiff.segment` itself runs on
them. Values that it reads from the device are made up here: k-means gets random queries, which fall into as many
clusters as are asked for, and every mask's response is a bump at a position of its own, as responses are local. So the
FLOPs are those of the engine's own calls; with speed="fast" their number depends on how many latents the bumps pack
into.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bench.random_weights import sd14_scheduler, sd14_unet, sd14_vae
from emerdiff import EmerDiff, LatentDiffusion, Options
from emerdiff.stable_diffusion import StableDiffusion

META = torch.device("meta")
PROMPT = (1, 77, 768)  # the text encoder's states
# The bumps' standard deviation, as a share of an image's side: so they pack about as the pocket models' responses do.
REACH = 0.25


def shapes_of_sd14() -> EmerDiff:
    """Return Stable Diffusion 1.4 without values."""
    with META:
        networks: list[Any] = [sd14_unet(), sd14_vae()]
    unet, vae = (network.eval() for network in networks)
    scheduler: Any = DDIMScheduler.from_config(sd14_scheduler("epsilon").config)
    predictor = StableDiffusion(unet, torch.empty(PROMPT, device=META))
    return EmerDiff(LatentDiffusion(predictor, vae, scheduler))


def count_flops(model: EmerDiff, options: Options) -> int:
    """Return the FLOPs of one square image of options.base_size, by a model on the meta device."""
    image = np.zeros((options.base_size, options.base_size, 3), np.uint8)
    with MadeUpValues(), FlopCounterMode(display=False) as counter:
        model.segment(image, options)
    return int(counter.get_total_flops())


class MadeUpValues(TorchDispatchMode):
    """Makes up the values that are read from the meta device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        off_meta = isinstance(args[0], Tensor) and args[0].device == META if args else False
        if off_meta and func is torch.ops.aten._local_scalar_dense.default:
            return 1.0
        if off_meta and func is torch.ops.aten._to_copy.default and kwargs.get("device", META) == torch.device("cpu"):
            return made_up(tuple(args[0].shape))
        return func(*args, **kwargs)


def made_up(shape: tuple[int, ...]) -> Tensor:
    """Maps (n, h, w) with a bump each; anything else is standard normal. float32."""
    rng = np.random.default_rng(0)
    if len(shape) != 3:
        return torch.from_numpy(rng.standard_normal(shape, np.float32))
    count, height, width = shape
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
    places = rng.random((count, 2, 1, 1))
    distances = (rows - places[:, 0]) ** 2 + (columns - places[:, 1]) ** 2
    return torch.from_numpy(np.exp(-distances / (2 * REACH**2)).astype(np.float32))
