"""Looking into a UNet and changing what flows through it: forward hooks inside `with` blocks.

Every hook placed here is gone when its block ends, also when the block raises. No forward is copied, no model is
subclassed and no weight is touched. Networks with fused query-key-value projections are not supported: they bypass
`to_q` and `to_k`, and the recorders below then raise instead of returning nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


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
def record_attention(unet: nn.Module) -> Iterator[dict[str, Recording]]:
    """Record the output of every `to_q` and `to_k` of the UNet, keyed by the projection's module name.

    The queries and keys stand for the attention map softmax(Q K^T / sqrt(d)): they take a twentieth of its memory.
    """
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(record_output(module)) for name, module in _query_key_projections(unet).items()
        }


@contextmanager
def inject_attention(unet: nn.Module, recorded: dict[str, Recording]) -> Iterator[None]:
    """Make every attention of the UNet use the queries and keys that `record_attention` recorded from one row.

    The attention maps of all rows of the batch are then those of the recorded row, while the values stay each row's
    own (paper, section 3.2) and the fused attention kernel stays in use.

    Raises RuntimeError if a projection recorded nothing, if one did not run inside the block, or if the recorded pass
    held more than one row.
    """
    projections = _query_key_projections(unet)
    used: set[str] = set()

    def replace_by(name: str) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
        tensor = recorded[name].read()
        if tensor.shape[0] != 1:
            raise RuntimeError(f"{name}: one recorded row is needed to inject attention, got {tensor.shape[0]}")

        def hook(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
            used.add(name)
            return tensor.expand_as(output)

        return hook

    with ExitStack() as stack:
        for name, module in projections.items():
            stack.enter_context(_removing(module.register_forward_hook(replace_by(name))))
        yield
    bypassed = sorted(projections.keys() - used)
    if bypassed:
        raise RuntimeError(f"{len(bypassed)} of {len(projections)} projections did not run, such as {bypassed[0]}")


def _query_key_projections(unet: nn.Module) -> dict[str, nn.Module]:
    return {
        f"{name}.{projection}": getattr(attention, projection)
        for name, attention in attentions(unet).items()
        for projection in ("to_q", "to_k")
    }
