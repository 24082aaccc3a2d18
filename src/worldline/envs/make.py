"""Make environments by name. One file per environment family; this one only chooses among them."""

from __future__ import annotations

from typing import Any

from worldline.envs.gymnasium_envs import make_gymnasium
from worldline.envs.rows import RowEnv


def make_env(env_id: str, **settings: Any) -> RowEnv:
    """Make an environment.

    Args:
        env_id: A Gymnasium id ("CartPole-v1"), or "module:Id" for ids that importing `module` registers.
        **settings: Keywords of `gymnasium.make` and of the environment (`max_episode_steps`, `render_mode`, ...).

    Returns:
        The environment, stepped with rows `[A]` of `Batch.actions`; `env.data_spec` has the shapes.

    Raises:
        ConfigError: No such environment (with the nearest ids), or a keyword it does not know.
        MissingPackageError: The environment needs a package that is not installed.
        DataError: Its observations or actions are of a kind that Worldline cannot learn from.
    """
    return RowEnv(make_gymnasium(env_id, **settings))
