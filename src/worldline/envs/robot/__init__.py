"""A simulated robot: `robot:reach`, `robot:pick_place`, `robot:language_reach`.

| file               | what is in it                                                                    |
|--------------------|----------------------------------------------------------------------------------|
| `arm.xml`          | the arm, its table, lamp and cameras                                             |
| `arm.py`           | the arm's joints, servos and tool: moved by damped least squares                 |
| `tasks.py`         | what there is to do, when it is done, and what it is worth                       |
| `env.py`           | an arm and a task as a Gymnasium environment                                     |
| `randomization.py` | physics and looks that differ from episode to episode                            |
| `rendering.py`     | cameras, without a display                                                       |
| `language.py`      | instructions as arrays of bytes                                                  |
| `experts.py`       | policies that succeed, to learn from                                             |

MuJoCo is imported when an environment is made, and nothing here needs a renderer until an image is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from worldline.config import from_dict
from worldline.envs.robot.randomization import Randomization
from worldline.errors import ConfigError, missing_package, nearest

if TYPE_CHECKING:
    from worldline.envs.robot.env import RobotEnv


def make(
    name: str,
    *,
    image_size: tuple[int, int],
    camera: str = "front",
    render_mode: Literal["rgb_array"] | None = None,
    randomization: Randomization | Mapping[str, Any] | None = None,
    action_noise: float = 0.0,
) -> RobotEnv:
    """Make the task `name`.

    Args:
        name: "reach", "pick_place" or "language_reach".
        image_size: Height and width of what is rendered.
        camera: Which one renders: "front", "top" or "side".
        render_mode: "rgb_array" to render, None not to.
        randomization: What differs from episode to episode besides the places of things: a `Randomization`, or a
            mapping of its fields (an empty one takes its defaults); None for nothing.
        action_noise: Deviation of what disturbs the movement that is asked for, in units of the action. The policy's
            action is recorded, not the disturbed one: demonstrations then show how to come back (`experts.py`).

    Raises:
        ConfigError: No such task, camera or setting; the message has the nearest.
        MissingPackageError: MuJoCo is not installed.
    """
    try:
        import mujoco  # noqa: F401
    except ImportError as error:
        raise missing_package("mujoco", "robotics", "A robot: environment") from error
    from worldline.envs.robot.env import RobotEnv
    from worldline.envs.robot.tasks import TASKS

    if name not in TASKS:
        raise ConfigError(f"There is no environment robot:{name}. {nearest(name, TASKS)}")
    if isinstance(randomization, Mapping):
        randomization = from_dict(Randomization, randomization)
    return RobotEnv(
        TASKS[name],
        image_size=image_size,
        camera=camera,
        render_mode=render_mode,
        randomization=randomization,
        action_noise=action_noise,
    )
