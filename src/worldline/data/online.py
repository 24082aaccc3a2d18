"""OnlineSampler: steps environments with the policy that is being trained, and samples from what they gave.

It is a `Sampler` that can `seek`, so the trainer does not know it from a replay buffer. Before it gives the batch of
optimiser step t (0-based), it has taken `seed_steps + ceil((t + 1) / replay_ratio)` environment steps (rounded up to
whole steps of all N environments): at first random ones, then those of the policy as it is at that moment. An episode
enters the buffer when it ends; until the first has ended, collection goes on.

Everything is a function of the seed: an episode's beginning, the noise of each action (a stream of its own of torch's
generators, which are left as they were) and the order of the batches. So a killed run goes on exactly from a checkpoint
with `state_dict` in it:

- finished episodes are in files beside the checkpoints, each written once (`replay_log.py`);
- episodes that are going on are begun again with their seeds, and their actions are taken again. Where that leads to
  other observations or rewards, because an environment does not take all its chance from `reset(seed=)`, a warning says
  so, the steps of that episode so far are dropped and a new one begins: such a run goes on, but not exactly;
- what the policy remembers is saved.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from worldline.batch import PLAIN_WINDOWS, Batch, Obs, WindowSpec
from worldline.data.buffer import ReplayBuffer
from worldline.data.policy_state import pack, tensors_of, unpack, with_tensors
from worldline.data.replay_log import ReplayLog
from worldline.device import device_of
from worldline.episode import Array, DataSpec, Episode, ObsArray, named_obs, unnamed_obs
from worldline.errors import ConfigError
from worldline.mode import evaluating, measuring
from worldline.protocols import Policy
from worldline.seeding import continuing, isolated, rng_state


class VectorEnvironment(Protocol):
    """What is stepped: `envs.make.make_vec_env` makes it, and `envs/vector.py` says what it returns."""

    num_envs: int
    data_spec: DataSpec
    episode_seeds: list[int | None]
    next_seed: int | None

    def reset(self, *, seed: int | None = None) -> tuple[ObsArray, dict[str, Any]]: ...

    def step(self, actions: Array) -> tuple[ObsArray, Array, Array, Array, dict[str, Any]]: ...

    def restore(
        self, episodes: Sequence[tuple[int, Array]], *, next_seed: int
    ) -> list[tuple[list[ObsArray], list[float]]]: ...

    def begin(self, place: int) -> ObsArray: ...


class OnlineSampler:
    """Collects and samples; see above.

    Attributes:
        buffer: What is sampled. It may hold episodes from elsewhere already: offline data, then online.
        env_steps: Transitions taken so far, over all environments.
        num_episodes: Episodes finished so far.

    Args:
        env: The environments.
        policy: Who acts after the seed steps: the model that is trained.
        buffer: Where episodes go.
        seed_policy: Who acts during the seed steps: `evaluation.rollout.RandomPolicy`.
        seed_steps: Environment steps before the first optimiser step, over all environments.
        replay_ratio: Optimiser steps per environment step.
        seed: Of the environments and of the actions' noise.
        replay_dir: Where finished episodes are saved with a checkpoint; None if there will be none.

    Raises:
        ConfigError: A number is out of range.
    """

    def __init__(
        self,
        env: VectorEnvironment,
        policy: Policy,
        buffer: ReplayBuffer,
        *,
        seed_policy: Policy,
        seed_steps: int = 1000,
        replay_ratio: float = 1.0,
        seed: int = 0,
        replay_dir: Path | None = None,
    ) -> None:
        if seed_steps < 0 or not 0 < replay_ratio < math.inf or seed < 0:
            raise ConfigError(
                f"OnlineSampler needs seed_steps and seed from 0 on and a replay_ratio above 0; got {seed_steps}, "
                f"{seed} and {replay_ratio}."
            )
        self.buffer = buffer
        self.env_steps = 0
        self.num_episodes = 0
        self._env = env
        self._policy = policy
        self._seed_policy = seed_policy
        self._seed_steps = seed_steps
        self._replay_ratio = replay_ratio
        self._first_seed, self._noise_seed = (int(n) >> 2 for n in np.random.SeedSequence((seed, 1)).generate_state(2))
        self._log = None if replay_dir is None else ReplayLog(replay_dir, env.data_spec)
        self._seek_seed, self._step = 0, 0
        self._obs: ObsArray | None = None  # [N, *obs] to act on; None before the first step
        self._is_first = np.ones(env.num_envs, dtype=np.bool_)  # [N]
        self._state: Any = None  # what the policy remembers
        self._rng: dict[str, Tensor] = {}  # where the stream of the actions' noise is, as `seeding.rng_state` has it
        self._was_seeding = True  # the seed policy took the last step
        self._open = [_Recording() for _ in range(env.num_envs)]
        self._clock = _Clock()

    def seek(self, *, seed: int, step: int) -> None:
        """Make the next `sample` the one of optimiser step `step` (0-based), its windows drawn under `seed`."""
        self.buffer.seek(seed=seed, step=step)
        self._seek_seed, self._step = seed, step

    def sample(
        self,
        batch_size: int,
        seq_len: int | None = None,
        device: str | torch.device = "cpu",
        *,
        windows: WindowSpec = PLAIN_WINDOWS,
    ) -> Batch:
        """Take the environment steps that are due, and return the windows of the current optimiser step.

        Raises:
            DataError: The environment gave NaN, or an episode is longer than the buffer.
        """
        with self._clock.collecting():
            due = self._seed_steps + math.ceil((self._step + 1) / self._replay_ratio)
            while self.env_steps < due or self.buffer.num_episodes == 0:
                self._collect()
        self.buffer.seek(seed=self._seek_seed, step=self._step)
        batch = self.buffer.sample(batch_size, seq_len, device, windows=windows)
        self._step += 1
        self._clock.num_samples += 1
        return batch

    def metrics(self) -> dict[str, float]:
        """Return what happened since the last call, for the log.

        "env_steps" and "episodes" are totals. "collect/return" and "collect/length" are means of the episodes that
        ended, if any. "collect/steps_per_second" counts environment steps in the time spent collecting,
        "learn/steps_per_second" optimiser steps in the remaining time.
        """
        totals = {"env_steps": float(self.env_steps), "episodes": float(self.num_episodes)}
        return {**totals, **self._clock.read()}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time that the body takes (an evaluation) out of `metrics`."""
        with self._clock.paused():
            yield

    def state_dict(self) -> dict[str, Any]:
        """Write new episodes to `replay_dir`, and return all else that a resumed run needs as plain JSON values.

        Raises:
            ConfigError: There is no `replay_dir`.
            FileError: The episodes cannot be written.
        """
        if self._log is None:
            raise ConfigError("An OnlineSampler needs a replay_dir to be saved with a checkpoint.")
        arrays: dict[str, Array] = {"is_first": self._is_first}
        for place, recording in enumerate(self._open):
            arrays[f"actions.{place}"] = recording.actions_array(self._env.data_spec.action_dim)
            arrays[f"rewards.{place}"] = np.array(recording.rewards, dtype=np.float64)
        if self._obs is not None:
            arrays |= {f"now.{name}": np.ascontiguousarray(value) for name, value in named_obs(self._obs).items()}
        arrays |= {f"rng.{name}": tensor.numpy() for name, tensor in self._rng.items()}
        for index, tensor in enumerate(tensors_of(self._state)):
            arrays[f"policy.{index}"] = tensor.detach().to("cpu").contiguous().numpy()
        return {
            "env_steps": self.env_steps,
            "num_episodes": self.num_episodes,
            "episode_seeds": self._env.episode_seeds,
            "next_seed": self._env.next_seed,
            "has_begun": self._obs is not None,
            "was_seeding": self._was_seeding,
            "arrays": pack(arrays),
            "replay": self._log.save(num_kept=self.buffer.num_episodes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; the buffer must hold what it held before the first step.

        Raises:
            ConfigError: There is no `replay_dir`.
            FileError: An episode file is missing or damaged.
            DataError: The state is damaged, or that of another policy.
        """
        if self._log is None:
            raise ConfigError("An OnlineSampler needs a replay_dir to go on from a checkpoint.")
        for episode in self._log.load(state["replay"]):
            self.buffer.add(episode)
        self.env_steps, self.num_episodes = state["env_steps"], state["num_episodes"]
        self._was_seeding = state["was_seeding"]
        arrays = unpack(state["arrays"])
        if not state["has_begun"]:
            return
        self._is_first = arrays["is_first"].copy()
        self._rng = {name: torch.from_numpy(value.copy()) for name, value in _named(arrays, "rng.")}
        self._restore_episodes(state, arrays)
        saved = [torch.from_numpy(arrays[f"policy.{index}"].copy()) for index in range(len(_named(arrays, "policy.")))]
        if saved:
            policy = self._seed_policy if self._was_seeding else self._policy
            with measuring(policy, seed=0):
                _, template = self._ask(policy, None, np.ones_like(self._is_first))
            self._state = with_tensors(template, saved)

    def _collect(self) -> None:
        """Take one step in every environment."""
        env = self._env
        if self._obs is None:
            self._obs, _ = env.reset(seed=self._first_seed)
        is_seeding = self.env_steps < self._seed_steps
        policy = self._seed_policy if is_seeding else self._policy
        is_first = self._is_first
        if is_seeding != self._was_seeding:  # another policy, which has seen nothing of these episodes
            self._state, is_first, self._was_seeding = None, np.ones_like(is_first), is_seeding
        if not self._rng:
            with isolated(self._noise_seed):
                self._rng = rng_state()
        with evaluating(policy), continuing(self._rng):
            acted, self._state = self._ask(policy, self._state, is_first)
        actions = np.clip(acted.detach().to("cpu", torch.float32).numpy(), -1.0, 1.0)  # [N, A]
        seeds = list(env.episode_seeds)
        obs, rewards, terminations, truncations, info = env.step(actions)
        ended = terminations | truncations
        rows = _rows(self._obs, env.num_envs)
        for place, recording in enumerate(self._open):
            recording.add(rows[place], actions[place], float(rewards[place]))
            if ended[place]:
                episode = recording.episode(
                    info["final_obs"][place],
                    terminated=bool(terminations[place]),
                    truncated=bool(truncations[place]),
                    seed=seeds[place],
                )
                self._finish(place, episode)
        self._obs, self._is_first = obs, ended
        self.env_steps += env.num_envs
        self._clock.num_env_steps += env.num_envs

    def _ask(self, policy: Policy, state: Any, is_first: Array) -> tuple[Tensor, Any]:
        assert self._obs is not None
        device = device_of(policy)
        tensors = {name: torch.from_numpy(value).to(device) for name, value in named_obs(self._obs).items()}
        obs: Obs = unnamed_obs(tensors)
        return policy.act(obs, state, is_first=torch.from_numpy(is_first.copy()).to(device))

    def _finish(self, place: int, episode: Episode) -> None:
        self._open[place] = _Recording()
        self.buffer.add(episode)
        if self._log is not None:
            self._log.add(episode)
        self.num_episodes += 1
        self._clock.returns.append(float(episode.rewards.sum(dtype=np.float64)))
        self._clock.lengths.append(len(episode))

    def _restore_episodes(self, state: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Begin the episodes that were going on again, take their actions, and compare."""
        now = dict(_named(arrays, "now."))
        actions = [arrays[f"actions.{place}"] for place in range(self._env.num_envs)]
        replayed = self._env.restore(
            list(zip(state["episode_seeds"], actions, strict=True)), next_seed=state["next_seed"]
        )
        rows, lost = [], 0
        for place, (seen, rewards) in enumerate(replayed):
            is_same = rewards == arrays[f"rewards.{place}"].tolist() and all(
                np.array_equal(value, now[name][place]) for name, value in named_obs(seen[-1]).items()
            )
            if is_same:
                for row in zip(seen[:-1], actions[place], rewards, strict=True):
                    self._open[place].add(*row)
                rows.append(seen[-1])
            else:
                lost += 1
                self._is_first[place] = True
                rows.append(self._env.begin(place))
        self._obs = _stacked(rows)
        if lost:
            warnings.warn(
                f"{lost} of {len(replayed)} environments did not come to the same observations from the same seed and "
                "actions. The steps of their episodes so far are dropped and new ones begin: the run goes on, but it "
                "is not the one that an uninterrupted run would have been.",
                stacklevel=2,
            )


class _Recording:
    """The rows of an episode that is going on."""

    def __init__(self) -> None:
        self.obs: list[ObsArray] = []
        self.actions: list[Array] = []
        self.rewards: list[float] = []

    def add(self, obs: ObsArray, action: Array, reward: float) -> None:
        self.obs.append(obs)
        self.actions.append(action)
        self.rewards.append(reward)

    def actions_array(self, width: int) -> Array:
        """Return the actions `[t, A]`, also where t is 0."""
        return np.array(self.actions, dtype=np.float32).reshape(len(self.actions), width)

    def episode(self, final_obs: ObsArray, *, terminated: bool, truncated: bool, seed: int | None) -> Episode:
        return Episode(
            obs=_stacked(self.obs),
            actions=np.stack(self.actions),
            rewards=np.array(self.rewards, dtype=np.float32),
            terminated=terminated,
            truncated=truncated,
            final_obs=final_obs,
            meta={"seed": seed},
        )


class _Clock:
    """What `metrics` counts."""

    def __init__(self) -> None:
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.num_env_steps = self.num_samples = 0
        self._collect_seconds = self._paused_seconds = 0.0
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._collect_seconds += time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._paused_seconds += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Return means and rates, and begin again."""
        seconds = time.perf_counter() - self._started - self._paused_seconds - self._collect_seconds
        found: dict[str, float] = {"learn/steps_per_second": self.num_samples / max(seconds, 1e-9)}
        if self.num_env_steps:
            found["collect/steps_per_second"] = self.num_env_steps / max(self._collect_seconds, 1e-9)
        if self.returns:
            found["collect/return"] = float(np.mean(self.returns))
            found["collect/length"] = float(np.mean(self.lengths))
        self.__init__()  # type: ignore[misc]
        return found


def _rows(obs: ObsArray, num: int) -> list[ObsArray]:
    """Return the N observations of a stack `[N, *obs]`, as views."""
    if isinstance(obs, dict):
        return [{key: value[place] for key, value in obs.items()} for place in range(num)]
    return list(obs)


def _stacked(rows: list[ObsArray]) -> ObsArray:
    """Return observations stacked to `[T, *obs]`, key by key where they are dicts."""
    columns = [named_obs(row) for row in rows]
    return unnamed_obs({name: np.stack([column[name] for column in columns]) for name in columns[0]})


def _named(arrays: Mapping[str, Array], prefix: str) -> list[tuple[str, Array]]:
    """Return the arrays whose names begin with `prefix`, without it."""
    return [(name.removeprefix(prefix), array) for name, array in arrays.items() if name.startswith(prefix)]
