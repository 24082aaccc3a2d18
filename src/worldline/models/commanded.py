"""CommandedPolicy: a model that obeys commands, told one and kept up to date on what is left of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from worldline.batch import Obs
from worldline.errors import ConfigError
from worldline.protocols import Commanded


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CommandState:
    """What N episodes have still to do."""

    commands: Tensor  # [N, 2], remaining steps and return to go, neither clamped


class CommandedPolicy:
    """Plays every episode to the same command, which runs down as steps and rewards come in.

    After a step with reward r, (remaining steps, return to go) become those minus (1, r), as in Srivastava et al.
    (algorithm 2). What the model is told is clamped: there is at least one step left, and never more of either than the
    data hold (the paper caps the return in the same way), because a network is at a loss with what it has not seen.

    Args:
        model: What obeys.
        command: Steps and return, of an episode from its beginning.
        clips: Whether what the model is told is clamped to the data; without it, there is only at least one step left.

    Raises:
        ConfigError: The command is not two finite numbers, the first at least 1.
    """

    def __init__(self, model: Commanded, command: Sequence[float], *, clips: bool = True) -> None:
        if len(command) != 2 or not all(map(math.isfinite, command)) or command[0] < 1:
            raise ConfigError(
                f"A command is (steps, return), with at least 1 step, such as (200, 250); got {tuple(command)}."
            )
        self.model = model
        self.command = (float(command[0]), float(command[1]))
        self._clips = clips

    @property
    def samples_actions(self) -> bool:
        """Whether the model is meant to sample its actions; see `protocols.Samples`."""
        return self.model.samples_actions

    def act(
        self,
        obs: Obs,
        state: CommandState | None = None,
        *,
        is_first: Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, CommandState]:
        """Choose actions `[N, A]` for N environments; see `protocols.Policy`."""
        low, high = self.model.command_range
        first = next(iter(obs.values())) if isinstance(obs, dict) else obs
        told = torch.tensor(self.command, device=low.device)
        if state is None:
            commands = told.expand(len(first), 2)
        elif is_first is None:
            commands = state.commands
        else:
            commands = torch.where(is_first.to(low.device)[:, None], told, state.commands)
        # There is always a step left to be told of.
        passed_on = torch.stack((commands[:, 0].clamp(min=1.0), commands[:, 1]), 1)
        if self._clips:
            low = torch.stack([low[0].clamp(min=1.0), low[1]])
            passed_on = passed_on.clamp(low, torch.maximum(low, high))
        return self.model.choose(obs, passed_on, deterministic=deterministic), CommandState(commands=commands)

    def after_step(self, state: CommandState, rewards: Tensor) -> CommandState:
        """Return what is left to do after a step with `rewards [N]`; see `protocols.Rewarded`."""
        done = torch.stack([torch.ones_like(rewards), rewards], -1).to(state.commands)
        return CommandState(commands=state.commands - done)
