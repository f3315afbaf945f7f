"""Hooks: what they read, what they change, and that nothing stays behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

import emerdiff.hooks
from emerdiff import LatentDiffusion
from emerdiff.hooks import (
    add_to_input,
    add_to_output,
    attentions,
    record_input,
    record_output,
    shared_attention,
)


@pytest.fixture
def diffusion(tiny_diffusion: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_diffusion)


def hook_count(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def latents(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 4, 16, 24, generator=torch.Generator().manual_seed(seed))


class ProbabilityProcessor:
    """The slow way to inject attention: keep softmax(Q K^T / sqrt(d)) itself and multiply other values by it."""

    def __init__(self) -> None:
        self.kept: Tensor | None = None
        self.inject = False

    def __call__(
        self, attention: Attention, hidden: Tensor, encoder_hidden_states: Tensor | None = None, **_: object
    ) -> Tensor:
        context = hidden if encoder_hidden_states is None else encoder_hidden_states
        rows, positions, _channels = hidden.shape
        heads = attention.heads

        def split(x: Tensor) -> Tensor:
            return torch.stack(x.chunk(heads, dim=-1), dim=1)

        query, key, value = (
            split(f(x))
            for f, x in zip((attention.to_q, attention.to_k, attention.to_v), (hidden, context, context), strict=True)
        )
        probabilities = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1)
        if self.inject:
            assert self.kept is not None
            probabilities = self.kept.repeat(rows, 1, 1, 1)
        else:
            self.kept = probabilities
        mixed = (probabilities @ value).transpose(1, 2).reshape(rows, positions, -1)
        return attention.to_out[0](mixed)


@pytest.mark.parametrize("elements", [2**25, 5000, 1])
def test_rows_attend_as_the_first(diffusion: LatentDiffusion, elements: int, monkeypatch: pytest.MonkeyPatch):
    """Against kept probabilities, one pass after the other; with many heads at a time and with one."""
    monkeypatch.setattr(emerdiff.hooks, "MAP_ELEMENTS", elements)
    step = diffusion.grid(50)[35]
    rows = latents(3, seed=1)
    with torch.no_grad():
        with shared_attention(diffusion.predictor.unet):
            shared = diffusion.predict_noise(rows, step)
        without = diffusion.predict_noise(rows, step)

        processors = {name: ProbabilityProcessor() for name in diffusion.predictor.unet.attn_processors}
        diffusion.predictor.unet.set_attn_processor(dict(processors))
        slow_first = diffusion.predict_noise(rows[:1], step)
        for processor in processors.values():
            processor.inject = True
        slow = diffusion.predict_noise(rows, step)
    torch.testing.assert_close(shared[:1], slow_first, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(shared, slow, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(shared[0], without[0], atol=1e-5, rtol=1e-4)
    assert (shared - without).abs().max() > 1e-3, "injection must change the result"


def test_half_precision_shares_maps_of_full_precision():
    """Products of queries and keys are larger than float16 holds, and differ by less than it could tell."""
    random = torch.Generator().manual_seed(0)
    query = torch.full((2, 9, 64), 30.0).half()
    key = (40 + 0.05 * torch.randn(2, 9, 64, generator=random)).half()
    value = torch.randn(3, 2, 9, 64, generator=random).half()
    assert (query.float() @ key.float().mT).abs().max() > torch.finfo(torch.float16).max
    expected = (query.float() @ key.float().mT / 8).softmax(-1) @ value.float()
    torch.testing.assert_close(emerdiff.hooks._mix(query, key, value).float(), expected, atol=2e-3, rtol=2e-3)


def test_processors_come_back_after_an_exception(diffusion: LatentDiffusion):
    before = diffusion.predictor.unet.attn_processors
    with pytest.raises(KeyError), shared_attention(diffusion.predictor.unet):
        assert diffusion.predictor.unet.attn_processors != before
        raise KeyError
    assert diffusion.predictor.unet.attn_processors == before


def test_recording_and_adding():
    layer = nn.Linear(3, 2)
    x = torch.ones(1, 4, 3)
    expected = layer(x)
    with record_input(layer) as seen, record_output(layer) as returned:
        layer(x)
    assert torch.equal(seen.read(), x) and torch.equal(returned.read(), expected)
    delta = torch.arange(4.0).reshape(1, 4, 1)
    with add_to_output(layer, delta):
        torch.testing.assert_close(layer(x), expected + delta)
    with add_to_input(layer, delta):
        torch.testing.assert_close(layer(x), layer_at(layer, x + delta))
    assert torch.equal(layer(x), expected)


def layer_at(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


@pytest.mark.parametrize(
    "place",
    [
        lambda unet: record_output(unet.conv_in),
        lambda unet: record_input(unet.conv_in),
        lambda unet: add_to_output(unet.conv_in, torch.zeros(1)),
        lambda unet: add_to_input(unet.conv_in, torch.zeros(1)),
    ],
)
def test_hooks_are_gone_after_an_exception(diffusion: LatentDiffusion, place: Callable):
    with pytest.raises(KeyError), place(diffusion.predictor.unet):
        assert hook_count(diffusion.predictor.unet) > 0
        raise KeyError
    assert hook_count(diffusion.predictor.unet) == 0


def test_nothing_recorded_is_an_error(diffusion: LatentDiffusion):
    with record_output(diffusion.predictor.unet.conv_in) as recording:
        pass
    with pytest.raises(RuntimeError, match="recorded nothing"):
        recording.read()


def test_fused_projections_are_an_error(diffusion: LatentDiffusion):
    layer = attentions(diffusion.predictor.unet)["up_blocks.1.attentions.0.transformer_blocks.0.attn1"]
    diffusion.predictor.unet.fuse_qkv_projections()
    with torch.no_grad(), record_output(layer.to_q) as bypassed:
        diffusion.predict_noise(latents(1), diffusion.grid(50)[0])
    with pytest.raises(RuntimeError, match="recorded nothing"):
        bypassed.read()
