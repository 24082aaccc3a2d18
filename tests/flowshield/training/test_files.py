from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowshield.training.files import read_buffer
from tiny_trajectories import LENGTHS, flat, trajectories
from worldline.data.buffer import ReplayBuffer
from worldline.errors import DataError, FileError


def write(path: Path, data: Any) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **data)
    else:
        path.write_bytes(pickle.dumps(data))
    return path


def assert_holds(buffer: ReplayBuffer, parts: list[dict[str, Any]]) -> None:
    episodes = list(buffer.episodes())
    assert [len(episode) for episode in episodes] == [len(part["rewards"]) for part in parts]
    for episode, part in zip(episodes, parts, strict=True):
        np.testing.assert_array_equal(episode.obs, part["states"][: len(part["rewards"])])
        np.testing.assert_array_equal(episode.rewards, part["rewards"])
        assert episode.terminated


LAYOUTS = {
    "flat.npz": flat,
    "flat.pkl": flat,
    "list.pkl": list,
    "saved by the original.pkl": lambda parts: {"trajectories": parts, "statistics": {"return_mean": 1.0}},
    "as lists.pkl": lambda parts: [{name: column.tolist() for name, column in part.items()} for part in parts],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_episodes(tmp_path: Path, name: str):
    parts = trajectories()
    buffer = read_buffer(write(tmp_path / name, LAYOUTS[name](parts)))
    assert_holds(buffer, parts)
    assert buffer.spec.action_type == "continuous"
    np.testing.assert_array_equal(next(buffer.episodes()).actions, parts[0]["actions"])


def test_worldline_s_own_file(tmp_path: Path):
    parts = trajectories()
    own = read_buffer(write(tmp_path / "flat.npz", flat(parts)))
    own.save(tmp_path / "own.npz")
    assert_holds(read_buffer(tmp_path / "own.npz"), parts)


def test_further_keys_are_not_read(tmp_path: Path):
    """The original's files name the environment, in text, and more."""
    extra = {"env_name": np.array("lunarlander"), "seed": np.array(1), "objects": np.array([{}], dtype=object)}
    buffer = read_buffer(write(tmp_path / "flat.npz", flat(trajectories()) | extra))
    assert buffer.num_episodes == len(LENGTHS)


def test_the_name_does_not_decide_what_a_file_is(tmp_path: Path):
    path = write(tmp_path / "list.pkl", trajectories())
    assert read_buffer(path.rename(tmp_path / "data.npz")).num_episodes == len(LENGTHS)


def test_the_last_episode_may_be_unfinished(tmp_path: Path):
    parts = trajectories((2, 3))
    parts[1]["dones"][-1] = False
    for data in (parts, flat(parts)):
        first, last = read_buffer(write(tmp_path / "data.pkl", data)).episodes()
        assert (first.terminated, first.truncated) == (True, False)
        assert (last.terminated, last.truncated) == (False, True)


def test_final_observations_are_kept(tmp_path: Path):
    parts = trajectories((2, 3))
    longer = [part | {"states": np.concatenate([part["states"], np.full((1, 4), 7.0, np.float32)])} for part in parts]
    for episode in read_buffer(write(tmp_path / "a.pkl", longer)).episodes():
        assert episode.final_obs is not None
        np.testing.assert_array_equal(episode.final_obs, np.full(4, 7.0))
    following = flat(parts) | {"next_states": np.arange(20, dtype=np.float32).reshape(5, 4)}
    finals = [episode.final_obs for episode in read_buffer(write(tmp_path / "b.npz", following)).episodes()]
    np.testing.assert_array_equal(finals, [[4, 5, 6, 7], [16, 17, 18, 19]])


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_whole_numbers_are_choices(tmp_path: Path, shape: tuple[int, ...]):
    data = flat(trajectories()) | {"actions": np.array([0, 2, 1, 0, 0, 1, 2, 2, 0]).reshape(shape)}
    buffer = read_buffer(write(tmp_path / "data.npz", data))
    assert (buffer.spec.action_type, buffer.spec.action_dim) == ("discrete", 3)
    np.testing.assert_array_equal(next(buffer.episodes()).actions, np.eye(3)[[0, 2, 1]])


def test_one_number_is_continuous(tmp_path: Path):
    data = flat(trajectories()) | {"actions": np.linspace(-1, 1, 9)}
    assert read_buffer(write(tmp_path / "data.npz", data)).spec.action_type == "continuous"


def test_one_hot_rows_are_choices_only_if_all_are(tmp_path: Path):
    one_hot = np.eye(2, dtype=np.float32)[[0, 1, 0, 0, 1, 1, 0, 1, 0]]
    spec = read_buffer(write(tmp_path / "a.npz", flat(trajectories()) | {"actions": one_hot})).spec
    assert spec.action_type == "discrete"
    one_hot[-1] = 0.5
    spec = read_buffer(write(tmp_path / "b.npz", flat(trajectories()) | {"actions": one_hot})).spec
    assert spec.action_type == "continuous"


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "a key is missing.npz": ({"states": np.zeros((2, 4)), "rewards": np.zeros(2)}, FileError, "lacks actions, dones"),
    "another file.npz": ({"x": np.zeros(2)}, FileError, "lacks obs"),
    "a key of one is missing.pkl": ([{"states": np.zeros((2, 4))}], FileError, "trajectory 0 lacks actions"),
    "no trajectories.pkl": ([], FileError, "holds a list"),
    "a number.pkl": (3, FileError, "holds a int"),
    "numbers.pkl": ([1, 2], FileError, "trajectory 0 is a int, not a dict"),
    "other lengths.npz": (flat(trajectories()) | {"dones": np.zeros(3)}, DataError, "different numbers of rows"),
    "no rows.npz": ({name: column[:0] for name, column in flat(trajectories()).items()}, DataError, "numbers of rows"),
    "a done in the middle.pkl": ([trajectories((3,))[0] | {"dones": [1, 0, 1]}], DataError, "in episode 0, dones has"),
    "ragged.pkl": ([trajectories((2,))[0] | {"states": [[1.0], [1.0, 2.0]]}], DataError, "cannot become one array"),
    "nan.npz": (flat(trajectories()) | {"rewards": np.full(9, np.nan)}, DataError, "rewards has nan"),
    "text.pkl": ([trajectories((2,))[0] | {"rewards": ["a", "b"]}], DataError, "expected numbers"),
    "huge choices.npz": (flat(trajectories()) | {"actions": np.arange(9) * 10**6}, DataError, "up to 8,000,000"),
    "widths.pkl": ([part | {"actions": np.zeros((3, n))} for n, part in enumerate(trajectories((3, 3)), 1)], DataError,
                   "different widths"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(tmp_path: Path, name: str):
    data, kind, message = WRONG[name]
    with pytest.raises(kind, match=message):
        read_buffer(write(tmp_path / name, data))


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "text.npz").write_text("states")
    with pytest.raises(FileError, match=r"neither an \.npz file nor a pickle"):
        read_buffer(tmp_path / "text.npz")
    with pytest.raises(FileError, match="Cannot read"):
        read_buffer(tmp_path / "none.npz")
    with pytest.raises(FileError, match="Cannot read"):
        read_buffer(tmp_path)
