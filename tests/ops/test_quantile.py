from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from worldline.ops.quantile import pinball_loss, quantile_log_density, quantile_log_tail, rising_quantiles


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_pinball_by_hand():
    levels = torch.tensor([0.1, 0.5, 0.9])
    loss = pinball_loss(torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([3.0]), levels)
    # 0.1 * (3 - 1), 0.5 * (3 - 2), (1 - 0.9) * (5 - 3)
    assert torch.allclose(loss, torch.tensor([(0.2 + 0.5 + 0.2) / 3]))


def test_pinball_is_least_at_the_quantiles():
    levels = torch.tensor([0.05, 0.3, 0.8])
    data = noise(20_001)
    best = torch.quantile(data, levels)
    values = [
        pinball_loss((best + shift).expand(len(data), 3), data, levels).mean().item() for shift in (-0.05, 0.0, 0.05)
    ]
    assert values[1] < min(values[0], values[2])


def test_rising_by_hand():
    one = math.log(1 + math.e)  # softplus(1)
    rising = rising_quantiles(torch.tensor([1.0, 0.0, 7.0, 1.0, 1.0]))
    expected = [7 - math.log(2) - one, 7 - math.log(2), 7.0, 7 + one, 7 + 2 * one]
    assert torch.allclose(rising, torch.tensor(expected))


@pytest.mark.parametrize("num", [1, 2, 3, 8, 21])
def test_quantiles_never_cross(num: int):
    assert (rising_quantiles(noise(50, 4, num)).diff(dim=-1) > 0).all()
    assert (rising_quantiles(noise(50, 4, num) * 50).diff(dim=-1) >= 0).all()  # rounding may swallow a gap


def test_every_number_takes_a_gradient():
    raw = noise(3, 7).requires_grad_()
    rising_quantiles(raw)[:, [0, -1]].sum().backward()
    assert raw.grad is not None
    assert (raw.grad != 0).all()


def test_density_by_hand():
    quantiles, levels = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.1, 0.5, 0.9])
    # Uniform: 0.4 over 1, 0.4 over 2; the tails begin at 0.4 and 0.2, with 0.1 of the probability each.
    for target, expected in ((0.5, math.log(0.4)), (2.0, math.log(0.2)), (-0.5, math.log(0.4) - 0.5 * 4)):
        found = quantile_log_density(quantiles, torch.tensor(target), levels)
        assert found.item() == pytest.approx(expected, abs=1e-6)
    assert quantile_log_density(quantiles, torch.tensor(4.0), levels).item() == pytest.approx(math.log(0.2) - 2)


def test_density_integrates_to_one():
    levels = torch.linspace(0.05, 0.95, 9)
    quantiles = rising_quantiles(noise(3, 9))
    grid = torch.linspace(-120, 120, 240_001)
    density = quantile_log_density(quantiles[:, None].expand(3, len(grid), 9), grid.expand(3, -1), levels).exp()
    assert torch.allclose(density.sum(-1) * (240 / 240_000), torch.ones(3), atol=1e-3)


def test_tail_by_hand():
    quantiles, levels = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.1, 0.5, 0.9])
    targets = torch.tensor([1.0, 0.5, 2.0, 3.0, 4.0, -0.5])
    # Half way between two quantiles, half of what is between them; above 3 a tail of 0.1 that falls by 2 each unit.
    probabilities = torch.tensor([0.5, 0.3, 0.3, 0.1, 0.1 * math.exp(-2), 0.1 * math.exp(-0.5 * 4)])
    found = quantile_log_tail(quantiles.expand(6, 3), targets, levels)
    assert torch.allclose(found, (2 * probabilities).log(), atol=1e-6)


def test_the_tail_is_what_the_density_sums_to():
    levels = torch.linspace(0.05, 0.95, 9)
    quantiles = rising_quantiles(noise(9))
    grid = torch.linspace(-60, 60, 240_001)
    expanded = quantiles.expand(len(grid), 9)
    share = quantile_log_density(expanded, grid, levels).exp().double().cumsum(0) * (120 / 240_000)
    expected = 2 * torch.minimum(share, share[-1] - share)
    assert torch.allclose(quantile_log_tail(expanded, grid, levels).exp().double(), expected, atol=2e-3)


def test_shapes_are_checked():
    with pytest.raises(AssertionError, match=r"quantiles \(3, 2\) do not match"):
        pinball_loss(noise(3, 2), noise(2), torch.tensor([0.1, 0.9]))
