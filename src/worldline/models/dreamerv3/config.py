"""DreamerV3's settings and published sizes."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from worldline.config import check_bounds
from worldline.episode import ObsShape
from worldline.errors import ConfigError
from worldline.models.choices import check_actions, choices_of
from worldline.models.observations import ObservationSettings, check_shapes

# The seven sizes of the reference implementation.
SIZES: dict[str, dict[str, Any]] = {
    "size1m": {"deter": 512, "hidden": 64, "classes": 4, "depth": 4, "units": 64},
    "size12m": {"deter": 2048, "hidden": 256, "classes": 16, "depth": 16, "units": 256},
    "size25m": {"deter": 3072, "hidden": 384, "classes": 24, "depth": 24, "units": 384},
    "size50m": {"deter": 4096, "hidden": 512, "classes": 32, "depth": 32, "units": 512},
    "size100m": {"deter": 6144, "hidden": 768, "classes": 48, "depth": 48, "units": 768},
    "size200m": {"deter": 8192, "hidden": 1024, "classes": 64, "depth": 64, "units": 1024},
    "size400m": {"deter": 12288, "hidden": 1536, "classes": 96, "depth": 96, "units": 1536},
}

# "loss" and its terms: an observation of that name would take the place of the term.
_LOSS_NAMES = {"loss", "dyn", "rep", "rew", "con", "policy", "value", "repval"}

# What a setting may be, the bounds included: beyond them a model could not be built, or would mean nothing.
_BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("deter", "hidden", "units", "stoch", "classes", "depth", "blocks"), (1, 1 << 16)),
    **{f"{part}_layers": (1, 64) for part in ("prior", "encoder", "decoder", "reward", "continue", "policy", "value")},
    "num_bins": (2, 1 << 16),
    "imagination_horizon": (1, 1000),
    "discount_horizon": (2, 1 << 30),
    **dict.fromkeys(("unimix", "return_lambda", "slow_value_rate", "return_rate"), (0.0, 1.0)),
    **dict.fromkeys(("beta1", "beta2"), (0.0, 1.0 - 1e-9)),
    **dict.fromkeys(("min_std", "max_std", "return_limit"), (1e-6, 1e6)),
    **dict.fromkeys(("free_nats", "entropy_scale", "agc"), (0.0, 1e6)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DreamerV3Config(ObservationSettings):
    """Settings of DreamerV3; the defaults are those of the reference implementation, at size 12m."""

    # Data
    obs_shape: ObsShape  # of one observation, or by name; three dimensions mean an image, fewer a vector
    action_dim: int  # A, the width of an action row
    action_type: Literal["discrete", "multi_discrete", "continuous"] = "discrete"
    action_sizes: tuple[int, ...] = ()  # choices of each action of a multi-discrete space; they sum to A
    # Networks
    deter: int = 2048  # D
    hidden: int = 256
    stoch: int = 32  # S
    classes: int = 16  # K
    blocks: int = 8
    depth: int = 16  # channels of the image networks, times (2, 3, 4, 4)
    units: int = 256
    prior_layers: int = 2
    encoder_layers: int = 3
    decoder_layers: int = 3
    reward_layers: int = 1
    continue_layers: int = 1
    policy_layers: int = 3
    value_layers: int = 3
    num_bins: int = 255
    unimix: float = 0.01
    reward_init_scale: float = 0.0
    value_init_scale: float = 0.0
    policy_init_scale: float = 0.01
    min_std: float = 0.1
    max_std: float = 1.0
    # World model
    free_nats: float = 1.0
    dyn_scale: float = 1.0
    rep_scale: float = 0.1
    reconstruction_scale: float = 1.0
    reward_scale: float = 1.0
    continue_scale: float = 1.0
    # Behaviour
    imagination_horizon: int = 15  # H
    discount_horizon: int = 333  # the discount is 1 - 1 / this
    return_lambda: float = 0.95
    entropy_scale: float = 3e-4
    policy_scale: float = 1.0
    value_scale: float = 1.0
    replay_value_scale: float = 0.3
    slow_value_scale: float = 1.0
    slow_value_rate: float = 0.02
    return_rate: float = 0.01  # of the running percentiles that returns are normalised by
    return_limit: float = 1.0
    # Optimiser: LaProp with adaptive gradient clipping
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-20
    agc: float = 0.3

    def __post_init__(self) -> None:
        self._check_observations()
        check_actions(self)
        check_bounds(self, _BOUNDS)
        if self.min_std >= self.max_std:
            raise ConfigError(f"min_std must be below max_std; got {self.min_std} and {self.max_std}.")
        if self.deter % self.blocks:
            raise ConfigError(f"deter must be a multiple of blocks={self.blocks}; got {self.deter}.")

    def _check_observations(self) -> None:
        check_shapes(self.obs_shapes, self.images)
        for name in self.obs_shapes:
            if name in _LOSS_NAMES:
                raise ConfigError(f"An observation is called {name!r}, which is the name of a loss. Rename it.")

    @property
    def choices(self) -> tuple[int, ...]:
        """The number of choices of each discrete action; empty where actions are continuous."""
        return choices_of(self)
