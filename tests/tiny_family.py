"""The smallest complete world model: what a family must provide, and a fast stand-in for one in tests."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from worldline.batch import Batch, Obs
from worldline.errors import ConfigError
from worldline.models.base import Trajectory, WorldModel
from worldline.registry import Family


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyConfig:
    obs_shape: tuple[int, ...]
    action_dim: int
    width: int = 8
    num_layers: int = 0  # between the encoder and the state

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"width must be at least 1; got {self.width}.")


SIZES = {"size1m": {"width": 4}, "size12m": {"width": 16}}


@dataclasses.dataclass(frozen=True)
class TinyState:
    latent: Tensor  # [..., width]

    def map(self, function: Callable[[Tensor], Tensor]) -> TinyState:
        return TinyState(function(self.latent))


class Tiny(WorldModel):
    """A linear encoder, dynamics and heads."""

    family = "tiny"
    config: TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        num_obs = math.prod(config.obs_shape)
        self.encoder = nn.Linear(num_obs, config.width)
        self.layers = nn.Sequential()
        for _ in range(config.num_layers):
            self.layers.append(nn.Linear(config.width, config.width))
        self.dynamics = nn.Linear(config.width + config.action_dim, config.width)
        self.decoder = nn.Linear(config.width, num_obs)
        self.reward = nn.Linear(config.width, 1)
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", torch.full((), 0.5), persistent=False)

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        state = self.observe(batch)  # [B, T, width]
        arrived = self._step(state.latent, batch.actions)
        loss = (self.reward(arrived)[..., 0] - batch.rewards)[batch.step_mask].square().mean()
        loss = loss + (self.decode(state) - batch.obs).flatten(2)[batch.obs_mask].square().mean()
        return {"loss": loss, "reward": loss.detach()}

    def encode(self, obs: Obs) -> TinyState:
        flat = obs.flatten(-len(self.config.obs_shape)).float() * self.scale
        return TinyState(self.layers(self.encoder(flat)))

    def observe(self, batch: Batch) -> TinyState:
        return self.encode(batch.obs)

    def imagine(self, state: TinyState, actions: Tensor) -> Trajectory:
        latents, latent = [], state.latent
        for action in actions:
            latent = self._step(latent, action)
            latents.append(latent)
        stacked = torch.stack(latents)  # [H, B, width]
        return Trajectory(
            rewards=self.reward(stacked)[..., 0], continues=torch.ones(stacked.shape[:2]), states=TinyState(stacked)
        )

    def decode(self, state: TinyState) -> Tensor:
        return self.decoder(state.latent).unflatten(-1, self.config.obs_shape)

    def act(self, obs: Obs, state=None, *, is_first=None, deterministic: bool = False) -> tuple[Tensor, None]:
        choice = self.encode(obs).latent.sum(-1).long() % self.config.action_dim  # [N]
        return nn.functional.one_hot(choice, self.config.action_dim).float(), None

    def after_update(self) -> None:
        self.num_updates += 1

    def _step(self, state: Tensor, action: Tensor) -> Tensor:
        return torch.tanh(self.dynamics(torch.cat([state, action], -1)))


FAMILY = Family(
    name="tiny",
    module="tiny_family",
    model="Tiny",
    config="TinyConfig",
    default_size="size12m",
    description="Linear everything.",
    aliases=("wee",),
    size_aliases=(("small", "size1m"), ("large", "size12m")),
)


def make_batch(num_windows: int = 3, length: int = 5) -> Batch:
    """Return a batch of noise for `obs_shape=(4,)` and `action_dim=2`."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_windows, length)
    return Batch(
        obs=torch.randn(*shape, 4, generator=generator),
        actions=torch.randn(*shape, 2, generator=generator),
        rewards=torch.randn(shape, generator=generator),
        terminations=torch.zeros(shape, dtype=torch.bool),
        is_first=torch.zeros(shape, dtype=torch.bool),
        step_mask=torch.ones(shape, dtype=torch.bool),
        obs_mask=torch.ones(shape, dtype=torch.bool),
    )
