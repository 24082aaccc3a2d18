from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from flowshield.training import CommandDataset, TrajectoryDataset, compute_hindsight_commands, sample_future_commands
from tiny_trajectories import LENGTHS, flat, trajectories
from worldline.data.buffer import ReplayBuffer
from worldline.episode import Episode
from worldline.errors import DataError


@pytest.fixture
def dataset(tmp_path: Path) -> TrajectoryDataset:
    np.savez(tmp_path / "data.npz", **flat(trajectories()))
    return TrajectoryDataset(str(tmp_path / "data.npz"))


def test_arrays_are_those_of_the_file(dataset: TrajectoryDataset):
    for name, column in flat(trajectories()).items():
        np.testing.assert_array_equal(getattr(dataset, name), column)
    assert len(dataset) == sum(LENGTHS)
    assert (dataset.state_dim, dataset.action_dim) == (4, 2)
    assert repr(dataset) == "TrajectoryDataset(9 transitions, 3 episodes)"
    np.testing.assert_array_equal(dataset.commands, compute_hindsight_commands(dataset.rewards, dataset.dones))


def test_batches_are_rows_with_their_commands(dataset: TrajectoryDataset):
    states, actions, commands = dataset.get_hindsight_batch(4000)
    assert (states.shape, actions.shape, commands.shape) == ((4000, 4), (4000, 2), (4000, 2))
    rows = torch.cdist(states, torch.from_numpy(dataset.states)).argmin(1).numpy()
    np.testing.assert_array_equal(actions, dataset.actions[rows])
    np.testing.assert_allclose(commands, dataset.commands[rows], atol=1e-5)
    counts = np.bincount(rows, minlength=9)
    assert (abs(counts - 4000 / 9) < 6 * np.sqrt(4000 / 9)).all(), counts  # all rows are equally likely, 6 deviations


def test_the_order_is_a_function_of_seed_and_step(dataset: TrajectoryDataset):
    first = [dataset.get_hindsight_batch(8)[0] for _ in range(3)]
    assert not torch.equal(first[0], first[1])
    dataset.seek(seed=0, step=1)
    states, commands = dataset.get_command_pairs(8)
    assert torch.equal(states, first[1])
    assert commands.shape == (8, 2)


def test_parts_and_statistics(dataset: TrajectoryDataset):
    learnt, held_out = dataset.split(0.3, seed=1)
    assert (learnt.buffer.num_episodes, held_out.buffer.num_episodes) == (2, 1)
    assert [len(episode) for episode in dataset.episodes()] == list(LENGTHS)
    np.testing.assert_allclose(dataset.statistics()["commands"].mean, dataset.commands.mean(0), rtol=1e-6)


def test_states_must_be_vectors():
    image = Episode(
        obs=np.zeros((2, 3, 3, 1), np.uint8), actions=np.zeros((2, 2)), rewards=np.zeros(2), terminated=True
    )
    with pytest.raises(DataError, match="expected vectors"):
        TrajectoryDataset.from_buffer(ReplayBuffer.from_episodes([image], action_dim=2))


def test_pairs_one_by_one(dataset: TrajectoryDataset):
    pairs = CommandDataset(dataset)
    assert len(pairs) == 9
    state, command = pairs[3]
    np.testing.assert_array_equal(state, dataset.states[3])
    np.testing.assert_array_equal(command, [1, dataset.rewards[3]])
    states, commands = next(iter(DataLoader(pairs, batch_size=4)))
    assert (states.shape, commands.shape) == ((4, 4), (4, 2))
    with pytest.raises(IndexError):
        pairs[9]


def test_future_commands_need_no_seed(dataset: TrajectoryDataset):
    rows = np.zeros(200, int)
    arguments = (dataset.states, dataset.rewards, dataset.dones, rows)
    seeded = [sample_future_commands(*arguments, seed=3) for _ in range(2)]
    np.testing.assert_array_equal(*seeded)
    assert set(sample_future_commands(*arguments)[:, 0]) == {1.0, 2.0, 3.0}
    assert not np.array_equal(sample_future_commands(*arguments), sample_future_commands(*arguments))
