"""Models by WorldFlux's names, with its names for their methods."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any, ClassVar, SupportsIndex, cast

import torch
from torch import Tensor

from worldline import registry
from worldline.batch import Batch
from worldline.config import from_dict
from worldline.create import create_adapted, list_models, saved_path
from worldline.errors import ConfigError
from worldline.models.base import LatentState, Model, Trajectory, WorldModel, num_trained

__all__ = ["AliasedWorldModel", "create_world_model", "get_model_info", "list_models"]


class AliasedWorldModel(WorldModel):
    """A world model whose methods go by WorldFlux's names as well. Saved, it is a model of its family, no more."""

    _own: ClassVar[type[Model]]  # the family's class

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return what `compute_loss` does."""
        return self.compute_loss(batch)

    def rollout(self, state: Any, actions: Tensor) -> Trajectory:
        """Return what `imagine` does: where `actions [H, B, A]` lead to from `state`."""
        return self.imagine(state, actions)

    def update(self, batch: Batch) -> Any:
        """Return what `observe` does: the state at every row of the batch."""
        return self.observe(batch)

    def transition(self, state: LatentState, action: Tensor) -> Any:
        """Return the state that `action [B, A]` leads to from `state`: one imagined step."""
        imagined: LatentState = self.imagine(state, action[None]).states  # leaves [1, B, ...]
        return imagined.map(lambda leaf: leaf[0])

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Copy and pickle by way of the family's class: pickle cannot find this one, which is made at run time."""
        reduced = super().__reduce_ex__(protocol)
        assert isinstance(reduced, tuple)
        return (_blank, (self._own,), *reduced[2:])  # the state as it is


def create_world_model(
    model: str | os.PathLike[str],
    *,
    obs_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]] | None = None,
    action_dim: int | None = None,
    device: str | torch.device = "cpu",
    **config_fields: Any,
) -> AliasedWorldModel:
    """Build a new world model, or load a saved one.

    Args:
        model: "family:size" ("dreamerv3:size12m"), a family or an alias ("dreamer", "dreamer-small"), or the folder of
            a saved model.
        obs_shape: Shape of one observation, or shapes by name. Needed for a new model.
        action_dim: A, the width of a row of actions. Needed for a new model. Where it is 1, actions are continuous.
        device: "cpu", "cuda", "mps" or "auto".
        **config_fields: Further settings of the family, such as `action_type`.

    Raises:
        ConfigError: An unknown name or setting (the message has the nearest one), or a device that is not here.
        FileError: The folder is missing or damaged.
    """
    given = {"obs_shape": obs_shape, "action_dim": action_dim}
    settings = {name: value for name, value in given.items() if value is not None} | config_fields
    if saved_path(model) is None:
        settings = _completed(os.fspath(model), settings)
    return cast(AliasedWorldModel, create_adapted(model, device=device, settings=settings, adapt=_with_aliases))


def get_model_info(
    model: str, *, obs_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]] = (4,), action_dim: int = 2
) -> dict[str, Any]:
    """Describe a model without building it.

    Args:
        model: A name as for `create_world_model`.
        obs_shape: What to count the parameters for.
        action_dim: What to count the parameters for.

    Returns:
        "name", "family", "size", "description", "aliases", "sizes" (all of the family), "settings" (of this size) and
        "num_parameters" (those that are trained).

    Raises:
        ConfigError: No such family or size; the message has the nearest ones.
    """
    family, size = registry.resolve(model)
    sizes = registry.load(family, "SIZES")
    settings = {**sizes[size], **_completed(model, {"obs_shape": obs_shape, "action_dim": action_dim})}
    config = from_dict(registry.load(family, family.config), settings, where=f"{family.name}:{size}")
    with torch.device("meta"):
        outline = registry.load(family, family.model)(config)
    return {
        "name": f"{family.name}:{size}",
        "family": family.name,
        "size": size,
        "description": family.description,
        "aliases": [*family.aliases, *(f"{family.name}-{alias}" for alias, _ in family.size_aliases)],
        "sizes": list(sizes),
        "settings": dict(sizes[size]),
        "num_parameters": num_trained(outline),
    }


@functools.cache
def _with_aliases(own: type[Model]) -> type[Model]:
    """Return the family's class with the aliases. It keeps its name, and any method of its own that bears one."""
    if not issubclass(own, WorldModel):
        raise ConfigError(f"{own.__name__} is not a world model. Build it with worldline.create_model.")
    return type(own.__name__, (own, AliasedWorldModel), {"__module__": __name__, "__doc__": own.__doc__, "_own": own})


def _blank(own: type[Model]) -> Model:
    """Return an instance of the family's class with the aliases, without any state yet."""
    adapted = _with_aliases(own)
    return adapted.__new__(adapted)


def _completed(model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a new model: an action of one number is continuous, unless they say what it is.

    The families' own default, discrete, would be an action without a choice; a replay buffer decides likewise.
    """
    family, _ = registry.resolve(model)
    names = {field.name for field in dataclasses.fields(registry.load(family, family.config))}
    if settings.get("action_dim") == 1 and "action_type" in names:
        return {"action_type": "continuous", **settings}
    return dict(settings)
