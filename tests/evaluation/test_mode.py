"""A measured model is left as it was found."""

import contextlib

import pytest
import torch

from worldline.evaluation.mode import measuring


@pytest.mark.parametrize("is_training", [True, False])
def test_mode_gradients_and_generator_are_put_back(is_training):
    model = torch.nn.Dropout().train(is_training)
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


def test_subjects_that_are_no_modules_are_fine():
    with measuring(object(), seed=0):
        assert not torch.is_grad_enabled()
