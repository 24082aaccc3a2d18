"""Shields: they tell which commands the data support in a state, and give the nearest one that they do."""

from worldline.models.shields.base import BaseShield, ShieldConfig
from worldline.models.shields.diffusion import DiffusionShield, DiffusionShieldConfig
from worldline.models.shields.flow_matching import FlowMatchingShield, FlowMatchingShieldConfig
from worldline.models.shields.quantile import QuantileShield, QuantileShieldConfig

__all__ = [
    "BaseShield",
    "DiffusionShield",
    "DiffusionShieldConfig",
    "FlowMatchingShield",
    "FlowMatchingShieldConfig",
    "QuantileShield",
    "QuantileShieldConfig",
    "ShieldConfig",
]
