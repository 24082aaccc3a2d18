"""Data sets of LeRobot as its recorder writes them, v2.1 and v3.0, with frames that say which row they belong to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

RATE = 10
LENGTHS = (3, 2, 4)
HEIGHT, WIDTH = 32, 48
TOP, WRIST = "observation.images.top", "observation.images.wrist"
VIDEO_PATHS = {
    "v2.1": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    "v3.0": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}


def level(row: int, key: str = TOP) -> int:
    """Return how bright the picture of a row of the whole data set is."""
    return 20 * row + 20 if key == TOP else 235 - 20 * row


def write_video(
    path: Path,
    levels: Sequence[int],
    *,
    times: Sequence[int] | None = None,
    codec: str = "libx264",
    gop: int = 2,
    is_index_first: bool = False,
) -> Path:
    """Write one grey frame for each level, at times in frames from the start."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"movflags": "faststart"} if is_index_first else {}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream(codec, rate=RATE, options={"g": str(gop), "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for time, grey in zip(times or range(len(levels)), levels, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), grey, np.uint8), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def png(grey: int, height: int = HEIGHT, width: int = WIDTH, *, codec: str = "png") -> bytes:
    """Return a grey picture."""
    import av

    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.time_base = width, height, Fraction(1)
    context.pix_fmt = "rgb24" if codec == "png" else "yuvj420p"
    frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), grey, np.uint8), format="rgb24")
    packets = [*context.encode(frame.reformat(format=context.pix_fmt)), *context.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def lerobot(path: Path, version: str, *, discrete: bool = False, cameras: str = "", **info: Any) -> Path:
    """Write episodes of `LENGTHS` frames, as one file each (v2.1) or as one for all (v3.0).

    Args:
        path: The folder.
        version: v2.1 or v3.0.
        discrete: Whether actions are indices.
        cameras: What pictures are in: "video", "image" (in the tables), or "" for none.
        info: What `meta/info.json` says otherwise.
    """
    import pyarrow as pa
    from pyarrow import parquet

    frames, episodes = sum(LENGTHS), np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    starts = np.cumsum(LENGTHS) - LENGTHS
    state = np.repeat(np.arange(frames, dtype=np.float32), 2)
    table = {
        "observation.state": pa.FixedSizeListArray.from_arrays(state, 2),
        "observation.force": pa.array([[[float(t)], [0.0]] for t in range(frames)]),  # lists in lists
        "action": pa.array([0, 2, 1, 0, 1, 0, 0, 1, 0]) if discrete else pa.array([[t, 1.0] for t in range(frames)]),
        "next.reward": pa.array(np.arange(frames, dtype=np.float32)),
        "timestamp": pa.array(((np.arange(frames) - starts[episodes]) / RATE).astype(np.float32)),
        "episode_index": pa.array(episodes),
        "task_index": pa.array(1 - episodes % 2),
    }
    features: dict[str, Any] = {name: {"dtype": "float32", "shape": [1], "names": None} for name in table}
    for key in (TOP, WRIST) if cameras else ():
        sizes = {"shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]}
        features[key] = {"dtype": cameras, **sizes, "info": {"video.is_depth_map": False}}
        if cameras == "image":
            pictures = [{"bytes": png(level(row, key)), "path": f"frame_{row}.png"} for row in range(frames)]
            table[key] = pa.array(pictures)
    (path / "meta").mkdir(parents=True)
    (path / "data" / "chunk-000").mkdir(parents=True)
    described = {"codebase_version": version, "features": features, "fps": RATE, "video_path": VIDEO_PATHS.get(version)}
    (path / "meta" / "info.json").write_text(json.dumps(described | info))
    write = _write_v3 if version == "v3.0" else _write_v2
    write(path, pa.table(table), starts.tolist())
    if cameras == "video":
        _write_videos(path, version, starts.tolist())
    assert parquet.read_table(next(path.glob("data/*/*.parquet"))).num_rows
    return path


def _write_v2(path: Path, table: Any, starts: list[int]) -> None:
    from pyarrow import parquet

    for number, (start, length) in enumerate(zip(starts, LENGTHS, strict=True)):
        parquet.write_table(table.slice(start, length), path / f"data/chunk-000/episode_{number:06d}.parquet")
    tasks = [{"task_index": index, "task": task} for index, task in enumerate(("sort", "stack"))]
    episodes = [{"episode_index": number, "tasks": [], "length": length} for number, length in enumerate(LENGTHS)]
    for name, rows in (("tasks", tasks), ("episodes", episodes)):
        (path / "meta" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_v3(path: Path, table: Any, starts: list[int]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(table, path / "data/chunk-000/file-000.parquet", row_group_size=2)
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": ["sort", "stack"]})
    parquet.write_table(tasks, path / "meta/tasks.parquet")
    write_episodes(path, starts)


def write_episodes(path: Path, starts: list[int], **changed: list[Any]) -> None:
    """Write the table of v3.0 that says where each episode is in the videos: the last one begins the second file."""
    import pyarrow as pa
    from pyarrow import parquet

    ends = [start + length for start, length in zip(starts, LENGTHS, strict=True)]
    columns: dict[str, list[Any]] = {"episode_index": [0, 1, 2], "length": list(LENGTHS)}
    for key in (TOP, WRIST):
        columns |= {
            f"videos/{key}/chunk_index": [0, 0, 0],
            f"videos/{key}/file_index": [0, 0, 1],
            f"videos/{key}/from_timestamp": [starts[0] / RATE, starts[1] / RATE, 0.0],
            f"videos/{key}/to_timestamp": [ends[0] / RATE, ends[1] / RATE, LENGTHS[2] / RATE],
        }
    folder = path / "meta/episodes/chunk-000"
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns | changed), folder / "file-000.parquet")


def _write_videos(path: Path, version: str, starts: list[int]) -> None:
    for key in (TOP, WRIST):
        levels = [[level(start + t, key) for t in range(n)] for start, n in zip(starts, LENGTHS, strict=True)]
        if version == "v3.0":
            levels = [levels[0] + levels[1], levels[2]]
            names = [f"{key}/chunk-000/file-{number:03d}.mp4" for number in range(2)]
        else:
            names = [f"chunk-000/{key}/episode_{number:06d}.mp4" for number in range(3)]
        for name, greys in zip(names, levels, strict=True):
            write_video(path / "videos" / name, greys)
