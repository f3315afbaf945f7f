"""Modulated denoising against plain forwards and a slow implementation of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

import emerdiff.diffusion
from emerdiff import LatentDiffusion
from emerdiff.inversion import Step, draw_noise, noisy_latent
from emerdiff.modulate import PLACEMENTS, Modulation, carry, difference_maps, finite, nudge, packed_response_maps

LAYER = "up_blocks.1.attentions.2.transformer_blocks.0.attn2"
MODULATION = Modulation(layer=LAYER, strength=10.0, placement="after-projection", attention_injection=True, rows=16)
POSITIONS = 8 * 12


@pytest.fixture(scope="module")
def diffusion(tiny_diffusion: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_diffusion)


@pytest.fixture(scope="module")
def steps(diffusion: LatentDiffusion) -> list[Step]:
    return diffusion.grid(10)[-3:]  # 201, 101, 1


@pytest.fixture(scope="module")
def path(steps: list[Step]) -> list[Tensor]:
    x_0 = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    noises = draw_noise(x_0.shape, len(steps), seed=0)
    return [noisy_latent(x_0, noise, step.alpha) for noise, step in zip(noises, steps, strict=True)] + [x_0]


@pytest.fixture(scope="module")
def masks() -> Tensor:
    return torch.arange(3)[:, None] == torch.arange(POSITIONS) // 32  # three bands of rows


def run(
    diffusion: LatentDiffusion, steps: list[Step], path: list[Tensor], masks: Tensor, modulation: Modulation
) -> Tensor:
    """The final latents (K, 2, C, h, w), down and up."""
    with torch.inference_mode():
        rows, _ = nudge(diffusion, steps[0], path, masks, modulation)
        rows = carry(diffusion, steps[1:], path[1:], rows, modulation, lambda rows: None)
        torch.testing.assert_close(rows[:1], path[-1], atol=1e-4, rtol=0)  # row 0 is the image
        return torch.stack(rows[1:].chunk(2), dim=1)


def maps_of(diffusion, steps, path, masks, modulation: Modulation, compare=difference_maps) -> Tensor:
    with torch.inference_mode():
        return compare(diffusion, steps, path, masks, modulation, lambda rows: None)[0]


def test_zero_strength_returns_the_image(diffusion, steps, path, masks):
    still = replace(MODULATION, strength=0.0)
    latents = run(diffusion, steps, path, masks, still)
    assert latents.shape == (3, 2, 4, 16, 24)
    torch.testing.assert_close(latents, path[-1].expand_as(latents), atol=1e-4, rtol=0)
    assert maps_of(diffusion, steps, path, masks, still).max() < 1e-4


def test_zero_strength_without_injection_returns_the_image_too(diffusion, steps, path, masks):
    latents = run(diffusion, steps, path, masks, replace(MODULATION, strength=0.0, attention_injection=False))
    torch.testing.assert_close(latents, path[-1].expand_as(latents), atol=1e-4, rtol=0)


def test_strength_moves_the_rows_apart(diffusion, steps, path, masks):
    maps = maps_of(diffusion, steps, path, masks, MODULATION)
    assert maps.shape == (3, 32, 48) and maps.dtype == torch.float32
    assert maps.amax(dim=(1, 2)).min() > 0.01
    # A mask's own band changes most: bands are a third of the height each.
    bands = maps[:, :30].unflatten(1, (3, 10)).mean(dim=(2, 3))
    assert bands.argmax(dim=0).tolist() == [0, 1, 2]


def test_maps_compare_the_decoded_pair(diffusion, steps, path, masks):
    latents = run(diffusion, steps, path, masks, MODULATION)
    with torch.inference_mode():
        down, up = (diffusion.decode(latents[:, sign]) for sign in (0, 1))
    expected = ((down - up) ** 2).sum(dim=1) ** 0.5
    torch.testing.assert_close(maps_of(diffusion, steps, path, masks, MODULATION), expected, atol=1e-5, rtol=1e-4)


def test_the_pair_is_minus_then_plus(diffusion, steps, path, masks):
    latents = run(diffusion, steps, path, masks, MODULATION)
    swapped = run(diffusion, steps, path, masks, replace(MODULATION, strength=-10.0))
    torch.testing.assert_close(latents.flip(1), swapped, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("compare", [difference_maps, packed_response_maps])
@pytest.mark.parametrize("rows", [1, 4, 5])
def test_chunks_do_not_matter(diffusion, steps, path, masks, rows: int, compare):
    whole = maps_of(diffusion, steps, path, masks, MODULATION, compare)
    chunked = maps_of(diffusion, steps, path, masks, replace(MODULATION, rows=rows), compare)
    torch.testing.assert_close(whole, chunked, atol=1e-4, rtol=1e-4)


def test_packed_maps_of_a_single_mask_are_its_latents_change(diffusion, steps, path, masks):
    """One mask has the whole latent for its window: the map is how far its row, nudged upwards, ends from the image."""
    packed = maps_of(diffusion, steps, path, masks[:1], MODULATION, packed_response_maps)
    with torch.inference_mode():
        rows, _ = nudge(diffusion, steps[0], path, masks[:1], MODULATION)
        rows = torch.cat([rows[:1], rows[2:]])
        still, moved = carry(diffusion, steps[1:], path[1:], rows, MODULATION, lambda rows: None)
    expected = ((moved - still) ** 2).sum(dim=0) ** 0.5
    torch.testing.assert_close(packed[0], expected, atol=1e-4, rtol=1e-3)


def test_packed_maps_need_no_decode(diffusion, steps, path, masks, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(diffusion.vae, "decode", lambda *_: pytest.fail("an image was decoded"))
    assert maps_of(diffusion, steps, path, masks, MODULATION, packed_response_maps).shape == (3, 16, 24)


def test_one_sign_is_half_of_both(diffusion, steps, path, masks):
    with torch.inference_mode():
        both, rms = nudge(diffusion, steps[0], path, masks, MODULATION)
        up, same = nudge(diffusion, steps[0], path, masks, MODULATION, signs=(1,))
    torch.testing.assert_close(up, torch.cat([both[:1], both[4:]]), atol=1e-4, rtol=1e-4)
    assert rms == same


def test_numbers_that_overflow_are_an_error(diffusion, steps, path, masks):
    for compare in (difference_maps, packed_response_maps):
        with pytest.raises(ValueError, match="overflowed in float32: use less strength$"):
            maps_of(diffusion, steps, path, masks, replace(MODULATION, strength=1e38), compare)


def test_what_helps_against_numbers_that_are_not_finite_is_said_as_it_is(diffusion, steps, path, masks):
    for dtype, said in (
        (torch.float16, "use bfloat16 or float32 instead of float16"),
        (torch.bfloat16, "use less str"),
    ):
        with pytest.raises(ValueError, match=said):
            finite(torch.tensor([0.0, torch.nan]), dtype)
    zero = [replace(steps[0], timestep=999, alpha=0.0), *steps[1:]]
    with pytest.raises(ValueError, match=r"^t_m: at timestep 999 .*zero terminal SNR") as caught:
        maps_of(diffusion, zero, path, masks, MODULATION, difference_maps)
    assert "float16" not in str(caught.value)


def test_decodes_go_in_chunks(diffusion, steps, path, masks, monkeypatch: pytest.MonkeyPatch):
    whole = maps_of(diffusion, steps, path, masks, MODULATION)
    monkeypatch.setattr(emerdiff.diffusion, "PIXELS_PER_DECODE", 2 * 32 * 48)
    decoded, decode = [], diffusion.vae.decode
    monkeypatch.setattr(diffusion.vae, "decode", lambda latents: decoded.append(len(latents)) or decode(latents))
    torch.testing.assert_close(maps_of(diffusion, steps, path, masks, MODULATION), whole, atol=1e-4, rtol=1e-4)
    assert decoded == [2, 2, 1, 1]


def test_injection_changes_the_result(diffusion, steps, path, masks):
    latents = run(diffusion, steps, path, masks, MODULATION)
    without = run(diffusion, steps, path, masks, replace(MODULATION, attention_injection=False))
    assert (latents - without).abs().max() > 1e-3


def test_every_row_is_counted(diffusion, steps, path, masks):
    counted: list[int] = []
    with torch.inference_mode():
        difference_maps(diffusion, steps, path, masks, replace(MODULATION, rows=5), counted.append)
    assert counted == [5] * 3 + [3] * 3  # two masks and the unmodulated row, then one mask and that row


def test_rms_is_that_of_the_unmodulated_output(diffusion, steps, path, masks):
    outputs = []
    handle = diffusion.attention(LAYER).register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.inference_mode():
        diffusion.predict_noise(path[0], steps[0])
        handle.remove()
        rms = nudge(diffusion, steps[0], path, masks, MODULATION)[1]
    assert rms == pytest.approx(float((outputs[0] ** 2).mean() ** 0.5), rel=1e-5)


def test_placements_add_before_and_after_the_output_projection(diffusion, steps, path, masks):
    attention = diffusion.attention(LAYER)
    projection = attention.to_out[0]
    delta = 10.0 * masks[:1, :, None].float()
    hidden = torch.randn(1, POSITIONS, 16, generator=torch.Generator().manual_seed(1))
    context = diffusion.predictor.empty_prompt
    changes = {}
    with torch.no_grad():
        plain = attention(hidden, encoder_hidden_states=context)
        for name, placement in PLACEMENTS.items():
            with placement.add(attention, delta):
                changes[name] = attention(hidden, encoder_hidden_states=context) - plain
        through = delta * projection.weight.sum(dim=1)
    torch.testing.assert_close(changes["after-projection"], delta.expand(1, POSITIONS, 16), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(changes["before-projection"], through, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("injection", [True, False])
def test_equals_a_slow_implementation(diffusion, steps, path, masks, injection: bool):
    """One row at a time, attention by probabilities, the whole reference path first, diffusers' own DDPM step."""
    fast = run(diffusion, steps, path, masks, replace(MODULATION, attention_injection=injection))
    slow = torch.stack(
        [
            torch.cat(
                [_slow_row(diffusion, steps, path, mask, sign * MODULATION.strength, injection) for sign in (-1, 1)]
            )
            for mask in masks
        ]
    )
    torch.testing.assert_close(fast, slow, atol=1e-3, rtol=1e-3)


