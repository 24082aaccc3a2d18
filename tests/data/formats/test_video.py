"""Frames by their times, from videos that are whole, cut, damaged or none."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest

from data.formats.lerobot_files import HEIGHT, RATE, WIDTH, png, write_video
from worldline.data.formats.video import FrameReader, decode_picture
from worldline.episode import Array
from worldline.errors import DataError, FileError, MissingPackageError

SHAPE = (HEIGHT, WIDTH, 3)
LEVELS = [10 * number for number in range(24)]


def read(path: Path, first: int, stop: int, *, is_last: bool = False, reader: FrameReader | None = None) -> Array:
    """Return how bright the frames from `first` to before `stop` are."""
    frames = (reader or FrameReader(SHAPE, RATE)).read(
        path, np.arange(first, stop) / RATE, None if is_last else stop / RATE
    )
    assert frames.shape == (stop - first, *SHAPE)
    return frames.reshape(stop - first, -1).mean(axis=1)


@pytest.mark.parametrize(("codec", "gop"), [("libx264", 12), ("libx264", 2), ("libsvtav1", 2)])
def test_frames_in_order(tmp_path: Path, codec: str, gop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVT_LOG", "0")
    path = tmp_path / "a.mp4"
    # In a process of its own: SVT-AV1, where root runs it, gives all of the process real-time priority, for ever.
    writer = multiprocessing.get_context("spawn").Process(
        target=write_video, args=(path, LEVELS), kwargs={"codec": codec, "gop": gop}
    )
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    assert read(path, 0, 24, is_last=True) == pytest.approx(LEVELS, abs=2)


def test_stretches_in_any_order_are_those_of_the_whole(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", LEVELS, gop=12)
    other = write_video(tmp_path / "b.mp4", LEVELS[::-1], gop=12)
    whole = read(path, 0, 24)
    reader = FrameReader(SHAPE, RATE)
    for first, stop in ((3, 7), (7, 8), (8, 15), (0, 4), (20, 24), (22, 24), (1, 2)):
        assert read(path, first, stop, reader=reader).tolist() == whole[first:stop].tolist()
    assert read(other, 0, 3, reader=reader) == pytest.approx(LEVELS[:-4:-1], abs=2)
    assert read(path, 5, 6, reader=reader).tolist() == whole[5:6].tolist()
    reader.close()


def test_frames_and_rows_must_be_as_many(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", LEVELS[:5], times=[0, 1, 2, 4, 5])  # without the fourth
    assert read(path, 0, 3) == pytest.approx(LEVELS[:3], abs=2)
    with pytest.raises(FileError, match=r"no frame at 0\.3 s, which is row 3 of 5"):
        read(path, 0, 5)
    with pytest.raises(FileError, match=r"no frame at 0\.6 s, which is row 2 of 3"):
        read(path, 4, 7)
    with pytest.raises(FileError, match=r"no frame at 2 s"):
        read(path, 20, 22)
    with pytest.raises(FileError, match=r"goes on at 0\.2 s, after the 2 rows"):
        read(path, 0, 2, is_last=True)
    with pytest.raises(FileError, match=r"a frame at 0\.1 s that is in no row"):
        FrameReader(SHAPE, RATE).read(path, np.array([0.0, 0.2]), None)


@pytest.mark.parametrize("times", [[0.0, np.nan], [0.1, 0.1], [-1.0, 0.0], [0.0, np.inf]])
def test_times_that_cannot_be(tmp_path: Path, times: list[float]) -> None:
    path = write_video(tmp_path / "a.mp4", LEVELS[:2])
    with pytest.raises(DataError, match="timestamps"):
        FrameReader(SHAPE, RATE).read(path, np.array(times), None)


def test_a_video_of_another_size(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", LEVELS[:2])
    with pytest.raises(FileError, match="of 32 x 48, where 48 x 32 were declared"):
        FrameReader((WIDTH, HEIGHT, 3), RATE).read(path, np.array([0.0, 0.1]), None)


@pytest.mark.parametrize("is_index_first", [False, True])
def test_a_video_that_was_cut_off(tmp_path: Path, is_index_first: bool) -> None:
    path = write_video(tmp_path / "a.mp4", LEVELS, is_index_first=is_index_first)
    content = path.read_bytes()
    assert (content.index(b"moov") < content.index(b"mdat")) is is_index_first
    for part in (0.95, 0.5, 0.01):
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(FileError, match=r"a\.mp4"):
            read(path, 0, 24)


def test_damage_is_not_concealed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", LEVELS)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    middle = start + (content.index(b"moov") - start) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(FileError, match="cannot be decoded"):
        read(path, 0, 24)


def test_a_playlist_is_no_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", LEVELS)
    for name, text in (("list.mp4", "ffconcat version 1.0\nfile a.mp4\n"), ("hls.mp4", "#EXTM3U\n#EXTINF:1,\na.mp4\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(FileError, match="cannot be decoded"):
            read(tmp_path / name, 0, 24)


@pytest.mark.parametrize("codec", ["png", "mjpeg"])
def test_a_picture(codec: str) -> None:
    path = Path("a.parquet")
    content = png(90, codec=codec)
    picture = decode_picture(path, content, SHAPE)
    assert picture.shape == SHAPE
    assert np.abs(picture.astype(int) - 90).max() <= 2
    with pytest.raises(FileError, match="declared"):
        decode_picture(path, content, (8, 8, 3))
    for damaged in (content[: len(content) // 2], content[:8]):
        with pytest.raises(FileError, match=r"a\.parquet"):
            decode_picture(path, damaged, SHAPE)
    with pytest.raises(FileError, match="neither PNG nor JPEG"):
        decode_picture(path, b"GIF89a" + content, SHAPE)


def test_a_picture_that_claims_to_be_large() -> None:
    content = bytearray(png(0))
    content[16:24] = (30_000).to_bytes(4, "big") * 2  # width and height of a PNG
    with pytest.raises(FileError, match=r"a\.parquet"):
        decode_picture(Path("a.parquet"), bytes(content), (30_000, 30_000, 3))


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", LEVELS[:2])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'worldline\[video\]'"):
        read(path, 0, 2)
