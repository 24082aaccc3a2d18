"""Batch: what every loss receives, and the row rule.

The row rule: row t holds obs_t, the action taken there, and the reward and flags that `env.step(action)` then
returned. An episode of n steps therefore has n rows, and one *closing row* that carries only its final observation.
A model that wants the reward at arrival (DreamerV3) shifts inside its own loss, never in the data.

`step_mask` says whether a row's action, reward and termination are real; `obs_mask` whether its observation is.

| row                          | step_mask | obs_mask |
|------------------------------|-----------|----------|
| an ordinary step             | True      | True     |
| closing row, final_obs known | False     | True     |
| closing row, final_obs lost  | False     | False    |
| padding after a short episode| False     | False    |
| padding before an episode    | False     | False    |

The closing row directly follows the last step, padding follows the closing row, and a window never crosses an
episode. `is_first` marks row 0 of an episode (a window that starts in the middle of one has no such row).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from worldline.errors import FieldError, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# A string, because torch is not imported here; the models import the name at run time.
Obs: TypeAlias = "Tensor | dict[str, Tensor]"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Windows of B episodes, T rows each. Batch first, native dtypes: images stay uint8 until the model casts them.

    `batch.obs` and `batch["obs"]` are the same thing.
    """

    obs: Obs  # [B, T, *obs], or a dict of them; of the first rows alone where `WindowSpec.obs_rows` asks for so many
    actions: Tensor  # [B, T, A] float; discrete actions are one-hot, multi-discrete ones concatenated one-hot
    rewards: Tensor  # [B, T] float
    terminations: Tensor  # [B, T] bool; True where this step ended the episode for good (not where it was cut off)
    is_first: Tensor  # [B, T] bool; True on row 0 of an episode
    step_mask: Tensor  # [B, T] bool; the row's action, reward and termination are real
    obs_mask: Tensor  # [B, T] bool; the row's observation is real
    commands: Tensor | None = None  # [B, T, 2] float: (remaining steps, return to go)
    extras: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)  # name -> [B, T, ...]

    def __getitem__(self, name: str) -> Any:
        if name in self.keys():
            return getattr(self, name)
        if name in self.extras:
            return self.extras[name]
        raise FieldError(f"A batch has no field {name!r}. {nearest(str(name), [*self.keys(), *self.extras])}")

    def __contains__(self, name: object) -> bool:
        return name in self.keys() or name in self.extras

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    @staticmethod
    def keys() -> tuple[str, ...]:
        """Return the names of the fields, in order."""
        return _FIELDS

    @property
    def batch_size(self) -> int:
        """B, the number of windows."""
        return int(self.rewards.shape[0])

    @property
    def sequence_length(self) -> int:
        """T, the number of rows of each window."""
        return int(self.rewards.shape[1])

    @property
    def device(self) -> torch.device:
        """The device that holds the tensors."""
        return self.rewards.device

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Return a batch with `function` applied to every tensor."""
        values: dict[str, Any] = {}
        for name in _FIELDS:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                values[name] = {key: function(tensor) for key, tensor in value.items()}
            else:
                values[name] = None if value is None else function(value)
        return Batch(**values)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch on `device` (itself if it is there already).

        Raises:
            ConfigError: The device is unknown or not here.
        """
        import torch

        from worldline.device import resolve_device

        target = torch.device(resolve_device(device))
        if self.device == target:
            return self
        return self.map(lambda tensor: tensor.to(target, non_blocking=non_blocking))


def share(num_windows: int, rank: int, num_ranks: int) -> slice:
    """Return which windows of a batch are those of process `rank`; no process has two more than another.

    >>> [share(16, rank, 3) for rank in range(3)]
    [slice(0, 6, None), slice(6, 11, None), slice(11, 16, None)]
    """
    size, left_over = divmod(num_windows, num_ranks)
    first = rank * size + min(rank, left_over)
    return slice(first, first + size + (rank < left_over))


_FIELDS = tuple(field.name for field in dataclasses.fields(Batch))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """Which windows of its data a model learns from; `data.windows` says what each setting does.

    A model says so in its attribute `windows`, and the trainer asks the data for them.
    """

    pad_end: bool = False  # they begin at every step, and are padded beyond the end of the episode
    closing_row: bool = True  # they may end in an episode's closing row; False: with its last step
    pad_start: int = 0  # they begin up to so many rows before the episode
    obs_rows: int | None = None  # so many rows have observations, `obs [B, obs_rows, *obs]`; None: all T
    commands: bool = False  # fill `Batch.commands`


PLAIN_WINDOWS = WindowSpec()  # whole windows of real rows, where episodes are long enough


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """What to sample: B windows of T rows on a device."""

    batch_size: int
    seq_len: int | None = None
    device: str = "cpu"
