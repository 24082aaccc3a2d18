"""Run a policy in an environment: success, return and length, with what they are worth."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from simscaleai.models.imitation import ImitationModel
from simscaleai.sim.environments import SimEnv
from worldline.batch import Obs
from worldline.envs.rows import RowEnv
from worldline.episode import Array, DataSpec
from worldline.errors import ConfigError, DataError
from worldline.evaluation import rollout
from worldline.evaluation.video import filming, write_video
from worldline.protocols import Policy

_MAX_ENVS = 16  # that take their steps together


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How to evaluate.

    Raises:
        ConfigError: A count is less than 1.
    """

    n_episodes: int = 20
    max_steps: int = 200  # of an episode; the environment may end it earlier
    deterministic: bool = True  # take the most likely action instead of a sample
    render: bool = False  # render each step, for an environment that shows what it renders
    save_videos: bool = False  # write `video_dir/episode_N.mp4`; of the environment's own rendering
    video_dir: str = "videos"
    seed: int = 1_000_000  # episode i begins with this seed plus i: far from those that demonstrations have

    def __post_init__(self) -> None:
        for name in ("n_episodes", "max_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1; got {value!r}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalResults(Mapping[str, float]):
    """What a policy achieved, and as a mapping the numbers of it: `results["success_rate"]`.

    "success_rate" is there where the environment says in `info["success"]` whether its task is done. Names that end in
    "_low" and "_high" are the ends of 95% intervals: Wilson's of the rate, bootstrap ones of the means.
    """

    episodes: rollout.EvaluationResult  # episode by episode, in the order of their seeds
    videos: tuple[Path, ...] = ()  # of the episodes, where they were asked for

    @property
    def success_rate(self) -> float | None:
        """The share of episodes with success; None where the environment does not speak of it."""
        return self.episodes.success_rate

    @property
    def mean_return(self) -> float:
        """The mean of the undiscounted returns."""
        return self.episodes.mean

    @property
    def mean_length(self) -> float:
        """The mean number of steps."""
        return statistics.fmean(self.episodes.lengths)

    def __getitem__(self, name: str) -> float:
        return self._numbers()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers())

    def __len__(self) -> int:
        return len(self._numbers())

    def _numbers(self) -> dict[str, float]:
        episodes = self.episodes
        numbers: dict[str, float] = {}
        if episodes.success_rate is not None and episodes.success_interval95 is not None:
            low, high = episodes.success_interval95
            numbers = {"success_rate": episodes.success_rate, "success_low": low, "success_high": high}
        for name, mean, (low, high) in (
            ("return", self.mean_return, episodes.interval95),
            ("length", self.mean_length, episodes.length_interval95),
        ):
            numbers |= {f"mean_{name}": mean, f"{name}_low": low, f"{name}_high": high}
        return numbers | {"n_episodes": len(episodes.returns)}


def evaluate_policy(env: gym.Env[Any, Any], policy: Any, config: EvalConfig | None = None) -> EvalResults:
    """Run `policy` for whole episodes and return what it achieved. The environment stays open.

    Args:
        env: What `make_env` makes, of which more are made to take steps together; or any Gymnasium environment, whose
            episodes are run one after the other.
        policy: A function from one observation to one action, such as `model.predict`; a model of `ModelRegistry`; or
            one of Worldline's policies. A model's `predict` stands for the model, which remembers what it has planned.
        config: How.

    Raises:
        ConfigError: The policy is none of these.
        DataError: An action has another shape than the environment takes, or is not finite.
    """
    config = config or EvalConfig()
    films: dict[int, Path] = {}
    make = _maker(env, config)
    if config.save_videos:
        make = filming(make, functools.partial(_save, Path(config.video_dir), films, config.seed), seeds=_seeds(config))
    episodes = rollout.evaluate_policy(
        make,
        _as_policy(policy),
        num_episodes=config.n_episodes,
        seed=config.seed,
        deterministic=config.deterministic,
        num_envs=_MAX_ENVS if isinstance(env, SimEnv) else 1,
    )
    return EvalResults(episodes=episodes, videos=tuple(films[seed] for seed in sorted(films)))


def _maker(env: gym.Env[Any, Any], config: EvalConfig) -> Callable[[], Any]:
    """Return what makes the environments that take their steps together."""
    if isinstance(env, SimEnv):
        settings = {"render_mode": "rgb_array"} if config.save_videos else {}
        return lambda: _Episodes(env.another(**settings), env.data_spec, config, closes=True)
    rows = env if isinstance(env, RowEnv) else RowEnv(env)
    return lambda: _Episodes(rows, rows.data_spec, config, closes=False)


def _seeds(config: EvalConfig) -> range:
    return range(config.seed, config.seed + config.n_episodes)


def _save(folder: Path, films: dict[int, Path], first_seed: int, seed: int, frames: Array) -> None:
    """Write the frames of an episode as a video."""
    films[seed] = write_video(folder / f"episode_{seed - first_seed}.mp4", frames)


class _Episodes(gym.Wrapper[Any, Array, Any, Any]):
    """An environment whose episodes end after `max_steps`."""

    def __init__(self, env: gym.Env[Any, Array], spec: DataSpec, config: EvalConfig, *, closes: bool) -> None:
        super().__init__(env)
        self.data_spec = spec
        self._config = config
        self._closes = closes
        self._num_steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._num_steps = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Array) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._num_steps += 1
        if self._config.render:
            self.env.render()
        is_over = self._num_steps >= self._config.max_steps and not terminated
        return obs, reward, terminated, truncated or is_over, info

    def close(self) -> None:
        if self._closes:
            self.env.close()


class _Function:
    """A function of one observation, as a policy for several."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def act(
        self, obs: Obs, state: Any = None, *, is_first: Tensor | None = None, deterministic: bool = False
    ) -> tuple[Tensor, None]:
        named = {"": obs} if isinstance(obs, Tensor) else obs
        arrays = {name: value.cpu().numpy() for name, value in named.items()}
        rows = [{name: value[row] for name, value in arrays.items()} for row in range(len(next(iter(arrays.values()))))]
        actions = [_action(self._function(row[""] if isinstance(obs, Tensor) else row)) for row in rows]
        return torch.stack(actions), None


def _as_policy(policy: Any) -> Policy:
    owner = policy.__self__ if inspect.ismethod(policy) else None
    if isinstance(owner, ImitationModel) and policy == owner.predict:
        return owner
    if isinstance(policy, Policy):
        return policy
    if callable(policy):
        return _Function(policy)
    raise ConfigError(f"A policy is a function from an observation to an action; got a {type(policy).__name__}.")


def _action(returned: Any) -> Tensor:
    """Return what a function returned as float32, on the CPU."""
    if isinstance(returned, Tensor):
        return returned.detach().to("cpu", torch.float32)
    try:
        return torch.from_numpy(np.array(returned).astype(np.float32, casting="same_kind"))
    except (TypeError, ValueError) as error:  # no numbers at all, or rows of different lengths
        raise DataError(
            f"The policy returned a {type(returned).__name__} that is no row of numbers; expected an action [A], an "
            "array or a tensor."
        ) from error
