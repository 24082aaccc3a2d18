"""Saving and loading buffers: exact for our files, sensible for those with the documented keys alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.formats.episodes import assert_equal_episodes
from worldline.data.buffer import ReplayBuffer
from worldline.data.formats import npz
from worldline.data.synthetic import create_random_buffer
from worldline.episode import Episode
from worldline.errors import DataError, FileError, WorldlineError


def documented(steps: int = 10, **changes: Any) -> dict[str, Any]:
    """Return the documented keys, with changes; None removes a key."""
    generator = np.random.default_rng(0)
    arrays = {
        "obs": generator.standard_normal((steps, 4)).astype(np.float32),
        "actions": generator.standard_normal((steps, 2)).astype(np.float32),
        "rewards": np.arange(steps, dtype=np.float32),
        "dones": (np.arange(steps) % 4 == 3).astype(np.float32),
        "obs_shape": np.array([4]),
        "action_dim": np.array(2),
    }
    return {key: value for key, value in (arrays | changes).items() if value is not None}


def load(path: Path, **changes: Any) -> ReplayBuffer:
    """Write the documented keys with NumPy and load them."""
    np.savez(path / "data.npz", **documented(**changes))
    return ReplayBuffer.load(path / "data.npz")


OBS = {
    "vector": ((3,), np.float32),
    "scalar": ((), np.float32),
    "image": ((4, 5, 3), np.uint8),
    "double": ((2,), np.float64),
    "dict": ({"image": (4, 4, 1), "a.b": (2,), "état": ()}, {"image": np.uint8, "a.b": np.int16, "état": np.bool_}),
}


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(OBS)),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    sizes=st.sampled_from([(), (4,), (2, 2)]),
    compress=st.booleans(),
    capacity=st.sampled_from([20, 10**12]),
    seed=st.integers(0, 1000),
)
def test_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    lengths: list[int],
    sizes: tuple[int, ...],
    compress: bool,
    capacity: int,
    seed: int,
) -> None:
    shape, dtype = OBS[kind]
    generator = np.random.default_rng(seed)
    buffer = ReplayBuffer(capacity, shape, 4, dtype, action_sizes=sizes)

    def random(rows: int, one_shape: Any, one_dtype: Any) -> Any:
        if one_dtype in (np.float32, np.float64):
            return generator.standard_normal((rows, *one_shape)).astype(one_dtype)
        return generator.integers(0, 2, (rows, *one_shape)).astype(one_dtype)

    for length in lengths:
        obs = (
            {key: random(length + 1, shape[key], dtype[key]) for key in shape}
            if isinstance(shape, dict)
            else random(length + 1, shape, dtype)
        )
        actions = np.stack([generator.integers(0, size, length) for size in sizes], axis=1) if sizes else None
        buffer.add(
            Episode(
                obs={key: value[:-1] for key, value in obs.items()} if isinstance(obs, dict) else obs[:-1],
                final_obs=None
                if generator.random() < 0.3
                else ({key: value[-1] for key, value in obs.items()} if isinstance(obs, dict) else obs[-1]),
                actions=generator.standard_normal((length, 4)) if actions is None else actions,
                rewards=generator.standard_normal(length),
                terminated=bool(generator.integers(2)),
                truncated=bool(generator.integers(2)),
                meta={"seed": int(generator.integers(9)), "task": "räum auf"} if generator.random() < 0.5 else {},
            )
        )
    path = tmp_path_factory.mktemp("round") / "buffer.npz"
    buffer.save(path, compress=compress)
    loaded = ReplayBuffer.load(path)
    assert_equal_episodes(loaded, buffer)
    assert loaded.spec == buffer.spec
    assert loaded.capacity == buffer.capacity
    for seq_len in (2, 6):
        first, second = buffer.sample(5, seq_len), loaded.sample(5, seq_len)
        assert all((first[name] == second[name]).all() for name in ("actions", "rewards", "is_first", "obs_mask"))
    again = path.with_name("again.npz")
    loaded.save(again, compress=compress)
    assert again.read_bytes() == path.read_bytes()


def test_blocks_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, with files that are larger than a piece."""
    monkeypatch.setattr(npz, "PIECE_BYTES", 100)
    buffer = create_random_buffer(10_000, {"a": (3,), "b": (4, 4, 3)}, 2, num_episodes=30, episode_length=7)
    buffer.save(tmp_path / "buffer.npz")
    assert_equal_episodes(ReplayBuffer.load(tmp_path / "buffer.npz"), buffer)


