"""UDRLAgent: upside-down RL by FlowShield's names."""

from __future__ import annotations

from typing import Any, Literal, overload

from torch import Tensor

from flowshield.models.adapting import Adapted, typical_statistics
from worldline.batch import Batch
from worldline.config import from_dict
from worldline.errors import ConfigError
from worldline.models import udrl


class UDRLAgent(udrl.UDRL, Adapted):
    """A policy that is told (steps, return) and does that.

    States and commands are normalised by the statistics of the data. `Trainer` takes them; in a training loop of your
    own call `agent.fit(dataset.statistics())` first. An agent that was used before it knew any data takes states as
    they are, and commands for those of some hundred steps and returns.

    Args:
        state_dim: Numbers of a state.
        action_dim: Numbers of an action; choices where actions are discrete.
        command_dim: Numbers of a command.
        hidden_dim: Width of the hidden layers.
        n_layers: How many there are.
        activation: "silu", "relu", "gelu", "mish" or "tanh".
        action_type: "continuous" actions are in [-1, 1], "discrete" ones one-hot.

    Raises:
        ConfigError: A setting is out of range or unknown.
    """

    own = udrl.UDRL

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        command_dim: int = 2,
        hidden_dim: int = 256,
        n_layers: int = 4,
        activation: str = "silu",
        *,
        action_type: Literal["continuous", "discrete"] = "continuous",
    ) -> None:
        data = {"obs_shape": (state_dim,), "action_dim": action_dim, "action_type": action_type}
        settings = agent_settings(hidden_dim=hidden_dim, n_layers=n_layers, activation=activation)
        values = {**data, **settings, "command_dim": command_dim}
        super().__init__(from_dict(udrl.UDRLConfig, values, where="UDRLAgent"))

    @overload
    def forward(self, state: Batch, command: None = None) -> dict[str, Tensor]: ...

    @overload
    def forward(self, state: Tensor, command: Tensor) -> tuple[Tensor, Tensor]: ...

    def forward(
        self, state: Tensor | Batch, command: Tensor | None = None
    ) -> tuple[Tensor, Tensor] | dict[str, Tensor]:
        """Return mean and log-deviation, each `[B, action_dim]`, of actions before the tanh that bounds them.

        A batch of Worldline's alone gives the losses, as its trainer wants them.

        Raises:
            ConfigError: Actions are discrete, which have no mean; `params` gives their logits.
        """
        if isinstance(state, Batch):
            return super().compute_loss(state)
        assert command is not None
        if self.config.choices:
            raise ConfigError("Discrete actions have no mean. Take agent.params(state, command), their logits.")
        return self.normal(self.params(state, command))

    def params(self, obs: Any, commands: Tensor) -> Tensor:
        """Return Worldline's `params`; without data, by typical statistics."""
        if not self.is_fitted:
            self.fit(typical_statistics(self.config.obs_shapes["obs"][0], self.config.command_dim))
        return super().params(obs, commands)

    def sample(self, state: Tensor, command: Tensor, deterministic: bool = False) -> Tensor:
        """Return actions `[B, action_dim]`, drawn or the likeliest ones, for states and `command [B, 2]`."""
        return self.choose(state, command, deterministic=deterministic)

    @overload
    def compute_loss(self, state: Batch, command: None = None, action: None = None) -> dict[str, Tensor]: ...

    @overload
    def compute_loss(self, state: Tensor, command: Tensor, action: Tensor) -> Tensor: ...

    def compute_loss(
        self, state: Tensor | Batch, command: Tensor | None = None, action: Tensor | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Return the mean of -log p(action | state, command) over the rows, in nats.

        A batch of Worldline's alone gives what its trainer wants.
        """
        if isinstance(state, Batch):
            return super().compute_loss(state)
        assert command is not None
        assert action is not None
        return -self.log_prob(state, command, action).mean()


def agent_settings(*, hidden_dim: int, n_layers: int, activation: str) -> dict[str, Any]:
    """Return Worldline's settings for FlowShield's."""
    return {"units": hidden_dim, "layers": n_layers, "activation": activation}
