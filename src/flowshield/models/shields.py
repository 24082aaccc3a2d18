"""Shields by FlowShield's names."""

from __future__ import annotations

import os
from typing import Any, overload

import torch
from torch import Tensor

from flowshield.models.adapting import Adapted, typical_statistics
from worldline.batch import Batch
from worldline.config import from_dict
from worldline.errors import ConfigError
from worldline.models.shields import base, diffusion, flow_matching, quantile
from worldline.ops.flow import even_times


class BaseShield(base.BaseShield, Adapted):
    """A shield: it tells which commands the data support in a state, and gives the nearest one that they do.

    `calibrate(held_out, alpha)` sets the threshold that `is_ood` and `project` go by; `Trainer` does so. Like the
    agent's, its scales are those of the data that it was fitted with.
    """

    @overload
    def compute_loss(self, state: Batch, command: None = None) -> dict[str, Tensor]: ...

    @overload
    def compute_loss(self, state: Tensor, command: Tensor) -> Tensor: ...

    def compute_loss(self, state: Tensor | Batch, command: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Return the mean loss of states `[B, state_dim]` and commands `[B, 2]`.

        A batch of Worldline's alone gives what its trainer wants.
        """
        if isinstance(state, Batch):
            return super().compute_loss(state)
        assert command is not None
        if not self.is_fitted:
            self.fit(typical_statistics(self.state_dim, 2))
        return self.pair_losses(state, command).mean()

    def project(self, state: Any, command: Tensor, n_steps: int = 20, lr: float = 0.1) -> Tensor:  # type: ignore[override]
        """Return commands `[B, 2]` that are allowed and near the given ones; those that are allowed as they are.

        Args:
            state: `[B, state_dim]`.
            command: `[B, 2]`.
            n_steps: How often to improve on the first one that is found.
            lr: The longest step of that, in deviations of the commands.
        """
        return super().project(state, command, num_steps=n_steps, step_size=lr)


class QuantileShield(BaseShield, quantile.QuantileShield):
    """Flags returns in the tails of those of the same state and horizon.

    Args:
        state_dim: Numbers of a state.
        command_dim: 2, steps and return.
        hidden_dim: Width of the hidden layers.
        n_layers: How many there are.
        tau: Share of the returns between the outermost quantiles.
    """

    own = quantile.QuantileShield

    def __init__(
        self, state_dim: int, command_dim: int = 2, hidden_dim: int = 256, n_layers: int = 4, tau: float = 0.9
    ) -> None:
        values = shield_settings("quantile", hidden_dim=hidden_dim, n_layers=n_layers, tau=tau)
        super().__init__(from_dict(quantile.QuantileShieldConfig, _of_data(state_dim, command_dim) | values))


class DiffusionShield(BaseShield, diffusion.DiffusionShield):
    """Flags commands whose density under a diffusion model is low for their state.

    Args:
        state_dim: Numbers of a state.
        command_dim: 2, steps and return.
        hidden_dim: Width of the hidden layers.
        n_layers: How many there are.
        n_timesteps: Levels of noise.
        beta_schedule: "linear", "cosine" or "quadratic".
    """

    own = diffusion.DiffusionShield

    def __init__(
        self,
        state_dim: int,
        command_dim: int = 2,
        hidden_dim: int = 256,
        n_layers: int = 4,
        n_timesteps: int = 1000,
        beta_schedule: str = "linear",
    ) -> None:
        values = shield_settings(
            "diffusion",
            hidden_dim=hidden_dim,
            n_layers=n_layers,
            n_timesteps=n_timesteps,
            beta_schedule=beta_schedule,
        )
        super().__init__(from_dict(diffusion.DiffusionShieldConfig, _of_data(state_dim, command_dim) | values))

    def sample(self, state: Tensor, n_samples: int = 1, n_steps: int | None = None) -> Tensor:  # type: ignore[override]
        """Return drawn commands, `[n_samples, 2]` for one `state [state_dim]`, `[B, n_samples, 2]` for several."""
        return _sampled(super().sample, state, n_samples, n_steps)

    @torch.no_grad()
    def denoise(self, noisy_command: Tensor, state: Tensor, level: int | None = None) -> Tensor:  # type: ignore[override]
        """Return commands `[B, 2]` that the reverse process makes of noisy ones.

        Args:
            noisy_command: `[B, 2]`, in steps and return.
            state: `[B, state_dim]`.
            level: How noisy they are taken to be, from 0 to n_timesteps - 1; None is a tenth of that.
        """
        count = len(self.alphas_bar)
        level = count // 10 if level is None else level
        if not 0 <= level < count:
            raise ConfigError(f"level is {level}; expected a number from 0 to {count - 1}.")
        states, commands = self.normalized_pair(state, noisy_command)
        noised = self.alphas_bar[level].sqrt() * commands
        times = even_times(self.config.num_solver_steps, start=float(self.angles[level]), end=float(self.angles[0]))
        return self.commands.inverse(self.push(noised[:, None], self.net.encode(states), times)[:, 0])


class FlowMatchingShield(BaseShield, flow_matching.FlowMatchingShield):
    """Flags commands whose density under a flow is low for their state.

    Args:
        state_dim: Numbers of a state.
        command_dim: 2, steps and return.
        hidden_dim: Width of the hidden layers.
        n_layers: How many there are.
        time_embed_dim: Features of time.
        sigma_min: Deviation of a path's end around its command.
    """

    own = flow_matching.FlowMatchingShield

    def __init__(
        self,
        state_dim: int,
        command_dim: int = 2,
        hidden_dim: int = 256,
        n_layers: int = 4,
        time_embed_dim: int = 128,
        sigma_min: float = 1e-4,
    ) -> None:
        values = shield_settings(
            "flow_matching",
            hidden_dim=hidden_dim,
            n_layers=n_layers,
            time_embed_dim=time_embed_dim,
            sigma_min=sigma_min,
        )
        super().__init__(from_dict(flow_matching.FlowMatchingShieldConfig, _of_data(state_dim, command_dim) | values))

    def velocity(self, g: Tensor, t: Tensor | float, state: Any) -> Tensor:
        """Return the velocity `[B, 2]` at points `g [B, 2]`, normalised commands, at times `t`, one or `[B]`."""
        times = torch.as_tensor(t, dtype=g.dtype, device=g.device).expand(len(g))
        return super().velocity(g, times, state)

    def sample(self, state: Tensor, n_samples: int = 1, n_steps: int | None = None) -> Tensor:  # type: ignore[override]
        """Return drawn commands, `[n_samples, 2]` for one `state [state_dim]`, `[B, n_samples, 2]` for several."""
        return _sampled(super().sample, state, n_samples, n_steps)


def shield_settings(shield_type: str, *, hidden_dim: int, n_layers: int, **further: Any) -> dict[str, Any]:
    """Return Worldline's settings for FlowShield's."""
    names = {"time_embed_dim": "time_features", "n_timesteps": "num_levels", "beta_schedule": "schedule"}
    return {
        "units": hidden_dim,
        "layers": n_layers,
        **{names.get(name, name): value for name, value in further.items()},
    }


def load_shield(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> BaseShield:
    """Return the shield of any kind that `save` wrote into the folder `path`."""
    return BaseShield.load(path, device=device)


def _of_data(state_dim: int, command_dim: int) -> dict[str, Any]:
    if command_dim != 2:
        raise ConfigError(f"A shield judges (steps, return): command_dim is 2; got {command_dim}.")
    return {"obs_shape": (state_dim,), "action_dim": 1, "action_type": "continuous"}


def _sampled(sample: Any, state: Tensor, num_samples: int, num_steps: int | None) -> Tensor:
    drawn: Tensor = sample(state if state.ndim > 1 else state[None], num_samples, num_steps)
    return drawn if state.ndim > 1 else drawn[0]
