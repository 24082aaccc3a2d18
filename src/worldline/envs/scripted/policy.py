"""ScriptedPolicy: a controller whose settings are drawn anew for each episode, from the best ones to poor ones.

Data from it hold many ways to behave, each kept up for a while, so that returns differ by what was done and not by
chance alone: what a policy that obeys commands has to learn from. Some episodes change their settings on the way, so
that some do badly after a good beginning, and well after a bad one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from worldline.batch import Obs
from worldline.episode import DataSpec
from worldline.errors import ConfigError

MAX_DELAY = 8  # steps

# From observations `[N, D]` and settings by name, `[N]` each, to continuous actions `[N, A]` or discrete ones `[N]`
Controller: TypeAlias = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A number of a controller: its best value, and how a poor controller's may differ from that."""

    best: float
    low: float  # what is added to the best value lies between these two...
    high: float
    share: float = 0.4  # ...in such a part of the episodes; in the others nothing is added


# What can be wrong with any controller.
COMMON: dict[str, Setting] = {
    "random": Setting(best=0.0, low=0.0, high=0.8),  # probability that a step's action is a random one
    "delay": Setting(best=0.0, low=0.0, high=MAX_DELAY),  # steps between deciding on an action and taking it
    "change": Setting(best=0.0, low=0.0, high=0.02),  # probability that from this step on, all settings are others
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ScriptedState:
    """What N episodes are played with."""

    settings: Tensor  # [N, S]
    decided: Tensor  # [N, MAX_DELAY + 1, A], the actions decided on, newest first


class ScriptedPolicy:
    """Plays each episode with settings of its own.

    Every episode draws how poor it is, from 0 to 1 (again, when its settings change), and each setting differs from its
    best value by up to so much of its range. Draws from torch's default generator, as models do, so that one seed
    covers both.

    Args:
        controller: What chooses actions.
        settings: Its settings by name; those of `COMMON` that are not among them are added.
        spec: What the actions are.
        worst: The most that an episode can be poor; 0 plays every episode with the best settings.
        skew: The power to which a uniform number is taken for how poor an episode is; below 1 makes more of them poor.
    """

    def __init__(
        self,
        controller: Controller,
        settings: Mapping[str, Setting],
        spec: DataSpec,
        *,
        worst: float = 1.0,
        skew: float = 1.0,
    ) -> None:
        self._controller = controller
        self._settings = {**settings, **COMMON, **settings}
        self._spec = spec
        self._worst, self._skew = worst, skew

    def act(
        self,
        obs: Obs,
        state: ScriptedState | None = None,
        *,
        is_first: Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, ScriptedState]:
        """Choose actions `[N, A]` for N environments; see `protocols.Policy`. None is random where deterministic."""
        if isinstance(obs, dict):
            raise ConfigError(f"A scripted policy observes one vector; got {sorted(obs)}. Observe the state alone.")
        num = len(obs)
        fresh = torch.ones(num, dtype=torch.bool) if state is None or is_first is None else is_first
        settings = self._settings_of(state, fresh)
        named = dict(zip(self._settings, settings.unbind(1), strict=True))
        decision = self._controller(obs, named)
        if self._spec.action_type == "discrete":
            decision = F.one_hot(decision, self._spec.action_dim).float()
        decided = decision[:, None].expand(-1, MAX_DELAY + 1, -1)  # [N, MAX_DELAY + 1, A]
        if state is not None:
            later = torch.cat([decision[:, None], state.decided[:, :-1]], 1)
            decided = torch.where(fresh[:, None, None], decided, later)
        actions = decided[torch.arange(num), named["delay"].long()]
        if not deterministic:
            is_random = torch.rand(num) < named["random"]
            actions = torch.where(is_random[:, None], self._random_actions(num), actions)
        return actions, ScriptedState(settings=settings, decided=decided)

    def _settings_of(self, state: ScriptedState | None, fresh: Tensor) -> Tensor:
        """Return the settings `[N, S]`, drawn where an episode has just begun, or they are to change."""
        if state is not None:
            fresh = fresh | (torch.rand(len(fresh)) < state.settings[:, list(self._settings).index("change")])
            if not fresh.any():
                return state.settings
        table = torch.tensor([[item.best, item.low, item.high, item.share] for item in self._settings.values()])
        best, low, high, share = table.unbind(1)  # each [S]
        shape = (len(fresh), len(best))
        poor = self._worst * torch.rand(shape[0], 1) ** self._skew
        drawn = best + poor * (low + torch.rand(shape) * (high - low)) * (torch.rand(shape) < share)
        return drawn if state is None else torch.where(fresh[:, None], drawn, state.settings)

    def _random_actions(self, num: int) -> Tensor:
        if self._spec.action_type == "discrete":
            return F.one_hot(torch.randint(self._spec.action_dim, (num,)), self._spec.action_dim).float()
        return torch.rand(num, self._spec.action_dim) * 2.0 - 1.0


def expert_and_mixed(
    controllers: Mapping[str, Controller], settings: Mapping[str, Setting], *, skew: float
) -> dict[str, Callable[[DataSpec], ScriptedPolicy]]:
    """Return the policies "expert", always with the best settings, and "mixed", from there to poor ones.

    Args:
        controllers: By type of action, such as "discrete".
        settings: As for `ScriptedPolicy`.
        skew: Of the mixed one.
    """

    def make(spec: DataSpec, *, worst: float) -> ScriptedPolicy:
        if spec.action_type not in controllers:
            raise ConfigError(
                f"The scripted policies of this environment choose {' or '.join(controllers)} actions; those of the "
                f"environment are {spec.action_type}."
            )
        return ScriptedPolicy(controllers[spec.action_type], settings, spec, worst=worst, skew=skew)

    return {"expert": partial(make, worst=0.0), "mixed": partial(make, worst=1.0)}
