"""The ring of rows: every window equals that of a plain list of episodes, whatever came and went before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.data.buffer import ReplayBuffer
from worldline.data.windows import Windows
from worldline.episode import Episode

FLAGS = ("terminations", "is_first", "step_mask", "obs_mask")


def make_episode(steps: int, start: float, *, terminated: bool, truncated: bool, has_final_obs: bool) -> Episode:
    """Return an episode whose observations, actions and rewards are numbers that occur nowhere else."""
    numbers = start + np.arange(steps + 1, dtype=np.float32)
    return Episode(
        obs=np.stack([numbers[:-1], -numbers[:-1]], axis=1),
        actions=np.stack([numbers[:-1] + 0.25, numbers[:-1] + 0.75, numbers[:-1]], axis=1),
        rewards=numbers[:-1] + 0.5,
        terminated=terminated,
        truncated=truncated,
        final_obs=np.array([numbers[-1], -numbers[-1]]) if has_final_obs else None,
    )


def naive_windows(episodes: list[Episode], seq_len: int) -> list[dict[str, Any]]:
    """Return every window in order, by the definition in `data.windows` and nothing else."""
    windows = []
    for episode in episodes:
        steps = len(episode)
        last = episode.obs[-1] if episode.final_obs is None else episode.final_obs
        rows = {
            "obs": [*episode.obs, last],
            "actions": [*episode.actions, np.zeros(3)],
            "rewards": [*episode.rewards, 0],
            "terminations": [False] * (steps - 1) + [episode.terminated, False],
            "is_first": [True] + [False] * steps,
            "step_mask": [True] * steps + [False],
            "obs_mask": [True] * steps + [episode.final_obs is not None],
        }
        for start in range(max(1, steps + 2 - seq_len)):
            window = {name: np.array(column[start : start + seq_len]) for name, column in rows.items()}
            missing = seq_len - len(window["rewards"])
            windows.append(
                {k: np.concatenate([v, np.zeros((missing, *v.shape[1:]), v.dtype)]) for k, v in window.items()}
            )
    return windows


def assert_windows_equal(buffer: ReplayBuffer, episodes: list[Episode], seq_len: int) -> None:
    """Compare every window of the buffer with the naive ones."""
    assert buffer._store is not None
    windows = Windows(buffer._store, seq_len)
    expected = naive_windows(episodes, seq_len)
    assert windows.num_starts == len(expected)
    got = windows.gather(windows.locate(np.arange(windows.num_starts)))
    got |= {name: got["flags"][..., index] for index, name in enumerate(FLAGS)}
    for name in expected[0]:
        np.testing.assert_array_equal(got[name], np.stack([window[name] for window in expected]), err_msg=name)


@settings(max_examples=150, deadline=None)
@given(
    capacity=st.integers(3, 40),
    lengths=st.lists(st.integers(1, 17), min_size=1, max_size=40),
    seq_lens=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    data=st.data(),
)
def test_windows_equal_those_of_a_list_of_episodes(
    capacity: int, lengths: list[int], seq_lens: list[int], data: st.DataObject
) -> None:
    buffer = ReplayBuffer(capacity, (2,), 3)
    kept: list[Episode] = []
    start = 1.0
    for length in lengths:
        steps = min(length, capacity)
        terminated, truncated, has_final_obs = data.draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
        episode = make_episode(steps, start, terminated=terminated, truncated=truncated, has_final_obs=has_final_obs)
        start += steps + 1
        buffer.add(episode)
        kept.append(episode)
        while sum(map(len, kept)) > capacity:
            kept.pop(0)
        if data.draw(st.booleans()):
            assert_windows_equal(buffer, kept, data.draw(st.sampled_from(seq_lens)))
    assert len(buffer) == buffer.num_transitions == sum(map(len, kept))
    assert buffer.num_episodes == len(kept)
    for got, expected in zip(buffer.episodes(), kept, strict=True):
        assert (got.terminated, got.truncated) == (expected.terminated, expected.truncated)
        assert (got.final_obs is None) == (expected.final_obs is None)
        np.testing.assert_array_equal(got.obs, expected.obs)
    for seq_len in seq_lens:
        assert_windows_equal(buffer, kept, seq_len)


def test_ring_goes_round_many_times() -> None:
    """Long enough for the ring to wrap in steady state, where it does not grow any more."""
    generator = np.random.default_rng(0)
    buffer = ReplayBuffer(500, (2,), 3)
    kept: list[Episode] = []
    start, rows = 1.0, []
    for count in range(600):
        steps = int(generator.integers(1, 60))
        kept.append(make_episode(steps, start, terminated=True, truncated=False, has_final_obs=True))
        start += steps + 1
        buffer.add(kept[-1])
        while sum(map(len, kept)) > 500:
            kept.pop(0)
        assert buffer._store is not None
        rows.append(buffer._store.num_rows)
        if count % 20 == 0:
            assert_windows_equal(buffer, kept, 7)
            assert_windows_equal(buffer, kept, 61)
    assert rows[-1] == rows[300], "the store must stop growing"
    assert rows[-1] < 2 * 500


def test_free_rows_are_counted_to_the_last() -> None:
    """Four-row episodes in a ring of ten rows; one row more than is free must not be given."""
    buffer = ReplayBuffer(100, (2,), 3)
    for start in (1, 10):
        buffer.add(make_episode(3, start, terminated=True, truncated=False, has_final_obs=True))
    store = buffer._store
    assert store is not None
    store._allocate(10)
    assert (store._free_row(2), store._free_row(3)) == (8, None)
    store._evict()  # rows 0 to 3 are free now, 4 to 7 are not
    assert (store._free_row(2), store._free_row(4), store._free_row(5)) == (8, 0, None)
    buffer.add(make_episode(2, 20, terminated=True, truncated=False, has_final_obs=True))
    assert store.first_rows.tolist() == [4, 0]
    assert (store._free_row(1), store._free_row(2)) == (3, None)


def test_memory_is_taken_as_it_is_needed() -> None:
    buffer = ReplayBuffer(1_000_000_000, (64, 64, 3), 2)  # 12 TB of images
    buffer.add_episode(np.zeros((10, 64, 64, 3), np.uint8), np.zeros(10, int), np.zeros(10), truncated=True)
    assert buffer._store is not None
    assert buffer._store.num_rows < 1000


@pytest.mark.parametrize("steps", [1, 100])
def test_columns_grow_geometrically(steps: int) -> None:
    buffer = ReplayBuffer(100_000, (1,), 1)
    sizes = set()
    for _ in range(20_000 // steps):
        buffer.add_episode(np.zeros((steps, 1)), np.zeros(steps), np.zeros(steps), truncated=True)
        assert buffer._store is not None
        sizes.add(buffer._store.num_rows)
    assert len(sizes) < 12
