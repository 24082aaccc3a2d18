from __future__ import annotations

import pytest
import torch

from worldline.ops.returns import lambda_return


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]  # [H, 1]


def test_by_hand():
    # R_1 = 2 + 0.5 (0.5 * 20 + 0.5 * 20) = 12; R_0 = 1 + 0.5 (0.5 * 10 + 0.5 * 12) = 6.5
    returns = lambda_return(column(1, 2), column(0.5, 0.5), column(10, 20), torch.tensor([20.0]), mixing=0.5)
    assert torch.equal(returns, column(6.5, 12))


def test_no_mixing_is_one_step():
    returns = lambda_return(column(1, 2), column(0.5, 0.5), column(10, 20), torch.tensor([99.0]), mixing=0.0)
    assert torch.equal(returns, column(1 + 5, 2 + 10))


def test_full_mixing_is_the_discounted_sum():
    returns = lambda_return(column(1, 2, 4), column(0.5, 0.5, 0.5), column(7, 7, 7), torch.tensor([8.0]), mixing=1.0)
    assert torch.equal(returns, column(1 + 1 + 1 + 1, 2 + 2 + 2, 4 + 4))


def test_nothing_crosses_an_end():
    def returns(last_reward: float, bootstrap: float) -> torch.Tensor:
        return lambda_return(
            column(1, 2, last_reward), column(0.9, 0, 0.9), column(5, 6, 7), torch.tensor([bootstrap]), mixing=0.95
        )

    first, second = returns(3, 4), returns(-1e9, 1e9)
    assert torch.equal(first[:2], second[:2])
    assert first[1] == 2
    assert not torch.equal(first[2], second[2])


def test_mixing_by_element():
    """Mixing of zero at one step puts all weight on the value there, whatever follows."""
    mixing = column(0.95, 0, 0.95)
    returns = lambda_return(column(1, 2, 3), column(1, 1, 1), column(5, 6, 7), torch.tensor([8.0]), mixing=mixing)
    assert torch.allclose(returns, column(1 + 0.05 * 5 + 0.95 * 8, 2 + 6, 3 + 0.05 * 7 + 0.95 * 8))


def test_one_step():
    assert torch.equal(lambda_return(column(1), column(0.5), column(4), torch.tensor([4.0]), mixing=0.3), column(3))


def test_trajectories_do_not_mix():
    generator = torch.Generator().manual_seed(0)
    rewards, continues, values = torch.rand(3, 5, 2, generator=generator)
    both = lambda_return(rewards, continues, values, values[-1], mixing=0.9)
    for index in range(2):
        one = [tensor[:, index : index + 1] for tensor in (rewards, continues, values)]
        assert torch.equal(lambda_return(*one, one[2][-1], mixing=0.9), both[:, index : index + 1])


def test_gradients():
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(4, 3, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(4)]
    bootstrap = torch.rand(3, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda r, c, v, m, b: lambda_return(r, c, v, b, mixing=m), (*inputs, bootstrap))


def test_shapes_are_checked():
    three = torch.zeros(3, 2)
    with pytest.raises(AssertionError, match=r"must be \[H, B\]; got \(3,\)"):
        lambda_return(torch.zeros(3), torch.zeros(3), torch.zeros(3), torch.zeros(()), mixing=0.5)
    with pytest.raises(AssertionError, match=r"continues \(2, 2\)"):
        lambda_return(three, torch.zeros(2, 2), three, torch.zeros(2), mixing=0.5)
    with pytest.raises(AssertionError, match=r"bootstrap must be \(2,\); got \(3,\)"):
        lambda_return(three, three, three, torch.zeros(3), mixing=0.5)
