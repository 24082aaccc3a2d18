"""Heads: what they sample when their network is perfect, and what their losses count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from worldline.errors import ConfigError
from worldline.models.denoiser import DenoisingConfig
from worldline.models.heads import DiffusionHead, FlowHead, Head, RegressionHead
from worldline.ops.diffusion import cumulative_alphas, make_betas, noise_from_x0, velocity

CHUNKS = torch.tensor([[[0.5, -0.25]] * 3, [[-0.75, 1.0]] * 3])  # [2, H, A]


class PerfectNoise(nn.Module):
    """Knows the clean chunk, which the features are."""

    alpha_bar = cumulative_alphas(make_betas("cosine", 100))

    def forward(self, x: Tensor, level: Tensor, features: Tensor) -> Tensor:
        return noise_from_x0(x, features.view_as(x), self.alpha_bar[level])


class PerfectDiffusionVelocity(PerfectNoise):
    """Says v, of the noise that it knows."""

    def forward(self, x: Tensor, level: Tensor, features: Tensor) -> Tensor:
        clean = features.view_as(x)
        return velocity(clean, super().forward(x, level, features), self.alpha_bar[level])


class PerfectVelocity(nn.Module):
    def forward(self, x: Tensor, time: Tensor, features: Tensor) -> Tensor:
        return (features.view_as(x) - x) / (1 - time)[:, None, None].clamp(min=1e-6)


def heads() -> dict[str, Head]:
    noise: Any = PerfectNoise()
    v: Any = PerfectDiffusionVelocity()
    flow: Any = PerfectVelocity()
    return {
        "diffusion": DiffusionHead(noise, num_levels=100, num_steps=10, prediction="noise"),
        "one step of diffusion": DiffusionHead(noise, num_levels=100, num_steps=1, prediction="noise"),
        "diffusion by v": DiffusionHead(v, num_levels=100, num_steps=10, prediction="velocity"),
        "midpoint": FlowHead(flow, num_steps=5, solver="midpoint"),
        "euler": FlowHead(flow, num_steps=1, solver="euler"),
    }


@pytest.mark.parametrize("name", heads())
def test_a_perfect_network_finds_the_chunk(name: str):
    torch.manual_seed(0)
    head = heads()[name]
    found = head.sample(CHUNKS.flatten(1), torch.randn(2, 3, 2))
    # In float32, one step over all 100 levels divides by the root of the last abar.
    assert torch.allclose(found, CHUNKS, atol=2e-3)
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert float(head.loss(CHUNKS.flatten(1), CHUNKS, mask)) < 1e-4


def test_samples_stay_in_the_range_of_the_data():
    for name, head in heads().items():
        found = head.sample(3 * CHUNKS.flatten(1), torch.randn(2, 3, 2))
        assert found.abs().max() <= 1.0 + 1e-6, name


def test_a_regression_counts_real_rows_only():
    head = RegressionHead(4, 3, 2, units=8)
    features = torch.zeros(2, 4)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    mask = torch.tensor([[True, True, False], [False, False, False]])
    actions = torch.tensor([[[1.0, 0.0], [0.0, 0.5], [9.0, 9.0]], [[9.0, 9.0]] * 3])
    assert float(head.loss(features, actions, mask).detach()) == pytest.approx((0.5 + 0.25) / 2)
    assert torch.equal(head.sample(features, torch.randn(2, 3, 2)), torch.zeros(2, 3, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mlp_units": 4}, "mlp_units must be between"),
        ({"unet_widths": (12,)}, "unet_widths must be multiples of 8"),
        ({"network": "unet", "horizon": 18}, "horizon must be a multiple of 4"),
    ],
)
def test_networks_that_cannot_be(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        DenoisingConfig(**{"obs_shape": (1,), "action_dim": 1, **settings})
