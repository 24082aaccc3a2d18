"""Data sets whose samples are dicts: recorded trajectories, and random numbers in their place."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

__all__ = ["INSTRUCTIONS", "DummyTrajectoryDataset"]

INSTRUCTIONS = (
    "reach the target",
    "pick up the red cube",
    "place the cube on the plate",
    "open the gripper",
    "push the block to the left",
)


class DummyTrajectoryDataset(Dataset[dict[str, Any]]):
    """Random states and actions, the same for one seed: to see that things fit together.

    A sample is `{"observations": {"state": [obs_dim]}, "actions": [action_dim]}`, both float32 from a standard normal
    distribution. Where asked for it has `observations["image"]`, float32 `[3, H, W]` in [0, 1], and "language", one of
    five instructions in turn.
    """

    def __init__(
        self,
        num_samples: int = 1000,
        obs_dim: int = 20,
        action_dim: int = 4,
        image_size: tuple[int, int] = (128, 128),
        include_image: bool = False,
        include_language: bool = False,
        seed: int = 42,
    ) -> None:
        generator = np.random.default_rng(seed)
        self._states = torch.from_numpy(generator.standard_normal((num_samples, obs_dim), dtype=np.float32))
        self._actions = torch.from_numpy(generator.standard_normal((num_samples, action_dim), dtype=np.float32))
        self._image_shape = (3, *image_size) if include_image else None
        self._include_language = include_language
        self._seed = seed

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]  # from the end where it is negative; beyond either end an error
        observations = {"state": self._states[index]}
        if self._image_shape is not None:
            # Made when they are asked for: all of them would take hundreds of megabytes.
            pixels = np.random.default_rng((self._seed, index)).random(self._image_shape, dtype=np.float32)
            observations["image"] = torch.from_numpy(pixels)
        sample: dict[str, Any] = {"observations": observations, "actions": self._actions[index]}
        if self._include_language:
            sample["language"] = INSTRUCTIONS[index % len(INSTRUCTIONS)]
        return sample
