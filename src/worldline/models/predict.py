"""Ask a policy for the action of one observation, or of many, without running an episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from worldline.episode import Array
from worldline.errors import DataError
from worldline.models.base import Model
from worldline.protocols import Policy

OneOrMany: TypeAlias = "Array | Tensor | Mapping[str, Array] | Mapping[str, Tensor]"


def predict(model: Model, obs: OneOrMany, *, deterministic: bool = True) -> Array | Tensor:
    """Return the action for an observation, as if an episode began with it; the model's mode is left as it was.

    Args:
        model: One that acts, and whose configuration has `obs_shapes`.
        obs: `[*obs]` or `[N, *obs]`, arrays (or lists) or tensors, or a dict of them.
        deterministic: Take the most likely action instead of a sample.

    Returns:
        `[A]` or `[N, A]`; arrays for arrays, and tensors for tensors, on their device.

    Raises:
        DataError: The model does not act, or observations are of another shape.
    """
    if not isinstance(model, Policy):
        raise DataError(f"{model.family} does not act, so it has no action to predict. Pass a policy, such as bc.")
    shapes: Mapping[str, tuple[int, ...]] = model.config.obs_shapes
    named: Mapping[str, Array | Tensor] = obs if isinstance(obs, Mapping) else {"obs": obs}
    if missing := sorted(shapes.keys() - named.keys()):
        raise DataError(f"The model was built for observations {sorted(shapes)}; {', '.join(missing)} is missing.")
    name, shape = next(iter(shapes.items()))
    tensors = {key: as_tensor(named[key]) for key in shapes}
    is_one = tensors[name].ndim == len(shape)
    many = {key: value[None] for key, value in tensors.items()} if is_one else tensors
    actions, _ = model.act(many if isinstance(obs, Mapping) else many["obs"], deterministic=deterministic)
    actions = actions[0] if is_one else actions
    if isinstance(named[name], Tensor):
        return actions.to(tensors[name].device)
    found: Array = actions.cpu().numpy()
    return found


def as_tensor(value: Any) -> Tensor:
    """Return numbers as a tensor; arrays that torch cannot share, turned round or read-only, are copied."""
    return value if isinstance(value, Tensor) else torch.from_numpy(np.require(value, requirements=["C", "W"]))
