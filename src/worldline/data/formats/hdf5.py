"""HDF5 with a group per episode, as SimScaleAI documents it: read and written.

    episode_0/observations/KEY   [T, *obs]; images uint8 [T, H, W, 3]; groups of arrays become KEY.KEY
    episode_0/actions            [T, A], or [T] indices
    episode_0/rewards            [T]
    episode_0/@language          the instruction, optional: `meta["language"]`
    episode_1/...

Episodes come in the order of their numbers, and `episode_00007` is `episode_7`. Row t has the observation, the action
taken there and the reward that followed. What the last step led to, and how the episode ended, is not in that layout:
such an episode is read as cut off (truncated), without a final observation.

Worldline adds, so that a round trip is exact: the groups `final_observations`, the attributes `terminated`, `truncated`
and `meta` (JSON) of an episode, and `worldline_format`, `action_sizes` and `plain_obs` of the file. Other readers pass
over them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.formats.hdf5_file import Group, HDF5File, is_hdf5, opened
from worldline.data.formats.hdf5_writer import FORMAT, add_array, add_format, add_meta, new_hdf5
from worldline.data.formats.recording import Recording, joined_meta, make_spec, obs_names, one_episode
from worldline.data.store import EpisodeStore, read_episode
from worldline.episode import Array, DataSpec, named_obs, unnamed_obs
from worldline.errors import DataError, FileError

_EPISODE = "episode_"
_PLAIN = "obs"  # the key of an observation that has none
_OBSERVATIONS, _FINAL = "observations", "final_observations"


def detect(path: Path) -> bool:
    """Tell whether this is such a file."""
    if not is_hdf5(path):
        return False
    with HDF5File(path) as file:
        return bool(file.root.numbered(_EPISODE))


def read(path: Path, *, max_bytes: int | None = None) -> Recording:
    """Open a file.

    Raises:
        FileError: It is missing, damaged or hostile, or lacks a key.
        DataError: Its arrays do not fit together.
    """
    return opened(HDF5Recording, path, max_bytes)


class HDF5Recording(Recording):
    """An open file with a group per episode."""

    def __init__(self, file: HDF5File) -> None:
        self.path, self._file = file.path, file
        self._keys = file.root.numbered(_EPISODE)
        if not self._keys:
            raise FileError(f"{self.path} has no episodes. Expected groups named {_EPISODE}0, {_EPISODE}1 and so on.")
        check_format(file.root)
        self.num_episodes = len(self._keys)
        first = file.root.group(self._keys[0])
        first.require(_OBSERVATIONS, "actions", "rewards")
        observations = first.group(_OBSERVATIONS).columns()
        self._names = obs_names(self.path, list(observations), is_plain=bool(file.root.flag("plain_obs")))
        sizes = file.root.numbers("action_sizes")
        shapes = {name: observations[key].shape[1:] for key, name in self._names.items()}
        self.num_steps, actions = self._measure(first, sizes)
        self.spec = make_spec(self.path, shapes, actions, sizes)
        if sizes is not None:
            self.obs_dtype = unnamed_obs({name: observations[key].dtype for key, name in self._names.items()})

    def blocks(self) -> Iterator[EpisodeBlock]:
        """Return the episodes, one by one."""
        for key in self._keys:
            group = self._file.root.group(key)
            group.require(_OBSERVATIONS, "actions", "rewards")
            terminated, truncated = group.flag("terminated"), group.flag("truncated")
            yield one_episode(
                f"{self.path}: {key}",
                obs={name: group_of.read() for name, group_of in self._observations(group).items()},
                actions=group.column("actions").read(),
                rewards=group.column("rewards").read(),
                terminated=bool(terminated),
                truncated=terminated is None if truncated is None else truncated,
                final_obs=self._final_obs(group),
                meta=joined_meta(f"{self.path}: {key}", group.text("language"), group.text("meta")),
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _observations(self, group: Group) -> dict[str, Any]:
        found = group.group(_OBSERVATIONS).columns()
        if found.keys() != self._names.keys():
            raise DataError(
                f"{self.path}: {group.name} has the observations {', '.join(found)[:200]}, but the first episode has "
                f"{', '.join(self._names)[:200]}. Every episode needs the same."
            )
        return {self._names[key]: column for key, column in found.items()}

    def _final_obs(self, group: Group) -> dict[str, Array] | None:
        if _FINAL not in group:
            return None
        columns = group.group(_FINAL).columns()
        if columns.keys() != self._names.keys() or any(column.shape[0] != 1 for column in columns.values()):
            raise DataError(f"{self.path}: {group.name}/{_FINAL} has not one row for every observation. Leave it out.")
        return {self._names[key]: column.read()[0] for key, column in columns.items()}

    def _measure(self, first: Group, sizes: Sequence[float] | None) -> tuple[int, Array]:
        """Return how many steps there are, and the actions that show what kind they are of."""
        sample = first.column("actions").read(0, 1)
        is_counted = sizes is None and sample.dtype.kind in "iu" and sample[0].size == 1
        steps, highest = 0, [0]
        for key in self._keys:
            group = self._file.root.group(key)
            group.require("rewards", "actions")
            steps += group.column("rewards").shape[0]
            if is_counted:
                indices = group.column("actions").read()
                highest += [int(indices.min(initial=0)), int(indices.max(initial=0))]
        return steps, np.array([min(highest), max(highest)]) if is_counted else sample


def check_format(group: Group) -> None:
    """Check that this release reads what Worldline added to a group.

    Raises:
        FileError: It is of a newer one.
    """
    version = group.numbers("worldline_format")
    if version is not None and version != [FORMAT]:
        raise FileError(f"{group.file.path} has format {version}; this release reads {FORMAT}. Update Worldline.")


def write(path: Path, store: EpisodeStore, spec: DataSpec, *, meta: Sequence[Mapping[str, Any]]) -> None:
    """Write all episodes of a store, whole or not at all.

    Raises:
        FileError: The file cannot be written.
        DataError: `meta` is not JSON, or too long.
    """
    is_plain = not isinstance(spec.obs_shape, dict)
    with new_hdf5(path) as file:
        add_format(file, spec.action_sizes, is_plain=is_plain)
        for index, about in enumerate(meta):
            episode = read_episode(store, index, about)
            group = file.create_group(f"{_EPISODE}{index}")
            add_meta(group, about)
            group.attrs["terminated"], group.attrs["truncated"] = episode.terminated, episode.truncated
            add_array(group, "actions", episode.actions)
            add_array(group, "rewards", episode.rewards)
            for name, column in named_obs(episode.obs).items():
                key = _PLAIN if is_plain else name.removeprefix("obs.")
                add_array(group, f"{_OBSERVATIONS}/{key}", column)
                if episode.final_obs is not None:
                    add_array(group, f"{_FINAL}/{key}", named_obs(episode.final_obs)[name][None])
