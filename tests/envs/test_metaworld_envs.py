"""Meta-World, where it is installed."""

import numpy as np
import pytest

from worldline.envs.make import make_env

from .families import check_errors, check_replay, check_seeds

pytest.importorskip("metaworld")


def test_the_goal_is_observed_and_the_time_limit_truncates():
    env = make_env("metaworld:reach-v3", action_repeat=2)
    obs, _ = env.reset(seed=0)
    assert (obs.shape, obs.dtype) == ((39,), np.float32)
    assert np.abs(obs[-3:]).sum() > 0
    steps = [env.step(np.zeros(4)) for _ in range(250)]
    assert {step[2:4] for step in steps[:-1]} == {(False, False)}
    assert steps[-1][2:4] == (False, True)
    assert steps[0][4]["success"] == 0.0


def test_seeds_and_replay():
    check_seeds("metaworld:reach-v3")
    check_replay("metaworld:reach-v3")


def test_errors(monkeypatch):
    check_errors("metaworld:reach-v3", "reach-v3", "metaworld", "metaworld.env_dict", "metaworld", monkeypatch)
