from __future__ import annotations

import math

import pytest
import torch
from torch import distributions

from models.dreamerv3.tiny_dreamer import make_config
from worldline.models.dreamerv3.heads import ActionHead, Head

DISCRETE = {"action_dim": 3}
MULTI = {"action_dim": 5, "action_type": "multi_discrete", "action_sizes": (2, 3)}
CONTINUOUS = {"action_dim": 2, "action_type": "continuous"}
KINDS = pytest.mark.parametrize("settings", [DISCRETE, MULTI, CONTINUOUS], ids=["discrete", "multi", "continuous"])


def make_head(settings: dict) -> ActionHead:
    torch.manual_seed(0)
    return ActionHead(make_config(**settings))


def params_for(head: ActionHead, *leading: int) -> torch.Tensor:
    size = head.action_dim if head.choices else 2 * head.action_dim
    return torch.randn(*leading, size, generator=torch.Generator().manual_seed(1))


def test_a_head_with_scale_zero_begins_at_zero():
    torch.manual_seed(0)
    head = Head(6, 8, 2, 5, scale=0.0)
    output = head(torch.randn(3, 4, 6))
    assert output.shape == (3, 4, 5)
    assert (output == 0).all()


@KINDS
def test_the_policy_begins_almost_uniform(settings: dict):
    head = make_head(settings)
    config = make_config(**settings)
    params = head(torch.randn(7, config.deter + config.stoch * config.classes))
    assert params.abs().max() < 0.1
    assert params.abs().max() > 0
    assert head.randomness(head.entropy(params)).min() > 0.8


@KINDS
def test_log_prob_and_entropy_are_torchs(settings: dict):
    head = make_head(settings)
    params = params_for(head, 4, 6)
    if head.choices:
        parts = [distributions.OneHotCategorical(logits=part) for part in params.split(head.choices, -1)]
        samples = [part.sample() for part in parts]
        action = torch.cat(samples, -1)
        expected = sum(part.log_prob(sample) for part, sample in zip(parts, samples, strict=True))
        entropy = sum(part.entropy() for part in parts)
    else:
        mean, std = params.chunk(2, -1)
        normal = distributions.Normal(torch.tanh(mean), 0.1 + 0.9 * torch.sigmoid(std + 2))
        action = normal.sample()
        expected, entropy = normal.log_prob(action).sum(-1), normal.entropy().sum(-1)
    assert torch.allclose(head.log_prob(params, action), expected, atol=1e-5)
    assert torch.allclose(head.entropy(params), entropy, atol=1e-5)


@KINDS
def test_the_mode_is_the_likeliest_action(settings: dict):
    head = make_head(settings)
    params = params_for(head, 50)
    mode = head.sample(params, None)
    assert not mode.requires_grad
    for seed in range(20):
        noise = head.noise(50, device=torch.device("cpu"))
        assert noise.shape == (50, head.noise_dim)
        other = head.sample(params, noise)
        assert other.shape == (50, head.action_dim)
        assert (head.log_prob(params, other) <= head.log_prob(params, mode) + 1e-5).all(), seed


def test_samples_of_discrete_actions_are_one_hot_and_as_likely_as_they_say():
    head = make_head(MULTI)
    params = params_for(head, 1).expand(20_000, -1)
    torch.manual_seed(0)
    samples = head.sample(params, head.noise(20_000, device=torch.device("cpu")))
    assert (samples[:, :2].sum(-1) == 1).all()
    assert (samples[:, 2:].sum(-1) == 1).all()
    expected = torch.cat([torch.softmax(part[0], -1) for part in params.split((2, 3), -1)])
    assert torch.allclose(samples.mean(0), expected, atol=0.015)  # four standard errors
    # The parts are independent: each has noise of its own.
    both = (samples[:, 0] * samples[:, 2]).mean()
    assert both == pytest.approx(float(expected[0] * expected[2]), abs=0.015)


def test_samples_of_continuous_actions_by_hand():
    head = make_head(CONTINUOUS)
    params = torch.tensor([0.0, 100.0, -2.0, -100.0])  # means tanh: 0, 1; deviations 0.1 + 0.9 / 2 and 0.1
    action = head.sample(params, torch.tensor([1.0, -2.0]))
    assert torch.allclose(action, torch.tensor([0.55, 0.8]))


def test_deviations_stay_within_their_bounds():
    head = make_head(CONTINUOUS)
    low, high = (head._normal(torch.full((4,), value))[1] for value in (-1e3, 1e3))
    assert torch.allclose(low, torch.tensor(0.1))
    assert torch.allclose(high, torch.tensor(1.0))


def test_randomness_goes_from_zero_to_one():
    head = make_head(MULTI)
    assert head.randomness(head.entropy(torch.zeros(5))) == pytest.approx(1.0)
    assert head.randomness(head.entropy(torch.tensor([99.0, 0, 99, 0, 0]))) == pytest.approx(0.0, abs=1e-6)
    head = make_head(CONTINUOUS)
    assert head.randomness(head.entropy(torch.full((4,), 1e3))) == pytest.approx(1.0, abs=1e-5)
    assert head.randomness(head.entropy(torch.full((4,), -1e3))) == pytest.approx(0.0, abs=1e-5)


@KINDS
def test_gradients(settings: dict):
    head = make_head(settings)
    params = params_for(head, 3).double().requires_grad_()
    action = head.sample(params, None).flip(0)
    assert torch.autograd.gradcheck(lambda x: head.log_prob(x, action), params)
    assert torch.autograd.gradcheck(head.entropy, params)


def test_uniform_policies_have_the_entropy_of_their_choices():
    head = make_head(DISCRETE)
    assert head.entropy(torch.zeros(2, 3)).tolist() == pytest.approx([math.log(3)] * 2)
