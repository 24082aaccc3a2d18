"""Conversions between spaces and rows, against numbers worked out by hand."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from worldline.envs.spaces import action_row_space, obs_space, spec_of, to_action_row, to_env_action, to_obs
from worldline.errors import DataError

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
ACTION_SPACES = [
    spaces.Discrete(4),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([[2, 3], [4, 2]]),
    spaces.Box(np.array([-2, 0], np.float32), np.array([2, 10], np.float32)),
    spaces.Box(-3, 5, (2, 2), np.float64),
]


def test_spec_of_each_action_space():
    assert spec_of(VECTOR, spaces.Discrete(4)).action_sizes == (4,)
    multi = spec_of(VECTOR, spaces.MultiDiscrete([[2, 3], [4, 2]]))
    assert (multi.action_type, multi.action_dim, multi.action_sizes) == ("multi_discrete", 11, (2, 3, 4, 2))
    box = spec_of(VECTOR, spaces.Box(-1, 1, (2, 2)))
    assert (box.action_type, box.action_dim, box.action_sizes) == ("continuous", 4, ())


def test_discrete_row_is_one_hot_from_the_start_of_the_space():
    space = spaces.Discrete(3, start=-1)
    assert to_env_action(np.array([0, 0, 1.0]), space) == 1
    assert to_env_action(np.array([1, 0, 0.0]), space) == -1


def test_multi_discrete_row_concatenates_one_hots():
    space = spaces.MultiDiscrete([2, 3])
    assert to_env_action(np.array([0, 1, 0, 0, 1.0]), space).tolist() == [1, 2]
    assert to_env_action(np.array([1, 0, 0, 1.0, 0]), space).tolist() == [0, 1]


def test_box_row_spans_the_box():
    space = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 10], np.float32))
    assert to_env_action(np.array([-1.0, 1.0]), space).tolist() == [-2, 10]
    assert to_env_action(np.array([0.5, 0.0]), space).tolist() == [1, 5]
    assert to_env_action(np.array([7.0, -7.0]), space).tolist() == [2, 0]


@pytest.mark.parametrize("space", ACTION_SPACES, ids=str)
def test_every_row_is_an_action_of_the_space(space):
    rows = action_row_space(space)
    rows.seed(0)
    for row in [*(rows.sample() for _ in range(20)), rows.low, rows.high]:
        assert space.contains(to_env_action(row, space))


@pytest.mark.parametrize("space", ACTION_SPACES, ids=str)
def test_bad_rows_are_refused(space):
    width = action_row_space(space).shape[0]
    with pytest.raises(DataError, match=rf"shape \({width},\); got \({width + 1},\)"):
        to_env_action(np.zeros(width + 1), space)
    with pytest.raises(DataError, match="not finite"):
        to_env_action(np.full(width, np.nan), space)


@pytest.mark.parametrize("space", [spaces.MultiBinary(3), spaces.Text(4)], ids=str)
def test_unsupported_actions_are_named(space):
    for convert in (action_row_space, lambda s: spec_of(VECTOR, s), lambda s: to_env_action(np.zeros(3), s)):
        with pytest.raises(DataError, match=type(space).__name__):
            convert(space)


def test_unbounded_box_cannot_be_scaled():
    with pytest.raises(DataError, match="no finite bounds"):
        spec_of(VECTOR, spaces.Box(-np.inf, np.inf, (2,)))


def test_images_stay_uint8_and_float64_becomes_float32():
    image = spaces.Box(0, 255, (4, 5, 3), np.uint8)
    assert obs_space(image) is image
    assert to_obs(np.zeros((4, 5, 3), np.uint8), image).dtype == np.uint8
    wide = spaces.Box(-1, 1, (2,), np.float64)
    assert obs_space(wide).dtype == np.float32
    assert to_obs(np.array([0.5, 1.0]), wide).dtype == np.float32


def test_dict_observations_keep_their_keys():
    space = spaces.Dict(image=spaces.Box(0, 255, (4, 4, 3), np.uint8), goal=spaces.Discrete(3))
    assert spec_of(space, spaces.Discrete(2)).obs_shape == {"goal": (3,), "image": (4, 4, 3)}
    obs = to_obs({"image": np.ones((4, 4, 3), np.uint8), "goal": 2}, space)
    assert obs["goal"].tolist() == [0, 0, 1]
    assert obs_space(space).contains(obs)


def test_discrete_and_tuple_observations_are_flattened():
    space = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)])
    assert to_obs((1, 0), space).tolist() == [0, 1, 1, 0, 0]
    assert spec_of(space, spaces.Discrete(2)).obs_shape == (5,)


def test_observations_without_a_fixed_shape_are_refused():
    with pytest.raises(DataError, match="no fixed array shape"):
        spec_of(spaces.Sequence(spaces.Discrete(2)), spaces.Discrete(2))


def test_every_space_here_is_checked_by_gymnasium():
    assert isinstance(action_row_space(gym.make("Pendulum-v1").action_space), spaces.Box)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=2),
        spaces.MultiDiscrete([2, 3, 4]),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.Box(-2.0, 2.0, (3,)),
        spaces.Box(np.array([[0.0], [-1.0]]), np.array([[10.0], [3.0]])),
    ],
    ids=str,
)
def test_rows_of_actions_lead_back_to_them(space):
    space.seed(0)
    for _ in range(10):
        action = space.sample()
        row = to_action_row(action, space)
        assert row.dtype == np.float32
        np.testing.assert_allclose(to_env_action(row, space), action, rtol=1e-6, atol=1e-6)


def test_rows_by_hand():
    np.testing.assert_array_equal(to_action_row(3, spaces.Discrete(3, start=2)), [0, 1, 0])
    np.testing.assert_array_equal(to_action_row([1, 0], spaces.MultiDiscrete([2, 3])), [0, 1, 1, 0, 0])
    np.testing.assert_array_equal(to_action_row([-2.0, 1.0], spaces.Box(-2.0, 2.0, (2,))), [-1.0, 0.5])


@pytest.mark.parametrize(
    ("action", "space"),
    [
        (3, spaces.Discrete(3)),
        (-1, spaces.Discrete(3)),
        (0.5, spaces.Discrete(3)),
        ([0, 1, 1], spaces.MultiDiscrete([2, 2])),
        ([1], spaces.MultiDiscrete([2, 2])),
        ([0.0], spaces.Box(-1, 1, (2,))),
    ],
)
def test_actions_that_are_not_of_the_space(action, space):
    with pytest.raises(DataError):
        to_action_row(action, space)
    with pytest.raises(DataError, match="not supported"):
        to_action_row("x", spaces.Text(3))
