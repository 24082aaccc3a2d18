from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from worldline.data.buffer import ReplayBuffer
from worldline.errors import DataError
from worldline.evaluation.shields import (
    CommandRows,
    auroc,
    calibration_curve,
    command_map,
    evaluate_projection,
    evaluate_shield,
    impossible_commands,
    one_row_each,
)


class Ruler:
    """A shield that flags returns above 10, states of a number above 5, and projects returns to 10."""

    is_broken = False

    def score(self, state: Tensor, command: Tensor) -> Tensor:
        return torch.maximum(command[:, 1] / 10, self.state_score(state))

    def state_score(self, state: Tensor) -> Tensor:
        return state[:, 0] / 5

    def is_ood(self, state: Tensor, command: Tensor, threshold: float | None = None) -> Tensor:
        return self.score(state, command) > (1.0 if threshold is None else threshold)

    def project(self, state: Tensor, command: Tensor) -> Tensor:
        limit = 11.0 if self.is_broken else 10.0
        return torch.stack((command[:, 0].clamp(min=1.0), command[:, 1].clamp(max=limit)), 1)


def buffer(*lengths: int, reward: float = 1.0) -> ReplayBuffer:
    """Return episodes whose observation is the number of the episode, and whose rewards are all the same."""
    data = ReplayBuffer(1000, (1,), 1, action_sizes=())
    for index, length in enumerate(lengths):
        data.add_episode(np.full((length, 1), index), np.zeros((length, 1)), np.full(length, reward), terminated=True)
    return data


def test_auroc_by_hand():
    negatives, positives = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0])
    assert auroc(negatives, positives) == 0.75
    assert auroc(negatives, negatives) == 0.5
    assert auroc(negatives, negatives + 10) == 1.0
    assert auroc(negatives, negatives - 10) == 0.0


def test_one_row_of_each_episode():
    rows = one_row_each(buffer(3, 5, 2), seed=1)
    assert isinstance(rows.states, Tensor)
    assert rows.states.tolist() == [[0.0], [1.0], [2.0]]
    assert (rows.commands[:, 0] == rows.commands[:, 1]).all()  # as many steps as return
    assert ((rows.commands[:, 0] >= 1) & (rows.commands[:, 0] <= torch.tensor([3.0, 5.0, 2.0]))).all()
    drawn = [one_row_each(buffer(5), seed=seed).commands[0, 0].item() for seed in range(60)]
    assert set(drawn) == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_no_episodes():
    with pytest.raises(DataError, match="no episodes"):
        one_row_each(ReplayBuffer(10, (1,), 1, action_sizes=()))


def test_impossible_commands_are_beyond_everything_in_the_data():
    data = buffer(*range(1, 40))
    rows = one_row_each(data, seed=0)
    found = impossible_commands(rows, data, seed=0)
    assert set(found) == {"return too high", "horizon too short", "horizon just too short"}
    high = found["return too high"].commands
    assert (high[:, 0] == rows.commands[:, 0]).all()
    assert (high[:, 1] > rows.commands[:, 1] + 4).all()  # as much as can be got in five steps more
    for name in ("horizon too short", "horizon just too short"):
        short = found[name].commands  # with a reward of 1 a step, the return is the fewest steps
        assert (short[:, 0] >= 1).all()
        assert (short[:, 0] < short[:, 1]).all()
    far = found["horizon too short"].commands
    assert (far[:, 1] - far[:, 0] >= 1.9).all()  # a quarter of the deviation of all horizons, which is 8 to 10
    assert len(far) < len(found["horizon just too short"])


def test_false_alarms_and_detection_by_hand():
    data = buffer(*[20] * 5)
    result = evaluate_shield(Ruler(), data, train=data, seed=3)
    rows = one_row_each(data, seed=3)
    returns = rows.commands[:, 1]
    assert result.num_false_alarms == int((returns > 10).sum())
    assert result.interval95[0] <= result.false_alarm_rate <= result.interval95[1]
    found = result.detection["return too high"]
    high = impossible_commands(rows, data, seed=3)["return too high"].commands[:, 1]
    above = (high[:, None] > returns) + 0.5 * (high[:, None] == returns)
    assert found.auroc == pytest.approx(above.mean().item())
    assert found.flagged == (high > 10).float().mean()
    assert found.fpr_at_95_tpr == (returns >= torch.quantile(high, 0.05)).float().mean()
    assert found.num_commands == 5


