"""Errors of environments that cannot be made."""

import gymnasium as gym
import pytest

from worldline.envs.gymnasium_envs import make_gymnasium
from worldline.errors import ConfigError, MissingPackageError

from .families import check_replay


@pytest.mark.parametrize("name", ["CartPole-v2", "Cartpol-v1", "cartpol"])
def test_unknown_ids_get_the_nearest_one(name):
    with pytest.raises(ConfigError, match=r"Did you mean CartPole-v1"):
        make_gymnasium(name)


def test_an_id_near_to_nothing_says_where_the_list_is():
    with pytest.raises(ConfigError, match="pprint_registry"):
        make_gymnasium("qqqq-v0")


def test_missing_package_names_the_pip_line():
    gym.register("worldline-test/NeedsMujoco-v0", entry_point="mujoco_that_is_not_installed:Env")
    try:
        with pytest.raises(MissingPackageError, match=r"pip install 'worldline\[robotics\]'"):
            make_gymnasium("worldline-test/NeedsMujoco-v0")
    finally:
        del gym.registry["worldline-test/NeedsMujoco-v0"]


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(MissingPackageError, match="no_such_module"):
        make_gymnasium("no_such_module:Thing-v0")


def test_mujoco_episodes_are_functions_of_seed_and_actions():
    pytest.importorskip("mujoco")
    pytest.importorskip("imageio")
    check_replay("HalfCheetah-v5")
