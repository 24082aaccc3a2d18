"""Open-loop prediction: how far a world model's imagination stays with what really happened.

A window has rows 0 .. C-1 of context and rows C .. C+H-1 to predict. The model observes the context; the action of
row C-1 leads to row C, so it imagines with the actions of rows C-1 .. C+H-2, and what it decodes after h actions is
held against the observation of row C-1+h, h = 1 .. H. The yardstick is to copy row C-1 for ever.

Observations are compared in the units that the model decodes: vectors in their own, images in [0, 1]. Errors are
means over windows and observation components. Where components differ in scale, that mean speaks of the largest
alone; so each error is given normalised too, divided component by component by the variance over the real rows of
the data. A normalised error of 1 is as good as always guessing the mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from worldline.batch import Batch, Obs
from worldline.episode import Array, is_image
from worldline.errors import ConfigError, DataError
from worldline.mode import measuring


class ImaginedStates(Protocol):
    """An imagined future: `models.base.Trajectory`."""

    @property
    def states(self) -> Any: ...  # leaves [H, B, ...]


class Imagining(Protocol):
    """What is measured here: a world model whose states have `map(function)`, which applies to every leaf."""

    def observe(self, batch: Batch) -> Any: ...

    def imagine(self, state: Any, actions: Tensor) -> ImaginedStates: ...

    def decode(self, state: Any) -> Obs: ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OpenLoopError:
    """Mean squared errors after 1 .. H imagined steps, of the model and of copying the last observation."""

    context: int  # C, rows observed before imagination begins
    model_mse: tuple[float, ...]  # [H], in squared units of the observations
    copy_mse: tuple[float, ...]  # [H]
    model_normalised: tuple[float, ...]  # [H], in variances of each component; components that never vary are left out
    copy_normalised: tuple[float, ...]  # [H]
    num_windows: tuple[int, ...]  # [H], windows whose observation h steps ahead is real; the means are over these
    actual: Array  # [N, C + H, D], the first windows that are real throughout, flattened observations
    imagined: Array  # [N, H, D], what the model imagined in them; N may be 0

    @property
    def horizon(self) -> int:
        """H, the number of imagined steps."""
        return len(self.model_mse)


def open_loop_error(
    model: Imagining,
    batches: Iterable[Batch],
    *,
    context: int,
    horizon: int,
    num_examples: int = 4,
    seed: int = 0,
) -> OpenLoopError:
    """Measure how `model` predicts held-out windows.

    Args:
        model: A world model; a module is in evaluation mode meanwhile.
        batches: Windows of at least C + H rows; the rows after these are not used.
        context: C, rows to observe first, at least 1.
        horizon: H, steps to imagine, at least 1.
        num_examples: How many windows to return for plotting, at most.
        seed: Of the model's own noise; torch's default generator is left as it was.

    Raises:
        ConfigError: A number is out of range, or the windows are too short.
        DataError: No window is long enough for some horizon.
    """
    if context < 1 or horizon < 1 or num_examples < 0:
        raise ConfigError(
            f"context and horizon must be at least 1 and num_examples at least 0; got {context}, {horizon} and "
            f"{num_examples}."
        )
    totals: _Totals | None = None
    with measuring(model, seed=seed):
        for batch in batches:
            if batch.sequence_length < context + horizon:
                raise ConfigError(
                    f"context {context} and horizon {horizon} need windows of {context + horizon} rows; these have "
                    f"{batch.sequence_length}. Sample longer ones, or lower one of the two."
                )
            window = batch.map(lambda tensor: tensor[:, : context + horizon])
            actual = _flatten(window.obs, num_leading=2)  # [B, C + H, D]
            imagined = _imagine(model, window, context).transpose(0, 1)  # [B, H, D]
            is_real = _real_rows(window)  # [B, C + H]
            totals = totals or _Totals(context, horizon, actual.shape[-1])
            totals.add(actual, imagined, is_real, num_examples)
    if totals is None:
        raise DataError("There are no windows to measure on. Pass at least one batch.")
    return totals.result()


def _imagine(model: Imagining, window: Batch, context: int) -> Tensor:
    """Return the decoded observations `[H, B, D]` that follow the context."""
    observed: Any = model.observe(window.map(lambda tensor: tensor[:, :context]))
    last: Callable[[Tensor], Tensor] = lambda leaf: leaf[:, -1]  # noqa: E731 - [B, C, ...] -> [B, ...]
    actions = window.actions[:, context - 1 : -1].transpose(0, 1)  # [H, B, A]
    trajectory = model.imagine(observed.map(last), actions)
    return _flatten(model.decode(trajectory.states), num_leading=2)


def _real_rows(window: Batch) -> Tensor:
    """Return `[B, T]` bool: this observation and all that led to it are real, and of one episode."""
    leads_on = window.step_mask & window.obs_mask
    leads_on[:, 1:] &= ~window.is_first[:, 1:]
    unbroken = torch.cat([torch.ones_like(leads_on[:, :1]), leads_on[:, :-1].cumprod(dim=1).bool()], dim=1)
    is_real = unbroken & window.obs_mask
    is_real[:, 1:] &= ~window.is_first[:, 1:]
    return is_real


def _flatten(obs: Obs, *, num_leading: int) -> Tensor:
    """Return observations `[*leading, D]` as float32, a dict's concatenated by key; uint8 images in [0, 1]."""
    parts = [obs[key] for key in sorted(obs)] if isinstance(obs, dict) else [obs]
    columns = []
    for part in parts:
        is_bytes = part.dtype == torch.uint8 and is_image(tuple(part.shape[num_leading:]))
        scaled = part.float() / 255.0 if is_bytes else part.float()
        columns.append(scaled.reshape(*part.shape[:num_leading], -1))
    return torch.cat(columns, dim=-1)


