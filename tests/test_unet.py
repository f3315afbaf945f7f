"""The block-by-block evaluation of a UNet against diffusers' own forward."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from emerdiff.hooks import add_to_output, attentions
from emerdiff.unet import evaluate

SHAPE = {  # Stable Diffusion 1.x in small
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "in_channels": 4,
    "out_channels": 4,
}
LIKE_SD_2 = {"use_linear_projection": True, "attention_head_dim": (1, 2, 2), "upcast_attention": True}


def build(**changes: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**(SHAPE | changes)).eval()


@settings(max_examples=12)
@given(
    change=st.sampled_from([{}, LIKE_SD_2, {"layers_per_block": 1}, {"flip_sin_to_cos": False}]),
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


@pytest.mark.parametrize("name", [name for name in attentions(build()) if name.endswith("attn2")])
def test_rows_may_part_at_any_transformer(name: str):
    """One latent that becomes three rows before the layer equals three rows from the start."""
    unet = build()
    latents, prompt = torch.randn(1, 4, 8, 12), torch.randn(1, 5, 8)
    change = torch.tensor([0.0, -3.0, 3.0])[:, None, None]
    with torch.no_grad(), add_to_output(attentions(unet)[name], change):
        expected = unet(latents.expand(3, -1, -1, -1), 281, encoder_hidden_states=prompt.expand(3, -1, -1)).sample
        found = evaluate(unet, latents, 281, prompt, widen_at=name.rpartition(".")[0], rows=3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found[1] - found[0]).abs().max() > 1e-3
