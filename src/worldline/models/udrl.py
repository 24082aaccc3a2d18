"""Upside-down reinforcement learning (Schmidhuber: "Reinforcement Learning Upside Down", 2019, arXiv:1912.02875;
Srivastava et al.: "Training Agents using Upside-Down Reinforcement Learning", 2019, arXiv:1912.02877).

A policy that is told what to achieve: (remaining steps, return to go). It learns by supervision alone, from what every
row of the data turned out to achieve: minimised is -log p(action | observation, command) in nats over all real steps,
where the command is the row's own (`data.commands`). Nothing is bootstrapped, and data of any quality are of use.

- discrete actions: a categorical; of several, one for each
- continuous actions: tanh of independent normals, whose means and deviations depend on observation and command

What differs from the papers:

- Observations and commands are normalised by the statistics of the data. A command also enters by its symmetric
  logarithm, since two steps more or less decide much at the end of an episode and nothing at its beginning.
- The command scales and shifts every hidden layer (FiLM), where the paper multiplies the first one by a gate.
- Rows are drawn uniformly from all data. The paper fills its buffer with the best episodes of the agent itself and
  explores with commands beyond those; here data are given.
- At the end of its range, a continuous action's density is that of an edge of width `edge`: controllers that clip put
  much of their data exactly there, where the density of a squashed normal has no bound.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from worldline.batch import Batch, Obs, WindowSpec
from worldline.config import check_bounds
from worldline.episode import ObsShape
from worldline.errors import ConfigError, DataError, nearest
from worldline.mode import evaluating
from worldline.models.base import Model
from worldline.models.choices import check_actions, choices_log_prob, choices_of, choose
from worldline.models.observations import ObservationSettings, blank, check_shapes, named_obs
from worldline.nn.film import ACTIVATIONS, FiLMNet
from worldline.nn.normalizer import Normalizer
from worldline.ops.distributions import squashed_normal_log_prob
from worldline.ops.masking import masked_mean
from worldline.ops.twohot import symlog
from worldline.statistics import ColumnStatistics, flat_statistics

SIZES: dict[str, dict[str, Any]] = {
    "small": {"units": 128, "layers": 3},
    "base": {"units": 256, "layers": 4},
    "large": {"units": 512, "layers": 6},
}

_LOG_STD_MIN, _LOG_STD_MAX = -5.0, 2.0

_BOUNDS: dict[str, tuple[float, float]] = {
    "units": (1, 1 << 16),
    "layers": (1, 64),
    "command_dim": (1, 64),
    "edge": (1e-6, 0.5),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class UDRLConfig(ObservationSettings):
    """Settings of upside-down RL; the defaults are those of size base."""

    obs_shape: ObsShape  # of one observation, or by name; vectors or matrices, no images
    action_dim: int  # A, the width of an action row
    action_type: Literal["discrete", "multi_discrete", "continuous"] = "discrete"
    action_sizes: tuple[int, ...] = ()  # choices of each action of a multi-discrete space; they sum to A
    command_dim: int = 2  # numbers of a command; `Batch.commands` has 2, remaining steps and return to go
    units: int = 256
    layers: int = 4  # hidden ones
    activation: Literal["silu", "relu", "gelu", "mish", "tanh"] = "silu"
    edge: float = 0.01  # of continuous actions: how near a bound is at the bound

    def __post_init__(self) -> None:
        check_bounds(self, _BOUNDS)
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"No activation is called {self.activation!r}. {nearest(self.activation, ACTIVATIONS)}")
        if self.images:
            raise ConfigError(
                f"Upside-down RL (udrl) reads vectors, not images; got {self.images}. Record the environment's state."
            )
        check_shapes(self.obs_shapes, {})
        check_actions(self)

    @property
    def choices(self) -> tuple[int, ...]:
        """The number of choices of each discrete action; empty where actions are continuous."""
        return choices_of(self)


class UDRL(Model):
    """A network from observation and command to a distribution of actions; it remembers nothing."""

    family: ClassVar[str] = "udrl"
    # Among data that did the same for a while and then different things, the likeliest action is nobody's.
    samples_actions: ClassVar[bool] = True
    windows = WindowSpec(pad_end=True, commands=True)
    command_low: Tensor
    command_high: Tensor

    def __init__(self, config: UDRLConfig) -> None:
        super().__init__(config)
        self.config: UDRLConfig = config
        obs_size = sum(math.prod(shape) for shape in config.obs_shapes.values())
        self.obs_normalizer = Normalizer((obs_size,))
        self.command_normalizer = Normalizer((config.command_dim,))
        # The least and greatest command of the data, [C]
        self.register_buffer("command_low", torch.full((config.command_dim,), -torch.inf))
        self.register_buffer("command_high", torch.full((config.command_dim,), torch.inf))
        self.net = FiLMNet(
            obs_size,
            2 * config.command_dim,
            units=config.units,
            layers=config.layers,
            out_features=config.action_dim * (1 if config.choices else 2),
            activation=config.activation,
        )

    @property
    def is_fitted(self) -> bool:
        """Whether the scale of observations and commands is known."""
        return self.obs_normalizer.is_fitted and self.command_normalizer.is_fitted

    @torch.no_grad()
    def fit(self, statistics: Mapping[str, ColumnStatistics]) -> None:
        """Take the scale of observations and commands, and the range of commands.

        Raises:
            DataError: They are of other shapes than the model's.
        """
        self.obs_normalizer.fit(flat_statistics([statistics[name] for name in self._columns]))
        commands = statistics["commands"]
        self.command_normalizer.fit(commands)
        self.command_low.copy_(torch.from_numpy(commands.low))
        self.command_high.copy_(torch.from_numpy(commands.high))

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return "loss" in nats, and "accuracy" of the likeliest choices or "absolute_error" of the likeliest actions.

        Raises:
            DataError: The batch has no commands, or the shapes are not those that the model was built for.
        """
        if batch.commands is None:
            raise DataError(
                "The batch has no commands. Sample it with the model's windows: sample(windows=model.windows)."
            )
        if batch.actions.shape[-1] != self.config.action_dim:
            raise DataError(
                f"The model was built for actions of {self.config.action_dim} numbers; the batch has "
                f"{batch.actions.shape[-1]}. Build it with action_dim={batch.actions.shape[-1]}."
            )
        obs = named_obs(batch.obs, self.config.obs_shapes, leading=2)
        commands = blank(batch.commands, batch.step_mask)  # [B, T, C]
        params = self._params({name: blank(value, batch.obs_mask) for name, value in obs.items()}, commands)
        actions = blank(batch.actions, batch.step_mask).float()  # [B, T, A]
        with torch.no_grad():
            modes = self._choose(params, deterministic=True)
            if self.config.choices:
                # The product of two one-hot rows is 1 for every action of which the choice is the same.
                name, metric = "accuracy", (modes * actions).sum(-1) / len(self.config.choices)
            else:
                name, metric = "absolute_error", (modes - actions).abs().mean(-1)
        loss = masked_mean(-self._log_prob(params, actions), batch.step_mask)
        return {"loss": loss, name: masked_mean(metric, batch.step_mask)}

    def params(self, obs: Obs, commands: Tensor) -> Tensor:
        """Return what describes the distribution of actions, `[N, P]`, for `obs [N, *obs]` and `commands [N, C]`.

        Logits, P = A, where actions are discrete; else means and log-deviations before the tanh, P = 2 A, which
        `normal` takes apart.
        """
        return self._params(named_obs(obs, self.config.obs_shapes, leading=1), commands)

    @staticmethod
    def normal(params: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-deviation before the tanh, each `[..., A]`, of continuous actions."""
        mean, raw = params.chunk(2, -1)
        return mean, _LOG_STD_MIN + 0.5 * (_LOG_STD_MAX - _LOG_STD_MIN) * (torch.tanh(raw) + 1.0)

    def log_prob(self, obs: Obs, commands: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probability (density, where continuous) of `actions [N, A]`, `[N]` in nats."""
        return self._log_prob(self.params(obs, commands), actions)

    @torch.no_grad()
    def choose(self, obs: Obs, commands: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions `[N, A]` for `obs [N, *obs]` and `commands [N, C]`; see `protocols.Commanded`."""
        with evaluating(self):
            return self._choose(self.params(obs, commands), deterministic=deterministic)

    @property
    def command_range(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest command of the data, each `[C]`; infinite before the model was fitted."""
        return self.command_low, self.command_high

    def _params(self, obs: Mapping[str, Tensor], commands: Tensor) -> Tensor:
        """Return parameters `[..., P]` of observations `[..., *obs]` and `commands [..., C]`."""
        device = self.command_low.device
        leading = commands.ndim - 1
        flat = torch.cat([value.to(device).float().flatten(leading) for value in obs.values()], -1)  # [..., D]
        commands = commands.to(device)
        largest = torch.maximum(self.command_low.abs(), self.command_high.abs()).clamp(min=1.0)
        features = torch.cat([self.command_normalizer(commands), symlog(commands) / symlog(largest)], -1)  # [..., 2 C]
        params: Tensor = self.net(self.obs_normalizer(flat), features).float()
        return params

    def _log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        if self.config.choices:
            return choices_log_prob(params, actions, self.config.choices)
        return squashed_normal_log_prob(actions, *self.normal(params), edge=self.config.edge).sum(-1)

    def _choose(self, params: Tensor, *, deterministic: bool) -> Tensor:
        if self.config.choices:
            return choose(params, self.config.choices, deterministic=deterministic)
        mean, log_std = self.normal(params)
        return torch.tanh(mean if deterministic else mean + log_std.exp() * torch.randn_like(mean))

    @property
    def _columns(self) -> tuple[str, ...]:
        """The columns of the data that observations are in."""
        names = self.config.obs_shapes
        return tuple(f"obs.{name}" for name in names) if isinstance(self.config.obs_shape, dict) else tuple(names)