def test_others_find_the_documented_keys(tmp_path: Path) -> None:
    create_random_buffer(100, (4,), 2, num_episodes=3, episode_length=5).save(tmp_path / "buffer.npz")
    with np.load(tmp_path / "buffer.npz") as arrays:
        assert arrays["obs"].shape == (15, 4)
        assert arrays["actions"].shape == (15, 2)
        assert arrays["rewards"].shape == (15,)
        assert arrays["dones"].tolist() == [0, 0, 0, 0, 1] * 3
        assert (arrays["obs_shape"].tolist(), int(arrays["action_dim"]), int(arrays["capacity"])) == ([4], 2, 100)


def test_documented_keys_are_split_at_dones(tmp_path: Path) -> None:
    buffer = load(tmp_path)
    assert [len(episode) for episode in buffer.episodes()] == [4, 4, 2]
    assert [episode.terminated for episode in buffer.episodes()] == [True, True, False]
    assert [episode.truncated for episode in buffer.episodes()] == [False, False, True]
    assert all(episode.final_obs is None for episode in buffer.episodes())
    assert buffer.capacity == 10
    np.testing.assert_array_equal(np.concatenate([e.obs for e in buffer.episodes()]), documented()["obs"])


def test_terminations_in_place_of_dones(tmp_path: Path) -> None:
    flags = np.arange(10) == 4
    buffer = load(tmp_path, dones=None, terminations=flags, capacity=np.array(50))
    assert [(len(e), e.terminated) for e in buffer.episodes()] == [(5, True), (5, False)]
    assert buffer.capacity == 50


def test_terminations_next_to_dones_tell_them_apart(tmp_path: Path) -> None:
    buffer = load(tmp_path, dones=np.arange(10) % 5 == 4, terminations=np.arange(10) == 4)
    assert [(e.terminated, e.truncated) for e in buffer.episodes()] == [(True, False), (False, True)]


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({"actions": np.arange(10) % 2}, (2,)),
        ({"actions": (np.arange(10) % 2)[:, None].astype(np.float32)}, (2,)),
        ({"actions": np.eye(2, dtype=np.float32)[np.arange(10) % 2]}, (2,)),
        ({}, ()),
    ],
)
def test_type_of_actions_is_found(tmp_path: Path, changes: dict[str, Any], sizes: tuple[int, ...]) -> None:
    assert load(tmp_path, **changes).spec.action_sizes == sizes


def test_images_and_column_major_arrays(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)
    buffer = load(tmp_path, obs=np.asfortranarray(images), obs_shape=np.array([4, 4, 3]))
    np.testing.assert_array_equal(np.concatenate([e.obs for e in buffer.episodes()]), images)


