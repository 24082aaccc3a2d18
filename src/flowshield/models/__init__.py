"""Models by FlowShield's names."""

from __future__ import annotations

from flowshield.models.adapting import adapted
from flowshield.models.agent import UDRLAgent
from flowshield.models.shields import BaseShield, DiffusionShield, FlowMatchingShield, QuantileShield

__all__ = ["BaseShield", "DiffusionShield", "FlowMatchingShield", "QuantileShield", "UDRLAgent", "adapted"]
