"""ReplayLog: each episode is written once."""

from __future__ import annotations

import numpy as np

from worldline.data.replay_log import ReplayLog
from worldline.episode import DataSpec, Episode

SPEC = DataSpec(obs_shape=(2,), action_dim=2, action_type="discrete", action_sizes=(2,))


def episode(number):
    return Episode(
        obs=np.full((3, 2), number, np.float32),
        actions=np.eye(2, dtype=np.float32)[[0, 1, 0]],
        rewards=np.full(3, number, np.float32),
        terminated=number % 2 == 0,
        truncated=number % 2 == 1,
        final_obs=np.full(2, number + 0.5, np.float32),
        meta={"seed": number},
    )


def test_only_new_episodes_are_written(tmp_path):
    log = ReplayLog(tmp_path / "replay", SPEC)
    assert log.save() == []
    for number in range(3):
        log.add(episode(number))
    first = log.save()
    written = (tmp_path / "replay" / first[0]["file"]).stat().st_mtime_ns
    assert log.save() == first
    log.add(episode(3))
    both = log.save()
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
    files = log.save()
    log.add(episode(1))
    log.save()
    resumed = ReplayLog(tmp_path, SPEC)
    assert len(list(resumed.load(files))) == 1
    resumed.add(episode(1))
    resumed.add(episode(2))
    read = list(ReplayLog(tmp_path, SPEC).load(resumed.save()))
    assert [item.meta["seed"] for item in read] == [0, 1, 2]
