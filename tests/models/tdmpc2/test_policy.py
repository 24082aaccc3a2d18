from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from models.tdmpc2.tiny_tdmpc2 import make_config
from worldline.models.tdmpc2.policy import PolicyHead


def head(**changes: object) -> PolicyHead:
    torch.manual_seed(0)
    return PolicyHead(make_config(**changes))


def test_continuous_actions_by_hand():
    params = torch.tensor([[0.5, -1.0, 0.0, 100.0]])  # log deviations: the middle of -10 ... 2, and the top
    mean, log_std = head().normal(params)
    assert mean.tolist() == [[0.5, -1.0]]
    assert log_std.tolist() == [[-4.0, 2.0]]
    assert torch.equal(head().sample(params, None), torch.tanh(mean))
    noise = torch.tensor([[1.0, 0.5]])
    expected = torch.tanh(torch.tensor([[0.5 + math.exp(-4), -1 + 0.5 * math.exp(2)]]))
    torch.testing.assert_close(head().sample(params, noise), expected)


def test_continuous_entropy_is_minus_log_density_times_dimensions():
    torch.manual_seed(0)
    params, noise = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    mean, log_std = head().normal(params)
    density = Normal(mean, log_std.exp()).log_prob(mean + noise * log_std.exp()).sum(-1)
    torch.testing.assert_close(head().entropy(params, noise), -2 * density)


def test_the_references_scaled_entropy():
    """-log p * (s / (log p + 1e-8)), with log p after squashing and s the scaled log-density before it, is -s."""
    torch.manual_seed(0)
    params, noise = torch.randn(50, 4, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64)
    mean, log_std = head().normal(params)
    density = (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
    action = torch.tanh(mean + noise * log_std.exp())
    log_prob = density - torch.log(torch.relu(1 - action**2) + 1e-6).sum(-1)
    reference = -log_prob * (2 * density / (log_prob + 1e-8))
    torch.testing.assert_close(head().entropy(params, noise), reference, rtol=1e-6, atol=1e-6)


def test_masked_actions_are_zero_and_without_part_in_the_entropys_scale():
    torch.manual_seed(0)
    params, mask = torch.randn(1, 4), torch.tensor([[True, False]])
    action = head().sample(params, torch.ones(1, 2), mask)
    assert action[0, 1] == 0
    constant = 0.5 * math.log(2 * math.pi)
    log_std = head().normal(params)[1][0, 0]
    # The reference counts the constant of all dimensions, and scales by those that there are.
    expected = 1 * (0.5 + log_std + 2 * constant)
    torch.testing.assert_close(head().entropy(params, torch.ones(1, 2), mask)[0], expected)


def test_discrete_actions():
    policy = head(action_type="discrete", action_dim=3)
    params = torch.tensor([0.2, 0.5, 0.3]).log()
    assert policy.sample(params, None).tolist() == [0, 1, 0]
    assert policy.sample(params, torch.tensor(0.1)).tolist() == [1, 0, 0]
    expected = -sum(p * math.log(p) for p in (0.2, 0.5, 0.3))
    assert policy.entropy(params, None).item() == pytest.approx(expected)
    mask = torch.tensor([True, False, True])
    assert policy.sample(params, None, mask).tolist() == [0, 0, 1]
    assert policy.noise(torch.zeros(4, 5, 3)).shape == (4, 5)
    assert head().noise(torch.zeros(4, 5, 4)).shape == (4, 5, 2)
