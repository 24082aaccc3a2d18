"""The DeepMind Control Suite, where dm-control is installed."""

import numpy as np
import pytest

from worldline.envs.make import make_env

from .families import check_errors, check_replay, check_seeds

pytest.importorskip("dm_control")


def test_states():
    env = make_env("dmc:walker-walk")
    obs, _ = env.reset(seed=0)
    assert (obs.shape, obs.dtype) == ((24,), np.float32)
    spec = env.data_spec
    assert (spec.obs_shape, spec.action_dim, spec.action_type) == ((24,), 6, "continuous")
    _, reward, terminated, truncated, _ = env.step(np.zeros(6))
    assert 0 <= reward <= 1
    assert (terminated, truncated) == (False, False)


def test_a_time_limit_truncates():
    env = make_env("dmc:cartpole-balance", action_repeat=2)
    env.reset(seed=0)
    flags = [env.step(np.zeros(1))[2:4] for _ in range(500)]
    assert set(flags[:-1]) == {(False, False)}
    assert flags[-1] == (False, True)


def test_a_discount_of_zero_terminates():
    env = make_env("dmc:cartpole-balance")
    env.reset(seed=0)
    task = env.unwrapped._env.task
    task.get_termination = lambda physics: 0.0
    assert env.step(np.zeros(1))[2:4] == (True, False)


def test_seeds_and_replay():
    check_seeds("dmc:walker-walk")
    check_replay("dmc:walker-walk", action_repeat=2)


def test_pixels():
    pytest.importorskip("OpenGL.EGL")
    env = make_env("dmc:walker-walk", observe="pixels", image_size=(48, 64))
    obs, _ = env.reset(seed=0)
    assert (obs.shape, obs.dtype) == ((48, 64, 3), np.uint8)
    assert obs.std() > 1


def test_errors(monkeypatch):
    check_errors("dmc:walker-walk", "walker-walk", "dm-control", "dm_control", "dmc", monkeypatch)