def test_projection_that_keeps_its_promise():
    rows = CommandRows(
        states=torch.tensor([[0.0], [0.0], [9.0], [0.0]]),
        commands=torch.tensor([[5.0, 5.0], [5.0, 30.0], [5.0, 30.0], [0.0, 5.0]]),
    )
    result = evaluate_projection(Ruler(), rows, scale=torch.tensor([1.0, 10.0]))
    assert result.num_commands == 4
    assert result.passing == 1.0  # the flagged state is left out
    assert result.horizon_valid == 1.0
    assert result.changed == 0.75
    assert result.mean_distance == pytest.approx((2 + 2 + 1) / 3)
    assert result.kept == 0.5  # a horizon of 0 that this shield lets pass, and changes
    assert not result.holds


def test_projection_that_does_not():
    rows = CommandRows(states=torch.zeros(2, 1), commands=torch.tensor([[5.0, 5.0], [5.0, 30.0]]))
    good, bad = Ruler(), Ruler()
    bad.is_broken = True
    assert evaluate_projection(good, rows, scale=torch.ones(2)).holds
    result = evaluate_projection(bad, rows, scale=torch.ones(2))
    assert result.passing == 0.5
    assert not result.holds


@dataclasses.dataclass
class Largest:
    """Flags returns above the share `1 - alpha` of the largest one."""

    largest: float

    def limits(self, horizons: Tensor, alpha: float) -> Tensor:
        return torch.full_like(horizons, (1 - alpha) * self.largest)


class Calibrated(Ruler):
    """A Ruler whose limit is the share `1 - alpha` of the largest return of what it is calibrated with."""

    limit = 10.0

    def __init__(self) -> None:
        self.times: list[str] = []  # what was done, shared by all copies

    def __deepcopy__(self, memo: object) -> Calibrated:
        copied = Calibrated()
        copied.times = self.times
        return copied

    def calibrate(self, dataset: ReplayBuffer, alpha: float = 0.05, *, seed: int = 0) -> Largest:
        self.times.append("calibrate")
        found = Largest(max(float(episode.rewards.sum()) for episode in dataset.episodes()))
        self.limit = (1 - alpha) * found.largest
        return found

    def score(self, state: Tensor, command: Tensor) -> Tensor:
        self.times.append("score")
        return command[:, 1]

    def excess(self, state: Tensor, command: Tensor) -> Tensor:
        return command[:, 1] - self.limit

    def is_ood(self, state: Tensor, command: Tensor, threshold: float | None = None) -> Tensor:
        return (self.excess(state, command) > 0) | (self.state_score(state) > 1)

    def log_prob(self, state: Tensor, command: Tensor) -> Tensor:
        return -command[:, 0] - state[:, 0]


def test_a_calibration_curve_counts_what_each_alpha_flags():
    shield, calibration, test = Calibrated(), buffer(*[40] * 3), buffer(*[40] * 5)
    curve = calibration_curve(shield, calibration, test, alphas=(0.1, 0.5, 0.9), seed=2)
    returns = one_row_each(test, seed=2).commands[:, 1]
    assert [point.num_flagged for point in curve] == [int((returns > limit).sum()) for limit in (36, 20, 4)]
    assert [point.alpha for point in curve] == [0.1, 0.5, 0.9]
    assert curve[1].rate == curve[1].num_flagged / 5
    low, high = curve[1].interval95
    assert low <= curve[1].rate <= high
    assert shield.limit == 10.0  # as it was
    assert shield.times == ["calibrate", "score"]  # once for all alphas


def test_a_map_of_commands():
    found = command_map(Calibrated(), torch.tensor([[2.0]]), low=(1.0, 0.0), high=(5.0, 20.0), num_cells=5)
    assert found.steps.tolist() == [1, 2, 3, 4, 5]
    assert found.returns.tolist() == [0, 5, 10, 15, 20]
    assert found.excess[3].tolist() == [-10, -5, 0, 5, 10]  # over returns, at any horizon
    assert found.log_density[:, 1].tolist() == [-3, -4, -5, -6, -7]  # over horizons, in this state
    assert not found.state_is_flagged
    assert command_map(Calibrated(), torch.tensor([[9.0]]), low=(1.0, 0.0), high=(5.0, 20.0)).state_is_flagged
