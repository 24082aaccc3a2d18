"""A small TD-MPC2, and batches for it."""

from __future__ import annotations

from typing import Any

import torch

from worldline.batch import Batch
from worldline.models.tdmpc2 import TDMPC2, TDMPC2Config

TINY: dict[str, Any] = {
    "obs_shape": (3,),
    "action_dim": 2,
    "action_type": "continuous",
    "latent": 16,
    "encoder_units": 16,
    "units": 24,
    "image_channels": 4,
    "num_q": 3,
    "plan_samples": 24,
    "plan_elites": 6,
    "plan_policy_samples": 4,
    "plan_iterations": 2,
}


def make_config(**changes: Any) -> TDMPC2Config:
    return TDMPC2Config(**(TINY | changes))


def make_model(*, seed: int = 0, moved: bool = True, **changes: Any) -> TDMPC2:
    """Build a model; `moved` takes its heads from their zero initialisation."""
    torch.manual_seed(seed)
    model = TDMPC2(make_config(**changes))
    if moved:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_batch(config: TDMPC2Config, num_windows: int = 4, length: int = 4, *, seed: int = 0) -> Batch:
    """Return windows of noise in the middle of episodes; of several tasks, tasks in turn."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_windows, length)
    obs = {
        name: torch.randint(256, (*shape, *size), generator=generator, dtype=torch.uint8)
        if name in config.images
        else torch.randn(*shape, *size, generator=generator)
        for name, size in config.obs_shapes.items()
    }
    actions = torch.rand(*shape, config.action_dim, generator=generator) * 2 - 1
    if config.is_discrete:
        actions = torch.nn.functional.one_hot(actions.argmax(-1), config.action_dim).float()
    tasks = torch.arange(num_windows)[:, None].expand(shape) % max(1, config.num_tasks)
    return Batch(
        obs=obs if isinstance(config.obs_shape, dict) else obs["obs"],
        actions=actions,
        rewards=torch.randn(shape, generator=generator),
        terminations=torch.zeros(shape, dtype=torch.bool),
        is_first=torch.zeros(shape, dtype=torch.bool),
        step_mask=torch.ones(shape, dtype=torch.bool),
        obs_mask=torch.ones(shape, dtype=torch.bool),
        extras={"task": tasks.clone()} if config.num_tasks else {},
    )
