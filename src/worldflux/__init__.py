"""WorldFlux's interface over Worldline: the code that its documents show runs unchanged.

Names and arguments are translated here and nowhere else; everything that happens, happens in `worldline`.
"""

from __future__ import annotations

from worldflux.models import AliasedWorldModel, create_world_model, get_model_info, list_models
from worldline.batch import Batch, BatchRequest
from worldline.models.base import Trajectory, WorldModel

__all__ = [
    "AliasedWorldModel",
    "Batch",
    "BatchRequest",
    "Trajectory",
    "WorldModel",
    "create_world_model",
    "get_model_info",
    "list_models",
]
