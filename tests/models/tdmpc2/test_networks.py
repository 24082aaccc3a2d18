from __future__ import annotations

from typing import Any

import pytest
import torch

from models.tdmpc2.tiny_tdmpc2 import make_config, make_model
from worldline.models.tdmpc2.networks import Encoder, Networks, QEnsemble, random_shift


def test_shifting_repeats_the_border():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    shifted = random_shift(image, torch.tensor([[1], [-2]]))
    assert shifted[0, 0].tolist() == [[3, 3, 3], [6, 6, 6], [6, 6, 6]]
    assert torch.equal(random_shift(image, torch.zeros(2, 1, dtype=torch.long)), image)


def test_each_image_has_its_own_shift():
    images = torch.randn(2, 3, 5, 4)
    both = random_shift(images, torch.tensor([[1, 0], [0, 2]]))
    assert torch.equal(both[:1], random_shift(images[:1], torch.tensor([[1], [0]])))
    assert torch.equal(both[1:], random_shift(images[1:], torch.tensor([[0], [2]])))


@pytest.mark.parametrize(
    ("obs_shape", "is_joined"),
    [
        ((5,), False),
        ((3, 64, 64), True),  # 4 channels of 4 x 4 are 64, the latent state has 16
        ({"camera": (20, 30, 3), "state": (2, 2)}, True),
        ({"a": (3,), "b": (1,)}, False),
    ],
)
def test_latent_states_are_on_simplices(obs_shape: Any, is_joined: bool):
    torch.manual_seed(0)
    config = make_config(obs_shape=obs_shape)
    encoder = Encoder(config)
    assert (encoder.join is not None) == is_joined
    obs = {name: torch.rand(6, *shape) for name, shape in config.obs_shapes.items()}
    latent = encoder(obs, None)
    assert latent.shape == (6, 16)
    torch.testing.assert_close(latent.view(6, 2, 8).sum(-1), torch.ones(6, 2))


def test_the_published_image_encoder_has_no_joining_layer():
    encoder = Encoder(make_config(obs_shape=(9, 64, 64), latent=512, image_channels=32))
    assert encoder.join is None
    assert [tuple(conv.weight.shape) for conv in encoder.image.convs] == [
        (32, 9, 7, 7),
        (32, 32, 5, 5),
        (32, 32, 3, 3),
        (32, 32, 3, 3),
    ]


def test_images_are_shifted_in_training_only_and_bytes_are_scaled():
    torch.manual_seed(0)
    encoder = Encoder(make_config(obs_shape=(1, 64, 64)))
    image = torch.randint(256, (8, 1, 64, 64), dtype=torch.uint8)
    assert not torch.equal(encoder({"obs": image}, None), encoder({"obs": image}, None))
    encoder.eval()
    expected = encoder({"obs": image}, None)
    assert torch.equal(encoder({"obs": image}, None), expected)
    torch.testing.assert_close(encoder({"obs": image.float() / 255}, None), expected)


def test_members_of_the_ensemble():
    model = make_model()
    ensemble: QEnsemble = model.net.q.eval()
    x = torch.randn(4, 5, 18)
    logits = ensemble(x)
    assert logits.shape == (3, 4, 5, 101)
    assert torch.equal(ensemble(x, which=[2, 0]), logits[[2, 0]])
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("frozen", [False, True])
def test_members_that_a_tensor_names_are_those_that_numbers_name(frozen: bool):
    model = make_model()
    ensemble: QEnsemble = model.net.q.eval()
    x, grad = torch.randn(4, 5, 18), torch.randn(2, 4, 5, 101)
    with torch.no_grad():
        for parameter in ensemble.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    found = []
    for which in ([2, 0], torch.tensor([2, 0])):
        leaf = x.clone().requires_grad_()
        logits = ensemble(leaf, which=which, frozen=frozen)
        leaves = [leaf, *ensemble.parameters()]
        found.append([logits, *torch.autograd.grad((logits * grad).sum(), leaves, materialize_grads=True)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert found[0][1].any()
    assert any(gradient.any() for gradient in found[0][2:]) != frozen


def test_values_are_zero_at_first_and_targets_equal():
    net = Networks(make_config())
    net.train()
    x = torch.randn(50, 18)
    assert not net.read(net.q(x)).any()
    assert not net.target_q.training
    for own, target in zip(net.q.parameters(), net.target_q.parameters(), strict=True):
        assert torch.equal(own, target)
        assert not target.requires_grad


def test_reading_is_the_inverse_of_coding():
    net = Networks(make_config())
    values = torch.tensor([-1000.0, -1.0, 0.0, 0.5, 30.0])
    weights = (1 - (net.coded(values)[:, None] - net.bins).abs() / 0.2).clamp(min=0)  # two-hot, by hand
    torch.testing.assert_close(net.read((weights + 1e-30).log()), values, rtol=1e-4, atol=1e-4)


def test_two_of_the_ensemble_at_random():
    torch.manual_seed(0)
    net = Networks(make_config(num_q=5))
    pairs = [net.pair(deterministic=False) for _ in range(300)]
    assert all(len(set(pair)) == 2 for pair in pairs)
    assert {frozenset(pair) for pair in pairs} == {frozenset((i, j)) for i in range(5) for j in range(i)}
    assert net.pair(deterministic=True) == [0, 1]
    assert Networks(make_config(num_q=2)).pair(deterministic=False) == [0, 1]
