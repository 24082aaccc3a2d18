"""ReplayLog: each episode is written once."""

from __future__ import annotations

import numpy as np
import pytest

from worldline.data.buffer import ReplayBuffer
from worldline.data.replay_log import ReplayLog
from worldline.episode import DataSpec, Episode
from worldline.errors import FileError

SPEC = DataSpec(obs_shape=(2,), action_dim=2, action_type="discrete", action_sizes=(2,))


def episode(number, steps=3):
    return Episode(
        obs=np.full((steps, 2), number, np.float32),
        actions=np.eye(2, dtype=np.float32)[np.arange(steps) % 2],
        rewards=np.full(steps, number, np.float32),
        terminated=number % 2 == 0,
        truncated=number % 2 == 1,
        final_obs=np.full(2, number + 0.5, np.float32),
        meta={"seed": number},
    )


def test_only_new_episodes_are_written(tmp_path):
    log = ReplayLog(tmp_path / "replay", SPEC)
    assert log.save(num_kept=0) == []
    for number in range(3):
        log.add(episode(number))
    first = log.save(num_kept=9)
    written = (tmp_path / "replay" / first[0]["file"]).stat().st_mtime_ns
    assert log.save(num_kept=9) == first
    log.add(episode(3))
    both = log.save(num_kept=9)
    assert [file["file"] for file in both] == ["episodes_00000000.npz", "episodes_00000003.npz"]
    assert (tmp_path / "replay" / both[0]["file"]).stat().st_mtime_ns == written
    read = list(ReplayLog(tmp_path / "replay", SPEC).load(both))
    for number, got in enumerate(read):
        expected = episode(number)
        for name in ("obs", "actions", "rewards", "final_obs"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
        assert (got.terminated, got.truncated, got.meta) == (expected.terminated, expected.truncated, expected.meta)


def test_what_came_after_the_checkpoint_is_written_again(tmp_path):
    log = ReplayLog(tmp_path, SPEC)
    log.add(episode(0))
    files = log.save(num_kept=9)
    log.add(episode(1))
    log.save(num_kept=9)
    resumed = ReplayLog(tmp_path, SPEC)
    assert len(list(resumed.load(files))) == 1
    resumed.add(episode(1))
    resumed.add(episode(2))
    read = list(ReplayLog(tmp_path, SPEC).load(resumed.save(num_kept=9)))
    assert [item.meta["seed"] for item in read] == [0, 1, 2]


def test_files_of_evicted_episodes_are_left_out(tmp_path):
    log, found = ReplayLog(tmp_path, SPEC), []
    for number in range(0, 8, 2):
        log.add(episode(number))
        log.add(episode(number + 1))
        found.append([file["file"][-5:-4] for file in log.save(num_kept=3)])
    # Of 8 episodes the last three are kept: 5, 6, 7. The last that was evicted is 4, in the file that begins with it.
    assert found == [["0"], ["0", "2"], ["2", "4"], ["4", "6"]]
    assert len(list(tmp_path.iterdir())) == 4
    resumed = ReplayLog(tmp_path, SPEC)
    files = log.save(num_kept=3)
    assert [item.meta["seed"] for item in resumed.load(files)] == [4, 5, 6, 7]
    resumed.add(episode(8))
    assert [file["file"][-5:-4] for file in resumed.save(num_kept=2)] == ["6", "8"]


@pytest.mark.parametrize("seed", range(20))
def test_the_files_that_are_left_make_the_same_buffer(tmp_path, seed):
    draws = np.random.default_rng(seed)
    offline = [episode(100 + index, int(draws.integers(1, 9))) for index in range(2)]

    def opened():
        return ReplayBuffer.from_episodes(offline, action_dim=2, action_sizes=(2,), capacity=20)

    buffer, log = opened(), ReplayLog(tmp_path, SPEC)
    for number in range(20):
        new = episode(number, int(draws.integers(1, 9)))
        buffer.add(new)
        log.add(new)
        if draws.random() < 0.4:
            resumed = opened()
            for saved in ReplayLog(tmp_path, SPEC).load(log.save(num_kept=buffer.num_episodes)):
                resumed.add(saved)
            assert [item.obs[0, 0] for item in resumed.episodes()] == [item.obs[0, 0] for item in buffer.episodes()]
    assert buffer.num_episodes < 20


def test_a_file_of_another_name_is_refused(tmp_path):
    log = ReplayLog(tmp_path, SPEC)
    log.add(episode(0))
    (file,) = log.save(num_kept=1)
    (tmp_path / file["file"]).rename(tmp_path / "others.npz")
    with pytest.raises(FileError, match=r"others\.npz is no file of episodes"):
        list(ReplayLog(tmp_path, SPEC).load([{**file, "file": "others.npz"}]))
