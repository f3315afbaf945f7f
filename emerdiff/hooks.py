"""Reading and changing the activations of a UNet: hooks and attention processors inside `with` blocks.

They are removed when the block ends, also when it raises. No model is subclassed and no weight is
touched. Networks with fused query-key-value projections bypass `to_q`: the recorders then raise instead of returning
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

MAP_ELEMENTS = 2**25  # of a product of queries and keys: 128 MB in float32, two heads of 64x64 positions


@dataclass
class Recording:
    """What one `with` block recorded: the module's tensor, the last one if the module ran several times."""

    tensor: Tensor | None = None

    def read(self) -> Tensor:
        """Return the recorded tensor; RuntimeError where nothing was recorded."""
        if self.tensor is None:
            raise RuntimeError(
                "a hook recorded nothing: its module did not run inside the `with` block "
                "(fused attention projections bypass to_q and to_k; call unfuse_qkv_projections())"
            )
        return self.tensor


def attentions(unet: nn.Module) -> dict[str, Attention]:
    """Return every self- and cross-attention of a UNet by its dotted module name, in the order of definition."""
    return {name: module for name, module in unet.named_modules() if isinstance(module, Attention)}


@contextmanager
def _removing(handle: RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def record_output(module: nn.Module) -> Iterator[Recording]:
    """Record the tensor that `module` returns."""
    recording = Recording()

    def hook(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        recording.tensor = output.detach()

    with _removing(module.register_forward_hook(hook)):
        yield recording


@contextmanager
def record_input(module: nn.Module) -> Iterator[Recording]:
    """Record the first tensor that `module` is called with."""
    recording = Recording()

    def hook(_module: nn.Module, inputs: tuple) -> None:
        recording.tensor = inputs[0].detach()

    with _removing(module.register_forward_pre_hook(hook)):
        yield recording


@contextmanager
def add_to_output(module: nn.Module, delta: Tensor) -> Iterator[None]:
    """Add `delta` (broadcast over the last axes it lacks) to what `module` returns."""

    def hook(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        return output + delta.to(output.dtype)

    with _removing(module.register_forward_hook(hook)):
        yield


@contextmanager
def add_to_input(module: nn.Module, delta: Tensor) -> Iterator[None]:
    """Add `delta` to the first tensor that `module` is called with."""

    def hook(_module: nn.Module, inputs: tuple) -> tuple:
        return (inputs[0] + delta.to(inputs[0].dtype), *inputs[1:])

    with _removing(module.register_forward_pre_hook(hook)):
        yield


@contextmanager
def shared_attention(unet: Any) -> Iterator[None]:
    """Make all rows of a batch use the attention maps of its first row.

    In every self- and cross-attention the map softmax(Q K^T / sqrt(d)) is that of row 0, while the values stay each
    row's own (paper, section 3.2: the modulated runs use the attention maps of the unmodulated one). The map is
    computed once for all rows. Values of a cross-attention come from the prompt, which all rows share, so its output
    is computed for row 0 alone and returned as one row, to be broadcast.
    """
    before = unet.attn_processors
    unet.set_attn_processor(_attend_as_first_row)
    try:
        yield
    finally:
        unet.set_attn_processor(before)


def _attend_as_first_row(
    attention: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_unused: object
) -> Tensor:
    """An attention processor of diffusers: (B, N, C) -> (B, N, C), or (1, N, C) in a cross-attention."""
    first = hidden_states[:1]
    context = first if encoder_hidden_states is None else encoder_hidden_states[:1]
    query, key = (_split(tensor, attention.heads) for tensor in (attention.to_q(first), attention.to_k(context)))
    value = _split(attention.to_v(hidden_states if encoder_hidden_states is None else context), attention.heads)
    if len(value) == 1:
        mixed = functional.scaled_dot_product_attention(query, key, value)
    else:
        mixed = _mix(query[0], key[0], value)
    return attention.to_out[0](mixed.transpose(1, 2).flatten(2))


def _mix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One map for all rows: query, key (heads, N, d), value (B, heads, N, d) -> (B, heads, N, d)."""
    rows, heads, positions, width = value.shape
    query, key = query.float() * width**-0.5, key.float()
    mixed = torch.empty_like(value)
    for part in _slices(heads, MAP_ELEMENTS // positions**2):
        columns = value[:, part].permute(1, 2, 0, 3).flatten(2)  # (heads, N, B d): one product for all rows
        for some in _slices(positions, MAP_ELEMENTS // positions):  # several where a head's map is too large
            weights = (query[part, some] @ key[part].mT).softmax(dim=-1).to(value.dtype)
            mixed[:, part, some] = (weights @ columns).unflatten(2, (rows, width)).permute(2, 0, 1, 3)
            del weights  # before the next ones are made
    return mixed


def _slices(count: int, size: int) -> Iterator[slice]:
    """0..count-1 in slices of `size`, at least 1."""
    size = max(1, size)
    return (slice(start, start + size) for start in range(0, count, size))


def _split(tensor: Tensor, heads: int) -> Tensor:
    """(B, N, heads d) -> (B, heads, N, d)."""
    return tensor.unflatten(2, (heads, -1)).transpose(1, 2)
