"""HDF5 of robomimic: read and written.

    data/demo_0/obs/KEY     [T, *obs]
    data/demo_0/next_obs/KEY [T, *obs], optional: what each step led to
    data/demo_0/actions     [T, A]
    data/demo_0/rewards     [T], optional (0 without it)
    data/demo_0/dones       [T], optional
    data/demo_0/@num_samples, data/@total, data/@env_args

Demonstrations come in the order of their numbers. Row t has the observation, the action taken there and the reward that
followed, as here; `final_obs` is the last row of `next_obs`. robomimic marks by `dones` a task that succeeded, the end
of a demonstration, or both, as its file was made. Only the last row decides how the episode ended: a done there counts
as a termination, none as cut off; dones before it are passed over. Simulator `states` and `mask` are not read.

Worldline adds attributes that make a round trip exact: `terminated`, `truncated`, `has_final_obs`, `language` and
`meta` of a demonstration, `worldline_format`, `action_sizes` and `plain_obs` of `data`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.formats.hdf5 import check_format
from worldline.data.formats.hdf5_file import Group, HDF5File, is_hdf5, opened
from worldline.data.formats.hdf5_writer import add_array, add_format, add_meta, new_hdf5
from worldline.data.formats.recording import Recording, joined_meta, make_spec, obs_names, one_episode
from worldline.data.store import EpisodeStore, read_episode
from worldline.episode import Array, DataSpec, named_obs, unnamed_obs
from worldline.errors import DataError, FileError

_DATA, _DEMO = "data", "demo_"
_PLAIN = "flat"  # robomimic's key of an observation that has none
_GYM = 2  # robomimic's number for environments of Gym


def detect(path: Path) -> bool:
    """Tell whether this is such a file."""
    if not is_hdf5(path):
        return False
    with HDF5File(path) as file:
        return _DATA in file.root and bool(file.root.group(_DATA).numbered(_DEMO))


def read(path: Path, *, max_bytes: int | None = None) -> Recording:
    """Open a file.

    Raises:
        FileError: It is missing, damaged or hostile, or lacks a key.
        DataError: Its arrays do not fit together.
    """
    return opened(RobomimicRecording, path, max_bytes)


class RobomimicRecording(Recording):
    """An open file of robomimic."""

    def __init__(self, file: HDF5File) -> None:
        self.path, self._file = file.path, file
        self._data = file.root.group(_DATA)
        self._keys = self._data.numbered(_DEMO)
        if not self._keys:
            raise FileError(f"{self.path} has no demonstrations. Expected groups named data/demo_0 and so on.")
        check_format(self._data)
        self.num_episodes = len(self._keys)
        first = self._data.group(self._keys[0])
        first.require("obs", "actions")
        observations = first.group("obs").columns()
        self._names = obs_names(self.path, list(observations), is_plain=bool(self._data.flag("plain_obs")))
        shapes = {name: observations[key].shape[1:] for key, name in self._names.items()}
        sizes = self._data.numbers("action_sizes")
        self.spec = make_spec(self.path, shapes, first.column("actions").read(0, 1), () if sizes is None else sizes)
        if sizes is not None:
            self.obs_dtype = unnamed_obs({name: observations[key].dtype for key, name in self._names.items()})
        self.num_steps = sum(self._data.group(key).column("actions").shape[0] for key in self._keys)

    def blocks(self) -> Iterator[EpisodeBlock]:
        """Return the demonstrations, one by one."""
        for key in self._keys:
            demo = self._data.group(key)
            where = f"{self.path}: {key}"
            demo.require("obs", "actions")
            actions = demo.column("actions").read()
            done = "dones" in demo and bool(demo.column("dones").read()[-1:].any())
            terminated, truncated = demo.flag("terminated"), demo.flag("truncated")
            yield one_episode(
                where,
                obs={name: column.read() for name, column in self._observations(demo, "obs").items()},
                actions=actions,
                rewards=demo.column("rewards").read() if "rewards" in demo else np.zeros(len(actions), np.float32),
                terminated=done if terminated is None else terminated,
                truncated=not done if truncated is None else truncated,
                final_obs=self._final_obs(demo),
                meta=joined_meta(where, demo.text("language"), demo.text("meta")),
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _observations(self, demo: Group, group: str) -> dict[str, Any]:
        found = demo.group(group).columns()
        if found.keys() != self._names.keys():
            raise DataError(
                f"{self.path}: {demo.name}/{group} has {', '.join(found)[:200]}, but the first demonstration has "
                f"{', '.join(self._names)[:200]}. Every demonstration needs the same."
            )
        return {self._names[key]: column for key, column in found.items()}

    def _final_obs(self, demo: Group) -> dict[str, Array] | None:
        if "next_obs" not in demo or demo.flag("has_final_obs") is False:
            return None
        columns = self._observations(demo, "next_obs")
        steps = demo.column("actions").shape[0]
        if any(column.shape[0] != steps for column in columns.values()):
            raise DataError(f"{self.path}: {demo.name}/next_obs has not {steps} rows. Every column needs one per step.")
        return {name: column.read(steps - 1, steps)[0] for name, column in columns.items()}


def write(path: Path, store: EpisodeStore, spec: DataSpec, *, meta: Sequence[Mapping[str, Any]]) -> None:
    """Write all episodes of a store, whole or not at all. `next_obs` is written, so observations are there twice.

    Raises:
        FileError: The file cannot be written.
        DataError: `meta` is not JSON, or too long.
    """
    is_plain = not isinstance(spec.obs_shape, dict)
    with new_hdf5(path) as file:
        data = file.create_group(_DATA)
        add_format(data, spec.action_sizes, is_plain=is_plain)
        data.attrs["total"] = int(store.steps.sum())
        env = str(meta[0].get("env", ""))
        data.attrs["env_args"] = json.dumps({"env_name": env, "type": _GYM, "env_kwargs": {}})
        for index, about in enumerate(meta):
            episode = read_episode(store, index, about)
            demo = data.create_group(f"{_DEMO}{index}")
            add_meta(demo, about)
            demo.attrs["num_samples"] = len(episode)
            demo.attrs["terminated"], demo.attrs["truncated"] = episode.terminated, episode.truncated
            demo.attrs["has_final_obs"] = episode.final_obs is not None
            dones = np.zeros(len(episode), dtype=np.int64)
            dones[-1] = episode.terminated
            add_array(demo, "actions", episode.actions)
            add_array(demo, "rewards", episode.rewards)
            add_array(demo, "dones", dones)
            for name, column in named_obs(episode.obs).items():
                key = _PLAIN if is_plain else name.removeprefix("obs.")
                last = column[-1] if episode.final_obs is None else named_obs(episode.final_obs)[name]
                add_array(demo, f"obs/{key}", column)
                add_array(demo, f"next_obs/{key}", np.concatenate([column[1:], last[None]]))
