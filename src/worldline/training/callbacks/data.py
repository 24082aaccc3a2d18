"""Keep the state of the data in the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from worldline.training.callbacks.base import Callback


class StatefulData(Protocol):
    """Data that is more than a function of (seed, step): `data.online.OnlineSampler`."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        ...


class DataCallback(Callback):
    """Saves `data` with every checkpoint and restores it when a run is resumed.

    A run resumed without its data's state would collect anew: give this callback whenever data is collected online.
    """

    def __init__(self, data: StatefulData) -> None:
        self.data = data

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the data."""
        return self.data.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the data."""
        self.data.load_state_dict(state)
