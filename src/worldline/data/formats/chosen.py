"""ChosenRecording: some observations of an open file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from worldline.data.block import EpisodeBlock
from worldline.data.formats.recording import Recording, WrappedRecording
from worldline.errors import DataError


class ChosenRecording(WrappedRecording):
    """An open file of which only some observations are read.

    Args:
        whole: The file, which this closes.
        obs_keys: The observations to read.

    Raises:
        DataError: There are no such observations.
    """

    def __init__(self, whole: Recording, obs_keys: Sequence[str]) -> None:
        shapes = whole.spec.obs_shape
        known = shapes if isinstance(shapes, dict) else {}
        if not obs_keys or any(key not in known for key in obs_keys):
            found = f"the observations {', '.join(known)[:400]}" if known else "one observation without a name"
            raise DataError(f"obs_keys is {list(obs_keys)}, but {whole.path} has {found}. Give some of those.")
        super().__init__(whole)
        self._names = [f"obs.{key}" for key in obs_keys]
        whole.unread = frozenset(f"obs.{key}" for key in known.keys() - set(obs_keys))
        self.spec = dataclasses.replace(whole.spec, obs_shape={key: known[key] for key in obs_keys})
        dtypes = whole.obs_dtype
        self.obs_dtype = {key: dtypes[key] for key in obs_keys} if isinstance(dtypes, dict) else dtypes

    def blocks(self) -> Iterator[EpisodeBlock]:
        """Return the episodes with these observations."""
        for block in self._whole.blocks():
            obs, final_obs = ({name: part[name] for name in self._names} for part in (block.obs, block.final_obs))
            chosen = dataclasses.replace(block, obs=obs, final_obs=final_obs)
            del block, obs, final_obs
            yield chosen
            del chosen
