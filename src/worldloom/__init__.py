"""WorldLoom's interface: WorldFlux's under its earlier name."""

from __future__ import annotations

from worldflux import (
    AliasedWorldModel,
    Batch,
    BatchRequest,
    Trajectory,
    WorldModel,
    create_world_model,
    get_model_info,
    list_models,
)

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
