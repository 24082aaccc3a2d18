"""The search for the nearest allowed command, where the allowed set is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldline.models.shields.projection import nearest_allowed

LOW = torch.tensor([-100.0, -torch.inf])


def discs(*parts: tuple[float, float, float]):
    """Return the excess of the union of discs (x, y, radius)."""
    centres, radii = torch.tensor(parts)[:, :2], torch.tensor(parts)[:, 2]

    def excess(points: Tensor) -> Tensor:
        return ((points[..., None, :] - centres).norm(dim=-1) - radii).amin(-1)

    return excess


def test_an_anchor_that_is_further_may_lead_nearer():
    """The anchor at (0, 1) is nearer, but its disc ends 8.9 from the command; that of the other one ends at 8."""
    excess = discs((0.0, 1.0, 0.1), (20.0, 10.0, 12.0))
    command, anchors = torch.tensor([[0.0, 10.0]]), torch.tensor([[[0.0, 1.0], [20.0, 10.0]]])
    found = nearest_allowed(excess, command, anchors, LOW, num_steps=20, step_size=0.1)
    assert torch.allclose(found, torch.tensor([[8.0, 10.0]]), atol=0.03)


@pytest.mark.parametrize("command", [(0.5, 0.5), (3.0, 4.0), (-3.0, 0.0)])
def test_of_a_disc_it_is_the_point_on_the_way_to_its_centre(command: tuple[float, float]):
    wanted = torch.tensor([command])
    anchors = torch.tensor([[[0.0, 0.9], [0.9, 0.0], [5.0, 5.0]]])  # the last one is not allowed
    found = nearest_allowed(discs((0.0, 0.0, 1.0)), wanted, anchors, LOW, num_steps=40, step_size=0.1)
    assert torch.allclose(found, wanted / wanted.norm().clamp(min=1.0), atol=0.03)
