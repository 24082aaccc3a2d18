"""Dtypes, actions and endings, as callers pass them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.data.encode import convert, encode_actions, encode_ending, infer_action_sizes, settle_obs_dtype
from worldline.errors import DataError

ONE_HOT = [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("actions", "action_dim", "sizes"),
    [
        ([1, 0, 2], 3, (3,)),
        ([[1], [0], [2]], 3, (3,)),
        (np.array([[1.0], [0.0], [2.0]]), 3, (3,)),  # as [action] next to float observations ends up
        ([True, False], 2, (2,)),
        (ONE_HOT, 3, (3,)),
        (np.array(ONE_HOT, np.float32), 3, (3,)),
        ([[0.5, 0.5, 0.0]], 3, ()),
        ([[1.0, 1.0, 0.0]], 3, ()),
        ([[3], [4]], 1, ()),  # one value, of which there is no choice to make
        ([0.5, 0.2], 1, ()),
    ],
)
def test_action_sizes_are_inferred(actions: Any, action_dim: int, sizes: tuple[int, ...]) -> None:
    assert infer_action_sizes(np.asarray(actions), action_dim) == sizes


@pytest.mark.parametrize(
    ("actions", "sizes", "expected"),
    [
        ([1, 0, 2], (3,), ONE_HOT),
        ([[1.0], [0.0], [2.0]], (3,), ONE_HOT),
        (ONE_HOT, (3,), ONE_HOT),
        ([[1, 0], [0, 2]], (2, 3), [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        ([[0, 1, 1, 0, 0]], (2, 3), [[0, 1, 1, 0, 0]]),
        ([True, False], (2,), [[0, 1], [1, 0]]),
    ],
)
def test_discrete_actions_become_one_hot(actions: Any, sizes: tuple[int, ...], expected: Any) -> None:
    encoded = encode_actions(np.asarray(actions), action_dim=sum(sizes), action_sizes=sizes)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, expected)


@given(st.lists(st.integers(2, 5), min_size=1, max_size=4), st.integers(1, 6), st.randoms())
def test_one_hot_is_undone_by_argmax(sizes: list[int], steps: int, random: Any) -> None:
    indices = np.array([[random.randrange(size) for size in sizes] for _ in range(steps)])
    encoded = encode_actions(indices, action_dim=sum(sizes), action_sizes=tuple(sizes))
    groups = np.split(encoded, np.cumsum(sizes)[:-1], axis=1)
    np.testing.assert_array_equal(np.stack([group.argmax(axis=1) for group in groups], axis=1), indices)
    assert (encoded.sum(axis=1) == len(sizes)).all()


@pytest.mark.parametrize(
    ("actions", "action_dim", "sizes", "message"),
    [
        ([0, 3], 3, (3,), "index 3"),
        ([0, -1], 3, (3,), "index -1"),
        ([[0.5]], 3, (3,), "fractions such as 0.5"),
        ([[0.5, 0.5, 0.0]], 3, (3,), "not one-hot"),
        ([[1, 1, 0]], 3, (3,), "not one-hot"),
        ([[1, 2]], 3, (), r"expected \[T, 3\]\."),
        ([[1, 2, 0]], 5, (2, 3), r"or \[T, 2\] indices"),
        ([[0, 3]], 5, (2, 3), "index 3"),
    ],
)
def test_actions_that_do_not_fit_are_refused(
    actions: Any, action_dim: int, sizes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        encode_actions(np.asarray(actions), action_dim=action_dim, action_sizes=sizes)


@pytest.mark.parametrize("actions", [[[1, 2]], [[1, 2, 0]]])
def test_actions_that_could_mean_anything_are_refused(actions: Any) -> None:
    with pytest.raises(DataError, match="action_sizes"):
        infer_action_sizes(np.asarray(actions), 3)


T, F = True, False


@pytest.mark.parametrize(
    ("dones", "terminated", "truncated", "expected"),
    [
        ([0, 0, 1], None, None, (T, F)),
        ([0, 0, 0], None, None, (F, T)),
        ([0.0, 0.0, 1.0], None, None, (T, F)),
        (T, None, None, (T, F)),
        (None, T, None, (T, F)),
        (None, None, T, (F, T)),
        (None, F, F, (F, F)),
        (None, T, T, (T, T)),
        (None, [F, F, T], [F, F, F], (T, F)),
        ([0, 0, 1], F, None, (F, T)),
        ([0, 0, 1], None, F, (T, F)),
        ([0, 0, 1], None, T, (F, T)),
        ([0, 0, 1], T, F, (T, F)),
        ([0, 0, 0], F, None, (F, F)),
    ],
)
def test_endings(dones: Any, terminated: Any, truncated: Any, expected: tuple[bool, bool]) -> None:
    assert encode_ending(3, dones, terminated, truncated) == expected


@pytest.mark.parametrize(
    ("dones", "terminated", "truncated", "message"),
    [
        (None, None, None, "Say how the episode ended"),
        ([0, 1, 0], None, None, "row 1 of 3"),
        (None, [1, 0, 1], None, "split"),
        ([0, 1], None, None, "shape"),
        ([0, 0, 2], None, None, "other than 0 and 1"),
        ([0, 0, np.nan], None, None, "nan"),
        (["no", "no", "yes"], None, None, "dtype"),
        ([0, 0, 1], F, F, "dones ends with True"),
        ([0, 0, 0], T, None, "dones ends with False"),
    ],
)
def test_endings_that_contradict_are_refused(dones: Any, terminated: Any, truncated: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode_ending(3, dones, terminated, truncated)


@pytest.mark.parametrize(
    ("values", "dtype", "target"),
    [
        ([0.1, 0.2], np.float64, np.float32),
        ([0, 255], np.int64, np.uint8),
        ([0, 2**24], np.int64, np.float32),
        ([0, 255], np.uint8, np.float32),
        ([True, False], np.bool_, np.float32),
        ([0.5], ">f4", np.float32),
    ],
)
def test_conversion_keeps_values(values: Any, dtype: Any, target: Any) -> None:
    converted = convert("obs", np.array(values, dtype), np.dtype(target))
    assert converted.dtype == target
    np.testing.assert_allclose(converted, np.array(values, dtype).astype(float), rtol=1e-7)


@pytest.mark.parametrize(
    ("array", "target", "message"),
    [
        (np.array([0.0, 1.0]), np.uint8, "obs_dtype=np.float32"),
        (np.array([256]), np.uint8, "cannot hold"),
        (np.array([-1]), np.uint8, "cannot hold"),
        (np.array([2**24 + 1]), np.float32, "cannot hold"),
        (np.array([1e300]), np.float32, "beyond the range"),
        (np.zeros((2, 8, 8, 3), np.uint8), np.float32, "obs_dtype=np.uint8"),
    ],
)
def test_conversion_that_loses_values_is_refused(array: Any, target: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        convert("obs", array, np.dtype(target))


@pytest.mark.parametrize(
    ("dtype", "rank", "expected"),
    [(np.uint8, 4, np.uint8), (np.uint8, 2, np.float32), (np.float64, 4, np.float32), (np.int64, 2, np.float32)],
)
def test_only_images_stay_uint8(dtype: Any, rank: int, expected: Any) -> None:
    assert settle_obs_dtype(np.dtype(dtype), rank) == expected
