from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, distributions

from worldline.ops.distributions import (
    bernoulli_loss,
    categorical_entropy,
    categorical_kl,
    categorical_sample,
    mix_uniform,
    normal_entropy,
    normal_log_prob,
    softmax,
    squashed_normal_log_prob,
)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


# Up to 8 classes the softmax is computed part by part, above by torch.
@pytest.mark.parametrize("classes", [1, 4, 8, 9, 32])
def test_softmax_is_torchs(classes: int):
    logits = noise(3, 2, classes).requires_grad_()
    assert torch.allclose(softmax(logits), torch.softmax(logits, -1), rtol=1e-12)
    assert torch.autograd.gradcheck(softmax, logits)


def test_softmax_of_large_logits():
    assert torch.equal(softmax(torch.tensor([1e4, -1e4, 1e4])), torch.tensor([0.5, 0.0, 0.5]))


@pytest.mark.parametrize("classes", [4, 16])
def test_uniform_mix(classes: int):
    logits = noise(3, classes).requires_grad_()
    mixed = mix_uniform(logits, 0.1)
    assert torch.allclose(mixed, 0.9 * torch.softmax(logits, -1) + 0.1 / classes)
    assert torch.allclose(mixed.sum(-1), torch.ones(3, dtype=torch.float64))
    assert torch.equal(mix_uniform(logits, 0.0), softmax(logits))
    assert torch.autograd.gradcheck(lambda x: mix_uniform(x, 0.1), logits)


def test_the_mix_bounds_every_probability():
    assert mix_uniform(torch.tensor([1e4, 0.0, 0.0, 0.0]), 0.01)[1] == pytest.approx(0.0025)


def test_sampling_by_hand():
    probs = torch.tensor([0.2, 0.0, 0.5, 0.3])
    uniform = torch.tensor([0.0, 0.19, 0.2, 0.69, 0.71, 0.999999])
    samples = categorical_sample(probs.expand(6, 4), uniform)
    assert samples.argmax(-1).tolist() == [0, 0, 2, 2, 3, 3]  # the class of no probability is never drawn
    assert (samples.sum(-1) == 1).all()


def test_the_mode():
    probs = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
    assert categorical_sample(probs, None).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_sampling_of_what_rounding_left_short_of_one():
    probs = torch.full((1, 3), 0.333)
    assert categorical_sample(probs, torch.tensor([0.9999999])).tolist() == [[0, 0, 1]]


def test_samples_are_distributed_as_asked():
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4])
    uniform = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    frequencies = categorical_sample(probs.expand(100_000, 4), uniform).mean(0)
    assert torch.allclose(frequencies, probs, atol=0.006)  # four standard errors


def test_samples_take_no_gradient():
    probs = torch.tensor([[0.2, 0.8]], requires_grad=True)
    assert not categorical_sample(probs, torch.tensor([0.5])).requires_grad
    assert not categorical_sample(probs, None).requires_grad


def test_noise_of_another_shape_is_refused():
    with pytest.raises(AssertionError, match=r"uniform \(2,\) for probs \(3, 4\)"):
        categorical_sample(torch.zeros(3, 4), torch.zeros(2))


def test_divergence_and_entropy_by_hand():
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert categorical_kl(p, q) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert categorical_kl(q, q) == 0
    assert categorical_entropy(p) == pytest.approx(math.log(2))
    assert categorical_entropy(torch.tensor([0.0, -1e4])) == 0  # certain


def test_divergence_and_entropy_are_torchs():
    p, q = noise(2, 3, 5).log_softmax(-1)
    ours, theirs = (
        categorical_kl(p, q),
        distributions.kl_divergence(distributions.Categorical(logits=p), distributions.Categorical(logits=q)),
    )
    assert ours.shape == (3,)
    assert torch.allclose(ours, theirs)
    assert torch.allclose(categorical_entropy(p), distributions.Categorical(logits=p).entropy())


def test_gradients_of_divergence_and_entropy():
    p, q = (part.clone().requires_grad_() for part in noise(2, 3, 5))
    assert torch.autograd.gradcheck(lambda x, y: categorical_kl(x.log_softmax(-1), y.log_softmax(-1)), (p, q))
    assert torch.autograd.gradcheck(lambda x: categorical_entropy(x.log_softmax(-1)), p)


