"""The arm: seven joints with servos, and a gripper, moved by where its tool shall go.

The tool is the point between the finger tips; it always points down. A commanded position of the tool moves by what an
action says. Before each control step the servos get the joint angles that bring the tool there, by one step of damped
least squares with the Jacobian J at the joints' present angles q:

    dq = J^T (J J^T + d^2 I)^-1 (e - J p) + p,     p = k (q_home - q)

where e is the error of position and direction. p pulls the elbow home without moving the tool, since seven joints have
one freedom more than the tool needs. The commanded position is never further from the tool than the leash, so that
an arm that is blocked does not jump when it is free.
"""

from __future__ import annotations

import importlib.resources
from typing import Any

import mujoco
import numpy as np

from worldline.episode import Array

ARM_XML = importlib.resources.files(__package__).joinpath("arm.xml").read_text(encoding="utf-8")

NUM_JOINTS = 7
PHYSICS_STEPS = 10  # of 5 ms: 20 actions a second
STEP = 0.03  # metres that the commanded position moves in a control step, at most, in each direction
MAX_OPENING = 0.04  # metres that each finger moves
REACHABLE = np.array([[0.25, -0.32, 0.018], [0.65, 0.32, 0.45]])  # metres: where the commanded position may be

_HOME = np.array([0.0, 0.51, 0.0, 1.86, 0.0, 0.77, 0.0])  # radians: the tool is at (0.45, 0, 0.22)
_HOME_SPREAD = 0.05  # radians by which episodes begin elsewhere
_DAMPING = 0.01
_ELBOW = 0.1
_LEASH = 0.06  # metres


class Arm:
    """The arm in one simulation.

    Attributes:
        tool_pos: `[3]` where the tool is; a view, which changes as the arm moves.
        joint_pos: `[7]` radians; a view.
        joint_vel: `[7]` radians a second; a view.
    """

    def __init__(self, model: Any, data: Any) -> None:
        """Control the arm of a model compiled from `ARM_XML`; its joints and servos are the first."""
        self._model = model
        self._data = data
        self._tool = model.site("tool").id
        self.tool_pos: Array = data.site_xpos[self._tool]
        self.joint_pos: Array = data.qpos[:NUM_JOINTS]
        self.joint_vel: Array = data.qvel[:NUM_JOINTS]
        self._tool_axes: Array = data.site_xmat[self._tool].reshape(3, 3)  # a view as well
        self._fingers: Array = data.qpos[NUM_JOINTS : NUM_JOINTS + 2]
        self._servos: Array = data.ctrl[:NUM_JOINTS]
        self._commanded = np.zeros(3)
        self._jacobian = np.zeros((6, model.nv))
        self._error = np.zeros(6)
        self._damping = _DAMPING**2 * np.eye(6)

    @property
    def opening(self) -> float:
        """How far the gripper is open: 0 closed, 1 as far as it goes (8 cm)."""
        return float(self._fingers[0] + self._fingers[1]) / (2 * MAX_OPENING)

    def reset(self, generator: np.random.Generator) -> None:
        """Put the arm home, or near to it, with the gripper open."""
        self.joint_pos[:] = _HOME + generator.uniform(-_HOME_SPREAD, _HOME_SPREAD, NUM_JOINTS)
        self._fingers[:] = MAX_OPENING
        self._servos[:] = self.joint_pos
        self._data.ctrl[NUM_JOINTS] = MAX_OPENING
        mujoco.mj_forward(self._model, self._data)
        self._commanded[:] = self.tool_pos

    def move(self, action: Array) -> None:
        """Take a control step.

        Args:
            action: `[4]` in [-1, 1]: how the commanded position moves along x (forward), y (left) and z (up), in units
                of 3 cm; and the gripper, from -1, open, to 1, closed.
        """
        data = self._data
        commanded = np.minimum(np.maximum(self._commanded + STEP * action[:3], REACHABLE[0]), REACHABLE[1])
        ahead = commanded - self.tool_pos
        self._commanded = self.tool_pos + np.minimum(np.maximum(ahead, -_LEASH), _LEASH)
        data.ctrl[NUM_JOINTS] = (1.0 - action[3]) / 2.0 * MAX_OPENING
        self._servos[:] = self.joint_pos + self._joint_step()
        mujoco.mj_step(self._model, data, PHYSICS_STEPS)
        # mj_step leaves positions as they were before its last integration.
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_comPos(self._model, data)

    def _joint_step(self) -> Array:
        """Return dq `[7]` of the equation above."""
        axes, error = self._tool_axes, self._error
        error[:3] = self._commanded - self.tool_pos
        # Half the sum of the cross products of the tool's axes with what they should be: -x, y, -z.
        error[3] = -0.5 * (axes[2, 1] + axes[1, 2])
        error[4] = 0.5 * (axes[0, 2] - axes[2, 0])
        error[5] = 0.5 * (axes[1, 0] + axes[0, 1])
        mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._tool)
        jacobian = self._jacobian[:, :NUM_JOINTS]
        elbow = _ELBOW * (_HOME - self.joint_pos)
        step = np.linalg.solve(jacobian @ jacobian.T + self._damping, error - jacobian @ elbow)
        joint_step: Array = jacobian.T @ step + elbow
        return joint_step
