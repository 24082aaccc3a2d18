"""A task whose simulation the tests can look into and change."""

from __future__ import annotations

import numpy as np

from worldline.envs.robot.env import RobotEnv
from worldline.envs.robot.tasks import TASKS

HOLD = np.array([0.0, 0.0, 0.0, -1.0])


def make_task(name, seed=0):
    env = RobotEnv(TASKS[name])
    env.reset(seed=seed)
    return env, env._task, env._arm


def put_tool(env, place):
    """Bring the tool to a place, by as many steps as it takes."""
    for _ in range(60):
        move = (np.asarray(place) - env._arm.tool_pos) / 0.06
        env._arm.move(np.append(np.clip(move, -1, 1), -1.0))
