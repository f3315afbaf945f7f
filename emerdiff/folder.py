"""A diffusers folder: whether it is complete, and the networks in it. Only safetensors weights are read.

A network is sketched on torch's meta device first, and compared by names and shapes with the header of its weights;
memory is taken for what both agree on alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from emerdiff.configs import CONFIGS, TOKENIZERS, WEIGHTS
from emerdiff.memory import check_room
from emerdiff.settings import one_line

# How diffusers called an autoencoder's attention before 0.17.
FORMER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
FORMER = re.compile(r"(.*attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")


class Unfilled(TorchFunctionMode):
    """A block in which new networks draw no random weights: all of them are read from a file afterwards."""

    DRAWS = frozenset(
        {
            *(nn.init.kaiming_uniform_, nn.init.xavier_uniform_, nn.init.uniform_, nn.init.normal_),
            *(nn.init.trunc_normal_, Tensor.uniform_, Tensor.normal_),
        }
    )

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in self.DRAWS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def check_whole(folder: Path) -> None:
    """Raise FileNotFoundError where the folder, or a file that a model needs, is missing."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    missing = [name for name in (*CONFIGS, *WEIGHTS) if not (folder / name).is_file()]
    if not any(all((folder / name).is_file() for name in form) for form in TOKENIZERS):
        missing.append(" or ".join(" + ".join(form) for form in TOKENIZERS))
    if missing:
        raise FileNotFoundError(
            f"{folder}: not a diffusers folder with safetensors weights; missing: {', '.join(missing)}"
        )


def sketch_network(build: Callable[[], Any], path: Path) -> Any:
    """What `build` builds, on torch's meta device: shapes without values. path: the config it is built from."""
    try:
        with torch.device("meta"), Unfilled():
            return build().eval()
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: no network can be built from it ({one_line(error)})") from error


def load_network(sketch: Any, weights: Path, dtype: torch.dtype, device: str | torch.device = "cpu") -> Any:
    """Fill a network that was sketched with its weights, on the CPU, in `dtype`. device: where it is to run."""
    sketch.load_state_dict(read_weights(sketch, weights, dtype, device), assign=True)
    return sketch


def read_weights(
    sketch: Any, weights: Path, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> dict[str, Tensor]:
    """The tensors that a sketch of a network wants, by its own names, on the CPU, in `dtype`.

    Raises ValueError, naming the file, where one is missing, of another shape or not finite, for a file that is
    damaged, and where the network does not fit into the memory of the CPU or of `device`.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in sketch.state_dict().items()}
    try:
        with safe_open(weights, framework="pt") as file:
            stored = {own_name(name, wanted): name for name in file.keys()}  # noqa: SIM118 - no mapping
            shapes = {own: tuple(file.get_slice(name).get_shape()) for own, name in stored.items()}
            check_shapes(wanted, shapes, weights)
            check_room(sum(map(len_of, wanted.values())) * dtype.itemsize, device, weights)
            return {own: _finite(file.get_tensor(stored[own]).to(dtype), own, weights) for own in wanted}
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"{weights}: not safetensors weights that can be read ({one_line(error)})") from error


def own_name(name: str, wanted: Mapping[str, Any]) -> str:
    """A stored tensor's name as the network has it, by what diffusers and transformers called it before."""
    if former := FORMER.fullmatch(name):
        name = f"{former[1]}.{FORMER_NAMES[former[2]]}.{former[3]}"
    for other in (name.removeprefix("text_model."), f"text_model.{name}"):
        if name not in wanted and other in wanted:
            return other
    return name


def check_shapes(wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]], weights: Path) -> None:
    """Raise ValueError, naming the first, where tensors that a network wants are not stored, or in other shapes."""
    if absent := sorted(wanted.keys() - stored.keys()):
        raise ValueError(f"{weights}: {len(absent)} parameters are not in the weights, such as {absent[0]}")
    for name, shape in wanted.items():
        if shape != stored[name]:
            expected = f"expected {list(shape)} for {name}, got {list(stored[name])}"
            raise ValueError(f"{weights}: weights do not fit config.json ({expected})")


def len_of(shape: tuple[int, ...]) -> int:
    """How many numbers a tensor of this shape holds."""
    return int(torch.Size(shape).numel())


def _finite(tensor: Tensor, name: str, weights: Path) -> Tensor:
    """The tensor itself; ValueError where a number is NaN or infinite."""
    if tensor.is_floating_point() and tensor.numel() and not all(end.isfinite() for end in torch.aminmax(tensor)):
        raise ValueError(f"{weights}: {name}: expected finite numbers in {tensor.dtype}, got NaN or infinity")
    return tensor
