"""Run a policy in environments: episodes in lockstep, and what they returned.

Several environments take their steps together, so that the policy is asked once per step for all of them. An
environment whose episode has ended begins the next one in the same place of the batch, until none are left; then its
place stays in the batch, unused. Episode number i is always seeded by `seed + i`, wherever it runs.

What an environment says in `info` of an episode goes into its `meta`: "success" and "crashed", whether each was True at
any step, and "language", the instruction at its beginning. What an environment does not say is not there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, SupportsFloat, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from worldline.batch import Obs
from worldline.device import device_of
from worldline.episode import Array, DataSpec, Episode, ObsArray
from worldline.errors import ConfigError
from worldline.evaluation.statistics import Interval, mean_interval95, wilson_interval
from worldline.memory import keep_freed_memory
from worldline.mode import measuring
from worldline.protocols import Policy, Rewarded, Samples


@runtime_checkable
class Environment(Protocol):
    """What is stepped here: Gymnasium's interface with actions as rows `[A]`. `envs.make.make_env` makes them."""

    data_spec: DataSpec

    def reset(self, *, seed: int | None = None) -> tuple[ObsArray, dict[str, Any]]: ...

    def step(self, action: Array) -> tuple[ObsArray, SupportsFloat, bool, bool, dict[str, Any]]: ...

    def close(self) -> None: ...


OnEpisode = Callable[[Episode], None]

