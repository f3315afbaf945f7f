"""Flags that several commands share: a run's folder, its models, the method's settings. Nothing heavy is imported."""

from __future__ import annotations

from argparse import ArgumentParser

DTYPES = ("float32", "float16", "bfloat16")


def add_inputs(parser: ArgumentParser) -> None:
    """Which images."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image files, or folders with images")


def add_run(parser: ArgumentParser, out: str | None) -> None:
    """Where results go, and which part of the work is done. out: the default folder, None if it must be given."""
    default = f" (default {out})" if out else ""
    parser.add_argument("--out", default=out, required=out is None, metavar="DIR", help=f"folder for results{default}")
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds, instead of going on there")
    parser.add_argument("--shard", metavar="I/N", help="only every N-th image from the I-th on, to share the work")


def add_analyses(parser: ArgumentParser) -> None:
    """Keeping the work on the image, and using it again."""
    parser.add_argument(
        "--keep-analysis", action="store_true", help="keep masks and features, ID.safetensors, in --out"
    )
    parser.add_argument("--analyses", metavar="RUN", help="use an earlier run's kept analyses: no diffusion again")


def add_models(parser: ArgumentParser, *, clip: bool = True) -> None:
    """Which weights, where, in which numbers."""
    models = parser.add_argument_group("models")
    models.add_argument("--preset", metavar="P", help="sd14-vitb16 (default), pocket, ...; see `ovseg models`")
    models.add_argument("--diffusion", metavar="D", help="instead: diffusers folder or hub id, of SD 1.x/2.x's shape")
    if clip:
        models.add_argument("--clip", metavar="C", help="with --diffusion: open_clip folder or hub id")
    else:
        parser.set_defaults(clip=None)
    models.add_argument("--device", default="auto", help="auto (a CUDA GPU, else the CPU), cpu, cuda, cuda:1, mps")
    models.add_argument("--dtype", default="float32", choices=DTYPES, help="numbers in the networks (default float32)")


def add_method(parser: ArgumentParser, *, upsampling: bool = True) -> None:
    """The settings of EmerDiff. upsampling: False where the command chooses it by other means."""
    method = parser.add_argument_group("method (defaults: the preset's, and those of the EmerDiff paper)")
    method.add_argument(
        "--speed", choices=("fast", "exact"), help="exact: the paper's own procedure, 3 to 10 times slower"
    )
    method.add_argument("--masks", type=int, metavar="K", help="masks per image (30; pocket: 20)")
    method.add_argument("--steps", type=int, metavar="N", help="denoising steps of the whole schedule (50)")
    method.add_argument("--t-f", type=int, metavar="T", help="timestep whose queries are clustered (1)")
    method.add_argument("--t-m", type=int, metavar="T", help="timestep at which a mask is nudged (281)")
    method.add_argument("--strength", type=float, metavar="X", help="lambda, how strongly it is nudged (10)")
    method.add_argument("--no-injection", action="store_true", help="do not keep the attention maps while nudging")
    method.add_argument("--sigma", type=float, metavar="PX", help="Gaussian smoothing of the difference maps")
    if upsampling:
        method.add_argument("--upsampling", choices=("modulated", "naive"), help="naive: the quick, blocky baseline")
    else:
        parser.set_defaults(upsampling=None)
    method.add_argument("--seed", type=int, metavar="S", help="of the noise and the clustering (0)")
