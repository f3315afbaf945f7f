"""What a GPU would ask of the engine, without one: full-size shapes, lower precision, and memory that runs out."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusion_folder import save_tiny_diffusion
from torch import Tensor

from bench.families import FAMILIES, count_parameters, shapes_of
from bench.shapes import count_flops
from emerdiff import EmerDiff, LatentDiffusion, Options
from emerdiff.stable_diffusion import StableDiffusion

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
OPTIONS = Options(masks=4, base_size=32, steps=10, modulation_timestep=401)
MILLIONS = {  # of the UNet, as published
    **{"sd-1": 860, "sd-2-base": 866, "sd-2-v": 866, "sdxl": 2567, "sdxl-turbo": 2567, "ssd-1b": 1331, "vega": 745},
    **{"bk-sdm-base": 579, "bk-sdm-small": 482, "bk-sdm-tiny": 323},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_full_size_unets_have_the_published_number_of_parameters(name: str):
    unet = shapes_of(name).diffusion.predictor.unet
    assert round(count_parameters(unet) / 1e6) == MILLIONS[name]


@pytest.mark.parametrize("name", ["bk-sdm-tiny", pytest.param("sdxl", marks=pytest.mark.full_size)])
def test_the_whole_engine_stays_on_its_device_at_full_size(name: str):
    """On torch's meta device an operation that takes a tensor of another device along is an error."""
    model = shapes_of(name)
    options = Options(masks=2, base_size=256, steps=4, modulation_timestep=501)
    assert count_flops(model, options) > 1e11


@pytest.fixture(scope="module", params=["sd-1", "sdxl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_diffusion(tmp_path_factory.mktemp("ready"), family=request.param)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lower_precision_is_near_full(folder: Path, dtype: torch.dtype):
    full, half = (LatentDiffusion.from_pretrained(folder, dtype=kind) for kind in (torch.float32, dtype))
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    step = full.grid(10)[4]
    with torch.no_grad():
        for call in (lambda model: model.predict_noise(latents, step), lambda model: model.decode(latents)):
            expected, found = call(full), call(half)
            assert found.dtype == torch.float32
            assert (found - expected).norm() < 0.05 * expected.norm()


def test_autocast_changes_nothing_but_precision(folder: Path):
    model = EmerDiff.from_pretrained(folder)
    plain = model.segment(IMAGE, replace(OPTIONS, keep_difference_maps=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = model.segment(IMAGE, replace(OPTIONS, keep_difference_maps=True))
    assert cast.queries.dtype == plain.queries.dtype == np.float32
    assert np.linalg.norm(cast.queries - plain.queries) < 0.1 * np.linalg.norm(plain.queries)
    assert cast.difference_maps.dtype == np.float32 and np.isfinite(cast.difference_maps).all()


def limited(predictor: StableDiffusion, most: int) -> Any:
    """A predictor whose GPU has room for `most` rows."""

    class Limited(type(predictor)):  # type: ignore[misc]
        def evaluate(self, latents: Tensor, timestep: int, *, widen_at: str | None = None, rows: int = 1) -> Tensor:
            if len(latents) * rows > most:
                raise torch.OutOfMemoryError("CUDA out of memory (made up)")
            return super().evaluate(latents, timestep, widen_at=widen_at, rows=rows)

    return Limited(*(getattr(predictor, field.name) for field in fields(predictor)))


@pytest.mark.parametrize("speed", ["fast", "exact"])
def test_a_gpu_without_room_gives_the_same_masks_in_smaller_chunks(folder: Path, speed: str, caplog):
    diffusion = LatentDiffusion.from_pretrained(folder)
    options = replace(OPTIONS, speed=speed)
    expected = EmerDiff(diffusion).segment(IMAGE, options)
    vae = diffusion.vae

    def decode(latents: Tensor) -> Any:
        if len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory (made up)")
        return vae.decode(latents)

    small = SimpleNamespace(config=vae.config, dtype=vae.dtype, encode=vae.encode, decode=decode)
    with caplog.at_level(logging.WARNING):
        found = EmerDiff(replace(diffusion, predictor=limited(diffusion.predictor, 3), vae=small)).segment(
            IMAGE, options
        )
    assert np.array_equal(found.low_resolution_masks, expected.low_resolution_masks)
    assert (found.labels == expected.labels).mean() > 0.99  # rounding differs by batch
    assert [message for message in caplog.messages if message.startswith("out of GPU memory: going on with ")]
    with pytest.raises(torch.OutOfMemoryError):
        EmerDiff(replace(diffusion, predictor=limited(diffusion.predictor, 1))).segment(IMAGE, options)


def test_free_memory_decides_how_many_rows_go_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The engine itself with a GPU's figures made up: a row of 100 bytes, and room for three."""
    import emerdiff.segment as engine
    from emerdiff.memory import Peak

    widest = []
    diffusion = LatentDiffusion.from_pretrained(folder)

    class Counting(type(diffusion.predictor)):  # type: ignore[misc]
        def evaluate(self, latents: Tensor, timestep: int, *, widen_at: str | None = None, rows: int = 1) -> Tensor:
            widest.append(len(latents) * rows)
            return super().evaluate(latents, timestep, widen_at=widen_at, rows=rows)

    predictor = Counting(
        **{field.name: getattr(diffusion.predictor, field.name) for field in fields(diffusion.predictor)}
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (500, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 0)
    fit = engine.rows_that_fit
    monkeypatch.setattr(engine, "rows_that_fit", lambda rows, _row, device: fit(rows, Peak(bytes=100), device))
    EmerDiff(replace(diffusion, predictor=predictor)).segment(IMAGE, OPTIONS)
    assert max(widest) == 3  # 0.7 * 500 / 100
