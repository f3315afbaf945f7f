"""The networks of a model, filled from safetensors files: one, several shards, or a part of a checkpoint's.

A network is sketched on torch's meta device first, and compared by names and shapes with the headers of its files;
memory is taken for what both agree on alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from emerdiff.memory import check_room
from emerdiff.settings import one_line, show_key

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


@dataclass(frozen=True)
class Piece:
    """Where one of a network's tensors stands: a stored tensor's name, and what makes it the network's own."""

    name: str
    change: Callable[[Tensor], Tensor] | None = None


def by_own_names(wanted: Mapping[str, Any], stored: Iterable[str]) -> dict[str, Piece]:
    """The pieces of a file whose tensors have a network's own names, or those that its library used before."""
    return {own_name(name, wanted): Piece(name) for name in stored}


@dataclass(frozen=True)
class Stored:
    """The safetensors files that hold a network, the first one named in messages, and its tensors' places in them."""

    files: tuple[Path, ...]
    pieces: Callable[[Mapping[str, Any], Iterable[str]], Mapping[str, Piece]] = by_own_names  # (wanted, stored names)


def sketch_network(build: Callable[[], Any], path: Path) -> Any:
    """What `build` builds, on torch's meta device: shapes without values. path: the config it is built from."""
    try:
        with torch.device("meta"), Unfilled():
            return build().eval()
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: no network can be built from it ({one_line(error)})") from error


def load_network(sketch: Any, stored: Stored, dtype: torch.dtype, device: str | torch.device = "cpu") -> Any:
    """Fill a network that was sketched with its weights, on the CPU, in `dtype`. device: where it is to run."""
    sketch.load_state_dict(read_weights(sketch, stored, dtype, device), assign=True)
    return sketch


def read_weights(
    sketch: Any, stored: Stored, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> dict[str, Tensor]:
    """The tensors that a sketch of a network wants, by its own names, on the CPU, in `dtype`.

    Raises ValueError, naming the file, where one is missing, of another shape, no floating-point numbers or not finite,
    for a file that is damaged, and where the network does not fit into the memory of the CPU or of `device`.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in sketch.state_dict().items()}
    with opened(stored.files) as holders:
        places = stored.pieces(wanted, holders)
        pieces = {own: places[own] for own in wanted if own in places and places[own].name in holders}
        shapes = {own: _shape(piece, *holders[piece.name]) for own, piece in pieces.items()}
        check_shapes(wanted, shapes, stored.files[0])
        check_room(sum(map(len_of, wanted.values())) * dtype.itemsize, device, stored.files[0])
        return {own: _read(pieces[own], own, dtype, *holders[pieces[own].name]) for own in wanted}


@contextmanager
def opened(files: Iterable[Path]) -> Iterator[dict[str, tuple[Any, Path]]]:
    """A block in which safetensors files are open: of every tensor, by its name, the file that holds it and its path.

    Raises ValueError, naming the file, for one that is damaged and for a tensor that is in two of them.
    """
    holders: dict[str, tuple[Any, Path]] = {}
    with ExitStack() as stack:
        for path in files:
            with _reading(path):
                file = stack.enter_context(safe_open(path, framework="pt"))
                names = list(file.keys())
            if twice := holders.keys() & set(names):
                raise ValueError(f"{path}: {show_key(min(twice))}: expected in one file alone, got it in two")
            holders |= dict.fromkeys(names, (file, path))
        yield holders


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A block in which what safetensors says becomes a ValueError that names the file."""
    try:
        yield
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"{path}: not safetensors weights that can be read ({one_line(error)})") from error


def _shape(piece: Piece, file: Any, path: Path) -> tuple[int, ...]:
    """A piece's shape as the network has it, by the file's header alone."""
    with _reading(path):
        shape = tuple(file.get_slice(piece.name).get_shape())
    if piece.change is None:
        return shape
    try:
        return tuple(piece.change(torch.empty(shape, device="meta")).shape)
    except (RuntimeError, IndexError, ValueError):
        return shape  # which does not fit


def _read(piece: Piece, own: str, dtype: torch.dtype, file: Any, path: Path) -> Tensor:
    with _reading(path):
        tensor = file.get_tensor(piece.name)
    if not tensor.is_floating_point():
        raise ValueError(f"{path}: {show_key(own)}: expected floating-point numbers, got {tensor.dtype}")
    # A copy: a part of a tensor would keep the whole.
    return _finite((tensor if piece.change is None else piece.change(tensor).clone()).to(dtype), own, path)


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
    if tensor.numel() and not all(end.isfinite() for end in torch.aminmax(tensor)):
        raise ValueError(f"{weights}: {name}: expected finite numbers in {tensor.dtype}, got NaN or infinity")
    return tensor
