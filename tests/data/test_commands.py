"""Hindsight commands: by hand, against a loop over episodes, and across their boundaries."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.data.block import EpisodeBlock
from worldline.data.commands import commands_of_rows, compute_hindsight_commands, sample_future_commands
from worldline.data.store import RowStore
from worldline.episode import Episode
from worldline.errors import DataError

REWARDS = np.array([1.0, -2.0, 3.0, 10.0, 5.0, 7.0])
DONES = np.array([0, 0, 1, 1, 0, 0])  # episodes of 3, 1 and 2 steps; the last was cut off
BY_HAND = [[3, 2], [2, 1], [1, 3], [1, 10], [2, 12], [1, 7]]

lengths_of_episodes = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def _flat(lengths: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rewards = np.random.default_rng(seed).normal(size=sum(lengths)) * 100
    dones = np.zeros(sum(lengths), dtype=bool)
    dones[np.cumsum(lengths) - 1] = True
    return rewards, dones


@pytest.mark.parametrize("dtype", [bool, float, np.int8])
def test_hindsight_by_hand(dtype: type) -> None:
    commands = compute_hindsight_commands(REWARDS, DONES.astype(dtype))
    assert commands.dtype == np.float32
    np.testing.assert_array_equal(commands, BY_HAND)


@given(lengths_of_episodes, st.booleans())
def test_hindsight_is_that_of_each_episode_alone(lengths: list[int], last_is_cut_off: bool) -> None:
    rewards, dones = _flat(lengths)
    if last_is_cut_off:
        dones[-1] = False
    expected = []
    for episode in np.split(rewards, np.cumsum(lengths)[:-1]):
        expected += [[len(episode) - t, episode[t:].sum()] for t in range(len(episode))]
    np.testing.assert_allclose(compute_hindsight_commands(rewards, dones), expected, rtol=1e-6, atol=1e-4)


def test_a_huge_episode_leaves_small_ones_exact() -> None:
    # A running sum in float32 would lose the ones altogether.
    commands = compute_hindsight_commands([1e9, 1.0, 1.0], [1, 0, 1])
    np.testing.assert_array_equal(commands, [[1, 1e9], [2, 2], [1, 1]])


@given(lengths_of_episodes, st.integers(0, 100))
def test_future_commands_stay_in_their_episode(lengths: list[int], seed: int) -> None:
    rewards, dones = _flat(lengths)
    rows = np.arange(len(rewards))
    hindsight = compute_hindsight_commands(rewards, dones)
    commands = sample_future_commands(np.zeros((len(rewards), 3)), rewards, dones, rows, seed=seed)
    steps = commands[:, 0].astype(int)
    assert (steps >= 1).all()
    assert (steps <= hindsight[:, 0]).all()
    sums = [rewards[row : row + count].sum() for row, count in zip(rows, steps, strict=True)]
    np.testing.assert_allclose(commands[:, 1], sums, rtol=1e-5, atol=1e-3)


def test_future_commands_reach_every_later_step_equally_often() -> None:
    rows = np.zeros(30_000, dtype=int)
    steps = sample_future_commands(REWARDS, REWARDS, DONES, rows, seed=0)[:, 0]
    counts = np.bincount(steps.astype(int), minlength=4)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:], 10_000, rtol=0.05)  # 6 deviations


def test_future_commands_follow_their_seed() -> None:
    rewards, dones = _flat([50, 50])
    rows = np.arange(100)
    first, again, other = (sample_future_commands(rewards, rewards, dones, rows, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    generator = np.random.default_rng(1)
    np.testing.assert_array_equal(sample_future_commands(rewards, rewards, dones, rows, seed=generator), first)
    assert (sample_future_commands(rewards, rewards, dones, rows, seed=generator) != first).any()


def test_rows_of_a_ring_that_has_come_round() -> None:
    float32, boolean = np.dtype(np.float32), np.dtype(np.bool_)
    store = RowStore({"rewards": ((), float32), "flags": ((4,), boolean)}, capacity=10)
    number = 0
    while number < 4 or store.first_rows[-1] > store.first_rows[0]:
        number += 1
        episode = Episode(
            obs=np.zeros((3, 1)), actions=np.zeros((3, 1)), rewards=np.arange(3.0) + number, terminated=True
        )
        store.append({"rewards": episode.rewards}, {}, EpisodeBlock.of(episode))
    assert store.num_episodes == 3
    rewards = store.columns["rewards"].copy()
    is_step = store.columns["flags"][:, 2].copy()
    live = np.zeros(len(rewards), dtype=bool)
    for row, steps in zip(store.first_rows, store.steps, strict=True):
        live[row : row + steps] = True
    rewards[~live] = np.nan  # what lies between episodes may be anything
    assert (live <= is_step).all()
    commands = commands_of_rows(rewards, store.first_rows, store.steps)
    assert (commands[~live] == 0).all()
    for row in store.first_rows:
        low = rewards[row]
        np.testing.assert_array_equal(commands[row : row + 3], [[3, 3 * low + 3], [2, 2 * low + 3], [1, low + 2]])


def test_a_million_transitions_take_no_loop() -> None:
    rewards, dones = _flat([200] * 5_000)
    start = time.process_time()
    compute_hindsight_commands(rewards, dones)
    assert time.process_time() - start < 1.0  # 0.02 s; a Python loop over the steps takes longer than this


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dones": [0, 1]}, "one flag for each reward"),
        ({"states": np.zeros((5, 2))}, "states has 5 rows, but rewards has 6"),
        ({"batch_indices": [6]}, "from 0 to 5"),
        ({"batch_indices": [-1]}, "from 0 to 5"),
        ({"batch_indices": [0.5]}, "whole numbers"),
        ({"rewards": [np.nan] * 6}, "NaN|nan"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict, message: str) -> None:
    given = {"states": REWARDS, "rewards": REWARDS, "dones": DONES, "batch_indices": [0]}
    with pytest.raises(DataError, match=message):
        sample_future_commands(**(given | arguments), seed=0)
