"""Leave a model as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from worldline.seeding import isolated


@contextlib.contextmanager
def evaluating(subject: object) -> Iterator[None]:
    """Run the body without gradients, and with `subject` in evaluation mode if it is a module.

    Afterwards the mode of every module in it is what it was.
    """
    trained = [part for part in subject.modules() if part.training] if isinstance(subject, nn.Module) else []
    for module in trained:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in trained:
            module.training = True


@contextlib.contextmanager
def measuring(subject: object, *, seed: int) -> Iterator[None]:
    """Do what `evaluating` does, under a seed of the body's own.

    Afterwards torch's generators are what they were, too.
    """
    with evaluating(subject), isolated(seed):
        yield
