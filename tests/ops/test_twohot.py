from __future__ import annotations

import math

import pytest
import torch

from worldline.ops.twohot import symexp, symexp_bins, symlog, symlog_bins, twohot_loss, twohot_mean


def test_symlog_by_hand():
    x = torch.tensor([0.0, math.e - 1, 1 - math.e, math.e**2 - 1])
    assert torch.allclose(symlog(x), torch.tensor([0.0, 1.0, -1.0, 2.0]), atol=1e-6)


def test_symexp_is_the_inverse_of_symlog():
    x = torch.tensor([-1e6, -3.5, -1e-3, 0.0, 1e-3, 3.5, 1e6], dtype=torch.float64)
    assert torch.allclose(symexp(symlog(x)), x, rtol=1e-12)
    assert torch.allclose(symlog(symexp(torch.tensor([-20.0, 20.0]))), torch.tensor([-20.0, 20.0]))


def test_gradients_of_symlog_and_symexp():
    # Not at zero, where the sign has none: the slope there is 0 rather than 1.
    x = torch.tensor([-3.0, -0.2, 0.1, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(symlog, x)
    assert torch.autograd.gradcheck(symexp, x)


@pytest.mark.parametrize("num_bins", [2, 3, 4, 41, 255])
def test_bins_are_symmetric_and_rising(num_bins: int):
    bins = symexp_bins(num_bins)
    assert len(bins) == num_bins
    assert torch.equal(bins, -bins.flip(0))
    # An even number of them has zero twice, as in the reference.
    assert (bins.unique().diff() > 0).all()
    assert len(bins.unique()) == (num_bins if num_bins % 2 or num_bins == 2 else num_bins - 1)
    assert torch.allclose(bins[-1], symexp(torch.tensor(20.0)))


def test_bins_by_hand():
    expected = torch.tensor([-(math.e**2 - 1), -(math.e - 1), 0.0, math.e - 1, math.e**2 - 1])
    assert torch.allclose(symexp_bins(5, limit=2.0), expected)


def test_one_bin_is_refused():
    with pytest.raises(ValueError, match="at least 2 bins; got 1"):
        symexp_bins(1)


@pytest.mark.parametrize("num_bins", [4, 255])
def test_uniform_probabilities_mean_exactly_zero(num_bins: int):
    """Bins are as large as 5e8: summed from one end to the other, rounding alone would be off by tens."""
    probs = torch.full((3, num_bins), 1 / num_bins)
    assert (twohot_mean(probs, symexp_bins(num_bins)) == 0).all()


def test_mean_by_hand():
    bins = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    probs = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    assert torch.allclose(twohot_mean(probs, bins), torch.tensor([0.0, 2.0]), atol=1e-7)
    even = torch.tensor([-2.0, -1.0, 1.0, 2.0])
    assert torch.allclose(twohot_mean(torch.tensor([0.5, 0.0, 0.25, 0.25]), even), torch.tensor(-0.25))


def test_loss_by_hand():
    bins = torch.tensor([-1.0, 0.0, 2.0])
    log_probs = torch.tensor([0.2, 0.5, 0.3]).log()
    target = torch.tensor([0.0, 0.5, -0.25, 2.0, -1.0])  # on a bin, a quarter up, a quarter down, on either end
    expected = [
        -math.log(0.5),
        -0.75 * math.log(0.5) - 0.25 * math.log(0.3),
        -0.75 * math.log(0.5) - 0.25 * math.log(0.2),
        -math.log(0.3),
        -math.log(0.2),
    ]
    assert torch.allclose(twohot_loss(log_probs.expand(5, 3), target, bins), torch.tensor(expected))


def test_targets_beyond_the_ends_count_as_the_ends():
    bins = torch.tensor([-1.0, 0.0, 2.0])
    log_probs = torch.tensor([0.2, 0.5, 0.3]).log().expand(2, 3)
    expected = torch.tensor([-math.log(0.2), -math.log(0.3)])
    assert torch.allclose(twohot_loss(log_probs, torch.tensor([-1e30, 1e30]), bins), expected)


@pytest.mark.parametrize("value", [-2500.0, -1.0, -1e-4, 0.0, 0.07, 1.0, 123.456])
def test_the_best_prediction_reads_back_as_the_target(value: float):
    """The gradient of the loss, softmax - code, is zero where the probabilities are the two-hot code."""
    bins = symexp_bins(255)
    logits = torch.zeros(1, 255, requires_grad=True)
    twohot_loss(torch.log_softmax(logits, -1), torch.tensor([value]), bins).sum().backward()
    code = 1 / 255 - logits.grad
    assert torch.allclose(twohot_mean(code.clamp(min=1e-30), bins), torch.tensor([value]), rtol=1e-3, atol=1e-4)


def test_gradients():
    bins = symexp_bins(7, limit=2.0)
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: twohot_mean(torch.softmax(x, -1), bins.double()), logits.detach().double().requires_grad_()
    )
    # softmax - code: what cross-entropy with the code gives. Half way between the fourth bin, 0, and the fifth.
    twohot_loss(torch.log_softmax(logits, -1), (bins[4] / 2).expand(5), bins).sum().backward()
    code = torch.tensor([0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0])
    assert torch.allclose(logits.grad, torch.softmax(logits.detach(), -1) - code, atol=1e-6)


def test_the_target_takes_no_gradient():
    target = torch.tensor([0.4], requires_grad=True)
    log_probs = torch.zeros(1, 3, requires_grad=True)
    twohot_loss(log_probs, target, torch.tensor([-1.0, 0.0, 2.0])).sum().backward()
    assert target.grad is None
    assert log_probs.grad is not None


def test_shapes_are_checked():
    with pytest.raises(AssertionError, match=r"\(2, 3\) do not match 4 bins"):
        twohot_mean(torch.zeros(2, 3), torch.zeros(4))
    with pytest.raises(AssertionError, match=r"\(2, 3\) do not match target \(3,\)"):
        twohot_loss(torch.zeros(2, 3), torch.zeros(3), torch.zeros(3))


@pytest.mark.parametrize("num_bins", [2, 100, 101])
def test_symlog_bins_are_even_and_symmetric(num_bins: int):
    bins = symlog_bins(num_bins, 10.0)
    assert len(bins) == num_bins
    assert torch.equal(bins, -bins.flip(0))
    torch.testing.assert_close(bins, torch.linspace(-10, 10, num_bins))
    assert twohot_mean(torch.full((num_bins,), 1 / num_bins), bins) == 0
