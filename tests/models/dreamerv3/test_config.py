from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from models.dreamerv3.tiny_dreamer import make_config
from worldline.errors import ConfigError
from worldline.models.dreamerv3 import SIZES, DreamerV3Config


def test_the_sizes_of_the_reference():
    """Each number of the reference's table is a multiple of the depth, but at size1m."""
    assert list(SIZES) == ["size1m", "size12m", "size25m", "size50m", "size100m", "size200m", "size400m"]
    assert SIZES["size1m"] == {"deter": 512, "hidden": 64, "classes": 4, "depth": 4, "units": 64}
    for name, depth in zip(list(SIZES)[1:], (16, 24, 32, 48, 64, 96), strict=True):
        expected = {"deter": 128 * depth, "hidden": 16 * depth, "classes": depth, "depth": depth, "units": 16 * depth}
        assert SIZES[name] == expected


def test_the_defaults_are_size12m():
    config = DreamerV3Config(obs_shape=(4,), action_dim=2)
    assert dataclasses.replace(config, **SIZES["size12m"]) == config


def test_observations_by_name():
    config = make_config(obs_shape={"wrist": (8, 8, 3), "joints": (2, 3), "gripper": (1,)})
    assert list(config.obs_shapes) == ["gripper", "joints", "wrist"]  # sorted, whatever order they were given in
    assert config.vectors == {"gripper": 1, "joints": 6}
    assert config.images == {"wrist": (8, 8, 3)}
    assert make_config(obs_shape=(5,)).obs_shapes == {"obs": (5,)}


@pytest.mark.parametrize(
    ("settings", "choices"),
    [
        ({"action_dim": 3}, (3,)),
        ({"action_dim": 5, "action_type": "multi_discrete", "action_sizes": (2, 3)}, (2, 3)),
        ({"action_dim": 3, "action_type": "continuous"}, ()),
    ],
)
def test_choices(settings: dict[str, Any], choices: tuple[int, ...]):
    assert make_config(**settings).choices == choices


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"obs_shape": ()}, r"obs_shape of 'obs' must have 1 to 3 positive dimensions.*got \(\)"),
        ({"obs_shape": (0,)}, r"got \(0,\)"),
        ({"obs_shape": {"a": (1,), "b": (1, 2, 3, 4)}}, r"obs_shape of 'b'"),
        ({"obs_shape": {"a": (12, 12, 3), "b": (3, 12, 16)}}, r"All images must have one height and width.*Resize"),
        ({"action_dim": 0}, "action_dim must be at least 1; got 0"),
        ({"action_dim": 1}, r'at least 2 choices; got \(1,\).*action_type="continuous"'),
        ({"min_std": 1.0, "max_std": 1.0}, "min_std must be below max_std; got 1.0 and 1.0"),
        (
            {"action_dim": 5, "action_type": "multi_discrete", "action_sizes": (2, 2)},
            r"sum to action_dim=5.*got \(2, 2\), which sums to 4",
        ),
        ({"deter": 30}, "deter must be a multiple of blocks=4; got 30"),
        ({"stoch": 0}, "stoch must be between 1 and 65536; got 0"),
        ({"num_bins": 1}, "num_bins must be between 2"),
        ({"unimix": 1.5}, "unimix must be between 0.0 and 1.0; got 1.5"),
        ({"unimix": float("nan")}, "unimix must be between"),
        ({"imagination_horizon": 0}, "imagination_horizon must be between 1"),
        ({"discount_horizon": 1}, "discount_horizon must be between 2"),
        ({"beta2": 1.0}, "beta2 must be between"),
        ({"min_std": 0.0}, "min_std must be between"),
        ({"value_layers": 65}, "value_layers must be between 1 and 64"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make_config(**settings)


@pytest.mark.parametrize("name", ["loss", "value", "rew"])
def test_an_observation_cannot_have_the_name_of_a_loss(name: str):
    """It would take the place of that loss."""
    with pytest.raises(ConfigError, match=f"called {name!r}.*Rename it"):
        make_config(obs_shape={name: (3,)})
