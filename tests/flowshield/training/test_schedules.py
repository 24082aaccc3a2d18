from __future__ import annotations

import math

import pytest
import torch

from flowshield.training import EarlyStopping, LearningRateScheduler
from worldline.errors import ConfigError


def test_stops_after_as_many_calls_without_improvement():
    stopping = EarlyStopping(patience=3, min_delta=0.5)
    losses = [5.0, 4.6, 4.5, 4.4, 4.3, 4.2, 4.1]  # the fourth is the first to be lower than 5 by more than 0.5
    assert [stopping(loss) for loss in losses] == [False, False, False, False, False, False, True]
    assert stopping.best == 4.4


def test_a_loss_that_is_no_number_is_no_improvement():
    stopping = EarlyStopping(patience=2)
    assert [stopping(loss) for loss in (math.nan, math.inf, 1.0)] == [False, True, False]


@pytest.mark.parametrize("settings", [{"patience": 0}, {"min_delta": -1.0}, {"min_delta": math.nan}])
def test_impossible_settings(settings):
    with pytest.raises(ConfigError, match="EarlyStopping needs"):
        EarlyStopping(**settings)


def make_optimizer() -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    return torch.optim.SGD(groups)


def rates(scheduler_type: str, **kwargs) -> list[list[float]]:
    optimizer = make_optimizer()
    scheduler = LearningRateScheduler(optimizer, scheduler_type, **kwargs)
    found = []
    for epoch in range(4):
        scheduler.step(epoch)
        found.append([group["lr"] for group in optimizer.param_groups])
    return found


def test_rates_by_hand():
    cosine = [1.0, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.5 * (1 - math.cos(math.pi / 4))]
    assert rates("cosine", n_epochs=4) == [pytest.approx([rate, 0.1 * rate]) for rate in cosine]
    assert rates("cosine", T_max=4) == rates("cosine", n_epochs=4)
    assert rates("linear", n_epochs=4, eta_min=0.2)[2] == pytest.approx([0.6, 0.06])
    assert rates("constant", warmup_epochs=2) == [pytest.approx([rate, 0.1 * rate]) for rate in (0.5, 1.0, 1.0, 1.0)]


def test_it_is_a_function_of_the_epoch():
    optimizer = make_optimizer()
    scheduler = LearningRateScheduler(optimizer, n_epochs=10)
    scheduler.step(7)
    late = optimizer.param_groups[0]["lr"]
    scheduler.step(0)
    assert optimizer.param_groups[0]["lr"] == 1.0
    scheduler.step(7)
    assert optimizer.param_groups[0]["lr"] == late


def test_unknown_names():
    with pytest.raises(ConfigError, match="Did you mean 'cosine'"):
        LearningRateScheduler(make_optimizer(), "cosin")
    with pytest.raises(ConfigError, match="Did you mean 'n_epochs'"):
        LearningRateScheduler(make_optimizer(), epochs=3)
