"""LeRobot data sets, v2.1 and v3.0: read.

    meta/info.json                            version, frames per second, features
    meta/tasks.jsonl or meta/tasks.parquet    the instruction of every task_index
    data/chunk-000/episode_000000.parquet     v2.1: one episode a file
    data/chunk-000/file-000.parquet           v3.0: many
    videos/chunk-000/KEY/episode_000000.mp4   v2.1: one episode a file, with meta/episodes.jsonl
    videos/KEY/chunk-000/file-000.mp4         v3.0: many; meta/episodes/*/*.parquet has where each begins and ends

A row of the tables is a frame: `observation.KEY` becomes the observation KEY, `action` the action taken there, and
`next.reward` the reward that followed (0 without it), so the row rule holds as it stands. Frames of one `episode_index`
follow each other. `next.done` marks where a recording ends and not how: episodes are read as cut off (truncated),
without a final observation. The instruction becomes `meta["language"]`.

The frame of a video that belongs to a row is the one at the row's `timestamp`, counted from where the episode begins.
There must be exactly one frame for every row. Pictures are `[H, W, 3]` uint8. Maps of depth and texts are not read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.formats.lerobot_cameras import IMAGE, VIDEO, Videos, decode_pictures, is_depth, picture_shape
from worldline.data.formats.lerobot_meta import INFO, check_inside, read_info, read_tasks
from worldline.data.formats.parquet_file import batches, errors_of, numbers, open_table
from worldline.data.formats.recording import (
    DAMAGED,
    Recording,
    check_size,
    make_spec,
    obs_names,
    one_episode,
)
from worldline.episode import Array
from worldline.errors import DataError, FileError
from worldline.files import regular_size

_OBS, _ACTION, _REWARD, _EPISODE, _TASK = "observation.", "action", "next.reward", "episode_index", "task_index"
_TIME = "timestamp"
_MAX_FILES = 1_000_000
_PICTURE_ROWS = 32  # decoded at once, where tables hold pictures
_MAX_PICTURE_RATIO = 5_000  # of what pictures take to what the files take: still pictures compress well
_TEXTS = ("string", "language")


def detect(path: Path) -> bool:
    """Tell whether this is such a folder."""
    return path.is_dir() and (path / INFO).is_file()


def read(path: Path, *, max_bytes: int | None = None) -> Recording:
    """Open a data set.

    Raises:
        FileError: It is missing, damaged or hostile, or lacks a column.
        MissingPackageError: pyarrow is not installed; where there are pictures, `blocks` needs PyAV as well.
    """
    return LeRobotRecording(path, max_bytes)


class LeRobotRecording(Recording):
    """An open data set of LeRobot."""

    def __init__(self, path: Path, max_bytes: int | None) -> None:
        self.path = path
        info = read_info(path)
        self._names, self._pictures = self._find_observations(info)
        self._numbers = [key for key in self._names if key not in self._pictures]
        self._videos = {
            key: Videos(path, info, key, shape)
            for key, shape in self._pictures.items()
            if info["features"][key]["dtype"] == VIDEO
        }
        self._files = self._find_files()
        self._columns = [*(key for key in self._names if key not in self._videos), _ACTION]
        self._check_tables(max_bytes)
        self._check_pictures(max_bytes)
        self._tasks = read_tasks(path)
        first = next(self._batches(self._files[0], [*self._numbers, _ACTION]), None)
        if first is None:
            raise DataError(f"{self._files[0]} has no frames. Leave it out.")
        shapes = {
            name: self._pictures[key] if key in self._pictures else first[key].shape[1:]
            for key, name in self._names.items()
        }
        self.spec = make_spec(path, shapes, first[_ACTION], None if first[_ACTION].dtype.kind in "iu" else ())
        self._count_episodes()

    def blocks(self) -> Iterator[EpisodeBlock]:
        """Return the episodes, one by one."""
        waiting: list[dict[str, Array]] = []
        for batch in self._all_batches():
            index = batch[_EPISODE]
            bounds = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)]
            for start, stop in itertools.pairwise(bounds):
                part = {key: column[start:stop] for key, column in batch.items()}
                if waiting and waiting[0][_EPISODE][0] != part[_EPISODE][0]:
                    yield self._episode(waiting)
                    waiting = []
                waiting.append(part)
        if waiting:
            yield self._episode(waiting)

    def close(self) -> None:
        """Close the videos; no table is open between two reads."""
        for videos in self._videos.values():
            videos.close()

    def _episode(self, parts: list[dict[str, Array]]) -> EpisodeBlock:
        rows = {key: np.concatenate([part.pop(key) for part in parts]) for key in list(parts[0])}
        number = int(rows[_EPISODE][0])
        index = int(rows[_TASK][0]) if self._tasks and _TASK in rows else None
        if index is not None and index not in self._tasks:
            raise FileError(f"{self.path}: meta/tasks.jsonl (or tasks.parquet) lacks task {index}. {DAMAGED}")
        actions = rows[_ACTION]
        times = rows[_TIME].reshape(-1) if _TIME in rows else None
        frames = {
            key: videos.read(number, len(actions), times)
            for key, videos in self._videos.items()
            if self._names[key] not in self.unread
        }
        obs = {name: rows[key] if key in rows else frames[key] for key, name in self._read_names().items()}
        return one_episode(
            f"{self.path}: episode {number}",
            obs=obs,
            actions=actions,
            rewards=rows[_REWARD].reshape(-1) if _REWARD in rows else np.zeros(len(actions), np.float32),
            terminated=False,
            truncated=True,
            final_obs=None,
            meta={} if index is None else {"language": self._tasks[index]},
        )

    def _find_observations(self, info: dict[str, Any]) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
        """Return the column names of all observations by their features, and the shapes of those that are pictures."""
        features = {
            key: feature
            for key, feature in info["features"].items()
            if isinstance(feature, dict) and (key.startswith(_OBS) or feature.get("dtype") in (VIDEO, IMAGE))
        }
        kept = {
            key: feature
            for key, feature in features.items()
            if key.startswith(_OBS) and feature.get("dtype") not in _TEXTS and not is_depth(feature)
        }
        self.left_out = tuple(sorted(key[:80] for key in features.keys() - kept.keys()))
        short = [key.removeprefix(_OBS) for key in kept]
        names = {f"{_OBS}{key}": name for key, name in obs_names(self.path, short, is_plain=False).items()}
        pictures = {
            key: picture_shape(self.path, key, feature)
            for key, feature in kept.items()
            if feature.get("dtype") in (VIDEO, IMAGE)
        }
        return names, pictures

    def _find_files(self) -> list[Path]:
        found = [*self.path.glob("data/chunk-*/episode_*.parquet"), *self.path.glob("data/chunk-*/file-*.parquet")]
        if not found or len(found) > _MAX_FILES:
            raise FileError(f"{self.path} has no data/chunk-*/*.parquet, or too many. Restore it from a copy.")
        for file in found:
            check_inside(self.path, file)
        return sorted(found, key=lambda file: (len(file.parent.name), file.parent.name, len(file.name), file.name))

    def _check_tables(self, max_bytes: int | None) -> None:
        """Look at the footers of all tables: their columns, and whether they claim more than they can hold."""
        self.num_steps = num_bytes = self._file_bytes = 0
        for file in self._files:
            with errors_of(file):
                table = open_table(file)
                names = table.schema_arrow.names
                if missing := [key for key in (*self._columns, _EPISODE) if key not in names]:
                    raise FileError(f"{file} lacks {', '.join(missing)[:200]}. Restore it from a copy.")
                self.num_steps += table.metadata.num_rows
                groups = (table.metadata.row_group(index) for index in range(table.metadata.num_row_groups))
                # Of repeated numbers few bytes are stored.
                least = 8 * table.metadata.num_rows * (len(self._columns) + 1)
                num_bytes += max(sum(group.total_byte_size for group in groups), least)
            self._file_bytes += regular_size(file)
            check_size(self.path, num_bytes, self._file_bytes, max_bytes)
        extra = [key for key in (_EPISODE, _REWARD, _TASK, _TIME) if key in names]
        self._all_columns = [*self._columns, *extra]

    def _check_pictures(self, max_bytes: int | None) -> None:
        num_bytes = self.num_steps * sum(height * width * 3 for height, width, _ in self._pictures.values())
        file_bytes = self._file_bytes + sum(videos.num_bytes() for videos in self._videos.values())
        check_size(self.path, num_bytes, file_bytes, max_bytes, ratio=_MAX_PICTURE_RATIO)

    def _read_names(self) -> dict[str, str]:
        return {key: name for key, name in self._names.items() if name not in self.unread}

    def _all_batches(self) -> Iterator[dict[str, Array]]:
        columns = [key for key in self._all_columns if self._names.get(key) not in self.unread]
        for file in self._files:
            yield from self._batches(file, columns)

    def _count_episodes(self) -> None:
        """Count the episodes, and the choices of an action that is an index."""
        is_index = bool(self.spec.action_sizes)
        last, count, highest, lowest = None, 0, 1, 0
        for file in self._files:
            for batch in self._batches(file, [_EPISODE, *([_ACTION] if is_index else [])]):
                index = batch[_EPISODE]
                count += int((np.diff(index) != 0).sum()) + (index[0] != last)
                last = index[-1]
                if is_index:
                    highest, lowest = max(highest, int(batch[_ACTION].max())), min(lowest, int(batch[_ACTION].min()))
        self.num_episodes = count
        if is_index:
            shapes = self.spec.obs_shape
            assert isinstance(shapes, dict)
            named = {f"obs.{key}": shape for key, shape in shapes.items()}
            self.spec = make_spec(self.path, named, np.array([lowest, highest]), None)

    def _batches(self, file: Path, columns: list[str]) -> Iterator[dict[str, Array]]:
        """Return the rows of a table, some at a time, by column."""
        has_pictures = any(key in self._pictures for key in columns)
        for batch in batches(file, columns, **({"num_rows": _PICTURE_ROWS} if has_pictures else {})):
            yield {
                key: decode_pictures(file, key, column, self._pictures[key])
                if key in self._pictures
                else numbers(file, key, column)
                for key, column in batch.items()
            }
