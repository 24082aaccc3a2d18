"""Lockstep runs: the same episodes as one by one, seeds, flags and rows exact."""

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch

from worldline.envs.make import make_env
from worldline.episode import DataSpec
from worldline.errors import ConfigError
from worldline.evaluation.rollout import RandomPolicy, acts_deterministically, collect_episodes, evaluate_policy
from worldline.evaluation.statistics import mean_interval95, wilson_interval

from .environments import SPEC, Counter, Memory, Striving


def test_rows_flags_and_final_observation():
    episodes = collect_episodes(Counter, Memory(), num_episodes=5, seed=10, num_envs=2)
    for number, episode in enumerate(episodes):
        seed = 10 + number
        steps = 3 + seed % 4
        assert episode.obs.tolist() == [[seed, t] for t in range(steps)]
        indices = [(seed + t) % 2 for t in range(steps)]
        assert episode.actions.argmax(axis=1).tolist() == indices
        assert episode.rewards.tolist() == [10 * t + a for t, a in enumerate(indices)]
        assert (episode.terminated, episode.truncated) == (seed % 2 == 0, seed % 2 == 1)
        assert episode.final_obs.tolist() == [seed, steps]
        assert episode.meta == {"seed": seed}


@pytest.mark.parametrize("num_envs", [2, 3, 7, 32])
def test_lockstep_equals_one_by_one(num_envs):
    one_by_one = collect_episodes(Counter, Memory(), num_episodes=7, num_envs=1)
    together = collect_episodes(Counter, Memory(), num_episodes=7, num_envs=num_envs)
    for left, right in zip(one_by_one, together, strict=True):
        np.testing.assert_array_equal(left.obs, right.obs)
        np.testing.assert_array_equal(left.actions, right.actions)
        np.testing.assert_array_equal(left.rewards, right.rewards)
        assert (left.terminated, left.truncated) == (right.terminated, right.truncated)


def test_the_policy_always_sees_the_same_number_of_environments():
    policy = Memory()
    collect_episodes(Counter, policy, num_episodes=7, num_envs=3)
    assert set(policy.batch_sizes) == {3}


def test_lockstep_equals_a_bare_gymnasium_loop():
    class Lean:
        def act(self, obs, state=None, *, is_first=None, deterministic=False):
            return torch.nn.functional.one_hot((obs[:, 2] > 0).long(), 2).float(), None

    result = evaluate_policy(functools.partial(make_env, "CartPole-v1"), Lean(), num_episodes=6, seed=100, num_envs=4)
    env = gym.make("CartPole-v1")
    for seed, total in zip(range(100, 106), result.returns, strict=True):
        obs, _ = env.reset(seed=seed)
        expected, is_over = 0.0, False
        while not is_over:
            obs, reward, terminated, truncated, _ = env.step(int(obs[2] > 0))
            expected, is_over = expected + reward, terminated or truncated
        assert total == expected
    assert result.lengths == tuple(int(total) for total in result.returns)


def test_time_limits_truncate():
    make = functools.partial(make_env, "Pendulum-v1", max_episode_steps=5)
    (episode,) = collect_episodes(make, RandomPolicy(make().data_spec), num_episodes=1)
    assert (len(episode), episode.terminated, episode.truncated) == (5, False, True)
    assert episode.obs.dtype == np.float32


def test_the_same_seed_gives_the_same_episodes_and_leaves_the_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    runs = [collect_episodes(Counter, RandomPolicy(SPEC), num_episodes=4, seed=s) for s in (3, 3, 4)]
    assert torch.equal(before, torch.get_rng_state())
    first, again, other = (np.concatenate([e.actions for e in run]) for run in runs)
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_every_episode_is_reported_and_every_environment_closed():
    envs, seen = [], []

    def make():
        envs.append(Counter())
        return envs[-1]

    collect_episodes(make, Memory(), num_episodes=5, num_envs=2, on_episode=lambda e: seen.append(e.meta["seed"]))
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert [env.closed for env in envs] == [True, True]


def test_a_module_is_in_evaluation_mode_meanwhile():
    class Net(torch.nn.Linear):
        def act(self, obs, state=None, *, is_first=None, deterministic=False):
            assert not self.training
            assert not torch.is_grad_enabled()
            return self(obs), None

    net = Net(2, 2).train()
    collect_episodes(Counter, net, num_episodes=1)
    assert net.training


def test_the_deterministic_flag_and_dict_observations_reach_the_policy():
    class Dicts(Counter):
        def _obs(self):
            return {"image": np.zeros((2, 2, 1), np.uint8), "count": np.array([self.count], np.float32)}

    class Check:
        def act(self, obs, state=None, *, is_first=None, deterministic=False):
            assert (obs["image"].dtype, obs["image"].shape) == (torch.uint8, (2, 2, 2, 1))
            flags.add(deterministic)
            return torch.eye(2), None

    flags = set()
    (episode, _) = collect_episodes(Dicts, Check(), num_episodes=2, deterministic=True)
    assert episode.obs["image"].dtype == np.uint8
    assert episode.final_obs["count"].tolist() == [3]
    assert flags == {True}


