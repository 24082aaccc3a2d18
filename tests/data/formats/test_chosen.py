"""Some observations of a file, whatever its format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldline.data.buffer import ReplayBuffer
from worldline.data.dataset import Dataset
from worldline.data.loading import convert
from worldline.episode import Episode
from worldline.errors import DataError


@pytest.fixture
def buffer() -> ReplayBuffer:
    obs = {"image": np.full((4, 4, 4, 3), 7, np.uint8), "state": np.arange(8.0).reshape(4, 2), "goal": np.ones((4, 1))}
    episode = Episode(
        obs=obs,
        actions=np.ones((4, 2)),
        rewards=np.arange(4.0),
        terminated=True,
        final_obs={key: column[-1] + 1 for key, column in obs.items()},
        meta={"language": "go"},
    )
    return ReplayBuffer.from_episodes([episode, episode], action_dim=2)


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".zarr", ""])
def test_only_those_are_read(buffer: ReplayBuffer, tmp_path: Path, suffix: str) -> None:
    buffer.save(tmp_path / "a.npz")
    if suffix != ".npz":
        convert(tmp_path / "a.npz", tmp_path / f"a{suffix}")
    loaded = ReplayBuffer.load(tmp_path / f"a{suffix}", obs_keys=["state", "image"])
    assert loaded.spec.obs_shape == {"state": (2,), "image": (4, 4, 3)}
    for episode in loaded.episodes():
        assert isinstance(episode.obs, dict)
        assert isinstance(episode.final_obs, dict)
        assert episode.obs.keys() == episode.final_obs.keys() == {"state", "image"}
        assert episode.obs["image"].dtype == np.uint8
        assert episode.final_obs["state"].tolist() == [7, 8]
        assert (dict(episode.meta), episode.terminated) == ({"language": "go"}, True)
    convert(tmp_path / f"a{suffix}", tmp_path / "chosen", obs_keys=["goal"])
    assert Dataset(tmp_path / "chosen").spec.obs_shape == {"goal": (1,)}


def test_observations_that_are_not_there(buffer: ReplayBuffer, tmp_path: Path) -> None:
    buffer.save(tmp_path / "a.npz")
    for keys in (["stat"], [], ["state", "x"]):
        with pytest.raises(DataError, match=r"observations (\w+, ){2}\w+\. Give"):
            ReplayBuffer.load(tmp_path / "a.npz", obs_keys=keys)
    plain = Episode(obs=np.ones((2, 3)), actions=np.ones((2, 2)), rewards=np.ones(2), terminated=True)
    ReplayBuffer.from_episodes([plain], action_dim=2).save(tmp_path / "b.npz")
    with pytest.raises(DataError, match="without a name"):
        ReplayBuffer.load(tmp_path / "b.npz", obs_keys=["obs"])
