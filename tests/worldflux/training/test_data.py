from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from worldflux.training import ReplayBuffer
from worldflux.training.data import create_random_buffer
from worldline.errors import ConfigError


def columns(num_rows: int = 20) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "obs": rng.normal(size=(num_rows, 4)).astype(np.float32),
        "actions": np.eye(2, dtype=np.float32)[rng.integers(0, 2, num_rows)],
        "rewards": np.arange(num_rows, dtype=np.float32),
    }


def ends(num_rows: int = 20) -> np.ndarray:
    return (np.arange(1, num_rows + 1) % 10 == 0).astype(np.float32)


SCHEMA = {"obs_shape": np.array([4]), "action_dim": np.array(2)}


@pytest.mark.parametrize("key", ["dones", "terminations"])
@pytest.mark.parametrize("capacity", [None, 500])
def test_every_form_of_the_file(tmp_path: Path, key: str, capacity: int | None):
    extra = {} if capacity is None else {"capacity": np.array(capacity)}
    np.savez(tmp_path / "data.npz", **columns(), **{key: ends()}, **SCHEMA, **extra)
    buffer = ReplayBuffer.load(tmp_path / "data.npz")
    assert (buffer.num_episodes, buffer.num_transitions, len(buffer)) == (2, 20, 20)
    assert buffer.capacity == (capacity or 20)
    assert [episode.terminated for episode in buffer.episodes()] == [True, True]


def test_what_is_written_has_the_documented_keys(tmp_path: Path):
    buffer = ReplayBuffer(capacity=100, obs_shape=(4,), action_dim=2)
    buffer.add_episode(**columns(10), dones=ends(10))
    buffer.save(tmp_path / "buffer.npz")
    with np.load(tmp_path / "buffer.npz", allow_pickle=False) as file:
        assert {"obs", "actions", "rewards", "dones", "obs_shape", "action_dim", "capacity"} <= set(file.files)
        assert file["obs"].shape == (10, 4)
        assert file["dones"].tolist() == ends(10).tolist()


def test_attributes_and_items_of_a_batch():
    batch = create_random_buffer(capacity=1000, obs_shape=(4,), action_dim=2, num_episodes=3, episode_length=20).sample(
        batch_size=4, seq_len=5, device="cpu"
    )
    assert batch["obs"] is batch.obs
    assert batch.obs.shape == (4, 5, 4)
    assert batch.actions.shape == (4, 5, 2)
    assert batch["rewards"].shape == batch.terminations.shape == (4, 5)
    assert batch.terminations.dtype == torch.bool


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    buffer = create_random_buffer(capacity=1000, obs_shape=(4,), action_dim=2, num_episodes=3, episode_length=20)
    with pytest.raises(ConfigError, match="'cuda' is not available here"):
        buffer.sample(batch_size=4, seq_len=5, device="cuda")
