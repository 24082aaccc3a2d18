from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from worldline.config import check_bounds, from_dict, to_dict
from worldline.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 2
    name: str = "gru"

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise ConfigError(f"depth must not be negative; got {self.depth}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    obs_shape: tuple[int, ...] | dict[str, tuple[int, ...]]
    action_dim: int
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    device: Literal["cpu", "cuda"] = "cpu"
    is_fast: bool = False
    inner: Inner = dataclasses.field(default_factory=Inner)
    maybe: Inner | None = None
    scales: Mapping[str, float] = dataclasses.field(default_factory=dict)
    names: list[str] = dataclasses.field(default_factory=list)
    folder: Path = Path("runs")
    pair: tuple = ()
    items: list = dataclasses.field(default_factory=list)
    anything: Any = None
    num_built: int = dataclasses.field(default=7, init=False)


def make(**settings: Any) -> Outer:
    return from_dict(Outer, {"obs_shape": [4], "action_dim": 2, **settings})


def test_defaults_and_conversions():
    config = make(rate=1, betas=[0, 0.5], inner={"depth": 3.0}, scales={"reward": 2}, names=("a",), folder="out")
    assert config.obs_shape == (4,)
    assert (config.rate, type(config.rate)) == (1.0, float)
    assert config.betas == (0.0, 0.5)
    assert (config.inner, type(config.inner.depth)) == (Inner(depth=3), int)
    assert config.scales == {"reward": 2.0}
    assert config.names == ["a"]
    assert config.folder == Path("out")


def test_unions_take_the_first_type_that_fits():
    assert make(obs_shape={"image": [8, 8, 3]}).obs_shape == {"image": (8, 8, 3)}
    assert make(maybe=None).maybe is None
    assert make(maybe={"depth": 1}).maybe == Inner(depth=1)
    assert make(inner=Inner(depth=5)).inner.depth == 5


def test_numpy_numbers_are_numbers():
    """`env.action_space.n` is one."""
    config = make(action_dim=np.int64(3), rate=np.float32(0.5), obs_shape=np.zeros((2, 3)).shape)
    assert (config.action_dim, type(config.action_dim)) == (3, int)
    assert (config.rate, type(config.rate)) == (0.5, float)
    json.dumps(to_dict(config))


def test_unknown_key_names_the_nearest():
    with pytest.raises(ConfigError, match=r"Outer has no setting 'action_dims'. Did you mean 'action_dim'\?"):
        make(action_dims=2)
    with pytest.raises(ConfigError, match=r"Outer.inner has no setting 'dept'. Did you mean 'depth'\?"):
        make(inner={"dept": 2})
    with pytest.raises(ConfigError, match=r"Outer.maybe has no setting 'dept'. Did you mean 'depth'\?"):
        make(maybe={"dept": 2})
    with pytest.raises(ConfigError, match="no setting 'num_built'"):
        make(num_built=1)


def test_missing_fields_are_named():
    with pytest.raises(ConfigError, match="dreamer needs action_dim, obs_shape, which are missing"):
        from_dict(Outer, {}, where="dreamer")
    with pytest.raises(ConfigError, match="Outer needs obs_shape, which is missing"):
        from_dict(Outer, {"action_dim": 2})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action_dim": "two"}, r"Outer.action_dim must be int; got 'two' \(str\)"),
        ({"action_dim": 2.5}, "must be int; got 2.5"),
        ({"action_dim": True}, r"must be int; got True \(bool\)"),
        ({"action_dim": None}, "must be int; got None"),
        ({"action_dim": math.inf}, "must be int; got inf"),
        ({"action_dim": math.nan}, "must be int; got nan"),
        ({"rate": math.nan}, "must be float; got nan"),
        ({"rate": True}, "must be float; got True"),
        ({"rate": 10**400}, "must be float"),
        ({"is_fast": 1}, "must be bool; got 1"),
        ({"betas": [0.9]}, r"betas must be tuple\[float, float\]"),
        ({"betas": 0.9}, r"betas must be tuple\[float, float\]"),
        ({"betas": [0.9, "x"]}, r"betas\[1\] must be float"),
        ({"device": "gpu"}, "device must be one of 'cpu', 'cuda'; got 'gpu'"),
        ({"device": ["cpu"]}, "device must be one of"),
        ({"obs_shape": 4}, r"obs_shape must be tuple\[int, ...\] or dict\[str, tuple\[int, ...\]\]; got 4"),
        ({"obs_shape": ["a"]}, "obs_shape must be"),
        ({"obs_shape": {"image": 3}}, "obs_shape must be"),
        ({"scales": [1]}, "scales must be"),
        ({"scales": {"a": "b"}}, r"scales\['a'\] must be float"),
        ({"scales": {1: 2.0}}, "its key"),
        ({"names": "abc"}, "names must be"),
        ({"folder": 3}, "folder must be Path"),
        ({"inner": [1]}, "inner must be Inner"),
        ({"inner": {"depth": -1}}, "depth must not be negative"),
    ],
)
def test_wrong_values_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_types_without_arguments_take_anything_inside():
    config = make(pair=[1, "a"], items=(None, 2))
    assert (config.pair, config.items) == ((1, "a"), [None, 2])


def test_infinity_is_a_float():
    assert make(rate=math.inf).rate == math.inf


def test_a_hostile_value_makes_a_short_message():
    with pytest.raises(ConfigError) as caught:
        make(action_dim="x" * 1_000_000)
    assert len(str(caught.value)) < 300


def test_a_type_that_no_reader_knows_is_refused_not_guessed():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        items: Sequence[int] = ()

    with pytest.raises(ConfigError, match="items must be"):
        from_dict(Odd, {"items": [1]})


configs = st.builds(
    Outer,
    obs_shape=st.one_of(
        st.lists(st.integers(1, 512), max_size=3).map(tuple),
        st.dictionaries(st.text(), st.lists(st.integers(1, 512), max_size=3).map(tuple)),
    ),
    action_dim=st.integers(),
    rate=st.floats(allow_nan=False),
    betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    device=st.sampled_from(["cpu", "cuda"]),
    is_fast=st.booleans(),
    inner=st.builds(Inner, depth=st.integers(0), name=st.text()),
    maybe=st.none() | st.builds(Inner, depth=st.integers(0)),
    scales=st.dictionaries(st.text(), st.floats(allow_nan=False)),
    names=st.lists(st.text()),
)


@given(configs)
def test_a_config_survives_a_file(config: Outer):
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config


def test_a_config_survives_yaml():
    config = make(obs_shape={"image": [8, 8, 3]}, maybe={"depth": 1}, folder="out")
    assert from_dict(Outer, yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(Outer)]), json_values))
def test_any_json_is_read_or_refused(values: dict[str, Any]):
    try:
        config = from_dict(Outer, values)
    except ConfigError:
        return
    assert from_dict(Outer, to_dict(config)) is not None


def test_bounds_are_within():
    @dataclasses.dataclass
    class Settings:
        units: int = 4
        rate: float = 0.5

    check_bounds(Settings(), {"units": (4, 4), "rate": (0.0, 1.0)})
    for bad, message in (
        (Settings(units=3), "units must be between 4 and 8; got 3."),
        (Settings(rate=math.nan), "nan"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_bounds(bad, {"units": (4, 8), "rate": (0, 1)})