def test_normal_by_hand():
    one = torch.tensor(1.0)
    assert normal_log_prob(torch.tensor(0.0), torch.tensor(0.0), one) == pytest.approx(-0.9189385)
    assert normal_log_prob(torch.tensor(3.0), one, torch.tensor(2.0)) == pytest.approx(-0.9189385 - 0.5 - math.log(2))
    assert normal_entropy(one) == pytest.approx(0.5 * (1 + math.log(2 * math.pi)))


def test_normal_is_torchs():
    value, mean, log_std = (part.clone().requires_grad_() for part in noise(3, 7))
    normal = distributions.Normal(mean, log_std.exp())
    assert torch.allclose(normal_log_prob(value, mean, log_std.exp()), normal.log_prob(value))
    assert torch.allclose(normal_entropy(log_std.exp()), normal.entropy())
    assert torch.autograd.gradcheck(lambda v, m, s: normal_log_prob(v, m, s.exp()), (value, mean, log_std))
    assert torch.autograd.gradcheck(lambda s: normal_entropy(s.exp()), log_std)


def test_bernoulli_by_hand():
    logits = torch.tensor([0.0, 0.0, math.log(3), math.log(3)])
    target = torch.tensor([1.0, 0.5, 1.0, 0.0])
    expected = torch.tensor([math.log(2), math.log(2), -math.log(0.75), -math.log(0.25)])
    assert torch.allclose(bernoulli_loss(logits, target), expected)


def test_bernoulli_of_large_logits_and_its_gradient():
    """The gradient is sigmoid(logit) - target, also where the probability rounds to 0 or 1."""
    logits = torch.tensor([-200.0, 200.0, 0.3], requires_grad=True)
    target = torch.tensor([1.0, 0.25, 0.5])
    loss = bernoulli_loss(logits, target)
    loss.sum().backward()
    assert torch.allclose(loss[:2], torch.tensor([200.0, 150.0]))
    assert torch.allclose(logits.grad, torch.sigmoid(logits.detach()) - target)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.8, -2.0), (3.0, 0.5), (-9.0, 1.0)])
def test_the_density_of_a_squashed_normal(mean: float, log_std: float):
    values = torch.linspace(-0.98, 0.98, 9, dtype=torch.float64)
    squashed = distributions.TransformedDistribution(
        distributions.Normal(torch.tensor(mean, dtype=torch.float64), math.exp(log_std)),
        distributions.TanhTransform(),
    )
    means, log_stds = torch.full_like(values, mean), torch.full_like(values, log_std)
    found = squashed_normal_log_prob(values, means, log_stds, edge=0.01)
    torch.testing.assert_close(found, squashed.log_prob(values))


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.8, -2.0), (3.0, 0.5), (-2.0, -1.0), (6.0, -1.0)])
def test_a_squashed_normal_integrates_to_one_with_its_edges(mean: float, log_std: float):
    # The middles of a million pieces
    values = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 500_000 - 1
    log_prob = squashed_normal_log_prob(values, torch.tensor(mean).double(), torch.tensor(log_std).double(), edge=0.01)
    assert float(log_prob.exp().mean() * 2) == pytest.approx(1.0, abs=1e-5)


def test_actions_at_their_bounds_are_finite_and_pull_the_mean():
    values = torch.tensor([1.0, -1.0, 1.0, -1.0])
    mean = torch.tensor([0.0, 0.0, -80.0, 80.0], requires_grad=True)
    log_prob = squashed_normal_log_prob(values, mean, torch.full((4,), -3.0), edge=0.01)
    assert log_prob.isfinite().all()
    (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
    assert gradient.isfinite().all()
    assert (gradient * values > 0).all()
    # A normal that lies beyond the bound altogether has all its mass in the edge.
    far = squashed_normal_log_prob(torch.ones(1), torch.full((1,), 50.0), torch.zeros(1), edge=0.01)
    assert float(far) == pytest.approx(math.log(1 / 0.01), abs=1e-6)


def test_gradients_of_a_squashed_normal():
    values = torch.tensor([-1.0, -0.995, -0.3, 0.5, 0.999, 1.0], dtype=torch.float64)
    mean, log_std = noise(6).requires_grad_(), (noise(6) * 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, s: squashed_normal_log_prob(values, m, s, edge=0.01), (mean, log_std))
