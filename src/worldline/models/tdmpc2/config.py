"""TD-MPC2's settings and published sizes."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from worldline.config import check_bounds
from worldline.episode import ObsShape
from worldline.errors import ConfigError
from worldline.models.observations import ObservationSettings, check_shapes

# The five sizes of the reference implementation.
SIZES: dict[str, dict[str, Any]] = {
    "1m": {"latent": 128, "encoder_units": 256, "encoder_layers": 2, "units": 384, "num_q": 2},
    "5m": {"latent": 512, "encoder_units": 256, "encoder_layers": 2, "units": 512, "num_q": 5},
    "19m": {"latent": 768, "encoder_units": 1024, "encoder_layers": 3, "units": 1024, "num_q": 5},
    "48m": {"latent": 768, "encoder_units": 1792, "encoder_layers": 4, "units": 1792, "num_q": 5},
    "317m": {"latent": 1376, "encoder_units": 4096, "encoder_layers": 5, "units": 4096, "num_q": 8},
}

# What a setting may be, the bounds included: beyond them a model could not be built, or would mean nothing.
_BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("latent", "encoder_units", "units", "simplex", "image_channels", "task_dim"), (1, 1 << 16)),
    "encoder_layers": (1, 64),
    "num_q": (2, 256),
    "num_bins": (2, 1 << 16),
    "symlog_limit": (1e-3, 80.0),
    **dict.fromkeys(("horizon", "plan_iterations"), (1, 1000)),
    **dict.fromkeys(("plan_samples", "plan_elites"), (1, 1 << 20)),
    "plan_policy_samples": (0, 1 << 20),
    **dict.fromkeys(("plan_min_std", "plan_max_std", "plan_temperature"), (1e-6, 1e6)),
    **dict.fromkeys(("rho", "target_rate", "scale_rate", "discount_min", "discount_max", "plan_floor"), (0.0, 1.0)),
    "dropout": (0.0, 0.99),
    "episode_length": (1, 1 << 30),
    "discount_divisor": (1e-3, 1e9),
    **dict.fromkeys(("encoder_lr_scale", "max_grad_norm"), (1e-9, 1e9)),
    **dict.fromkeys(("entropy_scale", "discrete_entropy_scale"), (0.0, 1e6)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TDMPC2Config(ObservationSettings):
    """Settings of TD-MPC2; the defaults are those of the reference implementation, at size 5m, but for `episodic`."""

    # Data
    obs_shape: ObsShape  # of one observation, or by name; three dimensions mean an image, fewer a vector
    action_dim: int  # A, the width of an action row
    action_type: Literal["discrete", "continuous"] = "discrete"
    # Several tasks: the width of each task's actions, the first so many of A (the rest are unused); empty for one task
    task_action_dims: tuple[int, ...] = ()
    # Networks
    latent: int = 512  # L
    encoder_units: int = 256
    encoder_layers: int = 2
    units: int = 512
    simplex: int = 8  # features that a simplicial norm takes together
    num_q: int = 5  # E
    dropout: float = 0.01  # after the first linear layer of every Q
    num_bins: int = 101  # K
    symlog_limit: float = 10.0  # of the outermost bins
    log_std_min: float = -10.0
    log_std_max: float = 2.0
    image_channels: int = 32
    image_shift: int = 3  # pixels by which training images are shifted at most
    task_dim: int = 96
    # The reference is not episodic by default. Here data say themselves whether a step ended its episode; where none
    # did, the head learns that none does.
    episodic: bool = True
    # Losses
    horizon: int = 3  # H, of learning and of planning
    rho: float = 0.5  # weight of each step relative to the one before
    consistency_scale: float = 20.0
    reward_scale: float = 0.1
    value_scale: float = 0.1
    termination_scale: float = 1.0
    entropy_scale: float = 1e-4  # of continuous actions
    # Of discrete ones, which the paper leaves out. Entropy is weighed against differences of values, which are divided
    # by their range and so at most about 1: with 0.1 most states, where a choice is worth some hundredths, are left to
    # chance, and the values of what follows with them.
    discrete_entropy_scale: float = 0.01
    scale_rate: float = 0.01  # of the running range of values that the policy's loss is divided by
    target_rate: float = 0.01
    # The discount is 1 - 1 / n with n = episode_length / discount_divisor, within the bounds
    episode_length: int = 500
    task_episode_lengths: tuple[int, ...] = ()  # of each task, where they differ
    discount_divisor: float = 5.0
    discount_min: float = 0.95
    discount_max: float = 0.995
    # Optimiser
    encoder_lr_scale: float = 0.3
    max_grad_norm: float = 20.0
    # Acting
    plans: bool = True  # act by planning; otherwise as the policy says
    plan_iterations: int = 6  # two more where actions have 20 numbers or more
    plan_samples: int = 512
    plan_elites: int = 64
    plan_policy_samples: int = 24
    plan_min_std: float = 0.05
    plan_max_std: float = 2.0
    plan_temperature: float = 0.5
    plan_floor: float = 0.1  # discrete actions: the share of the uniform distribution in what is sampled

    def __post_init__(self) -> None:
        check_shapes(self.obs_shapes, self.images)
        check_bounds(self, _BOUNDS)
        self._check_actions()
        for low_name in ("log_std_min", "discount_min", "plan_min_std"):
            high_name = low_name.replace("_min", "_max")
            if getattr(self, low_name) > getattr(self, high_name):
                raise ConfigError(
                    f"{low_name} must be at most {high_name}; got {getattr(self, low_name)} and "
                    f"{getattr(self, high_name)}."
                )
        if self.latent % self.simplex:
            raise ConfigError(f"latent must be a multiple of simplex={self.simplex}; got {self.latent}.")
        if not self.plan_policy_samples <= self.plan_samples or not self.plan_elites <= self.plan_samples:
            raise ConfigError(
                f"plan_samples={self.plan_samples} must be at least plan_elites={self.plan_elites} and "
                f"plan_policy_samples={self.plan_policy_samples}."
            )

    def _check_actions(self) -> None:
        if self.action_dim < 1:
            raise ConfigError(f"action_dim must be at least 1; got {self.action_dim}.")
        if self.is_discrete and self.action_dim < 2:
            raise ConfigError(
                "A discrete action needs at least 2 choices; got action_dim=1. For a continuous number say "
                'action_type="continuous".'
            )
        if any(not 1 <= dim <= self.action_dim for dim in self.task_action_dims):
            raise ConfigError(
                f"task_action_dims must be between 1 and action_dim={self.action_dim}; got {self.task_action_dims}."
            )
        if len(self.task_episode_lengths) not in (0, self.num_tasks) or any(n < 1 for n in self.task_episode_lengths):
            raise ConfigError(
                f"task_episode_lengths must be positive, one for each of {self.num_tasks} tasks as task_action_dims "
                f"has them; got {self.task_episode_lengths}."
            )

    @property
    def is_discrete(self) -> bool:
        """Whether an action is one of A choices, as a one-hot vector."""
        return self.action_type == "discrete"

    @property
    def num_tasks(self) -> int:
        """How many tasks the model tells apart; 0 for a model of one task, which has no task embedding."""
        return len(self.task_action_dims)

    @property
    def embedding_dim(self) -> int:
        """The width of what tells the networks the task; 0 for a model of one task."""
        return self.task_dim if self.num_tasks else 0

    @property
    def discounts(self) -> tuple[float, ...]:
        """The discount of every task, or of the one."""
        lengths = self.task_episode_lengths or (self.episode_length,) * max(1, self.num_tasks)
        return tuple(self._discount(length) for length in lengths)

    def _discount(self, episode_length: int) -> float:
        steps = episode_length / self.discount_divisor
        return min(max(1 - 1 / steps, self.discount_min), self.discount_max)
