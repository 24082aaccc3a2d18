"""ReplayBuffer, as its users meet it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldline.batch import BatchRequest
from worldline.data.buffer import ReplayBuffer
from worldline.data.synthetic import create_random_buffer
from worldline.episode import DataSpec, Episode
from worldline.errors import ConfigError, DataError
from worldline.protocols import Sampler, Seekable


def add(buffer: ReplayBuffer, steps: int = 5, **changes: Any) -> None:
    """Add a plausible episode for a buffer with obs_shape (4,) and action_dim 2, with changes."""
    arguments = {
        "obs": np.zeros((steps, 4)),
        "actions": np.zeros(steps, int),
        "rewards": np.ones(steps),
        "terminated": True,
    }
    buffer.add_episode(**(arguments | changes))


@pytest.fixture
def buffer() -> ReplayBuffer:
    return ReplayBuffer(100, (4,), 2)


def test_it_is_what_the_trainer_asks_for(buffer: ReplayBuffer) -> None:
    assert isinstance(buffer, Sampler)
    assert isinstance(buffer, Seekable)


def test_both_ways_to_ask_for_a_batch_agree(buffer: ReplayBuffer) -> None:
    add(buffer, 60)
    first = buffer.sample(3, 5)
    buffer.seek(seed=0, step=0)
    second = buffer.sample(BatchRequest(batch_size=3, seq_len=5))
    assert first.obs.shape == second.obs.shape == (3, 5, 4)
    assert torch.equal(first.is_first, second.is_first)


def test_fifty_rows_where_none_are_asked_for(buffer: ReplayBuffer) -> None:
    add(buffer, 60)
    assert buffer.sample(2).sequence_length == 50


def test_batch_types(buffer: ReplayBuffer) -> None:
    add(buffer)
    batch = buffer.sample(2, 3)
    assert batch.obs.dtype == batch.actions.dtype == batch.rewards.dtype == torch.float32
    for name in ("terminations", "is_first", "step_mask", "obs_mask"):
        assert batch[name].dtype == torch.bool
        assert batch[name].shape == (2, 3)


@pytest.mark.parametrize("seq_len", [3, 8])
def test_a_batch_is_its_owners(buffer: ReplayBuffer, seq_len: int) -> None:
    """Later batches do not write into earlier ones, and writing into a batch does not reach the buffer."""
    add(buffer, 5, obs=np.arange(20).reshape(5, 4))
    kept = buffer.sample(4, seq_len)
    before = kept.obs.clone()
    buffer.sample(4, seq_len).obs.fill_(-1)
    assert torch.equal(kept.obs, before)
    buffer.seek(seed=0, step=0)
    assert torch.equal(buffer.sample(4, seq_len).obs, before)


def test_padding_of_a_short_episode(buffer: ReplayBuffer) -> None:
    add(buffer, 2, obs=np.ones((2, 4)), final_obs=np.full(4, 2.0))
    batch = buffer.sample(1, 5)
    assert batch.obs[0, :, 0].tolist() == [1, 1, 2, 0, 0]
    assert batch.actions[0].tolist() == [[1, 0], [1, 0], [0, 0], [0, 0], [0, 0]]
    assert batch.step_mask[0].tolist() == [True, True, False, False, False]
    assert batch.obs_mask[0].tolist() == [True, True, True, False, False]
    assert batch.is_first[0].tolist() == [True, False, False, False, False]
    assert batch.terminations[0].tolist() == [False, True, False, False, False]


def test_images_stay_uint8() -> None:
    buffer = ReplayBuffer(100, (8, 8, 3), 2)
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    add(buffer, 5, obs=images[:-1], final_obs=images[-1])
    batch = buffer.sample(1, 6)
    assert batch.obs.dtype == torch.uint8
    np.testing.assert_array_equal(batch.obs[0], images)


def test_dict_observations() -> None:
    buffer = ReplayBuffer(100, {"image": (8, 8, 3), "state": (3,)}, 2)
    obs = {"image": np.full((5, 8, 8, 3), 7, np.uint8), "state": np.ones((5, 3))}
    add(buffer, obs=obs, final_obs={key: value[-1] for key, value in obs.items()})
    batch = buffer.sample(2, 4)
    assert batch.obs["image"].dtype == torch.uint8
    assert batch.obs["state"].shape == (2, 4, 3)
    assert buffer.spec.obs_shape == {"image": (8, 8, 3), "state": (3,)}


def test_tutorial_actions() -> None:
    """`action_list.append([action])`, as the documents collect CartPole."""
    buffer = ReplayBuffer(100, (4,), 2)
    add(buffer, 3, actions=np.array([[0], [1], [1]]), terminated=None, dones=np.array([False, False, True]))
    assert buffer.sample(1, 3).actions[0].tolist()[-1] in ([0, 1], [0, 0])
    assert buffer.spec == DataSpec(obs_shape=(4,), action_dim=2, action_type="discrete", action_sizes=(2,))


def test_spec_of_continuous_and_multi_discrete() -> None:
    continuous = ReplayBuffer(100, (4,), 2, action_sizes=())
    assert continuous.spec.action_type == "continuous"
    several = ReplayBuffer(100, (4,), 5, action_sizes=(2, 3))
    assert several.spec.action_type == "multi_discrete"
    add(several, 2, actions=[[1, 2], [0, 0]])
    assert next(several.episodes()).actions.tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]


def test_spec_of_an_empty_buffer_is_unknown(buffer: ReplayBuffer) -> None:
    with pytest.raises(DataError, match="action_sizes"):
        _ = buffer.spec


def test_action_type_does_not_change_behind_the_back_of_a_model(buffer: ReplayBuffer) -> None:
    add(buffer)
    with pytest.raises(DataError, match=r"action_sizes=\(\)"):
        add(buffer, actions=np.full((5, 2), 0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs": np.zeros((5, 3))}, r"obs has shape \(5, 3\); expected \[T, 4\]"),
        ({"obs": np.zeros((4, 4))}, "obs has 4 rows, but rewards has 5"),
        ({"obs": np.full((5, 4), np.nan)}, "nan in row 0"),
        ({"obs": {"state": np.zeros((5, 4))}}, r"'obs\.state', which the buffer has not"),
        ({"rewards": np.array([0, 0, np.inf, 0, 0])}, "rewards has inf in row 2"),
        ({"rewards": np.zeros((5, 1))}, r"rewards\[:, 0\]"),
        ({"rewards": 1.0}, r"expected \[T\]"),
        ({"rewards": []}, "no steps"),
        ({"actions": np.full(5, 2)}, "index 2"),
        ({"final_obs": np.zeros(3)}, r"final_obs \(obs\) has shape \(3,\)"),
        ({"final_obs": np.full(4, np.nan)}, "final_obs"),
        ({"terminated": None}, "Say how the episode ended"),
        ({"terminated": None, "dones": [0, 1, 0, 0, 1]}, "split"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(
    buffer: ReplayBuffer, changes: dict[str, Any], message: str
) -> None:
    add(buffer)
    with pytest.raises(DataError, match=message):
        add(buffer, **changes)
    assert (buffer.num_episodes, len(buffer)) == (1, 5)
    assert buffer.sample(2, 3).obs.isfinite().all()


def test_a_refused_first_episode_settles_nothing() -> None:
    buffer = ReplayBuffer(100, (4,), 2)
    with pytest.raises(DataError):
        add(buffer, rewards=np.full(5, 1e300))
    add(buffer, actions=np.full((5, 2), 0.5))
    assert buffer.spec.action_type == "continuous"


def test_an_episode_longer_than_the_capacity_is_refused() -> None:
    with pytest.raises(DataError, match="larger capacity"):
        add(ReplayBuffer(4, (4,), 2))


def test_an_empty_buffer_has_nothing_to_give(buffer: ReplayBuffer) -> None:
    with pytest.raises(DataError, match="Add an episode"):
        buffer.sample(1, 1)
    with pytest.raises(DataError, match="nothing to save"):
        buffer.save("never-written.npz")
    assert list(buffer.episodes()) == []
    assert len(buffer) == buffer.num_episodes == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"capacity": 0},
        {"capacity": 1.5},
        {"action_dim": 0},
        {"obs_shape": 4},
        {"obs_shape": (0,)},
        {"obs_shape": {}},
        {"obs_dtype": object},
        {"obs_dtype": {"state": np.float32}},
        {"action_sizes": (3,)},
        {"action_sizes": (1, 1)},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ReplayBuffer(**({"capacity": 10, "obs_shape": (4,), "action_dim": 2} | settings))


@pytest.mark.parametrize("request_", [(0, 5), (5, 0), (-1, 5)])
def test_bad_requests_are_refused(buffer: ReplayBuffer, request_: tuple[int, int]) -> None:
    add(buffer)
    with pytest.raises(ConfigError, match="at least 1"):
        buffer.sample(*request_)


def test_seek_refuses_what_is_before_the_beginning(buffer: ReplayBuffer) -> None:
    with pytest.raises(ConfigError, match="from 0 on"):
        buffer.seek(seed=-1, step=0)


def test_obs_dtype_is_kept() -> None:
    buffer = ReplayBuffer(100, {"a": (4,), "b": (2,)}, 2, {"a": np.float64, "b": np.int16})
    add(buffer, obs={"a": np.full((5, 4), 0.1), "b": np.full((5, 2), -3)})
    obs = buffer.sample(1, 2).obs
    assert obs["a"].dtype == torch.float64
    assert obs["b"].dtype == torch.int16


def test_episodes_come_back_as_they_were_and_are_copies() -> None:
    buffer = ReplayBuffer(100, (4,), 2)
    episode = Episode(
        obs=np.random.default_rng(0).standard_normal((5, 4), dtype=np.float32),
        actions=np.random.default_rng(1).standard_normal((5, 2), dtype=np.float32),
        rewards=np.arange(5, dtype=np.float32),
        terminated=True,
        truncated=True,
        final_obs=np.ones(4, np.float32),
        meta={"seed": 3},
    )
    buffer.add(episode)
    (got,) = buffer.episodes()
    for name in ("obs", "actions", "rewards", "final_obs"):
        np.testing.assert_array_equal(getattr(got, name), getattr(episode, name))
    assert (got.terminated, got.truncated, got.meta) == (True, True, {"seed": 3})
    assert isinstance(got.obs, np.ndarray)
    got.obs[:] = 0
    assert np.array_equal(next(buffer.episodes()).obs, episode.obs)


def test_meta_goes_with_its_episode() -> None:
    buffer = ReplayBuffer(10, (1,), 1)
    for seed in range(7):
        zeros = np.zeros(4)
        buffer.add(Episode(obs=zeros[:, None], actions=zeros, rewards=zeros, terminated=True, meta={"seed": seed}))
    assert [episode.meta["seed"] for episode in buffer.episodes()] == [5, 6]


def test_from_episodes_needs_some() -> None:
    with pytest.raises(DataError, match="at least one"):
        ReplayBuffer.from_episodes([], action_dim=2)


def test_split_parts_the_episodes() -> None:
    buffer = create_random_buffer(1000, (1,), 2, num_episodes=20, episode_length=5)
    train, test = buffer.split(0.25, seed=3)
    assert (train.num_episodes, test.num_episodes) == (15, 5)

    def rewards(part: ReplayBuffer) -> set[tuple[float, ...]]:
        return {tuple(episode.rewards.tolist()) for episode in part.episodes()}

    assert rewards(train).isdisjoint(rewards(test))
    assert rewards(train) | rewards(test) == rewards(buffer)
    assert train.spec == test.spec == buffer.spec
    assert rewards(buffer.split(0.25, seed=3)[1]) == rewards(test)
    assert rewards(buffer.split(0.25, seed=4)[1]) != rewards(test)


def test_split_keeps_dicts_and_leaves_no_part_empty() -> None:
    buffer = create_random_buffer(100, {"a": (2,), "b": (4, 4, 1)}, 2, num_episodes=2, episode_length=5)
    for fraction in (0.01, 0.99):
        train, test = buffer.split(fraction)
        assert train.num_episodes == test.num_episodes == 1
        assert test.sample(1, 2).obs["b"].dtype == torch.uint8


def test_split_refuses_what_cannot_be_split(buffer: ReplayBuffer) -> None:
    add(buffer)
    with pytest.raises(DataError, match="at least two"):
        buffer.split(0.5)
    with pytest.raises(ConfigError, match="fraction"):
        buffer.split(2)


def test_repr_says_how_full_it_is(buffer: ReplayBuffer) -> None:
    add(buffer)
    assert "5 of 100 transitions, 1 episodes" in repr(buffer)


def test_batches_go_to_the_device_that_is_asked_for(buffer: ReplayBuffer) -> None:
    add(buffer)
    for device in ("meta", torch.device("meta")):
        batch = buffer.sample(2, 3, device=device)
        assert {batch.obs.device.type, batch.rewards.device.type, batch.step_mask.device.type} == {"meta"}
    assert buffer.sample(2, 3, device=torch.device("cpu")).device.type == "cpu"


def of_task(task: object, steps: int = 3) -> Episode:
    obs = np.zeros((steps, 1), dtype=np.float32)
    return Episode(obs=obs, actions=obs, rewards=obs[:, 0], terminated=False, truncated=True, meta={"task": task})


def test_batches_say_of_which_task_each_row_is(tmp_path: Path) -> None:
    buffer = ReplayBuffer(100, (1,), 1)
    for task, steps in ((2, 3), (0, 5), (1, 2)):
        episode = of_task(task, steps)
        buffer.add(dataclasses.replace(episode, obs=episode.obs + task, final_obs=np.full(1, task, np.float32)))
    buffer.save(tmp_path / "tasks.npz")
    for source in (buffer, ReplayBuffer.load(tmp_path / "tasks.npz"), buffer.split(0.5)[0]):
        batch = source.sample(16, 3)
        assert batch.extras["task"].shape == (16, 3)
        assert torch.equal(batch.extras["task"].float(), batch.obs[..., 0])


def test_no_task_no_extra() -> None:
    buffer = ReplayBuffer(100, (1,), 1)
    buffer.add(of_task("open the door"))
    assert not buffer.sample(2, 2).extras


@pytest.mark.parametrize(("first", "second"), [(1, None), (None, 1), (1, True), (1, -1)])
def test_every_episode_has_a_task_or_none(first: object, second: object) -> None:
    buffer = ReplayBuffer(100, (1,), 1)
    buffer.add(of_task(first))
    with pytest.raises(DataError, match="task"):
        buffer.add(of_task(second))
    assert buffer.num_episodes == 1
