from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldline.nn.velocity import VelocityNet


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(dims: int = 2, units: int = 16) -> VelocityNet:
    torch.manual_seed(0)
    net = VelocityNet(dims, 3, units=units, layers=3, time_features=8)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize(("rows", "units"), [(1, 16), (7, 16), (300, 64)])
@pytest.mark.parametrize("dims", [1, 2, 5])
def test_velocity_and_divergence_are_those_of_autograd(dims: int, rows: int, units: int):
    net = network(dims, units)
    x, context, t = noise(rows, dims) * 3, noise(rows, 3, seed=1), torch.tensor(0.3)  # some x beyond the range
    x[0] /= 10
    expected = net(x, t.expand(rows), context)

    jacobians = jacobians_of(net, x, t, context)
    with torch.no_grad():
        offsets, encoded = net.offsets(t).unbind(), net.encode(context)
        field = net.with_divergence(encoded)
        velocity, divergence = field(x, offsets)
        field(x + 1, offsets)  # has the same memory, and leaves what came before as it was
        assert torch.allclose(velocity, expected, atol=1e-5)
        assert torch.allclose(net.velocity(x, offsets, encoded), expected, atol=1e-5)
    assert torch.allclose(divergence, jacobians.diagonal(dim1=1, dim2=2).sum(-1), atol=1e-5)
    assert (x.abs() > 4).any() or rows == 1
    assert divergence.abs().max() > 0.001


def jacobians_of(net: VelocityNet, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """Return the Jacobians `[N, D, D]` by one backward pass for each velocity."""
    x = x.clone().requires_grad_()
    velocity = net(x, t.expand(len(x)), context)
    rows = [torch.autograd.grad(velocity[:, dim].sum(), x, retain_graph=True)[0] for dim in range(x.shape[1])]
    return torch.stack(rows, 1)


def test_beyond_the_range_nothing_changes():
    net = network()
    net.set_range(torch.tensor([-1.0, -9.0]), torch.tensor([6.0, 1.0]))
    assert net.low.tolist() == [-4.0, -9.0]
    assert net.high.tolist() == [6.0, 4.0]
    edge, far = torch.tensor([[6.0, -9.0]]), torch.tensor([[1e6, -1e6]])
    t, context = torch.tensor([0.5]), noise(1, 3)
    assert torch.equal(net(edge, t, context), net(far, t, context))
    assert not torch.allclose(net(edge, t, context), net(edge - 0.1, t, context))


def test_every_parameter_gets_a_gradient():
    net = network()
    net(noise(5, 2), torch.rand(5), noise(5, 3)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
