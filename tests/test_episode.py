"""Episodes are checked at the door."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from worldline.episode import Episode, check_finite, named_obs, unnamed_obs
from worldline.errors import DataError


def make(**changes: Any) -> Episode:
    """Return an episode of three steps, with changes."""
    arguments: dict[str, Any] = {
        "obs": np.zeros((3, 4), np.float32),
        "actions": np.zeros((3, 2), np.float32),
        "rewards": np.zeros(3, np.float32),
        "terminated": True,
    }
    return Episode(**(arguments | changes))


def test_arrays_are_kept_without_a_copy() -> None:
    obs = np.zeros((3, 4), np.uint8)
    assert make(obs=obs).obs is obs


def test_lists_become_arrays() -> None:
    episode = make(obs=[[0.0], [1.0], [2.0]], actions=[0, 1, 0], rewards=[1, 2, 3], final_obs=[3.0])
    assert isinstance(episode.obs, np.ndarray)
    assert isinstance(episode.final_obs, np.ndarray)
    assert episode.actions.dtype.kind == "i"
    assert len(episode) == 3


def test_flags_become_booleans() -> None:
    episode = make(terminated=np.bool_(False), truncated=np.array(1.0))
    assert episode.terminated is False
    assert episode.truncated is True


def test_both_flags_may_be_set_and_none_may() -> None:
    assert make(terminated=True, truncated=True).truncated
    assert not make(terminated=False).truncated


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.zeros((3, 1))}, r"rewards\[:, 0\]"),
        ({"rewards": np.zeros((3, 2))}, r"expected \[T\]"),
        ({"rewards": []}, "no steps"),
        ({"rewards": ["a", "b", "c"]}, "dtype <U1"),
        ({"rewards": [0, 0, None]}, "dtype object"),
        ({"rewards": [0, 0, 1j]}, "complex"),
        ({"rewards": [0, 0, np.nan]}, "nan in row 2"),
        ({"actions": np.zeros(2)}, "actions has 2 rows"),
        ({"actions": np.zeros((3, 2, 2))}, r"expected \[T, A\]"),
        ({"actions": 1}, r"shape \(\)"),
        ({"actions": np.array([[0, 0], [0, -np.inf], [0, 0]])}, "-inf in row 1"),
        ({"obs": np.zeros((4, 4))}, "goes into final_obs"),
        ({"obs": 3.0}, "single number"),
        ({"obs": [[1, 2], [3], [4, 5]]}, "same shape"),
        ({"obs": {}}, "empty dict"),
        ({"obs": {"a/b": np.zeros((3, 1))}}, "without slashes"),
        ({"obs": {1: np.zeros((3, 1))}}, "key 1"),
        ({"obs": {"a\0": np.zeros((3, 1))}}, "printable"),
        ({"obs": {"a": np.zeros((3, 1)), "b": np.zeros((2, 1))}}, r"obs\.b has 2 rows"),
        ({"final_obs": np.zeros(3)}, r"expected \(4,\)"),
        ({"final_obs": {"a": np.zeros(4)}}, "both be dicts"),
        ({"final_obs": np.full(4, np.inf)}, "inf"),
        ({"terminated": [True, False]}, "whole episode"),
        ({"terminated": 2}, "True or False"),
        ({"terminated": None}, "True or False"),
        ({"terminated": np.nan}, "True or False"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("final_obs", "message"),
    [
        ({"state": np.zeros(1)}, "lacks 'obs.image'"),
        ({"state": np.zeros(1), "image": np.zeros(2), "stat": np.zeros(1)}, "Did you mean 'obs.state'"),
        (np.zeros(1), "both be dicts"),
    ],
)
def test_final_obs_has_the_keys_of_obs(final_obs: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(obs={"state": np.zeros((3, 1)), "image": np.zeros((3, 2))}, final_obs=final_obs)


@pytest.mark.parametrize("shape", [(5,), (3_000_000,), (2000, 1000)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_check_finite_finds_one_bad_number_anywhere(shape: tuple[int, ...], value: float) -> None:
    array = np.zeros(shape, np.float32)
    check_finite("x", array)
    row = shape[0] - 1
    array[(row, *[0] * (len(shape) - 1))] = value
    with pytest.raises(DataError, match=f"x has {value} in row {row + 10};"):
        check_finite("x", array, first_row=10)


def test_check_finite_takes_what_cannot_fail() -> None:
    check_finite("x", np.zeros((0, 3)))
    check_finite("x", np.zeros((3, 0)))
    check_finite("x", np.array(1.0))
    check_finite("x", np.array([1, 2]))
    with pytest.raises(DataError):
        check_finite("x", np.array(np.nan))


@pytest.mark.parametrize("obs", [np.zeros(3), {"a": np.zeros(3), "b.c": np.ones(2)}])
def test_names_are_undone(obs: Any) -> None:
    assert np.all(unnamed_obs(named_obs(obs)) == obs)


def test_observations_are_chosen_by_name():
    obs = {"a": np.zeros((2, 1)), "b": np.ones((2, 3))}
    episode = Episode(
        obs=obs, actions=[0, 1], rewards=[1.0, 1.0], terminated=True, final_obs={"a": np.zeros(1), "b": np.ones(3)}
    )
    chosen = episode.select_obs(["b"])
    assert list(chosen.obs) == list(chosen.final_obs) == ["b"]
    assert (chosen.terminated, len(chosen)) == (True, 2)
    with pytest.raises(DataError, match=r"no observation \'c\'\. Known: a, b"):
        episode.select_obs(["c"])
    with pytest.raises(DataError, match="no names"):
        Episode(obs=np.zeros((2, 1)), actions=[0, 1], rewards=[1.0, 1.0], terminated=True).select_obs(["a"])
