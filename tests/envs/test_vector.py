"""VectorEnv: every transition once, with its true final observation; episodes by their seeds."""

import functools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from worldline.envs.make import make_env, make_vec_env
from worldline.envs.rows import RowEnv
from worldline.envs.vector import VectorEnv
from worldline.errors import ConfigError, DataError

from .counting import Counting

ROWS = np.eye(2, dtype=np.float32)


def counting(num_envs):
    return VectorEnv([RowEnv(Counting()) for _ in range(num_envs)])


def rows(*indices):
    return ROWS[list(indices)]


def test_every_transition_once_with_its_true_final_observation():
    env = counting(3)
    obs, _ = env.reset(seed=4)
    seen = {}  # seed -> transitions
    for step in range(40):
        actions = [(step + place) % 2 for place in range(3)]
        after, rewards, terminations, truncations, infos = env.step(rows(*actions))
        for place in range(3):
            seed, count = obs[place]
            is_over = terminations[place] or truncations[place]
            reached = infos["final_obs"][place] if is_over else after[place]
            if is_over:
                assert infos["_final_obs"][place]
            assert reached.tolist() == [seed, count + 1]  # the same episode, one step on
            assert rewards[place] == 10 * count + actions[place]
            seen.setdefault(int(seed), []).append((int(count), bool(terminations[place]), bool(truncations[place])))
        obs = after
    finished = {seed: steps for seed, steps in seen.items() if steps[-1][1] or steps[-1][2]}
    assert len(finished) > 15
    for seed, steps in finished.items():
        length = 3 + seed % 4
        assert [count for count, _, _ in steps] == list(range(length))  # none twice, none left out
        assert not any(terminated or truncated for _, terminated, truncated in steps[:-1])
        assert steps[-1][1:] == (seed % 2 == 0, seed % 2 == 1)
    assert sorted(seen) == list(range(4, 4 + len(seen)))  # every seed from the first on, each for one episode
    assert env.next_seed == max(env.episode_seeds) + 1


def test_a_terminated_and_truncated_step_keeps_both_flags():
    class Both(Counting):
        def step(self, action):
            obs, reward, _, _, info = super().step(action)
            return obs, reward, self.is_over, self.is_over, info

    env = VectorEnv([RowEnv(Both())])
    env.reset(seed=0)
    flags = [tuple(flag.item() for flag in env.step(rows(0))[2:4]) for _ in range(3)]
    assert flags == [(False, False), (False, False), (True, True)]


