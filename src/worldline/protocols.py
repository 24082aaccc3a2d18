"""The few interfaces that let the packages work together without importing each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from worldline.batch import Batch, Obs, WindowSpec
    from worldline.episode import Episode
    from worldline.statistics import ColumnStatistics


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ParamGroup:
    """Parameters that one optimiser call updates, with what differs from the trainer's configuration.

    `None` means: as the training configuration says.
    """

    name: str
    params: Sequence[nn.Parameter]
    algorithm: Literal["adamw", "laprop"] = "adamw"
    lr_scale: float = 1.0  # multiplies the configured learning rate
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float | None = None
    max_grad_norm: float | None = None  # clip this group's global gradient norm
    clipped_with: str = ""  # groups of one name here are clipped by the norm of them all; "": by the group's own
    agc: float = 0.0  # adaptive gradient clipping per tensor: |g| <= agc * max(1e-3, |p|); 0 switches it off


@runtime_checkable
class Trainable(Protocol):
    """What the trainer needs of a model: an `nn.Module` with these methods."""

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return "loss", the scalar to minimise, and other detached scalars by name."""
        ...

    def param_groups(self) -> Sequence[ParamGroup]:
        """Return the groups to optimise; a parameter in none of them is not trained."""
        ...

    def after_update(self) -> None:
        """Do what follows each optimiser step (target networks)."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Where batches come from: replay buffer, data set, online collection."""

    def sample(self, batch_size: int, seq_len: int | None = None, device: str | torch.device = "cpu") -> Batch:
        """Return B windows of T rows."""
        ...


@runtime_checkable
class Seekable(Protocol):
    """A sampler whose order is a function of (seed, step): what exact resume needs.

    Where several processes train, `seek` may also take `rank` and `num_ranks`, as `ReplayBuffer` does: the next
    `sample` then draws the whole batch and gathers only the windows `batch.share(batch_size, rank, num_ranks)` of it.
    A sampler that does not take them gathers the whole batch in every process, and the trainer keeps each one's share.
    """

    def seek(self, *, seed: int, step: int) -> None:
        """Make the next `sample` the one that belongs to optimiser step `step` (0-based) under `seed`.

        The trainer calls it before every batch.
        """
        ...


@runtime_checkable
class ChoosesWindows(Protocol):
    """A model that says which windows it learns from."""

    @property
    def windows(self) -> WindowSpec:
        """Which windows those are; families of short ones pad them."""
        ...


@runtime_checkable
class HasStatistics(Protocol):
    """Data that can say how its columns are distributed."""

    def statistics(self) -> Mapping[str, ColumnStatistics]:
        """Return the statistics of "obs" (or each "obs.KEY"), "actions", "rewards" and "commands"; not of images."""
        ...


@runtime_checkable
class HasEpisodes(Protocol):
    """Data that can be gone through episode by episode: replay buffer, data set."""

    def episodes(self) -> Iterator[Episode]:
        """Return an iterator over the episodes, in order."""
        ...


@runtime_checkable
class Fitted(Protocol):
    """A model that normalises by the statistics of its data, which are a part of it from then on.

    The trainer calls `fit` before the first step of a run, unless the model was fitted before.
    """

    @property
    def is_fitted(self) -> bool:
        """Whether the model has its statistics."""
        ...

    def fit(self, statistics: Mapping[str, ColumnStatistics]) -> None:
        """Take the statistics of the data."""
        ...


@runtime_checkable
class Policy(Protocol):
    """What evaluation and collection need."""

    def act(
        self, obs: Obs, state: Any = None, *, is_first: Tensor | None = None, deterministic: bool = False
    ) -> tuple[Tensor, Any]:
        """Return actions for N environments and the state to pass to the next call.

        Args:
            obs: `[N, *obs]` in the environment's own dtype, or a dict of them.
            state: What the last call returned; None at the start of all N episodes.
            is_first: `[N]` bool; True where an episode has just begun (its part of `state` is reset).
            deterministic: Take the most likely action instead of a sample.

        Returns:
            Actions `[N, A]` as in `Batch.actions` (one-hot where discrete), and the next state.
        """
        ...


@runtime_checkable
class Rewarded(Protocol):
    """A policy that wants to know what its actions were rewarded with."""

    def after_step(self, state: Any, rewards: Tensor) -> Any:
        """Return the state to pass to the next `act`.

        Args:
            state: What the last `act` returned.
            rewards: `[N]` float32, of the actions it chose; 0 where no episode is running any more.
        """
        ...


@runtime_checkable
class Samples(Protocol):
    """A policy that says how it is meant to act where nobody says otherwise; others take their likeliest actions."""

    @property
    def samples_actions(self) -> bool:
        """Whether it is meant to sample its actions instead of taking the likeliest ones."""
        ...


@runtime_checkable
class Commanded(Protocol):
    """A model that acts by a command: remaining steps and return to go."""

    @property
    def samples_actions(self) -> bool:
        """As `Samples` has it."""
        ...

    def choose(self, obs: Obs, commands: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions `[N, A]`, as `Policy.act` does, for `obs [N, *obs]` and `commands [N, 2]`."""
        ...

    @property
    def command_range(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest command that the model has learnt from, each `[2]`, on its device."""
        ...


@runtime_checkable
class Shield(Protocol):
    """What tells which commands `[B, 2]` (steps, return) the data support in states `[B, *obs]`."""

    def score(self, state: Obs, command: Tensor) -> Tensor:
        """Return how unusual commands or their states are, `[B]`."""
        ...

    def state_score(self, state: Obs) -> Tensor:
        """Return how unusual states are, `[B]`, in the units of `score`."""
        ...

    def is_ood(self, state: Obs, command: Tensor, threshold: float | None = None) -> Tensor:
        """Tell which are flagged, `[B]` bool."""
        ...

    def project(self, state: Obs, command: Tensor) -> Tensor:
        """Return near commands `[B, 2]` that are not flagged, unless their states are."""
        ...


class Calibrated(Protocol):
    """What a shield's calibration found: its thresholds at every alpha, without another one."""

    def limits(self, horizons: Tensor, alpha: float) -> Tensor:
        """Return the scores above which commands of these horizons `[B]` are flagged at `alpha`, `[B]` on the CPU."""
        ...


class DensityShield(Shield, Protocol):
    """A shield that also says where its boundary lies, and can be calibrated."""

    def log_prob(self, state: Obs, command: Tensor) -> Tensor:
        """Return the log-density of commands in their states, `[B]` in nats."""
        ...

    def excess(self, state: Obs, command: Tensor) -> Tensor:
        """Return by how much the scores of commands, without those of their states, are above the threshold, `[B]`."""
        ...

    def calibrate(self, dataset: HasEpisodes, alpha: float = 0.05, *, seed: int = 0) -> Calibrated:
        """Set the threshold so that at most `alpha` of what the data support is flagged."""
        ...
