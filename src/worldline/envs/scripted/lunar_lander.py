"""LunarLander: the controller that comes with Gymnasium, with its numbers as settings.

Poor settings make it land beside the pad, hover, burn fuel for nothing, tumble or fall. Returns go from about -600 to
320.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from worldline.envs.scripted.policy import Setting, expert_and_mixed

SETTINGS: dict[str, Setting] = {
    "target": Setting(best=0.0, low=-0.8, high=0.8, share=0.5),  # where to land; the pad is at 0
    "tilt": Setting(best=0.0, low=-0.6, high=0.6, share=0.3),  # radians added to the angle aimed at
    "height": Setting(best=0.0, low=-0.3, high=0.4),  # added to the height aimed at
    "drift_gain": Setting(best=1.0, low=-1.0, high=0.0),
    "place_gain": Setting(best=1.0, low=-1.0, high=0.0),
    "angle_gain": Setting(best=1.0, low=-1.6, high=0.0),
    "spin_gain": Setting(best=1.0, low=-1.2, high=0.0, share=0.3),
    "height_gain": Setting(best=1.0, low=-1.0, high=0.0, share=0.3),
    "fall_gain": Setting(best=1.0, low=-1.5, high=0.0),
}


def control(obs: Tensor, settings: Mapping[str, Tensor]) -> Tensor:
    """Return the main and the side engine's thrust `[N, 2]` for observations `[N, 8]`."""
    hover, turn = _wanted(obs, settings)
    return torch.stack([hover * 20 - 1, -turn * 20], 1).clamp(-1.0, 1.0)


def control_discrete(obs: Tensor, settings: Mapping[str, Tensor]) -> Tensor:
    """Return which engine to fire `[N]`: 0 none, 1 left, 2 main, 3 right."""
    hover, turn = _wanted(obs, settings)
    side = torch.where(turn < -0.05, 3, torch.where(turn > 0.05, 1, 0))
    return torch.where((hover > turn.abs()) & (hover > 0.05), 2, side)


def _wanted(obs: Tensor, settings: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return how much to rise and how much to turn, each `[N]`."""
    x, y, drift, rise, angle, spin, left, right = obs.unbind(1)
    offset = x - settings["target"]
    aim = 0.5 * settings["place_gain"] * offset + settings["drift_gain"] * drift
    aim = aim.clamp(-0.4, 0.4) + settings["tilt"]
    height = 0.55 * offset.abs() + settings["height"]
    turn = 0.5 * settings["angle_gain"] * (aim - angle) - settings["spin_gain"] * spin
    brake = -0.5 * settings["fall_gain"] * rise
    stands = (left > 0) | (right > 0)
    return (
        torch.where(stands, brake, 0.5 * settings["height_gain"] * (height - y) + brake),
        torch.where(stands, 0.0, turn),
    )


POLICIES = expert_and_mixed({"continuous": control, "discrete": control_discrete}, SETTINGS, skew=0.6)
