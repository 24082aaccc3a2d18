"""Environments that Gymnasium knows by id, with errors that say what to do."""

from __future__ import annotations

import difflib
import os
import sys
from typing import Any

import gymnasium as gym
from gymnasium import error as gym_error

from worldline.envs.wrappers import Landing
from worldline.errors import ConfigError, MissingPackageError

# Words in an environment's entry point -> the pip line that installs what it imports.
_INSTALL = {
    "mujoco": "pip install 'worldline[robotics]'",
    "box2d": "pip install 'worldline[box2d]'",
    "classic_control": "pip install 'worldline[envs]'",
    "toy_text": "pip install 'worldline[envs]'",
    "ale_py": "pip install 'gymnasium[atari]'",
}


def make_gymnasium(env_id: str, **settings: Any) -> gym.Env[Any, Any]:
    """Make the environment that Gymnasium registers as `env_id`, headless unless `render_mode` says otherwise.

    LunarLander says in its info how it ended; see `wrappers.Landing`.

    Raises:
        ConfigError: No such id (with the nearest ones), or a setting that it does not know.
        MissingPackageError: The environment needs a package that is not installed; the message has the pip line.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # or pygame complains of the display that is not there
    try:
        env = gym.make(env_id, **settings)
    except gym_error.DependencyNotInstalled as error:
        raise _missing(env_id, error) from error
    except ImportError as error:
        raise _missing(env_id, error) from error
    except (gym_error.UnregisteredEnv, gym_error.DeprecatedEnv) as error:
        raise ConfigError(f"There is no environment {env_id!r}. {_nearest_ids(env_id)}") from error
    except (gym_error.Error, TypeError) as error:
        raise ConfigError(f"Gymnasium cannot make {env_id!r}: {error}") from error
    return Landing(env) if env.spec is not None and str(env.spec.entry_point).endswith(":LunarLander") else env


def _nearest_ids(env_id: str) -> str:
    """Return the newest versions of the ids nearest to `env_id`; the whole registry is too long to print."""
    newest: dict[str, str] = {}
    for known in sorted(gym.registry, key=lambda known: gym.registry[known].version or 0):
        newest[known.rpartition("-v")[0].lower()] = known
    stem = env_id.rpartition("-v")[0] or env_id
    near = difflib.get_close_matches(stem.lower(), newest, n=3, cutoff=0.6)
    if not near:
        return (
            "gymnasium.pprint_registry() prints the ids there are; 'module:Id' imports the module that registers one."
        )
    return f"Did you mean {' or '.join(newest[name] for name in near)}?"


def _missing(env_id: str, error: Exception) -> MissingPackageError:
    spec = gym.registry.get(env_id.rpartition(":")[2])
    entry_point = str(spec.entry_point) if spec else env_id
    line = next((line for word, line in _INSTALL.items() if word in entry_point), "")
    fix = f" Install it with: {line}" if line else ""
    return MissingPackageError(f"{env_id} needs a package that is not installed ({error}).{fix}")
