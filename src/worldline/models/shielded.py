"""ShieldedPolicy: a commanded policy that is never told what its shield flags."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from worldline.batch import Obs
from worldline.errors import ConfigError
from worldline.models.commanded import CommandedPolicy, CommandState
from worldline.protocols import Shield


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ShieldedState:
    """What N episodes have still to do, and how long they have run."""

    commands: Tensor  # [N, 2], remaining steps and return to go
    steps: Tensor  # [N] steps since the episode began


class ShieldedPolicy:
    """Projects the command of each episode before it is followed, and what is left of it at an interval.

    Args:
        policy: What is told, and follows.
        shield: Calibrated.
        interval: Steps between two projections of an episode; 0 projects at its beginning only.

    Raises:
        ConfigError: The interval is negative.
    """

    def __init__(self, policy: CommandedPolicy, shield: Shield, *, interval: int = 0) -> None:
        if interval < 0:
            raise ConfigError(f"interval counts steps, from 0 on; got {interval}.")
        self.policy, self.shield, self.interval = policy, shield, interval

    @property
    def samples_actions(self) -> bool:
        """Whether the policy is meant to sample its actions; see `protocols.Samples`."""
        return self.policy.samples_actions

    def act(
        self,
        obs: Obs,
        state: ShieldedState | None = None,
        *,
        is_first: Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, ShieldedState]:
        """Choose actions `[N, A]` for N environments; see `protocols.Policy`."""
        num = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        told = torch.tensor(self.policy.command).expand(num, 2)
        if state is None:
            begins = torch.ones(num, dtype=torch.bool)
            commands, steps = told, torch.zeros(num, dtype=torch.long)
        else:
            begins = torch.zeros(num, dtype=torch.bool) if is_first is None else is_first.cpu()
            commands = torch.where(begins[:, None], told, state.commands)
            steps = state.steps.masked_fill(begins, 0)
        due = (begins | (steps % self.interval == 0)) if self.interval else begins
        if bool(due.any()):
            chosen = {key: value[due] for key, value in obs.items()} if isinstance(obs, dict) else obs[due]
            projected = self.shield.project(chosen, commands[due])
            commands = commands.clone()
            commands[due] = projected.to(commands)
        actions, _ = self.policy.act(obs, CommandState(commands=commands), deterministic=deterministic)
        return actions, ShieldedState(commands=commands, steps=steps)

    def after_step(self, state: ShieldedState, rewards: Tensor) -> ShieldedState:
        """Return what is left to do after a step with `rewards [N]`; see `protocols.Rewarded`."""
        left = self.policy.after_step(CommandState(commands=state.commands), rewards)
        return ShieldedState(commands=left.commands, steps=state.steps + 1)
