"""What a policy achieves: of functions, models and Worldline's policies, in any environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simscaleai.models import ModelRegistry
from simscaleai.rl.evaluator import EvalConfig, EvalResults, evaluate_policy
from simscaleai.sim import make_env
from simscaleai.sim.demonstrations import policy_for
from worldline.errors import ConfigError, DataError
from worldline.evaluation.statistics import wilson_interval

FEW = EvalConfig(n_episodes=3, max_steps=30)


def towards(obs: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Act as the expert does."""
    move = (obs["target_pos"] - obs["ee_pos"]) / 0.06
    return np.concatenate([move / max(1.0, np.abs(move).max()), [-1.0]])


def test_the_expert_succeeds_and_nothing_does_not():
    env = make_env("reach")
    expert = evaluate_policy(env, policy_for("expert", env), EvalConfig(n_episodes=20))
    assert expert.success_rate == expert["success_rate"] == 1.0
    assert (expert["success_low"], expert["success_high"]) == wilson_interval(20, 20)
    assert expert["n_episodes"] == 20
    assert expert["return_low"] < expert["mean_return"] < expert["return_high"]
    idle = evaluate_policy(env, lambda obs: np.zeros(4), FEW)
    assert idle.success_rate == 0.0
    assert (idle.mean_length, idle.episodes.lengths) == (30.0, (30, 30, 30))
    env.reset(seed=0)  # still open


def test_functions_of_arrays_and_of_tensors_are_asked_for_each_environment():
    env = make_env("reach")
    asked = evaluate_policy(env, towards, FEW)
    same = evaluate_policy(env, lambda obs: torch.from_numpy(towards(obs)), FEW)
    expert = evaluate_policy(env, policy_for("expert", env), FEW)
    assert asked.episodes == same.episodes
    assert asked.success_rate == expert.success_rate == 1.0


def test_the_same_seed_is_the_same_episodes_and_no_other():
    env = make_env("reach")
    first, second = (evaluate_policy(env, towards, EvalConfig(n_episodes=3)) for _ in range(2))
    assert first.episodes == second.episodes
    assert evaluate_policy(env, towards, EvalConfig(n_episodes=3, seed=7)).episodes != first.episodes


def test_predict_stands_for_the_model_which_remembers():
    env = make_env("reach")
    torch.manual_seed(0)
    model = ModelRegistry.create("flow_policy", state_dim=20, action_dim=4, hidden_dim=8, n_layers=1)
    fit(model)
    config = EvalConfig(n_episodes=2, max_steps=12)
    results = [evaluate_policy(env, policy, config) for policy in (model.predict, model)]
    assert results[0].episodes == results[1].episodes
    # A function of one observation plans anew at every step.
    assert evaluate_policy(env, lambda obs: model.predict(obs), config).episodes != results[0].episodes


def fit(model: Any) -> None:
    from worldline.statistics import ColumnStatistics

    rng = np.random.default_rng(0)
    model.fit({name: ColumnStatistics.of([rng.normal(size=(9, size))]) for name, size in (("obs", 20), ("actions", 4))})


class Line(gym.Env[Any, Any]):
    """Somebody's environment: go to the right, in single numbers."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = 0.0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.place += float(action[0])
        return np.array([self.place], np.float32), float(action[0]), self.place >= 5, False, {}

    def close(self) -> None:
        self.closed = True


def test_any_gymnasium_environment():
    env = Line()
    found = evaluate_policy(env, lambda obs: np.ones(1), EvalConfig(n_episodes=4))
    assert found.success_rate is None
    assert "success_rate" not in found
    assert (found.mean_return, found.mean_length, env.closed) == (5.0, 5.0, False)


class Mode(nn.Module):
    def act(self, obs: Any, state: Any = None, *, is_first: Any = None, deterministic: bool = False) -> Any:
        actions: Tensor = torch.full((len(obs), 1), 1.0 if deterministic else 0.5)
        return actions, None


def test_deterministic_is_passed_on():
    lengths = [
        evaluate_policy(Line(), Mode(), EvalConfig(n_episodes=1, deterministic=flag)).mean_length
        for flag in (True, False)
    ]
    assert lengths == [5.0, 10.0]


def test_videos(tmp_path: Path):
    av = pytest.importorskip("av")
    config = EvalConfig(n_episodes=2, max_steps=5, save_videos=True, video_dir=str(tmp_path / "videos"))
    found = evaluate_policy(make_env("reach"), towards, config)
    assert [path.name for path in found.videos] == ["episode_0.mp4", "episode_1.mp4"]
    with av.open(str(found.videos[1])) as video:
        assert sum(1 for _ in video.decode(video=0)) == 6


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="n_episodes"):
        EvalConfig(n_episodes=0)
    with pytest.raises(ConfigError, match="A policy is a function"):
        evaluate_policy(Line(), 3)
    with pytest.raises(DataError):
        evaluate_policy(Line(), lambda obs: np.ones(3), EvalConfig(n_episodes=1))
    for nothing, message in (
        (None, "returned a NoneType"),
        ("left", "returned a str"),
        ([[1.0], [1.0, 2.0]], "a list"),
    ):
        with pytest.raises(DataError, match=f"{message}.*expected an action"):
            evaluate_policy(Line(), lambda obs, given=nothing: given, EvalConfig(n_episodes=1))


def test_results_are_a_mapping_of_numbers():
    found = evaluate_policy(Line(), lambda obs: np.ones(1), EvalConfig(n_episodes=2))
    assert isinstance(found, EvalResults)
    assert set(dict(found)) == {
        "mean_return",
        "return_low",
        "return_high",
        "mean_length",
        "length_low",
        "length_high",
        "n_episodes",
    }
