"""Behaviour cloning (Pomerleau: "ALVINN: An Autonomous Land Vehicle in a Neural Network", NeurIPS 1989).

The policy that makes the actions of the data most likely: supervised learning from observation to action. It knows no
rewards and no future, so it is as good as whoever recorded the data, at best; that makes it the yardstick of whatever
learns more from the same file. What is minimised is -log p(action | observation), in nats, over all real steps:

- discrete actions: the cross-entropy of a categorical; of several, the sum over those of each action
- continuous actions: the negative log-density of independent normals, whose mean is a tanh of the network's output and
  whose deviations are one number for each action, whatever is observed

Continuous actions can be learnt by their squared or absolute error instead, where there is no distribution to sample.

ALVINN smooths its targets over neighbouring steering angles, which choices in general do not have: here they are
one-hot. Numbers pass a symmetric logarithm, so that their units matter little and nothing is fitted to the data
beforehand; or they are normalised by the data, which tells millimetres apart where that matters. Images and text pass
the encoders that all imitation policies share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldline.batch import Batch, Obs, WindowSpec
from worldline.config import check_bounds
from worldline.episode import ObsShape
from worldline.errors import ConfigError, DataError
from worldline.mode import evaluating
from worldline.models.base import Model
from worldline.models.choices import check_actions, choices_log_prob, choices_of, choose
from worldline.models.features import FeatureEncoder
from worldline.models.inputs import InputLayer, Layout, check_image_settings
from worldline.models.observations import ObservationSettings, blank, named_obs
from worldline.nn.normed import NormedMLP
from worldline.ops.distributions import normal_log_prob
from worldline.ops.masking import masked_mean
from worldline.statistics import ColumnStatistics

SIZES: dict[str, dict[str, Any]] = {
    "small": {"units": 256, "layers": 2},
    "base": {"units": 512, "layers": 3},
}

_BOUNDS: dict[str, tuple[float, float]] = {"units": (1, 1 << 16), "layers": (1, 64), "min_std": (1e-6, 1.0)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BCConfig(ObservationSettings):
    """Settings of behaviour cloning; the defaults are those of size small."""

    obs_shape: ObsShape  # of one observation, or by name
    action_dim: int  # A, the width of an action row
    action_type: Literal["discrete", "multi_discrete", "continuous"] = "discrete"
    action_sizes: tuple[int, ...] = ()  # choices of each action of a multi-discrete space; they sum to A
    units: int = 256
    layers: int = 2  # hidden ones
    min_std: float = 0.01  # of continuous actions, in their range of [-1, 1]: data may be without any noise
    loss: Literal["likelihood", "squared", "absolute"] = "likelihood"  # the errors are for continuous actions
    normalization: Literal["symlog", "standard", "range"] = "symlog"  # of numbers: by none, or by those of the data
    image_widths: tuple[int, ...] = (32, 64, 128)  # channels of the levels of the image network
    image_shift: int = 4  # pixels by which images are moved while training

    def __post_init__(self) -> None:
        check_bounds(self, _BOUNDS)
        if self.loss != "likelihood" and self.choices:
            raise ConfigError(f"loss={self.loss!r} is for continuous actions; discrete ones have loss='likelihood'.")
        check_image_settings(self.image_widths, self.image_shift)
        Layout.of(self.obs_shapes)
        check_actions(self)

    @property
    def choices(self) -> tuple[int, ...]:
        """The number of choices of each discrete action; empty where actions are continuous."""
        return choices_of(self)


class BC(Model):
    """A network from observations to a distribution of actions; it remembers nothing of earlier observations."""

    family: ClassVar[str] = "bc"
    windows = WindowSpec(pad_end=True)

    def __init__(self, config: BCConfig) -> None:
        super().__init__(config)
        self.config: BCConfig = config
        self.inputs = InputLayer(config.obs_shapes, kind=config.normalization, shift=config.image_shift)
        self.encoder = FeatureEncoder(self.inputs.layout, 1, config.image_widths)
        self.net = NormedMLP(self.encoder.out_features, config.units, config.layers + 1, config.action_dim)
        has_std = config.loss == "likelihood" and not config.choices
        # Softplus of it, above `min_std`, is the deviation of each action
        self.raw_std = nn.Parameter(torch.zeros(config.action_dim)) if has_std else None

    @property
    def is_fitted(self) -> bool:
        """Whether the model has the statistics of its data, or needs none."""
        return self.inputs.is_fitted

    def fit(self, statistics: Mapping[str, ColumnStatistics]) -> None:
        """Take the statistics of the data, as `ReplayBuffer.statistics` returns them."""
        self.inputs.fit(statistics)

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return "loss", and "accuracy" of the likeliest choices or "absolute_error" of the mean actions.

        A likelihood is in nats.

        Raises:
            DataError: Observations or actions do not have the shapes that the model was built for.
        """
        if batch.actions.shape[-1] != self.config.action_dim:
            raise DataError(
                f"The model was built for actions of {self.config.action_dim} numbers; the batch has "
                f"{batch.actions.shape[-1]}. Build it with action_dim={batch.actions.shape[-1]}."
            )
        obs = named_obs(batch.obs, self.config.obs_shapes, leading=2)
        params = self._params({name: blank(value, batch.obs_mask) for name, value in obs.items()}, leading=2)
        actions = blank(batch.actions, batch.step_mask).float()  # [B, T, A]
        modes = self._modes(params)
        if self.config.choices:
            # The product of two one-hot rows is 1 for every action of which the choice is the same.
            name, metric = "accuracy", (modes * actions).sum(-1) / len(self.config.choices)
        else:
            name, metric = "absolute_error", (modes - actions).abs().mean(-1)
        if self.config.loss == "likelihood":
            losses = -self._log_prob(params, actions)
        else:
            error = modes - actions
            losses = (error.square() if self.config.loss == "squared" else error.abs()).mean(-1)
        loss = masked_mean(losses, batch.step_mask)
        return {"loss": loss, name: masked_mean(metric, batch.step_mask).detach()}

    @torch.no_grad()
    def act(
        self, obs: Obs, state: None = None, *, is_first: Tensor | None = None, deterministic: bool = False
    ) -> tuple[Tensor, None]:
        """Choose actions `[N, A]` for N environments; see `protocols.Policy`."""
        with evaluating(self):
            params = self._params(named_obs(obs, self.config.obs_shapes, leading=1), leading=1)
            return (self._modes(params) if deterministic else self._sample(params)), None

    def _params(self, obs: dict[str, Tensor], *, leading: int) -> Tensor:
        """Return the logits, or the mean before the tanh, `[..., A]` of observations `[..., *obs]`."""
        device = next(self.parameters()).device
        # Each row by itself: [B * T, 1, *obs]
        rows = {name: value.to(device).flatten(0, leading - 1)[:, None] for name, value in obs.items()}
        shape = next(iter(obs.values())).shape[:leading]
        params: Tensor = self.net(self.encoder(self.inputs(rows))).view(*shape, -1)
        return params

    def _log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probability (density, where continuous) of `actions [..., A]`, `[...]` in nats."""
        if not self.config.choices:
            return normal_log_prob(actions, torch.tanh(params), self._std()).sum(-1)
        return choices_log_prob(params, actions, self.config.choices)

    def _modes(self, params: Tensor) -> Tensor:
        """Return the likeliest actions `[..., A]`, one-hot where discrete."""
        if not self.config.choices:
            return torch.tanh(params)
        return choose(params, self.config.choices, deterministic=True)

    def _sample(self, params: Tensor) -> Tensor:
        """Draw actions `[..., A]`, within [-1, 1] where continuous."""
        if not self.config.choices:
            if self.raw_std is None:
                return torch.tanh(params)
            noise = torch.randn_like(params)
            return (torch.tanh(params) + self._std() * noise).clamp(-1.0, 1.0)
        return choose(params, self.config.choices, deterministic=False)

    def _std(self) -> Tensor:
        """Return the deviation of each continuous action, `[A]`."""
        assert self.raw_std is not None
        return self.config.min_std + F.softplus(self.raw_std)
