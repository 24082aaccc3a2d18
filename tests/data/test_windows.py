"""Order and uniformity of what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.batch import WindowSpec
from worldline.data.buffer import ReplayBuffer
from worldline.data.windows import Windows


def make_buffer(lengths: list[int], capacity: int = 10_000) -> ReplayBuffer:
    """Return a buffer whose observations number the rows of all episodes."""
    buffer = ReplayBuffer(capacity, (1,), 1)
    start = 0
    for steps in lengths:
        numbers = np.arange(start, start + steps + 1, dtype=np.float32)[:, None]
        buffer.add_episode(numbers[:-1], numbers[:-1], numbers[:-1, 0], terminated=True, final_obs=numbers[-1])
        start += steps + 1
    return buffer


@pytest.mark.parametrize("seq_len", [1, 4, 9])
def test_every_start_is_equally_likely(seq_len: int) -> None:
    """Chi-square over all starts; lengths above, at and below the window, so that nine rows pad some."""
    lengths = [20, 3, 8, 1, 13, 9]
    buffer = make_buffer(lengths)
    first_rows = np.cumsum([0, *[steps + 1 for steps in lengths[:-1]]])
    starts = [
        first + offset
        for first, steps in zip(first_rows, lengths, strict=True)
        for offset in range(max(1, steps + 2 - seq_len))
    ]
    drawn = np.concatenate([np.asarray(buffer.sample(64, seq_len).obs[:, 0, 0]) for _ in range(400)]).astype(int)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == starts
    expected = len(drawn) / len(starts)
    freedom = len(starts) - 1
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)  # mean and four standard deviations


@pytest.mark.parametrize("capacity", [54, 10_000])  # without a row to spare behind the last episode, and with many
@pytest.mark.parametrize("seq_len", [1, 2, 4, 30])
def test_with_padding_every_step_begins_a_window(seq_len: int, capacity: int) -> None:
    lengths = [20, 3, 8, 1, 13, 9]
    buffer = make_buffer(lengths, capacity)
    ends = np.cumsum([steps + 1 for steps in lengths]) - 1  # closing rows
    steps = np.setdiff1d(np.arange(ends[-1] + 1), ends)
    batches = [buffer.sample(64, seq_len, windows=WindowSpec(pad_end=True)) for _ in range(40)]
    starts = np.concatenate([np.asarray(batch.obs[:, 0, 0]) for batch in batches]).astype(int)
    values, counts = np.unique(starts, return_counts=True)
    assert values.tolist() == steps.tolist()
    assert counts.min() > 20
    assert counts.max() < 90  # 47 expected
    for batch in batches[:5]:
        for row, obs, step_mask, obs_mask in zip(
            batch.obs[:, 0, 0], batch.obs[:, :, 0], batch.step_mask, batch.obs_mask, strict=True
        ):
            end = ends[np.searchsorted(ends, int(row))]
            rows = torch.arange(int(row), int(row) + seq_len)
            assert torch.equal(obs_mask, rows <= end)
            assert torch.equal(step_mask, rows < end)
            assert torch.equal(obs, rows * (rows <= end))


def test_episodes_are_drawn_in_proportion_to_their_starts() -> None:
    """A sampler that is uniform over episodes would draw the short one half of the time."""
    buffer = make_buffer([999, 9])
    share = np.mean(np.asarray(buffer.sample(1000, 10).obs[:, 0, 0]) >= 1000)
    assert share < 0.02


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    step=st.integers(0, 1000),
    before=st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 12)), max_size=5),
    batch_size=st.sampled_from([1, 16, 2000]),
)
def test_order_depends_on_seed_and_step_alone(
    seed: int, step: int, before: list[tuple[int, int]], batch_size: int
) -> None:
    fresh, used = make_buffer([20, 3, 30]), make_buffer([20, 3, 30])
    for other_size, other_len in before:
        used.sample(other_size, other_len)
    fresh.seek(seed=seed, step=step)
    used.seek(seed=seed, step=step)
    for _ in range(3):
        assert (fresh.sample(batch_size, 5).obs == used.sample(batch_size, 5).obs).all()


def test_each_step_follows_the_one_before() -> None:
    buffer = make_buffer([200])
    buffer.seek(seed=7, step=60)
    in_a_row = [buffer.sample(4, 5).obs for _ in range(10)]  # across the end of a block of 64 steps
    for offset, expected in enumerate(in_a_row):
        buffer.seek(seed=7, step=60 + offset)
        assert (buffer.sample(4, 5).obs == expected).all()
    assert len({tuple(obs[:, 0, 0].tolist()) for obs in in_a_row}) == 10, "no two steps may be alike"


def test_seeds_differ() -> None:
    buffer = make_buffer([1000])
    firsts = []
    for seed in range(5):
        buffer.seek(seed=seed, step=0)
        firsts.append(tuple(buffer.sample(8, 2).obs[:, 0, 0].tolist()))
    assert len(set(firsts)) == 5


def test_order_does_not_depend_on_where_episodes_lie() -> None:
    """A buffer that has gone round and one that was just filled hold the same episodes, and draw the same."""
    round_and_round = make_buffer([5, 7, 9, 4, 8, 6, 9, 3, 8], capacity=20)
    fresh = ReplayBuffer.from_episodes(round_and_round.episodes(), action_dim=1)
    assert round_and_round.num_episodes == fresh.num_episodes < 9
    for _ in range(70):
        assert (round_and_round.sample(8, 4).obs == fresh.sample(8, 4).obs).all()


def test_adding_data_reaches_the_very_next_batch() -> None:
    buffer = make_buffer([5])
    buffer.sample(4, 2)
    buffer.add_episode(np.full((1000, 1), 77), np.zeros(1000), np.zeros(1000), truncated=True)
    assert (buffer.sample(64, 2).obs == 77).float().mean() > 0.9


def test_windows_belong_to_one_version_of_the_store() -> None:
    buffer = make_buffer([5])
    assert buffer._store is not None
    windows = Windows(buffer._store, 2)
    buffer.add_episode(np.zeros((2, 1)), np.zeros(2), np.zeros(2), truncated=True)
    assert windows.version != buffer._store.version


@pytest.mark.parametrize("capacity", [25, 10_000])  # without a row to spare, and with many
def test_windows_may_begin_before_the_episode(capacity: int) -> None:
    """Each row of each window by hand: rows before the episode repeat its first observation, and nothing else."""
    lengths = [20, 3, 1]
    buffer = make_buffer(lengths, capacity)
    spec = WindowSpec(pad_end=True, pad_start=2, commands=True)
    starts = {}
    for _ in range(30):
        batch = buffer.sample(32, 4, windows=spec)
        assert batch.commands is not None
        for i in range(32):
            real = batch.obs[i, :, 0][batch.step_mask[i]]
            before = int((~batch.step_mask[i]).long().cumprod(0).sum())
            first = int(real[0])
            starts[first - before] = starts.get(first - before, 0) + 1
            assert before <= 2
            if before:
                assert first in (0, 21, 25)
                assert batch.is_first[i].tolist() == [row == before for row in range(4)]
            assert (batch.obs[i, :before, 0] == first).all()
            assert not batch.obs_mask[i, :before].any()
            for column in (batch.actions[i, :, 0], batch.rewards[i], batch.commands[i, :, 0], batch.commands[i, :, 1]):
                assert not column[~batch.step_mask[i]].any()
            assert torch.equal(batch.actions[i, :, 0][batch.step_mask[i]], real)
            end = {0: 20, 21: 24, 25: 26}[max(row for row in (0, 21, 25) if row <= first)]
            assert torch.equal(batch.commands[i, :, 0][batch.step_mask[i]], end - real)
            assert batch.commands[i, before, 1] == sum(range(first, end))
    assert sorted(starts) == [*range(-2, 26)]  # 19 and 20 lie before the second episode, 23 and 24 before the third


def test_observations_of_the_first_rows_alone() -> None:
    buffer = make_buffer([20, 3, 8])
    whole = buffer.sample(16, 6, windows=WindowSpec(pad_end=True))
    buffer.seek(seed=0, step=0)
    part = buffer.sample(16, 6, windows=WindowSpec(pad_end=True, obs_rows=2))
    assert torch.equal(part.obs, whole.obs[:, :2])
    for name in ("actions", "rewards", "obs_mask", "step_mask"):
        assert torch.equal(part[name], whole[name])
