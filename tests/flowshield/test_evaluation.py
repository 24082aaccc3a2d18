from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from flowshield.evaluation import evaluate_agent, evaluate_projection, evaluate_shield, run_episode
from flowshield.models import QuantileShield, UDRLAgent
from flowshield.training import TrajectoryDataset
from tiny_trajectories import dataset
from worldline.data.buffer import ReplayBuffer
from worldline.episode import Episode
from worldline.errors import ConfigError, DataError

LENGTH = 6


class Effort(gym.Env[Any, Any]):
    """Pays ten times the first action at each step; the sixth is the last: a landing, a crash, a timeout or neither."""

    observation_space = gym.spaces.Box(-5, 5, (4,))
    action_space = gym.spaces.Box(-1, 1, (2,))
    render_mode = None

    def __init__(self, ending: str = "none") -> None:
        self.ending = ending
        self.is_closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=4).astype(np.float32).clip(-5, 5), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        obs = self.np_random.normal(size=4).astype(np.float32).clip(-5, 5)
        ends = self.steps == LENGTH
        reward = 10 * float(action[0])
        if ends:
            reward = {"success": 100.0, "crash": -100.0}.get(self.ending, reward)
        is_timeout = self.ending == "timeout"
        return obs, reward, ends and not is_timeout, ends and is_timeout, {}

    def close(self) -> None:
        self.is_closed = True


def fixed_length(num_episodes: int, *, seed: int) -> TrajectoryDataset:
    """Return episodes of that environment, each of one effort."""
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(num_episodes):
        actions = np.repeat(rng.uniform(-0.8, 0.8, (1, 2)), LENGTH, 0).astype(np.float32)
        states = rng.normal(size=(LENGTH, 4)).astype(np.float32)
        episodes.append(Episode(obs=states, actions=actions, rewards=10 * actions[:, 0], terminated=True))
    return TrajectoryDataset.from_buffer(ReplayBuffer.from_episodes(episodes, action_dim=2, action_sizes=()))


@pytest.fixture(scope="module")
def data() -> TrajectoryDataset:
    return fixed_length(150, seed=0)


@pytest.fixture(scope="module")
def agent(data: TrajectoryDataset) -> UDRLAgent:
    torch.manual_seed(0)
    agent = UDRLAgent(4, 2, hidden_dim=32, n_layers=2)
    agent.fit(data.statistics())
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3)
    for _ in range(400):
        states, actions, commands = data.get_hindsight_batch(128)
        optimizer.zero_grad()
        agent.compute_loss(states, commands, actions).backward()
        optimizer.step()
    return agent