def test_it_is_gymnasiums_same_step_mode():
    """Checked against Gymnasium's own vector environment, transition by transition."""
    ours = counting(4)
    theirs = gym.vector.SyncVectorEnv([Counting] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    np.testing.assert_array_equal(ours.reset(seed=0)[0], theirs.reset(seed=0)[0])
    over = np.zeros(4, bool)
    for _ in range(6):  # up to the second end in a place: from there on the seeds differ
        mine, other = ours.step(rows(0, 1, 0, 1)), theirs.step(np.array([0, 1, 0, 1]))
        for index in (1, 2, 3):
            np.testing.assert_array_equal(mine[index][~over], other[index][~over])
        ended = (mine[2] | mine[3]) & ~over
        for place in np.flatnonzero(ended):
            np.testing.assert_array_equal(mine[4]["final_obs"][place], other[4]["final_obs"][place])
        over |= ended
        np.testing.assert_array_equal(mine[0][~over], other[0][~over])
    assert over.all()


def test_unseeded_episodes_are_the_environments_own():
    env = counting(1)
    env.reset()
    first = env.step(rows(0))[0][0, 0]
    assert env.episode_seeds == [None]
    assert first == 99  # -1 + 100


def test_restoring_takes_the_actions_again():
    env = counting(2)
    env.reset(seed=10)  # lengths 5 and 6
    for _ in range(5):
        obs, *_ = env.step(rows(1, 1))
    assert env.episode_seeds == [12, 11]
    other = counting(2)
    replayed = other.restore([(12, ROWS[:0]), (11, np.repeat(ROWS[1:], 5, axis=0))], next_seed=13)
    np.testing.assert_array_equal([seen[-1] for seen, _ in replayed], obs)
    assert [seen.tolist() for seen in replayed[1][0]] == [[11, t] for t in range(6)]
    assert [rewards for _, rewards in replayed] == [[], [1, 11, 21, 31, 41]]
    for _ in range(10):
        for left, right in zip(env.step(rows(0, 1))[:4], other.step(rows(0, 1))[:4], strict=True):
            np.testing.assert_array_equal(left, right)
    assert env.episode_seeds == other.episode_seeds


def test_real_environments_are_restored_bit_for_bit():
    make = functools.partial(make_vec_env, "Pendulum-v1", 2)
    env, actions = make(), np.random.default_rng(0).uniform(-1, 1, (50, 2, 1)).astype(np.float32)
    env.reset(seed=3)
    for action in actions:
        obs, *_ = env.step(action)
    restored = make().restore([(3, actions[:, 0]), (4, actions[:, 1])], next_seed=5)
    np.testing.assert_array_equal([seen[-1] for seen, _ in restored], obs)


def test_equal_to_single_environments():
    env = make_vec_env("CartPole-v1", 2)
    singles = [make_env("CartPole-v1") for _ in range(2)]
    obs, _ = env.reset(seed=7)
    expected = [single.reset(seed=7 + place)[0] for place, single in enumerate(singles)]
    np.testing.assert_array_equal(obs, expected)
    assert obs.dtype == np.float32
    for _ in range(8):
        obs, rewards, terminations, truncations, _ = env.step(rows(0, 1))
        for place, single in enumerate(singles):
            reached, reward, terminated, truncated, _ = single.step(ROWS[place])
            if not (terminated or truncated):
                np.testing.assert_array_equal(obs[place], reached)
            assert (rewards[place], terminations[place], truncations[place]) == (reward, terminated, truncated)


def test_what_was_returned_is_not_overwritten():
    env = counting(2)
    first, _ = env.reset(seed=0)
    before = first.copy()
    second, *_ = env.step(rows(0, 0))
    kept = second.copy()
    env.step(rows(0, 0))
    np.testing.assert_array_equal(first, before)
    np.testing.assert_array_equal(second, kept)


def test_dict_observations_are_stacked_by_key():
    class Dicts(Counting):
        observation_space = gym.spaces.Dict(image=gym.spaces.Box(0, 255, (2, 2, 3), np.uint8), n=gym.spaces.Discrete(9))

        def _obs(self):
            return {"image": np.full((2, 2, 3), self.count, np.uint8), "n": self.count}

    env = VectorEnv([RowEnv(Dicts()) for _ in range(2)])
    env.reset(seed=0)
    for _ in range(3):
        obs, _, terminations, _, infos = env.step(rows(0, 0))
    assert (obs["image"].shape, obs["image"].dtype) == ((2, 2, 2, 3), np.uint8)
    assert obs["image"][:, 0, 0, 0].tolist() == [0, 3]
    assert obs["n"].argmax(axis=1).tolist() == [0, 3]
    assert terminations.tolist() == [True, False]
    assert infos["final_obs"][0]["n"].argmax() == 3


def test_wrong_use():
    with pytest.raises(ConfigError, match="num_envs must be at least 1; got 0"):
        make_vec_env("CartPole-v1", 0)
    with pytest.raises(ConfigError, match="at least one"):
        VectorEnv([])
    with pytest.raises(ConfigError, match="differ"):
        VectorEnv([make_env("CartPole-v1"), make_env("Pendulum-v1")])
    env = counting(2)
    env.reset(seed=0)
    with pytest.raises(DataError, match="shape"):
        env.step(np.zeros((2, 3)))


def test_every_environment_is_closed():
    closed = []

    class Closing(Counting):
        def close(self):
            closed.append(self)

    VectorEnv([RowEnv(Closing()) for _ in range(3)]).close()
    assert len(closed) == 3
