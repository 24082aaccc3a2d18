"""How intervals and progress are told."""

import numpy as np

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
