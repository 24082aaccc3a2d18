"""Scripted policies by the environment they are for: `worldline collect ENV --policy expert`, or `mixed`.

To add an environment's policies, write a module with a dict `POLICIES` and enter it in `SCRIPTED`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from worldline.episode import DataSpec
from worldline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from worldline.protocols import Policy

# Environment -> the module whose `POLICIES` has a function from the environment's `DataSpec` to a policy, by name;
# after a colon, another name for that dict. Modules are imported when a policy is asked for.
SCRIPTED: dict[str, str] = {
    "CartPole-v1": "worldline.envs.scripted.cart_pole",
    "LunarLander-v3": "worldline.envs.scripted.lunar_lander",
    "Pendulum-v1": "worldline.envs.scripted.pendulum",
    "robot:language_reach": "worldline.envs.robot.experts:LANGUAGE_REACH",
    "robot:pick_place": "worldline.envs.robot.experts:PICK_PLACE",
    "robot:reach": "worldline.envs.robot.experts:REACH",
}

NAMES = ("expert", "mixed")  # what scripted policies are called; an environment may lack one


def scripted_names(env_id: str) -> tuple[str, ...]:
    """Return the names of the scripted policies that an environment has."""
    return tuple(_policies(env_id))


def scripted_policy(name: str, env_id: str, spec: DataSpec) -> Policy:
    """Return the scripted policy `name` of an environment.

    Raises:
        ConfigError: The environment has none of that name, or the policy cannot act in an environment like that.
    """
    policies = _policies(env_id)
    if name not in policies:
        known = nearest(name, policies) if policies else f"Those with some: {', '.join(SCRIPTED)}."
        raise ConfigError(f"{env_id} has no scripted policy {name!r}. {known}")
    return policies[name](spec)


def _policies(env_id: str) -> dict[str, Callable[[DataSpec], Policy]]:
    if env_id not in SCRIPTED:
        return {}
    module, _, name = SCRIPTED[env_id].partition(":")
    policies: dict[str, Callable[[DataSpec], Policy]] = vars(importlib.import_module(module))[name or "POLICIES"]
    return policies
