"""The block-by-block evaluation of a UNet against diffusers' own forward."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusion_folder import SD_2, UNETS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emerdiff.hooks import add_to_output, attentions
from emerdiff.unet import evaluate


def build(family: str = "sd-1", **changes: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**(UNETS[family] | changes)).eval()


def added(unet: UNet2DConditionModel) -> dict[str, Tensor] | None:
    """Pooled text and sizes, for UNets that take them."""
    if unet.config.addition_embed_type is None:
        return None
    generator = torch.Generator().manual_seed(1)
    sizes = torch.tensor([[32.0, 48.0, 0.0, 0.0, 32.0, 48.0]])
    return {"text_embeds": torch.randn(1, 6, generator=generator), "time_ids": sizes}


def of_rows(conditions: dict[str, Tensor] | None, rows: int) -> dict[str, Tensor] | None:
    return conditions and {key: value.expand(rows, -1) for key, value in conditions.items()}


@pytest.mark.parametrize("family", UNETS)
@pytest.mark.parametrize("rows", [1, 3])
def test_every_family_equals_diffusers_forward(family: str, rows: int):
    unet = build(family)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(rows, 4, 8, 12, generator=generator)
    prompt = torch.randn(1, 5, 8, generator=generator)
    with torch.no_grad():
        expected = unet(
            latents,
            281,
            encoder_hidden_states=prompt.expand(rows, -1, -1),
            added_cond_kwargs=of_rows(added(unet), rows),
        ).sample
        found = evaluate(unet, latents, 281, prompt, added=added(unet))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=12)
@given(
    change=st.sampled_from([{}, SD_2, {"layers_per_block": 1}, {"flip_sin_to_cos": False}]),
    rows=st.integers(1, 3),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    timestep=st.integers(0, 999),
)
def test_equals_diffusers_forward(change: dict, rows: int, height: int, width: int, timestep: int):
    unet = build(**change)
    latents, prompt = torch.randn(rows, 4, 4 * height, 4 * width), torch.randn(1, 5, 8)
    with torch.no_grad():
        expected = unet(latents, timestep, encoder_hidden_states=prompt.expand(rows, -1, -1)).sample
        found = evaluate(unet, latents, timestep, prompt)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


PARTING = [(family, name) for family in ("sd-1", "bk-sdm-tiny", "sdxl", "ssd-1b") for name in attentions(build(family))]


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, name in PARTING if name.endswith("attn2")])
def test_rows_may_part_at_any_transformer_block(family: str, name: str):
    """One latent that becomes three rows before the layer equals three rows from the start."""
    unet = build(family)
    latents, prompt = torch.randn(1, 4, 8, 12), torch.randn(1, 5, 8)
    change = torch.tensor([0.0, -3.0, 3.0])[:, None, None]
    with torch.no_grad(), add_to_output(attentions(unet)[name], change):
        expected = unet(
            latents.expand(3, -1, -1, -1),
            281,
            encoder_hidden_states=prompt.expand(3, -1, -1),
            added_cond_kwargs=of_rows(added(unet), 3),
        ).sample
        block = name.rpartition(".")[0]
        found = evaluate(unet, latents, 281, prompt, added=added(unet), widen_at=block, rows=3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found[1] - found[0]).abs().max() > 1e-3
