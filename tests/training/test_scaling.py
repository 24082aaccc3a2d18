"""The loss scale follows torch's rule, and never falls below 1."""

from __future__ import annotations

import math

import torch

from worldline.training import scaling
from worldline.training.scaling import LossScaler

CPU = torch.device("cpu")
ONE, INFINITE, NAN = torch.tensor(1.0), torch.tensor(math.inf), torch.tensor(math.nan)


def test_the_scale_halves_on_overflow_and_doubles_after_long_without(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(scaling, "_GROWTH_INTERVAL", 3)
    scaler = LossScaler(CPU)
    scales, overflows = [], []
    for norm in (INFINITE, ONE, ONE, NAN, ONE, ONE, ONE, ONE, ONE, ONE):
        overflows.append(scaler.update(norm).item())
        scales.append(math.log2(scaler.scale.item()))
    assert overflows == [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert scales == [15, 15, 15, 14, 14, 14, 15, 15, 15, 16]


def test_it_equals_torchs_own_rule() -> None:
    """`torch._amp_update_scale_` is what GradScaler calls."""
    ours = LossScaler(CPU)
    scale, growth = torch.full((), 2.0**16), torch.zeros((), dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5000):
        norm = INFINITE if torch.rand((), generator=generator) < 5e-4 else ONE
        found = ours.update(norm)
        torch._amp_update_scale_(scale, growth, found, 2.0, 0.5, 2000)
        assert torch.equal(ours.scale, scale)
    assert scale != 2.0**16


def test_the_scale_stays_at_least_1_and_its_state_is_restored() -> None:
    scaler = LossScaler(CPU)
    for _ in range(30):
        scaler.update(INFINITE)
    assert scaler.scale == 1.0
    scaler.update(ONE)
    other = LossScaler(CPU)
    other.load_state_dict({})
    assert other.scale == 2.0**16
    other.load_state_dict(scaler.state_dict())
    assert {name: value.item() for name, value in other.state_dict().items()} == {"scale": 1.0, "good_steps": 1.0}
