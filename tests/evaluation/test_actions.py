"""Errors of actions, counted by hand."""

import numpy as np
import pytest
import torch

from worldline.episode import Episode
from worldline.errors import DataError
from worldline.evaluation.actions import action_errors


def make_episode(steps, offset):
    obs = {"x": np.arange(steps, dtype=np.float32)[:, None] + offset}
    return Episode(obs=obs, actions=np.zeros((steps, 2), np.float32), rewards=np.zeros(steps), terminated=True)


class Counting:
    """Acts (0.1 x, 0.2 times the number of calls since the episode began)."""

    def act(self, obs, state=None, *, is_first=None, deterministic=False):
        assert deterministic
        calls = torch.zeros(len(obs["x"])) if state is None else torch.where(is_first, 0.0, state + 1)
        return torch.stack([0.1 * obs["x"][:, 0], 0.2 * calls], dim=1), calls


def test_every_recorded_step_counts_once():
    # x: 0, 1, 2 and 5; calls: 0, 1, 2 and 0
    errors = action_errors(Counting(), [make_episode(3, 0), make_episode(1, 5)])
    np.testing.assert_allclose(errors, [0.1 * (0 + 1 + 2 + 5) / 4, 0.2 * (0 + 1 + 2 + 0) / 4], rtol=1e-6)


def test_actions_are_clipped_as_an_environment_does():
    class Far(Counting):
        def act(self, obs, state=None, **more):
            return torch.full((len(obs["x"]), 2), 7.0), None

    assert action_errors(Far(), [make_episode(2, 0)]).tolist() == [1.0, 1.0]


def test_what_has_no_rows_is_refused():
    with pytest.raises(DataError, match="no episodes"):
        action_errors(Counting(), [])
    episode = Episode(obs=np.zeros((2, 1)), actions=[0, 1], rewards=[0.0, 0.0], terminated=True)
    with pytest.raises(DataError, match="rows"):
        action_errors(Counting(), [episode])
