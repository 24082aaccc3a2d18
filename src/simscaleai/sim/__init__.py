"""Simulated environments by SimScaleAI's names."""

from __future__ import annotations

from simscaleai.sim.environments import SimEnv, list_envs, make_env, register_env

__all__ = ["SimEnv", "list_envs", "make_env", "register_env"]
