"""Closed-loop evaluation by SimScaleAI's names."""

from __future__ import annotations

from simscaleai.rl.evaluator import EvalConfig, EvalResults, evaluate_policy

__all__ = ["EvalConfig", "EvalResults", "evaluate_policy"]
