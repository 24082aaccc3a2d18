"""Learning online: from an environment to the sampler that `worldline train --env` learns from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldline.cli.options import EnvSettings, parse_env_settings
from worldline.errors import ConfigError

if TYPE_CHECKING:
    from worldline.data.buffer import ReplayBuffer
    from worldline.data.online import OnlineSampler
    from worldline.episode import DataSpec
    from worldline.models.base import Model

REPLAY = "replay"  # the folder of collected episodes in that of a run
EVALUATION_SEED = 1_000_000  # as `worldline eval` has it, so that its numbers are those of the log


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """What learning online depends on. A step of the environment is one transition, after any action repeat."""

    env: str = ""
    """An environment to learn from online, such as CartPole-v1 or dmc:walker-walk; with --data, after its episodes."""
    env_settings: EnvSettings = ()
    env_steps: int = 0
    """Environment steps of the whole run, over all environments; they decide the number of optimiser steps."""
    num_envs: int = 1
    """How many environments take their steps together."""
    replay_ratio: float = 1.0
    """Optimiser steps per environment step."""
    seed_steps: int = 1000
    """Environment steps with random actions before the first optimiser step."""
    replay_capacity: int = 1_000_000
    """The most steps to keep; the oldest episodes make room."""
    eval_episodes: int = 10
    """Episodes of each evaluation, every --eval-interval optimiser steps; 0 for none."""

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return max(1, math.floor((self.env_steps - self.seed_steps) * self.replay_ratio))

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords of `make_env`."""
        return parse_env_settings(self.env_settings)


FREE = frozenset({"env_steps", "eval_episodes"})  # what a run may be resumed with other values of


def check(config: OnlineConfig) -> None:
    """Check the numbers.

    Raises:
        ConfigError: One is out of range.
    """
    for name, least in (("num_envs", 1), ("seed_steps", 0), ("replay_capacity", 1), ("eval_episodes", 0)):
        if getattr(config, name) < least:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}; got {getattr(config, name)}.")
    if not 0 < config.replay_ratio < math.inf:
        raise ConfigError(f"--replay-ratio must be above 0; got {config.replay_ratio}.")
    if config.env_steps <= config.seed_steps:
        raise ConfigError(
            f"--env {config.env} needs --env-steps above the {config.seed_steps} of --seed-steps; got "
            f"{config.env_steps}."
        )


def shortened(config: OnlineConfig, *, num_steps: int) -> OnlineConfig:
    """Return the settings of a run of a few (at least `num_steps`) optimiser steps, to see that it works."""
    seed_steps = min(config.seed_steps, 10)
    return dataclasses.replace(
        config,
        seed_steps=seed_steps,
        env_steps=seed_steps + math.ceil(num_steps / config.replay_ratio),
        eval_episodes=min(config.eval_episodes, 2),
    )


def open_buffer(config: OnlineConfig, offline: ReplayBuffer | None) -> ReplayBuffer:
    """Return the buffer for what the environment will give, with the episodes of `offline` in it.

    Raises:
        ConfigError: They are of another environment.
    """
    from worldline.data.buffer import ReplayBuffer

    spec = env_spec(config)
    if offline is None:
        return ReplayBuffer(config.replay_capacity, spec.obs_shape, spec.action_dim, action_sizes=spec.action_sizes)
    if offline.spec != spec:
        raise ConfigError(
            f"The data is of another environment than --env {config.env}: {offline.spec}, not {spec}. Collect it there."
        )
    return ReplayBuffer.from_episodes(
        offline.episodes(),
        action_dim=spec.action_dim,
        action_sizes=spec.action_sizes,
        capacity=max(config.replay_capacity, offline.num_transitions),
    )


def open_sampler(config: OnlineConfig, model: Model, buffer: ReplayBuffer, *, seed: int, out: Path) -> OnlineSampler:
    """Return the sampler that steps the environment with `model`.

    Raises:
        ConfigError: The model does not act.
    """
    from worldline.data.online import OnlineSampler
    from worldline.envs.make import make_vec_env
    from worldline.evaluation.rollout import RandomPolicy
    from worldline.protocols import Policy

    if not isinstance(model, Policy):
        raise ConfigError(
            f"{model.family} does not choose actions by itself, so it cannot learn online. Leave out --env."
        )
    env = make_vec_env(config.env, config.num_envs, **config.settings)
    return OnlineSampler(
        env,
        model,
        buffer,
        seed_policy=RandomPolicy(env.data_spec),
        seed_steps=config.seed_steps,
        replay_ratio=config.replay_ratio,
        seed=seed,
        replay_dir=out / REPLAY,
    )


def make_evaluation(config: OnlineConfig, sampler: OnlineSampler) -> Callable[[Any, int], Mapping[str, float]]:
    """Return what `EvaluationCallback` calls: whole episodes of the model's likeliest actions, always the same ones."""
    from worldline.envs.make import make_env
    from worldline.evaluation.rollout import evaluate_policy

    settings = config.settings

    def evaluate(model: Any, step: int) -> Mapping[str, float]:
        with sampler.paused():
            result = evaluate_policy(
                lambda: make_env(config.env, **settings),
                model,
                num_episodes=config.eval_episodes,
                seed=EVALUATION_SEED,
            )
        low, high = result.interval95
        rate = result.success_rate
        return {
            **({} if rate is None else {"success_rate": rate}),
            "return": result.mean,
            "return_std": result.std,
            "return_low95": low,
            "return_high95": high,
            "length": sum(result.lengths) / len(result.lengths),
        }

    return evaluate


def env_spec(config: OnlineConfig) -> DataSpec:
    """Return what one step of the environment looks like."""
    from worldline.envs.make import make_env

    env = make_env(config.env, **config.settings)
    env.close()
    return env.data_spec
