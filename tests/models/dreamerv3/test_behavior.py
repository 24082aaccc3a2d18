from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.dreamerv3.tiny_dreamer import make_batch, make_model
from worldline.models.dreamerv3 import DreamerV3
from worldline.models.dreamerv3.behavior import ImaginedBehavior, imagination_losses, replay_value_loss
from worldline.models.dreamerv3.rows import Rows, align
from worldline.ops.twohot import twohot_loss

NUM, HORIZON = 6, 3


class Scene:
    """A model, imagined trajectories from 6 starts, and their losses."""

    def __init__(self, **settings: Any) -> None:
        self.model = model = make_model(**settings)
        torch.manual_seed(1)
        start = model.rssm.initial(NUM, torch.device("cpu")).map(lambda leaf: torch.rand_like(leaf))
        self.imagined: ImaginedBehavior = model.imagine_behavior(start, start.features, deterministic=False)
        self.first_continues = torch.rand(NUM)
        self.first_slow = torch.randn(NUM)
        self.valid = torch.ones(NUM, dtype=torch.bool)

    def losses(self) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        return imagination_losses(self.model, self.imagined, self.first_continues, self.first_slow, self.valid)


def returns_by_hand(model: DreamerV3, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return (returns, values, continues) `[H, N]`, step by step from the last (eq. 6 to 8)."""
    lam = model.config.return_lambda
    rewards = [model.read(model.reward, f) for f in features]
    continues = [torch.sigmoid(model.continuation(f)[:, 0]) for f in features]
    values = [model.read(model.value, f) for f in features]
    result = values[-1]
    returns = []
    for step in reversed(range(len(features) - 1)):
        result = rewards[step + 1] + continues[step + 1] * ((1 - lam) * values[step + 1] + lam * result)
        returns.append(result)
    return torch.stack(returns[::-1]), torch.stack(values[:-1]), torch.stack(continues)


KINDS = pytest.mark.parametrize("settings", [{}, {"action_type": "continuous"}], ids=["discrete", "continuous"])


@KINDS
def test_losses_by_hand(settings: dict[str, Any]):
    scene = Scene(**settings)
    model = scene.model.eval()
    model.return_low.fill_(-2.0)
    model.return_high.fill_(5.0)
    losses, first_returns, metrics = scene.losses()
    with torch.no_grad():
        features = scene.imagined.features
        returns, values, continues = returns_by_hand(model, features)
        weights, policy, value = scene.first_continues, [], []
        for step in range(HORIZON):
            if step:
                weights = weights * continues[step]
            params = model.actor(features[step])
            log_prob = model.actor.log_prob(params, scene.imagined.actions[step])
            advantage = (returns[step] - values[step]) / 7.0
            policy.append(-weights * (log_prob * advantage + 3e-4 * model.actor.entropy(params)))
            log_probs = torch.log_softmax(model.value(features[step]), -1)
            slow = model.read(model.slow_value, features[step]) if step else scene.first_slow
            value.append(
                weights * (twohot_loss(log_probs, returns[step], model.bins) + twohot_loss(log_probs, slow, model.bins))
            )
    assert torch.allclose(first_returns, returns[0], rtol=1e-4)
    assert torch.allclose(losses["policy"], torch.stack(policy).mean(0), rtol=1e-4, atol=1e-6)
    assert torch.allclose(losses["value"], torch.stack(value).mean(0), rtol=1e-4, atol=1e-6)
    assert torch.allclose(metrics["imagined_return"], returns.mean(), rtol=1e-4)
    assert metrics["return_range"] == 7


@KINDS
def test_each_loss_trains_its_own_network(settings: dict[str, Any]):
    scene = Scene(**settings)
    losses, _, metrics = scene.losses()
    assert not any(metric.requires_grad for metric in metrics.values())
    for name, network in (("policy", scene.model.actor), ("value", scene.model.value)):
        scene.model.zero_grad()
        losses[name].sum().backward(retain_graph=True)
        own = {id(parameter) for parameter in network.parameters()}
        for parameter in scene.model.parameters():
            assert (parameter.grad is not None) == (id(parameter) in own)


def test_the_range_of_returns_follows_slowly_and_only_in_training():
    scene = Scene(return_rate=0.5)
    model = scene.model
    with torch.no_grad():
        returns, _, _ = returns_by_hand(model, scene.imagined.features)
    low, high = torch.quantile(returns.flatten(), torch.tensor([0.05, 0.95]))
    scene.losses()
    assert torch.allclose(model.return_low, 0.5 * low, rtol=1e-4)
    assert torch.allclose(model.return_high, 0.5 * high, rtol=1e-4)
    model.eval()
    before = model.return_low.clone()
    scene.losses()
    assert torch.equal(model.return_low, before)


def test_starts_that_are_not_real_have_no_part_in_the_range():
    first, second = Scene(return_rate=1.0), Scene(return_rate=1.0)
    second.imagined.features[1][0] += 100
    first.valid[0] = second.valid[0] = False
    (_, _, first_metrics), (_, _, second_metrics) = first.losses(), second.losses()
    assert torch.equal(first.model.return_low, second.model.return_low)
    assert torch.equal(first.model.return_high, second.model.return_high)
    for name, value in first_metrics.items():
        assert torch.equal(value, second_metrics[name]), name


def test_small_returns_are_not_blown_up():
    """Advantages are divided by the range of returns, but by 1 at least."""
    scene = Scene()
    scene.model.eval()
    small = scene.losses()[2]["advantage"]
    scene.model.return_high.fill_(0.5)
    assert torch.equal(scene.losses()[2]["advantage"], small)
    scene.model.return_high.fill_(2.0)
    assert torch.allclose(scene.losses()[2]["advantage"], small / 2)


def two_step_rows(model: DreamerV3, **changes: Tensor) -> Rows:
    rows = align(make_batch(model.config, 1, 4), model.config)
    values = {name: getattr(rows, name).clone() for name in ("rewards", "is_last", "is_terminal")} | changes
    return Rows(**{**{name: getattr(rows, name) for name in rows.__dataclass_fields__}, **values})


def column(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


def test_replay_value_loss_by_hand():
    model = make_model(discount_horizon=4, return_lambda=0.5)
    rows = two_step_rows(model, rewards=column(9, 1, 2, 3))
    log_probs = torch.log_softmax(torch.randn(4, 1, 41), -1)
    slow, bootstrap = column(1, 2, 3, 4), column(5, 6, 7, 8)
    # With the discount 3/4: R_2 = 3 + 3/4 * 8 = 9; R_1 = 2 + 3/4 (7 + 9) / 2 = 8; R_0 = 1 + 3/4 (6 + 8) / 2 = 6.25
    loss = replay_value_loss(model, rows, log_probs, slow, bootstrap)
    for row, target in enumerate((6.25, 8.0, 9.0)):
        expected = sum(twohot_loss(log_probs[row], goal, model.bins) for goal in (torch.tensor([target]), slow[row]))
        assert torch.allclose(loss[row], expected), row
    assert loss.shape == (3, 1)


@pytest.mark.parametrize("terminal", [True, False])
def test_replay_value_loss_at_an_end(terminal: bool):
    """After an end for good there is nothing, after a time limit there is the last state's value; never more rows."""
    model = make_model(discount_horizon=4, return_lambda=0.5)
    end = torch.tensor([[False], [False], [True], [False]])
    rows = two_step_rows(model, rewards=column(9, 1, 2, 1e6), is_last=end, is_terminal=end & terminal)
    log_probs = torch.log_softmax(torch.randn(4, 1, 41), -1)
    slow, bootstrap = column(1, 2, 3, 4), column(5, 6, 7, 1e6)
    loss = replay_value_loss(model, rows, log_probs, slow, bootstrap)
    last = 2.0 if terminal else 2 + 0.75 * 7
    first = 1 + 0.75 * (6 + last) / 2
    for row, target in enumerate((first, last)):
        expected = sum(twohot_loss(log_probs[row], goal, model.bins) for goal in (torch.tensor([target]), slow[row]))
        assert torch.allclose(loss[row], expected), row
    assert loss[2] == 0  # from the last row of an episode nothing follows


def test_imagination_follows_the_policy():
    scene = Scene()
    imagined = scene.imagined
    assert [tuple(features.shape) for features in imagined.features] == [(NUM, 48)] * (HORIZON + 1)
    assert imagined.policy.shape == imagined.actions.shape == (HORIZON, NUM, 2)
    for step in range(HORIZON):
        params = scene.model.actor(imagined.features[step])
        assert torch.allclose(params, imagined.policy[step], atol=1e-6)
    assert imagined.policy.requires_grad
    assert not imagined.actions.requires_grad
    assert not any(features.requires_grad for features in imagined.features)
