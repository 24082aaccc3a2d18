"""ReplayLog: collected episodes on disk, each written once, so that a checkpoint need only say which there were.

A folder of `.npz` files, `episodes_00000012.npz` for those from number 12 on. Episodes never change, so a save writes
only what is new, and a checkpoint holds names and digests of the files that it needs: those with an episode that the
buffer still has, or with the last one that it evicted. A buffer that these are added to holds the same episodes again
(the newest whose steps do not exceed its capacity), and has read no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldline.data.buffer import ReplayBuffer
from worldline.episode import DataSpec, Episode
from worldline.errors import FileError
from worldline.files import sha256

_NAME = re.compile(r"episodes_([0-9]{8,18})\.npz")


class ReplayLog:
    """The files of one run.

    Args:
        directory: Their folder; made when the first is written.
        spec: What the episodes look like.
    """

    def __init__(self, directory: Path, spec: DataSpec) -> None:
        self._directory = directory
        self._spec = spec
        self._files: list[dict[str, Any]] = []
        self._num_saved = 0
        self._new: list[Episode] = []

    def add(self, episode: Episode) -> None:
        """Note an episode for the next save."""
        self._new.append(episode)

    def save(self, *, num_kept: int) -> list[dict[str, Any]]:
        """Write what is new, and return names, digests and numbers of episodes of all files that are needed.

        Args:
            num_kept: So many of the newest episodes are not evicted; more than there are means all.

        Returns:
            Plain JSON values.

        Raises:
            FileError: It cannot be written.
        """
        if self._new:
            path = self._directory / f"episodes_{self._num_saved:08d}.npz"
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileError(f"Cannot make the folder {self._directory}: {error}. Choose another.") from error
            spec = self._spec
            ReplayBuffer.from_episodes(self._new, action_dim=spec.action_dim, action_sizes=spec.action_sizes).save(path)
            self._files.append({"file": path.name, "sha256": sha256(path), "num_episodes": len(self._new)})
            self._num_saved += len(self._new)
            self._new = []
        last_evicted = self._num_saved - num_kept - 1
        self._files = [file for file in self._files if _first(file) + file["num_episodes"] > last_evicted]
        return [dict(file) for file in self._files]

    def load(self, files: Sequence[Mapping[str, Any]]) -> Iterator[Episode]:
        """Go on from what `save` returned, and return an iterator over its episodes, oldest first.

        Raises:
            FileError: A file is missing or is another one.
        """
        for file in files:
            path = self._directory / Path(file["file"]).name
            is_named = _NAME.fullmatch(path.name) is not None
            if not is_named or not path.is_file() or sha256(path) != file["sha256"]:
                state = "no file of episodes" if not is_named else "damaged" if path.is_file() else "missing"
                raise FileError(
                    f"{path} is {state}: it holds {file['num_episodes']} episodes that the checkpoint was trained on. "
                    "Restore it, or resume from an older checkpoint."
                )
        self._files = [dict(file) for file in files]
        self._num_saved = _first(files[-1]) + files[-1]["num_episodes"] if files else 0
        self._new = []
        for file in files:
            yield from ReplayBuffer.load(self._directory / Path(file["file"]).name).episodes()


def _first(file: Mapping[str, Any]) -> int:
    """Return the number of the first episode in a file."""
    match = _NAME.fullmatch(Path(file["file"]).name)
    assert match is not None, file  # `load` has checked it
    return int(match[1])