class _Attention:
    """Plain attention that keeps its probabilities by timestep, or uses kept ones, and adds a constant at the end."""

    def __init__(self) -> None:
        self.kept: dict[int, Tensor] = {}
        self.timestep = 0
        self.inject = False
        self.constant: Tensor | float = 0.0

    def __call__(self, attention, hidden, encoder_hidden_states=None, **_):
        context = hidden if encoder_hidden_states is None else encoder_hidden_states
        heads = attention.heads
        query, key, value = attention.to_q(hidden), attention.to_k(context), attention.to_v(context)
        query, key, value = (torch.stack(x.chunk(heads, dim=-1), dim=1) for x in (query, key, value))
        probabilities = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
        if self.inject:
            probabilities = self.kept[self.timestep]
        else:
            self.kept[self.timestep] = probabilities
        mixed = torch.cat((probabilities @ value).unbind(dim=1), dim=-1)
        return attention.to_out[0](mixed) + self.constant


def _slow_row(diffusion, steps, path, mask, strength: float, injection: bool) -> Tensor:
    unet = diffusion.predictor.unet
    # SD's PNDM configuration names no clip_sample, and DDIM's default would clip the latents.
    scheduler = DDIMScheduler.from_config(diffusion.scheduler.config, clip_sample=False)
    original = unet.attn_processors
    processors = {name: _Attention() for name in original}

    def mean(x: Tensor, index: int) -> Tensor:
        for processor in processors.values():
            processor.timestep = steps[index].timestep
        noise = unet(x, steps[index].timestep, encoder_hidden_states=diffusion.predictor.empty_prompt).sample
        zeros = torch.zeros_like(x)
        return scheduler.step(noise, steps[index].timestep, x, eta=1.0, variance_noise=zeros).prev_sample

    scheduler.set_timesteps(10)
    unet.set_attn_processor(dict(processors))
    try:
        with torch.no_grad():
            residuals = [path[index + 1] - mean(path[index], index) for index in range(len(steps))]
            x = path[0]
            for index, residual in enumerate(residuals):
                for processor in processors.values():
                    processor.inject = injection
                constant = strength * mask[None, :, None].float() if index == 0 else 0.0
                processors[f"{LAYER}.processor"].constant = constant
                x = mean(x, index) + residual
        return x
    finally:
        unet.set_attn_processor(original)
