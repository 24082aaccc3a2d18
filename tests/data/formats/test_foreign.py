"""Files as other programs write them: what becomes of every key, and the row rule."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest

from data.formats.lerobot_files import png
from worldline.data.buffer import ReplayBuffer
from worldline.data.formats.catalog import detect_format, format_to_write, read_recording
from worldline.data.summary import summarise
from worldline.errors import ConfigError, DataError, FileError


def numbered(steps: int, width: int, start: float = 0.0) -> Any:
    """Return rows that say which row they are: row t is full of start + t."""
    return np.repeat(start + np.arange(steps, dtype=np.float64)[:, None], width, axis=1)


def hdf5(path: Path, fill: Callable[[h5py.File], Any]) -> Path:
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def simscaleai(file: h5py.File) -> None:
    for name, steps, language in (("episode_10", 2, "reach"), ("episode_00009", 3, None)):
        group = file.create_group(name)
        group["observations/joint_pos"] = numbered(steps, 7)
        group["observations/image"] = np.full((steps, 4, 4, 3), steps, np.uint8)
        group["observations/camera/wrist"] = np.full((steps, 2, 2, 3), 9, np.uint8)
        group["actions"], group["rewards"] = numbered(steps, 4, 100.0), np.arange(steps, dtype=np.float64)
        if language:
            group.attrs["language"] = language


def test_the_documented_hdf5(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "reach.h5", simscaleai)
    assert detect_format(path) == "hdf5"
    buffer = ReplayBuffer.load(path)
    shapes = {"joint_pos": (7,), "image": (4, 4, 3), "camera.wrist": (2, 2, 3)}
    assert buffer.spec.obs_shape == shapes
    assert (buffer.spec.action_type, buffer.spec.action_dim) == ("continuous", 4)
    first, second = buffer.episodes()
    assert (len(first), len(second)) == (3, 2)  # by number
    assert (dict(first.meta), dict(second.meta)) == ({}, {"language": "reach"})
    assert isinstance(first.obs, dict)
    assert first.obs["image"].dtype == np.uint8
    assert first.obs["joint_pos"][:, 0].tolist() == [0, 1, 2]
    assert first.actions[:, 0].tolist() == [100, 101, 102]
    assert (first.terminated, first.truncated, first.final_obs) == (False, True, None)


def test_discrete_actions_are_counted_over_all_episodes(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        for number, actions in enumerate(([0, 0], [2, 1, 0])):
            group = file.create_group(f"episode_{number}")
            group["observations/a"], group["actions"] = np.zeros((len(actions), 2)), np.array(actions)
            group["rewards"] = np.zeros(len(actions))

    spec = ReplayBuffer.load(hdf5(tmp_path / "a.h5", fill)).spec
    assert (spec.action_type, spec.action_dim) == ("discrete", 3)


def test_an_episode_with_other_observations_is_named(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        simscaleai(file)
        del file["episode_10/observations/image"]

    with pytest.raises(DataError, match="episode_10 has the observations"):
        ReplayBuffer.load(hdf5(tmp_path / "a.h5", fill))


def test_robomimic(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        for name, dones in (("demo_1", [0, 1, 1]), ("demo_0", [1, 0])):  # a success in between, and not at the end
            demo = file.create_group(f"data/{name}")
            steps = len(dones)
            demo["obs/eef"], demo["next_obs/eef"] = numbered(steps, 3), numbered(steps, 3, 1.0)
            demo["actions"], demo["dones"] = numbered(steps, 7), np.array(dones)
            demo["rewards"], demo["states"] = np.array(dones, np.float64), np.zeros((steps, 30))
            demo.attrs["num_samples"] = steps
        file["mask/train"] = np.array([b"demo_0"])

    path = hdf5(tmp_path / "can.hdf5", fill)
    assert detect_format(path) == "robomimic"
    first, second = ReplayBuffer.load(path).episodes()
    assert (len(first), first.terminated, first.truncated) == (2, False, True)
    assert (len(second), second.terminated, second.truncated) == (3, True, False)
    assert isinstance(second.final_obs, dict)
    assert second.final_obs["eef"].tolist() == [3, 3, 3]  # the last of next_obs


def test_d4rl(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        file["observations"], file["next_observations"] = numbered(9, 2), numbered(9, 2, 0.5)
        file["actions"], file["rewards"] = numbered(9, 3), np.arange(9.0)
        file["terminals"] = np.arange(9) == 2
        file["timeouts"] = np.arange(9) == 6
        file["infos/qpos"] = np.zeros((9, 5))

    path = hdf5(tmp_path / "hopper.hdf5", fill)
    assert detect_format(path) == "d4rl"
    episodes = list(ReplayBuffer.load(path).episodes())
    assert [len(episode) for episode in episodes] == [3, 4, 2]
    assert [episode.terminated for episode in episodes] == [True, False, False]
    assert [episode.truncated for episode in episodes] == [False, True, True]
    assert [episode.rewards.tolist() for episode in episodes] == [[0, 1, 2], [3, 4, 5, 6], [7, 8]]
    assert [np.asarray(episode.final_obs)[0] for episode in episodes] == [2.5, 6.5, 8.5]


def test_d4rl_with_columns_of_one(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        file["observations"], file["actions"] = numbered(4, 2), numbered(4, 1)
        file["rewards"] = np.arange(4.0)[:, None]
        file["terminals"] = np.array([[0], [1], [0], [0]])

    episodes = list(ReplayBuffer.load(hdf5(tmp_path / "a.hdf5", fill)).episodes())
    assert [episode.rewards.tolist() for episode in episodes] == [[0, 1], [2, 3]]
    assert [episode.terminated for episode in episodes] == [True, False]


def minari(path: Path, *, is_dict: bool = False, choices: int | None = None) -> Path:
    (path / "data").mkdir(parents=True)

    def fill(file: h5py.File) -> None:
        for number, steps in enumerate((3, 2)):
            group = file.create_group(f"episode_{number}")
            group["observations/agent/pos" if is_dict else "observations"] = numbered(steps + 1, 2)
            group["actions"] = np.zeros(steps, np.int64) if choices else numbered(steps, 2)
            group["rewards"] = np.arange(steps, dtype=np.float64)
            group["terminations"] = np.arange(steps) == (steps - 1 if number else 9)
            group["truncations"] = np.arange(steps) == (9 if number else steps - 1)
            group["infos/x"] = np.zeros(steps)
            group.attrs["seed"] = 40 + number

    hdf5(path / "data" / "main_data.hdf5", fill)
    if choices:
        space = json.dumps({"type": "Discrete", "n": choices, "start": 0})
        (path / "data" / "metadata.json").write_text(json.dumps({"action_space": space}))
    return path


@pytest.mark.parametrize("is_dict", [False, True])
def test_minari(tmp_path: Path, is_dict: bool) -> None:
    path = minari(tmp_path / "pen-human-v2", is_dict=is_dict)
    for given in (path, path / "data", path / "data" / "main_data.hdf5"):
        assert detect_format(given) == "minari"
    buffer = ReplayBuffer.load(path)
    assert buffer.spec.obs_shape == ({"agent.pos": (2,)} if is_dict else (2,))
    first, second = buffer.episodes()
    assert (first.terminated, first.truncated) == (False, True)
    assert (second.terminated, second.truncated) == (True, False)
    obs, final = (first.obs, first.final_obs)
    if isinstance(obs, dict) and isinstance(final, dict):
        obs, final = obs["agent.pos"], final["agent.pos"]
    assert np.asarray(obs)[:, 0].tolist() == [0, 1, 2]
    assert np.asarray(final).tolist() == [3, 3]  # the observation after the last step
    assert dict(second.meta) == {"seed": 41}


def test_minari_says_how_many_choices_there_are(tmp_path: Path) -> None:
    assert ReplayBuffer.load(minari(tmp_path / "a", choices=5)).spec.action_sizes == (5,)


SPACES: dict[str, tuple[dict[str, Any], list[Any], tuple[int, ...], list[list[float]]]] = {
    "from two on": ({"type": "Discrete", "n": 3, "start": 2}, [2, 4], (3,), [[1, 0, 0], [0, 0, 1]]),
    "several": (
        {"type": "MultiDiscrete", "nvec": [2, 3]},
        [[1, 0], [0, 2]],
        (2, 3),
        [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]],
    ),
    "several from one on": (
        {"type": "MultiDiscrete", "nvec": [2, 2], "start": [1, 0]},
        [[1, 0], [2, 1]],
        (2, 2),
        [[1, 0, 1, 0], [0, 1, 0, 1]],
    ),
    "switches": ({"type": "MultiBinary", "n": 2}, [[1, 0], [1, 1]], (2, 2), [[0, 1, 1, 0], [0, 1, 0, 1]]),
}


def minari_episode(path: Path, actions: Any, described: dict[str, Any], observations: dict[str, Any]) -> Path:
    """Write one episode of two steps."""
    path.mkdir(parents=True)

    def fill(file: h5py.File) -> None:
        group = file.create_group("episode_0")
        group["actions"], group["rewards"] = np.array(actions), np.zeros(2)
        group["terminations"], group["truncations"] = np.array([False, True]), np.zeros(2, bool)
        for key, (values, dtype) in observations.items():
            group.create_dataset(key, data=values, dtype=dtype, chunks=True)

    told = {key: json.dumps(space) if isinstance(space, dict) else space for key, space in described.items()}
    (path / "metadata.json").write_text(json.dumps(told))
    return hdf5(path / "main_data.hdf5", fill)


@pytest.mark.parametrize("name", SPACES)
def test_minari_says_what_discrete_actions_mean(tmp_path: Path, name: str) -> None:
    space, actions, sizes, one_hot = SPACES[name]
    path = minari_episode(tmp_path / "a", actions, {"action_space": space}, {"observations": (np.zeros((3, 2)), None)})
    buffer = ReplayBuffer.load(path)
    assert buffer.spec.action_sizes == sizes
    (episode,) = buffer.episodes()
    assert episode.actions.tolist() == one_hot


@pytest.mark.parametrize("is_ragged", [False, True])
@pytest.mark.parametrize("shape", [(40, 32, 3), (40, 32)])
def test_minari_stores_pictures_as_jpeg(tmp_path: Path, shape: tuple[int, ...], is_ragged: bool) -> None:
    pictures = [np.frombuffer(png(level, 40, 32, codec="mjpeg"), np.uint8) for level in (50, 120, 200)]
    longest = max(map(len, pictures))
    if is_ragged:
        column = np.empty(3, object)
        column[:] = pictures
        stored: Any = (column, h5py.vlen_dtype(np.uint8))
    else:
        stored = (np.stack([np.pad(picture, (0, longest - len(picture))) for picture in pictures]), np.uint8)
    space = {"type": "Dict", "subspaces": {"eye": {"type": "Box", "dtype": "uint8", "shape": shape}}}
    described = {"observation_space": space, "jpeg_encoding": True}
    texts = (["find the ball"] * 3, h5py.string_dtype())
    observations = {"observations/eye": stored, "observations/mission": texts}
    path = minari_episode(tmp_path / "a", np.ones((2, 1)), described, observations)
    buffer = ReplayBuffer.load(path)
    assert buffer.spec.obs_shape == {"eye": shape}
    (episode,) = buffer.episodes()
    assert isinstance(episode.obs, dict)
    assert isinstance(episode.final_obs, dict)
    levels = [int(picture.mean()) for picture in (*episode.obs["eye"], episode.final_obs["eye"])]
    assert levels == pytest.approx([50, 120, 200], abs=2)
    assert dict(episode.meta) == {"language": "find the ball"}
    if is_ragged:
        (path.with_name("metadata.json")).unlink()
        with pytest.raises(FileError, match="does not say that they are pictures"):
            ReplayBuffer.load(path)


def test_minari_with_pictures_that_are_no_jpeg(tmp_path: Path) -> None:
    space = {"type": "Box", "dtype": "uint8", "shape": [32, 32, 3]}
    raw = np.full((3, 32, 32, 3), 9, np.uint8)
    path = minari_episode(
        tmp_path / "a",
        np.ones((2, 1)),
        {"observation_space": space, "jpeg_encoding": True},
        {"observations": (raw, None)},
    )
    (episode,) = ReplayBuffer.load(path).episodes()
    assert np.asarray(episode.obs).tobytes() == raw[:2].tobytes()
    path = minari_episode(
        tmp_path / "b",
        np.ones((2, 1)),
        {"observation_space": space, "jpeg_encoding": True},
        {"observations": (np.zeros((3, 100), np.uint8), None)},
    )
    with pytest.raises(FileError, match="neither PNG nor JPEG"):
        ReplayBuffer.load(path)


def zarr(path: Path, compressor: Any, ends: list[int]) -> Path:
    """Write nine rows in chunks of four, as zarr would."""
    arrays = {
        "data/state": numbered(9, 2).astype(np.float32),
        "data/img": np.arange(9 * 12, dtype=np.uint8).reshape(9, 2, 2, 3),
        "data/action": numbered(9, 2, 50.0).astype(np.float32),
        "meta/episode_ends": np.array(ends),
    }
    for name, values in arrays.items():
        folder = path / name
        folder.mkdir(parents=True)
        rows = 4 if len(values) == 9 else len(values)
        header = {"zarr_format": 2, "shape": values.shape, "chunks": (rows, *values.shape[1:]), "order": "C"}
        codec = compressor.get_config() if compressor else None
        header |= {"dtype": values.dtype.str, "fill_value": 0, "filters": None, "compressor": codec}
        (folder / ".zarray").write_text(json.dumps(header))
        for number, start in enumerate(range(0, len(values), rows)):
            chunk = np.zeros((rows, *values.shape[1:]), values.dtype)
            chunk[: len(values[start : start + rows])] = values[start : start + rows]
            data = compressor.encode(chunk) if compressor else chunk.tobytes()
            (folder / ".".join([str(number), *["0"] * (values.ndim - 1)])).write_bytes(bytes(data))
    return path


COMPRESSORS = {
    "plain": None,
    "zlib": numcodecs.Zlib(),
    "gzip": numcodecs.GZip(),
    "blosc": numcodecs.Blosc("lz4", clevel=5, shuffle=1),
    "blosc zstd": numcodecs.Blosc("zstd", clevel=3, shuffle=2),
    "lz4": numcodecs.LZ4(),
    "zstd": numcodecs.Zstd(),
}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_zarr_of_diffusion_policy(tmp_path: Path, name: str) -> None:
    path = zarr(tmp_path / "pusht.zarr", COMPRESSORS[name], [3, 7])
    assert detect_format(path) == "zarr"
    with read_recording(path) as recording:
        assert recording.num_orphan_rows == 2
        assert summarise(recording).lengths.tolist() == [3, 4]
    first, second = ReplayBuffer.load(path).episodes()
    assert isinstance(first.obs, dict)
    assert isinstance(second.obs, dict)
    assert first.obs["state"][:, 0].tolist() == [0, 1, 2]
    assert second.obs["img"].reshape(4, -1).tobytes() == bytes(range(36, 84))
    assert second.actions[:, 0].tolist() == [53, 54, 55, 56]
    assert first.rewards.tolist() == [0, 0, 0]
    assert (first.terminated, first.truncated, first.final_obs) == (False, True, None)


def test_a_chunk_of_zarr_that_was_never_written_has_the_fill_value(tmp_path: Path) -> None:
    path = zarr(tmp_path / "a.zarr", COMPRESSORS["zlib"], [9])
    (path / "data" / "state" / "1.0").unlink()
    (episode,) = ReplayBuffer.load(path).episodes()
    assert isinstance(episode.obs, dict)
    assert episode.obs["state"][:, 0].tolist() == [0, 1, 2, 3, 0, 0, 0, 0, 8]


def test_a_chunk_of_zarr_with_bytes_after_its_end_is_refused(tmp_path: Path) -> None:
    path = zarr(tmp_path / "a.zarr", COMPRESSORS["zlib"], [9])
    (path / "data" / "state" / "0.0").write_bytes(zlib.compress(bytes(100)))
    with pytest.raises(FileError, match="does not hold 32 bytes"):
        ReplayBuffer.load(path)


def test_what_is_not_finite_is_refused_and_counted(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        simscaleai(file)
        file["episode_10/observations/joint_pos"][1, 2:4] = np.nan
        file["episode_10/rewards"][0] = np.inf

    path = hdf5(tmp_path / "a.h5", fill)
    with pytest.raises(DataError, match=r"episode 1 on: obs\.joint_pos has nan in row 1"):
        ReplayBuffer.load(path)
    with read_recording(path) as recording:
        found = summarise(recording)
    column = found.columns["obs.joint_pos"]
    assert column.num_not_finite == 2
    assert (column.low[2], column.mean[2], column.high[2]) == (0, 0.75, 2)  # of 0, 1, 2, 0 and not the NaN
    assert found.columns["rewards"].num_not_finite == 1
    assert found.columns["obs.camera.wrist"].high.max() == 9
    assert found.languages == {"reach": 1}
    assert found.lengths.tolist() == [3, 2]


def test_what_no_format_knows(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    hdf5(tmp_path / "a.h5", lambda file: file.create_group("weights"))
    (tmp_path / "new.zarr").mkdir()
    (tmp_path / "new.zarr" / "zarr.json").write_text("{}")
    (tmp_path / "a.zarr.zip").write_bytes(b"PK")
    cases = {
        "folder": "no format",
        "a.h5": "no layout",
        "missing": "does not exist",
        "new.zarr": "zarr_format=2",
        "a.zarr.zip": "Unpack it first",
    }
    for name, message in cases.items():
        with pytest.raises(FileError, match=message):
            read_recording(tmp_path / name)


def test_the_suffix_says_what_is_written() -> None:
    names = {"a": "columns", "a.npz": "npz", "a.h5": "hdf5", "a.hdf5": "hdf5", "a.zarr": "zarr"}
    assert {path: format_to_write(Path(path)) for path in names} == names
    assert format_to_write(Path("a.hdf5"), "robomimic") == "robomimic"
    for path, name, message in (("a.csv", None, "suffix"), ("a", "minari", "not written"), ("a", "hdf", "'hdf5'")):
        with pytest.raises(ConfigError, match=message):
            format_to_write(Path(path), name)
