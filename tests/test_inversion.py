"""The inversion's formulas against diffusers' own scheduler, worked numbers, and exact replay."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from emerdiff.inversion import Step, draw_noise, follow, noisy_latent, posterior_mean, thin

SHAPE = (1, 4, 6, 5)


def sd_scheduler(steps: int = 50) -> DDIMScheduler:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def sd_steps(steps: int = 50, start: int = 281) -> list[Step]:
    scheduler = sd_scheduler(steps)
    timesteps = [t for t in scheduler.timesteps.tolist() if t <= start]
    alphas = [float(scheduler.alphas_cumprod[t]) for t in timesteps] + [float(scheduler.final_alpha_cumprod)]
    return [Step(*row) for row in zip(timesteps, alphas[:-1], alphas[1:], strict=True)]


def network(x: torch.Tensor, step: Step) -> torch.Tensor:
    """Stand in for a UNet: nonlinear, mixing positions, depending on the timestep."""
    return torch.sin(3 * x + step.timestep) + 0.5 * x.roll(1, dims=-1) ** 2


def test_worked_numbers():
    # abar_t = 1/4, abar_t' = 1: P = (1 - sqrt(3/4) eps) / (1/2), nothing is left of the noise.
    step = Step(timestep=1, alpha=0.25, next_alpha=1.0)
    assert posterior_mean(torch.tensor(1.0), torch.tensor(0.0), step).item() == pytest.approx(2.0)
    assert posterior_mean(torch.tensor(1.0), torch.tensor(1.0), step).item() == pytest.approx(2 - 3**0.5, abs=1e-6)
    # Row 0 is led from 2 to 5, by a residual of 3; row 1's mean is 4.
    rows = follow(torch.tensor([1.0, 2.0]), torch.tensor([5.0]), torch.zeros(2), step)
    assert rows.tolist() == pytest.approx([5.0, 7.0])
    assert noisy_latent(torch.tensor(2.0), torch.tensor(4.0), 0.36).item() == pytest.approx(0.6 * 2 + 0.8 * 4)


@pytest.mark.parametrize("timestep", [981, 281, 21, 1])
def test_posterior_mean_is_the_scheduler_step_with_eta_one_and_no_noise(timestep: int):
    scheduler = sd_scheduler()
    step = next(step for step in sd_steps(start=981) if step.timestep == timestep)
    x_t, predicted = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    expected = scheduler.step(predicted, timestep, x_t, eta=1.0, variance_noise=torch.zeros(SHAPE)).prev_sample
    torch.testing.assert_close(posterior_mean(x_t, predicted, step), expected, atol=1e-5, rtol=1e-5)


def test_noisy_latent_is_the_schedulers_forward_process():
    x_0, noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(2))
    scheduler = sd_scheduler()
    expected = scheduler.add_noise(x_0, noise, torch.tensor([281]))
    torch.testing.assert_close(noisy_latent(x_0, noise, float(scheduler.alphas_cumprod[281])), expected)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 50), scale=st.sampled_from([0.1, 1.0, 5.0]))
def test_replay_returns_the_image(seed: int, count: int, scale: float):
    steps = sd_steps(count, start=1000)
    x_0 = scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    noises = draw_noise(SHAPE, count, seed)
    path = [noisy_latent(x_0, noise, step.alpha) for noise, step in zip(noises, steps, strict=True)] + [x_0]
    rows = torch.cat([path[0], path[0]])
    for step, x_next in zip(steps, path[1:], strict=True):
        rows = follow(rows, x_next, torch.cat([network(row[None], step) for row in rows]), step)
    torch.testing.assert_close(rows, x_0.expand_as(rows), atol=1e-4, rtol=0)
    without = path[0]
    for step in steps:
        without = posterior_mean(without, network(without, step), step)
    assert not torch.allclose(without, x_0, atol=1e-2), "the residuals must matter"


def test_noise_depends_on_seed_shape_and_position_alone():
    short, long = draw_noise(SHAPE, 2, seed=5), draw_noise(SHAPE, 7, seed=5)
    torch.manual_seed(99)
    again = draw_noise(SHAPE, 7, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=False))
    assert all(torch.equal(a, b) for a, b in zip(long, again, strict=True))
    assert not torch.equal(draw_noise(SHAPE, 1, seed=6)[0], short[0])


def test_draws_are_independent_and_standard():
    first, second = draw_noise((1, 4, 64, 64), 2, seed=0)
    correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
    assert abs(correlation) < 0.05
    assert abs(first.std() - 1) < 0.05 and abs(first.mean()) < 0.05


@pytest.mark.parametrize(
    ("steps", "count", "expected"),
    [
        (50, 4, [281, 221, 141, 61]),  # of 281, 261, ..., 1
        (10, 4, [201, 101, 1]),  # no more than there are
        (50, 1, [281]),
    ],
)
def test_a_thinned_grid_leads_to_the_same_end(steps: int, count: int, expected: list[int]):
    whole = sd_steps(steps)
    thinned = thin(whole, count)
    assert [step.timestep for step in thinned] == expected
    assert [step.alpha for step in thinned] == [step.alpha for step in whole if step.timestep in expected]
    assert [step.next_alpha for step in thinned] == [*(step.alpha for step in thinned[1:]), whole[-1].next_alpha]
