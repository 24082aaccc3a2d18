"""What every shield is: a model of which commands the data support in a state, and a threshold that is calibrated.

A command is (horizon, return): "so much return in so many steps". Of every step in the data, the command that it turned
out to obey is known. A shield learns how those commands are distributed in a state; commands that are unusual there are
flagged, and replaced by the nearest ones that are not. So are states far from all states of the data, since no command
is supported there; these cannot be mended by another command.

How unusual something is has two parts, each measured in its own 95th percentile over held-out rows:

    score(state, command) = max(command_score, state_score)

- `command_score` is the family's own. Zero is the score of a typical command, in every state, and each family knows
  commands ("anchors") of which one scores 0 or less in any state: so the set of allowed commands is never empty.
- `state_score` is the distance to the fourth nearest of some held-out states, all dimensions normalised.

`calibrate` divides held-out episodes into three: an eighth gives the states to compare with, an eighth the two
percentiles, and three quarters the threshold, by one score each (`ops.conformal`). Since nothing that a score depends
on came from these last ones, the guarantee of split-conformal thresholds holds, whatever the model has learnt:

    If the calibration episodes and a new one are exchangeable (one policy, one environment, none of them trained on),
    a row drawn uniformly from the new episode is flagged with a probability of at most alpha.

With `unit="episode"` that is the probability that any of its rows is flagged. With several bins of the horizon, each
has its own threshold, and the statement holds for the rows of each bin. It says nothing of commands that are not from
episodes, and nothing of episodes of another policy, such as the agent's.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from worldline.batch import Batch, Obs, WindowSpec
from worldline.config import check_bounds
from worldline.episode import ObsShape
from worldline.errors import ConfigError, DataError
from worldline.models import observations
from worldline.models.base import Model
from worldline.models.observations import ObservationSettings, blank, check_shapes
from worldline.models.shields.calibration import Calibration, EpisodeRows, check_alpha
from worldline.models.shields.projection import nearest_allowed
from worldline.nn.normalizer import Normalizer
from worldline.ops.conformal import draw_rows, worst_scores
from worldline.ops.masking import masked_mean
from worldline.protocols import HasEpisodes
from worldline.statistics import ColumnStatistics, flat_statistics

# Commands `[B, N, 2]`, normalised -> the family's score of each in its state, `[B, N]`
Scorer = Callable[[Tensor], Tensor]

_BOUNDS: dict[str, tuple[float, float]] = {
    "units": (1, 1 << 16),
    "layers": (1, 64),
    "smoothing": (0.0, 10.0),
    "num_horizon_bins": (1, 1 << 10),
    "num_reference_states": (4, 1 << 20),
}
_NEIGHBOUR = 4  # to which the distance of a state is measured: one or two odd states of the data support nothing
_SCALE_LEVEL = 0.95
_MIN_SCALE = 1e-2
_MARGIN = 1e-3  # by which a projected command is within the threshold, for rounding in batches of another size
_ROWS = 4096  # scored at a time in calibration


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShieldConfig(ObservationSettings):
    """Settings that all shields have."""

    obs_shape: ObsShape  # of one observation, or by name; vectors or matrices, no images
    action_dim: int  # of the data, as for every family; a shield looks at no actions
    action_type: Literal["discrete", "multi_discrete", "continuous"] = "discrete"
    action_sizes: tuple[int, ...] = ()
    units: int = 128
    layers: int = 4  # hidden ones
    # Deviation of the noise that commands get in training, in their deviations: how finely the shield tells them apart.
    # Without it, densities are infinite where returns are whole numbers, or follow from the horizon.
    smoothing: float = 0.05
    num_horizon_bins: int = 1  # each with its own threshold
    num_reference_states: int = 1024  # that a state is compared with

    def __post_init__(self) -> None:
        check_bounds(self, _BOUNDS | self.bounds())
        if self.images:
            raise ConfigError(
                f"Shields read vectors, not images; got {self.images}. Record the environment's state, or features of "
                "the images, instead."
            )
        check_shapes(self.obs_shapes, {})

    @staticmethod
    def bounds() -> dict[str, tuple[float, float]]:
        """Return the least and greatest value of each further setting."""
        return {}


class BaseShield(Model, abc.ABC):
    """A shield. Observations are `[B, *obs]` or dicts of them, commands `[B, 2]` (steps, return), scores `[B]`."""

    windows = WindowSpec(pad_end=True, commands=True)

    scales: Tensor
    edges: Tensor
    thresholds: Tensor
    reference: Tensor

    def __init__(self, config: ShieldConfig) -> None:
        super().__init__(config)
        self.config: ShieldConfig = config
        self.shapes = config.obs_shapes
        self.state_dim = sum(math.prod(shape) for shape in self.shapes.values())
        self.states, self.commands = Normalizer((self.state_dim,)), Normalizer((2,))
        self.register_buffer("scales", torch.ones(2))  # of the scores of commands and states
        self.register_buffer("edges", torch.zeros(config.num_horizon_bins - 1))  # horizons between two bins
        self.register_buffer("thresholds", torch.full((config.num_horizon_bins,), torch.nan))
        self.register_buffer("reference", torch.zeros(config.num_reference_states, self.state_dim))  # normalised
        self._is_calibrated = False  # what `thresholds` say, without a wait for the device

    @abc.abstractmethod
    def _losses(self, states: Tensor, commands: Tensor) -> Tensor:
        """Return the loss `[N]` of normalised states `[N, S]` and commands `[N, 2]`."""

    @abc.abstractmethod
    def log_prob(self, state: Obs, command: Tensor) -> Tensor:
        """Return the log-density of commands `[B, 2]` in their states, `[B]` in nats, in units of steps and return."""

    @abc.abstractmethod
    def scorer(self, states: Tensor) -> Scorer:
        """Return what scores commands in normalised states `[B, S]`; typical ones at about 0, larger is more unusual.

        One or more of `anchors` must score at most 0, in every state.
        """

    @abc.abstractmethod
    def anchors(self, states: Tensor, commands: Tensor) -> Tensor:
        """Return commands `[B, M, 2]` that are typical in states `[B, S]`, if need be near `commands [B, 2]`.

        All are normalised, and all horizons are 1 or more.
        """

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return "loss" over all real steps.

        Raises:
            DataError: The batch has no commands, or observations of other shapes; or the shield was never fitted.
        """
        if batch.commands is None:
            raise DataError(
                "The batch has no commands, which a shield learns. Sample it with windows=model.windows, as the "
                "trainer does."
            )
        obs = observations.named_obs(batch.obs, self.shapes, leading=2)
        blanked = {name: blank(value, batch.obs_mask) for name, value in obs.items()}
        losses = self.pair_losses(
            {name: value.flatten(0, 1) for name, value in blanked.items()},
            blank(batch.commands, batch.step_mask).flatten(0, 1),
        )
        return {"loss": masked_mean(losses.view_as(batch.rewards), batch.step_mask)}

    def pair_losses(self, state: Obs, command: Tensor) -> Tensor:
        """Return the loss of each pair, `[B]`. Noise makes the commands continuous; see `ShieldConfig.smoothing`."""
        states, commands = self.normalized_pair(state, command)
        commands = commands + self.config.smoothing * torch.randn_like(commands)
        # A horizon is a whole number; its density is that of the number and uniform noise of half a step either way.
        steps = (torch.rand_like(commands[:, 0]) - 0.5) / self.commands.scale[0]
        return self._losses(states, torch.stack((commands[:, 0] + steps, commands[:, 1]), 1))

    @property
    def is_fitted(self) -> bool:
        """Whether the shield knows the scale of its data."""
        return self.commands.is_fitted

    def fit(self, statistics: Mapping[str, ColumnStatistics]) -> None:
        """Take the scale of observations and commands from the statistics of the training data.

        Raises:
            DataError: They lack a column, or one has another shape.
        """
        names = {name if name == "obs" else f"obs.{name}" for name in self.shapes}
        if missing := sorted((names | {"commands"}) - statistics.keys()):
            raise DataError(f"The data has no statistics of {', '.join(missing)}; it has {sorted(statistics)}.")
        self.states.fit(flat_statistics([statistics[name if name == "obs" else f"obs.{name}"] for name in self.shapes]))
        self.commands.fit(statistics["commands"])

    @torch.no_grad()
    def command_score(self, state: Obs, command: Tensor) -> Tensor:
        """Return how unusual commands are in their states, `[B]`; infinite for horizons below 1."""
        states, commands = self.normalized_pair(state, command)
        scores = self.scorer(states)(commands[:, None])[:, 0] / self.scales[0]
        return torch.nan_to_num(scores, nan=torch.inf).masked_fill(~(command[:, 0].to(scores.device) >= 1), torch.inf)

    @torch.no_grad()
    def excess(self, state: Obs, command: Tensor) -> Tensor:
        """Return by how much `command_score` is above the threshold, `[B]`; raises as `score` does."""
        self._check_calibrated()
        scores = self.command_score(state, command)
        return scores - self._limits(command[:, 0].to(scores))

    @torch.no_grad()
    def state_score(self, state: Obs) -> Tensor:
        """Return how far states are from those of the data, `[B]`.

        Raises:
            DataError: The shield was never calibrated.
        """
        self._check_calibrated()
        return torch.nan_to_num(self._distance(self._normalized_states(state)) / self.scales[1], nan=torch.inf)

    @torch.no_grad()
    def score(self, state: Obs, command: Tensor) -> Tensor:
        """Return how unusual commands or their states are, whichever is more, `[B]`; deterministic.

        Raises:
            DataError: The shield was never calibrated.
        """
        self._check_calibrated()
        return self._score(state, command)

    @torch.inference_mode()
    def is_ood(self, state: Obs, command: Tensor, threshold: float | None = None) -> Tensor:
        """Tell which commands the data do not support, `[B]` bool: their score is above the threshold.

        Args:
            state: Observations.
            command: `[B, 2]`.
            threshold: In the units of `score`; None means the calibrated one.

        Raises:
            DataError: The shield was never calibrated.
        """
        scores = self.score(state, command)
        limit = self._limits(command.to(scores.device)[:, 0]) if threshold is None else threshold
        return scores > limit

    @torch.no_grad()
    def project(self, state: Obs, command: Tensor, *, num_steps: int = 20, step_size: float = 0.1) -> Tensor:
        """Return commands `[B, 2]` that are allowed and near the given ones, in normalised distance.

        A command that is allowed is returned as it is. Whatever is returned has a horizon of 1 or more and a
        `command_score` within the threshold: `is_ood` is false for it, unless the state itself is flagged.

        Args:
            state: Observations.
            command: `[B, 2]`, of any numbers.
            num_steps: How often to improve on the first allowed command by moving along the boundary.
            step_size: The longest such move, in deviations of the commands.

        Raises:
            DataError: The shield was never calibrated, or a command is NaN or infinite.
        """
        self._check_calibrated()
        states, commands = self.normalized_pair(state, command)
        if not bool(commands.isfinite().all()):
            raise DataError("project got a command that is NaN or infinite. There is no command nearest to that.")
        raw = command.to(commands)
        is_flagged = self.excess(state, command) > 0
        if not bool(is_flagged.any()):
            return raw
        states, commands = states[is_flagged], commands[is_flagged]
        score = self.scorer(states)

        def excess(points: Tensor) -> Tensor:
            horizons = self.commands.inverse(points)[..., 0].clamp(min=1.0)
            return score(points) / self.scales[0] - self._limits(horizons) + _MARGIN

        anchors = self.anchors(states, commands)
        nearest = nearest_allowed(excess, commands, anchors, self._low, num_steps=num_steps, step_size=step_size)
        projected = raw.clone()
        projected[is_flagged] = self._denormalized(nearest)
        # Where the field is steep, rounding and the size of the batch decide; there, take what is surely allowed.
        fails = (self.excess(state, projected) > 0)[is_flagged]
        if bool(fails.any()):
            surest = anchors[torch.arange(len(anchors), device=anchors.device), excess(anchors).argmin(1)]
            projected[is_flagged] = torch.where(fails[:, None], self._denormalized(surest), projected[is_flagged])
        return projected

    def _denormalized(self, commands: Tensor) -> Tensor:
        """Return commands `[B, 2]` in steps and return, with a horizon of 1 or more."""
        found = self.commands.inverse(commands)
        return torch.stack((found[:, 0].clamp(min=1.0), found[:, 1]), 1)

    @torch.no_grad()
    def calibrate(
        self, dataset: HasEpisodes, alpha: float = 0.05, *, unit: Literal["row", "episode"] = "row", seed: int = 0
    ) -> Calibration:
        """Set the threshold so that at most `alpha` of what the data support is flagged; see the module's docstring.

        Returned is what the threshold was taken from, which tells those of other alphas.

        Args:
            dataset: Episodes that were not trained on, such as the second buffer of `ReplayBuffer.split`.
            alpha: The rate of false alarms, within (0, 1).
            unit: Whether it is that of rows or of whole episodes.
            seed: Of the division into three, and of the rows.

        Raises:
            ConfigError: `alpha` is not within (0, 1).
            DataError: There are too few episodes for this alpha.
        """
        check_alpha(alpha)
        generator = torch.Generator().manual_seed(seed)
        rows = EpisodeRows.of(dataset.episodes(), self.shapes)
        reference, scale, rest = rows.divide(generator, alpha=alpha)
        self.reference.copy_(self._normalized_states(reference.draw(len(self.reference), generator).obs))
        self._calibrate_scales(scale.draw(_ROWS, generator))
        found = []
        for index in range(len(self.thresholds)):
            within = rest.where(self._bins(rest.commands[:, 0].to(self.edges)).cpu() == index)
            within.check_enough(alpha, horizon_bin=index)
            if unit == "row":
                found.append(self._scores(within.rows(draw_rows(within.lengths, generator=generator))))
            else:
                found.append(worst_scores(self._scores(within), within.lengths))
        # Thresholds are above 0, so that anchors are allowed. That can only spare false alarms.
        calibration = Calibration(scores=tuple(found), edges=self.edges.cpu().clone(), least=2 * _MARGIN)
        self.thresholds.copy_(calibration.thresholds(alpha))
        self._is_calibrated = True
        return calibration

    def _calibrate_scales(self, rows: EpisodeRows) -> None:
        states, commands = self.normalized_pair(rows.obs, rows.commands)
        scores = torch.stack((self.scorer(states)(commands[:, None])[:, 0], self._distance(states)))  # [2, N]
        self.scales.copy_(torch.quantile(scores, _SCALE_LEVEL, dim=1).clamp(min=_MIN_SCALE))
        levels = torch.arange(1, len(self.thresholds)) / len(self.thresholds)
        self.edges.copy_(torch.quantile(rows.commands[:, 0], levels))

    def _scores(self, rows: EpisodeRows) -> Tensor:
        """Return the scores of all rows, `[N]` on the CPU."""
        pieces = (rows.rows(piece) for piece in torch.arange(len(rows.commands)).split(_ROWS))
        return torch.cat([self._score(piece.obs, piece.commands).cpu() for piece in pieces])

    def _score(self, state: Obs, command: Tensor) -> Tensor:
        distance = self._distance(self._normalized_states(state)) / self.scales[1]
        return torch.maximum(self.command_score(state, command), torch.nan_to_num(distance, nan=torch.inf))

    def _distance(self, states: Tensor) -> Tensor:
        """Return the distance of normalised states `[B, S]` to those of the data, `[B]`."""
        return torch.cdist(states, self.reference).kthvalue(_NEIGHBOUR, dim=1).values

    def _bins(self, horizons: Tensor) -> Tensor:
        """Return in which bin horizons `[...]` fall, `[...]`."""
        return torch.bucketize(horizons.contiguous(), self.edges)

    def _limits(self, horizons: Tensor) -> Tensor:
        """Return the threshold for each of the horizons `[...]`."""
        return self.thresholds[self._bins(horizons)] if len(self.edges) else self.thresholds

    @property
    def _low(self) -> Tensor:
        """The least normalised command `[2]`: a horizon of 1, and any return."""
        return torch.stack(
            ((1.0 - self.commands.shift[0]) / self.commands.scale[0], self.commands.shift.new_tensor(-torch.inf))
        )

    def _normalized_states(self, state: Obs) -> Tensor:
        """Return observations `[B, *obs]` as normalised vectors `[B, S]`.

        Raises:
            DataError: They have other shapes, or the shield was never fitted.
        """
        device = self.states.shift.device
        named = observations.named_obs(state, self.shapes, leading=1)
        states: Tensor = self.states(torch.cat([value.to(device).float().flatten(1) for value in named.values()], 1))
        return states

    def normalized_pair(self, state: Obs, command: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised states `[B, S]` and commands `[B, 2]`.

        Raises:
            DataError: They do not fit together, or the shield was never fitted.
        """
        states = self._normalized_states(state)
        if command.shape != (len(states), 2):
            raise DataError(
                f"command has shape {list(command.shape)}; expected [{len(states)}, 2], steps and return for each of "
                f"the {len(states)} states."
            )
        return states, self.commands(command.to(states.device))

    def _check_calibrated(self) -> None:
        if not self._is_calibrated and bool(self.thresholds.isnan().any()):
            raise DataError(
                "The shield has no threshold yet. Call shield.calibrate(held_out, alpha=0.05) with episodes that it "
                "was not trained on."
            )
        self._is_calibrated = True
