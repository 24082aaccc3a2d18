"""RobotEnv: an arm and a task as a Gymnasium environment, at 20 actions a second.

An episode is a function of the seed of its `reset` and of the actions: everything that is drawn comes from the
environment's generator, and the simulation begins anew.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces

from worldline.envs.robot.arm import NUM_JOINTS, Arm
from worldline.envs.robot.language import LANGUAGE
from worldline.envs.robot.randomization import Randomization, Randomizer
from worldline.envs.robot.rendering import Canvas, camera_id, canvas_of
from worldline.envs.robot.tasks import HOLD_STEPS, Task, compiled
from worldline.episode import Array
from worldline.errors import ConfigError

Obs = dict[str, Array]

_NOISE_MEMORY = 0.5  # of a disturbance, how much is left one step later


class RobotEnv(gym.Env[Any, Array]):
    """The arm with one task.

    Observes "joint_pos" `[7]` (radians), "joint_vel" `[7]` (radians a second), "ee_pos" `[3]` (metres: where the tool
    is) and what the task adds, all float32 but the instruction. `info["success"]` says whether the task is done, which
    also terminates the episode, and `info["language"]` has the instruction.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (Gymnasium's declaration)

    def __init__(
        self,
        task: type[Task],
        *,
        image_size: tuple[int, int] = (64, 64),
        camera: str = "front",
        render_mode: Literal["rgb_array"] | None = None,
        randomization: Randomization | None = None,
        action_noise: float = 0.0,
    ) -> None:
        """Make the environment; `make` of the package has the arguments.

        Raises:
            ConfigError: No such camera or render mode, or a negative deviation of the noise.
        """
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode must be 'rgb_array' or None; got {render_mode!r}.")
        if not 0 <= action_noise < math.inf:
            raise ConfigError(f"action_noise must be a deviation of at least 0; got {action_noise}.")
        self.render_mode = render_mode
        self._model = copy.copy(compiled(task))
        self._data = mujoco.MjData(self._model)
        self._arm = Arm(self._model, self._data)
        self._task = task(self._model, self._data, self._arm)
        self._randomizer = None if randomization is None else Randomizer(self._model, randomization)
        self._action_noise = action_noise
        self._disturbance = np.zeros(3)
        self._image_size = image_size
        self._camera = camera_id(self._model, camera)
        self._canvas: Canvas | None = None
        self._num_steps = 0
        self._num_done = self._num_wrong = 0  # steps without a break
        self._instruction = ""
        joints = spaces.Box(-np.inf, np.inf, (NUM_JOINTS,), np.float32)
        place = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        parts: dict[str, spaces.Space[Any]] = {"joint_pos": joints, "joint_vel": joints, "ee_pos": place}
        self.observation_space = spaces.Dict({**parts, **self._task.spaces()})
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self._model, self._data)
        if self._randomizer is not None:
            self._randomizer.draw(self.np_random)
            mujoco.mj_setConst(self._model, self._data)  # what MuJoCo derives from masses
            mujoco.mj_resetData(self._model, self._data)
        self._arm.reset(self.np_random)
        self._instruction = self._task.reset(self.np_random)
        mujoco.mj_forward(self._model, self._data)
        self._disturbance[:] = 0.0
        self._num_steps = self._num_done = self._num_wrong = 0
        return self._observe(), self._info(success=False)

    def step(self, action: Array) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Take an action `[4]` in [-1, 1]: how the tool moves along x, y and z, in units of 3 cm, and 1 to close."""
        clipped = np.minimum(np.maximum(action, -1.0), 1.0)
        self._arm.move(clipped if self._action_noise == 0.0 else self._disturbed(clipped))
        reward, is_done = self._task.assess()
        self._num_steps += 1
        self._num_done = self._num_done + 1 if is_done else 0
        self._num_wrong = self._num_wrong + 1 if self._task.is_wrong() else 0
        success, is_failure = self._num_done >= HOLD_STEPS, self._num_wrong >= HOLD_STEPS
        num_left = self._task.max_steps - self._num_steps
        if is_failure:
            reward -= num_left
        is_over = success or is_failure
        return self._observe(), reward, is_over, num_left <= 0 and not is_over, self._info(success=success)

    def render(self) -> Array | None:
        """Return the camera's image `[H, W, 3]` uint8; None without a render mode."""
        if self.render_mode is None:
            return None
        if self._canvas is None:
            self._canvas = canvas_of(self._task.name, self._model, self._image_size)
        mujoco.mj_camlight(self._model, self._data)
        return self._canvas.draw(self._model, self._data, self._camera)

    def close(self) -> None:
        """Let the graphics context go, if nobody else draws on it."""
        self._canvas = None

    def _observe(self) -> Obs:
        arm = self._arm
        return {
            "joint_pos": arm.joint_pos.astype(np.float32),
            "joint_vel": arm.joint_vel.astype(np.float32),
            "ee_pos": arm.tool_pos.astype(np.float32),
            **self._task.observe(),
        }

    def _info(self, *, success: bool) -> dict[str, Any]:
        return {"success": success, LANGUAGE: self._instruction}

    def _disturbed(self, action: Array) -> Array:
        """Return the action with its movement disturbed, in proportion to it: the arm errs where it is fast.

        (Harris and Wolpert, "Signal-dependent noise determines motor planning", Nature 1998.)
        """
        fresh = self.np_random.normal(scale=self._action_noise * math.sqrt(1 - _NOISE_MEMORY**2), size=3)
        self._disturbance = _NOISE_MEMORY * self._disturbance + fresh
        move = action[:3] + self._disturbance * np.abs(action[:3]).max()
        return np.concatenate([np.clip(move, -1.0, 1.0), action[3:]])