def test_result_statistics():
    result = evaluate_policy(Counter, Memory(), num_episodes=2, seed=0)  # steps 3 and 4, terminated and truncated
    assert result.lengths == (3, 4)
    assert result.returns == (0 + 11 + 20, 1 + 10 + 21 + 30)
    assert result.mean == 46.5
    assert result.std == pytest.approx(21.9203, abs=1e-4)
    assert result.interval95[0] == pytest.approx(46.5 - 12.7062 * 21.9203 / 2**0.5, abs=1e-2)


def test_success_is_that_of_any_step_and_the_instruction_is_kept():
    episodes = collect_episodes(Striving, Memory(), num_episodes=7, seed=0, num_envs=2)
    assert [episode.meta["success"] for episode in episodes] == [True, False, False, True, False, False, True]
    assert [episode.meta["language"] for episode in episodes] == [f"count from {seed}" for seed in range(7)]
    result = evaluate_policy(Striving, Memory(), num_episodes=7)
    assert result.successes == (True, False, False, True, False, False, True)
    assert result.success_rate == 3 / 7
    assert result.success_interval95 == wilson_interval(3, 7)
    assert result.length_interval95 == mean_interval95(result.lengths)


def test_there_is_no_success_where_nobody_speaks_of_it():
    result = evaluate_policy(Counter, Memory(), num_episodes=2)
    assert (result.successes, result.success_rate, result.success_interval95) == (None, None, None)


@pytest.mark.parametrize(
    ("action_type", "sizes", "width"), [("discrete", (3,), 3), ("multi_discrete", (2, 3), 5), ("continuous", (), 2)]
)
def test_random_actions_are_rows_of_their_type(action_type, sizes, width):
    spec = DataSpec(obs_shape=(1,), action_dim=width, action_type=action_type, action_sizes=sizes)
    actions, _ = RandomPolicy(spec).act(torch.zeros(2000, 1))
    assert actions.shape == (2000, width)
    assert actions.dtype == torch.float32
    if action_type == "continuous":
        assert actions.mean().abs() < 0.1
        assert -1 <= actions.min() < -0.9
        assert 0.9 < actions.max() <= 1
    else:
        assert (actions.sum(dim=1) == len(sizes)).all()
        frequencies = torch.cat([torch.full((size,), 1 / size) for size in sizes])
        torch.testing.assert_close(actions.mean(dim=0), frequencies, atol=0.05, rtol=0)


@pytest.mark.parametrize("name", ["num_episodes", "num_envs"])
def test_counts_must_be_positive(name):
    with pytest.raises(ConfigError, match=f"{name} must be at least 1; got 0"):
        collect_episodes(Counter, Memory(), **({"num_episodes": 1} | {name: 0}))


def test_a_bare_environment_is_refused_with_the_fix():
    with pytest.raises(ConfigError, match="make_env"):
        evaluate_policy(lambda: gym.make("CartPole-v1"), Memory(), num_episodes=1)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_policies_that_want_rewards_get_those_of_their_actions(num_envs):
    class Summing:
        """Acts by the sum of the rewards of its episode, which `Counter` makes of the actions."""

        def act(self, obs, state=None, *, is_first=None, deterministic=False):
            sums = torch.zeros(len(obs)) if state is None else state.masked_fill(is_first, 0.0)
            return torch.nn.functional.one_hot((sums % 3 == 0).long(), 2).float(), sums

        def after_step(self, state, rewards):
            assert rewards.dtype == torch.float32
            return state + rewards

    for episode in collect_episodes(Counter, Summing(), num_episodes=7, num_envs=num_envs):
        before = np.cumsum(episode.rewards) - episode.rewards
        np.testing.assert_array_equal(episode.actions.argmax(1), before % 3 == 0)


def test_crashes_and_timeouts_are_kept_apart():
    class Fragile(Striving):
        """Crashes in the first step of episodes whose seed is 1 or 2."""

        def step(self, action):
            *stepped, info = super().step(action)
            return *stepped, {**info, "crashed": self.count == 1 and self.seed in (1, 2)}

    result = evaluate_policy(Fragile, Memory(), num_episodes=4)
    assert result.crashes == (False, True, True, False)
    assert result.timeouts == (False, True, False, True)  # odd seeds are truncated
    assert result.outcomes == {"success": result.successes, "crash": result.crashes, "timeout": result.timeouts}
    silent = evaluate_policy(Striving, Memory(), num_episodes=4)
    assert silent.crashes is None
    assert silent.outcomes == {}


def test_a_policy_acts_as_it_is_meant_to_unless_told_otherwise():
    class Sampler(Memory):
        samples_actions = True

        def act(self, obs, state=None, *, is_first=None, deterministic=False):
            ways.add(deterministic)
            return super().act(obs, state, is_first=is_first)

    def way_of(policy, **settings):
        ways.clear()
        evaluate_policy(Counter, policy, num_episodes=1, **settings)
        return ways.copy()

    ways = set()
    steady = Sampler()
    steady.samples_actions = False
    assert (acts_deterministically(Memory()), acts_deterministically(steady), acts_deterministically(Sampler())) == (
        True,
        True,
        False,
    )
    assert way_of(Sampler()) == {False}
    assert way_of(steady) == {True}
    assert way_of(Sampler(), deterministic=True) == {True}
    assert way_of(steady, deterministic=False) == {False}
