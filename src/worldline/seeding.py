"""The one place that touches global random state.

Data order never uses it (samplers are functions of seed and step). What does is torch's default generator: dropout
has no other, so models draw all their noise from it, and the trainer seeds, saves and restores it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed torch's default generators (CPU and accelerators)."""
    import torch

    torch.manual_seed(seed)


def rng_state() -> dict[str, Tensor]:
    """Return the state of torch's default generators, one uint8 tensor each."""
    import torch

    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_rng_state(states: dict[str, Tensor]) -> None:
    """Restore what `rng_state` returned. Accelerators that are not here any more are skipped."""
    import torch

    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda{index}"], index)


@contextlib.contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Run the body under its own seed and leave torch's default generators as they were."""
    before = rng_state()
    seed_everything(seed)
    try:
        yield
    finally:
        set_rng_state(before)
