"""Leave a model as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from worldline.seeding import isolated


@contextlib.contextmanager
def measuring(subject: object, *, seed: int) -> Iterator[None]:
    """Run the body without gradients, under its own seed, and with `subject` in evaluation mode if it is a module."""
    was_training = isinstance(subject, nn.Module) and subject.training
    if isinstance(subject, nn.Module):
        subject.eval()
    try:
        with isolated(seed), torch.no_grad():
            yield
    finally:
        if isinstance(subject, nn.Module):
            subject.train(was_training)
