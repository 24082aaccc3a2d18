"""How intervals and progress are told."""

import numpy as np

from worldline.cli import terminal
from worldline.cli.terminal import describe_interval, episode_progress
from worldline.episode import Episode


def test_an_interval_of_one_episode_is_not_written():
    assert describe_interval(None) == "one episode has no interval"


def test_progress_counts_episodes_and_their_mean_return(capsys):
    with episode_progress("Collecting", 2) as on_episode:
        for reward in (1.0, 4.0):
            on_episode(Episode(obs=np.zeros((2, 1)), actions=[0, 0], rewards=[reward, reward], terminated=True))
    text = capsys.readouterr().err
    assert "2/2" in text
    assert "mean return 5.0" in text


def test_a_long_label_leaves_the_numbers_whole(monkeypatch, capsys):
    monkeypatch.setattr(terminal.progress, "width", 80)
    with episode_progress(
        "Evaluating runs/[b]a folder/whose name/is as long as a line by itself", 10_000
    ) as on_episode:
        on_episode(Episode(obs=np.zeros((2, 1)), actions=[0, 0], rewards=[-999.0, 0.0], terminated=True))
    text = capsys.readouterr().err
    assert "Evaluating runs/[b]a fo…" in text
    assert "1/10000" in text
    assert "mean return -999.0" in text
    assert "0:00:0" in text
