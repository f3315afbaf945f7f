"""Modulated denoising: how the decoded image changes when one low-resolution mask is nudged up and down.

Paper, sections 3.2 and 3.3: a constant is added, at the positions of one mask and at one timestep, to the output of
one cross-attention; denoising then goes on unmodulated, with the attention maps of the unmodulated pass, and the
difference of the two decoded images measures how much every pixel belongs to that mask.

Row 0 of every batch is the unmodulated run, so nothing is recorded or kept between steps. Rows go in chunks through
all steps, and their last latents in chunks through the decoder, so memory hardly grows with the number of masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from emerdiff.diffusion import LatentDiffusion
from emerdiff.hooks import Recording, add_to_input, add_to_output, record_input, record_output
from emerdiff.inversion import Step, follow
from emerdiff.memory import in_chunks
from emerdiff.pack import Fit, pack, unpack

# How responses are packed after the first step and, ever more local, after the others.
FIRST, LATER = Fit(core=0.7, margin=2, apart=False), Fit(core=0.8, margin=2, apart=True)


@dataclass(frozen=True)
class Placement:
    """Where in an attention the constant is added: how to read the tensor there and how to add to it."""

    record: Callable[[Attention], AbstractContextManager[Recording]]
    add: Callable[[Attention, Tensor], AbstractContextManager[None]]


# By the names that Options knows.
# The paper's f(softmax(QK^T)V) + cM is "after-projection"; f(softmax(QK^T)V + cM) is its neighbour.
PLACEMENTS = {
    "after-projection": Placement(record_output, add_to_output),
    "before-projection": Placement(
        lambda attention: record_input(attention.to_out[0]),
        lambda attention, delta: add_to_input(attention.to_out[0], delta),
    ),
}


@dataclass(frozen=True)
class Modulation:
    """How masks are nudged."""

    layer: str  # name of the modulated attention
    strength: float  # lambda
    placement: str  # a key of PLACEMENTS
    attention_injection: bool  # use the unmodulated run's attention maps
    rows: int  # most rows per UNet call, but 3 at least: row 0 and a mask's two

    def attention_of(self, diffusion: LatentDiffusion) -> AbstractContextManager[None]:
        """The block in which rows are evaluated."""
        return diffusion.sharing_attention() if self.attention_injection else nullcontext()


def difference_maps(
    diffusion: LatentDiffusion,
    steps: Sequence[Step],
    path: Sequence[Tensor],
    masks: Tensor,
    modulation: Modulation,
    count_rows: Callable[[int], None],
) -> tuple[Tensor, float]:
    """Nudge masks at the first step, both ways, denoise every row, decode it and compare: the paper's procedure.

    steps: T steps from t_m down; path: T + 1 latents (1, C, h, w) x_{t_m}, ..., x_0 of the image, through which row 0
    passes; masks: (K, N) bool over the modulated layer's positions. `count_rows(n)` is called after every UNet call of
    n rows. Returns d = ||I^- - I^+||_2 over RGB, (K, H, W) float32 on the CPU, and the root mean square of the layer's
    unmodulated output. Images are compared as floats on the [-1, 1] scale, unclipped, and no map is normalised.
    """

    def denoise(chunk: slice) -> tuple[Tensor, Tensor, float]:
        rows, rms = nudge(diffusion, steps[0], path, masks[chunk], modulation)
        count_rows(len(rows))
        down, up = carry(diffusion, steps[1:], path[1:], rows, modulation, count_rows)[1:].chunk(2)
        return down, up, rms

    def compare(chunk: slice) -> Tensor:
        return finite(distance(diffusion.decode(down[chunk]), diffusion.decode(up[chunk])), diffusion.dtype)

    downs, ups, rms = zip(*in_chunks(len(masks), _pairs(modulation.rows), denoise), strict=True)
    down, up = torch.cat(downs), torch.cat(ups)
    return torch.cat(in_chunks(len(down), diffusion.decodes_at_once(down), compare)), rms[0]


def packed_response_maps(
    diffusion: LatentDiffusion,
    steps: Sequence[Step],
    path: Sequence[Tensor],
    masks: Tensor,
    modulation: Modulation,
    count_rows: Callable[[int], None],
) -> tuple[Tensor, float]:
    """How masks' last latents differ from the image's, without a decode: maps (K, h, w) float32 on the CPU.

    As `difference_maps`, but that a mask is nudged upwards alone, and that masks share latents after every step (see
    `pack`): a map is ||x_0^+ - x_0||_2 over the latents' channels, and 0 outside its mask's windows.
    """

    def respond(chunk: slice) -> tuple[Tensor, float]:
        rows, rms = nudge(diffusion, steps[0], path, masks[chunk], modulation, signs=(1,))
        count_rows(len(rows))
        return rows[1:] - rows[:1], rms

    most = max(1, modulation.rows - 1)
    found, rms = zip(*in_chunks(len(masks), most, respond), strict=True)
    responses, fit = torch.cat(found), FIRST
    for index, step in enumerate(steps[1:], start=1):
        packed, fit = pack(responses, fit), LATER
        start, ends = path[index], path[index : index + 2]

        def denoise(chunk: slice) -> Tensor:
            rows = torch.cat([start, start + packed.latents[chunk]])  # noqa: B023 - called at once
            rows = carry(diffusion, [step], ends, rows, modulation, count_rows)  # noqa: B023
            return rows[1:] - rows[:1]

        carried = torch.cat(in_chunks(len(packed.latents), most, denoise))
        responses = unpack(carried, packed.owners, len(masks))
    return finite(torch.linalg.vector_norm(responses, dim=1), diffusion.dtype).cpu(), rms[0]


def distance(images: Tensor, others: Tensor) -> Tensor:
    """||I - J||_2 over RGB of images (B, 3, H, W): (B, H, W) float32 on the CPU."""
    return torch.linalg.vector_norm(images - others, dim=1).cpu()


def finite(tensor: Tensor, dtype: torch.dtype | None = None, step: Step | None = None) -> Tensor:
    """The tensor itself; ValueError where numbers overflowed, which would look like masks without any response.

    dtype: in which the model ran, and step: the one it took, if they are known, for the message to say what helps.
    """
    if tensor.isfinite().all():
        return tensor
    if step is not None and step.alpha <= 0:
        raise ValueError(
            f"t_m: at timestep {step.timestep} this model's noise schedule leaves nothing of the image "
            "(zero terminal SNR); expected an earlier timestep"
        )
    cause = {torch.float16: "use bfloat16 or float32 instead of float16, or less strength", None: "try dtype float32"}
    where = "" if dtype is None else f" in {str(dtype).removeprefix('torch.')}"
    raise ValueError(f"the diffusion model overflowed{where}: {cause.get(dtype, 'use less strength')}")


def _pairs(rows: int) -> int:
    """How many masks go into that many rows, beside row 0."""
    return max(1, (rows - 1) // 2)


def nudge(
    diffusion: LatentDiffusion,
    step: Step,
    path: Sequence[Tensor],
    masks: Tensor,
    modulation: Modulation,
    signs: tuple[int, ...] = (-1, 1),
) -> tuple[Tensor, float]:
    """One denoising step from path[0] with every mask nudged down and up: (1 + 2K, C, h, w) latents.

    Row 0 is the unmodulated run, which lands on path[1]; then K rows for -lambda and K for +lambda, or K for each sign
    that is asked for. What comes before the modulated layer is evaluated once for all of them. The root mean square of
    the layer's output in row 0, before anything is added, is returned too.
    """
    attention = diffusion.attention(modulation.layer)
    constants = modulation.strength * masks[..., None].float()  # (K, N, 1): one value for all channels
    deltas = torch.cat([torch.zeros_like(constants[:1]), *(sign * constants for sign in signs)])
    placement = PLACEMENTS[modulation.placement]
    with modulation.attention_of(diffusion), placement.record(attention) as output, placement.add(attention, deltas):
        predicted = diffusion.predict_noise(path[0], step, widen_at=modulation.layer, rows=len(deltas))
    rms = float(output.read()[0].float().square().mean().sqrt())
    return finite(follow(path[0], path[1], predicted, step), diffusion.dtype, step), rms


def carry(
    diffusion: LatentDiffusion,
    steps: Sequence[Step],
    path: Sequence[Tensor],
    rows: Tensor,
    modulation: Modulation,
    count_rows: Callable[[int], None],
) -> Tensor:
    """Denoise rows (B, C, h, w) through the steps, unmodulated; row 0 is at path[0] and passes through the others."""
    for step, target in zip(steps, path[1:], strict=True):
        with modulation.attention_of(diffusion):
            predicted = diffusion.predict_noise(rows, step)
        rows = follow(rows, target, predicted, step)
        count_rows(len(rows))
    return rows
