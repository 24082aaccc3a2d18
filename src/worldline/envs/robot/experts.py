"""Policies that succeed at the robot's tasks, to learn from.

An expert acts on what is observed, and on nothing else: it remembers nothing and knows nothing that its clone could not
see. So whatever state it comes to by a disturbance, or by a clone's mistake, it says what to do there.

Demonstrations that only show a faultless course teach nothing about what to do off it, and a clone's own small errors
lead it there. `make_env("robot:...", action_noise=0.25)` therefore disturbs what the arm does while the action that
the expert asked for is recorded, which is the right label for the state it was asked in (Laskey et al., "DART: Noise
Injection for Robust Imitation Learning", CoRL 2017). The noise is the environment's and is seeded with the episode;
unlike DART's it is not fitted to the clone's errors, and it grows with the movement, so that precise work stays
possible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worldline.batch import Obs
from worldline.envs.robot.arm import MAX_OPENING, STEP
from worldline.envs.robot.language import LANGUAGE, decode_language
from worldline.envs.robot.tasks import BLOCK, COLORS, CUBE
from worldline.episode import DataSpec
from worldline.errors import ConfigError, DataError, nearest

_GAIN = 0.5  # the share of the way that is asked for in each step: the servos are still on the way from the last one
_OPEN, _CLOSED = -1.0, 1.0
_TOUCHING = 0.012  # more of the gripper's opening than where its fingers meet the cube
_FINGER = 0.011  # metres, half a finger's breadth
_OVER = 0.07  # metres above its goal at which the tool travels
_TALL = 2 * float(BLOCK[2])  # metres


class Expert:
    """A policy (`protocols.Policy`) for one task."""

    def __init__(self, env_id: str) -> None:
        """Make the expert for an environment, such as "robot:reach".

        Raises:
            ConfigError: There is none for it.
        """
        if env_id not in EXPERTS:
            raise ConfigError(f"There is no expert for {env_id!r}. {nearest(env_id, EXPERTS)}")
        self._act = EXPERTS[env_id]

    def act(
        self, obs: Obs, state: Any = None, *, is_first: Tensor | None = None, deterministic: bool = False
    ) -> tuple[Tensor, Any]:
        """Return actions `[N, 4]`; there is no chance in them.

        Raises:
            DataError: Something that the expert goes by is not observed.
        """
        if not isinstance(obs, dict):
            raise DataError(
                "The expert needs observations by name. Make the environment with observe='state' or 'both'."
            )
        try:
            return self._act(obs), None
        except KeyError as error:
            raise DataError(
                f"The expert goes by {error}, which is not among the observations {sorted(obs)}. "
                "Leave it in while demonstrations are recorded; a model is built for those that it shall see."
            ) from error


def _reach(obs: dict[str, Tensor]) -> Tensor:
    return _towards(obs, obs["target_pos"], _OPEN)


def _language_reach(obs: dict[str, Tensor]) -> Tensor:
    places = torch.stack([obs[f"{color}_pos"] for color in COLORS], dim=1)  # [N, 4, 3]
    chosen = torch.tensor([_named_color(row) for row in obs[LANGUAGE]], device=places.device)
    return _towards(obs, places[torch.arange(len(chosen)), chosen], _OPEN)


def _pick_place(obs: dict[str, Tensor]) -> Tensor:
    """The phase follows from where things are; each line below takes precedence over those before it."""
    tool, cube, target = obs["ee_pos"], obs["object_pos"], obs["target_pos"]
    gripper = obs["gripper"][:, 0]
    off_cube, above_cube = _across(tool - cube), (tool[:, 2] - cube[:, 2]).abs()
    off_target = _across(cube - target)
    is_closed = gripper < _touching(obs["object_quat"]) + _TOUCHING
    # Closed fingers hold the cube wherever it is between them.
    is_at_cube = torch.where(
        is_closed, (off_cube < 0.025) & (above_cube < 0.02), (off_cube < 0.012) & (above_cube < 0.012)
    )
    is_held = is_at_cube & is_closed
    is_over_block = off_target < 0.012
    is_down = (cube[:, 2] - target[:, 2]) < 0.006

    goal = torch.where((off_cube < 0.01)[:, None], cube, _above(cube, _OVER))  # descend where the cube is below
    goal = torch.where((is_at_cube & ~is_held)[:, None], tool, goal)  # stand still while the fingers close
    # The cube shall come to the target, wherever in the fingers it is: up, then across, lest it meet the block's side.
    to_target = tool + target - cube
    travel = torch.where(is_over_block[:, None], to_target, _above(to_target, _OVER))
    is_lifted = cube[:, 2] > _TALL + 1.5 * CUBE
    lift = _above(tool, torch.where(cube[:, 2] > 2 * CUBE, 0.1, 0.03))  # gently at first
    carry = torch.where((is_lifted | is_over_block)[:, None], travel, lift)
    goal = torch.where(is_held[:, None], carry, goal)
    grip = torch.where(is_at_cube, _CLOSED, _OPEN)
    is_placed = is_over_block & is_down
    goal = torch.where(is_placed[:, None], _above(tool, torch.where(gripper > 0.75, 0.1, 0.0)), goal)
    grip = torch.where(is_placed, _OPEN, grip)
    return _towards(obs, goal, grip)


EXPERTS: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "robot:reach": _reach,
    "robot:pick_place": _pick_place,
    "robot:language_reach": _language_reach,
}


def _policies(env_id: str) -> dict[str, Callable[[DataSpec], Expert]]:
    return {"expert": lambda spec: Expert(env_id)}


# What `envs.scripted` offers for each environment.
REACH, PICK_PLACE, LANGUAGE_REACH = (_policies(f"robot:{task}") for task in ("reach", "pick_place", "language_reach"))


def _towards(obs: dict[str, Tensor], goal: Tensor, grip: Tensor | float) -> Tensor:
    """Return actions `[N, 4]` that move the tool towards `goal [N, 3]`, no faster than it can, in a straight line."""
    move = (goal - obs["ee_pos"]) * (_GAIN / STEP)
    move = move / move.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
    grips = torch.as_tensor(grip, dtype=move.dtype, device=move.device).expand(len(move))
    return torch.cat([move, grips[:, None]], dim=1)


def _touching(quat: Tensor) -> Tensor:
    """Return the gripper's opening `[N]` at which its fingers meet a cube that is turned as `quat [N, 4]` says."""
    yaw = 2 * torch.atan2(quat[:, 3], quat[:, 0])
    quarter = torch.pi / 2
    turned: Tensor = torch.remainder(yaw + quarter / 2, quarter) - quarter / 2  # one of its four faces is nearest
    half = (CUBE + _FINGER * turned.sin().abs()) / turned.cos()  # metres, at the finger's edge
    opening: Tensor = half / MAX_OPENING
    return opening


def _across(offset: Tensor) -> Tensor:
    """Return horizontal distances `[N]`."""
    distances: Tensor = torch.linalg.vector_norm(offset[:, :2], dim=1)
    return distances


def _above(place: Tensor, height: Tensor | float) -> Tensor:
    """Return places `[N, 3]` that are `height` metres higher."""
    up = torch.zeros_like(place)
    up[:, 2] = height
    return place + up


def _named_color(row: Tensor) -> int:
    text = decode_language(row.cpu().numpy())
    found = [place for place, color in enumerate(COLORS) if color in text.split()]
    if len(found) != 1:
        raise DataError(f"The instruction {text!r} names {len(found)} of {', '.join(COLORS)}; expected one.")
    return found[0]