@pytest.fixture(scope="module")
def shield(data: TrajectoryDataset) -> QuantileShield:
    torch.manual_seed(0)
    shield = QuantileShield(4, hidden_dim=16, n_layers=2)
    learnt, held_out = data.split(0.5)
    shield.fit(learnt.statistics())
    optimizer = torch.optim.Adam(shield.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        shield.compute_loss(*learnt.get_command_pairs(128)).backward()
        optimizer.step()
    shield.calibrate(held_out, alpha=0.1)
    return shield


def test_an_agent_that_does_what_it_is_told(agent: UDRLAgent):
    low, high = (evaluate_agent(Effort(), agent, commands=[(6, told)], n_episodes=10) for told in (-30.0, 30.0))
    assert low["mean_return"] < -15 < 15 < high["mean_return"]
    assert high["return_low"] < high["mean_return"] < high["return_high"]
    assert high["mean_length"] == LENGTH
    assert high["length_error"] == 0
    assert high["return_error"] < 10
    assert (high["ood_detections"], high["shield_activations"]) == (0, 0)


def test_episodes_of_all_commands_count(agent: UDRLAgent):
    both = evaluate_agent(Effort(), agent, commands=[(6, -30), (6, 30)], n_episodes=5)
    apart = [evaluate_agent(Effort(), agent, commands=[(6, told)], n_episodes=5) for told in (-30, 30)]
    assert both["mean_return"] == pytest.approx(np.mean([found["mean_return"] for found in apart]))
    assert both["std_return"] > 15


@pytest.mark.parametrize("ending", ["success", "crash", "timeout", "none"])
def test_how_episodes_end(agent: UDRLAgent, ending: str):
    found = evaluate_agent(Effort(ending), agent, n_episodes=2)
    rates = {name: found[f"{name}_rate"] for name in ("success", "crash", "timeout")}
    assert rates == {name: float(name == ending) for name in rates}
    assert found["crash_low"] <= found["crash_rate"] <= found["crash_high"]


def test_a_shield_replaces_what_cannot_be(agent: UDRLAgent, shield: QuantileShield):
    found = evaluate_agent(Effort(), agent, shield, commands=[(6, 1000.0), (6, 0.0)], n_episodes=5)
    assert found["shield_activations"] == 5
    assert 5 <= found["ood_detections"] <= 10
    found = run_episode(Effort(), agent, (6, 1000.0), shield)
    assert found["commands"][0][1] < 100


def test_an_episode_in_full(agent: UDRLAgent, shield: QuantileShield):
    env = Effort("crash")
    found = run_episode(env, agent, (6.0, 20.0), shield, seed=3)
    assert (found["length"], found["crash"], found["success"]) == (LENGTH, True, False)
    assert found["return"] == pytest.approx(found["rewards"].sum(), abs=1e-4)
    assert (found["states"].shape, found["actions"].shape) == ((LENGTH, 4), (LENGTH, 2))
    assert found["commands"][0] == (6.0, 20.0)
    steps, left = found["commands"][-1]
    assert steps == 1.0
    assert left == pytest.approx(20.0 - found["rewards"][:-1].sum(), abs=1e-4)
    assert len(found["ood_flags"]) == len(found["log_probs"]) == LENGTH
    assert not env.is_closed
    again = run_episode(env, agent, (6.0, 20.0), shield, seed=3)
    np.testing.assert_array_equal(found["actions"], again["actions"])
    assert run_episode(env, agent, (6.0, 20.0))["ood_flags"] == []


def test_a_shield_by_itself(shield: QuantileShield):
    found = evaluate_shield(shield, fixed_length(200, seed=1), fixed_length(100, seed=2))
    assert found["false_positive_low"] <= found["false_positive_rate"] <= found["false_positive_high"]
    assert found["false_positive_rate"] < 0.2  # alpha is 0.1
    assert found["auc_roc/return too high"] > 0.95
    assert found["detection_rate/return too high"] > 0.9
    rate, alarms = found["detection_rate"], found["false_positive_rate"]
    assert found["f1_score"] == pytest.approx(rate / (rate + (1 - rate + alarms) / 2))
    assert 0 <= found["fpr_at_95_tpr"] <= 1


def test_projections(shield: QuantileShield):
    test = fixed_length(100, seed=3)
    impossible = test.commands + np.array([0.0, 500.0], np.float32)
    found = evaluate_projection(shield, impossible, test.states)
    assert found["projection_success"] == found["kept"] == found["changed"] == 1.0
    assert found["mean_distance"] > 5
    assert np.isfinite(found["mean_log_prob"])
    assert evaluate_projection(shield, test.commands, test.states)["changed"] < 0.3
    with pytest.raises(DataError, match="a state for each command"):
        evaluate_projection(shield, impossible[:3], test.states)


def test_mistakes_are_named(agent: UDRLAgent):
    with pytest.raises(ConfigError, match="no commands to tell"):
        evaluate_agent(Effort(), agent, commands=[])
    with pytest.raises(ConfigError, match='render_mode="human"'):
        run_episode(Effort(), agent, (6, 1), render=True)
    with pytest.raises(DataError, match="no threshold yet"):
        evaluate_shield(QuantileShield(4), dataset(5))
