"""Measure models and policies: `rollout` in environments, `openloop` predictions on data, `metrics` over episodes."""
