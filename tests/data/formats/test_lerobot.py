"""LeRobot: what becomes of every column, and the frame that belongs to every row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.formats.lerobot_files import (
    HEIGHT,
    LENGTHS,
    RATE,
    TOP,
    WIDTH,
    WRIST,
    lerobot,
    level,
    png,
    write_episodes,
    write_video,
)
from worldline.data.buffer import ReplayBuffer
from worldline.data.dataset import Dataset
from worldline.data.formats.catalog import detect_format, read_recording
from worldline.data.loading import action_bounds_of, convert
from worldline.errors import DataError, FileError, MissingPackageError

VERSIONS = ("v2.1", "v3.0")
VIDEO = {
    "v2.1": f"videos/chunk-000/{TOP}/episode_000001.mp4",
    "v3.0": f"videos/{TOP}/chunk-000/file-000.mp4",
}


def greys(pictures: Any) -> list[int]:
    """Return how bright each picture is, after a look at whether it is of one grey."""
    assert pictures.dtype == np.uint8
    assert int(np.ptp(pictures.reshape(len(pictures), -1), axis=1).max()) <= 4
    return [round(float(picture.mean())) for picture in pictures]


@pytest.mark.parametrize("version", VERSIONS)
def test_columns(tmp_path: Path, version: str) -> None:
    path = lerobot(tmp_path / "pusht", version)
    assert detect_format(path) == "lerobot"
    with read_recording(path) as recording:
        assert (recording.num_episodes, recording.num_steps) == (3, 9)
    buffer = ReplayBuffer.load(path)
    assert buffer.spec.obs_shape == {"state": (2,), "force": (2, 1)}
    first, second, _ = buffer.episodes()
    assert isinstance(first.obs, dict)
    assert first.obs["state"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert first.obs["force"][:, 0, 0].tolist() == [0, 1, 2]
    assert second.actions[:, 0].tolist() == [3, 4]
    assert second.rewards.tolist() == [3, 4]
    assert (dict(first.meta), dict(second.meta)) == ({"language": "stack"}, {"language": "sort"})
    assert (first.terminated, first.truncated, first.final_obs) == (False, True, None)


def test_discrete_actions(tmp_path: Path) -> None:
    assert ReplayBuffer.load(lerobot(tmp_path / "a", "v2.1", discrete=True)).spec.action_sizes == (3,)


@pytest.mark.parametrize("name", ["data/chunk-000/episode_000001.parquet", "meta/info.json", "meta/tasks.jsonl"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    path = lerobot(tmp_path / "a", "v2.1")
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match=Path(name).name):
        ReplayBuffer.load(path)


def test_a_link_out_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    path = lerobot(tmp_path / "a", "v2.1")
    file = path / "data" / "chunk-000" / "episode_000001.parquet"
    file.rename(tmp_path / "elsewhere.parquet")
    file.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(FileError, match="leads elsewhere"):
        ReplayBuffer.load(path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"v2\.1 or v3\.0"):
        ReplayBuffer.load(lerobot(tmp_path / "a", "v1.6"))


@pytest.mark.parametrize("cameras", ["video", "image"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_has_its_pictures(tmp_path: Path, version: str, cameras: str) -> None:
    data = tmp_path / "columns"
    assert convert(lerobot(tmp_path / "pusht", version, cameras=cameras), data) == (3, 9)
    converted = Dataset(data)
    pictures = (HEIGHT, WIDTH, 3)
    assert converted.spec.obs_shape == {
        "state": (2,),
        "force": (2, 1),
        "images.top": pictures,
        "images.wrist": pictures,
    }
    for episode, start in zip(converted.episodes(), (0, 3, 5), strict=True):
        assert isinstance(episode.obs, dict)
        rows = range(start, start + len(episode))
        assert episode.obs["state"][:, 0].tolist() == list(rows)
        for name, key in (("images.top", TOP), ("images.wrist", WRIST)):
            assert greys(episode.obs[name]) == pytest.approx([level(row, key) for row in rows], abs=2)


def test_the_timestamps_of_rows_say_which_frame_it_is(tmp_path: Path) -> None:
    path = lerobot(tmp_path / "a", "v3.0", cameras="video")
    # The same video from another second on, as after episodes that were deleted.
    levels = [0] * 7 + [level(row) for row in range(5)]
    write_video(path / VIDEO["v3.0"], levels, gop=5)
    write_episodes(
        path,
        [0, 3, 5],
        **{f"videos/{TOP}/from_timestamp": [0.7, 1.0, 0.0], f"videos/{TOP}/to_timestamp": [1.0, 1.2, 0.4]},
    )
    first, second, _ = ReplayBuffer.load(path, obs_keys=["images.top"]).episodes()
    assert isinstance(first.obs, dict)
    assert isinstance(second.obs, dict)
    assert greys(first.obs["images.top"]) == pytest.approx([level(row) for row in range(3)], abs=2)
    assert greys(second.obs["images.top"]) == pytest.approx([level(3), level(4)], abs=2)


def test_pictures_whose_channels_come_first_in_the_description(tmp_path: Path) -> None:
    path = lerobot(tmp_path / "a", "v2.1", cameras="video")
    info = json.loads((path / "meta/info.json").read_text())
    info["features"][TOP] |= {"shape": [3, HEIGHT, WIDTH], "names": ["channels", "height", "width"]}
    info["features"][WRIST] |= {"shape": [3, HEIGHT, WIDTH], "names": None}
    (path / "meta/info.json").write_text(json.dumps(info))
    shapes = ReplayBuffer.load(path).spec.obs_shape
    assert isinstance(shapes, dict)
    assert shapes["images.top"] == shapes["images.wrist"] == (HEIGHT, WIDTH, 3)


def test_depth_and_texts_are_left_out(tmp_path: Path) -> None:
    path = lerobot(tmp_path / "a", "v3.0", cameras="video")
    info = json.loads((path / "meta/info.json").read_text())
    info["features"][TOP]["info"] = {"is_depth_map": True}
    info["features"]["observation.note"] = {"dtype": "string", "shape": [1]}
    (path / "meta/info.json").write_text(json.dumps(info))
    with read_recording(path) as recording:
        assert recording.left_out == (TOP, "observation.note")
        assert isinstance(recording.spec.obs_shape, dict)
        assert "images.wrist" in recording.spec.obs_shape


@pytest.mark.parametrize("version", VERSIONS)
def test_episodes_are_decoded_one_by_one(tmp_path: Path, version: str) -> None:
    path = lerobot(tmp_path / "a", version, cameras="video")
    last = sorted(path.glob(f"videos/**/*{'1' if version == 'v3.0' else '2'}.mp4"))
    for video in last:
        video.write_bytes(b"no video")
    with read_recording(path) as recording:
        blocks = recording.blocks()
        assert [int(next(blocks).ends[-1]) for _ in range(2)] == [3, 2]
        with pytest.raises(FileError, match="cannot be decoded"):
            next(blocks)
    with pytest.raises(FileError, match="cannot be decoded"):
        convert(path, tmp_path / "columns")
    assert not (tmp_path / "columns").exists()


def test_chosen_observations_need_no_video_and_no_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lerobot(tmp_path / "a", "v3.0", cameras="video")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    convert(path, tmp_path / "columns", obs_keys=["state"])
    assert Dataset(tmp_path / "columns").spec.obs_shape == {"state": (2,)}
    with pytest.raises(MissingPackageError, match=r"worldline\[video\]"):
        convert(path, tmp_path / "all")
    with pytest.raises(DataError, match=r"images\.top"):
        convert(path, tmp_path / "none", obs_keys=["image"])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_frame_too_few_or_too_many(tmp_path: Path, version: str) -> None:
    path = lerobot(tmp_path / "a", version, cameras="video")
    rows = range(3, 5) if version == "v2.1" else range(5)
    levels = [level(row) for row in rows]
    write_video(path / VIDEO[version], levels[:-1])
    with pytest.raises(FileError, match="has no frame at"):
        ReplayBuffer.load(path)
    write_video(path / VIDEO[version], [*levels, 0])
    if version == "v2.1":
        with pytest.raises(FileError, match=r"goes on at 0\.2 s, after the 2 rows"):
            ReplayBuffer.load(path)
    else:
        assert ReplayBuffer.load(path).num_transitions == 9  # of an episode that was deleted


def test_counts_that_disagree(tmp_path: Path) -> None:
    path = lerobot(tmp_path / "a", "v3.0", cameras="video")
    write_episodes(path, [0, 3, 5], length=[3, 3, 4])
    with pytest.raises(FileError, match="episode 1 has 2 rows; meta/episodes says that it has 3"):
        ReplayBuffer.load(path)
    write_episodes(path, [0, 3, 5], **{f"videos/{TOP}/to_timestamp": [0.2, 0.5, 0.4]})
    with pytest.raises(FileError, match=r"episode 0 has 3 rows.* 0\.2 s"):
        ReplayBuffer.load(path)
    write_episodes(path, [0, 3, 5], episode_index=[0, 7, 2])
    with pytest.raises(FileError, match="says nothing of the video of episode 1"):
        ReplayBuffer.load(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_missing_video_and_missing_descriptions(tmp_path: Path, version: str) -> None:
    path = lerobot(tmp_path / "a", version, cameras="video")
    (path / VIDEO[version]).unlink()
    with pytest.raises(FileError, match=Path(VIDEO[version]).name):
        read_recording(path)
    told = path / "meta/episodes"
    shutil.rmtree(told) if version == "v3.0" else told.with_suffix(".jsonl").unlink()
    with pytest.raises(FileError, match="meta/episodes"):
        read_recording(path)


CHANGES: dict[str, dict[str, Any]] = {
    "frames a second": {"fps": float("nan")},
    "has videos at": {"video_path": "/etc/{video_key}"},
    "pictures of shape": {"features": {TOP: {"dtype": "video", "shape": [HEIGHT, WIDTH, 4]}}},
    "episodes": {"features": {"observation.images.side": {"dtype": "video", "shape": [HEIGHT, WIDTH, 3]}}},
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_description_that_cannot_be(tmp_path: Path, message: str) -> None:
    with pytest.raises(FileError, match=message):
        read_recording(lerobot(tmp_path / "a", "v3.0", cameras="video", **CHANGES[message]))


def test_pictures_that_are_not_in_the_table(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = lerobot(tmp_path / "a", "v3.0", cameras="image")
    file = path / "data/chunk-000/file-000.parquet"
    table = parquet.read_table(file)
    column = table.schema.get_field_index(TOP)
    for content, message in ((None, "not in the table"), (png(0, 8, 8), "of 8 x 8, where 32 x 48")):
        pictures = pa.array([{"bytes": content, "path": "a.png"}] * sum(LENGTHS), type=table.schema.field(column).type)
        parquet.write_table(table.set_column(column, TOP, pictures), file)
        with pytest.raises((DataError, FileError), match=message):
            ReplayBuffer.load(path)


def test_a_few_bytes_that_claim_many_pictures(tmp_path: Path) -> None:
    path = lerobot(tmp_path / "a", "v3.0", cameras="video")
    info = json.loads((path / "meta/info.json").read_text())
    info["features"][TOP]["shape"] = [3000, 3500, 3]  # nine of them take more than 256 MiB
    (path / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(FileError, match="max_bytes="):
        read_recording(path)
    read_recording(path, max_bytes=1 << 30).close()
    assert info["fps"] == RATE


@pytest.mark.parametrize("version", VERSIONS)
def test_the_range_of_actions_needs_no_picture(tmp_path: Path, version: str):
    path = lerobot(tmp_path / "a", version, cameras="video")
    for video in path.glob("videos/**/*.mp4"):
        video.write_bytes(b"none of these is decoded")
    bounds = action_bounds_of(path)
    assert (bounds.low.tolist(), bounds.high.tolist()) == ([0, 0], [8, 2])  # the second action is always 1
    assert bounds.scale(np.array([[0, 1], [8, 1]])).tolist() == [[-1, 0], [1, 0]]
