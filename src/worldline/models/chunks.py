"""Imitation in chunks: what policies share that learn, and carry out, several actions at a time.

They learn from windows of H rows: n observations and the H actions that go with the rows, of which n - 1 are of the
past, as Chi et al. (2023) have them. A window may begin n - 1 rows before an episode, where its first observation is
repeated, and at every step of it, so that the rows beyond the end are not real. The published codes fill them with the
first and the last action, and Chi et al. learn those as well; here they are only read, and weigh nothing in the loss:
an action repeated is no rest where actions are changes of a position.

Numbers are normalised by the statistics of the data, which `fit` takes and `save_pretrained` saves with the model.
Actions are: each to [-1, 1] over the data, or to unit deviation.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from worldline.batch import Batch, Obs, WindowSpec
from worldline.config import check_bounds
from worldline.episode import ObsShape
from worldline.errors import ConfigError, DataError
from worldline.mode import evaluating
from worldline.models.base import Model
from worldline.models.execution import ChunkState, advance, blend, remember
from worldline.models.inputs import InputLayer, Inputs, Layout, check_image_settings, column_of
from worldline.models.observations import ObservationSettings, named_obs
from worldline.nn.normalizer import Normalizer
from worldline.ops.masking import extend, masked_mean
from worldline.statistics import ColumnStatistics

_MAX_ROWS = 1 << 12
_NOISE_SEED, _NUM_NOISES = 0, 64  # of the noises from which deterministic chunks are made, one after the other


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkConfig(ObservationSettings):
    """Settings that all policies of chunks have."""

    obs_shape: ObsShape  # of one observation, or by name: vectors, images of one size, bytes called "language"
    action_dim: int  # A
    action_type: Literal["continuous", "discrete", "multi_discrete"] = "continuous"
    horizon: int = 16  # H, the rows of a window, and of what is predicted from it
    num_obs: int = 2  # n, observations that a chunk is predicted from; it begins with the first of them
    num_executed: int = 8  # actions that are carried out before the next chunk is made
    ensemble_rate: float | None = (
        None  # m of temporal ensembling, which makes a chunk at every step; None: no ensembling
    )
    image_widths: tuple[int, ...] = (32, 64, 128)  # channels of the levels of the image network
    image_shift: int = 4  # pixels by which images are moved while training

    def __post_init__(self) -> None:
        if self.action_type != "continuous":
            raise ConfigError(
                f"Chunks are of continuous actions; got action_type={self.action_type!r}. Use bc for discrete ones."
            )
        bounds = {"action_dim": (1, 1 << 16), "horizon": (1, _MAX_ROWS), "num_obs": (1, self.horizon)}
        check_bounds(self, bounds | {"num_executed": (1, self.num_planned)})
        if self.ensemble_rate is not None and not 0 <= self.ensemble_rate < 100:
            raise ConfigError(f"ensemble_rate must be at least 0 (0.01 is published); got {self.ensemble_rate}.")
        check_image_settings(self.image_widths, self.image_shift)
        Layout.of(self.obs_shapes)

    @property
    def num_planned(self) -> int:
        """P, the actions of a chunk that are of the present and the future."""
        return self.horizon - self.num_obs + 1


class ChunkPolicy(Model):
    """A policy that predicts H actions from n observations; subclasses say how.

    Args:
        config: The family's settings.
        kind: How numbers and actions are normalised: to [-1, 1] ("range") or to unit deviation ("standard").
    """

    config: ChunkConfig

    def __init__(self, config: ChunkConfig, *, kind: Literal["range", "standard"]) -> None:
        super().__init__(config)
        self.windows = WindowSpec(pad_end=True, pad_start=config.num_obs - 1, obs_rows=config.num_obs)
        self.inputs = InputLayer(config.obs_shapes, kind=kind, shift=config.image_shift)
        self.actions = Normalizer((config.action_dim,), kind=kind)

    @abc.abstractmethod
    def chunk_loss(self, inputs: Inputs, actions: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return "loss" and other scalars.

        Args:
            inputs: What is observed.
            actions: `[B, H, A]`, normalised.
            mask: `[B, H]` bool, which of them are real; the others are the nearest real ones.
        """

    @abc.abstractmethod
    def chunk(self, inputs: Inputs, noise: Tensor) -> Tensor:
        """Return `[N, H, A]`, normalised actions, made from standard normal `noise [N, H, A]`."""

    @property
    def is_fitted(self) -> bool:
        """Whether the model has the statistics of its data."""
        return self.inputs.is_fitted and self.actions.is_fitted

    def fit(self, statistics: Mapping[str, ColumnStatistics]) -> None:
        """Take the statistics of the data, as `ReplayBuffer.statistics` returns them.

        Raises:
            DataError: The data lacks a column, or has other shapes.
        """
        self.inputs.fit(statistics)
        self.actions.fit(column_of(statistics, "actions"))

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return "loss" and other scalars; "loss" is a mean over all real actions.

        Raises:
            DataError: The batch has fewer than H rows, other shapes, or the model was not fitted.
        """
        config = self.config
        if batch.actions.shape[-1] != config.action_dim or batch.sequence_length < config.horizon:
            raise DataError(
                f"{self.family} learns from windows of {config.horizon} rows of {config.action_dim} actions; got "
                f"{batch.sequence_length} rows of {batch.actions.shape[-1]}. Train with "
                f"sequence_length={config.horizon}, and build the model for the data's action_dim."
            )
        seen = batch.obs_mask[:, : config.num_obs]
        obs = named_obs(batch.obs, config.obs_shapes, leading=2)
        inputs = self.inputs({name: extend(value[:, : config.num_obs], seen) for name, value in obs.items()})
        taken = batch.step_mask[:, : config.horizon]
        actions = self.actions(extend(batch.actions[:, : config.horizon], taken))
        # A window whose present is beyond the episode teaches nothing.
        mask = taken & taken[:, config.num_obs - 1 : config.num_obs]
        return self.chunk_loss(inputs, actions, mask)

    @torch.no_grad()
    def act(
        self, obs: Obs, state: ChunkState | None = None, *, is_first: Tensor | None = None, deterministic: bool = False
    ) -> tuple[Tensor, ChunkState]:
        """Choose actions `[N, A]` for N environments; see `protocols.Policy`.

        Deterministic means that the first chunk of an episode is made from one fixed noise, the second from another,
        and so on. One noise for all of them would lead to the same small error in every chunk, and fail more often.
        """
        config = self.config
        named = named_obs(obs, config.obs_shapes, leading=1)
        device = self.actions.shift.device
        named = {name: value.to(device) for name, value in named.items()}
        num = len(next(iter(named.values())))
        begins = torch.full((num,), state is None, device=device) if is_first is None else is_first.to(device)
        history = remember(named, None if state is None else state.history, begins, config.num_obs)
        if state is None:
            plan = torch.zeros(num, config.num_planned, config.action_dim, device=device)
            count = torch.zeros(num, config.num_planned, dtype=torch.int64, device=device)
            state = ChunkState(history=history, plan=plan, count=count, left=count[:, 0], num_made=count[:, 0])
        count = state.count.masked_fill(begins[:, None], 0)
        plan, left = state.plan.clone(), state.left.clone()
        num_made = state.num_made.masked_fill(begins, 0)
        due = (begins | (left <= 0)).nonzero()[:, 0]  # [n] environments that need a chunk
        if len(due):
            noise = self._noise(num_made[due], deterministic=deterministic)
            chunk = self._planned({name: value[due] for name, value in history.items()}, noise)
            rate = config.ensemble_rate
            earlier = torch.zeros_like(count[due]) if rate is None else count[due]
            plan[due], count[due] = blend(plan[due], earlier, chunk, rate or 0.0)
            left[due] = config.num_executed if rate is None else 1
            num_made[due] += 1
        actions, state = advance(ChunkState(history=history, plan=plan, count=count, left=left, num_made=num_made))
        return actions.clamp(-1.0, 1.0), state

    def _planned(self, history: dict[str, Tensor], noise: Tensor) -> Tensor:
        """Return the actions of a chunk from the present on, `[N, P, A]`, in their own range."""
        with evaluating(self):
            chunk = self.chunk(self.inputs(history), noise)
        return self.actions.inverse(chunk.float())[:, self.config.num_obs - 1 :]

    def _noise(self, num_made: Tensor, *, deterministic: bool) -> Tensor:
        """Return standard normal noise `[N, H, A]` for the chunks that follow `num_made [N]` others."""
        shape = (self.config.horizon, self.config.action_dim)
        if not deterministic:
            return torch.randn(len(num_made), *shape, device=num_made.device)
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        noises = torch.randn(_NUM_NOISES, *shape, generator=generator).to(num_made.device)
        return noises[num_made % _NUM_NOISES]


def mean_over_actions(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `values [B, H, A]` over all real actions, `mask [B, H]`, as a scalar."""
    return masked_mean(values.mean(-1), mask)
