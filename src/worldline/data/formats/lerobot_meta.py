"""What LeRobot says in `meta/`: features, instructions, and where the frames of each episode are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from worldline.data.formats.parquet_file import batches, errors_of, numbers, open_table
from worldline.data.formats.recording import DAMAGED, check_size
from worldline.errors import FileError, WorldlineError, shown
from worldline.files import regular_size

INFO = "meta/info.json"
_MAX_JSON_BYTES = 16 << 20
_CHUNKS_SIZE = 1000  # episodes of a folder, where v2.1 says nothing else
_PATHS = {  # of videos, as `meta/info.json` says them
    "v2.1": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    "v3.0": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
_PLACE = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")


class Clip(NamedTuple):
    """Where the frames of an episode are."""

    path: Path
    start: float  # seconds
    stop: float | None  # seconds; None: the file has no other frames
    num_frames: int


def read_info(folder: Path) -> dict[str, Any]:
    """Return `meta/info.json`, of which the version and the type of `features` have been checked.

    Raises:
        FileError: It is missing, damaged or of another version.
    """
    path = folder / INFO
    try:
        info = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is no JSON ({shown(str(error))}). {DAMAGED}") from error
    if not isinstance(info, dict):
        raise FileError(f"{path} is no JSON object. {DAMAGED}")
    version = str(info.get("codebase_version"))
    if not version.startswith(("v2.1", "v3.")) or not isinstance(info.get("features"), dict):
        raise FileError(f"{path} is of version {shown(version)}. Expected v2.1 or v3.0: convert it first.")
    return info


def read_tasks(folder: Path) -> Mapping[int, str]:
    """Return the instructions by `task_index`; none where there is no such file.

    Raises:
        FileError: It is damaged.
    """
    lines, table = folder / "meta/tasks.jsonl", folder / "meta/tasks.parquet"
    if table.is_file() and not table.is_symlink():
        with errors_of(table):
            check_size(table, open_table(table).metadata.num_rows * 64, regular_size(table), None)
            found = open_table(table).read().to_pydict()
            texts: list[Any] = next((found[key] for key in ("task", "__index_level_0__") if key in found), [])
            return {int(number): str(text) for number, text in zip(found["task_index"], texts, strict=True)}
    if not lines.is_file():
        return {}
    return dict(_lines(lines, "task", lambda described: (int(described["task_index"]), str(described["task"]))))


def read_clips(folder: Path, info: Mapping[str, Any], key: str) -> Mapping[int, Clip]:
    """Return where the frames of a camera are, by `episode_index`.

    Raises:
        FileError: What says so is missing or damaged, or names a file elsewhere.
    """
    version = "v2.1" if str(info["codebase_version"]).startswith("v2.1") else "v3.0"
    if info.get("video_path") != _PATHS[version]:
        raise FileError(
            f"{folder / INFO} has videos at {shown(info.get('video_path'))}. Expected {_PATHS[version]}, as LeRobot "
            f"writes them: move them there."
        )
    return _clips_of_files(folder, info, key) if version == "v2.1" else _clips_of_tables(folder, key)


def _clips_of_files(folder: Path, info: Mapping[str, Any], key: str) -> Mapping[int, Clip]:
    """v2.1: one video for each episode of `meta/episodes.jsonl`."""
    size = info.get("chunks_size", _CHUNKS_SIZE)
    if type(size) is not int or size < 1:
        raise FileError(f"{folder / INFO} has a chunks_size of {shown(size)}. {DAMAGED}")
    lines = folder / "meta/episodes.jsonl"
    lengths = _lines(lines, "episode", lambda told: (int(told["episode_index"]), int(told["length"])))
    path = _PATHS["v2.1"]
    return {
        number: Clip(
            folder / path.format(episode_chunk=number // size, video_key=key, episode_index=number), 0.0, None, length
        )
        for number, length in lengths
    }


def _clips_of_tables(folder: Path, key: str) -> Mapping[int, Clip]:
    """v3.0: the tables in `meta/episodes` say which stretch of which video each episode is."""
    tables = sorted(folder.glob("meta/episodes/*/*.parquet"))
    if not tables:
        raise FileError(f"{folder} has videos but no meta/episodes/*/*.parquet. Restore it from a copy.")
    clips: dict[int, Clip] = {}
    columns = ["episode_index", "length", *(f"videos/{key}/{name}" for name in _PLACE)]
    for table in tables:
        check_inside(folder, table)
        with errors_of(table):
            file = open_table(table)
            check_size(table, file.metadata.num_rows * 8 * len(columns), regular_size(table), None)
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise FileError(f"{table} lacks {', '.join(missing)[:200]}. Restore it from a copy.")
        for batch in batches(table, columns):
            rows = zip(*(numbers(table, name, batch[name]).tolist() for name in columns), strict=True)
            for number, length, chunk, index, start, stop in rows:
                path = folder / _PATHS["v3.0"].format(video_key=key, chunk_index=chunk, file_index=index)
                clips[number] = Clip(path, start, stop, length)
    return clips


def check_inside(folder: Path, file: Path) -> None:
    """Check that a file is in a folder, and no link that leads elsewhere.

    Raises:
        FileError: It is not.
    """
    if not file.resolve().is_relative_to(folder.resolve()):
        raise FileError(f"{file} is a link that leads elsewhere, which is not followed. Restore the file.")


def _lines(path: Path, what: str, parse: Any) -> Iterator[tuple[int, Any]]:
    for line in _read_text(path).splitlines():
        try:
            yield parse(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise FileError(f"{path} has a line that is no {what}. {DAMAGED}") from error


def _read_text(path: Path) -> str:
    try:
        if path.is_symlink() or regular_size(path) > _MAX_JSON_BYTES:
            raise FileError(f"{path} is a link, or has more than {_MAX_JSON_BYTES:,} bytes. {DAMAGED}")
        return path.read_text(encoding="utf-8")
    except WorldlineError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"{path} cannot be read ({shown(str(error))}). {DAMAGED}") from error
