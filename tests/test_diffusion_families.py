"""The list of diffusion models against the shapes that it was counted on."""

from __future__ import annotations

import pytest

from bench.families import LISTED, count_call, count_parameters, shapes_of
from emerdiff.options import show_layer
from ovseg.cli import main
from ovseg.diffusion_families import FAMILIES


def test_models_diffusion_lists_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "diffusion"]) == 0
    rows = {row[0]: row[1:] for row in (line.split("\t") for line in capsys.readouterr().out.splitlines())}
    assert list(rows) == [family.name for family in FAMILIES] and list(rows) == list(LISTED)
    assert all(len(row) == 6 and row[-1] for row in rows.values())
    assert rows["SDXL"][:2] == ["1024", "2567 million"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_sizes_and_layers_are_those_of_the_shapes(family) -> None:
    model = shapes_of(LISTED[family.name])
    diffusion = model.diffusion
    unet, vae = count_parameters(diffusion.predictor.unet), count_parameters(diffusion.vae)
    assert (family.pixels, family.millions) == (diffusion.native_size, round(unet / 1e6))
    assert family.gigabytes == pytest.approx((unet + vae) * 4 / 1e9, abs=0.06)
    assert family.tflop == pytest.approx(count_call(model, 512) / 1e12, abs=0.006)
    assert family.layers == ", ".join(map(short, diffusion.default_layers))


def short(layer: str) -> str:
    """ "up1.0" where the flags have such a name; else the block, the attention and the transformer block."""
    name = show_layer(layer)
    if name != layer:
        return name
    _, block, _, attention, _, transformer, _ = layer.split(".")
    return f"up{block}.{attention} block {transformer}"
