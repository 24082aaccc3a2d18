"""VectorEnv: several environments that take their steps together, each beginning its next episode by itself.

Gymnasium has three ways to go on after an episode, and two of them lose or invent a transition if they are taken for
another. This one is its `AutoresetMode.SAME_STEP`: the call to `step` that ends an episode also begins the next one.

- `obs` is what to act on next: the first observation of the new episode where one has ended;
- `info["final_obs"][place]` is what the last step of the old episode led to, and `info["_final_obs"]` says where;
- `terminations` and `truncations` are those of the step, as the environment gave them.

So every call is exactly one transition of every environment, and no action is ever ignored.

Episodes are seeded: after `reset(seed=s)` the i-th episode that begins, in whatever place, is reset with seed s + i. So
an episode is a function of its seed and its actions, which is how a killed run gets its environments back (`restore`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector import VectorEnv as GymVectorEnv
from gymnasium.vector.utils import batch_space

from worldline.envs.rows import RowEnv
from worldline.envs.spaces import to_env_actions
from worldline.episode import Array, DataSpec, ObsArray
from worldline.errors import ConfigError

Obs = ObsArray  # [N, *obs], or a dict of them


class VectorEnv(GymVectorEnv[Obs, Array, Array]):
    """N environments in this process, stepped in turn with rows `[N, A]`.

    Attributes:
        data_spec: What one step of one of them looks like.
        episode_seeds: `[N]` the seed of the episode that each place is in; None where it has none.
        next_seed: The seed of the episode that begins next; None where episodes are not seeded.
    """

    data_spec: DataSpec

    def __init__(self, envs: Sequence[RowEnv]) -> None:
        """Step `envs` together.

        Raises:
            ConfigError: There are none, or they differ in their observations or actions.
        """
        if not envs:
            raise ConfigError("A VectorEnv needs at least one environment.")
        first = envs[0]
        for env in envs:
            if (env.observation_space, env.action_space) != (first.observation_space, first.action_space):
                raise ConfigError(
                    f"The environments differ: {env.data_spec} and {first.data_spec}. Make all of them alike."
                )
        self.envs = list(envs)
        self.num_envs = len(envs)
        self.data_spec = first.data_spec
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = first.render_mode
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, self.num_envs)
        self.action_space = batch_space(first.action_space, self.num_envs)
        self.episode_seeds: list[int | None] = [None] * self.num_envs
        self.next_seed: int | None = None
        # The wrapper that converts is passed by: all rows are converted at once, and observations on their way into
        # the stack.
        self._inner = [env.env for env in envs]
        self._inner_action_space = first.env.action_space
        self._stack = _Stack(self.envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Begin an episode in every place, place i with `seed + i`, and return the observations `[N, *obs]` and info.

        Without a seed, episodes are those that the environments' own generators come to.
        """
        self.next_seed = seed
        infos: dict[str, Any] = {}
        stacked = self._stack.empty()
        for place in range(self.num_envs):
            obs, info = self._begin(place, options)
            self._stack.put(stacked, place, obs)
            infos = self._add_info(infos, info, place)
        return self._stack.unnamed(stacked), infos

    def step(self, actions: Array) -> tuple[Obs, Array, Array, Array, dict[str, Any]]:
        """Take an action `[N, A]` in every place.

        Returns:
            Observations to act on next `[N, *obs]`, rewards `[N]` float64, terminations `[N]` and truncations `[N]`
            bool, and info, which has the true final observations of the episodes that ended (see above).

        Raises:
            DataError: The actions have another shape, or are not finite.
        """
        rewards = np.empty(self.num_envs)
        terminations = np.empty(self.num_envs, dtype=np.bool_)
        truncations = np.empty(self.num_envs, dtype=np.bool_)
        infos: dict[str, Any] = {}
        stacked = self._stack.empty()
        env_actions = to_env_actions(np.asarray(actions), self._inner_action_space)
        for place, env in enumerate(self._inner):
            obs, reward, terminated, truncated, info = env.step(env_actions[place])
            rewards[place], terminations[place], truncations[place] = reward, terminated, truncated
            if terminated or truncated:
                final = {"final_obs": self._stack.single(obs), "final_info": info}
                infos = self._add_info(infos, final, place)
                obs, info = self._begin(place)
            self._stack.put(stacked, place, obs)
            if info:
                infos = self._add_info(infos, info, place)
        return self._stack.unnamed(stacked), rewards, terminations, truncations, infos

    def begin(self, place: int) -> ObsArray:
        """Begin the next episode in a place, whatever goes on there, and return its first observation `[*obs]`."""
        return self._stack.single(self._begin(place)[0])

    def restore(
        self, episodes: Sequence[tuple[int, Array]], *, next_seed: int
    ) -> list[tuple[list[ObsArray], list[float]]]:
        """Begin one episode per place and take its actions again.

        Whether it comes to what was seen before is for the caller to compare: an environment whose `reset` does not
        take everything from its seed comes out elsewhere.

        Args:
            episodes: N pairs of a seed and the actions `[t, A]` taken since.
            next_seed: The seed of the next episode that will begin.

        Returns:
            The observations of each place, t + 1 of them with the present one, and its t rewards; fewer where the
            episode ended on the way.
        """
        replayed = []
        for place, (seed, actions) in enumerate(episodes):
            self.next_seed = seed
            seen, rewards = [self.begin(place)], []
            for action in to_env_actions(actions, self._inner_action_space) if len(actions) else ():
                obs, reward, terminated, truncated, _ = self._inner[place].step(action)
                seen.append(self._stack.single(obs))
                rewards.append(float(reward))
                if terminated or truncated:
                    break
            replayed.append((seen, rewards))
        self.next_seed = next_seed
        return replayed

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()

    def _begin(self, place: int, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        seed = self.next_seed
        self.episode_seeds[place] = seed
        if seed is not None:
            self.next_seed = seed + 1
        return self._inner[place].reset(seed=seed, options=options)


class _Stack:
    """Where observations of N environments go: new arrays `[N, *obs]` for every step, converted as they are put in."""

    def __init__(self, envs: Sequence[RowEnv]) -> None:
        space = envs[0].observation_space
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
        self._is_dict = isinstance(space, spaces.Dict)
        self._num = len(envs)
        self._layout = {key: ((self._num, *(part.shape or ())), part.dtype) for key, part in parts.items()}
        self._convert = envs[0].convert_obs
        inner = envs[0].env.observation_space
        self._is_plain = isinstance(inner, spaces.Box)  # assignment converts it

    def empty(self) -> dict[str, Array]:
        return {key: np.empty(shape, dtype) for key, (shape, dtype) in self._layout.items()}

    def put(self, stacked: dict[str, Array], place: int, obs: Any) -> None:
        if self._is_plain:
            stacked[""][place] = obs
            return
        converted = self._convert(obs)
        for key, array in stacked.items():
            array[place] = converted[key] if isinstance(converted, dict) else converted

    def single(self, obs: Any) -> ObsArray:
        return self._convert(obs)

    def unnamed(self, stacked: dict[str, Array]) -> Obs:
        return stacked if self._is_dict else stacked[""]
