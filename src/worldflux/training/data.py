"""Data by WorldFlux's names; Worldline's replay buffer reads and writes both forms of its `.npz` files."""

from __future__ import annotations

from worldline.data.buffer import ReplayBuffer
from worldline.data.synthetic import create_random_buffer

__all__ = ["ReplayBuffer", "create_random_buffer"]