SUCCESS, CRASHED, LANGUAGE = "success", "crashed", "language"  # keys of `info` and of the meta of episodes


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What a policy achieved, episode by episode in the order of their seeds."""

    returns: tuple[float, ...]  # undiscounted sum of rewards of each episode
    lengths: tuple[int, ...]  # steps of each episode
    successes: tuple[bool, ...] | None = None  # of each episode; None where the environment does not speak of success
    crashes: tuple[bool, ...] | None = None  # of each episode; None where the environment does not speak of crashes
    timeouts: tuple[bool, ...] | None = None  # whether time ran out in each episode; None where that was not noted

    @classmethod
    def from_episodes(cls, episodes: Sequence[Episode]) -> EvaluationResult:
        """Return what was achieved in `episodes`; success and crashes are in the `meta` of all of them, or unknown."""
        return cls(
            returns=tuple(float(episode.rewards.sum(dtype=np.float64)) for episode in episodes),
            lengths=tuple(len(episode) for episode in episodes),
            successes=_said(SUCCESS, episodes),
            crashes=_said(CRASHED, episodes),
            timeouts=tuple(episode.truncated and not episode.terminated for episode in episodes),
        )

    @property
    def mean(self) -> float:
        """Mean return."""
        return statistics.fmean(self.returns)

    @property
    def std(self) -> float:
        """Standard deviation of the returns (of the sample, n - 1); 0 for a single episode."""
        return statistics.stdev(self.returns) if len(self.returns) > 1 else 0.0

    @property
    def interval95(self) -> Interval:
        """95% confidence interval of the mean return; a single episode tells nothing: (-inf, inf)."""
        return mean_interval95(self.returns)

    @property
    def length_interval95(self) -> Interval:
        """95% confidence interval of the mean length; a single episode tells nothing: (-inf, inf)."""
        return mean_interval95(self.lengths)

    @property
    def success_rate(self) -> float | None:
        """The share of episodes with success; None where the environment does not speak of it."""
        return None if self.successes is None else statistics.fmean(self.successes)

    @property
    def success_interval95(self) -> Interval | None:
        """95% confidence interval of the success rate by Wilson; None where there is no rate."""
        return None if self.successes is None else wilson_interval(sum(self.successes), len(self.successes))

    @property
    def outcomes(self) -> dict[str, tuple[bool, ...]]:
        """Success, crash and timeout of each episode, by these names; nothing where crashes are not known."""
        if self.crashes is None:
            return {}
        found = {"success": self.successes, "crash": self.crashes, "timeout": self.timeouts}
        return {name: values for name, values in found.items() if values is not None}


def evaluate_policy(
    make: Callable[[], Environment],
    policy: Policy,
    *,
    num_episodes: int = 20,
    seed: int = 0,
    deterministic: bool | None = None,
    num_envs: int = 32,
    device: torch.device | str | None = None,
    on_episode: OnEpisode | None = None,
) -> EvaluationResult:
    """Run `policy` for `num_episodes` whole episodes and return what it achieved.

    The arguments are those of `collect_episodes`, but that `deterministic=None` lets the policy act as it is meant to.
    """
    episodes = collect_episodes(
        make,
        policy,
        num_episodes=num_episodes,
        seed=seed,
        deterministic=acts_deterministically(policy) if deterministic is None else deterministic,
        num_envs=num_envs,
        device=device,
        on_episode=on_episode,
    )
    return EvaluationResult.from_episodes(episodes)


def acts_deterministically(policy: Policy) -> bool:
    """Return whether a policy is meant to take its likeliest actions, which is so unless it says otherwise."""
    return not (isinstance(policy, Samples) and policy.samples_actions)


def collect_episodes(
    make: Callable[[], Environment],
    policy: Policy,
    *,
    num_episodes: int,
    seed: int = 0,
    deterministic: bool = False,
    num_envs: int = 32,
    device: torch.device | str | None = None,
    on_episode: OnEpisode | None = None,
) -> list[Episode]:
    """Run `policy` for `num_episodes` whole episodes and return them in the order of their seeds.

    The same arguments give the same episodes; torch's default generator is left as it was.

    Args:
        make: Makes one environment; called `min(num_envs, num_episodes)` times.
        policy: Chooses actions; a module is in evaluation mode meanwhile.
        num_episodes: How many episodes to run.
        seed: Episode i resets its environment with `seed + i`; the policy's own noise is seeded by `seed`.
        deterministic: Ask the policy for its most likely action instead of a sample.
        num_envs: How many environments take their steps together.
        device: Where the policy wants its observations; None means where a module's parameters are, else the CPU.
        on_episode: Called with each episode when it ends, for progress.

    Raises:
        ConfigError: A count is not positive, or `make` does not make what `make_env` makes.
    """
    for name, count in (("num_episodes", num_episodes), ("num_envs", num_envs)):
        if count < 1:
            raise ConfigError(f"{name} must be at least 1; got {count}.")
    with contextlib.ExitStack() as stack:
        envs = [_opened(make, stack) for _ in range(min(num_envs, num_episodes))]
        stack.enter_context(measuring(policy, seed=seed))
        places = _Places(envs, num_episodes=num_episodes, seed=seed, on_episode=on_episode)
        where = device_of(policy) if device is None else torch.device(device)
        if isinstance(policy, nn.Module):
            keep_freed_memory(where.type)
        state: Any = None
        wants_rewards = policy if isinstance(policy, Rewarded) else None
        while places.are_running:
            is_first = torch.from_numpy(places.is_first.copy()).to(where)
            actions, state = policy.act(
                _to_tensors(places.obs, where), state, is_first=is_first, deterministic=deterministic
            )
            rewards = places.step(actions.detach().to("cpu", torch.float32).numpy())
            if wants_rewards is not None:
                state = wants_rewards.after_step(state, torch.from_numpy(rewards).to(where))
    return places.episodes()


class RandomPolicy:
    """Uniformly random actions: the yardstick, and where data begins.

    Draws from torch's default generator, as models do, so that one seed covers both.
    """

    def __init__(self, spec: DataSpec) -> None:
        self._spec = spec

    def act(
        self, obs: Obs, state: Any = None, *, is_first: Tensor | None = None, deterministic: bool = False
    ) -> tuple[Tensor, Any]:
        """Return random actions `[N, A]`; see `protocols.Policy`. Of these, none is likelier than another."""
        first = next(iter(obs.values())) if isinstance(obs, dict) else obs
        num = first.shape[0]
        if self._spec.action_type == "continuous":
            return torch.rand(num, self._spec.action_dim) * 2.0 - 1.0, None
        choices = [
            nn.functional.one_hot(torch.randint(size, (num,)), size) for size in self._spec.action_sizes
        ]  # each [N, size]
        return torch.cat(choices, dim=1).float(), None


class _Places:
    """The environments of a lockstep run, the episode that each one is in, and those that are finished."""

    def __init__(self, envs: list[Environment], *, num_episodes: int, seed: int, on_episode: OnEpisode | None) -> None:
        self._envs = envs
        self._seed = seed
        self._num_episodes = num_episodes
        self._on_episode = on_episode
        self._num_begun = 0
        self._finished: dict[int, Episode] = {}
        self._running: dict[int, _Recording] = {}  # by place
        self.obs: list[ObsArray] = []  # N observations, the last one where a place is not running any more
        self.is_first = np.zeros(len(envs), dtype=np.bool_)  # [N]
        for place in range(len(envs)):
            self.obs.append(self._begin(place))

    @property
    def are_running(self) -> bool:
        return bool(self._running)

    def step(self, actions: Array) -> Array:
        """Take one step with `actions [N, A]` in every place that is running, and return the rewards `[N]`."""
        self.is_first[:] = False
        rewards = np.zeros(len(self._envs), dtype=np.float32)
        for place, recording in list(self._running.items()):
            obs, reward, terminated, truncated, info = self._envs[place].step(actions[place])
            rewards[place] = float(reward)
            recording.add(self.obs[place], actions[place], float(reward), info)
            self.obs[place] = obs
            if terminated or truncated:
                self._end(place, terminated=terminated, truncated=truncated)
        return rewards

    def episodes(self) -> list[Episode]:
        return [self._finished[number] for number in range(self._num_episodes)]

    def _begin(self, place: int) -> ObsArray:
        number = self._num_begun
        self._num_begun += 1
        self.is_first[place] = True
        obs, info = self._envs[place].reset(seed=self._seed + number)
        self._running[place] = _Recording(number, seed=self._seed + number, info=info)
        return obs

    def _end(self, place: int, *, terminated: bool, truncated: bool) -> None:
        recording = self._running.pop(place)
        episode = recording.finish(self.obs[place], terminated=terminated, truncated=truncated)
        self._finished[recording.number] = episode
        if self._on_episode is not None:
            self._on_episode(episode)
        if self._num_begun < self._num_episodes:
            self.obs[place] = self._begin(place)


class _Recording:
    """The rows of an episode that is still running."""

    def __init__(self, number: int, *, seed: int, info: Mapping[str, Any]) -> None:
        self.number = number
        self._meta: dict[str, Any] = {"seed": seed}
        if isinstance(language := info.get(LANGUAGE), str):
            self._meta[LANGUAGE] = language
        self._obs: list[ObsArray] = []
        self._actions: list[Array] = []
        self._rewards: list[float] = []

    def add(self, obs: ObsArray, action: Array, reward: float, info: Mapping[str, Any]) -> None:
        """Add a row: the observation, the action taken there, the reward and info that followed."""
        for key in (SUCCESS, CRASHED):
            if key in info:
                self._meta[key] = self._meta.get(key, False) or bool(info[key])
        self._obs.append(obs)
        self._actions.append(np.clip(action, -1.0, 1.0))  # what the environment was given
        self._rewards.append(reward)

    def finish(self, final_obs: ObsArray, *, terminated: bool, truncated: bool) -> Episode:
        return Episode(
            obs=_stack(self._obs),
            actions=np.stack(self._actions),
            rewards=np.array(self._rewards, dtype=np.float32),
            terminated=terminated,
            truncated=truncated,
            final_obs=final_obs,
            meta=self._meta,
        )


def _said(key: str, episodes: Sequence[Episode]) -> tuple[bool, ...] | None:
    """Return what the meta of every episode says; None where one does not say it."""
    has_all = all(key in episode.meta for episode in episodes)
    return tuple(bool(episode.meta[key]) for episode in episodes) if has_all else None


def _opened(make: Callable[[], Environment], stack: contextlib.ExitStack) -> Environment:
    env = make()
    if not isinstance(env, Environment):
        raise ConfigError(
            f"make() returned {env!r}, which does not take actions as rows. "
            "Return worldline.envs.make.make_env(...), or wrap your environment in worldline.envs.rows.RowEnv."
        )
    stack.callback(env.close)
    return env


def _stack(items: list[ObsArray]) -> ObsArray:
    """Return observations `[*obs]` stacked to `[N, *obs]`, key by key where they are dicts."""
    if isinstance(items[0], dict):
        dicts = cast("list[dict[str, Array]]", items)
        return {key: np.stack([item[key] for item in dicts]) for key in dicts[0]}
    return np.stack(cast("list[Array]", items))


def _to_tensors(items: list[ObsArray], device: torch.device) -> Obs:
    stacked = _stack(items)
    if isinstance(stacked, dict):
        return {key: torch.from_numpy(value).to(device) for key, value in stacked.items()}
    return torch.from_numpy(stacked).to(device)
