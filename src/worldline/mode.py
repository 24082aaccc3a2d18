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
    modes = [(module, module.training) for module in subject.modules()] if isinstance(subject, nn.Module) else []
    for module, _ in modes:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def measuring(subject: object, *, seed: int) -> Iterator[None]:
    """Do what `evaluating` does, under a seed of the body's own.

    Afterwards torch's generators are what they were, too.
    """
    with evaluating(subject), isolated(seed):
        yield
