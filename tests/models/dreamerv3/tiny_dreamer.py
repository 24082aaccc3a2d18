"""Small DreamerV3 models, and batches for them."""

from __future__ import annotations

from typing import Any

import torch

from worldline.batch import Batch
from worldline.models.dreamerv3 import DreamerV3, DreamerV3Config

SETTINGS: dict[str, Any] = {
    "deter": 32,
    "hidden": 8,
    "stoch": 4,
    "classes": 4,
    "blocks": 4,
    "depth": 2,
    "units": 16,
    "num_bins": 41,
    "imagination_horizon": 3,
}


def make_config(**settings: Any) -> DreamerV3Config:
    return DreamerV3Config(**{"obs_shape": (3,), "action_dim": 2, **SETTINGS, **settings})


def make_model(*, seed: int = 0, **settings: Any) -> DreamerV3:
    """Return a model whose every parameter was moved, so that no layer is at its zero initialisation."""
    torch.manual_seed(seed)
    model = DreamerV3(make_config(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_obs(config: DreamerV3Config, *leading: int, generator: torch.Generator) -> Any:
    """Return noise of the shapes that `config` says: vectors are normal, images uint8."""
    named = {
        name: torch.randint(0, 256, (*leading, *shape), generator=generator, dtype=torch.uint8)
        if len(shape) == 3
        else torch.randn(*leading, *shape, generator=generator)
        for name, shape in config.obs_shapes.items()
    }
    return named if isinstance(config.obs_shape, dict) else named["obs"]


def make_actions(config: DreamerV3Config, *leading: int, generator: torch.Generator) -> torch.Tensor:
    """Return random actions `[*leading, A]`."""
    if not config.choices:
        return torch.rand(*leading, config.action_dim, generator=generator) * 2 - 1
    parts = [
        torch.nn.functional.one_hot(torch.randint(0, count, leading, generator=generator), count).float()
        for count in config.choices
    ]
    return torch.cat(parts, -1)


def make_batch(config: DreamerV3Config, num_windows: int = 4, length: int = 5, *, seed: int = 0) -> Batch:
    """Return windows from the middle of episodes, the first one from its start."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_windows, length)
    real = torch.ones(shape, dtype=torch.bool)
    is_first = torch.zeros(shape, dtype=torch.bool)
    is_first[0, 0] = True
    return Batch(
        obs=make_obs(config, *shape, generator=generator),
        actions=make_actions(config, *shape, generator=generator),
        rewards=torch.randn(shape, generator=generator),
        terminations=~real,
        is_first=is_first,
        step_mask=real,
        obs_mask=real,
    )
