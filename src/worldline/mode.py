"""Leave a model as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from worldline.seeding import isolated


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run the body with every module of `module` in evaluation mode; afterwards the modes are what they were."""
    modes = [(part, part.training) for part in module.modules() if part.training]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextlib.contextmanager
def measuring(subject: object, *, seed: int) -> Iterator[None]:
    """Run the body without gradients, under its own seed, and with `subject` in evaluation mode if it is a module.

    Afterwards the mode of every module in it, and torch's generators, are what they were.
    """
    evaluation = evaluating(subject) if isinstance(subject, nn.Module) else contextlib.nullcontext()
    with evaluation, isolated(seed), torch.no_grad():
        yield