class _Totals:
    """Sums over windows, per horizon and component, in float64."""

    def __init__(self, context: int, horizon: int, width: int) -> None:
        self._context = context
        self._model = np.zeros((horizon, width))  # sums of squared errors
        self._copy = np.zeros((horizon, width))
        self._num_windows = np.zeros(horizon, dtype=np.int64)
        self._num_rows = 0
        self._mean = np.zeros(width)
        self._spread = np.zeros(width)  # sum of squared distances from the mean
        self._actual: list[Array] = []
        self._imagined: list[Array] = []

    def add(self, actual: Tensor, imagined: Tensor, is_real: Tensor, num_examples: int) -> None:
        """Add windows: `actual [B, C + H, D]`, `imagined [B, H, D]`, `is_real [B, C + H]`."""
        rows = actual.double().cpu().numpy()
        predictions = imagined.double().cpu().numpy()
        real = is_real.cpu().numpy()
        ahead = real[:, self._context :]  # [B, H]
        targets = rows[:, self._context :]
        last = rows[:, self._context - 1, None]  # [B, 1, D]
        self._model += np.where(ahead[..., None], (predictions - targets) ** 2, 0.0).sum(axis=0)
        self._copy += np.where(ahead[..., None], (last - targets) ** 2, 0.0).sum(axis=0)
        self._num_windows += ahead.sum(axis=0)
        self._add_spread(rows[real])
        complete = np.flatnonzero(real.all(axis=1))[: num_examples - len(self._actual)]
        self._actual.extend(rows[complete].astype(np.float32))
        self._imagined.extend(predictions[complete].astype(np.float32))

    def result(self) -> OpenLoopError:
        if not self._num_windows.all():
            horizon = int(self._num_windows.argmin()) + 1
            raise DataError(
                f"No window has a real observation {horizon} steps after {self._context} rows of context. Lower "
                "context or horizon, or measure on longer episodes."
            )
        model = self._model / self._num_windows[:, None]  # [H, D]
        copy = self._copy / self._num_windows[:, None]
        variance = self._spread / self._num_rows
        varies = variance > 0
        horizon, width = model.shape
        return OpenLoopError(
            context=self._context,
            model_mse=_floats(model.mean(axis=1)),
            copy_mse=_floats(copy.mean(axis=1)),
            model_normalised=_floats((model[:, varies] / variance[varies]).sum(axis=1) / max(1, varies.sum())),
            copy_normalised=_floats((copy[:, varies] / variance[varies]).sum(axis=1) / max(1, varies.sum())),
            num_windows=tuple(int(count) for count in self._num_windows),
            actual=np.array(self._actual, dtype=np.float32).reshape(-1, self._context + horizon, width),
            imagined=np.array(self._imagined, dtype=np.float32).reshape(-1, horizon, width),
        )

    def _add_spread(self, rows: Array) -> None:
        """Add `rows [R, D]` to mean and spread by Chan's update, which does not cancel."""
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        count = self._num_rows + len(rows)
        delta = mean - self._mean
        self._spread += ((rows - mean) ** 2).sum(axis=0) + delta**2 * self._num_rows * len(rows) / count
        self._mean += delta * len(rows) / count
        self._num_rows = count


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
