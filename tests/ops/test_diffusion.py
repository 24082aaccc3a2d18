from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from worldline.ops.diffusion import (
    BetaSchedule,
    add_noise,
    cumulative_alphas,
    ddim_step,
    ddpm_step,
    make_betas,
    noise_from_velocity,
    noise_from_x0,
    spaced_levels,
    velocity,
    x0_from_noise,
    x0_from_velocity,
)

SCHEDULES: tuple[BetaSchedule, ...] = ("linear", "cosine", "quadratic")
SHAPES = [(3, 2), (3, 4, 5), (3, 2, 2, 2)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_betas_by_hand():
    assert torch.allclose(make_betas("linear", 1000)[[0, 999]], torch.tensor([1e-4, 0.02]))
    # The root of the middle one of three is halfway between 0.01 and sqrt(0.02), in a third of 1,000 levels.
    middle = ((0.01 + math.sqrt(0.02)) / 2) ** 2 * 1000 / 1001
    assert make_betas("quadratic", 1001)[500].item() == pytest.approx(middle)
    remaining = [math.cos((k / 4 + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(5)]
    expected = [1 - after / before for before, after in itertools.pairwise(remaining)]
    assert torch.allclose(make_betas("cosine", 4), torch.tensor([*expected[:3], 0.999]))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_levels", [10, 100, 1000])
def test_schedules_end_in_noise(schedule: BetaSchedule, num_levels: int):
    betas = make_betas(schedule, num_levels)
    levels = cumulative_alphas(betas)
    assert betas.shape == levels.shape == (num_levels,)
    assert ((betas > 0) & (betas < 1)).all()
    assert (levels.diff() < 0).all()
    assert 0 < levels[-1] < 0.002
    assert levels[0] > 0.8


def test_cumulative_alphas_by_hand():
    assert torch.allclose(cumulative_alphas(torch.tensor([0.1, 0.2, 0.5])), torch.tensor([0.9, 0.72, 0.36]))


def test_spaced_levels():
    assert spaced_levels(10, 10) == list(range(9, -1, -1))
    assert spaced_levels(10, 3) == [9, 6, 2]
    assert spaced_levels(7, 1) == [6]


def test_noise_by_hand():
    x0, eps, level = torch.tensor([[5.0, 10.0]]), torch.tensor([[1.0, -1.0]]), torch.tensor([0.64])
    assert torch.allclose(add_noise(x0, eps, level), torch.tensor([[4.6, 7.4]]))  # 0.8 x0 + 0.6 eps
    assert torch.allclose(velocity(x0, eps, level), torch.tensor([[-2.2, -6.8]]))  # 0.8 eps - 0.6 x0


@pytest.mark.parametrize("shape", SHAPES)
def test_conversions_return_to_what_they_came_from(shape: tuple[int, ...]):
    x0, eps, level = noise(*shape), noise(*shape, seed=1), torch.tensor([0.9, 0.5, 0.01])
    x, v = add_noise(x0, eps, level), velocity(x0, eps, level)
    for found, expected in (
        (x0_from_noise(x, eps, level), x0),
        (x0_from_velocity(x, v, level), x0),
        (noise_from_x0(x, x0, level), eps),
        (noise_from_velocity(x, v, level), eps),
    ):
        assert torch.allclose(found, expected, atol=1e-5)


def test_a_level_of_another_shape_is_refused():
    with pytest.raises(AssertionError, match=r"\(2,\) does not lead the shape \(3, 2\)"):
        add_noise(noise(3, 2), noise(3, 2), torch.full((2,), 0.5))


def test_ddim_step_by_hand():
    x, x0 = torch.tensor([[4.6]]), torch.tensor([[5.0]])  # the noise is 1
    step = ddim_step(x, x0, torch.tensor(0.64), torch.tensor(0.75))
    assert step.item() == pytest.approx(math.sqrt(0.75) * 5 + 0.5)
    assert torch.equal(ddim_step(x, x0, torch.tensor(0.64), torch.tensor(1.0)), x0)


def test_ddpm_step_is_the_posterior_of_the_forward_process():
    """Equation 7 of Ho, Jain & Abbeel, for which `alphas` are those of a schedule."""
    betas = make_betas("linear", 20)
    levels = cumulative_alphas(betas)
    x, x0, fresh = noise(3, 2), noise(3, 2, seed=1), noise(3, 2, seed=2)
    for k in (1, 7, 19):
        rest = 1 - levels[k]
        mean = levels[k - 1].sqrt() * betas[k] / rest * x0 + (1 - betas[k]).sqrt() * (1 - levels[k - 1]) / rest * x
        std = ((1 - levels[k - 1]) / rest * betas[k]).sqrt()
        assert torch.allclose(ddpm_step(x, x0, levels[k], levels[k - 1], fresh), mean + std * fresh, atol=1e-4)


def test_the_last_ddpm_step_adds_no_noise():
    x, x0 = noise(3, 2), noise(3, 2, seed=1)
    assert torch.allclose(ddpm_step(x, x0, torch.tensor(0.9), torch.tensor(1.0), noise(3, 2, seed=2)), x0, atol=1e-6)


def test_each_step_can_have_its_own_level():
    x, x0, fresh = noise(3, 4, 2), noise(3, 4, 2, seed=1), noise(3, 4, 2, seed=2)
    level, after = torch.tensor([0.1, 0.4, 0.8]), torch.tensor([0.2, 0.9, 1.0])
    together = ddim_step(x, x0, level, after, eta=0.5, noise=fresh)
    for row in range(3):
        alone = ddim_step(x[row], x0[row], level[row], after[row], eta=0.5, noise=fresh[row])
        assert torch.allclose(together[row], alone)


def test_sampling_recovers_a_gaussian():
    """With the best prediction of N(3, 0.5^2), sampling gives it back: both ways, from few steps."""
    levels = cumulative_alphas(make_betas("cosine", 100))
    mean, variance = 3.0, 0.25
    for eta in (0.0, 1.0):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(20_000, 1, generator=generator)
        steps = spaced_levels(100, 50)
        for index, k in enumerate(steps):
            level = levels[k]
            after = levels[steps[index + 1]] if index + 1 < len(steps) else torch.tensor(1.0)
            gain = level.sqrt() * variance / (level * variance + 1 - level)
            x0 = mean + gain * (x - level.sqrt() * mean)
            x = ddim_step(x, x0, level, after, eta=eta, noise=torch.randn(x.shape, generator=generator))
        assert x.mean().item() == pytest.approx(mean, abs=0.02)
        assert x.std().item() == pytest.approx(0.5, abs=0.03)
