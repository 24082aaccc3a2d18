"""Films of the episodes asked for, readable videos, strips of pictures."""

import numpy as np
import pytest

from worldline.errors import ConfigError, DataError, FileError, MissingPackageError
from worldline.evaluation.rollout import collect_episodes
from worldline.evaluation.video import film_strip, filming, side_by_side, write_video

from .environments import Counter, Memory


class Shown(Counter):
    """A Counter whose picture is one grey: its step, times ten."""

    def render(self):
        self.num_rendered = getattr(self, "num_rendered", 0) + 1
        return np.full((6, 9, 3), 10 * self.count, dtype=np.uint8)


def test_the_episodes_asked_for_are_filmed_from_first_to_last_and_no_others():
    films, envs = {}, []

    def make():
        envs.append(Shown())
        return envs[-1]

    plain = collect_episodes(Counter, Memory(), num_episodes=5, seed=10, num_envs=2)
    filmed = filming(make, films.__setitem__, seeds=(11, 13))
    episodes = collect_episodes(filmed, Memory(), num_episodes=5, seed=10, num_envs=2)
    assert sorted(films) == [11, 13]
    for seed, frames in films.items():
        assert frames[:, 0, 0, 0].tolist() == [10 * count for count in range(len(episodes[seed - 10]) + 1)]
    assert sum(getattr(env, "num_rendered", 0) for env in envs) == sum(map(len, films.values()))
    assert [episode.rewards.tolist() for episode in episodes] == [episode.rewards.tolist() for episode in plain]


def test_what_does_not_render_is_refused():
    class Blind(Counter):
        def render(self):
            return None

    with pytest.raises(ConfigError, match="render_mode"):
        collect_episodes(filming(Blind, print, seeds=(0,)), Memory(), num_episodes=1)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_video_is_read_back(tmp_path, suffix):
    av = pytest.importorskip("av")
    frames = np.zeros((7, 51, 33, 3), dtype=np.uint8)
    frames[:, :, :, 0] = np.linspace(0, 240, 7)[:, None, None]
    path = write_video(tmp_path / "deep" / f"a{suffix}", frames, frames_per_second=10)
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 10
    assert len(pictures) == 7
    assert pictures[0].shape[0] >= 256
    assert pictures[0].shape[0] % 2 == pictures[0].shape[1] % 2 == 0
    reds = [picture[..., 0].mean() for picture in pictures]
    assert reds == pytest.approx(np.linspace(0, 240, 7).tolist(), abs=20)  # GIF has 8 reds, H.264 loses some


def test_what_is_no_video_is_refused(tmp_path, monkeypatch):
    frames = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    with pytest.raises(ConfigError, match=r"\.mp4 or \.gif"):
        write_video(tmp_path / "a.avi", frames)
    for wrong in (frames[0], frames[:0], frames.astype(np.float32), frames[..., :1]):
        with pytest.raises(DataError, match="uint8"):
            write_video(tmp_path / "a.mp4", wrong)
    (tmp_path / "file").touch()
    pytest.importorskip("av")
    with pytest.raises(FileError, match="may write to"):
        write_video(tmp_path / "file" / "a.mp4", frames)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingPackageError, match=r"worldline\[video\]"):
        write_video(tmp_path / "a.mp4", frames)


def test_a_strip_has_the_first_and_the_last_frame():
    frames = np.zeros((20, 10, 8, 3), dtype=np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None, None]
    strip = film_strip(frames, num_frames=3, height=5)
    assert strip.shape == (5, 12, 3)
    assert strip[0, ::4, 0].tolist() == [0, 10, 19]
    assert film_strip(frames[:2], num_frames=3).shape == (10, 16, 3)


def test_two_films_run_side_by_side_until_the_longer_one_ends():
    short = np.arange(2, dtype=np.uint8)[:, None, None, None] + np.zeros((2, 4, 3, 3), np.uint8)
    long = 10 * np.arange(4, dtype=np.uint8)[:, None, None, None] + np.zeros((4, 4, 5, 3), np.uint8)
    joined = side_by_side(short, long)
    assert (joined.shape, joined.dtype) == ((4, 4, 8, 3), np.uint8)
    assert joined[:, 0, 0, 0].tolist() == [0, 1, 1, 1]
    assert joined[:, 0, 3, 0].tolist() == joined[:, 3, 7, 2].tolist() == [0, 10, 20, 30]
    with pytest.raises(DataError, match="got 4 and 6"):
        side_by_side(short, np.zeros((1, 6, 3, 3), np.uint8))
