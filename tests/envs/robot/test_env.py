"""The robot's environments: spaces, seeds, ends, settings."""

import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldline.envs.make import make_env
from worldline.envs.robot.tasks import TASKS
from worldline.errors import ConfigError, MissingPackageError

HOLD = np.array([0.0, 0.0, 0.0, -1.0], dtype=np.float32)


@pytest.mark.filterwarnings("ignore:.*A Box observation space m")
@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_finds_nothing_wrong(task):
    check_env(make_env(f"robot:{task}").unwrapped, skip_render_check=True)


def test_reach_observes_twenty_numbers():
    shapes = make_env("robot:reach").data_spec.obs_shape
    assert shapes == {"joint_pos": (7,), "joint_vel": (7,), "ee_pos": (3,), "target_pos": (3,)}
    assert make_env("robot:reach").data_spec.action_dim == 4


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_is_a_function_of_its_seed_and_actions(task):
    check_seeds(f"robot:{task}")
    check_replay(f"robot:{task}")
    check_replay(f"robot:{task}", randomization={}, action_noise=0.5)


def check_seeds(env_id):
    env = make_env(env_id)
    first, again, other = (env.reset(seed=seed)[0] for seed in (1, 1, 2))
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    assert not np.array_equal(first["joint_pos"], other["joint_pos"])


def check_replay(env_id, **settings):
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (20, 4)).astype(np.float32)
    used, fresh = make_env(env_id, **settings), make_env(env_id, **settings)
    used.reset(seed=9)
    used.step(HOLD)
    for env in (used, fresh):
        env.reset(seed=5)
    for action in actions:
        left, right = used.step(action), fresh.step(action)
        assert left[1:4] == right[1:4]
        for key in left[0]:
            np.testing.assert_array_equal(left[0][key], right[0][key])


@pytest.mark.parametrize(("task", "limit"), [("reach", 100), ("pick_place", 200), ("language_reach", 100)])
def test_doing_nothing_is_no_success_and_ends_by_the_time_limit(task, limit):
    env = make_env(f"robot:{task}")
    env.reset(seed=0)
    steps = [env.step(HOLD) for _ in range(limit)]
    assert {step[2:4] for step in steps[:-1]} == {(False, False)}
    assert steps[-1][2:4] == (False, True)
    assert not any(step[4]["success"] for step in steps)
    assert all(-1 <= step[1] <= 0 for step in steps)


def test_the_instruction_is_in_info():
    env = make_env("robot:pick_place")
    text = "put the red cube onto the green block"
    assert env.reset(seed=0)[1] == {"success": False, "language": text}
    assert env.step(HOLD)[4]["language"] == text


def test_noise_disturbs_the_movement_in_proportion_to_it_and_not_the_gripper():
    def moved(action, **settings):
        env = make_env("robot:reach", **settings)
        env.reset(seed=3)
        return env.step(np.array(action, dtype=np.float32))[0]["ee_pos"]

    still, fast = [0, 0, 0, 1], [1, 0, 0, 1]
    np.testing.assert_array_equal(moved(still), moved(still, action_noise=0.5))
    assert np.abs(moved(fast) - moved(fast, action_noise=0.5)).max() > 1e-3


@pytest.mark.usefixtures("renderer")
def test_images_come_in_the_size_and_from_the_camera_asked_for():
    env = make_env("robot:reach", observe="both", image_size=(32, 48))
    obs, _ = env.reset(seed=0)
    assert (obs["pixels"].shape, obs["pixels"].dtype) == ((32, 48, 3), np.uint8)
    top = make_env("robot:reach", observe="pixels", image_size=(32, 48), camera="top")
    assert not np.array_equal(top.reset(seed=0)[0], obs["pixels"])


def test_errors(monkeypatch):
    with pytest.raises(ConfigError, match="Did you mean 'reach'"):
        make_env("robot:reech")
    with pytest.raises(ConfigError, match="Did you mean 'front'"):
        make_env("robot:reach", camera="frnt")
    with pytest.raises(ConfigError, match="colour"):
        make_env("robot:reach", colour="red")
    with pytest.raises(ConfigError, match="render_mode"):
        make_env("robot:reach", render_mode="human")
    with pytest.raises(ConfigError, match="action_noise"):
        make_env("robot:reach", action_noise=-1.0)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingPackageError, match=r"'mujoco'.*pip install 'worldline\[robotics\]'"):
        make_env("robot:reach")


def test_no_renderer_is_needed_for_states(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    env = make_env("robot:reach")
    env.reset(seed=0)
    env.step(HOLD)
    assert isinstance(env.unwrapped, gym.Env)
    assert env.render() is None
    with pytest.raises(ConfigError, match="MUJOCO_GL is 'disabled'"):
        make_env("robot:reach", observe="pixels", image_size=17).reset(seed=0)
