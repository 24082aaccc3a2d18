"""Physics and looks that differ from episode to episode, so that a policy does not depend on them.

Everything is drawn at `reset` from the environment's generator: an episode stays a function of its seed and actions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from worldline.errors import ConfigError

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Randomization:
    """What is drawn, uniformly, at the start of each episode. The first group is physics, the second looks.

    A range is of factors on the usual value, (1, 1) leaves it; an amplitude is what may be added or taken away, and 0
    leaves it.
    """

    mass: Range = (0.5, 2.0)  # of objects
    friction: Range = (0.7, 1.3)  # of objects and fingers
    damping: Range = (0.7, 1.5)  # of the arm's joints
    servo_gain: Range = (0.8, 1.2)  # how hard the servos pull

    light: Range = (0.6, 1.3)  # brightness of the lamp
    lamp: float = 0.4  # metres that the lamp may be away from its place, in each direction
    color: float = 0.08  # of red, green and blue of everything, each in [0, 1]
    camera: float = 0.02  # metres that the cameras may be away from their places, in each direction

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            low, high = value if isinstance(value, tuple) else (0.0, value)
            if not 0 <= low <= high or not np.isfinite(high) or (isinstance(value, tuple) and low == 0):
                raise ConfigError(
                    f"{field.name} is {value}; expected factors (low, high) with 0 < low <= high."
                    if isinstance(value, tuple)
                    else f"{field.name} is {value}; expected an amplitude of at least 0."
                )


class Randomizer:
    """Changes a model at each reset, always from what it was at first."""

    def __init__(self, model: Any, randomization: Randomization) -> None:
        """Keep the usual values of `model`, an `mujoco.MjModel` of one environment alone."""
        self._model = model
        self._settings = randomization
        # Bodies that move freely are objects; all other degrees of freedom are the arm's.
        free = model.jnt_type == 0
        self._objects = model.jnt_bodyid[free]
        self._joints = np.setdiff1d(np.arange(model.nv), np.concatenate([[-1], *map(_six, model.jnt_dofadr[free])]))
        names = ("body_mass", "body_inertia", "geom_friction", "dof_damping", "actuator_gainprm", "actuator_biasprm")
        looks = ("light_diffuse", "light_pos", "geom_rgba", "cam_pos")
        self._usual = {name: getattr(model, name).copy() for name in (*names, *looks)}

    def draw(self, generator: np.random.Generator) -> None:
        """Draw what the next episode shall be like."""
        model, usual, ask = self._model, self._usual, self._settings
        mass = generator.uniform(*ask.mass, size=(len(self._objects), 1))
        model.body_mass[self._objects] = usual["body_mass"][self._objects] * mass[:, 0]
        model.body_inertia[self._objects] = usual["body_inertia"][self._objects] * mass
        model.geom_friction[:, 0] = usual["geom_friction"][:, 0] * generator.uniform(*ask.friction)
        model.dof_damping[self._joints] = usual["dof_damping"][self._joints] * generator.uniform(*ask.damping)
        gain = generator.uniform(*ask.servo_gain)
        model.actuator_gainprm[:, 0] = usual["actuator_gainprm"][:, 0] * gain
        model.actuator_biasprm[:, 1] = usual["actuator_biasprm"][:, 1] * gain  # a servo pulls by gain * (target - q)

        model.light_diffuse[:] = usual["light_diffuse"] * generator.uniform(*ask.light)
        model.light_pos[:] = usual["light_pos"] + generator.uniform(-ask.lamp, ask.lamp, size=model.light_pos.shape)
        color = generator.uniform(-ask.color, ask.color, size=(model.ngeom, 3))
        model.geom_rgba[:, :3] = np.clip(usual["geom_rgba"][:, :3] + color, 0.0, 1.0)
        model.cam_pos[:] = usual["cam_pos"] + generator.uniform(-ask.camera, ask.camera, size=model.cam_pos.shape)


def _six(first: int) -> range:
    """Return the degrees of freedom of a free joint."""
    return range(first, first + 6)
