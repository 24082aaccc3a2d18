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

# Environment -> the module whose `POLICIES` has a function from the environment's `DataSpec` to a policy, by name.
# Modules are imported when a policy is asked for.
SCRIPTED: dict[str, str] = {
    "CartPole-v1": "worldline.envs.scripted.cart_pole",
    "LunarLander-v3": "worldline.envs.scripted.lunar_lander",
    "Pendulum-v1": "worldline.envs.scripted.pendulum",
}


def scripted_policy(name: str, env_id: str, spec: DataSpec) -> Policy:
    """Return the scripted policy `name` of an environment.

    Raises:
        ConfigError: The environment has none of that name, or the policy cannot act in an environment like that.
    """
    if env_id not in SCRIPTED:
        raise ConfigError(
            f"{env_id} has no scripted policy {name!r}; {', '.join(SCRIPTED)} have some. Use --policy random, or the "
            "folder of a trained model (./NAME if it is called like that)."
        )
    policies: dict[str, Callable[[DataSpec], Policy]] = importlib.import_module(SCRIPTED[env_id]).POLICIES
    if name not in policies:
        raise ConfigError(f"{env_id} has no scripted policy {name!r}. {nearest(name, policies)}")
    return policies[name](spec)
