"""CartPole: a linear controller that keeps the pole up while the cart travels at a speed of its own.

A cart that travels leaves the track sooner or later, so that the length of an episode says how fast it went.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from worldline.envs.scripted.policy import Setting, expert_and_mixed

SETTINGS: dict[str, Setting] = {
    "speed": Setting(best=0.0, low=-3.0, high=3.0, share=0.9),  # to travel at; with 0 it keeps to the middle
    "lean": Setting(best=0.0, low=-0.15, high=0.15, share=0.3),  # radians to hold the pole at
    "swing_gain": Setting(best=1.0, low=-1.0, high=0.0, share=0.3),
}


def control(obs: Tensor, settings: Mapping[str, Tensor]) -> Tensor:
    """Return 0 (push left) or 1 (push right), `[N]`, for observations `[N, 4]`."""
    x, speed, angle, swing = obs.unbind(1)
    wanted = torch.where(settings["speed"] == 0, -0.3 * x, settings["speed"])
    lean = (0.1 * (wanted - speed)).clamp(-0.1, 0.1) + settings["lean"]
    return (angle - lean + 0.3 * settings["swing_gain"] * swing > 0).long()


POLICIES = expert_and_mixed({"discrete": control}, SETTINGS, skew=0.7)
