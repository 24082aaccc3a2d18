"""Pendulum: pump energy until the pendulum is nearly up, then hold it there (Åström & Furuta 2000).

Poor settings pump too little or too much, brake, or hold it beside the top.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from worldline.envs.scripted.policy import Setting, expert_and_mixed

SETTINGS: dict[str, Setting] = {
    "pump_gain": Setting(best=1.0, low=-1.5, high=0.0, share=0.6),
    "energy": Setting(best=1.0, low=-1.0, high=0.5, share=0.5),  # that of standing still on top is 1
    "lean": Setting(best=0.0, low=-0.8, high=0.8),  # radians to hold the pendulum at
    "hold_gain": Setting(best=1.0, low=-1.0, high=0.0),
}


def control(obs: Tensor, settings: Mapping[str, Tensor]) -> Tensor:
    """Return the torque `[N, 1]` for observations `[N, 3]`: cosine and sine of the angle, and speed."""
    cosine, sine, speed = obs.unbind(1)
    energy = speed.square() / 30.0 + cosine  # 1 on top, -1 at rest below; g = 10, length 1, inertia 1/3
    pump = 2.0 * settings["pump_gain"] * (settings["energy"] - energy) * speed.sign()
    angle = torch.atan2(sine, cosine)
    hold = -settings["hold_gain"] * (8.0 * (angle - settings["lean"]) + 2.0 * speed)
    near = (angle.abs() < 0.6) & (settings["hold_gain"] > 0)
    return torch.where(near, hold, pump).clamp(-1.0, 1.0)[:, None]


POLICIES = expert_and_mixed({"continuous": control}, SETTINGS, skew=0.8)
