"""The one place that touches global random state.

Data order never uses it (samplers are functions of seed and step). What does is torch's default generator: dropout
has no other, so models draw all their noise from it, and the trainer seeds, saves and restores it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from worldline.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed torch's default generators: the CPU's and those of all accelerators, also of one that is used later only."""
    import torch

    torch.manual_seed(seed)


def rng_state() -> dict[str, Tensor]:
    """Return the state of torch's default generators, one uint8 tensor each: "cpu", and "cuda0", ..., "mps" if in use.

    CUDA is not started for it: before its first use it has no state, but a seed that waits for it.
    """
    import torch

    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_rng_state(states: dict[str, Tensor]) -> None:
    """Restore what `rng_state` returned. Accelerators that are not here any more are skipped.

    Raises:
        DataError: They are no states of generators.
    """
    import torch

    try:
        torch.set_rng_state(states["cpu"])
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                if f"cuda{index}" in states:
                    torch.cuda.set_rng_state(states[f"cuda{index}"], index)
        if "mps" in states and torch.backends.mps.is_available():
            torch.mps.set_rng_state(states["mps"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise DataError(
            f"The saved state of torch's generators is damaged ({error!r}). Resume from an older checkpoint."
        ) from error


@contextlib.contextmanager
def continuing(states: dict[str, Tensor]) -> Iterator[None]:
    """Run the body with torch's default generators as `states` has them, and put into it how they were afterwards.

    They are left as they were. What is done often does so with a stream of its own in a tenth of the time that seeding
    takes. A generator that `states` lacks, because its accelerator was not in use, goes on from where it is.
    """
    before = rng_state()
    set_rng_state(states)
    try:
        yield
    finally:
        states.update(rng_state())
        set_rng_state(before)


@contextlib.contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Run the body, somebody else's code on the CPU, under its own seed of Python's, NumPy's and torch's generators.

    All of them are left as they were. Accelerators' generators are not touched, which makes it cheap.
    """
    import torch

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - it is not ours
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


@contextlib.contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Run the body under its own seed and leave torch's default generators as they were, on every device."""
    import torch

    before, waiting_seed = rng_state(), torch.initial_seed()
    seed_everything(seed)
    try:
        yield
    finally:
        # CUDA that the body is the first to use, or that nobody has used yet, has no state in `before`: it gets the
        # seed again that waited for it.
        seed_everything(waiting_seed)
        set_rng_state(before)
