"""Measure models and policies: `rollout` in environments, `openloop` on data, `statistics` over episodes."""
