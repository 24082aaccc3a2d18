"""RowEncoder: from blocks of episodes to the rows of columns, the same wherever they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.encode import convert, data_spec, encode_actions, infer_action_sizes, settle_obs_dtype
from worldline.data.shapes import (
    check_obs_shapes,
    checked_dtypes,
    checked_shape,
    checked_sizes,
    named_shapes,
    positive,
)
from worldline.episode import Array, DataSpec, ObsShape
from worldline.errors import DataError

Layout: TypeAlias = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]  # shape of one row and dtype, by column name


class RowEncoder:
    """What columns shall hold, settled by the first block where it was not said.

    Args:
        obs_shape: Shape of one observation, or a dict of shapes.
        action_dim: A.
        obs_dtype: One dtype or a dict of them; None takes those of the first block, see `encode.settle_obs_dtype`.
        action_sizes: As in `DataSpec`; None tells it from the first block.

    Raises:
        ConfigError: A setting is out of range, or they contradict each other.
    """

    def __init__(
        self, obs_shape: ObsShape, action_dim: int, obs_dtype: Any, action_sizes: tuple[int, ...] | None
    ) -> None:
        self.action_dim = positive("action_dim", action_dim)
        self.obs_shape = checked_shape(obs_shape)
        self.action_sizes = None if action_sizes is None else checked_sizes(action_sizes, self.action_dim)
        self.obs_dtypes = checked_dtypes(obs_dtype, self.obs_shape)  # by column name; none of what is not known yet
        self._shapes = named_shapes(self.obs_shape)
        self._has_tasks: bool | None = None

    @property
    def spec(self) -> DataSpec | None:
        """What a model needs to know of the data; None as long as the kind of its actions is not known."""
        return None if self.action_sizes is None else data_spec(self.obs_shape, self.action_dim, self.action_sizes)

    @property
    def layout(self) -> Layout:
        """Every column there is, once a block was encoded."""
        assert self._has_tasks is not None
        float32, boolean = np.dtype(np.float32), np.dtype(np.bool_)
        layout: Layout = {name: (shape, self.obs_dtypes[name]) for name, shape in self._shapes.items()}
        layout |= {"actions": ((self.action_dim,), float32), "rewards": ((), float32), "flags": ((4,), boolean)}
        return layout | ({"task": ((), np.dtype(np.int64))} if self._has_tasks else {})

    def encode(self, block: EpisodeBlock) -> tuple[dict[str, Array], Mapping[str, Array]]:
        """Return every column but the flags, `[N, *shape]`, and what closing rows hold of some, `[E, *shape]`.

        Raises:
            DataError: The block does not fit what came before; nothing has changed.
        """
        check_obs_shapes(block.obs, self._shapes)
        sizes = self.action_sizes
        if sizes is None:
            sizes = infer_action_sizes(block.actions, self.action_dim)
        dtypes = {
            name: settle_obs_dtype(column.dtype, column.ndim) for name, column in block.obs.items()
        } | self.obs_dtypes
        columns = {name: convert(name, column, dtypes[name]) for name, column in block.obs.items()}
        closing = {name: convert(f"final_obs ({name})", block.final_obs[name], dtypes[name]) for name in columns}
        columns["actions"] = encode_actions(block.actions, action_dim=self.action_dim, action_sizes=sizes)
        columns["rewards"] = convert("rewards", block.rewards, np.dtype(np.float32))
        tasks = block.tasks()
        if self._has_tasks is not None and self._has_tasks is (tasks is None):
            raise DataError('Some episodes have a task number in meta["task"] and others have none. Give it to all.')
        if tasks is not None:
            columns["task"], closing["task"] = np.repeat(tasks, np.diff(block.ends, prepend=0)), tasks
        self.action_sizes, self.obs_dtypes, self._has_tasks = sizes, dtypes, tasks is not None
        return columns, closing
