"""Errors of environments that cannot be made."""

import os
import subprocess
import sys

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


def test_rendering_without_a_display_is_silent():
    pytest.importorskip("pygame")
    code = (
        "from worldline.envs.make import make_env\n"
        "env = make_env('CartPole-v1', observe='pixels')\n"
        "print(env.reset(seed=0)[0].shape)\n"
    )
    bare = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER")
    }
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("(64, 64, 3)", "")
