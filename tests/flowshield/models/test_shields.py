from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowshield.models import BaseShield, DiffusionShield, FlowMatchingShield, QuantileShield
from flowshield.models.shields import load_shield
from flowshield.training import TrajectoryDataset
from tiny_trajectories import dataset
from worldline import load_model
from worldline.errors import ConfigError
from worldline.models import shields as core

CLASSES: list[type[BaseShield]] = [QuantileShield, DiffusionShield, FlowMatchingShield]
TINY = {"hidden_dim": 16, "n_layers": 2}


@pytest.fixture(scope="module")
def data() -> TrajectoryDataset:
    return dataset(100)


def trained(kind: type[BaseShield], data: TrajectoryDataset) -> BaseShield:
    torch.manual_seed(0)
    shield = kind(4, **TINY)  # type: ignore[call-arg]
    learnt, held_out = data.split(0.3)
    shield.fit(learnt.statistics())
    optimizer = torch.optim.Adam(shield.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        shield.compute_loss(*learnt.get_command_pairs(128)).backward()
        optimizer.step()
    shield.calibrate(held_out, alpha=0.2)
    return shield


@pytest.fixture(scope="module", params=CLASSES, ids=lambda kind: kind.__name__)
def shield(request: pytest.FixtureRequest, data: TrajectoryDataset) -> BaseShield:
    return trained(request.param, data)


def test_a_trained_shield(shield: BaseShield, data: TrajectoryDataset):
    states, commands = data.get_command_pairs(64)
    impossible = commands + torch.tensor([0.0, 1000.0])
    assert shield.log_prob(states, commands).shape == (64,)
    assert shield.is_ood(states, commands).float().mean() < 0.5
    assert shield.is_ood(states, impossible).all()
    assert not shield.is_ood(states, impossible, threshold=1e9).any()
    projected = shield.project(states, impossible, n_steps=3, lr=0.2)
    assert not shield.is_ood(states, projected).logical_and(~shield.is_ood(states, commands)).any()
    allowed = ~shield.is_ood(states, commands)
    torch.testing.assert_close(shield.project(states, commands)[allowed], commands[allowed], rtol=0, atol=0)


def test_saved_it_is_a_model_of_its_family(shield: BaseShield, data: TrajectoryDataset, tmp_path: Path):
    shield.save(tmp_path / "shield.pt")
    loaded = load_shield(tmp_path / "shield.pt")
    assert type(loaded) is type(shield)
    states, commands = data.get_command_pairs(16)
    torch.testing.assert_close(loaded.score(states, commands), shield.score(states, commands))
    own = load_model(tmp_path / "shield.pt")
    assert type(own) is type(shield).own
    assert isinstance(own, core.BaseShield)
    assert not isinstance(own, BaseShield)


@pytest.mark.parametrize("kind", CLASSES)
def test_losses_without_data_and_of_a_batch(kind: type[BaseShield], data: TrajectoryDataset):
    shield = kind(4, **TINY)  # type: ignore[call-arg]
    loss = shield.compute_loss(torch.randn(32, 4), torch.tensor([[100.0, 50.0]] * 32))
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    batch = data.buffer.sample(8, 1, windows=shield.windows)
    torch.manual_seed(0)
    losses = shield(batch)
    torch.manual_seed(0)
    assert batch.commands is not None
    assert isinstance(batch.obs, torch.Tensor)
    torch.testing.assert_close(losses["loss"], shield.compute_loss(batch.obs[:, 0], batch.commands[:, 0]))


def test_settings_by_their_documented_names():
    quantile = QuantileShield(4, tau=0.8).config
    assert (quantile.units, quantile.layers, quantile.tau) == (256, 4, 0.8)  # type: ignore[attr-defined]
    diffusion = DiffusionShield(4, n_timesteps=100, beta_schedule="cosine").config
    assert (diffusion.num_levels, diffusion.schedule) == (100, "cosine")  # type: ignore[attr-defined]
    flow = FlowMatchingShield(4, time_embed_dim=32, sigma_min=0.01).config
    assert (flow.time_features, flow.sigma_min) == (32, 0.01)  # type: ignore[attr-defined]
    assert (DiffusionShield(4).config.num_levels, FlowMatchingShield(4).config.time_features) == (1000, 128)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="command_dim is 2; got 3"):
        FlowMatchingShield(4, command_dim=3)
    with pytest.raises(ConfigError):
        DiffusionShield(4, beta_schedule="cosin")


@pytest.mark.parametrize("kind", [DiffusionShield, FlowMatchingShield])
def test_samples_follow_the_data(kind: type[DiffusionShield | FlowMatchingShield], data: TrajectoryDataset):
    shield = trained(kind, data)
    assert isinstance(shield, DiffusionShield | FlowMatchingShield)
    assert shield.sample(torch.zeros(4)).shape == (1, 2)
    assert shield.sample(torch.zeros(3, 4), 5, n_steps=4).shape == (3, 5, 2)
    torch.manual_seed(0)
    drawn = shield.sample(torch.zeros(4), n_samples=500)
    horizons = torch.from_numpy(data.commands[:, 0])
    torch.testing.assert_close(drawn[:, 0].mean(), horizons.mean(), rtol=0.2, atol=0)
    torch.testing.assert_close(drawn[:, 0].std(), horizons.std(), rtol=0.3, atol=0)


def test_velocity_at_one_time_and_at_several(data: TrajectoryDataset):
    shield = trained(FlowMatchingShield, data)
    assert isinstance(shield, FlowMatchingShield)
    points, states = torch.randn(6, 2), torch.randn(6, 4)
    one = shield.velocity(points, 0.3, states)
    assert one.shape == (6, 2)
    torch.testing.assert_close(one, shield.velocity(g=points, t=torch.full((6,), 0.3), state=states))


def test_denoising_moves_noisy_commands_to_likely_ones(data: TrajectoryDataset):
    shield = trained(DiffusionShield, data)
    assert isinstance(shield, DiffusionShield)
    states, commands = data.get_command_pairs(256)
    torch.manual_seed(0)
    noisy = commands + torch.randn(256, 2) * shield.commands.scale * 0.7
    level = int((shield.angles - 0.6).abs().argmin())  # tan(0.6) = 0.7: so noisy they are
    denoised = shield.denoise(noisy, states, level)
    assert shield.log_prob(states, denoised).mean() > shield.log_prob(states, noisy).mean() + 0.3
    torch.testing.assert_close(shield.denoise(commands, states, 0), commands, rtol=0.05, atol=1.0)
    assert shield.denoise(noisy, states).shape == (256, 2)
    with pytest.raises(ConfigError, match="from 0 to 999"):
        shield.denoise(noisy, states, 1000)
