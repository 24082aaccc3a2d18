"""Flow matching and diffusion: their densities, against what can be computed in other ways."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.shields.small_world import STATE_DIM, pairs, recorded, shield
from worldline.create import create_model
from worldline.data.buffer import ReplayBuffer
from worldline.errors import ConfigError
from worldline.models.shields.density import DensityShield
from worldline.models.shields.diffusion import DiffusionShield
from worldline.models.shields.flow_matching import FlowMatchingShield
from worldline.ops.flow import integrate, interpolate, target_velocity

MODELS = ("shield:diffusion", "shield:flow_matching")


@pytest.fixture(scope="module")
def data() -> ReplayBuffer:
    return recorded(30)


def density_shield(model: str, data: ReplayBuffer, *, moved: bool = True, **settings: int | float) -> DensityShield:
    built = shield(model, data, moved=moved, **settings)
    assert isinstance(built, DensityShield)
    return built


@pytest.mark.parametrize("model", MODELS)
def test_log_prob_is_that_of_the_exact_jacobian(model: str, data: ReplayBuffer):
    """The same solver, with the divergence from autograd: below 1e-4 nats in the worst of 40 commands."""
    built = density_shield(model, data)
    states, commands = (each[:40] for each in pairs(data))
    rows, wanted = built.normalized_pair(states, commands)

    def velocity(t: float, x: Tensor) -> Tensor:
        return built.net(x, torch.full((len(x),), t), rows) + built.drift(t) * x

    def rates(t: float, both: Tensor) -> Tensor:
        x = both[:, :2].detach().requires_grad_()
        v = velocity(t, x)
        slopes = [torch.autograd.grad(v[:, dim].sum(), x, retain_graph=True)[0][:, dim] for dim in range(2)]
        return torch.cat((v.detach(), sum(slopes)[:, None]), 1)

    times = built.times(built.config.num_solver_steps)[::-1]
    end = integrate(rates, torch.cat((wanted, torch.zeros(40, 1)), 1), times)
    normal = -0.5 * end[:, :2].square().sum(1) - math.log(2 * math.pi)
    expected = normal + end[:, 2] - built.commands.scale.log().sum()
    assert (built.log_prob(states, commands) - expected).abs().max() < 1e-4
    assert (end[:, 2] - end[0, 2]).abs().max() > 0.1  # there is something to get wrong


@pytest.mark.parametrize("model", MODELS)
def test_without_a_network_it_is_a_normal_distribution(model: str, data: ReplayBuffer):
    """The drift alone carries noise to commands of unit variance."""
    built = density_shield(model, data, moved=False)
    torch.nn.init.zeros_(built.net.last.weight)
    states, commands = pairs(data)
    x = (commands - built.commands.shift) / built.commands.scale
    expected = -0.5 * x.square().sum(1) - math.log(2 * math.pi) - built.commands.scale.log().sum()
    assert torch.allclose(built.log_prob(states, commands), expected, atol=2e-3)


@pytest.mark.parametrize("model", MODELS)
def test_samples_are_those_of_the_density(model: str, data: ReplayBuffer):
    """The mean log-density of samples is minus the entropy, which a grid tells."""
    built = density_shield(model, data)
    state = pairs(data)[0][:1]
    samples = built.sample(state, 3000, generator=torch.Generator().manual_seed(0))
    assert samples.shape == (1, 3000, 2)
    found = built.log_prob(state.expand(3000, -1), samples[0]).mean()
    axis = torch.linspace(-6, 6, 121)
    grid = built.commands.inverse(torch.cartesian_prod(axis, axis))
    log_density = built.log_prob(state.expand(len(grid), -1), grid)
    expected = (log_density.exp() * log_density).sum() * built.commands.scale.prod() * 0.01
    assert found.item() == pytest.approx(expected.item(), abs=0.08)


@pytest.mark.parametrize("model", MODELS)
def test_more_steps_converge(model: str, data: ReplayBuffer):
    states, commands = pairs(data)
    found = []
    for num_steps in (8, 16, 64):
        built = density_shield(model, data, num_solver_steps=num_steps)
        found.append(built.log_prob(states, commands))
    assert (found[0] - found[2]).abs().max() < 0.01
    assert (found[1] - found[2]).abs().max() < (found[0] - found[2]).abs().max()


@pytest.mark.parametrize("model", MODELS)
def test_one_anchor_is_typical_in_any_state(model: str, data: ReplayBuffer):
    built = density_shield(model, data)
    states = 3 * torch.randn(50, STATE_DIM, generator=torch.Generator().manual_seed(0))
    anchors = built.anchors(states, torch.zeros(50, 2))
    with torch.no_grad():
        assert (built.scorer(states)(anchors).amin(1) <= 1e-4).all()
    assert (built.commands.inverse(anchors)[..., 0] >= 1 - 1e-4).all()


def test_flow_matching_loss_is_that_of_its_velocity(data: ReplayBuffer):
    built = density_shield("shield:flow_matching", data)
    assert isinstance(built, FlowMatchingShield)
    states, commands = (each[:16] for each in pairs(data))
    rows, wanted = built.normalized_pair(states, commands)
    torch.manual_seed(5)
    losses = built._losses(rows, wanted)
    torch.manual_seed(5)
    noise = torch.randn(16, 2)
    t = ((torch.rand(()) + torch.arange(16)) / 16) % 1.0
    assert t.sort().values.diff().max() < 0.07  # evenly over [0, 1]
    path = interpolate(wanted, noise, t, sigma_min=1e-4)
    error = built.velocity(path, t, states) - target_velocity(wanted, noise, sigma_min=1e-4)
    assert torch.allclose(losses, error.square().mean(1), atol=1e-5)


def test_drift_is_the_best_linear_velocity(data: ReplayBuffer):
    """Over commands of unit variance, no other multiple of x_t predicts the velocity better."""
    built = density_shield("shield:flow_matching", data)
    draws = torch.Generator().manual_seed(0)
    commands, noise = torch.randn(200_000, generator=draws), torch.randn(200_000, generator=draws)
    for t in (0.1, 0.5, 0.9):
        x = interpolate(commands, noise, torch.tensor(t), sigma_min=1e-4)
        target = target_velocity(commands, noise, sigma_min=1e-4)
        assert built.drift(t) == pytest.approx(((x * target).mean() / x.square().mean()).item(), abs=0.02)


def test_denoising_without_a_network_by_hand(data: ReplayBuffer):
    built = density_shield("shield:diffusion", data, moved=False)
    assert isinstance(built, DiffusionShield)
    torch.nn.init.zeros_(built.net.last.weight)
    x, level = torch.tensor([[1.0, -2.0], [1.0, -2.0]]), torch.tensor([0, 999])
    found = built.denoise(x, level, torch.zeros(2, STATE_DIM))
    assert torch.allclose(found, x * built.alphas_bar[level].sqrt()[:, None])  # with v = 0


@pytest.mark.parametrize("schedule", ["linear", "cosine", "quadratic"])
def test_schedules(schedule: str, data: ReplayBuffer):
    built = shield("shield:diffusion", data, schedule=schedule, num_levels=100)
    assert isinstance(built, DiffusionShield)
    times = built.times(4)
    assert len(times) == 5
    assert 1.5 < times[0] < math.pi / 2  # almost all is noise
    assert 0 < times[-1] < 0.2
    assert torch.allclose(built.angles[[99, 0]], torch.tensor([times[0], times[-1]]))
    states, commands = pairs(data)
    assert built.pair_losses(states, commands).shape == (len(states),)


def test_settings_out_of_range_are_refused():
    for name, value in (("num_solver_steps", 0), ("sigma_min", -1.0), ("smoothing", -1.0), ("units", 0)):
        with pytest.raises(ConfigError, match=f"{name} must be between"):
            create_model("shield:flow_matching", obs_shape=(3,), action_dim=1, **{name: value})
    with pytest.raises(ConfigError, match="not images"):
        create_model("shield:flow_matching", obs_shape=(8, 8, 3), action_dim=1)
    with pytest.raises(ConfigError, match="tau must be between"):
        create_model("shield:quantile", obs_shape=(3,), action_dim=1, tau=1.0)
