from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from flowshield.models import FlowMatchingShield, UDRLAgent
from tiny_trajectories import dataset
from worldline import load_model
from worldline.errors import ConfigError, FileError
from worldline.models.udrl import UDRL
from worldline.protocols import Commanded


@pytest.fixture
def agent() -> UDRLAgent:
    torch.manual_seed(0)
    return UDRLAgent(state_dim=4, action_dim=2, hidden_dim=16, n_layers=2)


def test_defaults_are_the_documented_ones():
    config = UDRLAgent(8, 2).config
    found = (config.obs_shape, config.action_dim, config.command_dim, config.units, config.layers, config.activation)
    assert found == ((8,), 2, 2, 256, 4, "silu")
    assert config.action_type == "continuous"


def test_as_the_document_of_the_models_shows_it():
    """It was given no data: scales are typical ones."""
    agent = UDRLAgent(state_dim=8, action_dim=2)
    state, command = torch.randn(32, 8), torch.tensor([[100, 50]] * 32).float()
    mean, log_std = agent(state, command)
    assert mean.shape == log_std.shape == (32, 2)
    loss = agent.compute_loss(state, command, torch.randn(32, 2))
    loss.backward()
    assert loss.isfinite()
    assert agent.sample(state, command, deterministic=True).shape == (32, 2)


def test_loss_is_minus_log_prob(agent: UDRLAgent):
    states, actions, commands = dataset().get_hindsight_batch(32)
    agent.fit(dataset().statistics())
    log_prob = agent.log_prob(states, commands, actions)
    assert log_prob.shape == (32,)
    torch.testing.assert_close(agent.compute_loss(states, commands, actions), -log_prob.mean())


def test_samples_are_of_the_distribution(agent: UDRLAgent):
    states, _, commands = dataset().get_hindsight_batch(3)
    mean, log_std = agent(states, commands)
    torch.testing.assert_close(agent.sample(states, commands, deterministic=True), mean.tanh())
    torch.manual_seed(1)
    many = torch.stack([agent.sample(states, commands) for _ in range(4000)]).atanh()
    error = log_std.exp() / 4000**0.5
    assert ((many.mean(0) - mean).abs() < 5 * error).all()
    torch.testing.assert_close(many.std(0), log_std.exp(), rtol=0.1, atol=0)


def test_a_batch_of_worldline_s_gives_its_losses(agent: UDRLAgent):
    data = dataset()
    agent.fit(data.statistics())
    batch = data.buffer.sample(8, 1, windows=agent.windows)
    torch.manual_seed(0)
    own = UDRL(agent.config)
    own.load_state_dict(agent.state_dict())
    for losses in (agent(batch), agent.compute_loss(batch)):
        torch.testing.assert_close(losses["loss"], own.compute_loss(batch)["loss"])


def test_training_by_hand(agent: UDRLAgent):
    data = dataset(200)
    agent.fit(data.statistics())
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3)
    for _ in range(400):
        states, actions, commands = data.get_hindsight_batch(128)
        optimizer.zero_grad()
        agent.compute_loss(states, commands, actions).backward()
        optimizer.step()
    told = torch.tensor([[8.0, -60.0], [8.0, 60.0]])
    low, high = agent.sample(torch.zeros(2, 4), told, deterministic=True)[:, 0].tolist()
    assert low < -0.4 < 0.4 < high


def test_saved_it_is_a_model_of_its_family(agent: UDRLAgent, tmp_path: Path):
    states, _, commands = dataset().get_hindsight_batch(5)
    mean, _ = agent(states, commands)
    agent.save(str(tmp_path / "agent.pt"))
    loaded = UDRLAgent.load(str(tmp_path / "agent.pt"))
    assert type(loaded) is UDRLAgent
    assert not loaded.training
    torch.testing.assert_close(loaded(states, commands)[0], mean, rtol=0, atol=0)
    assert type(load_model(tmp_path / "agent.pt")) is UDRL
    assert isinstance(loaded, Commanded)
    torch.testing.assert_close(copy.deepcopy(loaded)(states, commands)[0], mean, rtol=0, atol=0)


def test_loading_something_else(agent: UDRLAgent, tmp_path: Path):
    agent.save(tmp_path / "agent")
    with pytest.raises(ConfigError, match="holds a UDRLAgent, not a FlowMatchingShield"):
        FlowMatchingShield.load(tmp_path / "agent")
    with pytest.raises(FileError):
        UDRLAgent.load(tmp_path / "nothing")


def test_discrete_actions():
    agent = UDRLAgent(4, 3, hidden_dim=16, n_layers=1, action_type="discrete")
    states, commands = torch.zeros(5, 4), torch.ones(5, 2)
    assert agent.sample(states, commands).sum(1).tolist() == [1.0] * 5
    assert agent.log_prob(states, commands, torch.eye(3)[[0, 1, 2, 0, 1]]).shape == (5,)
    with pytest.raises(ConfigError, match="Discrete actions have no mean"):
        agent(states, commands)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"activation must be one of .*'gelu'"):
        UDRLAgent(4, 2, activation="gel")
