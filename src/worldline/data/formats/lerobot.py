"""LeRobot data sets, v2.1 and v3.0: their low-dimensional columns are read.

    meta/info.json                            version, frames per second, features
    meta/tasks.jsonl or meta/tasks.parquet    the instruction of every task_index
    data/chunk-000/episode_000000.parquet     v2.1: one episode a file
    data/chunk-000/file-000.parquet           v3.0: many

A row of the tables is a frame: `observation.KEY` becomes the observation KEY, `action` the action taken there, and
`next.reward` the reward that followed (0 without it), so the row rule holds as it stands. Frames of one `episode_index`
follow each other. `next.done` marks where a recording ends and not how: episodes are read as cut off (truncated),
without a final observation. The instruction becomes `meta["language"]`. Images and videos are not read.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.formats.recording import (
    DAMAGED,
    MAX_ROW_BYTES,
    Recording,
    check_size,
    make_spec,
    obs_names,
    one_episode,
)
from worldline.episode import Array
from worldline.errors import DataError, FileError, WorldlineError, missing_package, shown
from worldline.files import regular_size

if TYPE_CHECKING:
    import pyarrow as pa

_INFO = "meta/info.json"
_OBS, _ACTION, _REWARD, _EPISODE, _TASK = "observation.", "action", "next.reward", "episode_index", "task_index"
_MAX_JSON_BYTES = 16 << 20
_MAX_FILES = 1_000_000
_BATCH_ROWS = 4096  # decoded at once
_SEEN = ("video", "image")  # dtypes of features that are not read


def detect(path: Path) -> bool:
    """Tell whether this is such a folder."""
    return path.is_dir() and (path / _INFO).is_file()


def read(path: Path, *, max_bytes: int | None = None) -> Recording:
    """Open a data set.

    Raises:
        FileError: It is missing, damaged or hostile, or lacks a column.
        MissingPackageError: pyarrow is not installed.
    """
    return LeRobotRecording(path, max_bytes)


class LeRobotRecording(Recording):
    """An open data set of LeRobot."""

    def __init__(self, path: Path, max_bytes: int | None) -> None:
        self.path = path
        info = _read_json(path, _INFO)
        version, features = str(info.get("codebase_version")), info.get("features")
        if not version.startswith(("v2.1", "v3.")) or not isinstance(features, dict):
            raise FileError(f"{path / _INFO} is of version {shown(version)}. Expected v2.1 or v3.0: convert it first.")
        kinds = {key: value.get("dtype") for key, value in features.items() if isinstance(value, dict)}
        self.left_out = tuple(sorted(key[:80] for key, kind in kinds.items() if kind in _SEEN))
        keys = [key for key, kind in kinds.items() if key.startswith(_OBS) and kind not in _SEEN]
        self._names = {f"{_OBS}{key}": name for key, name in obs_names(path, _short(keys), is_plain=False).items()}
        self._files = self._find_files()
        self._columns = [*self._names, _ACTION]
        self._check_tables(max_bytes)
        self._tasks = self._read_tasks()
        first = next(self._batches(self._files[0], [*self._columns]), None)
        if first is None:
            raise DataError(f"{self._files[0]} has no frames. Leave it out.")
        shapes = {name: first[key].shape[1:] for key, name in self._names.items()}
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
        """Let the files go: none is open between two reads."""

    def _episode(self, parts: list[dict[str, Array]]) -> EpisodeBlock:
        rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        number = int(rows[_EPISODE][0])
        index = int(rows[_TASK][0]) if self._tasks and _TASK in rows else None
        if index is not None and index not in self._tasks:
            raise FileError(f"{self.path}: meta/tasks.jsonl (or tasks.parquet) lacks task {index}. {DAMAGED}")
        actions = rows[_ACTION]
        return one_episode(
            f"{self.path}: episode {number}",
            obs={name: rows[key] for key, name in self._names.items()},
            actions=actions,
            rewards=rows[_REWARD].reshape(-1) if _REWARD in rows else np.zeros(len(actions), np.float32),
            terminated=False,
            truncated=True,
            final_obs=None,
            meta={} if index is None else {"language": self._tasks[index]},
        )

    def _find_files(self) -> list[Path]:
        found = [*self.path.glob("data/chunk-*/episode_*.parquet"), *self.path.glob("data/chunk-*/file-*.parquet")]
        if not found or len(found) > _MAX_FILES:
            raise FileError(f"{self.path} has no data/chunk-*/*.parquet, or too many. Restore it from a copy.")
        root = self.path.resolve()
        for file in found:
            if not file.resolve().is_relative_to(root):
                raise FileError(f"{file} is a link that leads elsewhere, which is not followed. Restore the file.")
        return sorted(found, key=lambda file: (len(file.parent.name), file.parent.name, len(file.name), file.name))

    def _check_tables(self, max_bytes: int | None) -> None:
        """Look at the footers of all tables: their columns, and whether they claim more than they can hold."""
        self.num_steps = num_bytes = file_bytes = 0
        for file in self._files:
            with _errors(file):
                table = _open(file)
                names = table.schema_arrow.names
                if missing := [key for key in (*self._columns, _EPISODE) if key not in names]:
                    raise FileError(f"{file} lacks {', '.join(missing)[:200]}. Restore it from a copy.")
                self.num_steps += table.metadata.num_rows
                groups = (table.metadata.row_group(index) for index in range(table.metadata.num_row_groups))
                least = (
                    8 * table.metadata.num_rows * (len(self._columns) + 1)
                )  # of repeated numbers few bytes are stored
                num_bytes += max(sum(group.total_byte_size for group in groups), least)
            file_bytes += regular_size(file)
            check_size(self.path, num_bytes, file_bytes, max_bytes)
        extra = [key for key in (_EPISODE, _REWARD, _TASK) if key in names]
        self._all_columns = [*self._columns, *extra]

    def _all_batches(self) -> Iterator[dict[str, Array]]:
        for file in self._files:
            yield from self._batches(file, self._all_columns)

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
        """Return the rows of a table, some thousand at a time, by column."""
        with _errors(file):
            batches = _open(file).iter_batches(_BATCH_ROWS, columns=columns)
        while True:
            with _errors(file):
                batch = next(batches, None)
                if batch is None:
                    return
                if batch.num_rows == 0:
                    continue
                rows = {key: _rows(file, key, batch.column(key)) for key in columns}
            yield rows

    def _read_tasks(self) -> Mapping[int, str]:
        lines, table = self.path / "meta/tasks.jsonl", self.path / "meta/tasks.parquet"
        tasks: dict[int, str] = {}
        if table.is_file() and not table.is_symlink():
            with _errors(table):
                check_size(table, _open(table).metadata.num_rows * 64, regular_size(table), None)
                found = _open(table).read().to_pydict()
                texts: list[Any] = next((found[key] for key in ("task", "__index_level_0__") if key in found), [])
                tasks = {int(number): str(text) for number, text in zip(found[_TASK], texts, strict=True)}
        elif lines.is_file():
            for line in _read_text(lines).splitlines():
                try:
                    described = json.loads(line)
                    tasks[int(described[_TASK])] = str(described["task"])
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise FileError(f"{lines} has a line that is no task. {DAMAGED}") from error
        return tasks


def _short(keys: list[str]) -> list[str]:
    return [key.removeprefix(_OBS) for key in keys]


def _open(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise missing_package("pyarrow", "lerobot", "Reading LeRobot data sets") from error
    regular_size(path)
    return parquet.ParquetFile(path, thrift_string_size_limit=1 << 24, thrift_container_size_limit=1 << 20)


def _rows(file: Path, key: str, column: pa.Array) -> Array:
    """Return a column as `[n]` numbers, or as `[n, D]` where every row is a list."""
    import pyarrow as pa

    if column.null_count:
        raise DataError(f"{file}: {key} has rows without a value. Leave the column or those episodes out.")
    shape: list[int] = [len(column)]
    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    while any(check(column.type) for check in is_list):
        values = column.flatten()
        width, rest = divmod(len(values), max(1, math.prod(shape)))
        lengths = None if pa.types.is_fixed_size_list(column.type) else np.diff(column.offsets.to_numpy())
        if rest or (lengths is not None and (lengths != width).any()) or values.null_count:
            raise DataError(f"{file}: {key} has rows of different lengths. Expected the same shape in every row.")
        shape.append(width)
        column = values
    numbers = column.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind not in "biuf" or math.prod(shape[1:]) * numbers.dtype.itemsize > MAX_ROW_BYTES:
        raise DataError(f"{file}: {key} holds {shown(str(column.type))}. Expected numbers; leave it out.")
    return np.asarray(numbers).reshape(shape)


@contextlib.contextmanager
def _errors(file: Path) -> Iterator[None]:
    """Turn what pyarrow raises while it reads a file into a `FileError`."""
    try:
        yield
    except WorldlineError:
        raise
    except (OSError, ValueError, TypeError, KeyError, OverflowError, NotImplementedError) as error:
        raise FileError(f"{file} cannot be read ({shown(str(error))}). {DAMAGED}") from error


def _read_text(path: Path) -> str:
    try:
        if path.is_symlink() or regular_size(path) > _MAX_JSON_BYTES:
            raise FileError(f"{path} is a link, or has more than {_MAX_JSON_BYTES:,} bytes. {DAMAGED}")
        return path.read_text(encoding="utf-8")
    except WorldlineError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"{path} cannot be read ({shown(str(error))}). {DAMAGED}") from error


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    text = _read_text(folder / name)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{folder / name} is no JSON ({shown(str(error))}). {DAMAGED}") from error
    if not isinstance(content, dict):
        raise FileError(f"{folder / name} is no JSON object. {DAMAGED}")
    return content
