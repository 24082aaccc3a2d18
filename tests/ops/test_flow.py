from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from worldline.ops.flow import EVALUATIONS, Solver, even_times, integrate, interpolate, stage_times, target_velocity


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_path_by_hand():
    data, start = torch.tensor([[4.0, 8.0]]), torch.tensor([[2.0, -2.0]])
    # (1 - 0.9 * 0.5) = 0.55 of the noise
    assert torch.allclose(interpolate(data, start, torch.tensor([0.5]), sigma_min=0.1), torch.tensor([[3.1, 2.9]]))
    assert torch.allclose(target_velocity(data, start, sigma_min=0.1), torch.tensor([[2.2, 9.8]]))


@pytest.mark.parametrize("shape", [(3, 2), (3, 4, 5), (3,)])
def test_path_goes_from_noise_to_data_at_its_velocity(shape: tuple[int, ...]):
    data, start = noise(*shape), noise(*shape, seed=1)
    t = torch.tensor([0.0, 0.3, 1.0])
    path = interpolate(data, start, t, sigma_min=0.01)
    assert torch.equal(path[0], start[0])
    assert torch.allclose(path[2], data[2] + 0.01 * start[2])
    ahead = interpolate(data, start, t + 0.25, sigma_min=0.01)
    assert torch.allclose((ahead - path) / 0.25, target_velocity(data, start, sigma_min=0.01), atol=1e-5)


def test_a_time_of_another_shape_is_refused():
    with pytest.raises(AssertionError, match=r"\(2,\) does not lead the shape \(3, 2\)"):
        interpolate(noise(3, 2), noise(3, 2), torch.rand(2))


def test_steps_by_hand():
    """One step of dx/dt = x from 1, of size 1: the series of e, cut after as many terms as the solver's order."""
    found = {solver: integrate(lambda t, x: x, torch.tensor(1.0), [0.0, 1.0], solver).item() for solver in EVALUATIONS}
    assert found == {"euler": 2.0, "midpoint": 2.5, "rk4": pytest.approx(2.5 + 1 / 6 + 1 / 24)}


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_order_of_convergence(solver: Solver, order: int):
    """dx/dt = x cos t has x(2) = exp(sin 2); half the step divides the error by 2 ** order."""
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    errors = []
    for num_steps in (16, 32):
        end = integrate(lambda t, x: x * math.cos(t), start, even_times(num_steps, end=2.0), solver)
        errors.append((end - start * math.exp(math.sin(2.0))).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_backwards_returns_to_the_start():
    start = noise(3, 2)
    times = even_times(64)
    end = integrate(lambda t, x: torch.sin(3 * x) + t, start, times)
    assert not torch.allclose(end, start, atol=0.1)
    assert torch.allclose(integrate(lambda t, x: torch.sin(3 * x) + t, end, times[::-1]), start, atol=1e-4)


def test_uneven_times():
    end = integrate(lambda t, x: torch.full_like(x, t), torch.zeros(2), [0.0, 0.1, 1.0], "midpoint")
    assert torch.allclose(end, torch.full((2,), 0.5))


@pytest.mark.parametrize("solver", EVALUATIONS)
def test_evaluations_are_counted_right(solver: Solver):
    calls = []

    def velocity(t: float, x: Tensor) -> Tensor:
        calls.append(t)
        return x

    integrate(velocity, torch.ones(1), even_times(3), solver)
    assert len(calls) == 3 * EVALUATIONS[solver]
    assert stage_times(even_times(3), solver) == list(dict.fromkeys(calls))  # to the last bit


def test_gradient_flows_through_the_solution():
    start = torch.tensor([2.0], requires_grad=True)
    integrate(lambda t, x: x, start, even_times(20)).sum().backward()
    assert start.grad is not None
    assert start.grad.item() == pytest.approx(math.e, abs=1e-4)
