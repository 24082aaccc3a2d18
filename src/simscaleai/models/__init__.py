"""Models by SimScaleAI's names."""

from __future__ import annotations

from simscaleai.models.imitation import ImitationModel
from simscaleai.models.registry import ModelRegistry

__all__ = ["ImitationModel", "ModelRegistry"]
