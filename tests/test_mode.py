"""A measured model is left as it was found."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from worldline.mode import evaluating, measuring


@pytest.mark.parametrize("is_training", [True, False])
def test_mode_gradients_and_generator_are_put_back(is_training: bool):
    model = nn.Dropout().train(is_training)
    before = torch.get_rng_state()
    with contextlib.suppress(KeyboardInterrupt), measuring(model, seed=3):
        assert not model.training
        assert not torch.is_grad_enabled()
        assert torch.initial_seed() == 3
        torch.rand(1)
        raise KeyboardInterrupt
    assert model.training == is_training
    assert torch.is_grad_enabled()
    assert torch.equal(before, torch.get_rng_state())


def test_the_mode_of_every_module_is_put_back():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    model[1].eval()
    with measuring(model, seed=0):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False, False]


def test_subjects_that_are_no_modules_are_fine():
    with measuring(object(), seed=0):
        assert not torch.is_grad_enabled()


def test_evaluating_leaves_the_generator_running() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2).eval())
    torch.manual_seed(0)
    first = torch.rand(1)
    torch.manual_seed(0)
    with evaluating(model):
        assert not model[0].training
        assert not torch.is_grad_enabled()
        assert torch.equal(torch.rand(1), first)
    assert [module.training for module in model] == [True, False]
    assert torch.is_grad_enabled()
