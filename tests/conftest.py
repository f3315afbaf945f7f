"""Fixtures shared by all tests: tiny models with random weights, saved once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from clip_folder import save_tiny_clip
from diffusion_folder import save_tiny_diffusion
from hypothesis import settings

settings.register_profile("ovseg", deadline=None)  # a busy machine is no fault
settings.load_profile("ovseg")


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of SD's shape with random weights; use it with Options(base_size=32)."""
    return save_tiny_diffusion(tmp_path_factory.mktemp("tiny_diffusion"))


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip folder with random weights: ViT, patch 8; use it with View(short_side=32)."""
    return save_tiny_clip(tmp_path_factory.mktemp("tiny_clip"))