def test_what_is_not_known_is_not_read(tmp_path: Path) -> None:
    assert load(tmp_path, infos=np.array([{"a": 1}], dtype=object)).num_episodes == 3


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"obs": None}, FileError, "lacks obs"),
        ({"dones": None}, FileError, "lacks dones"),
        ({"action_dim": None}, FileError, "lacks action_dim"),
        ({"obs": np.zeros((10, 4), object)}, FileError, r"'obs' holds Python objects.*np\.asarray\(obs"),
        ({"dones": np.array(["no"] * 10)}, FileError, "'dones' has dtype"),
        ({"actions": np.zeros((9, 2))}, DataError, "actions has shape"),
        ({"rewards": np.zeros((10, 1))}, DataError, "rewards has shape"),
        ({"dones": np.zeros(11)}, DataError, "dones has shape"),
        ({"dones": np.full(10, 2)}, DataError, "other than 0 and 1"),
        ({"dones": np.full(10, np.nan)}, DataError, "other than 0 and 1"),
        ({"obs": np.full((10, 4), np.nan)}, DataError, "obs has nan in row 0"),
        ({"rewards": np.r_[np.zeros(9), np.inf]}, DataError, "rewards has inf in row 9"),
        ({"actions": np.full((10, 2), -np.inf)}, DataError, "actions has -inf"),
        ({"obs_shape": np.array([5])}, DataError, "obs_shape"),
        ({"obs_shape": np.array(4)}, DataError, "obs_shape"),
        ({"action_dim": np.array(3)}, DataError, "action_dim is 3"),
        ({"action_dim": np.array(0)}, DataError, "at least 1"),
        ({"action_dim": np.array(np.nan)}, DataError, "whole number"),
        ({"action_dim": np.array([2, 2])}, DataError, "whole number"),
        ({"capacity": np.array(9)}, DataError, "capacity 9"),
        ({"steps": 0}, DataError, "no steps"),
        ({"actions": np.arange(10), "action_dim": np.array(10**12)}, FileError, "the limit is"),
        ({"actions": np.full(10, 7)}, DataError, "index 7"),
        ({"obs": np.zeros((10, 0, 4)), "obs_shape": np.array([0, 4])}, DataError, "at least 1"),
        ({"worldline_format": np.array(1)}, FileError, "lacks episode_ends"),
    ],
)
def test_data_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Any], kind: type[WorldlineError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        load(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"worldline_format": np.array(2)}, "Update Worldline"),
        ({"episode_ends": np.array([5, 5, 15])}, "grow up to 15"),
        ({"episode_ends": np.array([5, 10, 16])}, "grow up to 15"),
        ({"episode_ends": np.array([0, 10, 15])}, "grow up to 15"),
        ({"episode_ends": np.array([7, 10, 15])}, "disagree"),
        ({"episode_ends": np.array([15])}, "expected"),
        ({"truncated": np.zeros(4, bool)}, "truncated has shape"),
        ({"final_obs": np.zeros((3, 5), np.float32)}, "final_obs has shape"),
        ({"final_obs": np.full((3, 4), np.nan)}, "final_obs has nan"),
        ({"action_sizes": np.array([3])}, "action_sizes"),
        ({"action_sizes": np.array(2)}, "action_sizes"),
        ({"action_sizes": np.array([1.5, 0.5])}, "action_sizes"),
        ({"meta": np.frombuffer(b"[{}, {}]", np.uint8)}, "list of 3"),
        ({"meta": np.frombuffer(b"[" * 100_000, np.uint8)}, "not JSON"),
        ({"meta": np.zeros(3 << 20, np.uint8)}, "too long"),
    ],
)
def test_our_own_keys_are_not_trusted_either(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "buffer.npz"
    create_random_buffer(100, (4,), 2, num_episodes=3, episode_length=5).save(path)
    with np.load(path) as arrays:
        np.savez(path.with_name("changed.npz"), **(dict(arrays) | changes))
    with pytest.raises(WorldlineError, match=message):
        ReplayBuffer.load(path.with_name("changed.npz"))


def test_meta_that_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    buffer = ReplayBuffer(10, (1,), 1)
    zeros = np.zeros(2)
    buffer.add(Episode(obs=zeros[:, None], actions=zeros, rewards=zeros, terminated=True, meta={"env": object()}))
    with pytest.raises(DataError, match="JSON"):
        buffer.save(tmp_path / "buffer.npz")
    assert list(tmp_path.iterdir()) == []


def test_saving_fails_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that breaks off leaves the old file and no other."""
    buffer = create_random_buffer(100, (4,), 2, num_episodes=3, episode_length=5)
    path = tmp_path / "buffer.npz"
    buffer.save(path)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(FileError, match="No space left"):
        buffer.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    buffer = create_random_buffer(100, (4,), 2, num_episodes=3, episode_length=5)
    with pytest.raises(FileError, match="cannot be written"):
        buffer.save(tmp_path / "nowhere" / "buffer.npz")
