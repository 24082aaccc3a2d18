"""Data by WorldLoom's names, which are WorldFlux's."""

from __future__ import annotations

from worldflux.training.data import ReplayBuffer, create_random_buffer

__all__ = ["ReplayBuffer", "create_random_buffer"]
